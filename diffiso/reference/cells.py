# SPDX-License-Identifier: Apache-2.0
"""The field of single cells: samples, value, derivatives, and gradients at the nodes around."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.reference.grids import CORNERS


class CellField(NamedTuple):
    """The trilinear field of single cells at points, in world units.

    Attributes:
        value: `(...)`.
        gradient: `(..., 3)`.
        hessian: `(..., 3, 3)`, symmetric, with zeros on the diagonal.
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor


def cell_nodes(values: Tensor, cell: Tensor) -> Tensor:
    """Return the flat indices of the corners of cells, those of cell 0 for cell -1.

    Args:
        values: `(B, X, Y, Z)`, of which only the shape counts.
        cell: `(...)` flat index of the cell's lower node, or -1.

    Returns:
        `(..., 8)`, corner c = 4 * dx + 2 * dy + dz.

    Example:
        >>> cell_nodes(torch.zeros(1, 2, 2, 3), torch.tensor(1)).tolist()
        [1, 2, 4, 5, 7, 8, 10, 11]
    """
    _, y, z = values.shape[1:]
    offsets = torch.tensor([(dx * y + dy) * z + dz for dx, dy, dz in CORNERS])
    return cell.long().clamp(min=0)[..., None] + offsets


def cell_samples(values: Tensor, cell: Tensor) -> Tensor:
    """Return the eight samples of cells, corner c = 4 * dx + 2 * dy + dz; zeros for cell -1.

    Args:
        values: `(B, X, Y, Z)` samples.
        cell: `(...)` flat index of the cell's lower node within them, or -1.

    Returns:
        `(..., 8)`.

    Example:
        >>> cell_samples(torch.arange(12.0).view(1, 2, 2, 3), torch.tensor([1, -1])).tolist()[0]
        [1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 10.0, 11.0]
    """
    return torch.where(cell[..., None] >= 0, values.flatten()[cell_nodes(values, cell)], 0.0)


def cell_fraction(
    values: Tensor,
    points: Tensor,
    cell: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Return where in its cell a point lies, from 0 to 1 along each axis; zeros for cell -1.

    Args:
        values: `(B, X, Y, Z)`, of which only the shape counts.
        points: `(..., 3)` world positions.
        cell: `(...)` flat index of the cell's lower node, or -1.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.

    Returns:
        `(..., 3)`.

    Example:
        >>> place = torch.tensor([0.5, 0.0, 1.25])
        >>> cell_fraction(torch.zeros(1, 2, 2, 3), place, torch.tensor(1)).tolist()
        [0.5, 0.0, 0.25]
    """
    x, y, z = values.shape[1:]
    node = cell.clamp(min=0) % (x * y * z)
    corner = torch.stack((node // (y * z), node // z % y, node % z), dim=-1)
    place = (points - points.new_tensor(lower)) / points.new_tensor(spacing)
    return torch.where(cell[..., None] >= 0, place - corner, 0.0)


def trilinear(
    samples: Tensor, fraction: Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> CellField:
    """Return the field between the eight samples of cells, with its first and second derivatives.

    Derivatives are taken of differences to the first sample, so that those of a flat field are zero
    to the last bit.

    Args:
        samples: `(..., 8)`.
        fraction: `(..., 3)` place in the cell.
        spacing: World size of the cell along x, y, z.

    Returns:
        Value, gradient and second derivatives in world units.

    Example:
        >>> saddle = torch.tensor([1.0, 0.0, 0.0, 1.0] * 2)  # (1 - y)(1 - z) + y z
        >>> field = trilinear(saddle, torch.tensor([0.5, 0.5, 1.0]))
        >>> field.value.item(), field.gradient.tolist(), field.hessian[1].tolist()
        (0.5, [0.0, 1.0, 0.0], [0.0, 0.0, 2.0])
    """
    value = torch.zeros_like(samples[..., 0])
    gradient, hessian = [value] * 3, [[value] * 3 for _ in range(3)]
    for c, corner in enumerate(CORNERS):
        weight = [fraction[..., a] if corner[a] else 1 - fraction[..., a] for a in range(3)]
        slope = [(1 if corner[a] else -1) / spacing[a] for a in range(3)]
        sample = samples[..., c]
        rise = sample - samples[..., 0]
        value = value + weight[0] * weight[1] * weight[2] * sample
        for a in range(3):
            b, other = (a + 1) % 3, (a + 2) % 3
            gradient[a] = gradient[a] + slope[a] * weight[b] * weight[other] * rise
            hessian[a][b] = hessian[a][b] + slope[a] * slope[b] * weight[other] * rise
            hessian[b][a] = hessian[a][b]
    rows = [torch.stack(row, dim=-1) for row in hessian]
    return CellField(value, torch.stack(gradient, dim=-1), torch.stack(rows, dim=-2))


def node_gradients(values: Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """Return the gradient at every node by central differences (SDFDiff, section 4).

    On the border of the box, where a neighbour lacks, by the one-sided difference that is exact for
    quadratic fields, `(-3 f0 + 4 f1 - f2) / (2 h)`; with two nodes by their difference.

    Args:
        values: `(B, X, Y, Z)` samples.
        spacing: World distance between neighbouring nodes along x, y, z.

    Returns:
        `(B, X, Y, Z, 3)`, world units.

    Example:
        >>> parabola = torch.arange(4.0).square().view(1, 4, 1, 1).expand(1, 4, 2, 2)
        >>> node_gradients(parabola)[0, :, 0, 0, 0].tolist()
        [0.0, 2.0, 4.0, 6.0]
    """
    parts = []
    for axis, step in enumerate(spacing):
        f = values.movedim(axis + 1, 0)
        if len(f) == 2:
            slope = (f[1] - f[0]).expand_as(f)
        else:
            first = (-3 * f[0] + 4 * f[1] - f[2]) / 2
            last = (3 * f[-1] - 4 * f[-2] + f[-3]) / 2
            slope = torch.cat((first[None], (f[2:] - f[:-2]) / 2, last[None]))
        parts.append(slope.movedim(0, axis + 1) / step)
    return torch.stack(parts, dim=-1)
