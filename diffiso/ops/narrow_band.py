# SPDX-License-Identifier: Apache-2.0
"""Sampling a field only where its surface can be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffiso.ops._band_lattice import BandLattice
from diffiso.ops._band_run import BandRun, Criterion, Progress
from diffiso.ops._evaluation import SampledBox
from diffiso.ops._field import MEMORY_BUDGET, Field
from diffiso.types import BrickGrid

_COARSEST_BOUNDED = 8  # cells: a bound holds from any lattice on
_COARSEST = 32  # cells: what a coarse lattice steps over is missed


@dataclass(frozen=True)
class BandReport:
    """What one call of :meth:`NarrowBand.sample` did.

    Attributes:
        mode: ``"cold"``: from the coarsest lattice on; ``"warm"``: from the last call's surface.
        queries: Points that the field was asked for.
        queries_by_level: How many of them in each evaluation: of a cold call at each lattice, the
            coarsest first, and those again that a higher estimate asked for; of a warm call where
            the surface was; then in each round of growing.
        bricks: Bricks that came out.
        lipschitz: The Lipschitz bound that all samples kept; None for a warm call, which checks
            none, or where none was used.

    Example:
        >>> import diffiso
        >>> band = diffiso.NarrowBand(-1, 1, 64, lipschitz=1.0)
        >>> grid = band.sample(lambda p: p.norm(dim=1) - 0.5)
        >>> band.report.mode, len(band.report.queries_by_level)
        ('cold', 4)
    """

    mode: Literal["cold", "warm"]
    queries: int
    queries_by_level: tuple[int, ...]
    bricks: int
    lipschitz: float | None


class NarrowBand:
    """Samples fields at the nodes of a box, but only where their surface can be.

    Queries, time and memory grow with the surface, as N^2, where a dense grid's grow with the
    volume. The samples come as a :class:`BrickGrid`, from which :func:`marching_cubes` makes the
    same faces as from the dense grid.

    **Cold**, the first call goes from a coarse lattice to the finest one and keeps every sample:

    - With ``lipschitz``, a bound on how steep the field is anywhere, a sample f clears all space
      within ``|f| / lipschitz``, and a cell is refined unless the samples at its corners clear it.
      That is a guarantee: no part of the surface is missed that the dense grid would show. A signed
      distance has the bound 1. Samples of a cold call that contradict the bound are an error.
    - Without, ``refine="lipschitz"`` estimates the bound from the coarsest lattice and raises it
      where later samples are steeper. A part that hides between the samples of the coarsest lattice
      and is steeper than all of them can be missed.
    - ``refine="sign"`` refines cells whose corners are on both sides, and ``dilation`` cells around
      them: for occupancies and logits, which tell no distance. What fits between the coarsest
      lattice's nodes is missed.
    - ``refine=criterion`` refines the cells that you choose.

    **Warm**, later calls re-evaluate where the surface was (MeshSDF's acceleration, a heuristic):
    the nodes of the cells that it crossed, or with ``threshold`` those of the last call where the
    field was that near to the level, as in the paper. From there the band grows until it holds all
    cells that the surface crosses: it follows a surface that moves any way and merges or splits,
    and never leaves a hole, at the cost of the volume that was swept. What it cannot see is a new
    part that appears away from the old surface. Where the surface vanished or a cold call would be
    cheaper, the call goes on cold; ``refresh_every`` starts cold every so many calls, and with a
    given ``lipschitz`` every call is cold unless ``refresh_every`` says otherwise.

    A sample that is NaN is absent, and so are the cells around it. A coarse cell with NaN, or with
    the same infinity, at all of its corners is not refined.

    Beside the samples there is a table of the box's bricks, half a byte for 64 nodes; below a
    thousand queries at more than 512 cells, passing over it is what a call costs.

    Not differentiable itself: :func:`isosurface` evaluates the field once more at the vertices.

    Args:
        lower: World position of the box's lower corner: three numbers, or one for all axes.
        upper: World position of its upper corner.
        resolution: Number of cells along each axis, or one for all, at least 2.
        lipschitz: A bound on ``|f(a) - f(b)| / |a - b|``, field units per world unit.
        refine: How a cold call chooses the cells to refine without a bound: ``"lipschitz"``,
            ``"sign"``, or a callable that takes values (C, 8) at the corners of C cells, corner 4 *
            dx + 2 * dy + dz, which may be NaN or infinite, and the cells' size along each axis,
            world units, and returns (C,) bool.
        threshold: Of a warm call, field units: nodes of the last call as near to the level as that
            are evaluated first; by default the nodes of crossed cells.
        dilation: Cells to add around those chosen by sign or criterion, on the lattice that is
            refined.
        refresh_every: Start cold every so many calls; by default 1 with ``lipschitz``, else never.
        coarsest: Cells that the coarsest lattice has along its longest axis at most; by default 8
            with ``lipschitz``, else 32, and more where the shortest axis would have less than 8.
        close_boundary: Close the solid where it leaves the box: the samples come with one more node
            on every side, where they are infinite, and a surface there lies on the face of the box.
        memory_budget: Bytes the field's evaluation may take at a time, beside the samples
            themselves; at least what one brick of 512 points takes.
        dtype: dtype of the points; by default that of the field's parameters, else torch's default.
        device: Device of the points; by default that of the field's parameters, else the CPU.

    Raises:
        ValueError: If an argument is not possible.

    Source:
        Remelli et al., MeshSDF, supplementary 8.3.

    Example:
        >>> import torch, diffiso
        >>> band = diffiso.NarrowBand(-1, 1, 128, lipschitz=1.0)
        >>> grid = band.sample(lambda p: p.norm(dim=1) - 0.5)
        >>> band.report.queries < 129**3 / 20
        True
    """

    report: BandReport | None

    def __init__(
        self,
        lower: float | Sequence[float] | Tensor,
        upper: float | Sequence[float] | Tensor,
        resolution: int | Sequence[int],
        *,
        lipschitz: float | None = None,
        refine: Literal["lipschitz", "sign"] | Criterion = "lipschitz",
        threshold: float | None = None,
        dilation: int = 1,
        refresh_every: int | None = None,
        coarsest: int | None = None,
        close_boundary: bool = False,
        memory_budget: int = MEMORY_BUDGET,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Check the settings; nothing is evaluated yet."""
        self.box = SampledBox("narrow_band", lower, upper, resolution, least=2)
        for name, value in (("lipschitz", lipschitz), ("threshold", threshold)):
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < math.inf):
                raise ValueError(f"narrow_band: {name} must be positive and finite, got {value}")
        if not callable(refine) and refine not in ("lipschitz", "sign"):
            raise ValueError(
                f'narrow_band: refine must be "lipschitz", "sign" or a callable, got {refine!r}'
            )
        if lipschitz is not None and refine != "lipschitz":
            raise ValueError(
                f'narrow_band: lipschitz must stand with refine="lipschitz", got {refine!r}'
            )
        for name, count, least in (
            ("dilation", dilation, 0),
            ("refresh_every", refresh_every, 1),
            ("coarsest", coarsest, 1),
        ):
            whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
            if count is not None and not (whole and count >= least):
                raise ValueError(f"narrow_band: {name} must be at least {least}, got {count}")
        self.lipschitz, self.refine, self.threshold = lipschitz, refine, threshold
        self.dilation = dilation
        self.refresh_every = 1 if refresh_every is None and lipschitz is not None else refresh_every
        default = _COARSEST_BOUNDED if lipschitz is not None else _COARSEST
        self.coarsest = default if coarsest is None else coarsest
        self.close_boundary = close_boundary
        self.memory_budget, self.dtype, self.device = memory_budget, dtype, device
        self.like = lower
        self._keeps = True
        self.reset()

    def only_once(self) -> NarrowBand:
        """Return the band, which from now on remembers nothing: every call is cold."""
        self._keeps = False
        self.reset()
        return self

    def reset(self) -> None:
        """Forget the last surface: the next call is cold."""
        self.report = None
        self._start: BandLattice | None = None  # of a warm call
        self._samples = 0
        self._warm_calls = 0

    @torch.no_grad()
    def sample(
        self, field: Field, level: float | Tensor = 0.0, progress: Progress | None = None
    ) -> BrickGrid:
        """Return the samples around a field's level set.

        Args:
            field: A callable (P, 3) -> (P,), called under ``torch.no_grad`` and the caller's
                autocast, in chunks.
            level: The level, a number or a tensor of shape ().
            progress: Called with the number of points done and of all points of the lattice at
                hand, after each chunk.

        Raises:
            ValueError: If samples contradict the bound, if the field returns another shape than
                (P,), or NaN at every sample, or if it moved to another device.
        """
        if isinstance(level, Tensor) and level.dim() != 0:
            raise ValueError(
                f"narrow_band: level must be a number or of shape (), got {tuple(level.shape)}"
            )
        at = float(level)
        if math.isnan(at):
            raise ValueError("narrow_band: level must be a number, got nan")
        run = BandRun(self, field, at, progress)
        start, samples = self._start, self._samples
        if start is not None and start.values.device != run.evaluator.device:
            raise ValueError(
                f"narrow_band: field must stay on {start.values.device}, got one on "
                f"{run.evaluator.device}; call reset() to start anew"
            )
        self._start, self.report = None, None  # a field that raises leaves nothing half done
        refresh = self.refresh_every is not None and self._warm_calls + 1 >= self.refresh_every
        lattice = None if start is None or refresh else run.warm(start, samples)
        if lattice is None:
            lattice = run.cold()
            mode: Literal["cold", "warm"] = "cold"
            self._warm_calls = 0
        else:
            mode = "warm"
            self._warm_calls += 1
        if self._keeps:  # masks, no values: the caller may change those
            self._start = run.start(lattice)
            self._samples = lattice.sample_count()
        bound = run.bound if mode == "cold" else None
        self.report = BandReport(
            mode, run.evaluator.queries, tuple(run.queries), len(lattice.values), bound
        )
        x, y, z = lattice.nodes
        lower, spacing, pad = self.box.lower, self.box.spacing, int(self.close_boundary)
        first = (
            lower[0] - pad * spacing[0],
            lower[1] - pad * spacing[1],
            lower[2] - pad * spacing[2],
        )
        return BrickGrid(
            lattice.values, lattice.table, lattice.coordinates, (x, y, z), first, spacing
        )

    @property
    def cells(self) -> tuple[int, int, int]:
        """Cells of the finest lattice: those of the box, and one more on every closed side."""
        x, y, z = self.box.cells
        pad = 2 * int(self.close_boundary)
        return x + pad, y + pad, z + pad

    def axes(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Return the finest nodes' world coordinates along each axis."""
        inner = self.box.axes(dtype, device)
        if not self.close_boundary:
            return inner
        return [
            torch.cat((axis[:1] - step, axis, axis[-1:] + step))
            for axis, step in zip(inner, self.box.spacing, strict=True)
        ]
