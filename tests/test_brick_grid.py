# SPDX-License-Identifier: Apache-2.0
"""BrickGrid: from and to dense grids, gradients, errors, edges."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fields import sample, shuffled_bricks, sphere, with_holes

from diffiso import BrickGrid, Grid

BOX = ((-1.0, 0.25, 3.0), (0.5, 0.1, 1.7))
# Fewer nodes than a brick has, as many, one more, and some.
SHAPES = [(2, 3, 5), (8, 8, 8), (8, 16, 24), (9, 8, 7), (17, 9, 30)]
VALUES = torch.zeros(2, 8, 8, 8)
PLACES = torch.tensor([[0, 1, 0], [1, 0, 0]])


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# From and to dense grids.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_there_and_back(shape, dtype, generator):
    grid = Grid(with_holes(torch.randn(shape, generator=generator).to(dtype), generator), *BOX)
    for bricks in (BrickGrid.from_grid(grid), shuffled_bricks(grid, generator)):
        tensors = bricks.values, bricks.table, bricks.coordinates
        assert all(tensor.is_contiguous() for tensor in tensors)  # else every op would copy them
        back = bricks.to_grid()
        assert_same(back.values, grid.values)
        assert (back.lower, back.spacing) == BOX
        assert bricks.nodes == shape
        assert bricks.upper == grid.upper


def test_every_node_lies_where_the_table_says(generator):
    grid = Grid(with_holes(torch.randn(17, 9, 30, generator=generator), generator))
    bricks = shuffled_bricks(grid, generator)
    index = torch.cartesian_prod(*[torch.arange(n) for n in grid.values.shape])
    brick = bricks.table[(index // 8).unbind(dim=1)].long()
    found = bricks.values[(brick, *(index % 8).unbind(dim=1))].where(brick >= 0, torch.nan)
    assert_same(found, grid.values.flatten())
    assert (brick < 0).any()
    places = bricks.table[bricks.coordinates.long().unbind(dim=1)]
    assert places.tolist() == list(range(len(bricks.values)))


def test_bricks_without_a_node_are_left_out():
    values = torch.full((24, 24, 24), math.nan)
    values[9, 17, 7] = 1.0
    bricks = BrickGrid.from_grid(Grid(values))
    assert bricks.coordinates.tolist() == [[1, 2, 0]]
    assert bricks.table.flatten().nonzero().tolist() == [[n] for n in range(27) if n != 9 + 6]
    assert bricks.values.nansum() == bricks.values[0, 1, 1, 7] == 1


def test_bricks_keep_their_order():
    bricks = BrickGrid.from_bricks(VALUES, PLACES, (16, 16, 8))
    assert bricks.table.tolist() == [[[-1], [0]], [[1], [-1]]]
    assert torch.equal(bricks.coordinates, PLACES.int())
    assert (bricks.lower, bricks.spacing) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_band_around_a_sphere_takes_a_share():
    values = sample(sphere(0.5), (129, 129, 129))
    grid = Grid.from_bounds(values.where(values.abs() < 2 / 128, torch.nan), -1, 1)
    bricks = BrickGrid.from_grid(grid)
    # A brick is 1/8 wide: those within one and a half widths of the sphere fill a shell of three.
    assert 0 < bricks.values.numel() < 4 * math.pi * 0.5**2 * (3 / 8) / 8 * 128**3
    assert_same(bricks.to_grid().values, grid.values)


# Gradients.


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_there_and_back(shape, generator):
    values = with_holes(torch.randn(shape, generator=generator), generator).requires_grad_()
    weights = torch.randn(shape, generator=generator)
    bricks = BrickGrid.from_grid(Grid(values))
    (slope,) = torch.autograd.grad((bricks.to_grid().values * weights).nansum(), values)
    present = ~values.isnan()
    assert torch.equal(slope[present], weights[present])


def test_gradient_to_bricks_is_nothing_beyond_the_box(generator):
    bricks = shuffled_bricks(Grid(torch.randn(9, 8, 7, generator=generator)), generator)
    values = bricks.values.requires_grad_()
    bricks.to_grid().values.sum().backward()
    assert values.grad.sum() == 9 * 8 * 7
    beyond = values.detach() == 7.0
    assert beyond.sum() == 2 * 512 - 9 * 8 * 7
    assert not values.grad[beyond].any()


# Errors.


@pytest.mark.parametrize(
    ("changes", "kind", "fragments"),
    [
        ({"values": np.zeros((2, 8, 8, 8))}, TypeError, ("values must be a tensor", "ndarray")),
        ({"values": VALUES.int()}, TypeError, ("values must be floating", "torch.int32")),
        ({"values": VALUES[0]}, ValueError, ("values must be (8, 8, 8, 8)", "got (8, 8, 8)")),
        ({"values": VALUES[:, 1:]}, ValueError, ("values must be (2, 8", "got (2, 7, 8, 8)")),
        ({"values": VALUES[:1]}, ValueError, ("coordinates must be (1, 3)", "got (2, 3)")),
        ({"values": VALUES.to("meta")}, ValueError, ("table", "device of values, meta", "cpu")),
        ({"table": None}, TypeError, ("table must be a tensor", "NoneType")),
        ({"table": torch.zeros(2, 2, 1)}, TypeError, ("table must be torch.int32", "float32")),
        ({"table": torch.zeros(2, 1, 2).int()}, ValueError, ("table must be (2, 2, 1)",)),
        ({"coordinates": PLACES}, TypeError, ("coordinates must be torch.int32", "int64")),
        ({"coordinates": PLACES.int()[0]}, ValueError, ("coordinates must be (2, 3)", "got (3,)")),
        ({"nodes": (16, 16)}, ValueError, ("nodes must be three", "got (16, 16)")),
        ({"nodes": (16, 16, 1)}, ValueError, ("nodes must be", "at least 2", "got (16, 16, 1)")),
        ({"nodes": (16.0, 16, 8)}, ValueError, ("nodes must be three", "got (16.0, 16, 8)")),
        ({"nodes": 16}, ValueError, ("nodes must be three", "got 16")),
        ({"nodes": (17, 16, 8)}, ValueError, ("table must be (3, 2, 1)", "got (2, 2, 1)")),
        ({"lower": (0.0, math.inf, 0.0)}, ValueError, ("lower", "finite", "inf")),
        ({"spacing": (1.0, 1.0)}, ValueError, ("spacing", "three")),
        ({"spacing": (1.0, -1.0, 1.0)}, ValueError, ("spacing must be positive", "-1.0")),
    ],
)
def test_bad_bricks(changes, kind, fragments):
    bricks = BrickGrid.from_bricks(VALUES, PLACES, (16, 16, 8))
    with pytest.raises(kind, match="BrickGrid: ") as error:
        dataclasses.replace(bricks, **changes)
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("values", "coordinates", "kind", "fragments"),
    [
        (VALUES, PLACES.double(), TypeError, ("coordinates must be torch.int32 or int64", "64")),
        (VALUES, PLACES[0], ValueError, ("coordinates must be (R, 3)", "got (3,)")),
        (VALUES, PLACES[:, :2], ValueError, ("coordinates must be (R, 3)", "got (2, 2)")),
        (VALUES, PLACES - 1, ValueError, ("from 0 to below (2, 2, 1)", "got [-1, 0, -1]")),
        (VALUES, PLACES * 2, ValueError, ("from 0 to below (2, 2, 1)", "got [0, 2, 0]")),
        (VALUES, PLACES[[1, 1]], ValueError, ("must differ", "two bricks in one place")),
        (VALUES[:1], PLACES, ValueError, ("coordinates must be (1, 3)", "got (2, 3)")),
        (VALUES.to("meta"), PLACES, ValueError, ("device of values, meta", "got cpu")),
    ],
)
def test_bad_places(values, coordinates, kind, fragments):
    with pytest.raises(kind, match="BrickGrid: ") as error:
        BrickGrid.from_bricks(values, coordinates, (16, 16, 8))
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("values", "kind", "fragments"),
    [
        (torch.zeros(2, 4, 4, 4), ValueError, ("values must be (X, Y, Z)", "got (2, 4, 4, 4)")),
        (torch.zeros(4, 1, 4), ValueError, ("nodes must be", "at least 2", "got (4, 1, 4)")),
        (torch.zeros(4, 4, 4).int(), TypeError, ("values must be floating", "torch.int32")),
    ],
)
def test_bad_dense_grids(values, kind, fragments):
    with pytest.raises(kind, match="BrickGrid: ") as error:
        BrickGrid.from_grid(Grid(values))
    assert all(part in str(error.value) for part in fragments), error.value


# Edges.


def test_no_bricks():
    grid = Grid(torch.full((9, 4, 20), math.nan), *BOX)
    bricks = BrickGrid.from_grid(grid)
    assert bricks.values.shape == (0, 8, 8, 8)
    assert bricks.table.shape == (2, 1, 3)
    assert (bricks.table == -1).all()
    assert bricks.to_grid().values.isnan().all()


def test_whatever_counts_as_a_number_of_nodes():
    expected = BrickGrid.from_bricks(VALUES, PLACES, (16, 16, 8))
    for nodes in (
        [16, 16, 8],
        torch.tensor([16, 16, 8]),
        np.array([16, 16, 8]),
        torch.Size([16, 16, 8]),
    ):
        bricks = BrickGrid.from_bricks(VALUES, PLACES.int(), nodes)
        assert bricks.nodes == expected.nodes
        assert all(type(n) is int for n in bricks.nodes)
        assert torch.equal(bricks.table, expected.table)


def test_to_takes_the_table_along():
    bricks = BrickGrid.from_bricks(VALUES, PLACES, (16, 16, 8), *BOX)
    double = bricks.to(torch.float64)
    assert double.values.dtype == torch.float64
    assert double.table.dtype == double.coordinates.dtype == torch.int32
    elsewhere = bricks.to("meta", torch.float16)
    assert {t.device.type for t in (elsewhere.values, elsewhere.table, elsewhere.coordinates)} == {
        "meta"
    }
    for moved in (double, elsewhere):
        assert (moved.nodes, moved.lower, moved.spacing) == ((16, 16, 8), *BOX)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BrickGrid.from_bricks(VALUES, PLACES, (16, 16, 8)).values = VALUES


@pytest.mark.cuda
def test_on_a_gpu(generator):
    grid = Grid(with_holes(torch.randn(17, 9, 30, generator=generator), generator), *BOX)
    bricks = BrickGrid.from_grid(grid.to("cuda"))
    expected = BrickGrid.from_grid(grid)
    assert torch.equal(bricks.table.cpu(), expected.table)
    assert_same(bricks.to_grid().values.cpu(), grid.values)
    assert bricks.to("cpu").table.device.type == "cpu"
    with pytest.raises(ValueError, match="BrickGrid: table must be on the device of values"):
        BrickGrid.from_bricks(bricks.values, expected.coordinates, expected.nodes)
