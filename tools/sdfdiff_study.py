# SPDX-License-Identifier: Apache-2.0
"""Reconstruct solids from their pictures in many ways, and write down how well each does.

Run as `python -m tools.sdfdiff_study DIR MESHES [STUDY ...]`: MESHES is a folder with bunny.obj and
dragon.obj, studies are those of `STUDIES`. Every run is a process of its own, of one thread. Rows
go to DIR/study.json as runs end; runs that are there are not made again, so that a study can be
stopped and gone on with. Meshes, reports and pictures of the runs stay in DIR/runs. `--table` only
prints what is there, as Markdown; `--pictures` draws DIR/reconstructions.png from the runs.

SDFDiff (Jiang et al., 2020), section 5.2 and Figures 4 to 6.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import diffiso
from diffiso import io, shapes, view
from diffiso.metrics import error_map
from diffiso.pipelines.sdfdiff import ReconstructSettings, ViewsSettings, make_views, reconstruct
from diffiso.run import track

SHAPES = ("torus", "bunny", "dragon")
SEEDS = 3
SCORES = ("hausdorff_side", "hausdorff_diagonal", "surface_rms", "chamfer_halved_100k")
PICTURE_NOISE = math.sqrt(0.03)  # as a share of the brightest pixel
POSE_NOISE = math.sqrt(0.01)  # as a share of half the box


class Case(NamedTuple):
    """One way to reconstruct: settings by dotted name, and what is said of them in a table."""

    study: str
    name: str
    changes: dict[str, Any]
    shapes: tuple[str, ...] = ("bunny",)
    preset: str = ""
    views: str = ""  # "" or a kind of noise
    seeds: int = SEEDS


def _cases() -> list[Case]:
    both = ("bunny", "dragon")
    found = [Case("D1", "default", {}, SHAPES)]
    # Without chance: the greedy schedule draws nothing, so that one seed says what all would.
    found += [Case("D1", name, {}, SHAPES, name, seeds=1) for name in ("paper", "official")]
    for first in (8, 16, 32, 48):
        nodes = tuple(n for n in (8, 16, 32, 48, 64) if n >= first and (n != 48 or first == 48))
        found.append(Case("start", f"{first}^3", {"nodes": nodes}))
    eight = (8, 16, 24, 32, 40, 48, 56, 64)
    for count, nodes, steps in (
        (1, (64,), (1100,)),
        (2, (32, 64), (600, 500)),
        (8, eight, (86, 86, 86, 86, 86, 86, 86, 500)),
    ):
        found.append(
            Case("levels", f"{count}", {"nodes": nodes, "schedule.steps": steps, "start": "sphere"})
        )
    found.append(Case("levels", "4", {"start": "sphere"}))
    found += [Case("size", f"{n}^2", {"picture_size": n}) for n in (64, 128, 192, 256)]
    found += [Case("noise", kind, {}, views=kind) for kind in ("pictures", "poses")]
    for name, changes in (
        ("default", {}),
        ("sphere tracing to one pixel", {"rendering.method": "sphere", "rendering.tolerance": 1.0}),
        ("sphere tracing to 1/10", {"rendering.method": "sphere", "rendering.tolerance": 0.1}),
        ("hits move by SDFDiff's law", {"rendering.law": "sdfdiff"}),
        ("grazing rays count in full", {"rendering.min_cosine": 0.01}),
        ("hard outlines", {"rendering.ramp": (0.0,)}),
        ("hard outlines, no masks", {"rendering.ramp": (0.0,), "use": "colors"}),
        ("soft outlines, no masks", {"use": "colors"}),
        ("squared differences", {"energy.norm": "l2"}),
        ("no Laplacian", {"energy.laplacian": 0.0}),
        ("no redistancing", {"optimizer.redistance": False, "optimizer.redistance_every": 0}),
        ("moments start anew", {"optimizer.carry": False}),
        ("gradients not smoothed", {"optimizer.smoothing": 0}),
        ("central normals only", {"rendering.last_normals": "central"}),
        ("normals alternate to the end", {"rendering.settle": 0.0}),
        (
            "trilinear normals only",
            {"rendering.normals": "trilinear", "rendering.last_normals": "trilinear"},
        ),
        ("from a sphere", {"start": "sphere"}),
    ):
        found.append(Case("ablation", name, changes, both))
    return found


CASES = _cases()
STUDIES = tuple(dict.fromkeys(case.study for case in CASES))


def changed(settings: Any, name: str, value: Any) -> Any:
    """Return settings with one of another value, by its dotted name."""
    head, _, rest = name.partition(".")
    if rest:
        value = changed(getattr(settings, head), rest, value)
    return replace(settings, **{head: value})


class Study:
    """Where a study stands, and its files."""

    def __init__(self, folder: Path, meshes: Path) -> None:
        self.folder, self.meshes = folder, meshes
        self.file = folder / "study.json"
        self.rows: list[dict[str, Any]] = []
        if self.file.is_file():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))

    def mesh(self, shape: str) -> Path:
        """Return a shape's mesh file; the torus is made."""
        if shape != "torus":
            return self.meshes / f"{shape}.obj"
        path = self.folder / "runs" / "torus.ply"
        if not path.is_file():
            ring = shapes.Torus(1.5, 0.5)
            io.save_mesh(path, diffiso.isosurface(ring, -2.1, 2.1, 256, dtype=torch.float64))
        return path

    def views(self, shape: str, kind: str) -> Path:
        """Return a shape's folder of views, taken if there is none."""
        folder = self.folder / "runs" / f"views-{shape}{'-' + kind if kind else ''}"
        if not (folder / "report.json").is_file():
            settings = ViewsSettings(str(self.mesh(shape)), str(folder))
            if kind == "pictures":
                white = json.loads((self.views(shape, "") / "report.json").read_text())
                share = PICTURE_NOISE * white["metrics"]["white"]
                settings = replace(settings, image_noise=share)
            elif kind == "poses":
                settings = replace(settings, pose_noise=POSE_NOISE * settings.box)
            make_views(settings, lambda line: None)
        return folder

    def output(self, case: Case, shape: str, seed: int) -> Path:
        """Return the mesh file of a run."""
        words = "".join(c if c.isalnum() else "-" for c in case.name)
        return self.folder / "runs" / f"{case.study}-{words}-{shape}-{seed}.ply"

    def run(self, case: Case, shape: str, seed: int) -> dict[str, Any]:
        """Make one run and return its row."""
        views, output = str(self.views(shape, case.views)), str(self.output(case, shape, seed))
        make = getattr(ReconstructSettings, case.preset) if case.preset else ReconstructSettings
        settings = make(
            views,
            output=output,
            reference=str(self.mesh(shape)),
            seed=seed,
            resume=True,
            picture=case.study == "D1" and seed == 0,
        )
        for name, value in case.changes.items():
            settings = changed(settings, name, value)
        found = reconstruct(settings)
        report = json.loads(found.report.read_text(encoding="utf-8"))
        assert found.scores is not None
        energies = report["metrics"]["energies"]
        return {
            "study": case.study,
            "case": case.name,
            "shape": shape,
            "seed": seed,
            "scores": {name: found.scores[name].value for name in report["metrics"]["scores"]},
            "euler_number": found.mesh.euler_number(),
            "energy": energies[-1]["total"],
            "seconds": report["metrics"]["optimization_seconds"],
        }

    def found(self, case: Case, shape: str) -> list[dict[str, Any]]:
        """Return the rows of a case and a shape, one a seed."""
        key = (case.study, case.name, shape)
        return [row for row in self.rows if (row["study"], row["case"], row["shape"]) == key]

    def save(self, row: dict[str, Any]) -> None:
        """Add a row to the file."""
        self.rows.append(row)
        order = {(case.study, case.name): index for index, case in enumerate(CASES)}
        self.rows.sort(key=lambda r: (order.get((r["study"], r["case"]), 0), r["shape"], r["seed"]))
        io.write_file(self.file, f"{json.dumps(self.rows, indent=1)}\n".encode())


def run_all(study: Study, studies: list[str], at_once: int) -> None:
    """Make all runs that are missing, some at once, each in a process of its own."""
    wanted = [
        (index, shape, seed)
        for index, case in enumerate(CASES)
        if case.study in studies
        for shape in case.shapes
        for seed in range(case.seeds)
        if seed not in [row["seed"] for row in study.found(case, shape)]
    ]
    for index, shape, _ in wanted:  # once, before runs share them
        study.views(shape, CASES[index].views)

    failed: list[str] = []

    def one(run: tuple[int, str, int]) -> dict[str, Any] | None:
        index, shape, seed = run
        command = [sys.executable, "-m", "tools.sdfdiff_study", str(study.folder)]
        command += [str(study.meshes), "--one", str(index), shape, str(seed)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            failed.append(f"{CASES[index].name}, {shape}, seed {seed}: {done.returncode}")
            print(failed[-1], done.stderr, sep="\n", file=sys.stderr)
            return None
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row

    with ThreadPoolExecutor(at_once) as pool:
        for row in track(pool.map(one, wanted), "reconstructing", len(wanted)):
            if row is not None:
                study.save(row)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed:\n" + "\n".join(failed))


def table(study: Study, studies: list[str]) -> str:
    """Return what was found as Markdown: means over seeds, and the worst Hausdorff distance."""
    heads = "case, shape, runs, Hausdorff / side, worst, / diagonal, RMS / side, Chamfer, "
    heads = [*(heads + "Euler numbers, seconds").split(", ")]
    lines = []
    for name in studies:
        lines += [f"\n{name}\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for case in CASES:
            for shape in case.shapes if case.study == name else ():
                found = study.found(case, shape)
                if found:
                    lines.append(_line(case, shape, found))
    return "\n".join(lines)


def _line(case: Case, shape: str, rows: list[dict[str, Any]]) -> str:
    scores = [row["scores"] for row in rows]
    side, diagonal, rms, chamfer = (statistics.fmean(s[key] for s in scores) for key in SCORES)
    cells = (
        case.name,
        shape,
        f"{len(rows)}",
        f"{side:.4f}",
        f"{max(s['hausdorff_side'] for s in scores):.4f}",
        f"{diagonal:.4f}",
        f"{100 * rms:.3f}%",
        f"{chamfer:.2e}",
        ", ".join(str(row["euler_number"]) for row in rows),
        f"{statistics.median(row['seconds'] for row in rows):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def draw(study: Study) -> Path:
    """Draw each shape beside its reconstructions, coloured by distance, and return the path."""
    images, captions = [], []
    cases = [case for case in CASES if case.study == "D1"]
    for shape in SHAPES:
        reference = io.load_mesh(study.mesh(shape))
        corners = torch.stack([reference.vertices.amin(dim=0), reference.vertices.amax(dim=0)])
        side = float((corners[1] - corners[0]).max())
        camera = view.fit_view(reference.vertices, 30, 25)
        images.append(view.render(reference, camera, size=420))
        captions.append(shape)
        for case in cases:
            mesh = io.load_mesh(study.output(case, shape, 0))
            found = error_map(mesh, reference)
            colors = view.error_colors(found.distances, 0.01 * side)
            images.append(view.render(found.mesh, camera, size=420, colors=colors))
            score = study.found(case, shape)[0]["scores"]["hausdorff_side"]
            captions.append(f"{case.name}: {score:.4f}")
    sheet = view.contact_sheet(
        images,
        captions,
        columns=1 + len(cases),
        title="26 pictures, 64^3 samples: Hausdorff distance / longest side",
        bar=view.ColorBar(1.0, "distance, % of the longest side"),
    )
    return io.save_image(study.folder / "reconstructions.png", sheet)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("meshes", type=Path)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=", ".join(STUDIES))
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = sorted({*given.studies} - {*STUDIES})
    if unknown:
        parser.error(f"studies must be among {', '.join(STUDIES)}, got {', '.join(unknown)}")
    study = Study(given.folder, given.meshes)
    if given.one:
        index, shape, seed = int(given.one[0]), given.one[1], int(given.one[2])
        print(json.dumps(study.run(CASES[index], shape, seed)))
        return
    if given.pictures:
        print(draw(study))
        return
    if not given.table:
        run_all(study, given.studies, given.at_once)
    print(table(study, given.studies))


if __name__ == "__main__":
    main()
