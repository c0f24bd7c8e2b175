# SPDX-License-Identifier: Apache-2.0
"""From the code of one shape to the silhouette of another.

A network learns spot and bob, and spot's code moves until its mesh has bob's silhouette in one
picture (MeshSDF, supplementary 8.3 and 8.8): one seed at full size, three at a quarter of the
pixels; and the same by rays that are traced through the network. The meshes stand in a folder as
spot.obj and bob_control.obj, which three subdivisions make bob. Networks, and runs to go on with,
stay in DIR/runs.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

import diffiso
from diffiso import Camera, Mesh, io
from diffiso.extras import require
from diffiso.fields import DecoderSettings
from diffiso.pipelines.auto_decoder import AutoDecoder, TrainSettings, read_shape, train
from diffiso.pipelines.mesh_sdf import (
    Refinement,
    RefineSettings,
    SilhouetteTarget,
    refine_code,
)
from diffiso.pipelines.mesh_sdf.refine import surface
from diffiso.run import processes

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


def refinement_rows(run: int, folder: Path, meshes: Path) -> list[Row]:
    scale = SCALES[run]
    model = network(folder, meshes, scale.seed)
    bob = read_shape(solids(folder, meshes) / "bob.ply", "bob", model.normalize)
    view_of_bob = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=scale.size)
    mesh = Mesh(bob.mesh.vertices.float(), bob.mesh.faces)
    target = SilhouetteTarget(view_of_bob, diffiso.silhouette(mesh, view_of_bob), "l2")
    with torch.no_grad():
        own = target.loss(surface(model, model.codes.weight[model.index("bob")], scale.cells), 0)
    start = model.codes.weight[model.index("spot")].detach().clone()
    state = Refinement(start, start.clone())
    settings = RefineSettings(
        "",
        "",
        steps=REFINE_STEPS,
        learning_rate=0.02,
        norm="l2",
        resolution=scale.cells,
        renderer=scale.renderer,
    )
    checkpoint = folder / "runs" / f"refined-{run}.pt"
    if checkpoint.is_file():
        state = Refinement.load(checkpoint, settings, "")
    with processes("cpu") as group:
        refine_code(
            model, target, state, settings, group, lambda s: s.save(checkpoint, settings, "")
        )
    history = state.history
    final = surface(model, state.code, scale.cells)
    io.save_mesh(folder / "runs" / f"refined-{run}.ply", final)
    return [
        {
            **scale._asdict(),
            "l2_of_learned_bob": own.l2,
            "l2_of_last_mesh": target.loss(final, 0).l2,
            "l2": [step.l2 for step in history],
            "queries": [step.queries for step in history],
            "seconds_a_step": statistics.median(step.seconds for step in history),
            "euler_number": final.euler_number(),
            "faces": len(final.faces),
        }
    ]


def refinement_table(rows: list[Row]) -> str:
    heads = "picture, cells, seed, l2: first, last, best, of bob as learned, queries a step, "
    heads += "seconds a step, Euler number"
    lines = [f"| {' | '.join(heads.split(', '))} |", "|---" * 10 + "|"]
    for row in rows:
        cells = (
            f"{row['size']}^2",
            f"{row['cells']}^3",
            f"{row['seed']}",
            f"{row['l2'][0]:.4f}",
            f"{row['l2'][-1]:.6f}",
            f"{min(row['l2']):.6f}",
            f"{row['l2_of_learned_bob']:.6f}",
            f"{statistics.median(row['queries']):,.0f}",
            f"{row['seconds_a_step']:.2f}",
            f"{row['euler_number']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
