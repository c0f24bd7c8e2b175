# SPDX-License-Identifier: Apache-2.0
"""Trilinear samples at random points, forward and backward, beside torch's grid_sample.

grid_sample gives the value only. Through autograd it gives the gradient too, which `sample_grid`
always returns; derivatives of that gradient torch has none.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bench.cases import (
    Case,
    Contender,
    Floor,
    Growth,
    Outputs,
    Settings,
    over_threads,
    random_points,
    sphere,
)
from bench.ops.marching_cubes_backward import backward
from bench.peers import SLOW_RUNS
from bench.peers.grid_sample import grid_sample
from diffiso import Grid, reference, sample_grid
from diffiso.types import Vector3

LOWER, UPPER = -1.0, 1.0


def outputs(sample: tuple[Tensor, Tensor]) -> Outputs:
    return {"sdf": [sample[0]], "gradient": [sample[1]]}


def flipped(sample: tuple[Tensor, Tensor]) -> Outputs:
    """Of grid_sample, which counts z, y, x."""
    return {"sdf": [sample[0]], "gradient": [sample[1].flip(1)]}


def flipped_backward(gradients: tuple[Tensor, Tensor]) -> Outputs:
    return {"tensors": [gradients[0], gradients[1].flip(1)]}


def forward_case(name: str, grid: Grid, points: Tensor, threads: int) -> Case:
    places = points.flip(1).contiguous()
    attached = places.clone().requires_grad_()

    def value_and_gradient(batch: int) -> tuple[Tensor, Tensor]:
        value = grid_sample(grid.values, attached, batch)
        return value.detach(), torch.autograd.grad(value.sum(), attached)[0]

    def in_parts(name: str) -> str:
        return f"{name}, in {threads} parts"

    contenders = [
        Contender("diffiso", lambda: sample_grid(grid, points), outputs, kind="ours"),
        Contender("grid_sample + autograd", lambda: value_and_gradient(1), flipped, runs=SLOW_RUNS),
        Contender("grid_sample, value only", lambda: grid_sample(grid.values, places), kind="part"),
    ]
    if threads > 1:
        contenders += [
            Contender(
                in_parts("grid_sample + autograd"), lambda: value_and_gradient(threads), flipped
            ),
            Contender(
                in_parts("grid_sample, value only"),
                lambda: grid_sample(grid.values, places, threads),
                kind="part",
            ),
        ]
    floor = Floor([grid.values, points])
    return Case(f"{name}, forward", contenders, len(points), "point", floor)


def backward_case(name: str, grid: Grid, points: Tensor, threads: int) -> Case:
    """From the value to samples and points: what both sides can do."""
    values = grid.values.clone().requires_grad_()
    at = points.clone().requires_grad_()
    places = points.flip(1).contiguous().requires_grad_()
    weights = torch.ones(len(points), device=points.device)
    attached = sample_grid(Grid(values, *bounds(grid)), at)

    def peer(batch: int) -> Contender:
        run = backward(grid_sample(values, places, batch), [values, places], weights)
        return Contender("grid_sample" + f", in {batch} parts" * (batch > 1), run, flipped_backward)

    contenders = [
        Contender("diffiso", backward(attached.sdf, [values, at], weights), kind="ours"),
        *[peer(batch) for batch in sorted({1, threads})],
    ]
    floor = Floor([grid.values, points, weights], writes=[grid.values, points])
    return Case(f"{name}, backward of the value", contenders, len(points), "point", floor)


def double_case(name: str, grid: Grid, points: Tensor, *, with_reference: bool) -> Case:
    """From value and gradient to samples and points."""
    values = grid.values.clone().requires_grad_()
    at = points.clone().requires_grad_()
    ours = torch.cat([part.flatten() for part in sample_grid(Grid(values, *bounds(grid)), at)])
    weights = torch.ones_like(ours)
    contenders = [Contender("diffiso", backward(ours, [values, at], weights), kind="ours")]
    if with_reference:
        sample = reference.sample_grid(values[None], at[None], *bounds(grid))
        theirs = torch.cat([part.flatten() for part in sample])
        run = backward(theirs, [values, at], weights)
        contenders.append(Contender("pure-torch reference", run, runs=SLOW_RUNS))
    floor = Floor([grid.values, points, weights], writes=[grid.values, points])
    name = f"{name}, backward of value and gradient"
    return Case(name, contenders, len(points), "point", floor)


def bounds(grid: Grid) -> tuple[Vector3, Vector3]:
    return grid.lower, grid.spacing


def cases(settings: Settings) -> Iterator[Case]:
    nodes, count = settings.size(128, 16), settings.size(2**20, 2**10)
    # Parts of grid_sample's batch; a GPU needs none.
    parts = settings.threads if settings.on_cpu and count % settings.threads == 0 else 1
    grid = Grid.from_bounds(sphere(nodes, settings.device), LOWER, UPPER)
    points = random_points(count, settings.device)
    name = f"{count:,} points in {nodes}^3"
    yield forward_case(name, grid, points, parts)
    yield backward_case(name, grid, points, parts)
    yield double_case(name, grid, points, with_reference=False)
    count = settings.size(2**16, 2**8)
    name = f"{count:,} points in {nodes}^3"
    yield double_case(name, grid, points[:count].clone(), with_reference=settings.on_cpu)


def growths(settings: Settings) -> Iterator[Growth]:
    size, device = settings.size, settings.device

    def sample(nodes: int, count: int, batch: int = 1) -> Callable[[], Any]:
        values = sphere(nodes, device).expand(batch, -1, -1, -1).contiguous()
        grid = Grid.from_bounds(values, LOWER, UPPER)
        points = random_points(batch * count, device).view(batch, count, 3)
        return lambda: sample_grid(grid, points)

    nodes, counts = size(128, 16), [size(2**n, 2 ** (n - 8)) for n in (12, 14, 16, 18, 20)]
    yield Growth("points", counts, lambda n: sample(nodes, n))
    sizes = [size(n, n // 8) for n in (32, 64, 128, 256)]
    yield Growth("nodes along an axis", sizes, lambda n: sample(n, counts[-2]))
    yield Growth(
        f"grids of {counts[1]:,} points", [1, 4, 16], lambda n: sample(nodes, counts[1], n)
    )
    yield from over_threads(sample(nodes, counts[-1]), settings)
