# SPDX-License-Identifier: Apache-2.0
"""The training loop of the auto-decoder, and what a checkpoint holds.

Every draw depends on the seed and the step alone, so a run that was stopped and resumed gives the
same numbers as one that was not, and several processes the same as one but for the order of sums.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffiso.losses import clamped_l1
from diffiso.pipelines.auto_decoder.data import TrainingShape
from diffiso.pipelines.auto_decoder.model import AutoDecoder
from diffiso.pipelines.auto_decoder.settings import TrainSettings
from diffiso.run import (
    Processes,
    check_resumed,
    load_checkpoint,
    save_checkpoint,
    step_choice,
    step_generator,
    step_seed,
    track,
)

_STEPS = 4000  # unless told otherwise
_RECORD_EVERY = 50  # steps between looks at the loss, each of which waits for the device
_SAVE_EVERY = 20.0  # seconds between checkpoints
_WARM_UP = 100  # steps until the cosine schedule is at its largest rate
# What may differ between a run and the one it resumes: none of these changes what is learned.
_FREE = ("source", "output", "resume", "resolution", "distance_samples", "up", "device")


class LossRecord(NamedTuple):
    """The mean loss since the last record."""

    step: int
    loss: float


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    model: AutoDecoder
    decoder_optimizer: torch.optim.Optimizer
    code_optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[LossRecord] = field(default_factory=list)

    @staticmethod
    def start(
        settings: TrainSettings, shapes: list[TrainingShape], device: torch.device
    ) -> TrainState:
        """Return the state before the first step, which the seed decides."""
        torch.manual_seed(settings.seed)
        names, frames = [shape.name for shape in shapes], [shape.frame for shape in shapes]
        model = AutoDecoder(settings.decoder, names, frames, settings.normalize)
        deviation = settings.code_deviation / math.sqrt(settings.decoder.latent_size)
        nn.init.normal_(model.codes.weight, std=deviation)
        model.codes.limit_norms(settings.code_norm)  # so that no step moves codes of other shapes
        model.to(device)
        # Adam for sparse gradients: a code rests, momentum and all, while its shape does.
        return TrainState(
            model,
            torch.optim.Adam(model.decoder.parameters(), settings.learning_rate, fused=True),
            torch.optim.SparseAdam([model.codes.weight], settings.code_learning_rate),
        )

    def save(self, path: Path, settings: TrainSettings, digests: list[str]) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            {
                "kind": "auto_decoder",
                "settings": dataclasses.asdict(settings),
                "names": self.model.names,
                "frames": [(list(f.center), f.scale) for f in self.model.frames],
                "digests": digests,
                "model": self.model.state_dict(),
                "decoder_optimizer": self.decoder_optimizer.state_dict(),
                "code_optimizer": self.code_optimizer.state_dict(),
                "step": self.step,
                "history": [tuple(record) for record in self.history],
            },
        )

    def load(self, path: Path, settings: TrainSettings, digests: list[str]) -> None:
        """Take up a checkpoint of the same run.

        Raises:
            ValueError: If it is of another run: other settings, other shapes, another network.
        """
        found = load_checkpoint(path)
        if found.get("kind") != "auto_decoder":
            raise ValueError(f"{path}: must be a checkpoint of diffiso train, got another")
        check_resumed(path, found["settings"], settings, _FREE)
        if found["names"] != self.model.names or found["digests"] != digests:
            changed = set(zip(found["names"], found["digests"], strict=True)) ^ set(
                zip(self.model.names, digests, strict=True)
            )
            raise ValueError(
                f"{path}: shapes must be those of the run it resumes, "
                f"got others: {', '.join(sorted({name for name, _ in changed}))}"
            )
        self.model.load_state_dict(found["model"])
        self.decoder_optimizer.load_state_dict(found["decoder_optimizer"])
        self.code_optimizer.load_state_dict(found["code_optimizer"])
        self.step = found["step"]
        self.history = [LossRecord(*record) for record in found["history"]]


def steps_of(settings: TrainSettings, shapes: int) -> tuple[int, int]:
    """Return the number of steps of a run, and how many of them are an epoch."""
    an_epoch = math.ceil(shapes / min(shapes, settings.shapes_per_batch))
    if settings.epochs is not None:
        return settings.epochs * an_epoch, an_epoch
    return (_STEPS if settings.steps is None else settings.steps), an_epoch


def rate(settings: TrainSettings, step: int, steps: int, epoch: int) -> float:
    """Return the share of its largest value that the learning rate has at a step."""
    if settings.schedule == "halving":
        return 0.5 ** (step // epoch // settings.halve_every)
    warm = min(1.0, (step + 1) / min(_WARM_UP, steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def draw_batch(
    samples: Tensor, inside: Tensor, settings: TrainSettings, step: int
) -> tuple[Tensor, Tensor]:
    """Return the shapes of a step and points with signed distances of each.

    Shapes come from one permutation an epoch.

    Args:
        samples: (S, N, 4), ordered by distance.
        inside: (S,) how many of a shape's samples are negative.
        settings: Seed and sizes.
        step: Which step.

    Returns:
        (B,) int64 indices of shapes, and (B, P, 4).
    """
    batch = min(len(samples), settings.shapes_per_batch)
    ids = torch.tensor(step_choice(len(samples), batch, step, settings.seed, 1))
    generator = step_generator(settings.seed, 2, step)
    points = draw_points(samples, inside, ids, settings.points_per_shape, generator)
    return ids.to(samples.device), points


def draw_points(
    samples: Tensor, inside: Tensor, ids: Tensor, points: int, generator: torch.Generator
) -> Tensor:
    """Return points with signed distances of some shapes, (B, P, 4).

    Half of a shape's points lie inside, half outside, where it has both.

    Args:
        samples: (S, N, 4), ordered by distance.
        inside: (S,) how many of a shape's samples are negative, on the CPU.
        ids: (B,) indices of shapes, on the CPU.
        points: How many of each, P.
        generator: Source of the draws.
    """
    count = samples.shape[1]
    draws = torch.rand(len(ids), points, generator=generator)
    half = points // 2
    negative = inside[ids][:, None].double()
    split = torch.where((negative > 0) & (negative < count), negative, count)
    first = draws[:, :half].double() * split
    second = torch.where(split < count, split, 0) + draws[:, half:].double() * torch.where(
        split < count, count - split, count
    )
    index = torch.cat([first, second], dim=1).long().clamp(max=count - 1)
    return samples[ids[:, None].to(samples.device), index.to(samples.device)]


def train_steps(
    state: TrainState,
    samples: Tensor,
    settings: TrainSettings,
    group: Processes,
    save: Callable[[], None],
) -> None:
    """Take all steps that are left.

    Args:
        state: Where the run stands; moved on.
        samples: (S, N, 4) points and signed distances, ordered by distance.
        settings: How to learn.
        group: The processes that share the work: each takes its part of every shape's points.
        save: Writes a checkpoint.

    Raises:
        RuntimeError: If the loss or a weight is not finite; what was saved before stays.
    """
    inside = (samples[..., 3] < 0).sum(dim=1).cpu()
    steps, an_epoch = steps_of(settings, len(samples))
    decoder = state.model.decoder.train()
    group.broadcast(list(state.model.parameters()))
    table = state.model.codes.weight
    total, since = torch.zeros((), device=samples.device), state.step
    saved = time.monotonic()
    progress = track(range(state.step, steps), "learning shapes", start=state.step, total=steps)
    for step in progress:
        share = rate(settings, step, steps, an_epoch)
        for optimizer, largest in (
            (state.decoder_optimizer, settings.learning_rate),
            (state.code_optimizer, settings.code_learning_rate),
        ):
            for parameters in optimizer.param_groups:
                parameters["lr"] = largest * share
        ids, batch = draw_batch(samples, inside, settings, step)
        batch = batch[:, group.rank :: group.size]
        # The mean over processes shall be that over all points, however these are parted.
        part = batch.shape[1] * group.size / settings.points_per_shape
        codes = table[ids].detach().requires_grad_()
        ramp = min(1.0, step / an_epoch / settings.code_ramp) if settings.code_ramp else 1.0
        # The dropout of a step, too, depends on the seed and the step alone.
        torch.manual_seed(step_seed(settings.seed, step, group.rank))
        error = clamped_l1(decoder(batch[..., :3], codes), batch[..., 3], settings.clamp or None)
        loss = part * error + settings.code_penalty * ramp * codes.square().sum(dim=1).mean()
        state.decoder_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        assert codes.grad is not None
        group.mean_gradients(decoder.parameters())
        rows = group.mean(codes.grad)
        table.grad = torch.sparse_coo_tensor(
            ids[None], rows, table.shape, is_coalesced=True, check_invariants=False
        )
        state.decoder_optimizer.step()
        state.code_optimizer.step()
        if settings.code_norm is not None:
            state.model.codes.limit_norms(settings.code_norm)
        total += loss.detach()
        state.step = step + 1
        if state.step % _RECORD_EVERY == 0 or state.step == steps:
            mean = float(group.mean(total)) / (state.step - since)
            if not math.isfinite(mean):
                raise RuntimeError(
                    f"train: the loss must stay finite, got {mean} near step {state.step}; "
                    "a smaller learning_rate may help"
                )
            state.history.append(LossRecord(state.step, mean))
            total.zero_()
            since = state.step
            progress.say(f"loss {mean:.2e}")
            if time.monotonic() - saved > _SAVE_EVERY:
                _check_weights(state)
                save()
                saved = time.monotonic()
    _check_weights(state)
    save()


def _check_weights(state: TrainState) -> None:
    """Refuse weights that are not finite: a last step can break them with a loss still finite."""
    for name, weight in state.model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise RuntimeError(
                f"train: weights must stay finite, got {name} that is not at step {state.step}; "
                "a smaller learning_rate may help"
            )
