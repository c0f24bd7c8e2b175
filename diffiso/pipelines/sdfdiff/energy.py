# SPDX-License-Identifier: Apache-2.0
"""The energy that a reconstruction makes small: pictures, masks, and what a distance is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

import diffiso
from diffiso.losses import eikonal, grid_gradient, grid_laplacian
from diffiso.pipelines.sdfdiff.levels import nodes_near
from diffiso.pipelines.views import Views
from diffiso.run import check_settings
from diffiso.types import Grid

_WHOLE = 0.95  # coverage of a target's pixel from which on its intensity is that of the surface


@dataclass(frozen=True)
class EnergySettings:
    """Which terms the energy has, and how they weigh.

    Attributes:
        norm: "l1" takes absolute differences of intensities, "l2" squared ones.
        reduction: "sum" adds up pixels and nodes, as SDFDiff does, so that the balance of terms
            shifts with the resolution; "mean" does not.
        image: Weight of intensities, compared after dividing by the brightest target.
        mask: Weight of squared differences of coverage, where there are masks.
        eikonal: Weight of how far gradients are from length one.
        eikonal_squared: Take | |g|^2 - 1 |, as SDFDiff's code does, for the paper's (|g| - 1)^2.
        laplacian: Weight of squared Laplacians: of the sum of differences to six neighbours.
        laplacian_unit: "cells" divides these by the spacing, so that a wrinkle of some cells costs
            the same at every level; "samples" takes them as they are, as SDFDiff's code does.
        band: Cells from the surface within which the two count; none for all inner nodes.
    """

    norm: Literal["l1", "l2"] = "l1"
    reduction: Literal["mean", "sum"] = "mean"
    image: float = 1.0
    mask: float = 1.0
    eikonal: float = 0.01
    eikonal_squared: bool = False
    laplacian: float = 0.001
    laplacian_unit: Literal["cells", "samples"] = "cells"
    band: float | None = 3.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self, positive=("band",), not_negative=("image", "mask", "eikonal", "laplacian")
        )


@dataclass(frozen=True)
class RenderSettings:
    """How pictures of the grid are made.

    Attributes:
        method: "voxel" finds the first hit of any field, "sphere" steps by the field's value.
        tolerance: Of sphere tracing, in pixels at the ray's depth: SDFDiff's code has 1. 0 refines
            each hit to the surface.
        law: How a hit moves with the samples: "implicit" exactly, "sdfdiff" by one step more of
            sphere tracing.
        min_cosine: The least that the cosine between surface and ray counts in the implicit law.
            Rays that graze move their hits far and tell little: bounded so, they count less.
        normals: "central" differences as in the paper, which tie neighbours together, so that
            hollows are found; the cell's own, "trilinear", which do not look across narrow gaps and
            thin walls; or "alternate" from update to update.
        last_normals: Those of the last level; none for the same.
        settle: Share of the last level, at its end, that takes `normals` after all; of batches.
        ramp: Pixels over which coverage rises from 0 to 1, level by level, the last number for all
            that follow; 0 leaves outlines hard.
    """

    method: Literal["voxel", "sphere"] = "voxel"
    tolerance: float = 0.0
    law: Literal["implicit", "sdfdiff"] = "implicit"
    min_cosine: float = 0.5
    normals: Literal["central", "trilinear", "alternate"] = "central"
    last_normals: Literal["central", "trilinear", "alternate"] | None = "alternate"
    settle: float = 0.25
    ramp: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(self, positive=("min_cosine",), not_negative=("ramp", "tolerance", "settle"))
        for name in ("min_cosine", "settle"):
            if getattr(self, name) > 1:
                raise ValueError(
                    f"RenderSettings: {name} must be at most 1, got {getattr(self, name):g}"
                )
        if not self.ramp:
            raise ValueError("RenderSettings: ramp must be at least one number, got none")

    def at(self, level: int, step: int, *, last: bool, done: float = 0.0) -> RenderSettings:
        """Return what holds for one update: no normals that alternate, and one ramp.

        Args:
            level: Which level.
            step: Which update of it.
            last: Whether it is the last level.
            done: Share of the level's updates that are done.
        """
        normals = self.normals
        if last and self.last_normals and done < 1 - self.settle:
            normals = self.last_normals
        if normals == "alternate":
            normals = "trilinear" if step % 2 else "central"
        ramp = self.ramp[min(level, len(self.ramp) - 1)]
        return replace(self, normals=normals, last_normals=None, ramp=(ramp,))


class Energy(NamedTuple):
    """The energy and its weighted terms, scalars; terms that are switched off are zero."""

    total: Tensor
    image: Tensor
    mask: Tensor
    eikonal: Tensor
    laplacian: Tensor


def energy(
    grid: Grid,
    views: Views,
    settings: EnergySettings,
    rendering: RenderSettings,
    *,
    white: float = 1.0,
) -> Energy:
    """Return how far a grid is from showing what views show, differentiable in its values.

    Where there are masks, intensities are compared where a pixel lies wholly in the mask and its
    ray meets the solid, and masks say where the solid ends: what a pixel at the outline shows is
    part surface, part black, and which part is the mask's to say. Without masks, or where they
    have no weight, all pixels are compared, as in the paper; with soft outlines as they are before
    black.

    Args:
        grid: (X, Y, Z) samples.
        views: What should be seen, of the size to render.
        settings: Terms and weights.
        rendering: How to render, at one update.
        white: What intensities are divided by.

    Source:
        SDFDiff, section 5.1, and Eq. 4 for the Laplacian.
    """
    zero = grid.values.new_zeros(())
    image = mask = zero
    seen = render_views(grid, views, rendering)
    if views.intensity is not None and settings.image > 0:
        if views.coverage is None or settings.mask == 0:
            off = seen.image - views.intensity
        else:
            counts = (views.coverage >= _WHOLE) & seen.hits.hit
            off = (seen.intensity - views.intensity).where(counts, 0.0)
        off = off / white
        off = off.abs() if settings.norm == "l1" else off.square()
        image = settings.image * _reduced(off, settings)
    if views.coverage is not None and settings.mask > 0:
        mask = settings.mask * _reduced((seen.coverage - views.coverage).square(), settings)
    length, bending = _regularizers(grid, settings)
    total = image + mask + length + bending
    return Energy(total, image, mask, length, bending)


def render_views(grid: Grid, views: Views, rendering: RenderSettings) -> diffiso.Rendering:
    """Return what cameras see of a grid, lit as the views are.

    Args:
        grid: (X, Y, Z) samples.
        views: Cameras and their light.
        rendering: How to render, at one update.

    Raises:
        ValueError: If normals alternate: :meth:`RenderSettings.at` says which come next.
    """
    if rendering.normals == "alternate":
        raise ValueError("render_views: normals must be those of one update, got 'alternate'")
    method: Literal["voxel"] | diffiso.SphereTracing = "voxel"
    if rendering.method == "sphere":
        pixel = 1 / float(views.cameras.focal.min())
        method = diffiso.SphereTracing(
            tolerance=1e-6 if rendering.tolerance else 1e-4,
            footprint=rendering.tolerance * pixel,
            refine=rendering.tolerance == 0,
        )
    return diffiso.render(
        grid,
        views.cameras,
        light=diffiso.Light(strength=views.strength, falloff=views.falloff),
        normals=rendering.normals,
        law=rendering.law,
        min_cosine=rendering.min_cosine,
        ramp=rendering.ramp[0],
        method=method,
    )


def _reduced(values: Tensor, settings: EnergySettings) -> Tensor:
    return values.sum() if settings.reduction == "sum" else values.mean()


def _regularizers(grid: Grid, settings: EnergySettings) -> tuple[Tensor, Tensor]:
    """Return the weighted eikonal and Laplacian terms over inner nodes, all or near the surface."""
    zero = grid.values.new_zeros(())
    mask = None
    spacing = max(grid.spacing)
    if settings.band is not None:
        near = nodes_near(grid.values, settings.band, spacing)
        mask = near[1:-1, 1:-1, 1:-1]
    count = 1 if settings.reduction == "mean" else _count(grid, mask)
    length = bending = zero
    if settings.eikonal > 0:
        gradients = grid_gradient(grid)
        length = eikonal(gradients, squared=settings.eikonal_squared, mask=mask)
        length = settings.eikonal * count * length
    if settings.laplacian > 0:
        unit = spacing if settings.laplacian_unit == "cells" else spacing**2
        bends = (unit * grid_laplacian(grid)).square()
        if mask is not None:
            bends = bends[mask]
        bending = settings.laplacian * count * bends.sum() / max(bends.numel(), 1)
    return length, bending


def _count(grid: Grid, mask: Tensor | None) -> int:
    if mask is not None:
        return int(mask.sum())
    x, y, z = grid.values.shape
    return (x - 2) * (y - 2) * (z - 2)
