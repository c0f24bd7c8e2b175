# SPDX-License-Identifier: Apache-2.0
"""`diffiso train`: one network and a latent code a shape for a folder of meshes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diffiso import plots
from diffiso.io import check_output, check_output_folder, save_image, save_mesh
from diffiso.pipelines.auto_decoder.data import (
    MeshFolder,
    check_apart,
    read_mesh_folder,
    shared_samples,
)
from diffiso.pipelines.auto_decoder.model import CHECKPOINT, AutoDecoder
from diffiso.pipelines.auto_decoder.results import ShapeResult, draw_results, judge, summarize
from diffiso.pipelines.auto_decoder.settings import TrainSettings
from diffiso.pipelines.auto_decoder.training import TrainState, steps_of, train_steps
from diffiso.run import Processes, Report, processes, track


class TrainResult(NamedTuple):
    """What came out.

    Attributes:
        model: Decoder and codes.
        results: Every shape's surface and its distance from the mesh.
        report: Path of the JSON report.
    """

    model: AutoDecoder
    results: list[ShapeResult]
    report: Path


def train(settings: TrainSettings, say: Callable[[str], None] = print) -> TrainResult | None:
    """Learn a folder of meshes and write checkpoint, meshes, pictures and a report.

    Under `torchrun` the processes share every shape's points; the first one writes and speaks.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Returns:
        What came out; None in every process but the first.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no mesh can be used, a setting is not possible, the output lies within the
            source, or the run to resume is another one.
        OSError: If an output cannot be written.
        RuntimeError: If the loss or a weight is not finite.
    """
    output = Path(settings.output)
    checkpoint = output / CHECKPOINT
    report = Report("train", settings)
    with processes(settings.device) as group:
        tell = say if group.is_first else lambda line: None
        with group.together():
            if group.is_first:
                _check(settings)
            if settings.points_per_shape < group.size:
                raise ValueError(
                    "train: points_per_shape must be at least one for each process, "
                    f"got {settings.points_per_shape} for {group.size}"
                )
            folder = read_mesh_folder(settings.source, settings.normalize, tell)
            tell(f"shapes    {len(folder.shapes)} of {settings.source}")
        state = _learn(settings, folder, checkpoint, group, tell, report)
    if not group.is_first:
        return None
    model = state.model.to("cpu").eval()
    report.metrics["losses"] = [tuple(record) for record in state.history]
    curve = plots.save_curves(output / "loss.png", state.history, "step", "mean loss")
    report.files += [str(checkpoint), str(curve)]
    results = []
    for shape in track(folder.shapes, "extracting shapes"):
        result = judge(
            model.field(shape.name),
            shape,
            settings.resolution,
            settings.distance_samples,
            settings.seed,
        )
        path = output / "shapes" / f"{shape.name}.ply"
        report.files.append(str(save_mesh(path, shape.frame.inverse().mesh(result.mesh))))
        results.append(result)
    report.lap("extraction")
    report.metrics |= summarize(results) | {
        "skipped": folder.skipped,
        "distances": {
            r.shape.name: None if r.distance is None else r.distance.as_dict() for r in results
        },
    }
    mean = report.metrics["mean_rms_share_of_side"]
    title = f"{len(results)} shapes"
    if mean is not None:
        title += f", mean RMS {100 * mean:.3f}% of the longest side"
    tell(f"distance  {title}")
    picture = save_image(output / "shapes.png", draw_results(results, up=settings.up, title=title))
    report.files.append(str(picture))
    report.lap("pictures")
    path = report.write(output / "report.json")
    tell(f"wrote     {output}/: {CHECKPOINT}, loss.png, shapes.png, shapes/, report.json")
    return TrainResult(model, results, path)


def _check(settings: TrainSettings) -> None:
    """Find before the work starts what would stop it in the end."""
    output = check_output_folder(settings.output)
    for name in (CHECKPOINT, "loss.png", "shapes.png", "report.json"):
        check_output(output / name)
    for name in ("samples", "shapes"):
        check_output_folder(output / name)
    check_apart(output, Path(settings.source))
    if (output / CHECKPOINT).is_file() and not settings.resume:
        raise ValueError(
            f"{output / CHECKPOINT}: output must be a folder without a checkpoint, "
            "or resume be set to go on"
        )


def _learn(
    settings: TrainSettings,
    folder: MeshFolder,
    checkpoint: Path,
    group: Processes,
    tell: Callable[[str], None],
    report: Report,
) -> TrainState:
    """Return the state after the last step, saved."""
    place = checkpoint.parent / "samples"
    samples = shared_samples(folder.shapes, settings.samples, place, settings.seed, group)
    tell(f"samples   {settings.samples.count:,} a shape; {report.lap('samples'):.0f} s")
    digests = [shape.digest for shape in folder.shapes]
    state = TrainState.start(settings, folder.shapes, group.device)
    with group.together():
        if settings.resume and checkpoint.is_file():
            state.load(checkpoint, settings, digests)
            tell(f"resumed   at step {state.step:,}")

    def save() -> None:
        if group.is_first:
            state.save(checkpoint, settings, digests)

    train_steps(state, samples.to(group.device), settings, group, save)
    steps, _ = steps_of(settings, len(folder.shapes))
    last = f", loss {state.history[-1].loss:.2e}" if state.history else ""
    tell(f"learned   {steps:,} steps{last}; {report.lap('training'):.0f} s")
    return state
