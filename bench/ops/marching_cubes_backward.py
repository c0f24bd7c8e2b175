# SPDX-License-Identifier: Apache-2.0
"""From gradients of vertices to gradients of samples and level."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    Floor,
    Growth,
    Outputs,
    Settings,
    gyroid,
    over_threads,
    random,
    sphere,
    spheres,
)
from bench.peers import SLOW_RUNS
from diffiso import reference


def backward(outputs: Tensor, inputs: list[Tensor], weights: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(outputs, inputs, weights, retain_graph=True)


def gradients(found: Any) -> Outputs:
    """Of the samples, and of the level where it comes too."""
    parts = [found] if isinstance(found, Tensor) else list(found)
    return dict(zip(("of samples", "of level"), [[part] for part in parts], strict=False))


def by_index_add(values: Tensor, edges: Tensor, weights: Tensor) -> Callable[[], object]:
    """Plain torch, given the grid edge of every vertex: gather two samples, scatter two shares."""
    strides = torch.tensor([values.stride(0), values.stride(1), 1], device=values.device)

    def run() -> Tensor:
        low, axis = edges // 3, edges % 3
        high = low + strides[axis]
        a, b = values.flatten()[low], values.flatten()[high]
        along = weights.gather(1, axis[:, None])[:, 0] / (b - a).square()
        gradient = torch.zeros(values.numel(), device=values.device)
        gradient.index_add_(0, low, -along * b)
        gradient.index_add_(0, high, along * a)
        return gradient.view(values.shape)

    return run


def case(name: str, plain: Tensor, *, with_reference: bool) -> Case:
    values = plain.clone().requires_grad_()
    level = torch.zeros((), device=plain.device, requires_grad=True)
    mesh = diffiso.marching_cubes(values, level, return_edges=True)
    assert isinstance(mesh, diffiso.Mesh)
    assert mesh.edges is not None
    weights = torch.ones_like(mesh.vertices)
    offsets = torch.tensor([0, len(mesh.vertices)], device=plain.device)
    raw = (weights, plain[None], level.detach()[None], mesh.edges, offsets, [1.0] * 3, False)
    contenders = [
        Contender(
            "diffiso", backward(mesh.vertices, [values, level], weights), gradients, kind="ours"
        ),
        Contender(
            "diffiso, without autograd",
            lambda: torch.ops.diffiso.marching_cubes_backward(*raw),
            gradients,
            kind="ours",
        ),
        Contender(
            "torch index_add, values only", by_index_add(plain, mesh.edges, weights), gradients
        ),
    ]
    if with_reference:
        surface = reference.marching_cubes(values[None], level[None])
        run = backward(surface.vertices, [values, level], weights)
        contenders.append(Contender("pure-torch reference", run, gradients, runs=SLOW_RUNS))
    floor = Floor(reads=[weights, mesh.edges], writes=[plain])
    return Case(name, contenders, samples=plain.numel(), floor=floor)


def cases(settings: Settings) -> Iterator[Case]:
    size, device = settings.size, settings.device
    nodes = size(256, 20)
    name = "{} {}^3 float32".format
    yield case(name("sphere", nodes), sphere(nodes, device), with_reference=False)
    yield case(name("gyroid", nodes), gyroid(nodes, device), with_reference=False)
    nodes = size(64, 8)
    small = random(nodes, device)
    yield case(name("random", nodes), small, with_reference=settings.on_cpu)


def growths(settings: Settings) -> Iterator[Growth]:
    size, device = settings.size, settings.device

    def back(plain: Tensor) -> Callable[[], object]:
        values = plain.clone().requires_grad_()
        mesh = diffiso.marching_cubes(values)
        return backward(mesh.vertices, [values], torch.ones_like(mesh.vertices))

    nodes = [size(n, n // 8) for n in (32, 64, 128, 256)]
    yield Growth("nodes along an axis", nodes, lambda n: back(gyroid(n, device)))
    side = size(64, 8)
    yield Growth(f"grids of {side}^3", [1, 4, 16, 64], lambda n: back(spheres(n, side, device)))
    yield from over_threads(back(gyroid(size(256, 20), device)), settings)
