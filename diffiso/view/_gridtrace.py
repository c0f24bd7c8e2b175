# SPDX-License-Identifier: Apache-2.0
"""Grids as subjects of pictures: their rays go through `diffiso.trace`, no mesh between."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffiso.ops.marching_cubes import marching_cubes
from diffiso.ops.shade import shade
from diffiso.ops.trace import trace
from diffiso.types import Grid, Mesh, RayHits, RayStatus
from diffiso.view._raytrace import OFFSET, Array, Bools, single
from diffiso.view._shading import BEHIND, Indices, Subject, Surface


def surface_points(op: str, grid: Grid) -> Tensor:
    """Return where a grid's surface crosses its edges, (V, 3) float64: the vertices of its mesh.

    Raises:
        TypeError: If values are not floating.
        ValueError: If the grid is a batch, or has fewer than 2 nodes along an axis.
    """
    values = grid.values.detach()
    if not values.is_floating_point():
        raise TypeError(f"{op}: grid must be floating, got {values.dtype}")
    if values.dim() != 3 or min(values.shape) < 2:
        raise ValueError(
            f"{op}: grid must be (X, Y, Z) with at least 2 nodes along every axis, "
            f"got {tuple(values.shape)}"
        )
    # Single precision as in the picture; infinities are gaps to rays, but not to marching cubes.
    values = values.float()
    mesh = marching_cubes(values.where(values.isfinite(), torch.nan))
    assert isinstance(mesh, Mesh)
    # Double, for the nodes of a small box far away must stay apart.
    places = mesh.vertices.double()
    return places * places.new_tensor(grid.spacing) + places.new_tensor(grid.lower)


def grid_subject(grid: Grid, reflectance: Array, smooth: bool) -> Subject | None:
    """Return a grid's surface as the subject of pictures, or None where it has none.

    Rays are traced on the grid's device.

    Args:
        grid: The grid, of the values that :func:`surface_points` takes.
        reflectance: (3,).
        smooth: Take normals from central differences; otherwise the field's own.
    """
    points = surface_points("render", grid).cpu().numpy()
    if len(points) == 0:
        return None
    lower, upper = points.min(axis=0), points.max(axis=0)
    middle, extent = (lower + upper) / 2, float((upper - lower).max())
    if extent == 0:
        return None
    x, y, z = (np.array(grid.lower) - middle) / extent
    dx, dy, dz = np.array(grid.spacing) / extent
    box = Grid(grid.values.detach().float(), (x, y, z), (dx, dy, dz))

    def cast(origins: Array, directions: Array, reach: float = math.inf) -> RayHits:
        start, aim = (
            torch.tensor(single(part), device=box.values.device) for part in (origins, directions)
        )
        return trace(box, start, aim, far=reach, capture=False)

    def meet(origins: Array, directions: Array) -> tuple[Indices, Surface]:
        hits = cast(origins, directions)
        hit = np.flatnonzero(hits.hit.cpu().numpy())

        def found(part: Tensor) -> Array:
            return single(part.cpu().numpy()[hit])

        flat = normals = found(shade(box, hits, normals="trilinear").normals)
        if smooth:
            normals = found(shade(box, hits, normals="central").normals)
        behind = found(hits.status == RayStatus.EXIT)[:, None] > 0
        return hit, Surface(
            found(hits.points()) + np.float32(OFFSET) * flat,
            normals,
            flat,
            -directions[hit],
            np.where(behind, BEHIND * reflectance, reflectance),
            np.full(len(hit), np.nan, dtype=np.float32),
        )

    def seen(origins: Array, directions: Array, reach: float) -> Bools:
        return np.asarray(~cast(origins, directions, reach).hit.cpu().numpy())

    return Subject(middle, extent, single((lower - middle) / extent), meet, seen)
