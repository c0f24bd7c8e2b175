# SPDX-License-Identifier: Apache-2.0
"""MeshSDF's experiments.

Run as `python -m tools.mesh_sdf_study DIR [STUDY ...] [--meshes MESHES]`; studies are those of
`STUDIES`, each a module of its own. Every run is a process of its own, of one thread. Rows go to
DIR/STUDY.json as runs end; runs that are there are not made again. `--table` only prints what is
there, as Markdown; `--pictures` draws what was made, `topology` from new runs of the first seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from diffiso import io
from diffiso.run import cpu_threads, track
from tools.mesh_sdf_study import classical, finetuning, gradients, refinement, topology

Row = dict[str, Any]


class Study(NamedTuple):
    """A study: its runs, each of which gives some rows, and what is printed of them."""

    rows: Callable[[int, Path, Path], list[Row]]
    runs: int
    table: Callable[[list[Row]], str]
    pictures: Callable[[Path], list[Path]] | None = None


STUDIES = {
    "gradients": Study(lambda run, *_: gradients.gradient_rows(), 1, gradients.gradient_table),
    "topology": Study(
        lambda run, *_: topology.topology_rows(run),
        topology.SEEDS,
        topology.topology_table,
        topology.topology_pictures,
    ),
    "classical": Study(
        lambda run, *_: classical.classical_rows(run), classical.SEEDS, classical.classical_table
    ),
    "finetuning": Study(
        finetuning.finetuning_rows,
        len(finetuning.RUNS),
        finetuning.finetuning_table,
        finetuning.finetuning_pictures,
    ),
    "refinement": Study(
        refinement.refinement_rows,
        len(refinement.SCALES),
        refinement.refinement_table,
        refinement.refinement_pictures,
    ),
    "steps": Study(lambda _, *folders: refinement.step_rows(*folders), 1, refinement.step_table),
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
