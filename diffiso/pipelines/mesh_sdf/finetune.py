# SPDX-License-Identifier: Apache-2.0
"""`diffiso finetune`: a network's weights moved by the distance of its meshes (MeshSDF, 8.5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffiso import plots
from diffiso.io import check_output, check_output_folder, save_image, save_mesh
from diffiso.losses import chamfer, clamped_l1, surface_loss
from diffiso.ops import NarrowBand, isosurface
from diffiso.pipelines.auto_decoder import (
    AutoDecoder,
    ShapeResult,
    TrainingShape,
    judge,
    read_mesh_folder,
)
from diffiso.pipelines.auto_decoder.data import check_apart, shared_samples
from diffiso.pipelines.auto_decoder.model import CHECKPOINT, checkpoint_file
from diffiso.pipelines.auto_decoder.results import draw_results, summarize
from diffiso.pipelines.auto_decoder.training import draw_points
from diffiso.pipelines.mesh_sdf.refinement import digest_of, range_of
from diffiso.pipelines.mesh_sdf.settings import FinetuneSettings
from diffiso.proximity import SurfaceTree
from diffiso.run import (
    Processes,
    Report,
    check_resumed,
    load_checkpoint,
    processes,
    save_checkpoint,
    seed_all,
    step_choice,
    step_generator,
    track,
)
from diffiso.types import Mesh

_CLAMP = 0.1  # of signed distances: DeepSDF's
_WARM_UP = 50  # steps: Adam's first ones are as long as its rate, whatever the gradient
# What may differ between a run and the one it resumes: none of these changes what is learned.
_FREE = ("checkpoint", "source", "output", "resume", "distance_samples", "up", "device")


class FinetuneResult(NamedTuple):
    """What came out.

    Attributes:
        model: Decoder and codes.
        before: Every shape's surface before, and its distance from the mesh.
        after: The same afterwards.
        report: Path of the JSON report.
    """

    model: AutoDecoder
    before: list[ShapeResult]
    after: list[ShapeResult]
    report: Path


@dataclass
class FinetuneState:
    """Where a run stands.

    Attributes:
        model: Decoder and codes.
        optimizer: Adam, of the decoder's weights.
        code_optimizer: The same of the codes that a step sees.
        history: (step, mean loss of its shapes).
    """

    model: AutoDecoder
    optimizer: torch.optim.Optimizer
    code_optimizer: torch.optim.Optimizer
    history: list[tuple[int, float]] = field(default_factory=list)

    @staticmethod
    def start(model: AutoDecoder, settings: FinetuneSettings) -> FinetuneState:
        """Return the state before the first step."""
        weights = torch.optim.Adam(model.decoder.parameters(), settings.learning_rate)
        rate = settings.code_learning_rate or 1.0  # where codes rest, nothing is stepped
        return FinetuneState(model, weights, torch.optim.SparseAdam([model.codes.weight], rate))

    def save(self, path: Path, settings: FinetuneSettings, digests: list[str]) -> None:
        """Write a checkpoint, which all that reads one of `diffiso train` reads too."""
        model = self.model
        learned = {
            "decoder": dataclasses.asdict(model.decoder.settings),
            "normalize": model.normalize,
        }
        save_checkpoint(
            path,
            {
                "kind": "finetune",
                "settings": learned,
                "finetune": dataclasses.asdict(settings),
                "names": model.names,
                "frames": [(list(f.center), f.scale) for f in model.frames],
                "digests": digests,
                "model": model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "code_optimizer": self.code_optimizer.state_dict(),
                "history": self.history,
            },
        )

    def load(self, path: Path, settings: FinetuneSettings, digests: list[str]) -> None:
        """Take up a checkpoint of the same run.

        Raises:
            ValueError: If it is of another run: other settings, other shapes.
        """
        found = load_checkpoint(path)
        if found.get("kind") != "finetune":
            raise ValueError(f"{path}: must be a checkpoint of diffiso finetune, got another")
        check_resumed(path, found["finetune"], settings, _FREE)
        if found["digests"] != digests:
            raise ValueError(
                f"{path}: network and shapes must be those of the run it resumes, got others"
            )
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.code_optimizer.load_state_dict(found["code_optimizer"])
        self.history = [(step, loss) for step, loss in found["history"]]


def finetune(
    settings: FinetuneSettings, say: Callable[[str], None] = print
) -> FinetuneResult | None:
    """Move a network's weights and codes, and write checkpoint, meshes, pictures and a report.

    Under `torchrun` the processes share the shapes of each step; the first one writes and speaks.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Returns:
        What came out; None in every process but the first.

    Raises:
        FileNotFoundError: If there is no such network or folder.
        ValueError: If the folder lacks shapes that the network knows, or the run to resume is
            another one.
        OSError: If an output cannot be written.
        RuntimeError: If a surface vanishes or the loss is not finite; what was saved before stays.
    """
    seed_all(settings.seed)
    output = Path(settings.output)
    checkpoint = output / CHECKPOINT
    report = Report("finetune", settings)
    with processes(settings.device) as group:
        tell = say if group.is_first else lambda line: None
        with group.together():
            if group.is_first:
                _check(settings)
            model = AutoDecoder.load(settings.checkpoint)
            shapes = learned_shapes(model, settings, tell)
            tell(f"decoder   {settings.checkpoint}: {len(shapes)} shapes of {settings.source}")
        digests = [digest_of(model), *(shape.digest for shape in shapes)]
        state = FinetuneState.start(model.to(group.device), settings)
        with group.together():
            if settings.resume and checkpoint.is_file():
                state.load(checkpoint, settings, digests)
                tell(f"resumed   at step {len(state.history)}")

        def save() -> None:
            if group.is_first:
                state.save(checkpoint, settings, digests)

        samples = None
        if settings.sdf_weight > 0:
            place = output / "samples"
            samples = shared_samples(shapes, settings.samples, place, settings.seed, group)
            samples = samples.to(group.device)
            tell(f"samples   {settings.samples.count:,} a shape; {report.lap('samples'):.0f} s")
        finetune_steps(state, shapes, settings, group, save, samples)
        tell(f"learned   {settings.steps} steps; {report.lap('steps'):.0f} s")
    if not group.is_first:
        return None
    # Only now, when no other process waits for this one.
    start = AutoDecoder.load(settings.checkpoint)
    before = [_judge(start, shape, settings) for shape in track(shapes, "judging the start")]
    tell(f"before    {_in_words(before)}")
    model = state.model.to("cpu").eval()
    after = [_judge(model, shape, settings) for shape in track(shapes, "judging")]
    tell(f"after     {_in_words(after)}")
    report.lap("distances")
    report.metrics["losses"] = state.history
    report.metrics["before"], report.metrics["after"] = summarize(before), summarize(after)
    files = [checkpoint, plots.save_curves(output / "loss.png", state.history, "step", "loss")]
    for result in after:
        mesh = result.shape.frame.inverse().mesh(result.mesh)
        files.append(save_mesh(output / "shapes" / f"{result.shape.name}.ply", mesh))
    picture = draw_results(after, up=settings.up, title=_in_words(after))
    files.append(save_image(output / "shapes.png", picture))
    report.files += [str(path) for path in files]
    path = report.write(output / "report.json")
    tell(f"wrote     {output}/: {CHECKPOINT}, loss.png, shapes.png, shapes/, report.json")
    return FinetuneResult(model, before, after, path)


def learned_shapes(
    model: AutoDecoder, settings: FinetuneSettings, say: Callable[[str], None]
) -> list[TrainingShape]:
    """Return the meshes of the shapes that a network knows, in its order and its frames.

    Raises:
        ValueError: If the folder lacks one.
    """
    there = {
        shape.name: shape
        for shape in read_mesh_folder(settings.source, model.normalize, say).shapes
    }
    missing = [name for name in model.names if name not in there]
    if missing:
        raise ValueError(
            f"{settings.source}: source must hold the {len(model.names)} shapes that were learned, "
            f"got none named {missing[0]}"
        )
    return [there[name] for name in model.names]


def finetune_steps(
    state: FinetuneState,
    shapes: list[TrainingShape],
    settings: FinetuneSettings,
    group: Processes,
    save: Callable[[], None],
    samples: Tensor | None = None,
) -> None:
    """Take the steps that are left: MeshSDF, Eq. 15 and 16.

    Each extracts the meshes of some shapes, and follows their distance from what they should be
    through their vertices back to the weights.

    Args:
        state: Where the run stands; moved on.
        shapes: What the network knows, in its order.
        settings: How to learn.
        group: The processes that share the work: each takes some shapes of every step.
        save: Writes a checkpoint.
        samples: (S, N, 4) points and signed distances of the shapes, ordered by distance; only
            where these have a weight, and then they must be there.

    Raises:
        ValueError: If they are there without a weight, or missing with one.
        RuntimeError: If a surface vanishes or the loss is not finite; what was saved before stays:
            a surface may be gone long before its turn comes.
    """
    if (samples is None) != (settings.sdf_weight == 0):
        raise ValueError(
            "finetune_steps: samples must be given where sdf_weight is positive, and only there, "
            f"got {settings.sdf_weight:g} {'without' if samples is None else 'with'} samples"
        )
    model = state.model
    decoder = model.decoder.eval()  # without dropout: a surface that jitters has no gradient
    table = model.codes.weight
    batch = min(settings.shapes_per_step, len(shapes))
    inside = None if samples is None else (samples[..., 3] < 0).sum(dim=1).cpu()
    seen: dict[str, _Seen] = {}
    steps = range(len(state.history), settings.steps)
    loop = track(steps, "fine-tuning", settings.steps, start=len(state.history))
    for step in loop:
        warm = min(1.0, (step + 1) / min(_WARM_UP, settings.steps))
        share = warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        _set_rates(state, settings, share)
        if step % settings.refresh_every == 0:
            seen.clear()  # where a run can be resumed, so that a resumed one sees the same
            save()
        ids = torch.tensor(step_choice(len(shapes), batch, step, settings.seed, 8))
        codes = table[ids.to(table.device)].detach().requires_grad_()
        state.optimizer.zero_grad(set_to_none=True)
        total, trouble = torch.zeros((), device=table.device), ""
        for place in range(group.rank, len(ids), group.size):
            shape = shapes[int(ids[place])]
            generator = step_generator(settings.seed, 9, step, place)
            try:
                if shape.name not in seen:
                    seen[shape.name] = _Seen.of(shape, settings, codes)
                loss = _distance(model, codes[place], shape, seen[shape.name], settings, generator)
                if samples is not None and inside is not None:
                    one = ids[place : place + 1]
                    points = draw_points(samples, inside, one, settings.sdf_points, generator)
                    values = decoder(points[..., :3], codes[place : place + 1])
                    loss = loss + settings.sdf_weight * clamped_l1(values, points[..., 3], _CLAMP)
                # The mean over processes shall be that over the shapes of the step.
                loss = loss * group.size / len(ids)
                torch.autograd.backward(loss)
            except (RuntimeError, ValueError) as error:
                trouble = f"finetune: {error} at step {step}"
                break
            total = total + loss.detach()
        group.agree(not trouble, trouble)
        mean = float(group.mean(total))
        group.agree(
            math.isfinite(mean), f"finetune: the loss must stay finite, got {mean} at step {step}"
        )
        group.mean_gradients(decoder.parameters())
        state.optimizer.step()
        if settings.code_learning_rate > 0:
            rows = codes.grad if codes.grad is not None else torch.zeros_like(codes)
            table.grad = torch.sparse_coo_tensor(
                ids[None].to(table.device),
                group.mean(rows),
                table.shape,
                check_invariants=False,
            ).coalesce()
            state.code_optimizer.step()
        state.history.append((step, mean))
        loop.say(f"loss {mean:.2e}")
    save()


class _Seen(NamedTuple):
    """What steps keep of a shape: near which nodes its surface was, and what it should be."""

    band: NarrowBand
    target: SurfaceTree

    @staticmethod
    def of(shape: TrainingShape, settings: FinetuneSettings, like: Tensor) -> _Seen:
        target = Mesh(shape.mesh.vertices.to(like), shape.mesh.faces.to(like.device))
        return _Seen(
            NarrowBand(-1.0, 1.0, settings.resolution, device=like.device, dtype=like.dtype),
            SurfaceTree(target),
        )


def _distance(
    model: AutoDecoder,
    code: Tensor,
    shape: TrainingShape,
    seen: _Seen,
    settings: FinetuneSettings,
    generator: torch.Generator,
) -> Tensor:
    """Return how far a code's mesh is from the mesh that it stands for."""
    latent = model.decoder.field(code)
    mesh = isosurface(latent, law=settings.law, band=seen.band)
    assert isinstance(mesh, Mesh)
    if len(mesh.faces) == 0:
        raise RuntimeError(f"the surface of {shape.name} vanished ({range_of(latent)})")
    points = seen.target.mesh.sample(settings.surface_points, generator).points
    if settings.metric == "surface":
        return surface_loss(mesh, seen.target, points, generator, reach=settings.reach)
    return chamfer(mesh.sample(settings.surface_points, generator).points, points)


def _set_rates(state: FinetuneState, settings: FinetuneSettings, share: float) -> None:
    pairs: list[tuple[torch.optim.Optimizer, float]] = [
        (state.optimizer, settings.learning_rate),
        (state.code_optimizer, settings.code_learning_rate),
    ]
    for optimizer, largest in pairs:
        for parameters in optimizer.param_groups:
            parameters["lr"] = max(largest * share, 1e-12)


def _judge(model: AutoDecoder, shape: TrainingShape, settings: FinetuneSettings) -> ShapeResult:
    latent = model.field(shape.name)
    samples = settings.distance_samples
    return judge(latent, shape, settings.resolution, samples, settings.seed)


def _in_words(results: list[ShapeResult]) -> str:
    found: dict[str, Any] = summarize(results)
    if found["mean_rms_share_of_side"] is None:
        return f"{found['shapes']} shapes without a surface"
    mean = f"mean RMS {100 * found['mean_rms_share_of_side']:.3f}% of the longest side"
    lost = found["without_surface"]
    return f"{found['shapes']} shapes, {mean}" + (f", {lost} without a surface" if lost else "")


def _check(settings: FinetuneSettings) -> None:
    """Find before the work starts what would stop it in the end."""
    output = check_output_folder(settings.output)
    for name in (CHECKPOINT, "loss.png", "shapes.png", "report.json"):
        check_output(output / name, inputs=[checkpoint_file(settings.checkpoint)])
    for name in ("samples", "shapes"):
        check_output_folder(output / name)
    check_apart(output, Path(settings.source))
    if (output / CHECKPOINT).is_file() and not settings.resume:
        raise ValueError(
            f"{output / CHECKPOINT}: output must be a folder without a checkpoint, "
            "or resume be set to go on"
        )
