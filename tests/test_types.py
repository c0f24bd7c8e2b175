# SPDX-License-Identifier: Apache-2.0
"""Grid, Mesh and MeshBatch: bounds, views and errors."""

import dataclasses
import math

import pytest
import torch
from fields import random_ties

from diffiso import Grid, marching_cubes

VALUES = torch.zeros(3, 4, 5)


def test_raw_values_are_in_index_coordinates():
    grid = Grid(VALUES)
    assert grid.lower == (0.0, 0.0, 0.0)
    assert grid.spacing == (1.0, 1.0, 1.0)
    assert grid.upper == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_bounds_are_the_first_and_the_last_node(shape):
    lower, upper = (-1.0, 0.5, 2.0), (3.0, 2.0, 2.5)
    grid = Grid.from_bounds(torch.zeros(shape), lower, upper)
    assert grid.lower == lower
    assert grid.upper == pytest.approx(upper, rel=1e-15)
    assert grid.spacing == pytest.approx((2.0, 0.5, 0.125), rel=1e-15)


def test_bounds_may_be_numbers_tensors_or_lists():
    expected = Grid.from_bounds(VALUES, (-1.0,) * 3, (1.0,) * 3)
    for lower, upper in ((-1, 1), ([-1, -1, -1], torch.ones(3)), (-torch.ones(3).double(), 1.0)):
        grid = Grid.from_bounds(VALUES, lower, upper)
        assert grid.lower == expected.lower
        assert grid.spacing == expected.spacing


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        (lambda: Grid(VALUES, (0.0, 0.0)), ("lower", "three", "got (0.0, 0.0)")),
        (lambda: Grid(VALUES, (0.0, 0.0, math.inf)), ("lower", "finite", "inf")),
        (lambda: Grid(VALUES, spacing=(1.0, 0.0, 1.0)), ("spacing", "positive", "got (1.0, 0.0")),
        (lambda: Grid.from_bounds(VALUES, 1, 1), ("upper", "above lower", "1.0")),
        (lambda: Grid.from_bounds(VALUES, -1, math.nan), ("upper", "finite", "nan")),
        (lambda: Grid.from_bounds(VALUES[:1], -1, 1), ("values", "2 nodes", "got (1, 4, 5)")),
        (lambda: Grid.from_bounds(VALUES[0], -1, 1), ("values", "(X, Y, Z)", "got (4, 5)")),
    ],
)
def test_bad_grids(make, fragments):
    with pytest.raises(ValueError, match="Grid") as error:
        make()
    assert all(part in str(error.value) for part in fragments), error.value


def test_types_are_frozen():
    grid, mesh = Grid(VALUES), marching_cubes(VALUES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.values = VALUES
    with pytest.raises(dataclasses.FrozenInstanceError):
        mesh.faces = VALUES


def test_grid_to():
    grid = Grid(VALUES, (1.0, 2.0, 3.0), (0.5, 0.5, 0.5)).to(torch.float64)
    assert grid.values.dtype == torch.float64
    assert grid.lower == (1.0, 2.0, 3.0)
    assert grid.spacing == (0.5, 0.5, 0.5)


def test_mesh_numpy_detaches(generator):
    values = random_ties(generator, (4, 4, 4), torch.float32).requires_grad_()
    vertices, faces = marching_cubes(values).numpy()
    assert vertices.shape[1] == faces.shape[1] == 3
    assert faces.max() == len(vertices) - 1


def test_mesh_batch_indexing(generator):
    meshes = marching_cubes(
        random_ties(generator, (3, 4, 4, 4), torch.float32), index_dtype=torch.int32
    )
    assert len(list(meshes)) == len(meshes) == 3
    assert torch.equal(meshes[-1].faces, meshes[2].faces)
    assert meshes[1].faces.dtype == torch.int32
    assert sum(len(mesh.faces) for mesh in meshes) == len(meshes.faces)
    for bad in (3, -4):
        with pytest.raises(IndexError, match=rf"MeshBatch: .*got {bad}"):
            meshes[bad]


def test_gradients_pass_through_the_meshes_of_a_batch(generator):
    values = random_ties(generator, (2, 4, 4, 4), torch.float64).requires_grad_()
    meshes = marching_cubes(values)
    (slope,) = torch.autograd.grad(meshes[1].vertices.square().sum(), values)
    assert torch.equal(slope[0], torch.zeros(4, 4, 4, dtype=torch.float64))
    assert slope[1].abs().max() > 0
