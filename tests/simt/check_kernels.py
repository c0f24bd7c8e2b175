# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel against the CPU op of the same name, on CPU tensors.

Forwards must agree to the last bit: both run one arithmetic core, with nothing contracted. Only
sums whose order differs are compared within the tolerances of conftest.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from conftest import assert_close
from fields import (
    GRID_DTYPES,
    random_ties,
    sample,
    shuffled_bricks,
    sphere,
    sprinkle,
    with_holes,
)
from torch import Tensor

import diffiso

torch.ops.load_library(os.environ["DIFFISO_SIMT_LIBRARY"])

cpu = torch.ops.diffiso
simt = torch.ops.diffiso_simt

# Around what a warp (32), a word of signs (64) and two words hold, on every axis.
SHAPES = [(2, 2, 2), (3, 5, 130), (2, 65, 33), (64, 3, 2), (4, 2, 64), (2, 3, 65), (7, 6, 5)]
LOWER = [-1.0, 0.25, 3.0]
SPACING = [0.5, 0.1, 1.7]
ROUNDINGS = 16  # what the tolerances of conftest.py allow for
FLOATS = (torch.float32, torch.float64)


def compute_dtype(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def smooth(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def special(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return sprinkle(random_ties(generator, shape, dtype), generator)


def ball(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Spheres of random radii, some too large to be seen."""
    radii = 0.5 + torch.rand(shape[0], generator=generator)
    return torch.stack([sample(sphere(r.item()), shape[1:], dtype=dtype) for r in radii])


def assert_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_every_op_runs_here() -> None:
    assert diffiso.build_info()
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    by_namespace = {
        space: {n.split("::")[1] for n in names if n.startswith(space + "::")}
        for space in ("diffiso", "diffiso_simt")
    }
    assert by_namespace["diffiso"] == by_namespace["diffiso_simt"] != set()


# marching_cubes


@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("field", [smooth, random_ties, special, ball])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_marching_cubes(
    generator: torch.Generator,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    field,
    close_boundary: bool,
) -> None:
    batch = 1 if field is smooth else 3
    values = field(generator, (batch, *shape), dtype)
    level = torch.tensor([0.0, 0.5, -0.5][:batch], dtype=compute_dtype(values))
    for int32_faces in (False, True):
        arguments = (values, level, LOWER, SPACING, close_boundary, int32_faces, True)
        expected = cpu.marching_cubes(*arguments)
        assert_equal(simt.marching_cubes(*arguments), expected)

    vertices, _, edges, offsets, _ = expected
    grad = torch.randn(vertices.shape, generator=generator, dtype=vertices.dtype)
    backward = (grad, values, level, edges, offsets, SPACING, close_boundary)
    grad_values, grad_level = simt.marching_cubes_backward(*backward)
    expected_values, expected_level = cpu.marching_cubes_backward(*backward)
    assert_close(grad_values, expected_values)
    # Summed in double, with one rounding a vertex.
    factor = 1 + len(vertices) / ROUNDINGS if values.dtype == torch.float64 else 1
    assert_close(grad_level, expected_level, factor)


def test_marching_cubes_without_edges(generator: torch.Generator) -> None:
    values = smooth(generator, (2, 5, 6, 70), torch.float32)
    arguments = (values, torch.zeros(2), LOWER, SPACING, False, False, False)
    assert_equal(simt.marching_cubes(*arguments), cpu.marching_cubes(*arguments))


@pytest.mark.parametrize("fill", [-1.0, 1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("close_boundary", [False, True])
def test_marching_cubes_of_a_constant(batch: int, fill: float, close_boundary: bool) -> None:
    values = torch.full((batch, 3, 4, 66), fill)
    arguments = (values, torch.zeros(batch), LOWER, SPACING, close_boundary, False, True)
    assert_equal(simt.marching_cubes(*arguments), cpu.marching_cubes(*arguments))


@pytest.mark.parametrize("close_boundary", [False, True])
def test_marching_cubes_with_one_absent_sample(close_boundary: bool) -> None:
    """Whichever thread sees it, all must know."""
    ties = random_ties(torch.Generator().manual_seed(1), (1, 3, 3, 67), torch.float32)
    for node in range(0, ties.numel(), 5):
        values = ties.clone()
        values.view(-1)[node] = math.nan
        arguments = (values, torch.zeros(1), LOWER, SPACING, close_boundary, False, True)
        assert_equal(simt.marching_cubes(*arguments), cpu.marching_cubes(*arguments))


def test_marching_cubes_refuses_a_level_that_is_no_number() -> None:
    values, level = torch.zeros(2, 2, 2, 2), torch.tensor([0.0, math.nan])
    with pytest.raises(RuntimeError, match="level must be a number, got nan"):
        simt.marching_cubes(values, level, LOWER, SPACING, False, False, False)


# sample_grid


def sample_points(
    generator: torch.Generator, values: Tensor, count: int, dtype: torch.dtype
) -> Tensor:
    """Points in the box and beyond it, then on nodes, then a few that are not finite."""
    batch, *nodes = values.shape
    size = torch.tensor(nodes, dtype=dtype) - 1
    index = (torch.rand((batch, count, 3), generator=generator, dtype=dtype) * 1.6 - 0.3) * size
    on_node = torch.rand((batch, count, 3), generator=generator) < 0.3
    index = torch.where(on_node, index.round(), index)
    points = torch.tensor(LOWER, dtype=dtype) + index * torch.tensor(SPACING, dtype=dtype)
    if count > 4:
        points[:, :3] = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)[:, None]
    return points


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_sample_grid(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int], count: int
) -> None:
    values = smooth(generator, (2, *shape), dtype)
    points = sample_points(generator, values, count, dtype)
    assert_equal(
        simt.sample_grid(values, points, LOWER, SPACING),
        cpu.sample_grid(values, points, LOWER, SPACING),
    )

    points = points[:, 3:].contiguous()  # a gradient at a point that is no number says nothing
    grad_sdf = torch.randn(points.shape[:2], generator=generator, dtype=dtype)
    grad_gradient = torch.randn(points.shape, generator=generator, dtype=dtype)
    for pair in ((grad_sdf, grad_gradient), (grad_sdf, None), (None, grad_gradient)):
        for deterministic in (False, True):
            arguments = (*pair, values, points, LOWER, SPACING, deterministic)
            grad_values, grad_points = simt.sample_grid_backward(*arguments)
            expected_values, expected_points = cpu.sample_grid_backward(*arguments)
            assert_equal([grad_points], [expected_points])
            # A node of the smallest grid is a corner of every point's cell.
            assert_close(grad_values, expected_values, factor=1 + count / ROUNDINGS)


def holed_bricks(
    generator: torch.Generator, shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    values = with_holes(smooth(generator, shape, dtype), generator)
    bricks = shuffled_bricks(diffiso.Grid(values), generator)
    return bricks.values, bricks.table, bricks.coordinates


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 9, 16), (17, 3, 40)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sample_bricks(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int], count: int
) -> None:
    bricks, where = holed_bricks(generator, shape, dtype), (list(shape), LOWER, SPACING)
    points = sample_points(generator, torch.empty(1, *shape), count, dtype)[0]
    assert_equal(
        simt.sample_bricks(*bricks, points, *where), cpu.sample_bricks(*bricks, points, *where)
    )

    points = points[3:].contiguous()
    grad_sdf = torch.randn(points.shape[:1], generator=generator, dtype=dtype)
    grad_gradient = torch.randn(points.shape, generator=generator, dtype=dtype)
    for pair in ((grad_sdf, grad_gradient), (grad_sdf, None), (None, grad_gradient)):
        for deterministic in (False, True):
            arguments = (*pair, *bricks, points, *where, deterministic)
            grad_values, grad_points = simt.sample_bricks_backward(*arguments)
            expected_values, expected_points = cpu.sample_bricks_backward(*arguments)
            assert_equal([grad_points], [expected_points])
            assert_close(grad_values, expected_values, factor=1 + count / ROUNDINGS)


# mesh_sdf


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_mesh_sdf(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int], implicit: bool
) -> None:
    values = smooth(generator, (2, *shape), dtype)
    values[0, 0] = 1  # a flat part, where no direction is known
    level = torch.zeros(2, dtype=dtype)
    vertices, _, _, offsets, _ = cpu.marching_cubes(
        values, level, LOWER, SPACING, False, False, False
    )
    where = (vertices, offsets, LOWER, SPACING, implicit)
    assert_equal([simt.mesh_sdf(values, *where)], [cpu.mesh_sdf(values, *where)])

    grad = torch.randn(vertices.shape, generator=generator, dtype=dtype)
    for deterministic in (False, True):
        arguments = (grad, values, *where, deterministic)
        actual = simt.mesh_sdf_backward(*arguments)
        expected = cpu.mesh_sdf_backward(*arguments)
        # 54 edges of the lattice lie in the cells around a node.
        assert_close(actual, expected, factor=1 + 54 / ROUNDINGS)


def test_mesh_sdf_of_nothing() -> None:
    values = torch.ones(2, 3, 3, 3)
    where = (torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), LOWER, SPACING, False)
    assert simt.mesh_sdf(values, *where).shape == (0, 3)
    grad = simt.mesh_sdf_backward(torch.zeros(0, 3), values, *where, False)
    assert_equal([grad], [torch.zeros_like(values)])


# What no CPU op has


@pytest.mark.parametrize("op", ["sample_grid", "sample_bricks", "mesh_sdf"])
def test_deterministic_backwards_repeat_to_the_bit(generator: torch.Generator, op: str) -> None:
    values = smooth(generator, (1, 4, 5, 6), torch.float32)
    points = sample_points(generator, values, 1000, torch.float32)[:, 3:].contiguous()
    if op == "sample_grid":
        grad = torch.randn(points.shape[:2], generator=generator)
        arguments = (grad, None, values, points, LOWER, SPACING, True)
        runs = [simt.sample_grid_backward(*arguments)[0] for _ in range(4)]
    elif op == "sample_bricks":
        bricks, where = holed_bricks(generator, (17, 3, 16), torch.float32), ([17, 3, 16], LOWER)
        points = sample_points(generator, torch.empty(1, 17, 3, 16), 1000, torch.float32)[0, 3:]
        grad = torch.randn(len(points), generator=generator)
        arguments = (grad, None, *bricks, points.contiguous(), *where, SPACING, True)
        runs = [simt.sample_bricks_backward(*arguments)[0] for _ in range(4)]
        assert runs[0].count_nonzero() > 300
    else:
        offsets = torch.tensor([0, points.shape[1]])
        grad = torch.randn(points.shape[1], 3, generator=generator)
        arguments = (grad, values, points[0], offsets, LOWER, SPACING, False, True)
        runs = [simt.mesh_sdf_backward(*arguments) for _ in range(4)]
    # The harness turns the order of threads around from launch to launch.
    for first, second in pairwise(runs):
        assert torch.equal(first, second)
