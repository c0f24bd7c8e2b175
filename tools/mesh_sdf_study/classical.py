# SPDX-License-Identifier: Apache-2.0
"""What the derivative of marching cubes itself does where a topology changes (MeshSDF, Fig. 2).

There a vertex lies on an edge of the grid where the straight line between its two samples a and b
is zero, and moves with them as that line does: by 1 / |a - b| edges for both together.

edges: how large that is as the hole of a torus closes.
codes: `topology` by surfaces, with each derivative.
samples: a sphere whose samples themselves move until its mesh should be the torus.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

import diffiso
from diffiso import Grid, Mesh, NarrowBand
from diffiso.losses import surface_loss
from diffiso.metrics import surface_distance
from diffiso.ops import Field
from diffiso.pipelines.morph import (
    MorphSettings,
    learn_family,
    target_mesh,
    turn_sphere_into_torus,
)
from diffiso.run import seed_all, track

Row = dict[str, Any]

Law = Literal["marching cubes", "sdf", "implicit"]
LAWS: tuple[Law, ...] = ("marching cubes", "sdf", "implicit")
CELLS = 48
SEEDS = 10
HOLES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125)  # their radii, in cells
TUBE = 0.3  # radius
SAMPLE_STEPS = 300


def lattice(dtype: torch.dtype = torch.float32) -> Tensor:
    axis = torch.linspace(-1, 1, CELLS + 1, dtype=dtype)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def edge_rows() -> list[Row]:
    """Return by how many edges vertices move per world unit of their samples."""
    cell, points = 2 / CELLS, lattice(torch.float64)
    rows = []
    for hole in HOLES:
        major = TUBE + hole * cell
        ring = points[..., :2].norm(dim=-1) - major
        values = torch.stack([ring, points[..., 2]], dim=-1).norm(dim=-1) - TUBE
        apart = []
        for axis in range(3):
            first, second = values.narrow(axis, 0, CELLS), values.narrow(axis, 1, CELLS)
            apart.append((first - second)[(first < 0) != (second < 0)].abs())
        speeds = cell / torch.cat(apart)
        inner = torch.tensor([0.5, 0.99, 1.0], dtype=torch.float64)
        median, high, most = torch.quantile(speeds, inner).tolist()
        rows.append(
            {"what": "edges", "hole_cells": hole, "median": median, "p99": high, "most": most}
        )
    return rows


def extraction(law: Law) -> Callable[[Field], Mesh]:
    """Return what makes a mesh of a field, with one of the derivatives."""
    if law != "marching cubes":
        band = NarrowBand(-1.0, 1.0, CELLS, refresh_every=10)

        def extract(field: Field) -> Mesh:
            mesh = diffiso.isosurface(field, law=law, band=band)
            assert isinstance(mesh, Mesh)
            return mesh

        return extract
    points = lattice()
    return lambda field: of_samples(field(points.reshape(-1, 3)).reshape(points.shape[:3]), law)


def of_samples(values: Tensor, law: Law) -> Mesh:
    """Return the mesh of samples, with one of the derivatives."""
    grid = Grid.from_bounds(values, -1.0, 1.0)
    if law == "marching cubes":
        mesh = diffiso.marching_cubes(grid)
    else:
        mesh = diffiso.isosurface(grid, law=law)
    assert isinstance(mesh, Mesh)
    return mesh


def code_row(seed: int, law: Law) -> Row:
    generator = seed_all(seed)
    settings = MorphSettings(resolution=CELLS)
    family = learn_family(settings, generator)
    history = turn_sphere_into_torus(family, settings, generator, extraction(law))
    return row_of("codes", seed, law, [(s.mesh, s.loss, s.euler_number) for s in history])


def sample_row(seed: int, law: Law) -> Row:
    """A sphere of samples, whose own values move towards the torus."""
    generator = seed_all(seed)
    target = target_mesh(MorphSettings(resolution=CELLS))
    points = target.sample(4000, generator).points
    values = (lattice().norm(dim=-1) - 0.55).requires_grad_()
    optimizer = torch.optim.Adam([values], 2e-3)
    history = []
    for _ in track(range(SAMPLE_STEPS), f"samples, {law}"):
        mesh = of_samples(values, law)
        loss = surface_loss(mesh, target, points, generator)
        history.append((mesh.detach(), float(loss.detach()), mesh.euler_number()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return row_of("samples", seed, law, history)


def row_of(what: str, seed: int, law: Law, history: list[tuple[Mesh, float, int]]) -> Row:
    settings = MorphSettings(resolution=CELLS)
    mesh = history[-1][0]
    distance = surface_distance(
        mesh, target_mesh(settings), 200_000, torch.Generator().manual_seed(seed)
    )
    numbers = [number for _, _, number in history]
    return {
        "what": what,
        "seed": seed,
        "law": law,
        "euler_numbers": numbers,
        "losses": [loss for _, loss, _ in history],
        "rms_share_of_radius": distance.rms / settings.target[0],
    }


def classical_rows(run: int) -> list[Row]:
    first = edge_rows() if run == 0 else []
    codes = [code_row(run, law) for law in LAWS]
    return [*first, *codes, *([sample_row(run, law) for law in LAWS] if run < 3 else [])]


def classical_table(rows: list[Row]) -> str:
    lines = ["| hole's radius, cells | median | 99% | most |", "|---" * 4 + "|"]
    lines += [
        f"| {r['hole_cells']:g} | {r['median']:.2f} | {r['p99']:.1f} | {r['most']:.1f} |"
        for r in rows
        if r["what"] == "edges"
    ]
    lines += ["", "| moved | derivative | seeds | Euler number 0 at the end | RMS / radius: mean |"]
    lines += ["|---" * 5 + "|"]
    for what in ("codes", "samples"):
        for law in LAWS:
            mine = [r for r in rows if r["what"] == what and r["law"] == law]
            turned = sum(r["euler_numbers"][-1] == 0 for r in mine)
            rms = 100 * statistics.fmean(r["rms_share_of_radius"] for r in mine)
            lines.append(f"| {what} | {law} | {len(mine)} | {turned} of {len(mine)} | {rms:.2f}% |")
    return "\n".join(lines)
