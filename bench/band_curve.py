# SPDX-License-Identifier: Apache-2.0
"""What sampling costs as cells get finer: dense, cold and warm (MeshSDF, Figure 8).

Run as `python -m bench.band_curve DIR`; writes DIR/curve.json and DIR/curve.png. Every point of the
curves is measured in a process of its own, so that its peak memory is its own too. Dense sizes that
would take too long are computed from the largest one measured, by the number of nodes, and marked.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench import results
from bench.cases import Settings
from diffiso.extras import require
from diffiso.fields import DecoderSettings, DeepSdfDecoder
from diffiso.io import write_file
from diffiso.losses import surface_loss
from diffiso.run import track
from diffiso.shapes import SphereTorus, spheres_and_tori

LOWER, UPPER = -1.0, 1.0
SIZES = (64, 128, 256, 512, 1024, 2048)
LARGEST_DENSE = {"torus": 512, "decoder": 128}
SLOPE_FROM = 128
MODES = ("dense", "cold", "warm")
TITLES = {"torus": "torus, analytic", "decoder": "torus, decoder of 8 x 128"}
LATENT_STEPS, LATENT_CELLS = 50, 128
TRAINING_STEPS = 1000
DECODER = DecoderSettings(latent_size=2, width=128, depth=8, skips=(4,), weight_norm=False)

Row = dict[str, Any]


class Torus:
    """The distance to a torus, whose ring grows by a fraction of a cell from call to call."""

    lipschitz = 1.0

    def __init__(self, grow: float) -> None:
        self.ring, self.tube = 0.52 + grow, 0.21

    def __call__(self, points: Tensor) -> Tensor:
        x, y, z = points.unbind(1)
        ring = (x * x + y * y).sqrt() - self.ring
        return (ring * ring + z * z).sqrt() - self.tube


def draw(shape: SphereTorus, count: int, generator: torch.Generator) -> Tensor:
    """Return points, half of them in the box and half near the surface, with distances, (N, 4)."""
    points = torch.rand((count, 3), generator=generator) * 2 - 1
    at = points[count // 2 :].clone().requires_grad_()
    distance = shape(at)
    (normal,) = torch.autograd.grad(distance.sum(), at)
    noise = 0.03 * torch.randn(at.shape, generator=generator)
    points[count // 2 :] = at.detach() - distance.detach()[:, None] * normal + noise
    return torch.cat((points, shape(points)[:, None]), dim=1)


def train_decoder(path: Path, steps: int) -> None:
    """Learn spheres and tori with a network of 8 x 128, and keep it with its codes."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    shapes = spheres_and_tori(8, generator)
    pool = torch.stack([draw(shape, 20_000, generator) for shape in shapes])
    decoder = DeepSdfDecoder(DECODER)
    codes = torch.nn.Parameter(0.1 * torch.randn(len(shapes), 2, generator=generator))
    groups = [{"params": decoder.parameters()}, {"params": [codes]}]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-3, 1e-2], steps)
    for _ in track(range(steps), "learning spheres and tori"):
        drawn = pool[:, torch.randint(pool.shape[1], (512,), generator=generator)]
        error = (decoder(drawn[..., :3], codes) - drawn[..., 3]).abs()
        loss = error.mean() + 1e-3 * codes.square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    kept = {"decoder": decoder.state_dict(), "codes": codes.detach()}
    torch.save(kept, path)


def load_decoder(path: Path) -> tuple[DeepSdfDecoder, Tensor]:
    kept = torch.load(path, weights_only=True)
    decoder = DeepSdfDecoder(DECODER)
    decoder.load_state_dict(kept["decoder"])
    return decoder.requires_grad_(False), kept["codes"]


def fields(name: str, cells: int, weights: Path) -> tuple[Any, Any, float | None]:
    """Return a field, the same a quarter of a cell further, and a bound if one is known."""
    if name == "torus":
        return Torus(0.0), Torus(0.25 * (UPPER - LOWER) / cells), Torus.lipschitz
    decoder, codes = load_decoder(weights)
    first, second = codes[-1], codes[-2]
    # The codes' step that moves the surface by a quarter of a cell at 128 cells, by trial.
    step = (second - first) / (second - first).norm() * 0.5 / cells
    return decoder.field(first), decoder.field(first + step), None


def measure(name: str, mode: str, cells: int, weights: Path, runs: int) -> Row:
    """Return queries, seconds and peak memory of sampling and extraction."""
    field, moved, lipschitz = fields(name, cells, weights)
    seconds, queries, bricks = [], 0, 0
    bound = None
    with torch.no_grad():
        diffiso.isosurface(field, LOWER, UPPER, 16, band="sign")  # loads and starts what is there
        for _ in range(runs):
            band = diffiso.NarrowBand(LOWER, UPPER, cells, lipschitz=lipschitz, refresh_every=1000)
            if mode == "warm":
                band.sample(field)
            begin = time.perf_counter()
            if mode == "dense":
                grid = diffiso.sample_field(field, LOWER, UPPER, cells)
                mesh = diffiso.marching_cubes(grid, gradient="none")
                queries = (cells + 1) ** 3
                del grid
            else:
                mesh = diffiso.isosurface(moved if mode == "warm" else field, band=band)
                assert band.report is not None
                assert band.report.mode == mode
                queries, bricks = band.report.queries, band.report.bricks
                bound = band.report.lipschitz
            seconds.append(time.perf_counter() - begin)
    assert isinstance(mesh, diffiso.Mesh)
    area, spacing = float(mesh.area()), (UPPER - LOWER) / cells
    return {
        "field": name,
        "mode": mode,
        "cells": cells,
        "queries": queries,
        "queries_per_area": queries * spacing**2 / area,
        "seconds": statistics.median(seconds),
        "runs": runs,
        "bricks": bricks,
        "lipschitz": bound,
        "vertices": len(mesh.vertices),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "measured": True,
    }


def extract(*arguments: Any, **options: Any) -> diffiso.Mesh:
    mesh = diffiso.isosurface(*arguments, **options)
    assert isinstance(mesh, diffiso.Mesh)
    return mesh


def crossed_nodes(values: Tensor) -> int:
    """Return how many nodes the cells have whose corners are on both sides of 0.

    Absent samples are on neither, so that a band's cells will do.
    """
    pool = torch.nn.functional.max_pool3d
    inside, outside = ((bits[None].float()) for bits in (values < 0, values >= 0))
    crossed = (pool(inside, 2, stride=1) > 0) & (pool(outside, 2, stride=1) > 0)
    around = torch.nn.functional.pad(crossed.float(), (1,) * 6)
    return int(pool(around, 2, stride=1).sum())


def follow(weights: Path, steps: int, cells: int) -> Row:
    """Take a code from a sphere to a torus by the surface loss, each step warm and dense."""
    decoder, codes = load_decoder(weights)
    goal = SphereTorus(torch.tensor([0.52, 0.21]))
    target = extract(goal, LOWER, UPPER, 96).detach()
    aim = target.sample(4000, torch.Generator().manual_seed(1)).points
    band = diffiso.NarrowBand(LOWER, UPPER, cells)
    code = codes[0].clone().requires_grad_()
    optimizer = torch.optim.Adam([code], lr=0.01)
    rows: list[Row] = []

    def take(mesh: diffiso.Mesh, seed: int) -> tuple[Tensor, Tensor]:
        loss = surface_loss(mesh, target, aim, torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad(loss, code)
        return loss, gradient

    for step in track(range(steps), "latent steps"):
        field = decoder.field(code)
        begin = time.perf_counter()
        mesh = extract(field, band=band)
        loss, gradient = take(mesh, step)
        warm = time.perf_counter() - begin
        assert band.report is not None
        begin = time.perf_counter()
        whole = extract(field, LOWER, UPPER, cells)
        take(whole, step)
        dense = time.perf_counter() - begin
        apart = diffiso.NarrowBand(LOWER, UPPER, cells).sample(field)
        nodes = crossed_nodes(apart.to_grid().values)
        rows.append({
            "mode": band.report.mode,
            "queries": band.report.queries + len(mesh.vertices),
            "allowed": 1.25 * nodes + len(mesh.vertices),
            "nodes_of_crossed_cells": nodes,
            "vertices": len(mesh.vertices),
            "same_faces": len(mesh.faces) == len(whole.faces),
            "loss": float(loss.detach()),
            "seconds": warm,
            "dense_seconds": dense,
        })  # fmt: skip
        code.grad = gradient
        optimizer.step()
    later = rows[1:]
    return {
        "cells": cells,
        "steps": rows,
        "warm_steps": sum(row["mode"] == "warm" for row in rows),
        "times_faster": statistics.median(row["dense_seconds"] / row["seconds"] for row in later),
        "times_faster_least": min(row["dense_seconds"] / row["seconds"] for row in later),
        "share_of_allowed": statistics.median(row["queries"] / row["allowed"] for row in later),
        "share_of_allowed_most": max(row["queries"] / row["allowed"] for row in later),
    }


def slope(rows: list[Row], key: str) -> float | None:
    """Return the slope of a line through the measured points in log-log, from 128 cells on."""
    points = [
        (math.log(row["cells"]), math.log(row[key]))
        for row in rows
        if row["measured"] and row["cells"] >= SLOPE_FROM
    ]
    if len(points) < 2:
        return None
    x, y = (statistics.fmean(column) for column in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def extrapolated(last: Row, cells: int) -> Row:
    """Return a dense row that was not measured, by the number of nodes."""
    ratio = ((cells + 1) / (last["cells"] + 1)) ** 3
    row = {key: last[key] for key in ("field", "mode")}
    row |= {"cells": cells, "queries": (cells + 1) ** 3, "seconds": last["seconds"] * ratio}
    return row | {"measured": False}


def picture(path: Path, rows: list[Row]) -> None:
    names = list(TITLES)
    figure = require("matplotlib.figure").Figure((9.6, 7.2), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    colors = {"dense": "#8c564b", "cold": "#1f77b4", "warm": "#ff7f0e"}
    for column, name in enumerate(names):
        for line, key in enumerate(("queries", "seconds")):
            panel = panels[line][column]
            for mode in MODES:
                mine = [row for row in rows if row["field"] == name and row["mode"] == mode]
                known = [row for row in mine if row["measured"]]
                rest = mine[len(known) - 1 :]
                fitted = slope(mine, key)
                label = mode if fitted is None else f"{mode}, N^{fitted:.2f}"
                xy = [(row["cells"], row[key]) for row in known]
                panel.plot(*zip(*xy, strict=True), "o-", color=colors[mode], label=label)
                if len(rest) > 1:
                    xy = [(row["cells"], row[key]) for row in rest]
                    panel.plot(*zip(*xy, strict=True), ":", color=colors[mode], label="computed")
            panel.set(xscale="log", yscale="log", ylabel=key)
            panel.set_xticks(SIZES, [str(size) for size in SIZES])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        panels[0][column].set_title(TITLES[name])
        panels[1][column].set_xlabel("cells along each axis")
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        figure.savefig(file.name)
        write_file(path, Path(file.name).read_bytes())


def run_alone(arguments: list[str]) -> Row:
    """Run one measurement in a fresh process and return what it printed last."""
    command = [sys.executable, "-m", "bench.band_curve", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.band_curve", description=__doc__)
    parser.add_argument("folder", type=Path, help="where curve.json and curve.png go")
    parser.add_argument("--threads", type=int, default=results.cores())
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes: does everything still run"
    )
    parser.add_argument(
        "--one", nargs=3, metavar=("FIELD", "MODE", "CELLS"), help=argparse.SUPPRESS
    )
    parser.add_argument("--follow", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = options.folder / "decoder.pt"
    if options.one:
        name, mode, cells = options.one
        runs = 3 if int(cells) <= 512 and mode != "dense" else 1
        print(json.dumps(measure(name, mode, int(cells), weights, runs)))
        return
    if options.follow:
        print(json.dumps(follow(weights, *options.follow)))
        return

    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = (16, 32) if options.smoke else SIZES
    begin = time.perf_counter()
    train_decoder(weights, 5 if options.smoke else TRAINING_STEPS)
    training = time.perf_counter() - begin
    base = [str(options.folder), "--threads", str(options.threads)]
    rows: list[Row] = []
    for name in TITLES:
        for mode in MODES:
            for cells in sizes:
                if mode == "dense" and cells > LARGEST_DENSE[name]:
                    rows.append(extrapolated(rows[-1], cells))
                    continue
                rows.append(run_alone([*base, "--one", name, mode, str(cells)]))
                row = rows[-1]
                print(
                    f"{name:8} {mode:5} {cells:5} {row['queries']:>13,} queries "
                    f"{row['seconds']:9.3f} s {row['peak_bytes'] / 2**30:6.2f} GiB",
                    flush=True,
                )
    steps, cells = (3, 16) if options.smoke else (LATENT_STEPS, LATENT_CELLS)
    latent = run_alone([*base, "--follow", str(steps), str(cells)])
    slopes = {
        f"{name}, {mode}": {
            key: slope([r for r in rows if r["field"] == name and r["mode"] == mode], key)
            for key in ("queries", "seconds")
        }
        for name in TITLES
        for mode in MODES
    }
    settings = Settings(torch.device("cpu"), options.threads)
    record = {
        "what": __doc__.partition("\n")[0] if __doc__ else "",
        "environment": results.environment(settings),
        "training_seconds": training,
        "slopes_from_128_cells": slopes,
        "rows": rows,
        "latent_steps": latent,
    }
    write_file(options.folder / "curve.json", json.dumps(record, indent=1).encode() + b"\n")
    picture(options.folder / "curve.png", rows)
    weights.unlink()
    print(json.dumps(slopes, indent=1))
    print({key: latent[key] for key in latent if key != "steps"})


if __name__ == "__main__":
    main()
