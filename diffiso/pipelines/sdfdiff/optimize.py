# SPDX-License-Identifier: Apache-2.0
"""The loop of a reconstruction: levels from coarse to fine, updates, and what a checkpoint holds.

Every draw depends on the seed, the level and the step alone, so that a run that was stopped and
resumed gives the same numbers as one that was not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffiso.ops import sample_grid
from diffiso.pipelines.sdfdiff.energy import Energy, energy
from diffiso.pipelines.sdfdiff.levels import (
    cleaned,
    node_counts,
    redistanced,
    refined,
    refined_optimizer,
    smoothed,
    sphere,
    visual_hull,
)
from diffiso.pipelines.sdfdiff.schedule import Greedy, picture_size
from diffiso.pipelines.sdfdiff.settings import ReconstructSettings
from diffiso.pipelines.views import Box, Views
from diffiso.run import check_resumed, load_checkpoint, save_checkpoint, step_choice, track
from diffiso.types import Grid

_RECORD_EVERY = 10  # updates between looks at the energy
_SAVE_EVERY = 20.0  # seconds between checkpoints
_SAY_EVERY = 10.0  # seconds between lines where there is no terminal
# What may differ between a run and the one it resumes: none of these changes what is looked for.
_FREE = ("views", "output", "reference", "resume", "samples", "picture", "up", "device")


class Record(NamedTuple):
    """The energy and its terms at an update."""

    level: int
    step: int
    total: float
    image: float
    mask: float
    eikonal: float
    laplacian: float


@dataclass
class State:
    """Where a reconstruction stands: everything that a checkpoint holds.

    Attributes:
        grid: The samples, (X, Y, Z).
        moments: Adam's state; empty before the first update.
        level: Which level.
        step: Updates of this level so far.
        greedy: State of the greedy schedule; None at the start of a level.
        history: Energies, every some updates.
        seconds: What updates have taken so far.
        done: Whether all levels are over.
    """

    grid: Grid
    moments: dict[str, Tensor] = field(default_factory=dict)
    level: int = 0
    step: int = 0
    greedy: dict[str, Any] | None = None
    history: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False

    def save(self, path: Path, settings: ReconstructSettings, digest: str) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            {
                "kind": "sdfdiff",
                "settings": dataclasses.asdict(settings),
                "digest": digest,
                "values": self.grid.values.detach().cpu(),
                "lower": self.grid.lower,
                "spacing": self.grid.spacing,
                "moments": {key: value.cpu() for key, value in self.moments.items()},
                "level": self.level,
                "step": self.step,
                "greedy": self.greedy,
                "history": [tuple(record) for record in self.history],
                "seconds": self.seconds,
                "done": self.done,
            },
        )

    @staticmethod
    def load(path: Path, settings: ReconstructSettings, digest: str, device: torch.device) -> State:
        """Return the state of a checkpoint of the same run.

        Raises:
            ValueError: If it is of another run: other settings, other views.
        """
        found = load_checkpoint(path)
        if found.get("kind") != "sdfdiff":
            raise ValueError(f"{path}: must be a checkpoint of diffiso reconstruct, got another")
        check_resumed(path, found["settings"], settings, _FREE)
        if found["digest"] != digest:
            raise ValueError(f"{path}: views must be those of the run it resumes, got others")
        return State(
            Grid(found["values"].to(device), found["lower"], found["spacing"]),
            {key: value.to(device) for key, value in found["moments"].items()},
            found["level"],
            found["step"],
            found["greedy"],
            [Record(*record) for record in found["history"]],
            found["seconds"],
            found["done"],
        )


def is_finished(path: Path) -> bool:
    """Return whether a checkpoint is that of a reconstruction that came to its end.

    Raises:
        ValueError: If the file is none of these.
    """
    found = load_checkpoint(path)
    if found.get("kind") != "sdfdiff":
        raise ValueError(f"{path}: must be a checkpoint of diffiso reconstruct, got another")
    return bool(found["done"])


def digest_of(views: Views, box: Box) -> str:
    """Return a fingerprint of what a run goes by."""
    found = hashlib.sha256(repr((box, views.strength, views.falloff)).encode())
    cameras = views.cameras
    for part in (
        cameras.rotation,
        cameras.translation,
        cameras.focal,
        cameras.principal,
        views.intensity,
        views.coverage,
    ):
        found.update(b"none" if part is None else part.contiguous().numpy().tobytes())
    return found.hexdigest()


def first_state(settings: ReconstructSettings, views: Views, box: Box) -> State:
    """Return the state before the first update.

    With masks the default is to start from the visual hull: it has the handles that show as holes
    in a picture, which a sphere must first be pierced for, and no update needs to remove what no
    mask covers. Without, from a sphere, as the paper does.

    Args:
        settings: Where to start.
        views: Pictures of their full size, on the CPU.
        box: Lower and upper corner.

    Raises:
        ValueError: If there are no masks for a hull, the hull is empty, or a camera is inside the
            solid to start from.
    """
    start = settings.start
    if start == "auto":
        start = "hull" if views.coverage is not None else "sphere"
    if start == "hull":
        if views.coverage is None:
            raise ValueError("reconstruct: start hull needs masks, got views without")
        grid = redistanced(visual_hull(views, box, settings.nodes[0]))
        if not bool((grid.values < 0).any()):
            raise ValueError(
                "reconstruct: box and masks must leave a solid where all masks overlap, got none "
                f"on {settings.nodes[0]} nodes; another box, more nodes or start sphere may help"
            )
    else:
        grid = sphere(box, settings.nodes[0], settings.start_radius)
    inside = sample_grid(grid, views.cameras.centers).sdf < 0
    if bool(inside.any()):
        which = int(inside.nonzero()[0])
        raise ValueError(
            f"reconstruct: cameras must be outside the {start} to start from, got camera {which} "
            f"({views.names[which]}) at {views.cameras.centers[which].tolist()}"
        )
    return State(grid)


def optimize(
    state: State,
    settings: ReconstructSettings,
    views: Views,
    save: Callable[[], None],
) -> None:
    """Take all updates that are left.

    Args:
        state: Where the run stands; moved on.
        settings: How to go on.
        views: Pictures of their full size, on the CPU.
        save: Writes a checkpoint.

    Raises:
        RuntimeError: If the energy is not finite or the surface vanishes; what was saved before
            stays.
    """
    total, done = None, state.step
    if settings.schedule.kind == "batches":
        steps = [settings.schedule.steps_of(level) for level in range(len(settings.nodes))]
        total, done = sum(steps), sum(steps[: state.level]) + state.step
    begun = saved = time.monotonic() - state.seconds
    progress = track(
        _updates(state, settings, views), "reconstructing", total, start=done, every=_SAY_EVERY
    )
    for _ in progress:
        state.seconds = time.monotonic() - begun
        if state.history:
            progress.say(f"{settings.nodes[state.level]}^3, energy {state.history[-1].total:.3g}")
        if time.monotonic() - saved > _SAVE_EVERY:
            check_state(state)
            save()
            saved = time.monotonic()
    save()


def check_state(state: State) -> None:
    """Raise a RuntimeError where a run cannot go on: without a surface, or with what is no number.

    Args:
        state: Where the run stands.
    """
    where = f"at update {state.step} of level {state.level}"
    values = state.grid.values.detach()
    if not bool(values.isfinite().all()):
        raise RuntimeError(
            f"reconstruct: samples must stay finite, got others {where}; a smaller "
            "learning_rate may help"
        )
    if not bool((values < 0).any()):
        raise RuntimeError(
            f"reconstruct: the surface vanished {where}; a smaller learning_rate, another box or "
            "start may help"
        )


def level_views(grid: Grid, settings: ReconstructSettings, views: Views) -> Views:
    """Return the views with pictures as fine as a grid wants them."""
    if settings.picture_size is None:
        box = grid.lower, grid.upper
        size = picture_size(views.cameras, box, grid.spacing, settings.pixels)
    else:
        share = min(1.0, settings.picture_size / views.cameras.size[0])
        height, width = (max(1, round(side * share)) for side in views.cameras.size)
        size = height, width
    return views.resized(size)


def _updates(state: State, settings: ReconstructSettings, views: Views) -> Iterator[None]:
    """Take updates, level by level, and yield after each."""
    # Terms keep their balance whatever the brightness; the paper's sums are taken as they are.
    white = 1.0
    if views.intensity is not None and settings.energy.reduction == "mean":
        white = float(views.intensity.max())
    while not state.done:
        targets = level_views(state.grid, settings, views).to(state.grid.values.device)
        yield from _Level(state, settings, targets, white).updates()
        check_state(state)
        if state.level + 1 < len(settings.nodes):
            _refine(state, settings)
        else:
            state.grid = cleaned(state.grid) if settings.optimizer.redistance else state.grid
            state.done = True


def _refine(state: State, settings: ReconstructSettings) -> None:
    """Go to the next level: a finer grid, and Adam's moments on it."""
    state.level, state.step, state.greedy = state.level + 1, 0, None
    box = state.grid.lower, state.grid.upper
    shape = node_counts(box, settings.nodes[state.level])
    state.grid = Grid.from_bounds(refined(state.grid.values.detach(), shape), *box)
    if settings.optimizer.redistance:
        state.grid = redistanced(cleaned(state.grid))
    keep = settings.optimizer.carry and state.moments
    state.moments = refined_optimizer(state.moments, shape) if keep else {}


class _Level:
    """The updates of one level."""

    def __init__(
        self, state: State, settings: ReconstructSettings, views: Views, white: float
    ) -> None:
        self.state, self.settings, self.views, self.white = state, settings, views, white
        self.last = state.level + 1 == len(settings.nodes)
        self.values = state.grid.values.detach().clone().requires_grad_()
        state.grid = Grid(self.values, state.grid.lower, state.grid.spacing)
        chosen = settings.optimizer
        self.rate = chosen.learning_rate / chosen.level_decay**state.level
        if chosen.unit == "cells":
            self.rate *= max(state.grid.spacing)
        self.adam = torch.optim.Adam(
            [self.values], self.rate, betas=chosen.betas, eps=chosen.epsilon
        )
        if state.moments:
            self.adam.state[self.values] = state.moments

    def updates(self) -> Iterator[None]:
        """Take the updates that are left, and yield after each."""
        if self.settings.schedule.kind == "greedy":
            return self._greedy()
        return self._batches()

    def _batches(self) -> Iterator[None]:
        state, schedule = self.state, self.settings.schedule
        steps = schedule.steps_of(state.level)
        for step in range(state.step, steps):
            share = 0.5 * (1 + math.cos(math.pi * step / steps))
            self.adam.param_groups[0]["lr"] = self.rate * (
                share if self.settings.optimizer.cosine else 1.0
            )
            count = len(self.views.cameras)
            batch = min(count, schedule.views)
            which = step_choice(count, batch, step, self.settings.seed, 1, state.level)
            self._update(self._energy(which, step / steps))
            every = self.settings.optimizer.redistance_every
            if every and state.step % every == 0:
                self._redistance()
            yield

    def _greedy(self) -> Iterator[None]:
        state = self.state
        greedy = Greedy(self.settings.schedule, state.level, len(self.views.cameras))
        if state.greedy is not None:
            greedy.load(state.greedy)
        while not greedy.done:
            found = self._energy([greedy.view])
            if greedy.judge(float(found.total.detach())):
                self._update(found)
            state.greedy = greedy.state()
            yield

    def _energy(self, which: list[int], done: float = 0.0) -> Energy:
        """Return the energy of some views, after this share of the level, where that is known."""
        settings = self.settings
        return energy(
            self.state.grid,
            self.views.select(which),
            settings.energy,
            settings.rendering.at(self.state.level, self.state.step, last=self.last, done=done),
            white=self.white,
        )

    def _update(self, found: Energy) -> None:
        """Take one step of Adam."""
        state = self.state
        (gradient,) = torch.autograd.grad(found.total, self.values)
        self.values.grad = smoothed(gradient, self.settings.optimizer.smoothing)
        self.adam.step()
        state.moments = self.adam.state[self.values]
        if state.step % _RECORD_EVERY == 0:
            check_state(state)
            record = Record(state.level, state.step, *(float(term.detach()) for term in found))
            state.history.append(record)
        state.step += 1

    @torch.no_grad()
    def _redistance(self) -> None:
        grid = Grid(self.values.detach(), self.state.grid.lower, self.state.grid.spacing)
        self.values.copy_(redistanced(cleaned(grid)).values)
