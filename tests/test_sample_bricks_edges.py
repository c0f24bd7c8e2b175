# SPDX-License-Identifier: Apache-2.0
"""sample_grid of bricks: errors, and what lies at edges, beyond them and beside missing bricks."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close
from torch.autograd import forward_ad

from diffiso import BrickGrid, sample_grid

OP = torch.ops.diffiso.sample_bricks
BACKWARD = torch.ops.diffiso.sample_bricks_backward
NOT_FINITE = (math.nan, math.inf, -math.inf)
BRICKS = BrickGrid.from_bricks(
    torch.zeros(1, 8, 8, 8), torch.zeros(1, 3, dtype=torch.int32), [8] * 3
)
POINTS = torch.zeros(5, 3)
ARGUMENTS = (BRICKS.values, BRICKS.table, BRICKS.coordinates, POINTS, [8] * 3, [0.0] * 3, [1.0] * 3)


# Errors.


@pytest.mark.parametrize(
    ("bricks", "points", "fragments"),
    [
        (BRICKS, torch.zeros(1, 5, 3), ("points must be (P, 3)", "got (1, 5, 3)")),
        (BRICKS, torch.zeros(5, 2), ("points must be (P, 3)", "got (5, 2)")),
        (BRICKS, POINTS.double(), ("points must be torch.float32", "got torch.float64")),
        (BRICKS.to(torch.float16), POINTS.half(), ("torch.float32 or torch.float64", "float16")),
    ],
)
def test_bad_input(bricks, points, fragments):
    with pytest.raises(RuntimeError) as error:
        sample_grid(bricks, points)
    assert all(part in str(error.value) for part in ("sample_bricks: ", *fragments)), error.value


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused():
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(POINTS, torch.ones_like(POINTS))
        with pytest.raises(RuntimeError, match="sample_grid: forward-mode"):
            sample_grid(BRICKS, moving)


def test_bad_grid():
    with pytest.raises(
        TypeError, match="sample_grid: grid must be a Grid, a BrickGrid or a tensor"
    ):
        sample_grid([1.0, 2.0], POINTS)


@pytest.mark.parametrize(
    ("position", "value", "fragments"),
    [
        (0, torch.zeros(1, 8, 8, 7), ("values must be contiguous (R, 8, 8, 8)", "(1, 8, 8, 7)")),
        (1, torch.zeros(1, 1, 1), ("table must be torch.int32", "got torch.float32")),
        (1, torch.zeros(1, 1).int(), ("table must be contiguous (TX, TY, TZ)", "got (1, 1)")),
        (1, torch.zeros(2, 1, 1).int(), ("table must cover the nodes", "got (2, 1, 1) for 8")),
        (2, torch.zeros(1, 3), ("coordinates must be torch.int32", "got torch.float32")),
        (2, torch.zeros(2, 3).int(), ("coordinates must be contiguous (R, 3)", "got (2, 3)")),
        (4, [8, 8], ("nodes, lower and spacing must have 3 numbers", "got 2, 3 and 3")),
        (4, [8, 1, 8], ("nodes must be at least 2", "got 1")),
        (5, [0.0, math.inf, 0.0], ("lower must be finite", "got inf")),
        (6, [1.0, 0.0, 1.0], ("spacing must be positive", "got 0")),
    ],
)
def test_bad_bricks(position, value, fragments):
    inputs = list(ARGUMENTS)
    inputs[position] = value
    for op, extra, name in ((OP, (), "sample_bricks: "), (BACKWARD, (False,), "_backward: ")):
        leading = () if op is OP else (None, None)
        with pytest.raises(RuntimeError) as error:
            op(*leading, *inputs, *extra)
        assert all(part in str(error.value) for part in (name, *fragments)), error.value


def test_bad_cotangents():
    for cotangents in ((torch.zeros(4), None), (None, torch.zeros(5)), (POINTS, None)):
        with pytest.raises(RuntimeError, match=r"sample_bricks_backward: grad_.* match the output"):
            BACKWARD(*cotangents, *ARGUMENTS, False)


# Edges.


def test_no_points():
    values = torch.zeros(1, 8, 8, 8, requires_grad=True)
    bricks = dataclasses.replace(BRICKS, values=values)
    sdf, gradient = sample_grid(bricks, torch.zeros(0, 3))
    assert sdf.shape == (0,)
    assert gradient.shape == (0, 3)
    (sdf.sum() + gradient.sum()).backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_no_bricks():
    values, nowhere = torch.zeros(0, 8, 8, 8, requires_grad=True), torch.zeros(0, 3).int()
    sdf, gradient = sample_grid(BrickGrid.from_bricks(values, nowhere, (9, 8, 20)), POINTS)
    assert sdf.isnan().all()
    assert gradient.isnan().all()
    (sdf.sum() + gradient.sum()).backward()
    assert values.grad.shape == (0, 8, 8, 8)


def test_nodes_of_a_brick_and_of_its_missing_neighbour():
    """A cell needs its upper nodes: on the last plane of a brick alone, none has all of them."""
    values = torch.arange(512.0).reshape(1, 8, 8, 8)
    bricks = BrickGrid.from_bricks(values, torch.tensor([[1, 1, 1]]), (24, 24, 24))
    index = torch.cartesian_prod(*[torch.arange(8.0, 16.0)] * 3)
    sdf = sample_grid(bricks, index).sdf.view(8, 8, 8)
    assert torch.equal(sdf[:7, :7, :7], values[0, :7, :7, :7])
    for axis in range(3):
        assert sdf.select(axis, 7).isnan().all()
    below = torch.tensor([[7.5, 9.0, 9.0], [9.0, 7.5, 9.0], [9.0, 9.0, 7.5]])
    assert sample_grid(bricks, below).sdf.isnan().all()


def test_last_node_of_the_box_belongs_to_the_last_cell():
    """There the brick's own last plane ends a cell, and no neighbour is asked for."""
    values = torch.arange(512.0).reshape(1, 8, 8, 8)
    bricks = BrickGrid.from_bricks(values, torch.tensor([[1, 1, 1]]), (16, 16, 16))
    points = torch.tensor([[15.0, 15.0, 15.0], [18.0, 15.0, 19.0]])
    sdf, gradient = sample_grid(bricks, points)
    assert sdf.tolist() == [511.0, 516.0]
    assert_close(gradient, torch.tensor([[64.0, 8.0, 1.0], [0.6, 8.0, 0.8]]))


@pytest.mark.parametrize("axis", range(3))
def test_coordinates_that_are_not_finite(axis):
    points = torch.full((4, 3), 0.5)
    points[:3, axis] = torch.tensor(NOT_FINITE)
    values = torch.randn(1, 8, 8, 8, requires_grad=True)
    sdf, gradient = sample_grid(dataclasses.replace(BRICKS, values=values), points.requires_grad_())
    assert sdf.isnan().tolist() == [True, False, False, False]
    assert sdf.isinf().tolist() == [False, True, True, False]
    assert gradient[3].isfinite().all()
    sdf[3].backward()
    assert points.grad[3].isfinite().all()


def test_infinite_samples_are_numbers():
    values = torch.zeros(1, 8, 8, 8)
    values[0, 3, 3, 3] = math.inf
    points = torch.tensor([[2.5, 2.5, 2.5], [0.5, 0.5, 0.5]])
    assert sample_grid(dataclasses.replace(BRICKS, values=values), points).sdf.tolist() == [
        math.inf,
        0.0,
    ]


def test_tables_with_numbers_that_no_brick_has():
    for number in (-7, 1, 2**31 - 1):
        table = torch.full((1, 1, 1), number, dtype=torch.int32)
        sdf, _ = sample_grid(dataclasses.replace(BRICKS, table=table), POINTS)
        assert sdf.isnan().all()


def test_autocast_leaves_dtypes_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sdf, gradient = sample_grid(BRICKS, POINTS)
    assert sdf.dtype == gradient.dtype == torch.float32
