# SPDX-License-Identifier: Apache-2.0
"""Pictures of meshes to be measured, not looked at: diffuse, linear, lit from the camera."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.types import Mesh
from diffiso.view._raytrace import Array, Scene, build_scene, corner_weights, dot, unit, weighted
from diffiso.view.cameras import check_finite

_AT_ONCE = 4  # pictures traced side by side: each takes memory


class DiffusePictures(NamedTuple):
    """What cameras see of a mesh.

    Attributes:
        intensity: (N, H, W) float32, linear, means over the pixels' squares with 0 where nothing is
            seen: what a picture shows before black.
        coverage: (N, H, W) float32, the share of each pixel's square that shows the mesh.
    """

    intensity: Tensor
    coverage: Tensor


def render_diffuse(
    mesh: Mesh,
    cameras: Camera,
    *,
    strength: float = 1.0,
    falloff: bool = False,
    smooth: bool = False,
    samples: int = 16,
) -> DiffusePictures:
    """Return diffuse pictures of a mesh, lit from each camera's own place, as SDFDiff's are.

    A ray that meets the surface sees `strength * |n . l|`, with l the direction to the camera,
    divided by the squared distance with `falloff`; there are no shadows, for the light sees what
    the camera sees. Each pixel is the mean of rays spread evenly over its square (a box filter).

    Args:
        mesh: The triangles; they are seen from both sides.
        cameras: Where to look from. The pictures have their size.
        strength: Intensity where the surface faces the camera, at distance 1 with `falloff`.
        falloff: Whether light grows weaker with the squared distance.
        smooth: Take normals interpolated over the faces, where these meet at less than 40 degrees.
            Otherwise normals are those of the triangles, so that pictures show the surface that
            the mesh is.
        samples: Rays through each pixel.

    Raises:
        ValueError: If samples or strength are not positive, or a vertex is not finite.
        ImportError: If the extra `pipelines` is not installed.

    Source:
        SDFDiff, section 4, "Differentiable Shading".

    Example:
        >>> import diffiso
        >>> from diffiso import shapes
        >>> ball = diffiso.isosurface(shapes.Sphere(1.0), -1.5, 1.5, 32)
        >>> camera = Camera.look_at((0, 0, 4), field_of_view=60.0, size=9)
        >>> pictures = render_diffuse(ball, camera)
        >>> round(float(pictures.intensity[0, 4, 4]), 2), float(pictures.coverage[0, 0, 0])
        (0.98, 0.0)
    """
    if samples < 1 or not 0 < strength < math.inf:
        raise ValueError(
            f"render_diffuse: samples and strength must be positive, got {samples} and {strength}"
        )
    vertices, faces = mesh.numpy()
    check_finite("render_diffuse: vertices", vertices)
    height, width = cameras.size
    intensity = np.zeros((len(cameras), height, width), dtype=np.float32)
    coverage = np.zeros_like(intensity)
    scene = build_scene(vertices.astype(np.float64), faces.astype(np.int64), smooth)
    if scene is None:
        return DiffusePictures(torch.from_numpy(intensity), torch.from_numpy(coverage))
    cameras = cameras.to("cpu", torch.float64)

    def draw(index: int) -> None:
        _draw(scene, cameras[index], samples, falloff, intensity[index], coverage[index])

    with ThreadPoolExecutor(min(len(cameras), torch.get_num_threads(), _AT_ONCE)) as pool:
        list(pool.map(draw, range(len(cameras))))
    intensity *= np.float32(strength)
    return DiffusePictures(torch.from_numpy(intensity), torch.from_numpy(coverage))


def _draw(
    scene: Scene, camera: Camera, samples: int, falloff: bool, intensity: Array, coverage: Array
) -> None:
    """Fill one picture: means over rays of what they see, and of whether they see anything."""
    rows, columns = _window(scene, camera)
    y, x = np.mgrid[rows, columns].reshape(2, -1).astype(np.float64)
    light = np.zeros(len(x))
    seen = np.zeros(len(x))
    for right, below in _offsets(samples):
        pixels = torch.from_numpy(np.stack([x + right, y + below], axis=1))
        rays = camera.rays(pixels)
        origins, directions = rays.origins[0].numpy(), rays.directions[0].numpy()
        start = (origins - scene.middle) / scene.extent
        face, distance, barycentric = scene.trace(start, directions)
        hit = np.flatnonzero(face >= 0)
        weights = corner_weights(barycentric[hit])
        normals = unit(weighted(weights, scene.corner_normals[face[hit]]))
        found = np.abs(dot(normals, directions[hit]))
        if falloff:
            found = found / np.square(distance[hit].astype(np.float64) * scene.extent)
        light[hit] += found
        seen[hit] += 1
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    intensity[rows, columns] = (light / samples).reshape(shape)
    coverage[rows, columns] = (seen / samples).reshape(shape)


def _window(scene: Scene, camera: Camera) -> tuple[slice, slice]:
    """Return the rows and columns that may show the scene."""
    corners = scene.vertices[np.unique(scene.faces)].astype(np.float64)
    shown = camera.project(torch.from_numpy(corners * scene.extent + scene.middle))
    height, width = camera.size
    if bool((shown.depth <= 0).any()):
        return slice(0, height), slice(0, width)
    low, high = shown.pixels[0].amin(dim=0), shown.pixels[0].amax(dim=0)
    left, top = (math.floor(v) - 1 for v in low.tolist())
    right, bottom = (math.ceil(v) + 1 for v in high.tolist())
    rows = slice(min(max(top, 0), height), min(max(bottom, 0), height))
    return rows, slice(min(max(left, 0), width), min(max(right, 0), width))


def _offsets(count: int) -> list[tuple[float, float]]:
    """Return points spread evenly over the unit square, one in each row and column of a lattice.

    Their mean is the middle, and an upright edge is known to one part in `count`, where a square
    pattern of as many points would know it to one in the root of that.
    """
    step = next(
        s for s in range(max(1, round(0.618 * count)), count + 1) if math.gcd(s, count) == 1
    )
    return [((k + 0.5) / count, (k * step % count + 0.5) / count) for k in range(count)]
