# SPDX-License-Identifier: Apache-2.0
"""Grids of a level, from coarse to fine: where they start, and how the next one takes over."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from diffiso.extras import require
from diffiso.ops import marching_cubes
from diffiso.pipelines.views import Box, Views
from diffiso.proximity import closest_points
from diffiso.types import Grid, Mesh

_HALF = 0.5  # coverage from which on a pixel shows the solid
_SPECK = 8  # nodes, at most, of a part that is taken for noise
_NEAR = 3.0  # cells from the surface within which distances are measured to triangles


def node_counts(box: Box, nodes: int) -> tuple[int, int, int]:
    """Return nodes along each axis of a box, so that cells are as cubic as they can be.

    Args:
        box: Lower and upper corner.
        nodes: Along the longest side.
    """
    sides = [b - a for a, b in zip(*box, strict=True)]
    cell = max(sides) / (nodes - 1)
    x, y, z = (max(3, round(side / cell) + 1) for side in sides)
    return x, y, z


def node_positions(grid: Grid) -> Tensor:
    """Return the world positions (X, Y, Z, 3) of a grid's nodes, in the dtype of its values."""
    axes = [
        a + h * torch.arange(n, dtype=torch.float64)
        for a, h, n in zip(grid.lower, grid.spacing, grid.values.shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(grid.values)


def sphere(box: Box, nodes: int, share: float) -> Grid:
    """Return the signed distances of a ball in the middle of a box.

    Args:
        box: Lower and upper corner.
        nodes: Along the longest side.
        share: The ball's radius, as a share of half the shortest side. SDFDiff's is 0.8.
    """
    grid = Grid.from_bounds(torch.zeros(node_counts(box, nodes)), *box)
    middle = torch.tensor([(a + b) / 2 for a, b in zip(*box, strict=True)])
    radius = share * min(b - a for a, b in zip(*box, strict=True)) / 2
    distance = torch.linalg.vector_norm(node_positions(grid) - middle, dim=-1)
    return Grid(distance - radius, grid.lower, grid.spacing)


def visual_hull(views: Views, box: Box, nodes: int) -> Grid:
    """Return about the signed distances of the largest solid that has the views' masks.

    At each node, the largest over all views of the distance to the outline in the picture, times
    the size of a pixel at the node's depth. Its zeros are the hull's; away from them it only has
    the right sign and size. What lies beyond a picture, or behind its camera, is outside, unless
    the mask is cut off there: then that camera does not judge it. What no camera judges is outside.

    Args:
        views: With masks.
        box: Lower and upper corner.
        nodes: Along the longest side.

    Raises:
        ValueError: If there are no masks.
    """
    if views.coverage is None:
        raise ValueError("visual_hull: views must have masks, got none")
    transform = require("scipy.ndimage").distance_transform_edt
    grid = Grid.from_bounds(torch.zeros(node_counts(box, nodes)), *box)
    points = node_positions(grid).reshape(-1, 3)
    height, width = views.cameras.size
    values = torch.full((len(points),), -math.inf)
    far = math.hypot(*(b - a for a, b in zip(*box, strict=True)))
    for camera, coverage in zip(views.cameras, views.coverage, strict=True):
        inside = (coverage >= _HALF).numpy()
        # To the middle of the nearest pixel of the other kind: half a pixel beyond the outline.
        outward = transform(~inside) - 0.5 if inside.any() else np.full(inside.shape, np.inf)
        inward = transform(inside) - 0.5 if not inside.all() else np.full(inside.shape, np.inf)
        signed = torch.from_numpy(np.where(inside, -inward, outward)).float().clamp(-1e6, 1e6)
        shown = camera.to(torch.float32).project(points)
        x, y = (2 * shown.pixels[0] / points.new_tensor([width, height]) - 1).unbind(-1)
        at = torch.stack([x, y], dim=-1).nan_to_num(2.0)
        sampled = grid_sample(
            signed[None, None], at[None, None], padding_mode="border", align_corners=False
        )[0, 0, 0]
        depth, focal = shown.depth[0], camera.focal[0].mean()
        distance = torch.where(depth > 0, sampled * depth / focal, far)
        rim = inside.copy()
        rim[1:-1, 1:-1] = False
        if rim.any():
            judged = (depth > 0) & (x.abs() <= 1) & (y.abs() <= 1)
            distance = distance.where(judged, -math.inf)
        values = torch.maximum(values, distance)
    values = values.where(values > -math.inf, far).clamp(-far, far)
    return Grid(values.view(grid.values.shape), grid.lower, grid.spacing)


def refined(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return samples at the nodes of a finer grid of the same box, by trilinear interpolation.

    Args:
        values: (X, Y, Z).
        shape: Nodes of the finer grid.

    Source:
        SDFDiff, section 5.2.
    """
    fine = interpolate(values[None, None], size=shape, mode="trilinear", align_corners=True)
    return fine[0, 0]


def refined_optimizer(old: dict[str, Tensor], shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """Return Adam's state for a finer grid: moments interpolated, and scaled as gradients shrink.

    What a picture's pixels say of the surface is parted among as many nodes as lie near it, which
    grow with the square of the fineness; without the scale the first steps of the new level, with
    a second moment far too large, would hardly move.

    Args:
        old: `step`, `exp_avg` and `exp_avg_sq` of torch's Adam.
        shape: Nodes of the finer grid.
    """
    coarse = old["exp_avg"].shape
    cells = [(n - 1) / (m - 1) for n, m in zip(coarse, shape, strict=True)]
    share = math.prod(cells) ** (2 / 3)
    return {
        "step": old["step"].clone(),
        "exp_avg": share * refined(old["exp_avg"], shape),
        "exp_avg_sq": share**2 * refined(old["exp_avg_sq"], shape),
    }


def smoothed(values: Tensor, passes: int) -> Tensor:
    """Return samples (X, Y, Z) after passes of a filter (1/4, 1/2, 1/4) along each axis."""
    for axis in (0, 1, 2) * passes:
        last = values.shape[axis] - 1
        before = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, last)], axis)
        after = torch.cat([values.narrow(axis, 1, last), values.narrow(axis, last, 1)], axis)
        values = values / 2 + (before + after) / 4
    return values


@torch.no_grad()
def redistanced(grid: Grid) -> Grid:
    """Return the grid with distances to its surface wherever that leaves the surface as it is.

    Nodes of cells that the surface crosses keep their values, so that the surface keeps its place
    to the last bit; the others get the distance to it with the sign they have: to the triangles of
    marching cubes within three cells, and beyond to that triangle point which is nearest to the
    nearest of these nodes, which is too far by half a cell or so at the most. Where there is no
    surface the grid comes back as it is.

    Args:
        grid: (X, Y, Z) samples.

    Raises:
        ImportError: If the extra `pipelines` is not installed.
    """
    values = grid.values.detach().cpu()
    mesh = marching_cubes(Grid(values, grid.lower, grid.spacing), close_boundary=False)
    assert isinstance(mesh, Mesh)
    if len(mesh.faces) == 0:
        return grid
    crossed = crossing_nodes(values)
    transform = require("scipy.ndimage").distance_transform_edt
    to_crossed, index = transform(~crossed.numpy(), sampling=grid.spacing, return_indices=True)
    points = node_positions(Grid(values.double(), grid.lower, grid.spacing))
    near = torch.from_numpy(to_crossed <= _NEAR * max(grid.spacing))
    nearest = torch.full_like(points, math.nan)
    nearest[near] = closest_points(mesh, points[near]).points
    # Beyond, the nearest crossed node lies near, and so does what is nearest to it.
    far = ~near
    i, j, k = (torch.from_numpy(part)[far].long() for part in index)
    nearest[far] = nearest[i, j, k]
    distance = torch.linalg.vector_norm(points - nearest, dim=-1).to(values)
    signed = torch.where(values < 0, -distance, distance)
    return Grid(torch.where(crossed, values, signed).to(grid.values), grid.lower, grid.spacing)


def crossing_nodes(values: Tensor) -> Tensor:
    """Return the nodes (X, Y, Z), bool, of cells that have both an inner and an outer node."""
    inner = (values < 0)[None, None].float()
    pool = torch.nn.functional.max_pool3d
    most, least = pool(inner, 2, 1), -pool(-inner, 2, 1)
    cells = (most != least).float()
    return pool(cells, 2, 1, padding=1)[0, 0] > 0


def nodes_near(values: Tensor, cells: float, spacing: float) -> Tensor:
    """Return the nodes (X, Y, Z), bool, within so many cells of the surface, by their values."""
    return (values.detach().abs() <= cells * spacing) | crossing_nodes(values.detach())


def cleaned(grid: Grid) -> Grid:
    """Return the grid without what pictures do not speak of, and no update would remove.

    Cavities, which is what lies outside the solid but is not joined to the rim: no camera sees into
    one. Specks, which are parts of the solid, or openings into it, of a handful of nodes: in front
    of the rest of the solid, no mask shows them, and how a hit moves tells how to shift them, but
    not that they should go. Outer nodes that only touch at an edge or a corner of a cell count as
    joined, as trilinear fields may join them. The largest part of the solid stays.

    Args:
        grid: (X, Y, Z) samples.
    """
    values = grid.values
    outside = (values.detach() >= 0).cpu().numpy()
    fill = _enclosed(outside, 3) | (_enclosed(outside, 1) & _small_parts(outside))
    clear = _small_parts(~outside)
    if not (fill.any() or clear.any()):
        return grid
    # As deep as a cell, until distances are restored.
    depth = max(grid.spacing)
    for nodes, value in ((clear, depth), (fill, -depth)):
        values = values.masked_fill(torch.from_numpy(nodes).to(values.device), value)
    return Grid(values, grid.lower, grid.spacing)


def _small_parts(nodes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the nodes (X, Y, Z) of parts with few nodes; never those of the largest part."""
    parts, count = require("scipy.ndimage").label(nodes)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    small = sizes <= _SPECK
    small[0] = False  # the other nodes
    if count > 0:
        small[1 + int(sizes[1:].argmax())] = False
    return np.asarray(small[parts])


def _enclosed(outside: NDArray[np.bool_], touching: int) -> NDArray[np.bool_]:
    """Return the outer nodes (X, Y, Z) that no way leads from to the rim.

    Args:
        outside: (X, Y, Z).
        touching: What a step may change of a node's indices: 1, or up to all 3 of them.
    """
    ndimage = require("scipy.ndimage")
    parts, _ = ndimage.label(outside, structure=ndimage.generate_binary_structure(3, touching))
    rim = np.ones(outside.shape, dtype=np.bool_)
    rim[1:-1, 1:-1, 1:-1] = False
    return np.asarray(outside & ~np.isin(parts, np.unique(parts[rim])))
