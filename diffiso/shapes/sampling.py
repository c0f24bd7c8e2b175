# SPDX-License-Identifier: Apache-2.0
"""Training samples of signed distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.shapes.mesh_shape import MeshShape
from diffiso.types import Mesh


class SdfSamples(NamedTuple):
    """Signed distances at scattered points."""

    points: Tensor  # (N, 3)
    values: Tensor  # (N,)


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
        ValueError: If `uniform` is not in [0, 1], there are no deviations, or the mesh is open.
    """
    if not 0 <= uniform <= 1:
        raise ValueError(f"sdf_samples: uniform must be in [0, 1], got {uniform}")
    if len(deviations) == 0:
        raise ValueError("sdf_samples: deviations must hold at least one, got none")
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
