# SPDX-License-Identifier: Apache-2.0
"""Descent on a latent code by a loss on its mesh (MeshSDF, sections 4.1 and 4.2)."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.fields import LatentField
from diffiso.ops import NarrowBand, isosurface
from diffiso.pipelines.auto_decoder import AutoDecoder, learned_surface
from diffiso.pipelines.mesh_sdf.settings import RefineSettings
from diffiso.pipelines.mesh_sdf.targets import Loss, SilhouetteTarget, Target
from diffiso.run import Processes, check_resumed, load_checkpoint, save_checkpoint, track
from diffiso.types import Mesh

# What may differ between a run and the one it resumes: none of these changes what is looked for.
_FREE = (
    *("checkpoint", "target", "reference", "output"),  # which the digest knows by their contents
    *("resume", "keep", "samples", "picture", "frames", "up", "device", "steps"),
)
_LOOK = 33  # nodes along each axis, at which a field without a surface is looked at


class Step(NamedTuple):
    """What a step found, before it moved the code.

    Attributes:
        step: Its number, from 0.
        loss: The distance that is made small; the code's penalty comes on top.
        l1: Mean absolute difference of silhouettes, or RMS distance of surfaces.
        l2: Mean squared difference of silhouettes, or mean squared distance of surfaces.
        queries: Evaluations of the network: samples and vertices.
        faces: Of the mesh; 0 where rays see the field.
        seconds: That the step took.
    """

    step: int
    loss: float
    l1: float
    l2: float
    queries: int
    faces: int
    seconds: float


@dataclass
class Refinement:
    """Where a refinement stands: everything that a checkpoint holds.

    Attributes:
        code: (L,) that the next step starts from.
        best: (L,) the code of least loss so far.
        best_loss: Its loss.
        optimizer: Adam's state; empty before the first step.
        history: Every step.
        codes: (S, L) of every step, those of the history.
    """

    code: Tensor
    best: Tensor
    best_loss: float = float("inf")
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    history: list[Step] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Return how many steps have been taken."""
        return len(self.history)

    def go_back(self, step: int, code: Tensor, optimizer: dict[str, Tensor]) -> None:
        """Take steps back.

        Args:
            step: The first of them.
            code: That it started from.
            optimizer: Adam's state before it.
        """
        self.code, self.optimizer = code, optimizer
        del self.history[step:], self.codes[step:]

    def save(self, path: Path, settings: RefineSettings, digest: str) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            {
                "kind": "refine",
                "settings": dataclasses.asdict(settings),
                "digest": digest,
                "code": self.code.detach().cpu(),
                "best": self.best.cpu(),
                "best_loss": self.best_loss,
                "optimizer": {key: value.cpu() for key, value in self.optimizer.items()},
                "history": [tuple(record) for record in self.history],
                "codes": [code.cpu() for code in self.codes],
            },
        )

    @staticmethod
    def load(path: Path, settings: RefineSettings, digest: str) -> Refinement:
        """Return the state of a checkpoint of the same run.

        Raises:
            ValueError: If it is of another run: other settings, target or network; or if the run
                has taken more steps.
        """
        found = load_checkpoint(path)
        if found.get("kind") != "refine":
            raise ValueError(f"{path}: must be a checkpoint of diffiso refine, got another")
        check_resumed(path, found["settings"], settings, _FREE)
        if found["digest"] != digest:
            raise ValueError(f"{path}: network and target must be those of the run it resumes")
        taken = len(found["history"])
        if settings.steps < taken:
            raise ValueError(
                f"{path}: steps must be at least those that the run has taken, {taken}, "
                f"got {settings.steps}"
            )
        return Refinement(
            found["code"],
            found["best"],
            found["best_loss"],
            found["optimizer"],
            [Step(*record) for record in found["history"]],
            found["codes"],
        )


def digest_of(model: AutoDecoder, *tensors: Tensor) -> str:
    """Return a digest of a network and other tensors, by which a run is known."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in (*model.state_dict().values(), *tensors):
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def refine_code(
    model: AutoDecoder,
    target: Target,
    state: Refinement,
    settings: RefineSettings,
    group: Processes,
    save: Callable[[Refinement], None],
) -> None:
    """Take the steps that a refinement lacks.

    Each extracts the code's mesh, follows the loss through its vertices back to the code, and takes
    a step of Adam. Where the last one led is looked at too: it may be the best code, or one without
    a surface. Under `torchrun` each process has its part of the target.

    Args:
        model: The network; left as it was.
        target: What to reach; this process's part.
        state: Where to go on from; changed.
        settings: How.
        group: The processes.
        save: Takes the state where it can be resumed from, and at the end.

    Raises:
        RuntimeError: If the surface vanishes, or the loss is not finite; the state is that before
            the last step that had one. Rays do not see that a surface is gone, so for them that is
            found at the end, and the last step that had one is sought among those at which the
            field is sampled anew.
    """
    code = state.code.clone().to(group.device).requires_grad_()
    optimizer = torch.optim.Adam([code], settings.learning_rate)
    if state.optimizer:
        optimizer.state[code] = {k: v.to(code.device) for k, v in state.optimizer.items()}
    # The band is made anew where a run can be resumed, so that a resumed one sees the same.
    band = NarrowBand(-1.0, 1.0, settings.resolution, device=group.device, dtype=code.dtype)
    kept: tuple[int, Tensor, dict[str, Tensor]] | None = None  # the last step that had a surface
    steps = range(state.step, settings.steps)

    def look(step: int) -> Step:
        """Return what is found at the code; where its surface is gone, go back to one that was."""
        nonlocal kept
        anew = step % settings.refresh_every == 0
        if anew:
            band.reset()
        try:
            found = _descend(model, target, code, band, settings, group, step)
            known = anew or step == steps.start
            if settings.renderer == "mesh" or (known and _has_surface(model, code, settings)):
                kept = step, state.code, state.optimizer
            elif step == settings.steps and not _has_surface(model, code, settings):
                raise RuntimeError(f"the surface vanished ({range_of(model.decoder.field(code))})")
        except (RuntimeError, ValueError) as error:
            if kept is not None:
                state.go_back(*kept)
            raise RuntimeError(f"refine: {error} at step {step}") from error
        if found.loss < state.best_loss:
            state.best, state.best_loss = code.detach().cpu().clone(), found.loss
        return found

    loop = track(steps, "refining the code", settings.steps, start=state.step)
    for step in loop:
        began = time.perf_counter()
        if step % settings.refresh_every == 0:
            save(state)
        found = look(step)
        state.codes.append(code.detach().cpu().clone())
        optimizer.step()
        state.history.append(found._replace(seconds=time.perf_counter() - began))
        state.code = code.detach().clone()
        state.optimizer = {
            key: value.detach().clone() for key, value in optimizer.state[code].items()
        }
        loop.say(f"loss {found.loss:.3g}")
    if len(steps) > 0:
        look(settings.steps)
    save(state)


@torch.no_grad()
def _has_surface(model: AutoDecoder, code: Tensor, settings: RefineSettings) -> bool:
    return len(learned_surface(model.decoder.field(code), settings.resolution).faces) > 0


def _descend(
    model: AutoDecoder,
    target: Target,
    code: Tensor,
    band: NarrowBand,
    settings: RefineSettings,
    group: Processes,
    step: int,
) -> Step:
    """Return what a step finds, with the code's gradient set."""
    field = model.decoder.field(code)
    found, queries, faces = _loss(target, field, band, settings, step)
    (grad,) = torch.autograd.grad(found.value, code)
    total = torch.stack(
        [found.value.detach(), grad.new_tensor(found.l1), grad.new_tensor(found.l2)]
    )
    shared = group.size * group.mean(torch.cat([total, grad]))
    loss, l1, l2 = shared[:3].tolist()
    group.agree(
        bool(shared.isfinite().all()),
        f"the loss must stay finite, got {loss}",
    )
    code.grad = shared[3:] + 2 * settings.code_penalty * code.detach()
    return Step(step, loss, l1, l2, queries, faces, 0.0)


def _loss(
    target: Target, field: LatentField, band: NarrowBand, settings: RefineSettings, step: int
) -> tuple[Loss, int, int]:
    """Return how far a field's surface is from the target, the queries and faces that it took."""
    if settings.renderer == "rays":
        assert isinstance(target, SilhouetteTarget)
        return *target.loss_along_rays(field), 0
    mesh = isosurface(field, law=settings.law, band=band)
    assert isinstance(mesh, Mesh)
    assert band.report is not None
    if len(mesh.faces) == 0:
        raise RuntimeError(f"the surface vanished ({range_of(field)})")
    return target.loss(mesh, step), band.report.queries + len(mesh.vertices), len(mesh.faces)


@torch.no_grad()
def range_of(field: LatentField) -> str:
    """Return between which values a field without a surface lies, in words."""
    weight = next(iter(field.decoder.parameters()))
    axis = torch.linspace(-1, 1, _LOOK, dtype=weight.dtype, device=weight.device)
    points = torch.cartesian_prod(axis, axis, axis)
    values = torch.cat([field(part) for part in torch.split(points, 8192)])
    return f"its field is {float(values.min()):.3g} to {float(values.max()):.3g} in the box"
