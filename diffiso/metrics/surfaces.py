# SPDX-License-Identifier: Apache-2.0
"""Distances between surfaces, exact to triangles: equal surfaces score 0, there is no floor.

By libigl on the CPU in float64, whatever device the meshes are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffiso.metrics.frames import bounds, used_vertices
from diffiso.metrics.inputs import check_count, checked_mesh
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


@dataclass(frozen=True)
class Hausdorff:
    """The largest distance between two surfaces, world units.

    Attributes:
        there: From the first surface to the second.
        back: From the second surface to the first.
        diagonal: Of the second surface's bounding box.
        side: Longest side of that box.
    """

    there: float
    back: float
    diagonal: float
    side: float

    @property
    def distance(self) -> float:
        """Return the symmetric distance: the larger of both directions."""
        return max(self.there, self.back)

    @property
    def share_of_diagonal(self) -> float:
        """Return the symmetric distance over the box's diagonal."""
        return self.distance / self.diagonal

    @property
    def share_of_side(self) -> float:
        """Return the symmetric distance over the box's longest side."""
        return self.distance / self.side


@dataclass(frozen=True)
class VertexDistance:
    """Distances of the reference's vertices to a surface, world units.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation, over all vertices.
        median: Half of them are below.
        percentile_90: Nine tenths of them are below.
        thresholds: Distances that `shares` are about.
        shares: Of vertices farther than each threshold, in [0, 1].
        vertices: How many vertices.
    """

    mean: float
    deviation: float
    median: float
    percentile_90: float
    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    vertices: int


def surface_distance(
    mesh: Mesh, reference: Mesh, samples: int = 200_000, generator: torch.Generator | None = None
) -> SurfaceDistance:
    """Return point-to-surface distances both ways: area-weighted samples to exact triangles.

    Equal surfaces have distance zero: there is no sampling floor.

    Args:
        mesh: The surface to judge.
        reference: The surface to compare with; its longest side is the yardstick.
        samples: Points drawn on each surface.
        generator: Source of the draws, on the CPU.

    Raises:
        ValueError: If a mesh has no faces or no area or is not finite, or `samples` is not
            positive.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball, egg = (isosurface(shapes.Sphere(r), -1.0, 1.0, 32) for r in (0.6, 0.7))
        >>> round(surface_distance(egg, ball, 1000).rms, 2)
        0.1
    """
    check_count("surface_distance", samples, "samples")
    mesh = checked_mesh("surface_distance", "mesh", mesh)
    reference = checked_mesh("surface_distance", "reference", reference)
    there = closest_points(reference, mesh.sample(samples, generator).points).distances
    back = closest_points(mesh, reference.sample(samples, generator).points).distances
    lower, upper = bounds(used_vertices(reference))
    return SurfaceDistance(
        float(there.square().mean().sqrt()),
        float(back.square().mean().sqrt()),
        max(float(there.max()), float(back.max())),
        float((upper - lower).max()),
        samples,
    )


def hausdorff(
    mesh: Mesh, reference: Mesh, samples: int = 100_000, generator: torch.Generator | None = None
) -> Hausdorff:
    """Return the Hausdorff distance between two surfaces, from either one's points to triangles.

    The points are all vertices and, since the farthest may lie inside a face, samples: a lower
    bound that comes close. SDFDiff prints it as a share of the box and does not say of which
    length: both are here.

    Args:
        mesh: The surface to judge.
        reference: The surface to compare with; its box is the yardstick.
        samples: Points drawn on each surface, besides the vertices.
        generator: Source of the draws, on the CPU.

    Raises:
        ValueError: As :func:`surface_distance`.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball, egg = (isosurface(shapes.Sphere(r), -1.0, 1.0, 32) for r in (0.6, 0.7))
        >>> round(hausdorff(egg, ball, 1000).distance, 2)
        0.1
    """
    check_count("hausdorff", samples, "samples")
    mesh = checked_mesh("hausdorff", "mesh", mesh)
    reference = checked_mesh("hausdorff", "reference", reference)

    def points(surface: Mesh) -> Tensor:
        return torch.cat([used_vertices(surface), surface.sample(samples, generator).points])

    there = closest_points(reference, points(mesh)).distances
    back = closest_points(mesh, points(reference)).distances
    lower, upper = bounds(used_vertices(reference))
    size = upper - lower
    return Hausdorff(float(there.max()), float(back.max()), float(size.norm()), float(size.max()))


def vertex_distance(
    mesh: Mesh, reference: Mesh, thresholds: Sequence[float] = (0.005, 0.01, 0.02)
) -> VertexDistance:
    """Return distances from the vertices of a reference to a surface's triangles.

    LGCL's Euclidean distance, in one direction: what the mesh has too much is not seen.

    Args:
        mesh: The surface to judge.
        reference: The surface whose vertices are taken, those that faces use.
        thresholds: World units; LGCL's 5, 10 and 20 mm where the unit is a metre.

    Raises:
        ValueError: If a mesh has no faces or no area or is not finite.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball, egg = (isosurface(shapes.Sphere(r), -1.0, 1.0, 32) for r in (0.6, 0.7))
        >>> vertex_distance(egg, ball, (0.05, 0.15)).shares
        (1.0, 0.0)
    """
    mesh = checked_mesh("vertex_distance", "mesh", mesh)
    reference = checked_mesh("vertex_distance", "reference", reference)
    found = closest_points(mesh, used_vertices(reference)).distances.cpu().numpy()
    median, percentile_90 = np.quantile(found, (0.5, 0.9)).tolist()
    return VertexDistance(
        float(found.mean()),
        float(found.std()),
        median,
        percentile_90,
        tuple(float(limit) for limit in thresholds),
        tuple(float((found > limit).mean()) for limit in thresholds),
        len(found),
    )
