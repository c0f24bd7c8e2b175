# SPDX-License-Identifier: Apache-2.0
"""One call of a narrow band: cold from coarse to fine, or warm from the last surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffiso.ops._band_lattice import BandLattice, reach_of
from diffiso.ops._evaluation import FieldEvaluator
from diffiso.ops._field import Field
from diffiso.types import BRICK_SIZE, Vector3

if TYPE_CHECKING:
    from diffiso.ops.narrow_band import NarrowBand

Criterion = Callable[[Tensor, Vector3], Tensor]
Progress = Callable[[int, int], None]

_FEWEST_ACROSS = 8  # cells along the shortest axis, without a bound
_ESTIMATE_MARGIN = 1.25  # neighbours differ by less than the slope, by their angle to it
_STEEPEST_GROWTH = 3.5  # of the slopes seen: a jump's double with every lattice
_WARM_LIMIT = 3.0  # times the last samples: from there on a cold call is cheaper


class BandRun:
    """One call of `NarrowBand.sample`."""

    def __init__(
        self, band: NarrowBand, field: Field, level: float, progress: Progress | None
    ) -> None:
        self.band, self.level, self.progress = band, level, progress
        self.evaluator = FieldEvaluator(
            "narrow_band",
            field,
            band.like,
            band.memory_budget,
            band.dtype,
            band.device,
            least=BRICK_SIZE**3,
        )
        self.axes = band.axes(self.evaluator.dtype, self.evaluator.device)
        self.bound: float | None = band.lipschitz
        self.queries: list[int] = []
        self._seen = False
        self._start: BandLattice | None = None

    def cold(self) -> BandLattice:
        """Go from the coarsest lattice to the finest."""
        bounded = self.band.refine == "lipschitz"
        lattices = [self._evaluate(self._coarsest())]
        if bounded:
            self._check_bound(lattices)
        known: list[BandLattice] = []  # finer lattices of an earlier, lower bound
        while lattices[-1].stride > 1:
            lattice = self._refine(lattices[-1])
            if len(known) >= len(lattices):
                lattice = lattice.take(known[len(lattices) - 1])
            lattices.append(self._evaluate(lattice))
            if bounded and self._check_bound(lattices):
                known = lattices[1:]
                lattices = lattices[:1]
        if not self._seen:
            raise ValueError("narrow_band: field must not be NaN everywhere, got NaN everywhere")
        # With a bound that holds nothing is left to add, but for values that were rounded.
        grown = self._grow(lattices[-1], limit=math.inf)
        assert grown is not None
        return grown

    def warm(self, start: BandLattice, samples: int) -> BandLattice | None:
        """Start from the last surface; None if there is none, or it moved too far to follow."""
        if len(start.ids) == 0:
            return None
        lattice = replace(start, values=start.values.contiguous())
        grown = self._grow(self._evaluate(lattice), limit=_WARM_LIMIT * samples)
        if grown is None:
            return None
        lattice = grown.without_empty_bricks()
        crossed = lattice.reuse(self.level, None)
        if self.band.threshold is None:
            self._start = crossed
        return lattice if len(crossed.ids) > 0 else None

    def start(self, lattice: BandLattice) -> BandLattice:
        """Return where the next warm call starts, from what this call gave."""
        if self._start is not None and self._start.table is lattice.table:
            return self._start
        return lattice.reuse(self.level, self.band.threshold)

    def _grow(self, lattice: BandLattice, limit: float) -> BandLattice | None:
        """Add nodes until every crossed cell is known in full; None if they pass the limit."""
        added = 0
        while (grown := lattice.grow(self.level)) is not None:
            added += len(grown.ids)
            if added > limit:
                return None
            lattice = self._evaluate(grown)
        return lattice

    def _coarsest(self) -> BandLattice:
        cells, stride = self.band.cells, 1
        fewest = 1 if self.band.lipschitz is not None else _FEWEST_ACROSS
        while max(cells) > stride * self.band.coarsest and min(cells) >= 2 * stride * fewest:
            stride *= 2
        return BandLattice.full(cells, stride, self.evaluator.dtype, self.evaluator.device)

    def _evaluate(self, lattice: BandLattice) -> BandLattice:
        """Return the lattice with the values of the nodes that lacked one."""
        self.queries.append(len(lattice.ids))
        if len(lattice.ids) == 0:
            return lattice
        ids = lattice.ids
        if self.band.close_boundary:
            rim = lattice.on_the_rim()
            beyond, ids = ids[rim], ids[~rim]
            lattice.fill(beyond, lattice.values.new_full((len(beyond),), math.inf))
        self.queries[-1] = len(ids)
        if len(ids) == 0:
            return lattice
        results = self.evaluator.evaluate(
            lambda begin, end: lattice.points(ids[begin:end], self.axes), len(ids), self.progress
        )
        lattice = lattice.in_dtype(results.dtype)
        lattice.fill(ids, results)
        self._seen = self._seen or not bool(results.isnan().all())
        return lattice

    def _refine(self, lattice: BandLattice) -> BandLattice:
        spacing, closed = lattice.spacing(self.band.box.spacing), self.band.close_boundary
        if self.band.refine == "lipschitz":
            assert self.bound is not None
            rounding = 8 * self._rounding() * self.bound
            rounding += 4 * torch.finfo(lattice.values.dtype).eps * abs(self.level)
            reach = reach_of(spacing, self.bound, lattice.values.dtype, rounding)
            return lattice.refine(self.level, reach, None, 0, closed)
        keep = None
        if callable(self.band.refine):
            keep = lattice.choose(self.band.refine, spacing, self.level, closed)
        return lattice.refine(self.level, None, keep, self.band.dilation, closed)

    def _rounding(self) -> float:
        """Return the rounding of a coordinate, world units."""
        largest = max(abs(x) for x in (*self.band.box.lower, *self.band.box.upper))
        return largest * torch.finfo(self.evaluator.dtype).eps

    def _check_bound(self, lattices: list[BandLattice]) -> bool:
        """Hold the last lattice's samples against the bound; say whether an estimate was raised."""
        lattice = lattices[-1]
        spacing = lattice.spacing(self.band.box.spacing)
        pair = lattice.steepest_pair(spacing)
        bound = self.band.lipschitz if self.band.lipschitz is not None else self.bound
        if bound is not None and pair.slope <= bound:
            return False
        # Less what two samples are rounded by, over the distance between them.
        values = [abs(lattice.value_at(node)) for node in (pair.first, pair.second)]
        rounding = (
            4 * torch.finfo(lattice.values.dtype).eps * max(values) if pair.slope > 0 else 0.0
        )
        rounding += 16 * self._rounding() * (bound or pair.slope)
        slope = max(pair.slope - rounding / min(spacing), 0.0)
        if bound is None:
            self._first_slope = slope
            self.bound = max(_ESTIMATE_MARGIN * slope, 1e-30)  # a constant has no slope
            return False
        if slope <= bound:
            return False
        if self.band.lipschitz is None:
            if slope > _STEEPEST_GROWTH * self._first_slope:
                raise ValueError(
                    f"narrow_band: field must have a Lipschitz bound, but its samples rise by "
                    f"{self._first_slope:.3g} per world unit on the coarsest lattice, and by "
                    f"{slope:.3g} at a spacing of {max(spacing):.3g}; give lipschitz, or "
                    'refine="sign" for a field that jumps or is clamped'
                )
            self.bound = _ESTIMATE_MARGIN * slope
            return True
        first, second = (
            tuple(
                round(float(axis[n]), 6)
                for axis, n in zip(self.axes, lattice.place(node), strict=True)
            )
            for node in (pair.first, pair.second)
        )
        raise ValueError(
            f"narrow_band: lipschitz must bound the field's slope, got {bound}, but its samples "
            f"rise by {pair.slope:.6g} per world unit between {first} and {second}"
        )
