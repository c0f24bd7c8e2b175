# SPDX-License-Identifier: Apache-2.0
"""Which views an update looks at, when a level is over, and how fine its pictures are."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from diffiso.camera import Camera
from diffiso.pipelines.views import Box
from diffiso.run import check_settings
from diffiso.types import Vector3


@dataclass(frozen=True)
class ScheduleSettings:
    """Which views an update looks at, and when a level is over.

    Attributes:
        kind: "batches" goes through all views in random order, some a step; "greedy" is SDFDiff's,
            one view at a time, those with large losses longer.
        steps: Batches: steps of each level, the last number for all that follow.
        views: Batches: views of a step, at most all.
        updates_above: Greedy: most updates of a view whose loss is above the average.
        updates: Greedy: most updates of another view.
        tolerance: Greedy: a level is over when the views' losses sum to less.
        gain: Greedy: or when a cycle through all views gains less than this in their sum.
        gain_growth: Greedy: what that is multiplied by at each level.
        relative_gain: Greedy: or less than this share of the sum.
        cycles: Greedy: most cycles of a level.
    """

    kind: Literal["batches", "greedy"] = "batches"
    steps: tuple[int, ...] = (200, 200, 200, 500)
    views: int = 8
    updates_above: int = 20
    updates: int = 5
    tolerance: float = 0.0
    gain: float = 0.0
    gain_growth: float = 1.0
    relative_gain: float = 0.01
    cycles: int = 20

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=("views", "updates_above", "updates", "gain_growth", "cycles"),
            not_negative=("steps", "tolerance", "gain", "relative_gain"),
        )
        if not self.steps:
            raise ValueError("ScheduleSettings: steps must be at least one number, got none")

    def steps_of(self, level: int) -> int:
        """Return the steps of a level, of batches."""
        return self.steps[min(level, len(self.steps) - 1)]


@dataclass
class Greedy:
    """SDFDiff's schedule of one level, one view at a time (section 5.2).

    First every view's loss is measured. Then views take turns. One whose loss was above the average
    of all in the cycle before is updated until it is below, at most `updates_above` times; another
    one `updates` times; and a turn ends at once when an update made the loss larger. The level is
    over when a cycle gains too little, which stands for the paper's "step length is too small", or
    the losses are small enough.

    Ask `view` which view to render, tell :meth:`judge` its loss, and update if that says so.

    Attributes:
        settings: How many updates, and when to stop.
        level: Which level.
        losses: Last loss of each view, in order; while they are measured, of those that were.
        view: The view whose turn it is.
        cycle: Cycles that are complete; -1 while losses are measured.
        average: What the losses of this cycle are compared with.
        above: Whether this turn's view was above it.
        most: Updates that this turn may have.
        taken: Updates of this turn so far.
        last: Loss before the last update of this turn.
        total: Sum of all losses before this cycle.
        done: Whether the level is over.
    """

    settings: ScheduleSettings
    level: int
    count: int
    losses: list[float] = field(default_factory=list)
    view: int = 0
    cycle: int = -1
    average: float = math.inf
    above: bool = False
    most: int = 0
    taken: int = 0
    last: float = math.inf
    total: float = math.inf
    done: bool = False

    def judge(self, loss: float) -> bool:
        """Take the loss of `view` and return whether to update; if not, `view` is another one.

        Args:
            loss: Of the view as it is now.
        """
        if self.cycle < 0:
            self.losses.append(loss)
            self._next()
            return False
        if self.taken == 0:
            self.above = self.losses[self.view] > self.average
            self.most = self.settings.updates_above if self.above else self.settings.updates
        rose, below = loss > self.last, self.above and loss < self.average
        self.losses[self.view] = loss
        if rose or below or self.taken == self.most:
            self._next()
            return False
        self.taken += 1
        self.last = loss
        return True

    def _next(self) -> None:
        """Go on to the next view, and after the last one judge the cycle."""
        self.taken, self.last = 0, math.inf
        self.view += 1
        if self.view < self.count:
            return
        self.view = 0
        self.cycle += 1
        total = math.fsum(self.losses)
        least = self.settings.gain * self.settings.gain_growth**self.level
        least += self.settings.relative_gain * abs(self.total) if self.cycle > 0 else 0.0
        small = total < self.settings.tolerance
        slow = self.cycle > 0 and self.total - total < least
        self.done = small or slow or self.cycle >= self.settings.cycles
        self.average, self.total = total / self.count, total

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {k: v for k, v in vars(self).items() if k not in ("settings", "level", "count")}

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        for key, value in state.items():
            setattr(self, key, list(value) if isinstance(value, list) else value)


def picture_size(
    cameras: Camera, box: Box, spacing: Vector3, pixels: float = 2.0
) -> tuple[int, int]:
    """Return the size of pictures that goes with a grid's spacing (SDFDiff, section 5.2).

    A ball whose radius is the spacing, at the corner of the box that is farthest from the camera,
    shall appear at most so many pixels wide: `2 f h / d <= pixels`, for every camera.

    Args:
        cameras: With pictures of the size that there is; what is returned is no larger.
        box: Lower and upper corner of the grid.
        spacing: Of the grid; the largest counts.
        pixels: The paper's are 2.

    Returns:
        Height and width, at least 1, with the same ratio as there is.

    Example:
        >>> from diffiso.camera import sdfdiff_rig
        >>> picture_size(sdfdiff_rig(512), ((-2.0,) * 3, (2.0,) * 3), (4 / 63,) * 3)
        (137, 137)
    """
    corners = torch.tensor(list(itertools.product(*zip(*box, strict=True))), dtype=torch.float64)
    centers = cameras.centers.detach().cpu().double()
    farthest = torch.cdist(centers, corners).amax(dim=1)
    focal = cameras.focal.detach().cpu().double().amax(dim=1)
    share = min(1.0, float((pixels * farthest / (2 * max(spacing) * focal)).min()))
    height, width = (max(1, math.floor(side * share + 1e-6)) for side in cameras.size)
    return height, width
