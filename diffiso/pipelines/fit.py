# SPDX-License-Identifier: Apache-2.0
"""Fits a small neural field to a closed mesh and extracts it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffiso.fields import FeatureGridField
from diffiso.ops import isosurface
from diffiso.run import check_settings, track
from diffiso.shapes import MeshShape, sdf_samples
from diffiso.types import Mesh


@dataclass(frozen=True)
class FitSettings:
    """How to fit a field to a mesh.

    Attributes:
        steps: Optimisation steps.
        batch: Points per step.
        samples: Points with known distance.
        learning_rate: Largest rate of the one-cycle schedule.
        resolution: Cells of the extraction along each axis.
    """

    steps: int = 1200
    batch: int = 8192
    samples: int = 400_000
    learning_rate: float = 5e-3
    resolution: int = 128

    def __post_init__(self) -> None:
        """Check every value."""
        check_settings(self, positive=["steps", "batch", "samples", "learning_rate", "resolution"])


def fit_field(
    shape: MeshShape, settings: FitSettings, generator: torch.Generator | None = None
) -> FeatureGridField:
    """Return a neural field fitted to a mesh's signed distances by their mean absolute error.

    Args:
        shape: The mesh.
        settings: How to fit.
        generator: Source of samples and batches.
    """
    samples = sdf_samples(shape, settings.samples, generator=generator)
    lower, upper = torch.tensor(shape.lower), torch.tensor(shape.upper)
    half_size = 0.55 * float((upper - lower).max())
    field = FeatureGridField(((lower + upper) / 2).tolist(), half_size)
    optimizer = torch.optim.Adam(field.parameters(), settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps, pct_start=0.1
    )
    for _ in track(range(settings.steps), "fitting a neural field"):
        batch = torch.randint(settings.samples, (settings.batch,), generator=generator)
        error = field(samples.points[batch]) - samples.values[batch]
        loss = error.abs().mean() / half_size
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return field


@torch.no_grad()
def extract_field(field: FeatureGridField, resolution: int) -> Mesh:
    """Return the surface of a fitted field within its cube, closed where it would leave it."""
    lower, upper = field.center - field.half_size, field.center + field.half_size
    mesh = isosurface(field, lower, upper, resolution, close_boundary=True)
    assert isinstance(mesh, Mesh)
    return mesh
