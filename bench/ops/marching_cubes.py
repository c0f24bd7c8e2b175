# SPDX-License-Identifier: Apache-2.0
"""Extraction: big smooth surfaces, a batch of small grids, and a grid full of surface."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    Floor,
    Growth,
    LeftOut,
    Outputs,
    Settings,
    gyroid,
    outputs_of_mesh,
    over_threads,
    random,
    sphere,
    spheres,
)
from bench.peers import surfaces
from diffiso import Mesh

# A case's samples, their float16 and what they were made from; contenders need less.
BYTES_A_NODE = 12


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


def cases(settings: Settings) -> Iterator[Case | LeftOut]:
    size, device = settings.size, settings.device

    def peers_of(values: Tensor) -> list[Contender]:
        return [
            *surfaces.flying_edges([values], settings),
            *surfaces.diso([values], settings),
            *surfaces.isoext([values], settings),
            *surfaces.torchmcubes([values], settings),
            *([] if settings.on_cpu else surfaces.warp([values], settings)),
        ]

    def slow(values: Tensor) -> list[Contender]:
        return [
            *surfaces.scikit_image(values, settings),
            *surfaces.pymcubes(values, settings),
            *surfaces.libigl(values, settings),
            *(surfaces.warp([values], settings) if settings.on_cpu else []),
        ]

    nodes = size(256, 20)
    values = sphere(nodes, device)
    yield case(f"sphere {nodes}^3 float32", values, [*peers_of(values), *slow(values)])

    large = [(field, size(512, 24), torch.float32) for field in (sphere, gyroid)]
    large.append((sphere, size(512, 24), torch.float16))
    if not settings.on_cpu:
        large += [(sphere, size(1024, 32), dtype) for dtype in (torch.float32, torch.float16)]
    for field, nodes, dtype in large:
        name = f"{field.__name__} {nodes}^3 {str(dtype).removeprefix('torch.')}"
        if missing := settings.lacks(BYTES_A_NODE * nodes**3):
            yield LeftOut(name, missing)
            continue
        values = field(nodes, device).to(dtype)
        if dtype == torch.float16:
            others = surfaces.flying_edges([values], settings, cast=True)
        else:
            others = peers_of(values)
        yield case(name, values, others)
        del values, others

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
        *slow(values),
        *surfaces.reference_marching_cubes(values, settings),
    ]
    # Tables differ in how many faces they give ambiguous cells, of which noise has plenty.
    others = [replace(each, allowed={"faces": 0.05}) for each in others]
    yield case(f"random {nodes}^3 float32", values, others)


def growths(settings: Settings) -> Iterator[Growth]:
    size, device = settings.size, settings.device

    def extract(values: Tensor) -> Callable[[], Any]:
        return lambda: diffiso.marching_cubes(values)

    nodes = [size(n, n // 8) for n in (32, 64, 128, 256, 512)]
    yield Growth("nodes along an axis", nodes, lambda n: extract(sphere(n, device)))
    nodes = [size(n, n // 8) for n in (16, 32, 64, 128)]
    name = "nodes along an axis of noise"
    yield Growth(name, nodes, lambda n: extract(random(n, device)))
    side = size(64, 8)
    yield Growth(f"grids of {side}^3", [1, 4, 16, 64], lambda n: extract(spheres(n, side, device)))
    yield from over_threads(extract(sphere(size(256, 20), device)), settings)
