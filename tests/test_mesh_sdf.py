# SPDX-License-Identifier: Apache-2.0
"""mesh_sdf: values and gradients, registration, errors, edges, CUDA."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda
from fields import random_smooth, shuffled_bricks, sphere, with_holes
from torch.autograd import forward_ad

from diffiso import Grid, isosurface, marching_cubes, mesh_sdf, reference

# Exact in float32, so that a vertex on a plane of nodes belongs to one cell in every dtype.
LOWER, SPACING = (-1.5, 0.25, 12.0), (0.5, 0.75, 0.125)
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
LAWS = ("sdf", "implicit")
OP = torch.ops.diffiso.mesh_sdf
BACKWARD = torch.ops.diffiso.mesh_sdf_backward


def parameter(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


# Values and gradients against the reference.


@pytest.mark.parametrize("law", LAWS)
def test_callable_equals_reference(law, generator):
    axes = parameter([1.0, 2.0, 0.5])
    vertices = torch.randn(40, 3, generator=generator, dtype=torch.float64)

    def field(points):
        return (points * axes).square().sum(dim=-1) - 1

    moving = mesh_sdf(field, vertices, law=law)
    assert torch.equal(moving, vertices)
    expected = reference.mesh_sdf(
        vertices, field(vertices), 2 * vertices * axes.detach().square(), law=law
    )
    weights = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((moving * weights).sum(), axes)[0]
    theirs = torch.autograd.grad((expected * weights).sum(), axes)[0]
    # A sum over forty vertices, of slopes up to two.
    assert_close(ours, theirs, factor=10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grid_equals_reference(law, dtype, generator):
    values = random_smooth(generator, (6, 5, 7)).to(dtype).requires_grad_()
    grid = Grid(values, LOWER, SPACING)
    vertices = marching_cubes(grid, gradient="none").vertices
    moving = mesh_sdf(grid, vertices, law=law)
    assert torch.equal(moving, vertices)

    exact = values.detach().double()[None].requires_grad_()
    offsets = torch.tensor([0, len(vertices)])
    expected = reference.mesh_sdf_grid(exact, vertices, offsets, LOWER, SPACING, law=law)
    weights = torch.randn(vertices.shape, generator=generator).to(dtype)
    (moving * weights).sum().backward()
    (expected * weights).sum().backward()
    # A vertex's place in its cell has the rounding of a coordinate near 12 over a cell of 1/8.
    assert_close(values.grad, exact.grad[0], factor=12 / 0.125)


@pytest.mark.parametrize("law", LAWS)
def test_packed_batch_equals_reference(law, generator):
    values = random_smooth(generator, (3, 5, 6, 4))
    values[1] = values[1].abs()  # a grid without a surface
    meshes = marching_cubes(Grid(values, LOWER, SPACING))
    values.requires_grad_()
    weights = torch.randn(meshes.vertices.shape, generator=generator, dtype=torch.float64)
    arguments = (values, meshes.vertices, meshes.vertex_offsets, LOWER, SPACING)
    ours = OP(*arguments, law == "implicit")
    theirs = reference.mesh_sdf_grid(*arguments, law=law)
    assert torch.equal(ours, theirs)
    ours, theirs = (torch.autograd.grad((o * weights).sum(), values)[0] for o in (ours, theirs))
    assert_close(ours, theirs, factor=12 / 0.125)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bricks_equal_the_dense_grid(law, dtype, generator):
    values = with_holes(random_smooth(generator, (18, 9, 20)).to(dtype), generator)
    grid = Grid(values.requires_grad_(), LOWER, SPACING)
    bricks = shuffled_bricks(Grid(values.detach(), LOWER, SPACING), generator)
    vertices = marching_cubes(grid, gradient="none").vertices
    weights = torch.randn(vertices.shape, generator=generator).to(dtype)
    level = torch.zeros((), dtype=dtype, requires_grad=True)
    slopes = []
    for kind in (grid, bricks):
        inputs = kind.values.requires_grad_(), level
        moving = mesh_sdf(kind, vertices, law=law, level=level)
        assert torch.equal(moving, vertices)
        slopes.append(torch.autograd.grad((moving * weights).sum(), inputs))
    (of_nodes, of_level), (of_bricks, of_brick_level) = slopes
    found = dataclasses.replace(bricks, values=of_bricks).to_grid().values
    present = ~values.isnan()
    assert of_nodes.count_nonzero() > 500
    # Both divide by the norm, each in its own way; a sample collects from the vertices of its eight
    # cells.
    assert_close(found[present], of_nodes[present], factor=10)
    # A sum over all vertices.
    assert_close(of_brick_level, of_level, factor=len(vertices) ** 0.5)


def test_normals_take_no_part_in_the_gradient():
    """d v / d f = -n even where moving the parameter turns the normal."""
    turn = parameter(0.3)
    vertices = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)

    def plane(points):
        return points[:, 0] * turn.cos() + points[:, 1] * turn.sin()

    moving = mesh_sdf(plane, vertices)
    (slope,) = torch.autograd.grad(moving[1].sum(), turn)
    normal = turn.detach().cos() + turn.detach().sin()
    assert_close(slope, 0.5 * turn.detach().sin() * normal)


# Registration.


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_opcheck(implicit, requires_grad, empty, generator):
    values = random_smooth(generator, (2, 3, 4, 5))
    meshes = marching_cubes(Grid(values.abs() if empty else values, LOWER, SPACING))
    values.requires_grad_(requires_grad)
    arguments = (values, meshes.vertices, meshes.vertex_offsets, LOWER, SPACING, implicit)
    torch.library.opcheck(OP.default, arguments)
    grad_vertices = torch.ones_like(meshes.vertices)
    torch.library.opcheck(
        BACKWARD.default, (grad_vertices, values.detach(), *arguments[1:], not implicit)
    )


def test_deterministic_backward(threads, deterministic, generator):
    values = random_smooth(generator, (24, 25, 66)).float().requires_grad_()
    vertices = marching_cubes(values, gradient="none").vertices
    weights = torch.randn(vertices.shape, generator=generator)
    gradients = []
    for count in (1, 2, 3):
        threads(count)
        gradients.append(
            torch.autograd.grad((mesh_sdf(Grid(values), vertices) * weights).sum(), values)[0]
        )
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_double_backward_is_refused(generator):
    values = random_smooth(generator, (4, 4, 4)).requires_grad_()
    vertices = marching_cubes(values, gradient="none").vertices
    loss = mesh_sdf(Grid(values), vertices).square().sum()
    (slope,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"mesh_sdf.*(double|twice|second)"):
        slope.square().sum().backward()


# Errors.


@pytest.mark.parametrize("function", [mesh_sdf, isosurface])
def test_bad_law(function):
    arguments = (torch.zeros(1, 3),) if function is mesh_sdf else (*BOX, 4)
    with pytest.raises(ValueError, match=r": law must be .*sdf.*implicit.*got 'exact'"):
        function(sphere(0.5), *arguments, law="exact")


@pytest.mark.parametrize(
    ("vertices", "fragments"),
    [
        (torch.zeros(4, 2), ("vertices must be (V, 3)", "got (4, 2)")),
        (torch.zeros(3), ("vertices must be (V, 3)", "got (3,)")),
        (torch.zeros(4, 3).double(), ("vertices must be torch.float32", "got torch.float64")),
    ],
)
def test_bad_vertices_of_a_grid(vertices, fragments):
    with pytest.raises(RuntimeError) as error:
        mesh_sdf(Grid(torch.zeros(4, 4, 4)), vertices)
    assert all(part in str(error.value) for part in ("mesh_sdf: ", *fragments)), error.value


def test_offsets_are_for_dense_grids(generator):
    bricks = shuffled_bricks(Grid(torch.rand(4, 4, 4, generator=generator)), generator)
    for field in (bricks, sphere(0.5)):
        with pytest.raises(ValueError, match="mesh_sdf: vertex_offsets must be None unless"):
            mesh_sdf(field, torch.rand(3, 3), vertex_offsets=torch.tensor([0, 3]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    bricks = shuffled_bricks(Grid(torch.rand(4, 4, 4, generator=generator)), generator)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(bricks.values, torch.ones_like(bricks.values))
        with pytest.raises(RuntimeError, match="mesh_sdf: forward-mode"):
            mesh_sdf(dataclasses.replace(bricks, values=moving), torch.rand(3, 3))


# Edges.


def test_no_vertices_give_a_zero_gradient(generator):
    bricks = shuffled_bricks(Grid(torch.rand(4, 4, 4, generator=generator)), generator)
    values = bricks.values.requires_grad_()
    moving = mesh_sdf(bricks, torch.zeros(0, 3))
    assert moving.shape == (0, 3)
    moving.sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_vertices_in_absent_cells_pass_nothing_on(generator):
    bricks = shuffled_bricks(Grid(torch.rand(16, 8, 8, generator=generator)), generator)
    hole = bricks.values.detach().clone()
    hole[:, 3, 3, 3] = math.nan
    bricks = dataclasses.replace(bricks, values=hole.requires_grad_())
    mesh_sdf(bricks, torch.tensor([[3.5, 2.5, 3.5], [30.0, 2.5, 4.5]])).sum().backward()
    assert hole.grad.isfinite().all()
    # The four of the second point's nearest face of the box, and none of the first point.
    assert hole.grad.nonzero()[:, 1].tolist() == [7, 7, 7, 7]


def test_vertices_without_a_normal_stay_put():
    constant = parameter(0.0)
    vertices = torch.rand(5, 3).double()
    for law in LAWS:
        moving = mesh_sdf(lambda p: 0 * p.sum(dim=-1) + constant, vertices, law=law)
        assert torch.equal(moving, vertices)
        (slope,) = torch.autograd.grad(moving.sum(), constant)
        assert slope == 0
    values = torch.zeros(3, 3, 3, dtype=torch.float64, requires_grad=True)
    mesh_sdf(Grid(values), vertices, law="implicit").sum().backward()
    assert torch.equal(values.grad, torch.zeros_like(values))


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(law, dtype, generator):
    values = random_smooth(generator, (2, 20, 21, 67)).to(dtype)
    meshes = marching_cubes(values)
    vertices, offsets = meshes.vertices, meshes.vertex_offsets

    def attach(values):
        device = values.device
        arguments = (vertices.to(device), offsets.to(device), (0.0,) * 3, (1.0,) * 3)
        return (OP(values, *arguments, law == "implicit"),)

    # A sample collects from the vertices of its eight cells.
    assert_same_on_cuda(attach, values, exact=(True,), factor=10)


def test_second_derivatives_through_a_field_are_refused():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    point = torch.tensor([[0.25, 0.0, 0.0]], dtype=torch.float64)
    attached = mesh_sdf(lambda p: p[:, 0] * scale**2 - 1, point, law="implicit")
    (first,) = torch.autograd.grad(attached.sum(), scale, create_graph=True)
    assert first.item() == pytest.approx(-0.25)  # d/dk of 1 / k^2
    with pytest.raises(RuntimeError, match="mesh_sdf: second derivatives"):
        first.backward()


def test_points_stay_where_they_are_also_where_the_field_is_singular():
    scale = torch.tensor(1.0, requires_grad=True)
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    attached = mesh_sdf(lambda p: scale * p.norm(dim=1) / p[:, 0], points)  # NaN at the origin
    assert torch.equal(attached, points)


def test_an_empty_surface_gives_zeros_also_where_the_field_is_singular():
    code = torch.zeros(3, requires_grad=True)
    empty = isosurface(lambda p: (p - code).square().sum(dim=1).sqrt() + 1, -1, 1, 4)
    assert empty.vertices.shape == (0, 3)
    empty.vertices.sum().backward()
    assert torch.equal(code.grad, torch.zeros(3))


@pytest.mark.parametrize("law", ["sdf", "implicit"])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_field_gradients_far_from_one_keep_their_digits(law, scale):
    """Squares of such gradients leave float32's range."""
    offset = torch.tensor(0.5, requires_grad=True)
    point = torch.tensor([[0.3, 0.4, 0.0]])
    mesh_sdf(lambda p: scale * (p.norm(dim=1) - offset), point, law=law).sum().backward()
    expected = 1.4 * (scale if law == "sdf" else 1.0)
    assert offset.grad.item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_modules_are_evaluated_in_their_own_dtype():
    field = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Flatten(0)).bfloat16()
    mesh = isosurface(field, -1, 1, 8)
    mesh.vertices.sum().backward()
    assert mesh.vertices.dtype == torch.float32
    assert field[0].weight.grad.dtype == torch.bfloat16


def test_offsets_of_any_stride_and_nonsense_offsets(generator):
    values = torch.rand(2, 4, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    points = 3 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    plain = torch.tensor([0, 2, 6])
    strided = torch.tensor([0, 9, 2, 9, 6])[::2]
    grads = []
    for offsets in (plain, strided):
        attached = mesh_sdf(Grid(values), points, vertex_offsets=offsets)
        grads += torch.autograd.grad(attached.sum(), values)
    assert torch.equal(*grads)
    with pytest.raises(RuntimeError, match="mesh_sdf: vertex_offsets must rise from 0"):
        mesh_sdf(Grid(values), points, vertex_offsets=torch.tensor([5, 900, -3]))
