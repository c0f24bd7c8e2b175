# SPDX-License-Identifier: Apache-2.0
"""What a call costs when there is next to nothing to do: dispatcher, autograd, Python."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import diffiso
from bench.cases import Case, Contender, Kind, Outputs, Settings, outputs_of_mesh, sphere
from diffiso import Grid

LOWER, SPACING = [0.0] * 3, [1.0] * 3


def no_outputs(_: object) -> Outputs:
    return {}


def call(name: str, run: Callable[[], object], kind: Kind = "part") -> Contender:
    return Contender(name, run, no_outputs, kind=kind)


def marching_cubes(settings: Settings, calls: int) -> Case:
    plain = torch.ones((1, 2, 2, 2), device=settings.device)
    plain[0, 0, 0, 0] = -1
    level = torch.zeros(1, device=settings.device)
    values = plain[0].clone().requires_grad_()

    def op(*, edges: bool) -> object:
        return torch.ops.diffiso.marching_cubes(plain, level, LOWER, SPACING, False, False, edges)

    def both_ways() -> object:
        mesh = diffiso.marching_cubes(values)
        return torch.autograd.grad(mesh.vertices.sum(), values)

    contenders = [
        Contender(
            "diffiso.marching_cubes",
            lambda: diffiso.marching_cubes(plain[0]),
            outputs_of_mesh,
            kind="ours",
        ),
        call("diffiso's op without its function", lambda: op(edges=False)),
        call("diffiso's op with edges", lambda: op(edges=True)),
        call(
            "diffiso.marching_cubes, values with a gradient", lambda: diffiso.marching_cubes(values)
        ),
        call("diffiso.marching_cubes, sum and backward", both_ways),
        *yardsticks(values, plain[0]),
    ]
    return Case("marching_cubes of 2^3 nodes", contenders, plain.numel(), calls=calls)


def small_marching_cubes(nodes: int, settings: Settings, calls: int) -> Case:
    """What is left of a call when the op itself is taken away."""
    grid = sphere(nodes, settings.device)
    values, batch = grid.clone().requires_grad_(), grid[None]
    level = torch.zeros(1, device=settings.device)
    op = torch.ops.diffiso.marching_cubes
    contenders = [
        Contender(
            "diffiso.marching_cubes",
            lambda: diffiso.marching_cubes(grid),
            outputs_of_mesh,
            kind="ours",
        ),
        call(
            "diffiso's op without its function",
            lambda: op(batch, level, LOWER, SPACING, False, False, False),
        ),
        call(
            "diffiso.marching_cubes, values with a gradient", lambda: diffiso.marching_cubes(values)
        ),
        call(
            "diffiso's op with edges", lambda: op(batch, level, LOWER, SPACING, False, False, True)
        ),
    ]
    return Case(f"marching_cubes of {nodes}^3 nodes", contenders, grid.numel(), calls=calls)


def sample_grid(settings: Settings, calls: int) -> Case:
    plain = torch.ones((1, 2, 2, 2), device=settings.device)
    points = torch.full((1, 1, 3), 0.5, device=settings.device)
    values = plain[0].clone().requires_grad_()

    def both_ways() -> object:
        return torch.autograd.grad(diffiso.sample_grid(values, points[0]).sdf.sum(), values)

    def grid_sample(values: Tensor) -> Tensor:
        return torch.nn.functional.grid_sample(
            values[None, None], points.view(1, 1, 1, 1, 3), align_corners=True
        )

    def torch_both_ways() -> object:
        return torch.autograd.grad(grid_sample(values).sum(), values)

    contenders = [
        call("diffiso.sample_grid", lambda: diffiso.sample_grid(plain[0], points[0]), "ours"),
        call(
            "diffiso's op without its function",
            lambda: torch.ops.diffiso.sample_grid(plain, points, LOWER, SPACING),
        ),
        call(
            "diffiso.sample_grid, values with a gradient",
            lambda: diffiso.sample_grid(values, points[0]),
        ),
        call("diffiso.sample_grid, sum and backward", both_ways),
        call("grid_sample", lambda: grid_sample(plain[0])),
        call("grid_sample, sum and backward", torch_both_ways),
    ]
    return Case("sample_grid of 1 point", contenders, samples=1, unit="point", calls=calls)


def mesh_sdf(settings: Settings, calls: int) -> Case:
    plain = torch.arange(8.0, device=settings.device).view(2, 2, 2)
    vertices = torch.full((1, 3), 0.5, device=settings.device)
    values = plain.clone().requires_grad_()

    def both_ways() -> object:
        moved = diffiso.mesh_sdf(Grid(values), vertices)
        return torch.autograd.grad(moved.sum(), values)

    contenders = [
        call("diffiso.mesh_sdf", lambda: diffiso.mesh_sdf(Grid(plain), vertices), "ours"),
        call(
            "diffiso.mesh_sdf, values with a gradient",
            lambda: diffiso.mesh_sdf(Grid(values), vertices),
        ),
        call("diffiso.mesh_sdf, sum and backward", both_ways),
        *yardsticks(values, plain),
    ]
    return Case("mesh_sdf of 1 vertex", contenders, samples=1, unit="vertex", calls=calls)


def yardsticks(values: Tensor, plain: Tensor) -> list[Contender]:
    """What torch itself takes for about nothing."""
    return [
        call("torch.exp", lambda: torch.exp(plain)),
        call("torch.exp, values with a gradient", lambda: torch.exp(values)),
        call(
            "torch.exp, sum and backward",
            lambda: torch.autograd.grad(torch.exp(values).sum(), values),
        ),
    ]


def cases(settings: Settings) -> Iterator[Case]:
    calls = settings.size(2000, 5)
    yield marching_cubes(settings, calls)
    for nodes in (settings.size(32, 4), settings.size(64, 8)):
        yield small_marching_cubes(nodes, settings, max(calls // 10, 5))
    yield sample_grid(settings, calls)
    yield mesh_sdf(settings, calls)
