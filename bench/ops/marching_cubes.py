# SPDX-License-Identifier: Apache-2.0
"""Extraction: big smooth surfaces, a batch of small grids, and a grid full of surface."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    Floor,
    Outputs,
    Settings,
    gyroid,
    outputs_of_mesh,
    random,
    sphere,
    spheres,
)
from bench.peers import surfaces
from diffiso import Mesh


def ours(values: Tensor) -> list[Contender]:
    """With faces of int64 and int32, without and with the grid edge of every vertex."""

    def contender(dtype: torch.dtype, edges: bool) -> Contender:
        name = f"diffiso, {str(dtype).removeprefix('torch.')} faces" + ", edges" * edges
        return Contender(
            name,
            lambda: diffiso.marching_cubes(values, index_dtype=dtype, return_edges=edges),
            outputs_of_mesh,
            kind="ours",
        )

    dtypes = (torch.int64, torch.int32)
    return [contender(dtype, edges) for edges in (False, True) for dtype in dtypes]


def one_by_one(batch: Tensor) -> Contender:
    def outputs(meshes: list[Mesh]) -> Outputs:
        return {"vertices": [m.vertices for m in meshes], "faces": [m.faces for m in meshes]}

    return Contender(
        "diffiso, one grid at a time",
        lambda: [diffiso.marching_cubes(values) for values in batch],
        outputs,
        kind="ours",
    )


def case(name: str, values: Tensor, others: list[Contender]) -> Case:
    contenders = [*ours(values), *others]
    return Case(name, contenders, samples=values.numel(), floor=Floor([values]))


def cases(settings: Settings) -> Iterator[Case]:
    size, device = settings.size, settings.device

    def peers_of(values: Tensor) -> list[Contender]:
        return [
            *surfaces.flying_edges([values], settings),
            *surfaces.diso([values], settings),
            *surfaces.isoext([values], settings),
        ]

    nodes = size(256, 20)
    values = sphere(nodes, device)
    slow = [*surfaces.scikit_image(values, settings), *surfaces.pymcubes(values, settings)]
    yield case(f"sphere {nodes}^3 float32", values, [*peers_of(values), *slow])
    del slow

    nodes = size(512, 24)
    values = sphere(nodes, device)
    yield case(f"sphere {nodes}^3 float32", values, peers_of(values))
    values = gyroid(nodes, device)
    yield case(f"gyroid {nodes}^3 float32", values, peers_of(values))
    values = sphere(nodes, device).half()
    cast = surfaces.flying_edges([values], settings, cast=True)
    yield case(f"sphere {nodes}^3 float16", values, cast)

    if not settings.on_cpu:
        nodes = size(1024, 32)
        values = sphere(nodes, device)
        yield case(f"sphere {nodes}^3 float32", values, peers_of(values))
        values = values.half()
        yield case(f"sphere {nodes}^3 float16", values, [])

    nodes, count = size(64, 8), size(64, 4)
    batch = spheres(count, nodes, device)
    others = [
        one_by_one(batch),
        *surfaces.flying_edges(list(batch), settings),
        *surfaces.flying_edges(list(batch), settings, backend="Sequential"),
        *surfaces.diso(list(batch), settings),
        *surfaces.isoext(list(batch), settings),
    ]
    yield case(f"{count} spheres of {nodes}^3 float32", batch, others)

    values = random(nodes, device)
    others = [
        *peers_of(values),
        *surfaces.flying_edges([values], settings, backend="Sequential"),
        *surfaces.scikit_image(values, settings),
        *surfaces.pymcubes(values, settings),
        *surfaces.reference_marching_cubes(values, settings),
    ]
    # Tables differ in how many faces they give ambiguous cells, of which noise has plenty.
    others = [replace(each, allowed={"faces": 0.05}) for each in others]
    yield case(f"random {nodes}^3 float32", values, others)
