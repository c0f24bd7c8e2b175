# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of marching cubes on bricks against the CPU op, to the last bit."""

from __future__ import annotations

import math
import os

import pytest
import torch
from check_kernels import LOWER, ROUNDINGS, SPACING, assert_equal, compute_dtype, smooth
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

from diffiso import BrickGrid, Grid

torch.ops.load_library(os.environ["DIFFISO_SIMT_LIBRARY"])

cpu = torch.ops.diffiso
simt = torch.ops.diffiso_simt

# Around what a brick (8), a warp of four bricks and a block of 32 hold.
SHAPES = [(2, 2, 2), (8, 8, 8), (9, 9, 9), (3, 17, 64), (24, 26, 30), (40, 41, 33)]


def holed(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = sprinkle(random_ties(generator, shape, dtype), generator, share=0.03)
    return with_holes(values, generator)


def near_a_sphere(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = sample(sphere(0.7), shape, dtype=dtype)
    return values.where(values.abs() < 0.2, math.nan)


def assert_same_extraction(
    generator: torch.Generator, bricks: BrickGrid, level: Tensor
) -> tuple[Tensor, ...]:
    """Compare forward and backward; return the vertices, faces and edges."""
    inputs = (bricks.values, bricks.table, bricks.coordinates)
    nodes = list(bricks.nodes)
    for int32_faces in (False, True):
        arguments = (*inputs, level, nodes, LOWER, SPACING, int32_faces, True)
        expected = cpu.marching_cubes_bricks(*arguments)
        assert_equal(simt.marching_cubes_bricks(*arguments), expected)

    vertices, _, edges = expected
    grad = torch.randn(vertices.shape, generator=generator, dtype=vertices.dtype)
    backward = (grad, *inputs, level, edges, nodes, SPACING)
    grad_values, grad_level = simt.marching_cubes_bricks_backward(*backward)
    expected_values, expected_level = cpu.marching_cubes_bricks_backward(*backward)
    assert_equal([grad_values], [expected_values])
    # Summed in double in another order, with one rounding a vertex.
    factor = 1 + len(vertices) / ROUNDINGS if level.dtype == torch.float64 else 1
    assert_close(grad_level, expected_level, factor)
    return expected


@pytest.mark.parametrize("field", [smooth, random_ties, holed, near_a_sphere])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_marching_cubes_bricks(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int], field
) -> None:
    bricks = shuffled_bricks(Grid(field(generator, shape, dtype)), generator)
    level = torch.tensor([0.125], dtype=compute_dtype(bricks.values))
    assert_same_extraction(generator, bricks, level)


def test_without_edges(generator: torch.Generator) -> None:
    bricks = shuffled_bricks(Grid(holed(generator, (17, 9, 30), torch.float32)), generator)
    arguments = (bricks.values, bricks.table, bricks.coordinates, torch.zeros(1))
    arguments += (list(bricks.nodes), LOWER, SPACING, False, False)
    assert_equal(simt.marching_cubes_bricks(*arguments), cpu.marching_cubes_bricks(*arguments))


@pytest.mark.parametrize("fill", [-1.0, 1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_of_a_constant(generator: torch.Generator, count: int, fill: float) -> None:
    places = torch.cartesian_prod(*[torch.arange(2)] * 3)[:count]
    bricks = BrickGrid.from_bricks(torch.full((count, 8, 8, 8), fill), places, (16, 16, 9))
    vertices, faces, _ = assert_same_extraction(generator, bricks, torch.zeros(1))
    assert len(vertices) == len(faces) == 0


@pytest.mark.parametrize("seed", range(20))
def test_tables_that_are_wrong(seed: int) -> None:
    """Nothing is read out of bounds, and what the two make of it is the same."""
    generator = torch.Generator().manual_seed(seed)
    bricks = shuffled_bricks(Grid(smooth(generator, (24, 17, 33), torch.float32)), generator)
    count, table, coordinates = len(bricks.values), bricks.table.clone(), bricks.coordinates.clone()
    garbage = torch.tensor([-1, -5, -(2**31), 2**31 - 1, count, 0, 1, 2], dtype=torch.int32)
    for numbers, changes in ((table, 6), (coordinates, 6)):
        where = torch.randint(numbers.numel(), (changes,), generator=generator)
        which = torch.randint(len(garbage), (changes,), generator=generator)
        numbers.view(-1)[where] = garbage[which]
    wrong = BrickGrid(bricks.values, table, coordinates, bricks.nodes)
    vertices, faces, _ = assert_same_extraction(generator, wrong, torch.zeros(1))
    assert len(faces) > 1000
    assert 0 <= faces.min() <= faces.max() < len(vertices)


def test_edges_that_are_none(generator: torch.Generator) -> None:
    bricks = shuffled_bricks(Grid(holed(generator, (17, 9, 30), torch.float32)), generator)
    last = 3 * 17 * 9 * 30
    ids = torch.cat((torch.tensor([-(2**63), 2**63 - 1, -1]), torch.arange(-9, last + 9)))
    grad = torch.randn(len(ids), 3, generator=generator)
    backward = (grad, bricks.values, bricks.table, bricks.coordinates, torch.zeros(1), ids)
    backward += (list(bricks.nodes), SPACING)
    grad_values, _ = simt.marching_cubes_bricks_backward(*backward)
    expected_values, _ = cpu.marching_cubes_bricks_backward(*backward)
    assert_equal([grad_values], [expected_values])
    assert grad_values.count_nonzero() > 1000


def test_a_level_that_is_no_number_is_refused() -> None:
    bricks = BrickGrid.from_bricks(torch.zeros(1, 8, 8, 8), torch.zeros(1, 3).int(), (8, 8, 8))
    arguments = (bricks.values, bricks.table, bricks.coordinates, torch.tensor([math.nan]))
    with pytest.raises(RuntimeError, match="level must be a number, got nan"):
        simt.marching_cubes_bricks(*arguments, [8, 8, 8], LOWER, SPACING, False, False)
