# SPDX-License-Identifier: Apache-2.0
"""The ray tracer behind `diffiso.view`: rays, sky, light and shadow, in numpy.

The scene is moved into a unit box first, so that single precision serves any mesh. Rays go through
Embree (`embreex`) where it is installed, else through libigl's hierarchy: same picture, about ten
times slower. Directions are low-discrepancy points turned per pixel, so that a picture is the same
at every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffiso.extras import available, require

Array = NDArray[np.floating[Any]]
Faces = NDArray[np.int64]
Trace = Callable[[Array, Array], tuple[Faces, Array, Array]]
Bools = NDArray[np.bool_]
Seen = Callable[[Array, Array, float], Bools]

LIGHT_RADIUS = 0.16  # half angle of the key light in radians: how soft its shadow is
CREASE_DEGREES = 40.0  # faces that meet at a sharper angle keep their edge
SKY_REACH = 0.3  # how far a face darkens others, as a share of the scene
OFFSET = 2e-4  # how far secondary rays start above the surface, as a share of the scene

BAKED_RAYS = 64  # sky rays at each vertex of a baked scene
BAKED_EDGE = 0.06  # longest edge of a face whose light may be interpolated, as a share of the scene
BAKED_SPREAD = 0.25  # how far its corners may differ


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
    """A mesh moved into the unit box and made ready for rays; single precision."""

    vertices: Array  # (V, 3)
    faces: Faces  # (F, 3), those with an area
    corners: Array  # (F, 3, 3)
    face_normals: Array  # (F, 3)
    corner_normals: Array  # (F, 3, 3)
    middle: Array
    extent: float
    trace: Trace  # origins, directions -> face (-1: none), distance, weights of corners 1 and 2
    seen: Seen  # origins, directions, reach -> True where no face lies within reach
    sky: Array | None = None  # (F, 3), what corners see of the sky; NaN where to be traced


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
    single = vertices.astype(np.float32)
    return Scene(
        single,
        faces,
        single[faces],
        normals.astype(np.float32),
        shading.astype(np.float32),
        middle,
        extent,
        trace,
        seen,
    )


def bake_sky(scene: Scene) -> Scene:
    """Return the scene with the sky's light at its corners, for many pictures of it.

    Light is interpolated over small faces whose corners agree; at creases, where a vertex has
    several normals, and in contacts it is left to be traced in each picture.
    """
    count = len(scene.vertices)
    normals = np.zeros((count, 3), dtype=np.float32)
    normals[scene.faces.ravel()] = scene.corner_normals.reshape(-1, 3)
    used = np.flatnonzero((normals != 0).any(axis=1))
    own = normals[used]
    start = scene.vertices[used] + np.float32(OFFSET) * own
    sky = np.full(count, np.nan, dtype=np.float32)
    sky[used] = sky_seen(scene.seen, start, own, own, BAKED_RAYS)
    corners = sky[scene.faces]
    edges = scene.corners - np.roll(scene.corners, 1, axis=1)
    creased = dot(normals[scene.faces], scene.corner_normals).min(axis=1) < 0.999
    wide = np.sqrt(dot(edges, edges)).max(axis=1) > BAKED_EDGE
    corners[creased | wide | (np.ptp(corners, axis=1) > BAKED_SPREAD)] = np.nan
    return replace(scene, sky=corners)


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
        hits = scene.run(single(origins), single(directions), output=True)
        return hits["primID"].astype(np.int64), hits["tfar"], np.stack([hits["u"], hits["v"]], 1)

    def seen(origins: Array, directions: Array, reach: float) -> Bools:
        limits = np.full(len(origins), reach, dtype=np.float32)
        rays = single(origins), single(directions)
        return np.asarray(scene.run(*rays, dists=limits, query="OCCLUDED") < 0)

    return trace, seen


def _libigl_tracer(vertices: Array, faces: Faces) -> tuple[Trace, Seen]:
    tree = require("igl").AABB()
    tree.init(vertices, faces)

    def trace(origins: Array, directions: Array) -> tuple[Faces, Array, Array]:
        rays = origins.astype(np.float64, order="C"), directions.astype(np.float64, order="C")
        face, distance, barycentric = tree.intersect_ray_first(vertices, faces, *rays)
        distance[face < 0], barycentric[face < 0] = np.inf, 0  # unset where nothing is hit
        return face, single(distance), single(barycentric)

    def seen(origins: Array, directions: Array, reach: float) -> Bools:
        face, distance, _ = trace(origins, directions)
        return (face < 0) | (distance > reach)

    return trace, seen


def single(array: Array) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


def sky_seen(seen: Seen, start: Array, normals: Array, flat: Array, rays: int) -> Array:
    """Return the share of the sky, cosine weighted, that each point sees within a short reach."""
    offsets, sky = _pixel_offsets(len(start)), np.zeros(len(start), dtype=np.float32)
    for k in range(rays):
        first, second = _square_point(offsets, k, rays)
        sky += seen(start, _sky_directions(normals, flat, first, second), SKY_REACH)
    return sky / np.float32(rays)


def light_seen(
    seen: Seen,
    frame: Frame,
    start: Array,
    facing: Bools,
    rays: int,
    light_radius: float = LIGHT_RADIUS,
) -> Array:
    """Return the share of the key light that each point sees, 0 for those that do not face it."""
    offsets, lit = _pixel_offsets(len(start)), np.zeros(len(start), dtype=np.float32)
    front = np.flatnonzero(facing)
    start, offsets = start[front], offsets[front]
    for k in range(rays):
        first, second = _square_point(offsets, k, rays)
        aim = _light_directions(frame.key, first, second, light_radius)
        lit[front] += seen(start, aim, 1e6)
    return lit / np.float32(rays)


def corner_weights(barycentric: Array) -> Array:
    """Return the weights (P, 3) of all corners from those (P, 2) of the second and third."""
    u, v = barycentric[:, 0], barycentric[:, 1]
    return np.stack([1 - u - v, u, v], axis=1)


def weighted(weights: Array, values: Array) -> Array:
    """Return weighted sums (P, 3) of what corners have, (P, 3, 3)."""
    return np.asarray(np.einsum("pc,pcx->px", weights, values))


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
    return single((0.5 + index * np.array([0.7548776662466927, 0.5698402909980532])) % 1.0)


def _square_point(offsets: Array, k: int, count: int) -> tuple[Array, Array]:
    """Return the k-th of `count` stratified points of the unit square, shifted per pixel."""
    turned = offsets + np.array([k * 0.6180339887498949 % 1.0, k / count], dtype=np.float32)
    turned -= turned >= 1
    return turned[:, 0], turned[:, 1]


def _sky_directions(normals: Array, flat: Array, first: Array, second: Array) -> Array:
    """Return directions with the density of the cosine to the normal, kept above the flat face."""
    z = 2 * second - 1
    ring, angle = np.float32(0.999) * np.sqrt(1 - z * z), 2 * math.pi * first
    around = np.stack([ring * np.cos(angle), ring * np.sin(angle), np.float32(0.999) * z], axis=1)
    around += normals
    depth = dot(around, flat)[:, None]
    return unit(around + (1e-3 - depth).clip(0) * flat)


def _light_directions(key: Array, first: Array, second: Array, radius: float) -> Array:
    side = unit(np.cross(key, [0.0, 0.0, 1.0] if abs(key[2]) < 0.9 else [1.0, 0.0, 0.0]))
    reach, angle = radius * np.sqrt(second), 2 * math.pi * first
    disc = np.stack([np.ones_like(reach), reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    return unit(disc @ single(np.stack([key, side, np.cross(key, side)])))
