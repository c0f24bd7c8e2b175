# SPDX-License-Identifier: Apache-2.0
"""The look of `diffiso.view`: sky, key light with soft shadow, fill, rim, and a ground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffiso.extras import require
from diffiso.view._raytrace import (
    LIGHT_RADIUS,
    OFFSET,
    Array,
    Bools,
    Faces,
    Frame,
    Scene,
    Seen,
    corner_weights,
    dot,
    light_seen,
    single,
    sky_seen,
    unit,
    weighted,
)

Indices = Faces

SMOOTH, NEAR = 0.97, 0.02  # cosine to the mean normal, and width, of what one point stands for
BEHIND = np.float32(0.4)  # share of its reflectance that a surface seen from behind keeps
CAVITY = 0.22  # share of the sky's light that reaches even the deepest cavity

SKY, BOUNCE, KEY, FILL, RIM = np.array(
    [
        [0.42, 0.47, 0.56],
        [0.24, 0.20, 0.18],
        [1.24, 1.15, 1.02],
        [0.07, 0.10, 0.16],
        [0.26, 0.31, 0.40],
    ],
    dtype=np.float32,
)


class Surface(NamedTuple):
    """What is known of points before light falls on them."""

    start: Array  # (P, 3) where rays to the lights begin
    normals: Array  # (P, 3)
    flat: Array  # (P, 3) normals of the faces
    towards: Array  # (P, 3) unit directions to the camera
    reflectance: Array  # (P, 3)
    sky: Array  # (P,) what they see of the sky, NaN where to be traced


Meet = Callable[[Array, Array], tuple[Indices, Surface]]


@dataclass(frozen=True)
class Subject:
    """What a picture shows, moved into the unit box: all that light and cameras ask of it."""

    middle: Array  # (3,) of the box, in the world
    extent: float  # of the box, in the world
    lowest: Array  # (3,) least coordinate along each axis, in the unit box
    meet: Meet  # origins, directions of camera rays -> those that hit, and the surface there
    seen: Seen  # origins, directions, reach -> True where nothing lies within reach


def mesh_subject(scene: Scene, reflectance: Array) -> Subject:
    """Return a mesh as the subject of pictures.

    Args:
        scene: The mesh.
        reflectance: (3,), or (V, 3) one for each vertex.
    """

    def meet(origins: Array, directions: Array) -> tuple[Indices, Surface]:
        faces, distance, barycentric = scene.trace(origins, directions)
        hit = np.flatnonzero(faces >= 0)
        origins, directions, faces = origins[hit], directions[hit], faces[hit]
        points = origins + distance[hit, None] * directions
        return hit, surface_at(scene, points, directions, faces, barycentric[hit], reflectance)

    lowest = scene.vertices[scene.faces.ravel()].min(axis=0)
    return Subject(scene.middle, scene.extent, lowest, meet, scene.seen)


def surface_at(
    scene: Scene,
    points: Array,
    directions: Array,
    faces: Faces,
    barycentric: Array,
    reflectance: Array,
) -> Surface:
    """Return the surface where camera rays meet it.

    Args:
        scene: The scene.
        points: (P, 3) hit points.
        directions: (P, 3) unit directions of the camera rays.
        faces: (P,) the face that each ray hit.
        barycentric: (P, 2) weights of the face's second and third corner.
        reflectance: (3,), or (V, 3) one for each vertex.
    """
    weights = corner_weights(barycentric)
    flat = scene.face_normals[faces]
    inside = dot(flat, directions)[:, None] > 0
    side = np.where(inside, np.float32(-1), np.float32(1))
    corner_normals = scene.corner_normals[faces] * side[..., None]
    normals, flat = unit(weighted(weights, corner_normals)), flat * side
    start = _rounded(points, scene.corners[faces], corner_normals, weights)
    if reflectance.ndim == 2:
        reflectance = weighted(weights, reflectance[scene.faces[faces]])
    sky = np.full(len(faces), np.nan, dtype=np.float32)
    if scene.sky is not None:  # of the outer side
        sky = np.where(inside[:, 0], sky, dot(weights, scene.sky[faces]))
    return Surface(
        start + np.float32(OFFSET) * flat,
        normals,
        flat,
        -directions,
        np.where(inside, BEHIND * reflectance, reflectance),
        sky,
    )


def merged(surface: Surface, groups: Indices) -> tuple[Surface, Bools]:
    """Return the means of groups (G, S) of points, and which groups one point can stand for.

    Those lie on one smooth piece of surface, and what they see of the sky is known.
    """
    start, normals = surface.start[groups], unit(surface.normals[groups].sum(axis=1))
    middle = start.mean(axis=1)
    # As high as the highest of them: the mean of points on a bulge lies below it, in the dark.
    lift = dot(start - middle[:, None], normals[:, None]).max(axis=1)
    smooth = dot(surface.normals[groups], normals[:, None]).min(axis=1) > SMOOTH
    near = np.ptp(start, axis=1).max(axis=1) < NEAR
    mean = Surface(
        middle + lift[:, None] * normals,
        normals,
        unit(surface.flat[groups].sum(axis=1)),
        unit(surface.towards[groups].sum(axis=1)),
        surface.reflectance[groups].mean(axis=1),
        surface.sky[groups].mean(axis=1),
    )
    return mean, smooth & near & np.isfinite(mean.sky)


def shade(subject: Subject, frame: Frame, surface: Surface, rays: int) -> Array:
    """Return the linear colour of each point: sky and key light where seen, fill, rim, highlight.

    Args:
        subject: What casts shadows.
        frame: Camera and lights.
        surface: The points.
        rays: Sky rays and light rays for each.
    """
    start, normals, flat, towards, reflectance, sky = surface
    key = single(frame.key)
    cosine = (normals @ key).clip(0)
    lit = light_seen(subject.seen, frame, start, cosine > 0, rays)
    dark = np.flatnonzero(np.isnan(sky))
    sky = sky.copy()
    sky[dark] = sky_seen(subject.seen, start[dark], normals[dark], flat[dark], rays)
    height = 0.5 + 0.5 * normals[:, frame.up_axis, None]
    grazing = (1 - dot(normals, towards).clip(0)) ** 3
    highlight = dot(normals, unit(key + towards)).clip(0) ** 40 * lit * (cosine > 0)
    sky = CAVITY + (1 - CAVITY) * sky
    ambient = sky[:, None] / (
        1 - reflectance * (1 - sky[:, None])
    )  # light that bounces on within a cavity
    light = (
        ambient * (height * SKY + (1 - height) * BOUNCE)
        + (cosine * lit)[:, None] * KEY
        + ((normals @ single(frame.fill)).clip(0) * sky)[:, None] * FILL
    )
    rim = (grazing * height[:, 0] * sky)[:, None] * RIM
    return np.asarray(reflectance * light + np.sqrt(reflectance) * rim + 0.12 * highlight[:, None])


def _rounded(points: Array, corners: Array, normals: Array, weights: Array) -> Array:
    """Return hit points lifted onto the curved surface that the corner normals suggest.

    From there no face shades its own neighbours where the light grazes them (Hanika, Hacking the
    shadow terminator, Ray Tracing Gems II).
    """
    height = dot(points[:, None] - corners, normals).clip(max=0)
    return np.asarray(points - weighted(weights * height, normals))


@dataclass(frozen=True)
class Ground:
    """A plane under the subject that catches its shadow, measured once on a texture."""

    level: float  # along the up axis
    spots: Array  # (T * T, 3) texture points
    sky: Array  # (T * T,) what they see of the sky

    TEXELS = 96
    RADIUS = 1.7  # half the texture's side, as a share of the scene
    RAYS = 24


def build_ground(subject: Subject, up_axis: int, level: float) -> Ground:
    """Return the ground at a level along the up axis."""
    first, second = (axis for axis in range(3) if axis != up_axis)
    ticks = np.linspace(-Ground.RADIUS, Ground.RADIUS, Ground.TEXELS)
    spots = np.full((Ground.TEXELS**2, 3), level + OFFSET, dtype=np.float32)
    spots[:, first], spots[:, second] = np.repeat(ticks, len(ticks)), np.tile(ticks, len(ticks))
    normals = np.zeros_like(spots)
    normals[:, up_axis] = 1.0
    return Ground(level, spots, sky_seen(subject.seen, spots, normals, normals, Ground.RAYS))


def ground_brightness(
    subject: Subject, frame: Frame, ground: Ground, origins: Array, directions: Array
) -> Array:
    """Return how bright the ground is where each camera ray meets it, 1 without shadow."""
    ndimage = require("scipy.ndimage")
    facing = np.ones(len(ground.spots), dtype=np.bool_)
    lit = light_seen(subject.seen, frame, ground.spots, facing, Ground.RAYS, 2 * LIGHT_RADIUS)
    bright = (0.15 + 0.5 * ground.sky + 0.35 * lit).reshape(Ground.TEXELS, Ground.TEXELS)
    bright = ndimage.gaussian_filter(bright, 0.8, mode="nearest")
    ticks = np.linspace(-1, 1, Ground.TEXELS)
    fade = ((1 - np.hypot(ticks[:, None], ticks[None, :])) / 0.4).clip(0, 1)
    bright = 1 - (1 - bright) * fade
    slope = directions[:, frame.up_axis]
    down = np.flatnonzero(slope < 0)
    steps = (ground.level - origins[down, frame.up_axis]) / slope[down]
    down, steps = down[steps > 0], steps[steps > 0]
    plane = [axis for axis in range(3) if axis != frame.up_axis]
    spot = origins[down][:, plane] + steps[:, None] * directions[down][:, plane]
    index = (spot.T + Ground.RADIUS) * ((Ground.TEXELS - 1) / (2 * Ground.RADIUS))
    result = np.ones(len(origins), dtype=np.float32)
    result[down] = ndimage.map_coordinates(bright, index, order=1, mode="constant", cval=1.0)
    return result
