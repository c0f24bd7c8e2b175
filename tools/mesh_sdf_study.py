# SPDX-License-Identifier: Apache-2.0
"""MeshSDF's experiments: gradients against differences, and spheres that become tori.

Run as `python -m tools.mesh_sdf_study DIR [STUDY ...] [--meshes MESHES]`; studies are those of
`STUDIES`. Every run is a process of its own, of one thread. Rows go to DIR/STUDY.json as runs end;
runs that are there are not made again. `--table` only prints what is there, as Markdown;
`--pictures` draws curves and an animation from new runs of the first seed.

gradients: how a loss on the extracted mesh changes with a parameter, by both laws of vertices,
against central differences of meshes that are extracted anew. MeshSDF, Theorem 1.
topology: from a sphere to a torus, by surfaces (Eq. 5) and by silhouettes (Eq. 6), ten seeds.
refinement: from spot to bob in one picture, see mesh_sdf_refinement.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import diffiso
from diffiso import Camera, Mesh, io, plots, view
from diffiso.metrics import surface_distance
from diffiso.pipelines.morph import (
    MorphSettings,
    MorphStep,
    learn_family,
    target_mesh,
    turn_sphere_into_torus,
)
from diffiso.run import cpu_threads, seed_all, track
from tools.mesh_sdf_refinement import SCALES, refinement_rows, refinement_table

Row = dict[str, Any]

CELLS = 128
LAWS: tuple[Literal["sdf", "implicit"], ...] = ("sdf", "implicit")
LOSSES: tuple[Literal["surface", "silhouette"], ...] = ("surface", "silhouette")
SEEDS = 10
FRAMES = 40


# Gradients.


class Family(NamedTuple):
    """Shapes of some parameters: where to differentiate, and how far to step for differences."""

    field: Callable[[Tensor], diffiso.ops.Field]
    at: Sequence[float]
    step: float


def sphere(parameters: Tensor) -> diffiso.ops.Field:
    return lambda points: points.norm(dim=1) - parameters[0]


def steep_sphere(parameters: Tensor) -> diffiso.ops.Field:
    """Twice the distance: no signed distance function."""
    return lambda points: 2 * (points.norm(dim=1) - parameters[0])


def torus(parameters: Tensor) -> diffiso.ops.Field:
    def field(points: Tensor) -> Tensor:
        ring = points[:, :2].norm(dim=1) - parameters[0]
        return torch.stack([ring, points[:, 2]], dim=1).norm(dim=1) - parameters[1]

    return field


def learned(seed: int) -> Callable[[Tensor], diffiso.ops.Field]:
    """A network of two numbers, trained on spheres and tori, that stays smooth between cells."""
    settings = MorphSettings(training_steps=400)
    decoder = learn_family(settings, seed_all(seed)).decoder.double()
    return lambda code: decoder.field(code)


def camera() -> Camera:
    return Camera.orbit([20.0, 200.0], 25.0, 3.0, field_of_view=50.0, size=256, dtype=torch.float64)


SCORES: dict[str, Callable[[Mesh], Tensor]] = {
    "volume": Mesh.volume,
    "area": Mesh.area,
    "silhouette": lambda mesh: diffiso.silhouette(mesh, camera(), samples=64).mean(),
}


def gradient_rows() -> list[Row]:
    families = {
        "sphere": Family(sphere, (0.62,), 0.02),
        "sphere, field twice as steep": Family(steep_sphere, (0.62,), 0.02),
        "torus": Family(torus, (0.55, 0.22), 0.02),
        "network": Family(learned(0), (0.05, -0.05), 0.02),
    }
    return [
        {"family": name, "law": law, "score": score, **gradient_error(family, law, score)}
        for name, family in families.items()
        for law in LAWS
        for score in SCORES
    ]


def gradient_error(family: Family, law: Literal["sdf", "implicit"], score: str) -> Row:
    """Return gradient and differences, and how far they are apart over the latter's length."""

    def value(parameters: Tensor) -> Tensor:
        mesh = diffiso.isosurface(
            family.field(parameters), -1, 1, CELLS, law=law, dtype=torch.float64
        )
        assert isinstance(mesh, Mesh)
        return SCORES[score](mesh)

    at = torch.tensor(family.at, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(at), at)
    differences = []
    with torch.no_grad():
        for index in range(len(at)):
            move = torch.zeros_like(at)
            move[index] = family.step
            differences.append((value(at + move) - value(at - move)) / (2 * family.step))
    wanted = torch.stack(differences)
    return {
        "gradient": gradient.tolist(),
        "differences": wanted.tolist(),
        "relative_error": float((gradient - wanted).norm() / wanted.norm()),
    }


# Topology.


def topology_run(seed: int, loss: Literal["surface", "silhouette"]) -> list[MorphStep]:
    generator = seed_all(seed)
    settings = MorphSettings()
    family = learn_family(settings, generator)
    return turn_sphere_into_torus(family, replace(settings, loss=loss), generator)


def topology_rows(seed: int) -> list[Row]:
    rows = []
    for loss in LOSSES:
        history = topology_run(seed, loss)
        settings = MorphSettings()
        distance = surface_distance(
            history[-1].mesh, target_mesh(settings), 200_000, torch.Generator().manual_seed(seed)
        )
        numbers = [step.euler_number for step in history]
        rows.append(
            {
                "loss": loss,
                "seed": seed,
                "euler_numbers": numbers,
                "opens_at_step": numbers.index(0) if 0 in numbers else None,
                "losses": [step.loss for step in history],
                "rms": distance.rms,
                "rms_share_of_radius": distance.rms / settings.target[0],
            }
        )
    return rows


def gradient_table(rows: list[Row]) -> str:
    heads = ["family", "score", *(f"relative error, {law}" for law in LAWS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row["law"] == LAWS[0]:
            mine = {r["law"]: r for r in rows if all(r[k] == row[k] for k in ("family", "score"))}
            errors = " | ".join(f"{mine[law]['relative_error']:.1e}" for law in LAWS)
            lines.append(f"| {row['family']} | {row['score']} | {errors} |")
    return "\n".join(lines)


def topology_table(rows: list[Row]) -> str:
    heads = ["loss", "seeds", "Euler number 2 to 0", "RMS / radius: mean", "worst", "opens at step"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loss in LOSSES:
        mine = [row for row in rows if row["loss"] == loss]
        turned = [r for r in mine if (r["euler_numbers"][0], r["euler_numbers"][-1]) == (2, 0)]
        shares = [100 * row["rms_share_of_radius"] for row in mine]
        steps = [row["opens_at_step"] for row in mine if row["opens_at_step"] is not None]
        lines.append(
            f"| {loss} | {len(mine)} | {len(turned)} of {len(mine)} | "
            f"{statistics.fmean(shares):.2f}% | {max(shares):.2f}% | {min(steps)} to {max(steps)} |"
        )
    return "\n".join(lines)


def topology_pictures(folder: Path) -> list[Path]:
    """Draw all seeds' losses, and how the first seed's surfaces move."""
    rows = json.loads((folder / "topology.json").read_text(encoding="utf-8"))
    files = []
    for loss in LOSSES:
        curves = {
            f"seed {row['seed']}": list(enumerate(row["losses"]))
            for row in rows
            if row["loss"] == loss
        }
        name = folder / f"topology-{loss}.png"
        files.append(plots.save_curves(name, curves, "step", f"loss by {loss}s"))
    histories = [topology_run(0, loss) for loss in LOSSES]
    seen_from = view.fit_view(target_mesh(MorphSettings()).vertices, 30, 50, up="z")
    last = len(histories[0]) - 1
    frames = []
    for k in track(range(FRAMES), "drawing"):
        step = round(last * (k / (FRAMES - 1)) ** 2)  # the change of topology comes early
        images = [view.render(h[step].mesh, seen_from, size=240) for h in histories]
        captions = [
            f"by {loss}s, step {step}, Euler number {h[step].euler_number}"
            for loss, h in zip(LOSSES, histories, strict=True)
        ]
        frames.append(view.contact_sheet(images, captions, columns=2))
    return [*files, io.save_gif(folder / "topology.gif", frames + [frames[-1]] * 10, colors=128)]


class Study(NamedTuple):
    """A study: its runs, each of which gives some rows, and what is printed of them."""

    rows: Callable[[int, Path, Path], list[Row]]
    runs: int
    table: Callable[[list[Row]], str]
    pictures: Callable[[Path], list[Path]] | None = None


STUDIES = {
    "gradients": Study(lambda run, *_: gradient_rows(), 1, gradient_table),
    "topology": Study(lambda run, *_: topology_rows(run), SEEDS, topology_table, topology_pictures),
    "refinement": Study(refinement_rows, len(SCALES), refinement_table),
}


def read(folder: Path, name: str) -> list[Row]:
    path = folder / f"{name}.json"
    if not path.is_file():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def make(folder: Path, meshes: Path, name: str, at_once: int) -> None:
    """Make the runs of a study that are missing, some at once, each in a process of its own."""
    there = {row["run"] for row in read(folder, name)}
    missing = [run for run in range(STUDIES[name].runs) if run not in there]

    def one(run: int) -> list[Row]:
        command = [sys.executable, "-m", "tools.mesh_sdf_study", str(folder), name]
        command += ["--meshes", str(meshes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--one", str(run)], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{name}, run {run}: {done.stderr}")
        found: list[Row] = json.loads(done.stdout.splitlines()[-1])
        return [{"run": run, **row} for row in found]

    with ThreadPoolExecutor(at_once) as pool:
        for rows in track(pool.map(one, missing), name, len(missing)):
            every = sorted([*read(folder, name), *rows], key=lambda row: int(row["run"]))
            io.write_file(folder / f"{name}.json", f"{json.dumps(every, indent=1)}\n".encode())


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("studies", nargs="*", default=list(STUDIES), help=", ".join(STUDIES))
    parser.add_argument("--meshes", type=Path, default=Path("meshes"))
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = sorted({*given.studies} - {*STUDIES})
    if unknown:
        parser.error(f"studies must be among {', '.join(STUDIES)}, got {', '.join(unknown)}")
    if given.one is not None:
        with cpu_threads(1):
            rows = STUDIES[given.studies[0]].rows(given.one, given.folder, given.meshes)
            print(json.dumps(rows))
        return
    for name in given.studies:
        study = STUDIES[name]
        if given.pictures:
            for path in study.pictures(given.folder) if study.pictures else ():
                print(path)
            continue
        if not given.table:
            make(given.folder, given.meshes, name, given.at_once)
        print(f"\n{name}\n\n{study.table(read(given.folder, name))}")


if __name__ == "__main__":
    main()
