# SPDX-License-Identifier: Apache-2.0
"""isosurface and vertex_attributes of bricks: values, gradients, errors, edges."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close
from fields import random_smooth, sample, shuffled_bricks, sphere, with_holes

from diffiso import BrickGrid, Grid, isosurface, marching_cubes, mesh_sdf, vertex_attributes
from diffiso.fields import BrickField

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
LAWS = ("sdf", "implicit")


def holed_grid(generator):
    values = random_smooth(generator, (18, 9, 20))
    return Grid(with_holes(values, generator), LOWER, SPACING)


def band_of_a_sphere(radius):
    """Samples within two cells of a sphere; they follow its radius."""
    values = sample(sphere(radius), (65, 65, 65))
    near = values.detach().abs() < 2 * 2 * 3**0.5 / 64
    return Grid.from_bounds(values.where(near, torch.nan), -1, 1)


# Values.


@pytest.mark.parametrize("law", LAWS)
def test_isosurface_of_bricks_is_marching_cubes_with_another_gradient(law, generator):
    bricks = shuffled_bricks(holed_grid(generator), generator)
    values = bricks.values.requires_grad_()
    mesh = isosurface(bricks, law=law, level=0.05)
    expected = marching_cubes(bricks, 0.05, gradient="none")
    assert len(mesh.faces) > 0
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)
    attached = mesh_sdf(bricks, expected.vertices, law=law, level=0.05)
    ours, theirs = (
        torch.autograd.grad(v.square().sum(), values)[0] for v in (mesh.vertices, attached)
    )
    assert torch.equal(ours, theirs)


# Gradients.


@pytest.mark.parametrize("law", LAWS)
def test_gradients_equal_the_dense_grid(law, generator):
    grid = holed_grid(generator)
    bricks = shuffled_bricks(grid, generator)
    slopes = []
    for kind in (grid, bricks):
        values = kind.values.requires_grad_()
        mesh = isosurface(kind, law=law)
        slopes.append(torch.autograd.grad(mesh.area(), values)[0])
    of_nodes, of_bricks = slopes
    found = dataclasses.replace(bricks, values=of_bricks).to_grid().values
    present = ~grid.values.isnan()
    assert of_nodes.count_nonzero() > 500
    # A face of some hundredths in size, between corners near 12, in another order of sums.
    assert_close(found[present], of_nodes[present], factor=12 / 0.02)


@pytest.mark.parametrize("law", LAWS)
def test_radius_of_a_sphere(law):
    radius = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    mesh = isosurface(BrickGrid.from_grid(band_of_a_sphere(radius)), law=law)
    assert mesh.open_edge_count() == 0
    (slope,) = torch.autograd.grad(mesh.volume(), radius)
    # The derivative of the volume is the area; trilinear normals are off by up to h / (2 r).
    assert slope.item() == pytest.approx(4 * math.pi * 0.6**2, rel=4e-3)


def test_learning_a_volume():
    """Newton's step towards the volume of a ball of 0.52 moves the samples by 0.02 at most."""
    field = BrickField(BrickGrid.from_grid(band_of_a_sphere(torch.tensor(0.5).double())))
    goal = 4 / 3 * math.pi * 0.52**3
    volumes = []
    for _ in range(4):
        field.zero_grad()
        volume = isosurface(field.grid, law="implicit").volume()
        volume.backward()
        volumes.append(volume.item())
        slope = field.values.grad
        with torch.no_grad():
            field.values += slope * (goal - volume) / slope.square().sum()
    assert field.values.isnan().any()
    errors = [abs(volume - goal) for volume in volumes]
    assert errors[-1] < errors[0] / 100


# Attributes.


def test_attributes_of_bricks(generator):
    grid = band_of_a_sphere(torch.tensor(0.5).double())
    bricks = shuffled_bricks(grid, generator)
    values = bricks.values.requires_grad_()
    mesh = isosurface(bricks, attributes=bricks)
    assert mesh.attributes.shape == (len(mesh.vertices), 1)
    # On an edge a cell's interpolation is that of the edge's two nodes: zero at its vertex.
    assert mesh.attributes.abs().max() < 1e-12
    (slope,) = torch.autograd.grad(mesh.attributes.sum(), values)
    assert slope.count_nonzero() > 0


def test_vertex_attributes_of_bricks_are_those_of_the_dense_grid(generator):
    grid = holed_grid(generator)
    bricks = shuffled_bricks(grid, generator)
    size = torch.tensor(SPACING).double() * torch.tensor([17, 8, 19])
    place = 1.4 * torch.rand(500, 3, generator=generator, dtype=torch.float64) - 0.2
    points = torch.tensor(LOWER).double() + place * size  # some beyond the box, where it ends
    found, expected = (vertex_attributes(kind, points) for kind in (bricks, grid))
    assert found.shape == (500, 1)
    assert 0 < found.isnan().sum() < 500
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert vertex_attributes(bricks, points.float()).dtype == torch.float32


# Errors.


def test_bricks_take_no_bounds(generator):
    bricks = shuffled_bricks(holed_grid(generator), generator)
    with pytest.raises(ValueError, match="isosurface: a BrickGrid has its own bounds"):
        isosurface(bricks, -1, 1, 8)


# Edges.


@pytest.mark.parametrize("count", [0, 1])
def test_empty_surface_stays_attached(count):
    values = torch.ones(count, 8, 8, 8, requires_grad=True)
    places = torch.zeros(count, 3, dtype=torch.int32)
    mesh = isosurface(BrickGrid.from_bricks(values, places, (8, 9, 8)))
    assert mesh.vertices.shape == (0, 3)
    mesh.vertices.sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))
