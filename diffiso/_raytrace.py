# SPDX-License-Identifier: Apache-2.0
"""The ray tracer behind `diffiso.view`: rays, sky, light and shadow, in numpy.

The scene is moved into a unit box first, so that single precision rays serve any mesh. Rays go
through Embree (`embreex`) where it is installed, else through libigl's hierarchy: same picture,
about ten times slower. Directions are low-discrepancy points turned per pixel, so that a picture is
the same at every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffiso.extras import available, require

Array = NDArray[np.float64]
Faces = NDArray[np.int64]
Trace = Callable[[Array, Array], tuple[Faces, Array, Array]]
Bools = NDArray[np.bool_]
Seen = Callable[[Array, Array, float], Bools]

LIGHT_RADIUS = 0.16  # half angle of the key light in radians: how soft its shadow is
CREASE_DEGREES = 40.0  # faces that meet at a sharper angle keep their edge
SKY_REACH = 0.3  # how far a face darkens others, as a share of the scene
CAVITY = 0.22  # share of the sky's light that reaches even the deepest cavity
OFFSET = 2e-4  # how far secondary rays start above the surface, as a share of the scene

SKY, BOUNCE = np.array([0.42, 0.47, 0.56]), np.array([0.24, 0.20, 0.18])
KEY, FILL, RIM = (
    np.array([1.24, 1.15, 1.02]),
    np.array([0.07, 0.10, 0.16]),
    np.array([0.26, 0.31, 0.40]),
)


@dataclass(frozen=True)
class Frame:
    """The camera's axes, the lights that hang on them, and which axis is up."""

    right: Array
    up: Array
    back: Array
    up_axis: int

    @property
    def key(self) -> Array:
        """Return the direction towards the key light: above, left of and behind the camera."""
        return unit(-0.60 * self.right + 0.80 * self.up + 0.55 * self.back)

    @property
    def fill(self) -> Array:
        """Return the direction towards the fill light, right of the camera."""
        return unit(0.90 * self.right + 0.10 * self.up + 0.50 * self.back)


@dataclass(frozen=True)
class Scene:
    """A mesh moved into the unit box and made ready for rays."""

    vertices: Array
    corners: Array  # (F, 3, 3)
    face_normals: Array  # (F, 3)
    corner_normals: Array  # (F, 3, 3)
    middle: Array
    extent: float
    trace: Trace  # origins, directions -> face (-1: none), distance, weights of corners 1 and 2
    seen: Seen  # origins, directions, reach -> True where no face lies within reach


def build_scene(vertices: Array, faces: Faces, smooth: bool) -> Scene | None:
    """Return the scene of a mesh, or None where no face has an area."""
    if len(faces) == 0:
        return None
    used = vertices[faces.ravel()]
    lower, upper = used.min(axis=0), used.max(axis=0)
    middle, extent = (lower + upper) / 2, float((upper - lower).max())
    if extent == 0:
        return None
    vertices = np.ascontiguousarray((vertices - middle) / extent)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    keep = length > 0
    faces, normals = np.ascontiguousarray(faces[keep]), normals[keep] / length[keep, None]
    if len(faces) == 0:
        return None
    shading = _corner_normals(vertices, faces) if smooth else np.repeat(normals[:, None], 3, axis=1)
    tracer = _embree_tracer if available("embreex") else _libigl_tracer
    trace, seen = tracer(vertices, faces)
    return Scene(vertices, vertices[faces], normals, shading, middle, extent, trace, seen)


def _corner_normals(vertices: Array, faces: Faces) -> Array:
    """Return smooth normals (F, 3, 3) of all corners that keep creases sharp.

    Where all faces around a vertex meet smoothly they are weighted by their angles: on marching
    cubes' uneven triangles that halves the error of weights by area. Near creases and narrow
    chamfers, where both weights differ, area keeps the large faces flat.
    """
    igl = require("igl")
    creased = igl.per_corner_normals(vertices, faces, CREASE_DEGREES).reshape(-1, 3, 3)
    weights = igl.PerVertexNormalsWeightingType
    by_area, by_angle = (
        igl.per_vertex_normals(vertices, faces, weighting)
        for weighting in (
            weights.PER_VERTEX_NORMALS_WEIGHTING_TYPE_AREA,
            weights.PER_VERTEX_NORMALS_WEIGHTING_TYPE_ANGLE,
        )
    )
    smooth = dot(by_area, by_angle) > math.cos(math.radians(12.0))
    smooth[faces[dot(creased, by_area[faces]) < 1 - 1e-6]] = False
    return np.asarray(np.where(smooth[faces][..., None], by_angle[faces], creased))


def _embree_tracer(vertices: Array, faces: Faces) -> tuple[Trace, Seen]:
    scene = require("embreex.rtcore_scene").EmbreeScene()
    require("embreex.mesh_construction").TriangleMesh(scene, vertices[faces].astype(np.float32))

    def trace(origins: Array, directions: Array) -> tuple[Faces, Array, Array]:
        hits = scene.run(origins.astype(np.float32), directions.astype(np.float32), output=True)
        barycentric = np.stack([hits["u"], hits["v"]], axis=1)
        return hits["primID"].astype(np.int64), hits["tfar"].astype(np.float64), barycentric

    def seen(origins: Array, directions: Array, reach: float) -> Bools:
        limits = np.full(len(origins), reach, dtype=np.float32)
        rays = origins.astype(np.float32), directions.astype(np.float32)
        return np.asarray(scene.run(*rays, dists=limits, query="OCCLUDED") < 0)

    return trace, seen


def _libigl_tracer(vertices: Array, faces: Faces) -> tuple[Trace, Seen]:
    tree = require("igl").AABB()
    tree.init(vertices, faces)

    def trace(origins: Array, directions: Array) -> tuple[Faces, Array, Array]:
        origins, directions = np.ascontiguousarray(origins), np.ascontiguousarray(directions)
        face, distance, barycentric = tree.intersect_ray_first(vertices, faces, origins, directions)
        return face, distance, barycentric

    def seen(origins: Array, directions: Array, reach: float) -> Bools:
        face, distance, _ = trace(origins, directions)
        return (face < 0) | (distance > reach)

    return trace, seen


def shade(
    scene: Scene,
    frame: Frame,
    points: Array,
    directions: Array,
    hits: tuple[Faces, Array],
    color: Array,
    rays: int,
) -> Array:
    """Return the linear colour of each hit: sky and key light where seen, fill, rim, highlight.

    Args:
        scene: The scene.
        frame: Camera and lights.
        points: (P, 3) hit points.
        directions: (P, 3) unit directions of the camera rays.
        hits: Face and barycentrics of each hit.
        color: Reflectance, three numbers.
        rays: Sky rays and light rays per hit.
    """
    faces, barycentric = hits
    u, v = barycentric[:, :1], barycentric[:, 1:]
    weights = np.stack([1 - u - v, u, v], axis=1)
    flat = scene.face_normals[faces]
    inside = dot(flat, directions)[:, None] > 0
    side = np.where(inside, -1.0, 1.0)
    corner_normals = scene.corner_normals[faces] * side[..., None]
    normals, flat = unit((weights * corner_normals).sum(axis=1)), flat * side
    start = _rounded(points, scene.corners[faces], corner_normals, weights) + OFFSET * flat
    cosine = (normals @ frame.key).clip(0)
    sky, lit = visibility(scene, frame, start, normals, flat, cosine > 0, rays)
    height = 0.5 + 0.5 * normals[:, frame.up_axis, None]
    towards = -directions
    grazing = (1 - dot(normals, towards).clip(0)) ** 3
    highlight = dot(normals, unit(frame.key + towards)).clip(0) ** 40 * lit * (cosine > 0)
    reflectance = np.where(inside, 0.4 * color, color)
    sky = CAVITY + (1 - CAVITY) * sky
    ambient = sky[:, None] / (
        1 - reflectance * (1 - sky[:, None])
    )  # light that bounces on within a cavity
    light = (
        ambient * (height * SKY + (1 - height) * BOUNCE)
        + (cosine * lit)[:, None] * KEY
        + ((normals @ frame.fill).clip(0) * sky)[:, None] * FILL
    )
    rim = (grazing * height[:, 0] * sky)[:, None] * RIM
    return np.asarray(reflectance * light + np.sqrt(reflectance) * rim + 0.12 * highlight[:, None])


def visibility(
    scene: Scene,
    frame: Frame,
    start: Array,
    normals: Array,
    flat: Array,
    facing: Bools,
    rays: int,
    light_radius: float = LIGHT_RADIUS,
) -> tuple[Array, Array]:
    """Return the shares of the sky (cosine weighted) and of the key light that each point sees."""
    offsets = _pixel_offsets(len(start))
    front = np.flatnonzero(facing)
    sky, lit = np.zeros(len(start)), np.zeros(len(start))
    for k in range(rays):
        first, second = _square_point(offsets, k, rays)
        sky += scene.seen(start, _sky_directions(normals, flat, first, second), SKY_REACH)
        aim = _light_directions(frame.key, first[front], second[front], light_radius)
        lit[front] += scene.seen(start[front], aim, 1e6)
    return sky / rays, lit / rays


def ground_brightness(
    scene: Scene, frame: Frame, level: float, origins: Array, directions: Array
) -> Array:
    """Return how bright the ground is where each camera ray meets it, 1 without shadow.

    The shadow is measured once on a texture around the mesh and looked up bilinearly.
    """
    ndimage = require("scipy.ndimage")
    texels, rays, radius = 96, 32, 1.7
    first, second = (axis for axis in range(3) if axis != frame.up_axis)
    ticks = np.linspace(-radius, radius, texels)
    spots = np.full((texels * texels, 3), level + OFFSET)
    spots[:, first], spots[:, second] = np.repeat(ticks, texels), np.tile(ticks, texels)
    normals = np.zeros_like(spots)
    normals[:, frame.up_axis] = 1.0
    facing = np.ones(len(spots), dtype=np.bool_)
    sky, lit = visibility(scene, frame, spots, normals, normals, facing, rays, 2 * LIGHT_RADIUS)
    bright = (0.15 + 0.5 * sky + 0.35 * lit).reshape(texels, texels)
    bright = ndimage.gaussian_filter(bright, 0.8, mode="nearest")
    fade = ((1 - np.hypot(ticks[:, None], ticks[None, :]) / radius) / 0.4).clip(0, 1)
    bright = 1 - (1 - bright) * fade
    slope = directions[:, frame.up_axis]
    down = np.flatnonzero(slope < 0)
    steps = (level - origins[down, frame.up_axis]) / slope[down]
    down, steps = down[steps > 0], steps[steps > 0]
    spot = origins[down] + steps[:, None] * directions[down]
    index = (spot[:, [first, second]].T + radius) * ((texels - 1) / (2 * radius))
    result = np.ones(len(origins))
    result[down] = ndimage.map_coordinates(bright, index, order=1, mode="constant", cval=1.0)
    return result


def _rounded(points: Array, corners: Array, normals: Array, weights: Array) -> Array:
    """Return hit points lifted onto the curved surface that the corner normals suggest.

    From there no face shades its own neighbours where the light grazes them (Hanika, Hacking the
    shadow terminator, Ray Tracing Gems II).
    """
    height = dot(points[:, None] - corners, normals)[..., None]
    return np.asarray(points - (weights * height.clip(max=0) * normals).sum(axis=1))


def dot(first: Array, second: Array) -> Array:
    """Return inner products over the last axis (much faster than a sum over so short an axis)."""
    return np.asarray(np.einsum("...i,...i->...", first, second))


def unit(vectors: Array) -> Array:
    """Return vectors scaled to length one; a zero vector stays zero."""
    length = np.sqrt(dot(vectors, vectors))[..., None]
    return np.asarray(vectors / np.maximum(length, 1e-12))


def _pixel_offsets(count: int) -> Array:
    """Return (count, 2) offsets in [0, 1), far apart between neighbours (Roberts' R2 sequence)."""
    index = np.arange(count, dtype=np.float64)[:, None]
    return np.asarray((0.5 + index * np.array([0.7548776662466927, 0.5698402909980532])) % 1.0)


def _square_point(offsets: Array, k: int, count: int) -> tuple[Array, Array]:
    """Return the k-th of `count` stratified points of the unit square, shifted per pixel."""
    return (offsets[:, 0] + k * 0.6180339887498949) % 1.0, (offsets[:, 1] + k / count) % 1.0


def _sky_directions(normals: Array, flat: Array, first: Array, second: Array) -> Array:
    """Return directions with the density of the cosine to the normal, kept above the flat face."""
    z = 2 * second - 1
    ring, angle = np.sqrt(1 - z * z), 2 * math.pi * first
    directions = normals + 0.999 * np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    depth = dot(directions, flat)[:, None]
    return unit(directions + (1e-3 - depth).clip(0) * flat)


def _light_directions(key: Array, first: Array, second: Array, radius: float) -> Array:
    side = unit(np.cross(key, [0.0, 0.0, 1.0] if abs(key[2]) < 0.9 else [1.0, 0.0, 0.0]))
    reach, angle = radius * np.sqrt(second), 2 * math.pi * first
    across = (reach * np.cos(angle))[:, None] * side + (reach * np.sin(angle))[:, None] * np.cross(
        key, side
    )
    return unit(key + across)
