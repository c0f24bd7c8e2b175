# SPDX-License-Identifier: Apache-2.0
"""Intersection over union of surfaces and of what they enclose, on a lattice of cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffiso.metrics.frames import bounds, used_vertices
from diffiso.metrics.inputs import check_clouds, check_count, checked_mesh
from diffiso.proximity import winding_numbers
from diffiso.types import Mesh

_CELLS = 1 << 24  # most cells whose centres are asked for
_SLACK = 1e-9  # of the box, within which a point counts as lying on its side


def surface_iou(
    points: Tensor,
    reference: Tensor,
    *,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    resolution: int = 50,
) -> float:
    """Return the intersection over union of the cells that two clouds occupy.

    As in MeshSDF: 5,000 points each, 50^3 cells over the reference's bounding box, for both. Cells
    have the box's proportions, and go on beyond it: points out there count. Two samples of one
    surface rarely hit the same cells: the ceiling is about 0.3.

    Args:
        points: (P, 3), world units.
        reference: (R, 3), of the same dtype and on the same device.
        lower: (3,), lowest corner of the reference's box; by default that of its points.
        upper: (3,), highest corner.
        resolution: Cells along each side of the box.

    Raises:
        ValueError: If `resolution` is not positive, the box has no extent, clouds are empty, not
            (P, 3) or not finite, or differ in dtype or device.

    Example:
        >>> line = torch.tensor([[0.1, 0.0, 0.0], [0.4, 0.0, 0.0], [0.9, 0.0, 0.0]])
        >>> box = {"lower": torch.zeros(3), "upper": torch.ones(3), "resolution": 2}
        >>> surface_iou(line, line[:2], **box)
        0.5
    """
    points, reference = points.detach(), reference.detach()
    check_clouds("surface_iou", points=points, reference=reference)
    check_count("surface_iou", resolution, "resolution")
    low, high = bounds(reference.double())
    low = low if lower is None else lower.to(low)
    high = high if upper is None else upper.to(high)
    cells = _lattice("surface_iou", low, high, resolution)
    both = torch.cat(
        [_cell(cloud.double(), low, cells, resolution) for cloud in (points, reference)]
    )
    kinds, where = torch.unique(both, dim=0, return_inverse=True)
    seen = torch.zeros(len(kinds), 2, dtype=torch.bool, device=both.device)
    seen[where[: len(points)], 0] = True
    seen[where[len(points) :], 1] = True
    return int(seen.all(dim=1).sum()) / len(kinds)


def volume_iou(mesh: Mesh, reference: Mesh, *, resolution: int = 32) -> float:
    """Return the intersection over union of the cells whose centres two surfaces enclose.

    As MeshSDF does on Pix3D: 32^3 cells over the reference's bounding box, filled. A centre is
    inside where the winding number, of either sign, is above a half; so small holes are bridged.
    Cells go on beyond the box where the mesh does, so that what sticks out counts. No sampling:
    the ceiling is 1.

    Args:
        mesh: The surface to judge, closed or nearly so.
        reference: The surface to compare with, closed or nearly so.
        resolution: Cells along each side of the box.

    Raises:
        ValueError: If `resolution` is not positive, a mesh has no faces or no area or is not
            finite, the reference encloses no centre, or the mesh is so much larger than the
            reference that more than 2^24 cells would be needed.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball = isosurface(shapes.Sphere(0.5), -1.0, 1.0, 24)
        >>> volume_iou(ball, ball)
        1.0
    """
    check_count("volume_iou", resolution, "resolution")
    mesh = checked_mesh("volume_iou", "mesh", mesh)
    reference = checked_mesh("volume_iou", "reference", reference)
    low, high = bounds(used_vertices(reference))
    cell = _lattice("volume_iou", low, high, resolution)
    below, above = bounds(used_vertices(mesh).to(low.device))
    first = ((below - low) / cell).floor().clamp(max=0).tolist()
    last = ((above - low) / cell).ceil().clamp(min=resolution).tolist()
    sides = [b - a for a, b in zip(first, last, strict=True)]
    if math.prod(sides) > _CELLS:
        raise ValueError(
            "volume_iou: mesh must not be much larger than the reference, got sides of "
            + ", ".join(f"{x:.3g}" for x in (above - below).tolist())
            + " to "
            + ", ".join(f"{x:.3g}" for x in (high - low).tolist())
        )
    axes = [torch.arange(a, b, dtype=torch.float64) for a, b in zip(first, last, strict=True)]
    centers = low.cpu() + (torch.cartesian_prod(*axes) + 0.5) * cell.cpu()
    ours, theirs = (winding_numbers(m, centers).abs() > 0.5 for m in (mesh, reference))
    if not bool(theirs.any()):
        raise ValueError(
            f"volume_iou: reference must enclose a cell's centre, got none of {resolution}^3 "
            f"and {reference.open_edge_count()} open edges"
        )
    return int((ours & theirs).sum()) / int((ours | theirs).sum())


def _lattice(function: str, lower: Tensor, upper: Tensor, resolution: int) -> Tensor:
    """Return the sides (3,) of a cell; along an axis without extent that of the longest."""
    size = upper - lower
    longest = float(size.max())
    if not (0 < longest < math.inf and float(size.min()) >= 0):
        raise ValueError(
            f"{function}: upper must be above lower, got {lower.tolist()} and {upper.tolist()}"
        )
    return torch.where(size > _SLACK * longest, size, longest) / resolution


def _cell(points: Tensor, lower: Tensor, cell: Tensor, resolution: int) -> Tensor:
    """Return the cell (P, 3) of each point; the box's upper side belongs to its last cells."""
    position = (points - lower) / (cell * resolution)
    inside = (position >= -_SLACK) & (position <= 1 + _SLACK)
    index = (position * resolution).floor()
    return torch.where(inside, index.clamp(0, resolution - 1), index).long()
