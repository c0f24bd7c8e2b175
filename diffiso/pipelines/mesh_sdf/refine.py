# SPDX-License-Identifier: Apache-2.0
"""`diffiso refine`: a latent code moved until its mesh fits silhouettes or a surface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso import plots, view
from diffiso.io import MESH_SUFFIXES, check_output, save_gif, save_image, save_mesh
from diffiso.metrics import surface_distance
from diffiso.ops import silhouette
from diffiso.pipelines.auto_decoder import AutoDecoder, TrainingShape, learned_surface
from diffiso.pipelines.extract import describe, summarize
from diffiso.pipelines.mesh_sdf.refinement import (
    Refinement,
    digest_of,
    range_of,
    refine_code,
)
from diffiso.pipelines.mesh_sdf.settings import RefineSettings
from diffiso.pipelines.mesh_sdf.targets import Loaded, SilhouetteTarget, Target, load_target
from diffiso.run import Processes, Report, processes, seed_all, track
from diffiso.types import Mesh

_SIDE = 320  # pixels of pictures
_LOOK = 64  # cells, at which learned shapes are tried as starts
_FRAME_CELLS = 128  # of the animation's meshes at most: as fine as its pixels


class RefineResult(NamedTuple):
    """What came out.

    Attributes:
        code: (L,) the code that was kept.
        mesh: Its surface, in the coordinates that the target came in.
        state: Every step, and the best code.
        report: Path of the JSON report.
    """

    code: Tensor
    mesh: Mesh
    state: Refinement
    report: Path


def refine(settings: RefineSettings, say: Callable[[str], None] = print) -> RefineResult | None:
    """Move a latent code and write its mesh, pictures and a report.

    Under `torchrun` the processes share the views, or draw points of their own; the first one
    writes and speaks.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Returns:
        What came out; None in every process but the first.

    Raises:
        FileNotFoundError: If network, target or reference do not exist.
        ValueError: If they cannot be used, or the run to resume is another one.
        OSError: If an output cannot be written.
        RuntimeError: If the surface vanishes; the last state that had one is saved, and the
            message tells its step.
    """
    seed_all(settings.seed)
    report = Report("refine", settings)
    with processes(settings.device) as group:
        tell = say if group.is_first else lambda line: None
        with group.together():
            model = AutoDecoder.load(settings.checkpoint).to(group.device)
            model.requires_grad_(False)
            tell(f"decoder   {settings.checkpoint}: {len(model.names)} shapes")
            if settings.start_shape is not None and settings.start_shape not in model.names:
                raise ValueError(
                    f"refine: start_shape must be one of {', '.join(model.names)}, "
                    f"got {settings.start_shape}"
                )
            loaded = load_target(settings, model)
            files = _Files(settings, loaded, group)
            tell(f"target    {_describe(loaded)}")
        report.lap("target")
        state = _run(settings, model, loaded, files, group, tell)
        report.lap("refinement")
    if not group.is_first:
        return None
    return _write(settings, model.to("cpu"), loaded, files, state, report, tell)


def _run(
    settings: RefineSettings,
    model: AutoDecoder,
    loaded: Loaded,
    files: _Files,
    group: Processes,
    tell: Callable[[str], None],
) -> Refinement:
    target = loaded.target.to(group.device).part(group.rank, group.size)
    digest = digest_of(model, *_tensors(loaded))

    def save(state: Refinement) -> None:
        if group.is_first:
            state.save(files.checkpoint, settings, digest)

    state: Refinement | None = None
    with group.together():
        if group.is_first and settings.resume and files.checkpoint.is_file():
            state = Refinement.load(files.checkpoint, settings, digest)
            tell(f"resumed   at step {state.step}")
    state = group.share(state)
    if state is None:
        name = settings.start_shape or _best_start(model, target, group)
        tell(f"start     {name}")
        start = model.codes.weight[model.index(name)].detach().cpu().clone()
        state = Refinement(start, start.clone())
    try:
        refine_code(model, target, state, settings, group, save)
    except RuntimeError:
        save(state)
        raise
    best = min(state.history, key=lambda record: record.loss)
    last = state.history[-1]
    tell(f"refined   loss {state.history[0].loss:.4g} to {last.loss:.4g}, best {best.loss:.4g}")
    return state


@torch.no_grad()
def _best_start(model: AutoDecoder, target: Target, group: Processes) -> str:
    """Return the learned shape whose mesh is nearest to the target, of which each has a part."""
    losses = []
    with group.together():
        for name in track(model.names, "looking at learned shapes"):
            mesh = learned_surface(model.field(name), _LOOK)
            has_any = len(mesh.faces) > 0
            losses.append(float(target.loss(mesh, 0).value) if has_any else float("inf"))
    return model.names[int(group.mean(torch.tensor(losses, device=group.device)).argmin())]


def _tensors(loaded: Loaded) -> list[Tensor]:
    target = loaded.target
    if isinstance(target, SilhouetteTarget):
        return [target.coverage, target.cameras.projection_matrices]
    return [target.mesh.vertices, target.mesh.faces]


def _describe(loaded: Loaded) -> str:
    target = loaded.target
    if isinstance(target, SilhouetteTarget):
        count, height, width = target.coverage.shape
        return f"{count} silhouettes of {width} x {height} pixels"
    return summarize(target.mesh)


class _Files:
    """What is written, found to be writable, and to be none of what is read."""

    def __init__(self, settings: RefineSettings, loaded: Loaded, group: Processes) -> None:
        inputs = list(loaded.files)
        self.output = check_output(settings.output, MESH_SUFFIXES, inputs=inputs)
        self.report, self.checkpoint, self.sheet, self.animation = (
            check_output(self.output.with_suffix(suffix), inputs=inputs)
            for suffix in (".json", ".pt", ".png", ".gif")
        )
        stem = self.output.with_suffix("")
        self.curve = check_output(stem.with_name(f"{stem.name}-loss.png"), inputs=inputs)
        if group.is_first and self.checkpoint.is_file() and not settings.resume:
            raise ValueError(
                f"{self.checkpoint}: output must be without the checkpoint of another run, "
                "or resume be set to go on"
            )


@torch.no_grad()
def _write(
    settings: RefineSettings,
    model: AutoDecoder,
    loaded: Loaded,
    files: _Files,
    state: Refinement,
    report: Report,
    tell: Callable[[str], None],
) -> RefineResult:
    code = state.best if settings.keep == "best" else state.code.cpu()
    inner = surface(model, code, settings.resolution)
    if len(inner.faces) == 0:  # which rays do not see
        raise RuntimeError(
            f"refine: the {settings.keep} code has no surface "
            f"({range_of(model.decoder.field(code))}); keep chooses which is written"
        )
    mesh = loaded.frame.inverse().mesh(Mesh(inner.vertices.double(), inner.faces))
    final = loaded.target.loss(inner, 0)
    report.metrics |= describe(mesh) | {
        "code": code.tolist(),
        "steps": [record._asdict() for record in state.history],
        "best_loss": state.best_loss,
        "final": {"l1": final.l1, "l2": final.l2},
    }
    tell(f"surface   {summarize(mesh)}; l2 {final.l2:.6f}")
    if loaded.reference is not None:
        distance = surface_distance(
            mesh,
            loaded.frame.inverse().mesh(loaded.reference.mesh),
            settings.samples,
            torch.Generator().manual_seed(settings.seed),
        )
        report.metrics["distance"] = distance.as_dict()
        tell(f"distance  {distance}")
    report.files += [str(save_mesh(files.output, mesh)), str(files.checkpoint)]
    losses = {name: [(r.step, getattr(r, name)) for r in state.history] for name in ("l1", "l2")}
    report.files.append(str(plots.save_curves(files.curve, losses, "step", "distance")))
    if settings.picture:
        sheet = draw_result(model, loaded, state, code, settings)
        report.files.append(str(save_image(files.sheet, sheet)))
        frames = draw_steps(model, loaded.reference, inner, state, settings)
        report.files.append(str(save_gif(files.animation, frames)))
        report.lap("pictures")
    report.files.append(str(files.report))
    report.write(files.report)
    tell(f"wrote     {', '.join(report.files)}")
    return RefineResult(code, mesh, state, files.report)


@torch.no_grad()
def surface(model: AutoDecoder, code: Tensor, resolution: int) -> Mesh:
    """Return the closed surface of a code, in the network's frame."""
    return learned_surface(model.decoder.field(code), resolution)


def draw_result(
    model: AutoDecoder, loaded: Loaded, state: Refinement, code: Tensor, settings: RefineSettings
) -> view.Image:
    """Return a sheet: start and end beside the target, as silhouettes and as surfaces."""
    images, captions = [], []
    meshes = {
        "start": surface(model, state.codes[0], settings.resolution),
        "refined": surface(model, code, settings.resolution),
    }
    target = loaded.target
    if isinstance(target, SilhouetteTarget):
        camera = target.cameras[0]
        shown = {"target": target.coverage[0]}
        shown |= {name: silhouette(mesh, camera)[0] for name, mesh in meshes.items()}
        for name, picture in shown.items():
            shrink = _SIDE / max(picture.shape)
            small = torch.nn.functional.interpolate(
                picture[None, None].float(), scale_factor=shrink, mode="area"
            )
            images.append(view.grey_image(small[0, 0]))
            captions.append(f"{name}, silhouette")
    solids = dict(meshes)
    if loaded.reference is not None:
        solids = {"target": loaded.reference.mesh, **meshes}
    looks = next(iter(solids.values())).vertices
    seen_from = view.fit_view(looks, up=settings.up)
    size = images[0].shape[:2] if images else (_SIDE, _SIDE)
    for name, mesh in solids.items():
        images.append(view.render(mesh, seen_from, size=(size[0], size[1])))
        captions.append(name)
    return view.contact_sheet(images, captions, columns=3)


def draw_steps(
    model: AutoDecoder,
    reference: TrainingShape | None,
    final: Mesh,
    state: Refinement,
    settings: RefineSettings,
) -> list[view.Image]:
    """Return pictures of the surface on its way, as frames of an animation."""
    last, count = state.step - 1, min(settings.frames, state.step)
    chosen = sorted({last - round(k * last / max(count - 1, 1)) for k in range(count)})
    looks = final if reference is None else reference.mesh
    seen_from = view.fit_view(looks.vertices, up=settings.up)
    frames = []
    for step in track(chosen, "drawing steps"):
        mesh = surface(model, state.codes[step], min(settings.resolution, _FRAME_CELLS))
        if len(mesh.faces) > 0:  # rays do not see that it is gone
            caption = f"step {step}, loss {state.history[step].loss:.4f}"
            frames.append(_frame(mesh, seen_from, caption))
    return frames + [_frame(final, seen_from, f"the {settings.keep} code")] * 8


def _frame(mesh: Mesh, seen_from: view.View, caption: str) -> view.Image:
    return view.contact_sheet([view.render(mesh, seen_from, size=_SIDE)], [caption])
