# SPDX-License-Identifier: Apache-2.0
"""marching_cubes on sparse grids: values, gradients, registration, CUDA; edges in another file."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda, assert_within_ulps
from fields import (
    GRID_DTYPES,
    random_shape,
    random_smooth,
    random_ties,
    sample,
    sheared_plane,
    shuffled_bricks,
    sphere,
    sprinkle,
    with_holes,
)
from topology import assert_same_surface
from torch.autograd import forward_ad

from diffiso import BrickGrid, Grid, Mesh, marching_cubes, reference

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
OP = torch.ops.diffiso.marching_cubes_bricks
BACKWARD = torch.ops.diffiso.marching_cubes_bricks_backward
# Fewer nodes than a brick has, as many, one more, and some.
SHAPES = [(2, 2, 2), (8, 8, 8), (9, 9, 9), (7, 16, 3), (17, 9, 30)]


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def ties(generator, shape, dtype=torch.float32):
    """Bricks of many equal values, infinities and absent nodes, in a random order."""
    values = sprinkle(random_ties(generator, shape, dtype), generator, share=0.02)
    return shuffled_bricks(Grid(with_holes(values, generator), LOWER, SPACING), generator)


def smooth(generator, shape):
    """Bricks in float64 with whole bricks and single nodes absent."""
    values = with_holes(random_smooth(generator, shape), generator)
    return shuffled_bricks(Grid(values, LOWER, SPACING), generator)


def arguments(bricks, level=None, requires_grad=False):
    """What the op takes, without its flags."""
    dtype = compute_dtype(bricks.values.dtype)
    level = torch.zeros(1, dtype=dtype) if level is None else level
    return (
        bricks.values.clone().requires_grad_(requires_grad),
        bricks.table,
        bricks.coordinates,
        level.clone().requires_grad_(requires_grad),
        bricks.nodes,
        LOWER,
        SPACING,
    )


def exact_surface(bricks, level=0.0):
    return reference.marching_cubes_bricks(
        bricks.values.double(),
        bricks.table,
        torch.tensor([level]).double(),
        bricks.nodes,
        bricks.lower,
        bricks.spacing,
    )


# Values against the reference, and against the dense grid.


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_bricks_equal_reference(dtype, shape, level, generator):
    for _ in range(4):
        bricks = ties(generator, shape, dtype)
        mesh = marching_cubes(bricks, level, return_edges=True)
        expected = exact_surface(bricks, level)
        assert isinstance(mesh, Mesh)
        assert torch.equal(mesh.faces, expected.faces)
        assert torch.equal(mesh.edges, expected.edges)
        assert_within_ulps(mesh.vertices, expected.vertices.to(compute_dtype(dtype)))


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_same_surface_as_the_dense_grid(dtype, threads):
    threads(1)
    faces = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        bricks = ties(generator, random_shape(generator, 2, 27), dtype)
        level = (0.0, 0.5, -0.5)[seed % 3]
        mesh = marching_cubes(bricks, level, return_edges=True)
        assert_same_surface(mesh, marching_cubes(bricks.to_grid(), level, return_edges=True))
        faces += len(mesh.faces)
    assert faces > 100_000


def test_some_bricks_of_a_whole_grid(generator):
    """Any choice of bricks in any order, without a NaN stored anywhere."""
    whole = BrickGrid.from_grid(Grid(random_smooth(generator, (24, 24, 24)), LOWER, SPACING))
    for _ in range(20):
        count = int(torch.randint(28, (1,), generator=generator))
        chosen = torch.randperm(27, generator=generator)[:count]
        bricks = BrickGrid.from_bricks(
            whole.values[chosen], whole.coordinates[chosen], whole.nodes, LOWER, SPACING
        )
        mesh = marching_cubes(bricks, return_edges=True)
        assert_same_surface(mesh, marching_cubes(bricks.to_grid(), return_edges=True))


def test_linear_field_is_met_exactly():
    lower, upper = (-1.0, -2.0, 0.5), (2.0, 1.0, 3.0)
    grid = Grid.from_bounds(sample(sheared_plane, (17, 12, 9), lower, upper), lower, upper)
    vertices = marching_cubes(BrickGrid.from_grid(grid)).vertices
    assert len(vertices) > 0
    assert sheared_plane(vertices).abs().max() < 8 * 2.0**-52


def test_level_is_a_number_or_a_tensor(generator):
    bricks = smooth(generator, (9, 10, 11))
    expected = marching_cubes(bricks, 0.25)
    for level in (torch.tensor(0.25, dtype=torch.float64), torch.tensor([0.25]).double()):
        mesh = marching_cubes(bricks, level)
        assert torch.equal(mesh.vertices, expected.vertices)
        assert torch.equal(mesh.faces, expected.faces)


def test_int32_faces_and_optional_edges(generator):
    bricks = ties(generator, (17, 9, 12))
    mesh = marching_cubes(bricks)
    narrow = marching_cubes(bricks, index_dtype=torch.int32)
    assert (mesh.faces.dtype, narrow.faces.dtype) == (torch.int64, torch.int32)
    assert torch.equal(narrow.faces.long(), mesh.faces)
    assert torch.equal(narrow.vertices, mesh.vertices)
    assert mesh.edges is None


# Gradients.


def test_gradcheck_values_and_level(generator):
    # A choice of few nodes, which a check can move one by one: all others are absent.
    dense = torch.full((10, 10, 10), math.nan, dtype=torch.float64)
    dense[6:9, 7:10, 6:9] = random_smooth(generator, (3, 3, 3))
    bricks = shuffled_bricks(Grid(dense, LOWER, SPACING), generator)
    near = bricks.values.isfinite() & (bricks.values != 7)
    values = bricks.values[near].requires_grad_()
    level = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)

    def vertices(values, level):
        stored = bricks.values.masked_scatter(near, values)
        return marching_cubes(dataclasses.replace(bricks, values=stored), level).vertices

    assert len(values) == 27
    assert len(vertices(values, level)) > 10
    assert torch.autograd.gradcheck(vertices, (values, level))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_gradients_equal_reference_and_dense(dtype, shape, generator):
    bricks = smooth(generator, shape)
    bricks = dataclasses.replace(bricks, values=bricks.values.to(dtype))
    level = torch.tensor([0.03], dtype=compute_dtype(dtype))
    inputs = [
        [values.clone().requires_grad_(), one.clone().requires_grad_()]
        for values, one in (
            (bricks.values, level),
            (bricks.values, level),
            (bricks.values.double(), level.double()),
        )
    ]
    sparse, dense, exact = (dataclasses.replace(bricks, values=pair[0]) for pair in inputs)
    ours = marching_cubes(sparse, inputs[0][1], return_edges=True)
    theirs = marching_cubes(dense.to_grid(), inputs[1][1], return_edges=True)
    expected = reference.marching_cubes_bricks(
        exact.values, exact.table, inputs[2][1], exact.nodes, LOWER, SPACING
    )
    weights = torch.randn(ours.vertices.shape, generator=generator, dtype=torch.float64)
    weights = weights.to(compute_dtype(dtype))
    (ours.vertices * weights).sum().backward()
    order = torch.empty_like(ours.edges)
    order[theirs.edges.argsort()] = ours.edges.argsort()
    (theirs.vertices * weights[order]).sum().backward()
    (expected.vertices * weights).sum().backward()
    assert inputs[0][0].grad.dtype == dtype
    many = max(len(weights), 1) ** 0.5
    for other in inputs[1:]:
        # A slope is 1 / (b - a) with |b - a| >= 0.2: five times the sums the tolerance is for.
        assert_close(inputs[0][0].grad, other[0].grad, factor=5)
        # The level's gradient adds up all vertices, each with a rounding of its own.
        assert_close(inputs[0][1].grad, other[1].grad, factor=many)


def test_gradient_of_values_or_level_alone(generator):
    bricks, level = smooth(generator, (9, 12, 17)), torch.tensor([0.02], dtype=torch.float64)

    def gradients(wanted):
        inputs = [
            tensor.clone().requires_grad_(n in wanted)
            for n, tensor in enumerate((bricks.values, level))
        ]
        grid = dataclasses.replace(bricks, values=inputs[0])
        marching_cubes(grid, inputs[1]).vertices.square().sum().backward()
        return [tensor.grad for tensor in inputs]

    both = gradients((0, 1))
    for n in (0, 1):
        alone = gradients((n,))
        assert torch.equal(alone[n], both[n])
        assert alone[1 - n] is None


def test_gradient_none_detaches(generator):
    bricks = smooth(generator, (9, 9, 9))
    bricks.values.requires_grad_()
    assert not marching_cubes(bricks, gradient="none").vertices.requires_grad
    assert marching_cubes(bricks, gradient="linear").vertices.requires_grad
    assert not marching_cubes(bricks).faces.requires_grad


@pytest.mark.parametrize("count", [0, 2])
def test_empty_mesh_stays_attached(count):
    values = torch.ones(count, 8, 8, 8, requires_grad=True)
    places = torch.tensor([[0, 0, 0], [1, 0, 1]])[:count]
    mesh = marching_cubes(BrickGrid.from_bricks(values, places, (16, 7, 12)))
    assert mesh.vertices.shape == mesh.faces.shape == (0, 3)
    mesh.vertices.sum().backward()
    assert torch.equal(values.grad, torch.zeros(count, 8, 8, 8))


def test_backward_is_deterministic(threads, generator):
    bricks = smooth(generator, (50, 48, 49))
    values = bricks.values.float().requires_grad_()
    level = torch.zeros(1, requires_grad=True)
    gradients = []
    for count in (1, 2, 3):
        threads(count)
        mesh = marching_cubes(dataclasses.replace(bricks, values=values), level)
        gradients.append(torch.autograd.grad(mesh.vertices.square().sum(), (values, level)))
    assert len(mesh.vertices) > 3 * 4096  # the vertices of one task
    for other in gradients[1:]:
        assert torch.equal(other[0], gradients[0][0])
        assert torch.equal(other[1], gradients[0][1])


def test_double_backward_is_refused(generator):
    bricks = smooth(generator, (9, 9, 9))
    bricks.values.requires_grad_()
    loss = marching_cubes(bricks).vertices.square().sum()
    (slope,) = torch.autograd.grad(loss, bricks.values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"marching_cubes.*(double|twice|second)"):
        slope.square().sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    bricks = smooth(generator, (9, 9, 9))
    with forward_ad.dual_level():
        values = forward_ad.make_dual(bricks.values, torch.ones_like(bricks.values))
        with pytest.raises(RuntimeError, match=r"marching_cubes: forward-mode .* not supported"):
            marching_cubes(dataclasses.replace(bricks, values=values))


# Registration.


# int32_faces, with_edges; a backward needs the edges.
@pytest.mark.parametrize(
    ("flags", "requires_grad"),
    [((False, True), True), ((True, True), True), ((True, False), False), ((False, True), False)],
)
@pytest.mark.parametrize("kind", ["some", "no surface", "no bricks"])
def test_opcheck(flags, requires_grad, kind, generator):
    bricks = smooth(generator, (9, 10, 3))
    if kind == "no surface":
        bricks = dataclasses.replace(bricks, values=bricks.values.abs())
    if kind == "no bricks":
        bricks = BrickGrid.from_bricks(torch.zeros(0, 8, 8, 8), torch.zeros(0, 3).int(), (9, 10, 3))
    inputs = arguments(bricks, requires_grad=requires_grad)
    torch.library.opcheck(OP.default, (*inputs, *flags))


def test_backward_without_edges_is_refused(generator):
    vertices, *_ = OP(*arguments(smooth(generator, (9, 9, 9)), requires_grad=True), False, False)
    with pytest.raises(RuntimeError, match="with_edges must be set"):
        vertices.sum().backward()


@pytest.mark.parametrize("empty", [False, True])
def test_opcheck_backward(empty, generator):
    bricks = smooth(generator, (9, 10, 3))
    bricks = dataclasses.replace(bricks, values=bricks.values.abs()) if empty else bricks
    values, table, coordinates, level, nodes, _, _ = arguments(bricks)
    vertices, _, edges = OP(*arguments(bricks), False, True)
    inputs = (torch.ones_like(vertices), values, table, coordinates, level, edges, nodes, SPACING)
    torch.library.opcheck(BACKWARD.default, inputs)


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_cuda_equals_cpu(dtype, generator):
    values = sprinkle(random_smooth(generator, (70, 33, 50)).to(dtype), generator, share=0.02)
    bricks = shuffled_bricks(Grid(with_holes(values, generator), LOWER, SPACING), generator)

    def extract(values, level, table, coordinates):
        grid = BrickGrid(values, table, coordinates, bricks.nodes, LOWER, SPACING)
        mesh = marching_cubes(grid, level, return_edges=True)
        return mesh.vertices, mesh.faces, mesh.edges

    level = torch.tensor([0.05], dtype=compute_dtype(dtype))
    tensors = (bricks.values, level, bricks.table, bricks.coordinates)
    # The level's gradient sums all vertices.
    assert_same_on_cuda(extract, *tensors, exact=(False, True, True), factor=100)


@pytest.mark.cuda
def test_cuda_refuses_mixed_devices(generator):
    bricks = smooth(generator, (9, 9, 9)).to("cuda")
    with pytest.raises(RuntimeError, match=r"level must be on the device of values"):
        marching_cubes(bricks, torch.zeros(1, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"table must be on the device of values"):
        marching_cubes(dataclasses.replace(bricks, table=bricks.table.cpu()))


@pytest.mark.cuda
def test_cuda_extracts_a_sphere_in_bricks():
    grid = Grid.from_bounds(sample(sphere(0.6), (130, 131, 132), dtype=torch.float32), -1.0, 1.0)
    near = Grid(grid.values.where(grid.values.abs() < 0.1, math.nan), grid.lower, grid.spacing)
    mesh = marching_cubes(BrickGrid.from_grid(near).to("cuda"), return_edges=True)
    assert_same_surface(mesh.to("cpu"), marching_cubes(grid, return_edges=True))
