# SPDX-License-Identifier: Apache-2.0
"""A network fine-tuned through its meshes.

A network learns 64 chairs, or cars, from signed distances for 40,000 steps whose rate falls to
zero twice. From there on it learns by the distance of its meshes (MeshSDF, supplementary 8.5) and,
a little, by signed distances; or, for as many seconds of the processor, by signed distances alone,
at a rate of 5e-4 that falls to zero again. All of them also find the codes of 16 shapes that none
has seen: from signed distances as DeepSDF does, from there on through meshes, or, for as many
seconds, from signed distances on. Meshes are judged at the resolution that they are delivered at,
where they were fine-tuned, and at twice that. Meshes and networks, to go on with, stay in DIR/runs.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import diffiso
from diffiso import Mesh, io, plots, shapes, view
from diffiso.extras import require
from diffiso.fields import DecoderSettings, LatentField
from diffiso.metrics import PROTOCOLS, surface_distance
from diffiso.pipelines.auto_decoder import (
    AutoDecoder,
    EncodeSettings,
    SampleSettings,
    TrainingShape,
    TrainSettings,
    find_code,
    learned_surface,
    read_mesh_folder,
)
from diffiso.pipelines.auto_decoder.data import cached_samples
from diffiso.pipelines.auto_decoder.training import TrainState, train_steps
from diffiso.pipelines.mesh_sdf import (
    FinetuneSettings,
    FinetuneState,
    Refinement,
    RefineSettings,
    SurfaceTarget,
    refine_code,
)
from diffiso.pipelines.mesh_sdf.finetune import finetune_steps
from diffiso.proximity import closest_points
from diffiso.run import load_checkpoint, processes, save_checkpoint, track

Row = dict[str, Any]

FAMILIES = {"chairs": shapes.chairs, "cars": shapes.cars}
RUNS = [(family, seed) for seed in range(3) for family in FAMILIES]
LEARNED, UNSEEN = 64, 16  # shapes
TRUE_CELLS = 128  # of the shapes themselves
CELLS = 64  # of the meshes that are delivered
POINTS = 50_000  # on each surface, for distances
WIDTH = 64  # of a network that cannot learn them all to the last detail
STEPS = 28_000
RESTART, RESTART_STEPS = 1e-3, 12_000  # which finds some parts that were lost
ENCODE_STEPS, ENCODE_STARTS = 800, 8  # by points, to find a code: DeepSDF's
CODE_STEPS = 80  # and through meshes, from there on
RATE = 5e-4  # at which plain training goes on
CHAMFER = "chamfer_squared_30k"
DRAWN = 3  # shapes of each family
WORST_COLOR = 0.005  # of the longest side
SAMPLES = SampleSettings(100_000)  # as near as thin parts need: DeepSDF's lose them
FINETUNE = FinetuneSettings(
    "",
    "",
    steps=300,
    learning_rate=3e-4,
    resolution=CELLS,
    surface_points=4096,
    reach=0.1,
    sdf_weight=1e-3,
    samples=SAMPLES,
)
REFINE = RefineSettings(
    "", "", steps=CODE_STEPS, learning_rate=1e-2, resolution=CELLS, surface_points=4096, reach=0.1
)


class Learned(NamedTuple):
    """A network, what it took and what its loss was."""

    model: AutoDecoder
    seconds: float  # of the processor
    losses: list[tuple[int, float]]


class Score(NamedTuple):
    """How far a surface is from the mesh that it stands for."""

    rms: float  # as a share of the longest side
    chamfer: float | None


class Family:
    """The shapes of one run, and the networks that learn them."""

    def __init__(self, folder: Path, family: str, seed: int) -> None:
        self.folder, self.seed = folder / "runs" / f"{family}-{seed}", seed
        solids = FAMILIES[family](LEARNED + UNSEEN, torch.Generator().manual_seed(seed))
        for index, solid in enumerate(track(solids, f"making {family}")):
            place = "learned" if index < LEARNED else "unseen"
            path = self.folder / place / f"{index:03d}.ply"
            if not path.is_file():
                with torch.no_grad():
                    mesh = diffiso.isosurface(solid, -1.0, 1.0, TRUE_CELLS, dtype=torch.float64)
                assert isinstance(mesh, Mesh)
                io.save_mesh(path, mesh)
        self.learned, self.unseen = (
            read_mesh_folder(self.folder / place).shapes for place in ("learned", "unseen")
        )
        cache = self.folder / "samples"
        self.samples = cached_samples(self.learned, SAMPLES, cache, seed)
        found_from_afar = EncodeSettings("", "").samples
        self.unseen_samples = cached_samples(self.unseen, found_from_afar, cache, seed)

    def settings(self) -> TrainSettings:
        decoder = DecoderSettings(
            latent_size=32, width=WIDTH, depth=4, skips=(), frequencies=5, weight_norm=False
        )
        return TrainSettings("", decoder=decoder, samples=SAMPLES, steps=STEPS, seed=self.seed)

    def learn(self, name: str, settings: TrainSettings, start: AutoDecoder | None) -> Learned:
        """Return a network trained on signed distances, from scratch or from another one on."""
        path, digests = self.folder / f"{name}.pt", [shape.digest for shape in self.learned]
        state = TrainState.start(settings, self.learned, torch.device("cpu"))
        if start is not None:
            state.model.load_state_dict(start.state_dict())
        if path.is_file():
            state.load(path, settings, digests)
        clock = Clock(self.folder / f"{name}-seconds.pt", state.step == settings.steps)

        def save() -> None:
            state.save(path, settings, digests)
            clock.save()

        with processes("cpu") as group:
            train_steps(state, self.samples, settings, group, save)
        return Learned(state.model.eval(), clock.seconds, [(r.step, r.loss) for r in state.history])

    def baseline(self) -> Learned:
        """Return a network whose loss is flat: its rate falls to zero twice."""
        first = self.learn("first", self.settings(), None)
        again = self.more(RESTART_STEPS, RESTART, self.seed + 2000)
        found = self.learn("base", again, first.model)
        losses = [*first.losses, *((STEPS + step, loss) for step, loss in found.losses)]
        return Learned(found.model, first.seconds + found.seconds, losses)

    def more(self, steps: int, learning_rate: float, seed: int) -> TrainSettings:
        """Return how to train on, by the seed on other points than those it has seen."""
        return replace(
            self.settings(),
            steps=steps,
            learning_rate=learning_rate,
            code_learning_rate=2 * learning_rate,
            seed=seed,
        )

    def finetune(self, start: AutoDecoder, settings: FinetuneSettings) -> Learned:
        """Return a network that learned on by the distance of its meshes."""
        path, digests = self.folder / "tuned.pt", [shape.digest for shape in self.learned]
        model = copy_of(start)
        state = FinetuneState.start(model, settings)
        if path.is_file():
            state.load(path, settings, digests)
        clock = Clock(self.folder / "tuned-seconds.pt", len(state.history) == settings.steps)

        def save() -> None:
            state.save(path, settings, digests)
            clock.save()

        with processes("cpu") as group:
            finetune_steps(state, self.learned, settings, group, save, self.samples)
        return Learned(model.eval(), clock.seconds, state.history)

    def scores(self, model: AutoDecoder, cells: int) -> list[Score]:
        """Return the scores of all shapes that were learned."""
        fields = [model.field(shape.name) for shape in self.learned]
        pairs = zip(track(fields, "judging"), self.learned, strict=True)
        return [score(field, shape, cells, cells == CELLS) for field, shape in pairs]

    def codes_of_unseen(self, model: AutoDecoder, steps: int) -> tuple[list[Tensor], float]:
        """Return codes of the others by their signed distances, and seconds of the processor."""
        settings = EncodeSettings("", "", steps=steps, points=2048, starts=ENCODE_STARTS)
        began = time.process_time()
        codes = [find_code(model, samples, settings) for samples in self.unseen_samples]
        return codes, time.process_time() - began

    def codes_through_meshes(
        self, model: AutoDecoder, codes: list[Tensor]
    ) -> tuple[list[Tensor], float]:
        """Return codes moved by the distance of their meshes, and seconds of the processor."""
        began, moved = time.process_time(), []
        for index, (code, shape) in enumerate(zip(codes, self.unseen, strict=True)):
            state = Refinement(code.clone(), code.clone())
            target = SurfaceTarget(shape.mesh, REFINE.surface_points, index, REFINE.reach)
            with processes("cpu") as group:
                refine_code(model, target, state, REFINE, group, lambda state: None)
            moved.append(state.best.detach().clone())
        return moved, time.process_time() - began

    def scores_of_unseen(self, model: AutoDecoder, codes: list[Tensor]) -> list[Score]:
        """Return the scores of the others."""
        pairs = zip(codes, self.unseen, strict=True)
        return [score(model.decoder.field(code), shape, CELLS) for code, shape in pairs]


class Clock:
    """The processor's seconds of a run, with those from before it was stopped.

    Attributes:
        seconds: Those that were saved last.
    """

    def __init__(self, path: Path, is_over: bool) -> None:
        self.path, self.is_over, self.began = path, is_over, time.process_time()
        self.seconds = float(load_checkpoint(path)["seconds"]) if path.is_file() else 0.0

    def save(self) -> None:
        if not self.is_over:
            now = time.process_time()
            self.seconds, self.began = self.seconds + now - self.began, now
        save_checkpoint(self.path, {"seconds": self.seconds})


def copy_of(model: AutoDecoder) -> AutoDecoder:
    again = AutoDecoder(model.decoder.settings, model.names, model.frames, model.normalize)
    again.load_state_dict(model.state_dict())
    return again


@torch.no_grad()
def score(field: LatentField, shape: TrainingShape, cells: int, chamfer_too: bool = True) -> Score:
    mesh = learned_surface(field, cells)
    if len(mesh.faces) == 0:
        return Score(math.inf, math.inf if chamfer_too else None)
    mesh = Mesh(mesh.vertices.double(), mesh.faces)
    distance = surface_distance(mesh, shape.mesh, POINTS, torch.Generator().manual_seed(0))
    if not chamfer_too:
        return Score(distance.rms / distance.side, None)
    chamfer = PROTOCOLS[CHAMFER].score(mesh, shape.mesh, torch.Generator().manual_seed(0))
    return Score(distance.rms / distance.side, chamfer.value)


def in_short(scores: Sequence[Score]) -> Row:
    chamfers = [s.chamfer for s in scores if s.chamfer is not None]
    return {
        "rms_percent_of_side": 100 * statistics.fmean(s.rms for s in scores),
        "chamfer": statistics.fmean(chamfers) if chamfers else None,
        "median_rms_percent": 100 * statistics.median(s.rms for s in scores),
        "worst_rms_percent": 100 * max(s.rms for s in scores),
    }


def finetuning_rows(run: int, folder: Path, meshes: Path) -> list[Row]:
    name, seed = RUNS[run]
    family = Family(folder, name, seed)
    base = family.baseline()
    tuned = family.finetune(base.model, replace(FINETUNE, seed=seed))
    steps = math.ceil(tuned.seconds / base.seconds * (STEPS + RESTART_STEPS))
    plain = family.learn("plain", family.more(steps, RATE, seed + 1000), base.model)
    floors = [
        PROTOCOLS[CHAMFER].limit(shape.mesh, torch.Generator().manual_seed(0))
        for shape in family.learned
    ]
    rows: list[Row] = []

    def add(network: str, found: Learned, codes: dict[str, tuple[list[Tensor], float]]) -> None:
        rows.append(
            {
                "family": name,
                "seed": seed,
                "network": network,
                "seconds": found.seconds,
                "learned": in_short(family.scores(found.model, CELLS)),
                "learned_at_twice": in_short(family.scores(found.model, 2 * CELLS)),
                "unseen": {
                    how: {**in_short(family.scores_of_unseen(found.model, part)), "seconds": took}
                    for how, (part, took) in codes.items()
                },
                "chamfer_floor": statistics.fmean(floors),
                "losses": found.losses[:: max(1, len(found.losses) // 200)],
            }
        )

    for network, found in (("baseline", base), ("plain", plain), ("through meshes", tuned)):
        points, seconds = family.codes_of_unseen(found.model, ENCODE_STEPS)
        moved, more = family.codes_through_meshes(found.model, points)
        codes = {"points": (points, seconds), "meshes": (moved, seconds + more)}
        if found is plain:
            steps = math.ceil(ENCODE_STEPS * (1 + more / seconds))
            codes["points for longer"] = family.codes_of_unseen(found.model, steps)
        add(network, found, codes)
    return rows


def finetuning_table(rows: list[Row]) -> str:
    """Return two tables: of the shapes that were learned, and of the others."""
    learned = ["family, network, seconds, RMS / side, change by seed, Chamfer x 1000, floor"]
    learned[0] += ", at twice the cells: RMS / side, change by seed"
    unseen = ["family, network, codes by, seconds, RMS / side, change by seed, median RMS / side"]
    unseen[0] += ", change by seed, Chamfer x 1000"
    for family in FAMILIES:
        runs = [
            [row for row in rows if row["family"] == family and row["seed"] == seed]
            for seed in sorted({row["seed"] for row in rows if row["family"] == family})
        ]
        for each in zip(*runs, strict=True):  # one network, of all seeds
            about = [family, each[0]["network"]]
            starts = [run[0]["learned"] for run in runs]
            twice = [run[0]["learned_at_twice"] for run in runs]
            line = [*about, f"{statistics.fmean(row['seconds'] for row in each):.0f}"]
            line += compared([row["learned"] for row in each], starts, "rms_percent_of_side")
            line += [chamfer_of([row["learned"] for row in each])]
            line += [f"{1000 * statistics.fmean(row['chamfer_floor'] for row in each):.4f}"]
            line += compared([r["learned_at_twice"] for r in each], twice, "rms_percent_of_side")
            learned.append(", ".join(line))
            first = [run[0]["unseen"]["points"] for run in runs]
            for how in each[0]["unseen"]:
                found = [row["unseen"][how] for row in each]
                line = [*about, how, f"{statistics.fmean(part['seconds'] for part in found):.0f}"]
                line += compared(found, first, "rms_percent_of_side")
                line += compared(found, first, "median_rms_percent")
                unseen.append(", ".join([*line, chamfer_of(found)]))
    return "\n\n".join(as_table(lines) for lines in (learned, unseen))


def compared(found: Sequence[Row], before: Sequence[Row], key: str) -> list[str]:
    """Return a mean over seeds, and the change of each seed; nothing beside what is compared."""
    changes = [f"{100 * (a[key] / b[key] - 1):+.1f}%" for a, b in zip(found, before, strict=True)]
    same = all(a is b for a, b in zip(found, before, strict=True))
    return [f"{statistics.fmean(a[key] for a in found):.4f}%", "" if same else " ".join(changes)]


def chamfer_of(found: Sequence[Row]) -> str:
    return f"{1000 * statistics.fmean(part['chamfer'] for part in found):.4f}"


def as_table(lines: Sequence[str]) -> str:
    """Return lines of cells that commas part, the first of them heads, as Markdown."""
    rows = [f"| {line.replace(', ', ' | ')} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0].split(", ")) + "|", *rows[1:]])


def halved(mesh: Mesh) -> Mesh:
    """Return the same surface with vertices in the middle of edges, where it cuts corners."""
    vertices, faces = require("trimesh").remesh.subdivide(mesh.vertices.numpy(), mesh.faces.numpy())
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))


def finetuning_pictures(folder: Path) -> list[Path]:
    """Draw how baselines learned, and some shapes by each network of the first seed, by error."""
    rows = json.loads((folder / "finetuning.json").read_text(encoding="utf-8"))
    curves = {
        f"{row['family']}, seed {row['seed']}": row["losses"]
        for row in rows
        if row["network"] == "baseline"
    }
    name = folder / "finetuning-baselines.png"
    files = [plots.save_curves(name, curves, "step", "loss of signed distances")]
    images, captions = [], []
    for name_of_family in FAMILIES:
        family = Family(folder, name_of_family, 0)
        for shape in family.learned[:DRAWN]:
            camera = view.fit_view(shape.mesh.vertices, up="y")
            images.append(view.render(shape.mesh, camera, size=260))
            captions.append(f"{name_of_family} {shape.name}")
            for network in ("base", "plain", "tuned"):
                field = AutoDecoder.load(family.folder / f"{network}.pt").field(shape.name)
                mesh = halved(learned_surface(field, CELLS))
                error = closest_points(shape.mesh, mesh.vertices.double()).distances
                rms = score(field, shape, CELLS).rms
                side = float((shape.mesh.vertices.amax(0) - shape.mesh.vertices.amin(0)).max())
                colors = view.error_colors(error, WORST_COLOR * side)
                images.append(view.render(mesh, camera, size=260, colors=colors))
                captions.append(f"{network}: RMS {100 * rms:.3f}%")
    bar = view.ColorBar(100 * WORST_COLOR, "distance to the mesh, % of the longest side")
    sheet = view.contact_sheet(images, captions, columns=4, bar=bar)
    return [*files, io.save_image(folder / "finetuning.png", sheet)]
