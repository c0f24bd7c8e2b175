# SPDX-License-Identifier: Apache-2.0
"""From the code of one shape to the silhouette of another.

A network learns spot and bob, and spot's code moves until its mesh has bob's silhouette in one
picture (MeshSDF, supplementary 8.3 and 8.8): one seed at full size, three at a quarter of the
pixels; and the same by rays that are traced through the network. The meshes stand in a folder as
spot.obj and bob_control.obj, which three subdivisions make bob. Networks, and runs to go on with,
stay in DIR/runs.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import diffiso
from diffiso import Camera, Mesh, NarrowBand, io, plots, view
from diffiso.extras import require
from diffiso.fields import DecoderSettings, LatentField
from diffiso.pipelines.auto_decoder import AutoDecoder, TrainSettings, read_shape, train
from diffiso.pipelines.mesh_sdf import (
    Refinement,
    RefineSettings,
    SilhouetteTarget,
    refine_code,
)
from diffiso.pipelines.mesh_sdf.refine import surface
from diffiso.run import cpu_threads, load_checkpoint, processes, track

Row = dict[str, Any]


class Scale(NamedTuple):
    """How large a picture, how fine a grid, which seed, and what is rendered."""

    size: int
    cells: int
    seed: int
    renderer: Literal["mesh", "rays"] = "mesh"


BY_MESHES = (Scale(512, 256, 0), *(Scale(256, 128, seed) for seed in range(3)))
SCALES = (*BY_MESHES, *(scale._replace(renderer="rays") for scale in BY_MESHES))
REFINE_STEPS = 400
SHOWN = (1, 5)  # in the animation: a mesh and rays, of one seed
FRAMES = 30
TIMED = 4  # rounds


def solids(folder: Path, meshes: Path) -> Path:
    """Return a folder with spot and bob, made if it is not there."""
    made = folder / "runs" / "solids"
    if not (made / "bob.ply").is_file():
        control = require("trimesh").Trimesh(*io.load_mesh(meshes / "bob_control.obj").numpy())
        bob = control.subdivide_loop(3)
        io.save_mesh(made / "spot.ply", io.load_mesh(meshes / "spot.obj"))
        corners, faces = torch.tensor(bob.vertices), torch.tensor(bob.faces)
        io.save_mesh(made / "bob.ply", Mesh(corners, faces))
    return made


def network(folder: Path, meshes: Path, seed: int) -> AutoDecoder:
    """Return the network of both: 8 layers of 128, codes of two numbers, as the official toy."""
    run = folder / "runs" / f"network-{seed}"
    train(
        TrainSettings(
            str(solids(folder, meshes)),
            str(run),
            resume=True,
            decoder=DecoderSettings(
                latent_size=2, width=128, depth=8, skips=(4,), frequencies=5, weight_norm=False
            ),
            steps=4000,
            shapes_per_batch=2,
            points_per_shape=4096,
            seed=seed,
        ),
        lambda line: None,
    )
    return AutoDecoder.load(run).requires_grad_(False)


class Task(NamedTuple):
    """What a run starts from, and what it is to reach."""

    model: AutoDecoder
    target: SilhouetteTarget
    start: Tensor
    goal: Tensor  # the code that was learned for bob
    settings: RefineSettings


def task(scale: Scale, folder: Path, meshes: Path) -> Task:
    model = network(folder, meshes, scale.seed)
    bob = read_shape(solids(folder, meshes) / "bob.ply", "bob", model.normalize)
    camera = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=scale.size)
    mesh = Mesh(bob.mesh.vertices.float(), bob.mesh.faces)
    start, goal = (model.codes.weight[model.index(name)].clone() for name in ("spot", "bob"))
    settings = RefineSettings(
        "",
        "",
        steps=REFINE_STEPS,
        learning_rate=0.02,
        norm="l2",
        resolution=scale.cells,
        renderer=scale.renderer,
    )
    target = SilhouetteTarget(camera, diffiso.silhouette(mesh, camera), "l2")
    return Task(model, target, start, goal, settings)


def allowed_queries(field: LatentField, cells: int) -> int:
    """Return 1.25 times the nodes of crossed cells, plus the vertices."""
    band = NarrowBand(-1.0, 1.0, cells)
    for _ in range(2):  # the second call asks for the nodes of the cells that the first one found
        mesh = diffiso.isosurface(field, band=band)
    assert isinstance(mesh, Mesh)
    assert band.report is not None
    return round(1.25 * band.report.queries + len(mesh.vertices))


@torch.no_grad()
def refinement_rows(run: int, folder: Path, meshes: Path) -> list[Row]:
    scale = SCALES[run]
    model, target, start, goal, settings = task(scale, folder, meshes)
    own = target.loss(surface(model, goal, scale.cells), 0)
    state = Refinement(start.clone(), start.clone())
    checkpoint = checkpoint_of(run, folder)
    if checkpoint.is_file():
        state = Refinement.load(checkpoint, settings, "")
    with torch.enable_grad(), processes("cpu") as group:
        refine_code(
            model, target, state, settings, group, lambda s: s.save(checkpoint, settings, "")
        )
    history = state.history
    final = surface(model, state.code, scale.cells)
    return [
        {
            **scale._asdict(),
            "l2_of_learned_bob": own.l2,
            "l2_of_last_mesh": target.loss(final, 0).l2,
            "l2": [step.l2 for step in history],
            "queries": [step.queries for step in history],
            "allowed_queries": allowed_queries(model.decoder.field(state.code), scale.cells),
            "seconds_a_step": statistics.median(step.seconds for step in history),
            "euler_number": final.euler_number(),
            "faces": len(final.faces),
        }
    ]


def checkpoint_of(run: int, folder: Path) -> Path:
    return folder / "runs" / f"refined-{run}.pt"


def refinement_table(rows: list[Row]) -> str:
    heads = "by, picture, cells, seed, l2: first, last, of the last mesh, of bob as learned, "
    heads += "queries a step, allowed, Euler number"
    lines = [f"| {' | '.join(heads.split(', '))} |", "|---" * 11 + "|"]
    for row in rows:
        by_mesh = row["renderer"] == "mesh"
        cells = (
            row["renderer"],
            f"{row['size']}^2",
            f"{row['cells']}^3" if by_mesh else "",
            f"{row['seed']}",
            f"{row['l2'][0]:.4f}",
            f"{row['l2'][-1]:.6f}",
            f"{row['l2_of_last_mesh']:.6f}",
            f"{row['l2_of_learned_bob']:.6f}",
            f"{statistics.median(row['queries']):,.0f}",
            f"{row['allowed_queries']:,}" if by_mesh else "",
            f"{row['euler_number']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def refinement_pictures(folder: Path) -> list[Path]:
    """Draw all runs' losses, and how meshes move, those of rays beside them."""
    rows = json.loads((folder / "refinement.json").read_text(encoding="utf-8"))
    curves = {
        f"{row['renderer']}, {row['size']}^2, seed {row['seed']}": list(enumerate(row["l2"]))
        for row in rows
    }
    files = [plots.save_curves(folder / "refinement.png", curves, "step", "l2 of silhouettes")]
    shown = {SCALES[run].renderer: run for run in SHOWN}
    frames = []
    states = {
        name: load_checkpoint(checkpoint_of(run, folder))["codes"] for name, run in shown.items()
    }
    found = {name: task(SCALES[run], folder, folder) for name, run in shown.items()}
    camera = found["mesh"].target.cameras
    bob = surface(found["mesh"].model, found["mesh"].goal, 128)
    seen_from = view.fit_view(bob.vertices, 35, 30)
    for k in track(range(FRAMES), "drawing"):
        step = round((REFINE_STEPS - 1) * (k / (FRAMES - 1)) ** 2)  # most moves early
        images, captions = [], []
        for name, codes in states.items():
            mesh = surface(found[name].model, codes[step], 128)
            apart = 1 - (diffiso.silhouette(mesh, camera)[0] - found[name].target.coverage[0]).abs()
            images += [view.render(mesh, seen_from, size=256), view.grey_image(apart)]
            captions += [f"by {name}, step {step}", "what is missing or too much"]
        frames.append(view.contact_sheet(images, captions, columns=4))
    return [*files, io.save_gif(folder / "refinement.gif", frames + [frames[-1]] * 10, colors=128)]


def step_rows(folder: Path, meshes: Path) -> list[Row]:
    """Return what a step costs at full size, by the mesh and by rays in turn."""
    rows = []
    for threads in (1, 2):
        with cpu_threads(threads):
            rows += [{"threads": threads, **row} for row in timed_steps(folder, meshes)]
    return rows


def timed_steps(folder: Path, meshes: Path) -> list[Row]:
    tasks = [task(scale, folder, meshes) for scale in SCALES if scale.size == SCALES[0].size]
    states = [Refinement(one.goal.clone(), one.goal.clone()) for one in tasks]
    with processes("cpu") as group:
        for _ in range(TIMED):
            for one, state in zip(tasks, states, strict=True):
                # A cold band first, and then warm ones: what a run's steps are but for one in 20.
                some = replace(one.settings, steps=state.step + 4, learning_rate=1e-4)
                refine_code(one.model, one.target, state, some, group, lambda s: None)
    return [
        {
            "renderer": one.settings.renderer,
            "seconds": [step.seconds for step in state.history if step.step % 4 > 0],
            "queries": [step.queries for step in state.history if step.step % 4 > 0],
        }
        for one, state in zip(tasks, states, strict=True)
    ]


def step_table(rows: list[Row]) -> str:
    lines = ["| by | threads | seconds a step: median | least | queries |", "|---" * 5 + "|"]
    for row in rows:
        times = row["seconds"]
        lines.append(
            f"| {row['renderer']} | {row['threads']} | {statistics.median(times):.2f} "
            f"| {min(times):.2f} | {statistics.median(row['queries']):,.0f} |"
        )
    return "\n".join(lines)
