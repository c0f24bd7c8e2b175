# SPDX-License-Identifier: Apache-2.0
"""`diffiso reconstruct`: pictures and cameras in, mesh out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

import diffiso
from diffiso.io import (
    IMAGE_SUFFIXES,
    MESH_SUFFIXES,
    StrPath,
    check_output,
    load_mesh,
    save_image,
    save_mesh,
)
from diffiso.metrics import Comparison
from diffiso.pipelines.extract import describe, summarize
from diffiso.pipelines.sdfdiff.optimize import (
    State,
    digest_of,
    first_state,
    is_finished,
    optimize,
)
from diffiso.pipelines.sdfdiff.results import (
    draw_views,
    save_errors,
    save_turntable,
    score,
    surface,
    touches_rim,
)
from diffiso.pipelines.sdfdiff.settings import ReconstructSettings, check_box
from diffiso.pipelines.views import Box, Views, load_views
from diffiso.run import Report, seed_all
from diffiso.types import Grid, Mesh

_LOOK = 64  # rows of pictures, at most, that are looked at to see whether a box is right


class ReconstructResult(NamedTuple):
    """What came out.

    Attributes:
        mesh: The surface, in the coordinates that the solid came in.
        grid: The samples, in those of the cameras.
        scores: Against the reference; None without one.
        report: Path of the JSON report.
    """

    mesh: Mesh
    grid: Grid
    scores: Comparison | None
    report: Path


def reconstruct(
    settings: ReconstructSettings, say: Callable[[str], None] = print
) -> ReconstructResult:
    """Find the solid that views show, and write its mesh, pictures and a report.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If views or reference do not exist.
        ValueError: If views, box or start cannot be used, or the run to resume is another one.
        OSError: If an output cannot be written.
        RuntimeError: If the energy is not finite, or the surface vanishes.
    """
    seed_all(settings.seed)
    report = Report("reconstruct", settings)
    device = _device(settings.device)
    views, box = read_views(settings)
    files = _Files(settings, views)
    reference = None if settings.reference is None else load_mesh(settings.reference)
    has = [n for n, p in (("colours", views.intensity), ("masks", views.coverage)) if p is not None]
    height, width = views.cameras.size
    say(f"views     {len(views.names)} of {width} x {height} pixels, {' and '.join(has)}")
    report.lap("views")

    digest = digest_of(views, box)
    if settings.resume and files.checkpoint.is_file():
        state = State.load(files.checkpoint, settings, digest, device)
        say(f"resumed   at level {state.level}, update {state.step:,}")
    else:
        state = first_state(settings, views, box)
        state.grid = state.grid.to(device)
    optimize(state, settings, views, lambda: state.save(files.checkpoint, settings, digest))
    report.lap("optimization")
    report.metrics["optimization_seconds"] = state.seconds
    say(f"optimized {_times(state.grid)} samples; {state.seconds:.0f} s")

    mesh = surface(state.grid, views)
    if touches_rim(state.grid):
        say("warning   the solid reaches the rim of the box, and is cut off there")
    report.metrics |= describe(mesh) | {"nodes": list(state.grid.values.shape)}
    report.metrics["energies"] = [record._asdict() for record in state.history]
    say(f"surface   {summarize(mesh)}")
    report.files += [str(save_mesh(files.output, mesh)), str(files.checkpoint)]
    scores = None
    if reference is not None:
        scores = score(mesh, reference, settings.samples)
        report.metrics |= scores.as_dict()
        say(scores.table())
    report.lap("scores")
    if settings.picture:
        _write_pictures(settings, files, report, state.grid, views, mesh, reference)
    report.files.append(str(files.report))
    report.write(files.report)
    say(f"wrote     {', '.join(report.files)}")
    return ReconstructResult(
        mesh,
        Grid(state.grid.values.detach(), state.grid.lower, state.grid.spacing),
        scores,
        files.report,
    )


def read_views(settings: ReconstructSettings) -> tuple[Views, Box]:
    """Return the views, lit as the settings say, and the box that holds the solid.

    Raises:
        FileNotFoundError: If there are no views.
        ValueError: If they cannot be used, or the box is unknown.
    """
    views = load_views(settings.views, settings.use, srgb=settings.srgb)
    if settings.strength is not None:
        views = replace(views, strength=settings.strength)
    if settings.falloff is not None:
        views = replace(views, falloff=settings.falloff)
    box = settings.corners() or views.box
    if box is None:
        raise ValueError(
            f"{settings.views}: box must be given, as a setting or in the camera file, got none"
        )
    check_box(f"{settings.views}: box", box)
    _check_terms(settings, views)
    if not _is_shown(views, box):
        raise ValueError(f"{settings.views}: box must hold what pictures show, got {box}")
    return views, box


def _check_terms(settings: ReconstructSettings, views: Views) -> None:
    """Raise a ValueError where no term of the energy looks at the pictures."""
    images = views.intensity is not None and settings.energy.image > 0
    masks = views.coverage is not None and settings.energy.mask > 0
    if not images and not masks:
        there = "colours" if views.coverage is None else "masks"
        there = there if views.intensity is None or views.coverage is None else "colours and masks"
        raise ValueError(
            f"{settings.views}: energy must weigh what the views have, got {there}, with weights "
            f"{settings.energy.image:g} of image and {settings.energy.mask:g} of mask"
        )


def _is_shown(views: Views, box: Box) -> bool:
    """Return whether any pixel that shows something looks into the box."""
    height, width = views.cameras.size
    shrink = min(1.0, _LOOK / height)
    small = views.resized((max(1, int(shrink * height)), max(1, int(shrink * width))))
    shown = small.intensity if small.coverage is None else small.coverage
    assert shown is not None
    solid = Grid.from_bounds(torch.full((2, 2, 2), -1.0), *box)
    hits = diffiso.trace(solid, cameras=small.cameras, inside="start", capture=False)
    return bool((hits.hit & (shown > 0)).any())


class _Files:
    """What is written, found to be writable, and to be none of what is read."""

    def __init__(self, settings: ReconstructSettings, views: Views) -> None:
        inputs: list[StrPath] = [*views.files]
        if settings.reference is not None:
            inputs.append(settings.reference)

        def checked(path: StrPath, suffixes: Sequence[str] = ()) -> Path:
            return check_output(path, suffixes, inputs=inputs)

        self.output = checked(settings.output, MESH_SUFFIXES)
        folder = self.output.resolve().parent
        if folder in [path.resolve().parent for path in views.files[1:]]:
            raise ValueError(
                f"{self.output}: output must be in another folder than the pictures, where its "
                "own would be taken for one"
            )
        stem = self.output.with_suffix("")
        self.report = checked(self.output.with_suffix(".json"))
        self.checkpoint = checked(self.output.with_suffix(".pt"))
        self.sheet = checked(self.output.with_suffix(".png"), IMAGE_SUFFIXES)
        self.turntable = checked(self.output.with_suffix(".gif"))
        self.errors = checked(stem.with_name(f"{stem.name}-errors.ply"), MESH_SUFFIXES)
        if self.checkpoint.is_file() and not settings.resume and not is_finished(self.checkpoint):
            raise ValueError(
                f"{self.checkpoint}: output must be without the checkpoint of a run that is not "
                "finished, or resume be set to go on"
            )


def _write_pictures(
    settings: ReconstructSettings,
    files: _Files,
    report: Report,
    grid: Grid,
    views: Views,
    mesh: Mesh,
    reference: Mesh | None,
) -> None:
    """Write the sheet, the turntable and, where there is a reference, the coloured mesh."""
    sheet = draw_views(grid, views, settings.rendering, f"{_times(grid)} samples")
    report.files.append(str(save_image(files.sheet, sheet)))
    report.files.append(str(save_turntable(files.turntable, mesh, settings.up)))
    if reference is not None:
        vertices = reference.vertices
        end = 0.01 * float((vertices.amax(dim=0) - vertices.amin(dim=0)).max())
        report.files.append(str(save_errors(files.errors, mesh, reference, end)))
        report.metrics["color_scale_end"] = end
    report.lap("pictures")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("reconstruct: device cuda needs a CUDA device, got none")
    return torch.device(name)


def _times(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.values.shape)
