# SPDX-License-Identifier: Apache-2.0
"""Grids and training samples of signed distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffiso.shapes.csg import Shape
from diffiso.shapes.mesh_shape import MeshShape
from diffiso.types import Grid, Mesh

_COARSEST = 8  # stride of the first lattice, in nodes; a power of two


class SdfSamples(NamedTuple):
    """Signed distances at scattered points."""

    points: Tensor  # (N, 3)
    values: Tensor  # (N,)


def sdf_grid(
    shape: Shape,
    lower: Sequence[float],
    upper: Sequence[float],
    resolution: int | Sequence[int],
    *,
    band: float | None = None,
) -> Grid:
    """Return a grid of a shape's field that asks for values only near the surface.

    The field is read at every eighth node, and twice as finely wherever the surface may be within
    `band`; a shape's Lipschitz bound guarantees that none is missed. The other nodes are
    interpolated: they have the right sign, but no more than the precision of the lattice around
    them.

    Args:
        shape: A shape, for example a `MeshShape`.
        lower: Lowest corner of the box, world coordinates.
        upper: Highest corner.
        resolution: Cells along each axis, one number or three.
        band: World units around the surface in which every node has the shape's own value; by
            default the diagonal of a cell, so that all corners of all crossed cells do.
            `float("inf")` reads every node.

    Returns:
        A float32 grid on the CPU.

    Raises:
        ValueError: If a cell count is not positive or the box is empty.
    """
    cells = (resolution,) * 3 if isinstance(resolution, int) else tuple(resolution)
    if len(cells) != 3 or min(cells) < 1:
        raise ValueError(
            f"sdf_grid: resolution must be one or three positive numbers, got {resolution}"
        )
    if not all(low < high for low, high in zip(lower, upper, strict=True)):
        raise ValueError(
            f"sdf_grid: lower must be below upper, got {tuple(lower)} and {tuple(upper)}"
        )
    origin = torch.tensor([float(x) for x in lower], dtype=torch.float64)
    spacing = (
        torch.tensor([float(x) for x in upper], dtype=torch.float64) - origin
    ) / torch.tensor(cells)
    diagonal = float(spacing.norm())
    band = diagonal if band is None else band
    blocks = [-(-count // _COARSEST) for count in cells]

    def read(index: Tensor, stride: int) -> Tensor:
        with torch.no_grad():
            return shape(origin + index.double() * (spacing * stride)).float()

    axes = [torch.arange(count + 1) for count in blocks]
    values = read(torch.cartesian_prod(*axes), _COARSEST).reshape([count + 1 for count in blocks])
    stride = _COARSEST
    while stride > 1:
        reach = shape.lipschitz * stride * diagonal / 2 + band
        near = _refined(values.abs() <= reach)
        size = [2 * count - 1 for count in values.shape]
        values = functional.interpolate(
            values[None, None], size=size, mode="trilinear", align_corners=True
        )[0, 0]
        near[::2, ::2, ::2] = False
        stride //= 2
        index = near.nonzero()
        values[near] = read(index, stride)
    values = values[: cells[0] + 1, : cells[1] + 1, : cells[2] + 1].contiguous()
    (x, y, z), (dx, dy, dz) = origin.tolist(), spacing.tolist()
    return Grid(values, (x, y, z), (dx, dy, dz))


def sdf_samples(
    mesh: Mesh | MeshShape,
    count: int,
    *,
    deviations: Sequence[float] = (0.05, 0.01),
    uniform: float = 0.1,
    box: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> SdfSamples:
    """Return signed distances of a closed mesh at points that crowd around its surface.

    After DeepSDF: surface points moved by Gaussian noise of several widths, and some points drawn
    uniformly from a box.

    Args:
        mesh: A closed mesh, or a `MeshShape`.
        count: How many points.
        deviations: Standard deviations of the noise, as shares of the longest side; equally many
            points each.
        uniform: Share of the points drawn from the box.
        box: Lower and upper bound of the box on every axis, world units; by default the bounding
            box grown by a tenth.
        generator: Source of the draws.

    Raises:
        ValueError: If `uniform` is not in [0, 1], or the mesh is open.
    """
    if not 0 <= uniform <= 1:
        raise ValueError(f"sdf_samples: uniform must be in [0, 1], got {uniform}")
    shape = mesh if isinstance(mesh, MeshShape) else MeshShape(mesh)
    lower, upper = torch.tensor(shape.lower), torch.tensor(shape.upper)
    side = float((upper - lower).max())
    low, high = (lower - 0.1 * side, upper + 0.1 * side) if box is None else box
    free = round(uniform * count)
    surface = Mesh(torch.from_numpy(shape.vertices).float(), torch.from_numpy(shape.faces))
    points = surface.sample(count - free, generator).points
    widths = torch.tensor(list(deviations))[torch.arange(count - free) % len(deviations)]
    points = points + torch.randn(count - free, 3, generator=generator) * (widths * side)[:, None]
    scattered = torch.rand(free, 3, generator=generator) * (high - low) + low
    points = torch.cat([points, scattered])
    return SdfSamples(points, shape(points))


def _refined(near: Tensor) -> Tensor:
    """Return the nodes of the finer lattice that lie in a cell with a corner near the surface."""
    for axis in range(3):  # nodes to cells: a cell is near if one of its corners is
        near = near.movedim(axis, 0)
        near = (near[:-1] | near[1:]).movedim(0, axis)
    for axis in range(3):  # cells to the nodes of the finer lattice inside and around them
        cells = near.movedim(axis, 0)
        nodes = cells.new_zeros((2 * len(cells) + 1, *cells.shape[1:]))
        nodes[1::2] = cells
        nodes[:-1:2] |= cells
        nodes[2::2] |= cells
        near = nodes.movedim(0, axis)
    return near.contiguous()
