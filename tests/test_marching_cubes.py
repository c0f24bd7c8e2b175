# SPDX-License-Identifier: Apache-2.0
"""marching_cubes: values, gradients, registration, CUDA. Errors, topology: files of their own."""

import math

import numpy as np
import pytest
import torch
from conftest import assert_close, assert_same_on_cuda, assert_within_ulps
from fields import (
    GRID_DTYPES,
    random_smooth,
    random_ties,
    sample,
    sheared_plane,
    sphere,
    sprinkle,
)
from topology import is_closed_and_oriented

from diffiso import Grid, Mesh, MeshBatch, marching_cubes, reference

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
OP = torch.ops.diffiso.marching_cubes
BACKWARD = torch.ops.diffiso.marching_cubes_backward


def compute_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


# Values against the reference.


@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_batch_equals_reference(dtype, close_boundary, generator):
    values = sprinkle(random_ties(generator, (3, 5, 7, 9), dtype), generator)
    level = torch.tensor([0.0, 0.5, -0.25])
    meshes = marching_cubes(
        Grid(values, LOWER, SPACING),
        level.to(compute_dtype(dtype)),
        close_boundary=close_boundary,
        return_edges=True,
    )
    expected = reference.marching_cubes(
        values.double(), level.double(), LOWER, SPACING, close_boundary=close_boundary
    )
    assert isinstance(meshes, MeshBatch)
    assert torch.equal(meshes.faces, expected.faces)
    assert torch.equal(meshes.edges, expected.edges)
    assert torch.equal(meshes.vertex_offsets, expected.vertex_offsets)
    assert torch.equal(meshes.face_offsets, expected.face_offsets)
    assert_within_ulps(meshes.vertices, expected.vertices.to(compute_dtype(dtype)))


def test_batch_is_a_sequence_of_meshes(generator):
    values = random_ties(generator, (4, 5, 6, 4), torch.float32)
    values[1] = 1.0
    meshes = marching_cubes(values, return_edges=True)
    assert len(meshes) == 4
    nodes = values[0].numel()
    for b, mesh in enumerate(meshes):
        alone = marching_cubes(values[b], return_edges=True)
        assert isinstance(alone, Mesh)
        for one in (mesh, meshes[b]):
            assert torch.equal(one.vertices, alone.vertices)
            assert torch.equal(one.faces, alone.faces)
            assert torch.equal(one.edges - 3 * nodes * b, alone.edges)
    assert len(meshes[1].vertices) == 0


def test_linear_field_is_met_exactly():
    """World positions, box and spacing: vertices of a plane lie on the plane in float64."""
    lower, upper = (-1.0, -2.0, 0.5), (2.0, 1.0, 3.0)
    grid = Grid.from_bounds(sample(sheared_plane, (7, 12, 5), lower, upper), lower, upper)
    vertices = marching_cubes(grid).vertices
    assert len(vertices) > 0
    assert sheared_plane(vertices).abs().max() < 8 * 2.0**-52
    low, high = vertices.new_tensor(lower), vertices.new_tensor(upper)
    assert ((vertices >= low) & (vertices <= high)).all()


def test_default_grid_is_in_index_coordinates():
    values = torch.tensor([-1.0, 3.0]).repeat(4, 3, 1)
    mesh = marching_cubes(values)
    assert torch.equal(mesh.vertices[:, 2], torch.full((12,), 0.25))
    assert torch.equal(
        mesh.vertices[:, :2], torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0))
    )


def test_level_moves_the_surface():
    values = sample(sphere(0.0), (25, 25, 25))
    for level in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.3]).double()):
        mesh = marching_cubes(Grid.from_bounds(values, (-1.0,) * 3, (1.0,) * 3), level)
        # Linear interpolation of a distance errs by h^2 / (8 r) at most; h = 1/12.
        assert (mesh.vertices.norm(dim=1) - 0.3).abs().max() < (1 / 12) ** 2 / (8 * 0.3)


def test_int32_faces_and_optional_edges(generator):
    values = random_ties(generator, (5, 5, 5), torch.float32)
    mesh = marching_cubes(values)
    narrow = marching_cubes(values, index_dtype=torch.int32)
    assert mesh.faces.dtype == torch.int64
    assert narrow.faces.dtype == torch.int32
    assert torch.equal(narrow.faces.long(), mesh.faces)
    assert torch.equal(narrow.vertices, mesh.vertices)
    assert mesh.edges is None


def test_numpy_in_and_out(generator):
    values = random_ties(generator, (5, 6, 7), torch.float32)
    mesh = marching_cubes(values.numpy())
    expected = marching_cubes(values)
    assert torch.equal(mesh.vertices, expected.vertices)
    vertices, faces = mesh.numpy()
    assert isinstance(vertices, np.ndarray)
    assert np.array_equal(vertices, expected.vertices.numpy())
    assert np.array_equal(faces, expected.faces.numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_arrays_of_any_layout(dtype, generator):
    """Reversed, transposed, read-only and byte-swapped arrays, as slices and files give them."""
    array = random_ties(generator, (5, 6, 7), torch.float32).numpy().astype(dtype)
    frozen = array.copy()
    frozen.flags.writeable = False
    swapped = array.astype(np.dtype(dtype).newbyteorder("S"))
    strange = (array[::-1, :, ::-2], array.T, frozen, np.broadcast_to(array[:1], (4, 6, 7)))
    for view in (*strange, swapped, swapped[::-1]):
        mesh = marching_cubes(view)
        expected = marching_cubes(torch.tensor(view.astype(dtype)))
        assert torch.equal(mesh.vertices, expected.vertices)
        assert torch.equal(mesh.faces, expected.faces)


# Gradients.


@pytest.mark.parametrize("close_boundary", [False, True])
def test_gradcheck_values_and_level(close_boundary, generator):
    values = random_smooth(generator, (2, 4, 3, 5)).requires_grad_()
    level = torch.tensor([0.05, -0.05], dtype=torch.float64, requires_grad=True)

    def vertices(values, level):
        grid = Grid(values, LOWER, SPACING)
        return marching_cubes(grid, level, close_boundary=close_boundary).vertices

    assert torch.autograd.gradcheck(vertices, (values, level))


def test_gradcheck_one_grid_and_scalar_level(generator):
    values = random_smooth(generator, (3, 3, 3)).requires_grad_()
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, c: marching_cubes(v, c).vertices, (values, level))


@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_gradients_equal_reference(dtype, close_boundary, generator):
    values = sprinkle(random_smooth(generator, (2, 6, 5, 70)).to(dtype), generator, share=0.05)
    level = torch.tensor([0.0, 0.03], dtype=compute_dtype(dtype))
    ours = [values.clone().requires_grad_(), level.clone().requires_grad_()]
    theirs = [values.double().requires_grad_(), level.double().requires_grad_()]
    vertices = marching_cubes(
        Grid(ours[0], LOWER, SPACING), ours[1], close_boundary=close_boundary
    ).vertices
    exact = reference.marching_cubes(
        *theirs, LOWER, SPACING, close_boundary=close_boundary
    ).vertices
    weights = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    (vertices * weights.to(vertices.dtype)).sum().backward()
    (exact * weights.to(vertices.dtype)).sum().backward()
    assert ours[0].grad.dtype == dtype
    # A slope is 1 / (b - a) with |b - a| >= 0.2: up to five times the sums the tolerance is for.
    assert_close(ours[0].grad, theirs[0].grad, factor=5)
    # The level's gradient adds up all vertices, each with a rounding of its own.
    assert_close(ours[1].grad, theirs[1].grad, factor=len(vertices) ** 0.5)


def test_gradient_of_values_or_level_alone(generator):
    values, level = random_smooth(generator, (4, 5, 6)), torch.tensor(0.02, dtype=torch.float64)
    both = [values.clone().requires_grad_(), level.clone().requires_grad_()]
    expected = torch.autograd.grad(marching_cubes(*both).vertices.square().sum(), both)
    for wanted in (0, 1):
        inputs = [x.clone().requires_grad_(n == wanted) for n, x in enumerate((values, level))]
        marching_cubes(*inputs).vertices.square().sum().backward()
        assert torch.equal(inputs[wanted].grad, expected[wanted])
        assert inputs[1 - wanted].grad is None


def test_gradient_at_infinite_ends_is_zero():
    values = torch.full((2, 2, 2), 1.0)
    values[0, 0, 0], values[0, 0, 1], values[0, 1, 0] = -1.0, math.inf, math.inf
    values.requires_grad_()
    level = torch.zeros((), requires_grad=True)
    marching_cubes(values, level).vertices.sum().backward()
    # Only the crossing along x has two finite ends: t = (c - a) / (b - a) with a = -1, b = 1.
    expected = torch.zeros(2, 2, 2)
    expected[0, 0, 0], expected[1, 0, 0] = -0.25, -0.25
    assert torch.equal(values.grad, expected)
    assert level.grad == 0.5


def test_cap_vertices_have_no_gradient():
    values = torch.full((3, 3, 3), -1.0, requires_grad=True)
    level = torch.zeros((), requires_grad=True)
    marching_cubes(values, level, close_boundary=True).vertices.sum().backward()
    assert torch.equal(values.grad, torch.zeros(3, 3, 3))
    assert level.grad == 0


def test_gradient_none_detaches(generator):
    values = random_smooth(generator, (4, 4, 4)).requires_grad_()
    assert not marching_cubes(values, gradient="none").vertices.requires_grad
    assert marching_cubes(values, gradient="linear").vertices.requires_grad
    assert not marching_cubes(values).faces.requires_grad


def test_empty_mesh_stays_attached():
    values = torch.ones(3, 3, 3, requires_grad=True)
    marching_cubes(values).vertices.sum().backward()
    assert torch.equal(values.grad, torch.zeros(3, 3, 3))


def test_backward_is_deterministic(threads, generator):
    values = random_smooth(generator, (2, 20, 20, 66)).float().requires_grad_()
    level = torch.zeros(2, requires_grad=True)
    gradients = []
    for count in (1, 2, 3):
        threads(count)
        loss = marching_cubes(values, level).vertices.square().sum()
        gradients.append(torch.autograd.grad(loss, (values, level)))
    for other in gradients[1:]:
        assert torch.equal(other[0], gradients[0][0])
        assert torch.equal(other[1], gradients[0][1])


def test_double_backward_is_refused():
    values = sample(sphere(0.5), (5, 5, 5)).requires_grad_()
    loss = marching_cubes(values).vertices.square().sum()
    (slope,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"marching_cubes.*(double|twice|second)"):
        slope.square().sum().backward()


# Registration.


# close_boundary, int32_faces, with_edges; a backward needs the edges.
@pytest.mark.parametrize(
    ("flags", "requires_grad"),
    [
        ((False, False, True), True),
        ((True, True, True), True),
        ((False, False, True), False),
        ((True, False, False), False),
        ((False, True, False), False),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_opcheck(flags, requires_grad, empty, generator):
    values = random_smooth(generator, (2, 3, 4, 5))
    values = (values.abs() if empty else values).requires_grad_(requires_grad)
    level = torch.zeros(2, dtype=torch.float64, requires_grad=requires_grad)
    torch.library.opcheck(OP.default, (values, level, LOWER, SPACING, *flags))


def test_backward_without_edges_is_refused():
    values = torch.randn(1, 3, 3, 3, requires_grad=True)
    vertices, *_ = OP(values, torch.zeros(1), LOWER, SPACING, False, False, False)
    with pytest.raises(RuntimeError, match="with_edges must be set"):
        vertices.sum().backward()


@pytest.mark.parametrize("empty", [False, True])
def test_opcheck_backward(empty, generator):
    values = random_smooth(generator, (2, 3, 4, 5))
    values = values.abs() if empty else values
    level = torch.zeros(2, dtype=torch.float64)
    vertices, _, edges, offsets, _ = OP(values, level, LOWER, SPACING, False, False, True)
    arguments = (torch.ones_like(vertices), values, level, edges, offsets, SPACING, False)
    torch.library.opcheck(BACKWARD.default, arguments)


def test_raw_backward_refuses_what_does_not_fit(generator):
    """The op is public under torch.ops: wrong bookkeeping is an error, not a read out of bounds."""
    values, level = random_smooth(generator, (2, 3, 4, 5)), torch.zeros(2, dtype=torch.float64)
    vertices, _, edges, offsets, _ = OP(values, level, LOWER, SPACING, False, False, True)
    for bad in (
        (vertices[:-1], values, level, edges, offsets),
        (vertices, values, level, edges.int(), offsets),
        (vertices, values, level, edges, offsets.int()),
        (vertices, values, level, edges, offsets[:-1]),
        (vertices.float(), values, level, edges, offsets),
        (vertices, values, level, edges + values.numel() * 3, offsets),
        (vertices, values, level, -1 - edges, offsets),
        (vertices, values, level, edges, offsets + len(vertices)),
    ):
        with pytest.raises(RuntimeError, match="marching_cubes_backward: "):
            BACKWARD(*bad, SPACING, False)


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_cuda_equals_cpu(dtype, close_boundary, generator):
    values = sprinkle(random_smooth(generator, (3, 40, 33, 131)).to(dtype), generator, share=0.02)

    def extract(values, level):
        options = {"close_boundary": close_boundary, "return_edges": True}
        mesh = marching_cubes(Grid(values, LOWER, SPACING), level, **options)
        return (mesh.vertices, mesh.faces, mesh.edges, mesh.vertex_offsets, mesh.face_offsets)

    level = torch.tensor([0.0, 0.05, -0.05], dtype=compute_dtype(dtype))
    # The level's gradient sums the vertices of a whole grid.
    assert_same_on_cuda(extract, values, level, exact=(False, True, True, True, True), factor=100)


@pytest.mark.cuda
def test_cuda_refuses_mixed_devices():
    with pytest.raises(
        RuntimeError, match=r"marching_cubes: level must be on the device of values"
    ):
        marching_cubes(torch.zeros(4, 4, 4, device="cuda"), torch.zeros(1))


@pytest.mark.cuda
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_than_two_to_the_31_samples(device):
    """Indices past 2^31: one inside node near the end of a 4 GiB float16 grid."""
    values = torch.ones(2, 1025, 1024, 1024, dtype=torch.float16, device=device)
    values[1, 1020, 1021, 1022] = -1
    mesh = marching_cubes(values, return_edges=True)[1]
    node = ((1025 + 1020) * 1024 + 1021) * 1024 + 1022
    assert values.numel() > 2**31
    assert mesh.vertices.shape == (6, 3)
    assert mesh.vertices.mean(dim=0).tolist() == [1020.0, 1021.0, 1022.0]
    assert 3 * node + 2 in mesh.edges.tolist()
    assert is_closed_and_oriented(mesh.faces.cpu())


def test_raw_backward_passes_nothing_to_edges_within_the_padding():
    """Such an id is an edge of the padded lattice, but none of the grid's."""
    zeros = torch.zeros(1, 2, 2, 2)
    id_in_padding = torch.tensor([3 * ((1 * 4 + 3) * 4 + 3)])
    grad, _ = torch.ops.diffiso.marching_cubes_backward(
        torch.ones(1, 3), zeros, torch.zeros(1), id_in_padding, torch.tensor([0, 1]), SPACING, True
    )
    assert torch.equal(grad, zeros)


def test_samples_too_close_to_divide_by():
    tiny = 5e-324
    values = torch.full((2, 2, 2), tiny, dtype=torch.float64)
    values[0] = -tiny
    values.requires_grad_()
    mesh = marching_cubes(values)
    assert mesh.vertices.isfinite().all()
    mesh.vertices.sum().backward()
    assert values.grad.isfinite().all()
