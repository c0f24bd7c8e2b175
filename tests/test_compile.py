# SPDX-License-Identifier: Apache-2.0
"""torch.compile(fullgraph=True) of every public op, forward and backward."""

import dataclasses

import pytest
import torch
from conftest import assert_close
from fields import random_smooth
from rays import random_rays

from diffiso import (
    BrickGrid,
    Grid,
    Light,
    coverage,
    marching_cubes,
    mesh_sdf,
    render,
    sample_grid,
    shade,
    silhouette,
    trace,
)
from diffiso.camera import Camera
from diffiso.layers import GridSampler, MarchingCubes

LOWER, SPACING = (-1.5, 0.25, 12.0), (0.5, 0.75, 0.125)


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()


def check_compiled(function, cases, backend="aot_eager", dynamic=None):
    """Compile once, then compare outputs and gradients with eager ones for every case."""
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)
    for inputs in cases:
        inputs = [x.requires_grad_() for x in inputs]
        eager, ours = function(*inputs), compiled(*inputs)
        for expected, actual in zip(eager, ours, strict=True):
            assert torch.equal(actual, expected)
        loss = [sum((o * o).sum() for o in out if o.requires_grad) for out in (eager, ours)]
        expected, actual = (torch.autograd.grad(one, inputs) for one in loss)
        for one, other in zip(actual, expected, strict=True):
            # The compiled loss may add in another order.
            assert_close(one, other, factor=100)


def grids(generator, *shape):
    """Three grids whose surfaces differ in size; the last has none."""
    return [
        random_smooth(generator, shape),
        random_smooth(generator, shape),
        random_smooth(generator, shape).abs(),
    ]


@pytest.mark.parametrize("close_boundary", [False, True])
def test_marching_cubes(close_boundary, generator):
    def extract(values, level):
        grid = Grid(values, LOWER, SPACING)
        mesh = marching_cubes(grid, level, close_boundary=close_boundary, return_edges=True)
        return mesh.vertices, mesh.faces, mesh.edges

    cases = [(v, torch.zeros((), dtype=torch.float64)) for v in grids(generator, 4, 5, 6)]
    check_compiled(extract, cases)


def test_marching_cubes_of_a_batch(generator):
    def extract(values):
        meshes = marching_cubes(values, 0.05, index_dtype=torch.int32)
        return meshes.vertices, meshes.faces, meshes.vertex_offsets, meshes.face_offsets

    check_compiled(extract, [(v,) for v in grids(generator, 3, 4, 5, 6)])


def test_level_that_changes_from_call_to_call(generator):
    """From the second number on torch.compile holds it as a symbol."""
    values = random_smooth(generator, (4, 5, 6))
    extract = torch.compile(marching_cubes, fullgraph=True, backend="aot_eager")
    for level in (0.0, 0.05, -0.05):
        assert torch.equal(extract(values, level).vertices, marching_cubes(values, level).vertices)


def test_sample_grid(generator):
    def sample(values, points):
        return tuple(sample_grid(Grid(values, LOWER, SPACING), points))

    points = 4 * torch.rand(9, 3, generator=generator, dtype=torch.float64)
    check_compiled(sample, [(v, points.clone()) for v in grids(generator, 4, 5, 6)])


# torch's tracing makes objects of gradient functions, and warns of that itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_bricks(generator):
    coordinates = torch.tensor([[0, 0, 0], [1, 0, 0]])
    bricks = BrickGrid.from_bricks(torch.zeros(2, 8, 8, 8), coordinates, (16, 7, 8))

    def sample(values, points):
        grid = dataclasses.replace(bricks, values=values)
        return (*sample_grid(grid, points), mesh_sdf(grid, points))

    points = 6 * torch.rand(9, 3, generator=generator, dtype=torch.float64)
    check_compiled(sample, [(v, points.clone()) for v in grids(generator, 2, 8, 8, 8)])


def test_marching_cubes_of_bricks(generator):
    coordinates = torch.tensor([[0, 0, 0], [1, 0, 0]])
    bricks = BrickGrid.from_bricks(torch.zeros(2, 8, 8, 8), coordinates, (16, 7, 8))

    def extract(values, level):
        grid = dataclasses.replace(bricks, values=values)
        mesh = marching_cubes(grid, level, return_edges=True)
        return mesh.vertices, mesh.faces, mesh.edges

    cases = [(v, torch.zeros((), dtype=torch.float64)) for v in grids(generator, 2, 8, 8, 8)]
    check_compiled(extract, cases)


def surface_and_samples(grid, points):
    mesh = marching_cubes(grid)
    return mesh.vertices, mesh.faces, *sample_grid(grid, points)


def cases_of_two_sizes(generator):
    points = 2 * torch.rand(9, 3, generator=generator, dtype=torch.float64) - 1
    return [(random_smooth(generator, shape), points.clone()) for shape in ((4, 5, 6), (7, 9, 8))]


def test_grid_from_bounds_inside_the_graph(generator):
    """Each size is compiled anew: its spacing stands in the graph as numbers."""

    def extract(values, points):
        return surface_and_samples(Grid.from_bounds(values, -1, 1), points)

    check_compiled(extract, cases_of_two_sizes(generator), dynamic=True)


def test_one_graph_for_grids_of_any_size(generator):
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def extract(values, points):
        return surface_and_samples(Grid(values, LOWER, SPACING), points)

    first, second = cases_of_two_sizes(generator)
    extract(*first)
    with torch.compiler.set_stance("fail_on_recompile"):
        actual = extract(*second)
    expected = surface_and_samples(Grid(second[0], LOWER, SPACING), second[1])
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("law", ["sdf", "implicit"])
def test_mesh_sdf(law, generator):
    def attach(values):
        grid = Grid(values, LOWER, SPACING)
        mesh = marching_cubes(grid, gradient="none")
        return mesh_sdf(grid, mesh.vertices, law=law), mesh.faces

    check_compiled(attach, [(v,) for v in grids(generator, 4, 5, 6)])


@pytest.mark.parametrize("method", ["voxel", "sphere"])
def test_trace(method, generator):
    def traced(values, origins, directions):
        grid = Grid(values, LOWER, SPACING)
        hits = trace(grid, origins, directions, method=method, footprint=0.05)
        light = Light(torch.tensor([1.0, 2.0, 20.0], dtype=torch.float64))
        near = torch.where(hits.closest_cell >= 0, hits.closest_t, 0.0)
        return (
            hits.points().nan_to_num(), hits.status, hits.cell, hits.samples, near,
            coverage(grid, hits, 0.05), *shade(grid, hits, light=light),
        )  # fmt: skip

    cases = []
    for values in grids(generator, 4, 5, 6):
        rays = random_rays(Grid(values, LOWER, SPACING), 50, generator)
        cases.append((values, *rays))
    check_compiled(traced, cases)


def test_render(generator):
    cameras = Camera.orbit([0.0, 70.0], 20.0, 4.0, focal=20.0, size=(12, 16), dtype=torch.float64)

    def pictures(values):
        result = render(Grid(values, (-1.0,) * 3, (0.5, 0.4, 0.4)), cameras, background=0.5)
        return result.image, result.coverage, result.normals, result.depth.nan_to_num(posinf=0.0)

    check_compiled(pictures, [(v,) for v in grids(generator, 4, 5, 6)])


@pytest.mark.parametrize("mode", ["contour", "soft"])
def test_silhouette(mode, generator):
    cameras = Camera.orbit([0.0, 70.0], 20.0, 4.0, focal=20.0, size=(12, 16), dtype=torch.float64)

    def outlines(values):
        mesh = marching_cubes(Grid(values, (-1.0,) * 3, (0.5, 0.4, 0.4)))
        return (silhouette(mesh, cameras, mode=mode),)

    check_compiled(outlines, [(v,) for v in grids(generator, 4, 5, 6)])


def test_layers(generator):
    extract, sampler = MarchingCubes(), GridSampler(random_smooth(generator, (4, 5, 6)))

    def surface_samples(values):
        mesh = extract(values)
        sample = sampler(mesh.vertices)
        return mesh.vertices, sample.sdf, sample.gradient

    check_compiled(surface_samples, [(v,) for v in grids(generator, 4, 5, 6)])


# Inductor imports parts of torch that torch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inductor(generator):
    def loss_terms(values):
        mesh = marching_cubes(values)
        return (mesh.vertices, mesh.faces)

    check_compiled(loss_terms, [(v,) for v in grids(generator, 4, 5, 6)], backend="inductor")
