# SPDX-License-Identifier: Apache-2.0
"""Metrics on samples as papers print them: what is measured, on how many points, in which frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from diffiso.metrics.clouds import FScore, chamfer, cloud_hausdorff, f_score, normal_consistency
from diffiso.metrics.frames import FrameName
from diffiso.metrics.overlap import surface_iou
from diffiso.metrics.sampling import CloudMetric, Score, SurfaceCloud, on_meshes, sampling_limit
from diffiso.metrics.transport import EarthMover, earth_mover
from diffiso.types import Mesh


@dataclass(frozen=True)
class Protocol:
    """A metric on clouds with everything that its numbers depend on.

    Attributes:
        metric: Takes the surface's cloud and the reference's.
        paper: Who prints it, and under which name.
        count: Points drawn on each surface.
        frame: Fitted to the reference; see `fit_frame`.
        scale: What the metric is multiplied by.
        unit: Frame and scale in words.
        higher_is_better: The limit is a ceiling.
        evenly: Points keep a distance from each other.
    """

    metric: CloudMetric
    paper: str
    count: int
    frame: FrameName
    scale: float = 1.0
    unit: str = ""
    higher_is_better: bool = False
    evenly: bool = False

    def score(self, mesh: Mesh, reference: Mesh, generator: torch.Generator | None = None) -> Score:
        """Return the score of a mesh, beside what the reference itself would score.

        Args:
            mesh: The surface to judge.
            reference: The surface to compare with.
            generator: Source of the draws, on the CPU.

        Raises:
            ValueError: If a mesh has no faces or no area or is not finite.

        Example:
            >>> from diffiso import isosurface, shapes
            >>> ball = isosurface(shapes.Sphere(0.5), -1.0, 1.0, 16)
            >>> generator = torch.Generator().manual_seed(0)
            >>> score = PROTOCOLS["chamfer_squared_2k"].score(ball, ball, generator)
            >>> abs(score.value / score.limit - 1) < 0.1
            True
        """
        return on_meshes(self.metric, mesh, reference, generator=generator, **self._sampling())

    def limit(self, reference: Mesh, generator: torch.Generator | None = None) -> float:
        """Return what a perfect surface scores, in one draw; see `sampling_limit`.

        Args:
            reference: The surface to compare with.
            generator: Source of the draws, on the CPU.

        Raises:
            ValueError: If the mesh has no faces or no area or is not finite.
        """
        return sampling_limit(self.metric, reference, generator=generator, **self._sampling())

    def _sampling(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "frame": self.frame,
            "evenly": self.evenly,
            "scale": self.scale,
        }


def _squared(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return chamfer(cloud.points, reference.points)


def _squared_halved(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return chamfer(cloud.points, reference.points, halved=True)


def _distances(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return chamfer(cloud.points, reference.points, squared=False)


def _distances_halved(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return chamfer(cloud.points, reference.points, squared=False, halved=True)


def _largest(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return cloud_hausdorff(cloud.points, reference.points)


def _assignment(cloud: SurfaceCloud, reference: SurfaceCloud) -> EarthMover:
    return earth_mover(cloud.points, reference.points)


def _cells(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return surface_iou(cloud.points, reference.points, lower=reference.lower, upper=reference.upper)


def _normals(cloud: SurfaceCloud, reference: SurfaceCloud) -> float:
    return normal_consistency(cloud.points, cloud.normals, reference.points, reference.normals)


def _closeness(threshold: float, squared: bool = False) -> CloudMetric:
    def measure(cloud: SurfaceCloud, reference: SurfaceCloud) -> FScore:
        return f_score(cloud.points, reference.points, threshold, squared=squared)

    return measure


def _f_score(paper: str, count: int, threshold: float, squared: bool = False) -> Protocol:
    what = "squared distance" if squared else "distance"
    unit = f"{what} < {threshold:g}, unit cube"
    return Protocol(
        _closeness(threshold, squared), paper, count, "unit_cube", 1.0, unit, higher_is_better=True
    )


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "chamfer_squared_2k": Protocol(
            _squared, "MeshSDF CD-l2", 2048, "unit_sphere", 1e3, "unit sphere, squared, x 1000"
        ),
        "chamfer_squared_30k": Protocol(
            _squared, "MeshSDF Table 4", 30_000, "unit_sphere", 1.0, "unit sphere, squared"
        ),
        "chamfer_1k": Protocol(
            _distances, "Pix3D CD-sqrt(l2)", 1024, "unit_cube", 1.0, "unit cube"
        ),
        "chamfer_even_10k": Protocol(
            _distances, "Points2Surf CD", 10_000, "unit_cube", 100.0, "unit cube, x 100",
            evenly=True,
        ),
        "chamfer_squared_halved_10k": Protocol(
            _squared_halved, "Neural-Pull L2-CD", 10_000, "unit_cube", 100.0,
            "unit cube, squared, x 100",
        ),
        "chamfer_halved_100k": Protocol(
            _distances_halved, "Neural-Pull L1-CD", 100_000, "unit_cube", 1.0, "unit cube"
        ),
        "chamfer_30k": Protocol(
            _distances, "LGCL CD, as mm", 30_000, "given", 1e3, "world units x 1000"
        ),
        "chamfer_squared_given_30k": Protocol(
            _squared, "LGCL CD, as m^2", 30_000, "given", 1e3, "squared world units x 1000"
        ),
        "cloud_hausdorff_30k": Protocol(
            _largest, "LGCL HD", 30_000, "given", 1e3, "world units x 1000"
        ),
        "earth_mover_2k": Protocol(
            _assignment, "MeshSDF EMD", 2048, "unit_sphere", 100.0, "unit sphere, x 100"
        ),
        "earth_mover_1k": Protocol(
            _assignment, "Pix3D EMD", 1024, "unit_cube", 1.0, "unit cube"
        ),
        "surface_iou_5k": Protocol(
            _cells, "MeshSDF IoU", 5000, "given", 1.0, "50^3 cells", higher_is_better=True
        ),
        "f_score_5e-2_10k": _f_score("MeshSDF F-score", 10_000, 0.05),
        "f_score_2e-3_100k": _f_score("Neural-Pull F(mu)", 100_000, 0.002),
        "f_score_4e-3_100k": _f_score("Neural-Pull F(2 mu)", 100_000, 0.004),
        "f_score_squared_2e-3_100k": _f_score("Neural-Pull F(mu), squared", 100_000, 0.002, True),
        "normal_consistency_100k": Protocol(
            _normals, "Occupancy Networks NC", 100_000, "unit_cube", 1.0, "mean absolute cosine",
            higher_is_better=True,
        ),
    }
)  # fmt: skip
