# SPDX-License-Identifier: Apache-2.0
"""What the pipelines measure on surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffiso.proximity import closest_points
from diffiso.types import Mesh


@dataclass(frozen=True)
class SurfaceDistance:
    """Point-to-surface distances between two surfaces, root mean square over area, world units.

    Attributes:
        there: From the first surface to the second.
        back: From the second surface to the first.
        worst: Largest distance met in either direction, a lower bound of the Hausdorff distance.
        side: Longest side of the second surface's bounding box.
        samples: Points drawn on each surface.
    """

    there: float
    back: float
    worst: float
    side: float
    samples: int

    @property
    def rms(self) -> float:
        """Return the root mean square over both directions."""
        return float(((self.there**2 + self.back**2) / 2) ** 0.5)

    def as_dict(self) -> dict[str, float]:
        """Return all numbers, absolute and as shares of the longest side."""
        return {
            "rms_to_reference": self.there,
            "rms_from_reference": self.back,
            "rms": self.rms,
            "rms_share_of_side": self.rms / self.side,
            "worst": self.worst,
            "longest_side": self.side,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        """Return a line for people."""
        return (
            f"RMS {self.rms:.3g}, {100 * self.rms / self.side:.4f}% of the longest side "
            f"({self.there:.3g} there, {self.back:.3g} back)"
        )


def surface_distance(
    mesh: Mesh, reference: Mesh, samples: int = 200_000, generator: torch.Generator | None = None
) -> SurfaceDistance:
    """Return point-to-surface distances both ways: area-weighted samples to exact triangles.

    Equal surfaces have distance zero: there is no sampling floor.

    Args:
        mesh: The surface to judge.
        reference: The surface to compare with; its longest side is the yardstick.
        samples: Points drawn on each surface.
        generator: Source of the draws.

    Raises:
        ValueError: If a surface has no area.
    """
    there = closest_points(
        reference, mesh.sample(samples, generator).points
    ).distances.double()
    back = closest_points(
        mesh, reference.sample(samples, generator).points
    ).distances.double()
    bounds = torch.aminmax(reference.vertices.detach(), dim=0)
    longest = (bounds.max - bounds.min).max()
    return SurfaceDistance(
        float(there.square().mean().sqrt()),
        float(back.square().mean().sqrt()),
        float(torch.maximum(there.max(), back.max())),
        float(longest),
        samples,
    )


def surface_loss(
    mesh: Mesh, target: Mesh, target_points: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Return the surface loss of MeshSDF, Eq. 5: mean squared distances, both ways.

    Differentiable in the mesh's vertices. As many points are drawn on the mesh as there are target
    points; closest points count as constants, which is exact to first order.

    Args:
        mesh: The surface that moves.
        target: The surface to reach.
        target_points: (N, 3) points on the target.
        generator: Source of the draws.

    Returns:
        A scalar in squared world units.

    Raises:
        ValueError: If a surface has no area.
    """
    target_points = target_points.detach()
    points = mesh.sample(len(target_points), generator).points
    to_target = points - closest_points(target, points).points
    nearest = closest_points(mesh, target_points)
    corners = mesh.vertices[mesh.faces[nearest.faces]]
    to_mesh = target_points - (corners * nearest.barycentric[..., None]).sum(dim=1)
    return to_target.square().sum(dim=1).mean() + to_mesh.square().sum(dim=1).mean()
