# SPDX-License-Identifier: Apache-2.0
"""isosurface and sample_field: gradients with the surface extracted again, errors, edges."""

import math

import numpy as np
import pytest
import torch
from fields import random_smooth, sample, sphere
from topology import euler_number, is_closed_and_oriented, volume_and_area

from diffiso import Grid, isosurface, marching_cubes, mesh_sdf, sample_field

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
LAWS = ("sdf", "implicit")


def parameter(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


class SmallNetwork(torch.nn.Module):
    """A dented ball whose gradient norm is nowhere one."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 32),
            torch.nn.Softplus(10),
            torch.nn.Linear(32, 32),
            torch.nn.Softplus(10),
            torch.nn.Linear(32, 1),
        ).double()

    def forward(self, points):
        return 1.5 * (points.norm(dim=-1) - 0.6) + 0.5 * self.layers(points)[:, 0]


# Values.


@pytest.mark.parametrize("law", LAWS)
def test_isosurface_of_a_grid_is_marching_cubes_with_another_gradient(law, generator):
    values = random_smooth(generator, (5, 6, 7)).requires_grad_()
    grid = Grid(values, LOWER, SPACING)
    mesh = isosurface(grid, law=law)
    expected = marching_cubes(grid, gradient="none")
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)
    attached = mesh_sdf(grid, expected.vertices, law=law)
    ours, theirs = (
        torch.autograd.grad(v.square().sum(), values)[0] for v in (mesh.vertices, attached)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("law", LAWS)
def test_gradient_reaches_the_level(law):
    """Raising the level by one moves a vertex by n, or by n / |grad f|."""
    level = parameter(0.1)
    mesh = isosurface(
        lambda p: 2 * (p.norm(dim=-1) - 0.5), *BOX, 16, level=level, law=law, dtype=torch.float64
    )
    radii = mesh.vertices.norm(dim=1)
    (slope,) = torch.autograd.grad(radii.sum(), level)
    expected = len(radii) * (1 if law == "sdf" else 0.5)
    assert slope.item() == pytest.approx(expected, rel=1e-12)


# Finite differences, with the surface extracted again.


def central_difference(extract, parameters, directions, step):
    """Of volume and area, along a direction of the parameters."""
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(sign * step * d)
            mesh = extract()
            ends.append(torch.stack(volume_and_area(mesh.vertices, mesh.faces)))
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(sign * step * d)
    return (ends[0] - ends[1]) / (2 * step)


def directional_derivative(extract, parameters, directions):
    mesh = extract()
    slopes = []
    for measure in volume_and_area(mesh.vertices, mesh.faces):
        gradients = torch.autograd.grad(measure, parameters, retain_graph=True, allow_unused=True)
        slopes.append(
            sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
        )
    return torch.stack(slopes)


@pytest.mark.parametrize("law", LAWS)
def test_radius_of_a_sphere(law):
    radius = parameter(0.6)

    def extract():
        return isosurface(sphere(radius), *BOX, 128, law=law, dtype=torch.float64)

    # A step below one cell (1/64): a wider one sees the cubic term of the volume.
    expected = central_difference(extract, [radius], [torch.ones(())], 0.01)
    found = directional_derivative(extract, [radius], [torch.ones(())])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    exact = torch.tensor([4 * math.pi * 0.6**2, 8 * math.pi * 0.6]).double()
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)


def test_radius_through_a_grid():
    radius = parameter(0.6)

    def extract():
        return isosurface(Grid.from_bounds(sample(sphere(radius), (65, 65, 65)), *BOX))

    found = directional_derivative(extract, [radius], [torch.ones(())])
    exact = torch.tensor([4 * math.pi * 0.6**2, 8 * math.pi * 0.6]).double()
    # Trilinear normals turn by up to h / (2 r), which moves vertices sideways: second order again.
    torch.testing.assert_close(found, exact, rtol=4e-3, atol=0)


def test_weights_of_a_small_network(generator):
    network = SmallNetwork()
    parameters = list(network.parameters())
    directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]

    def extract():
        return isosurface(network, *BOX, 64, law="implicit", dtype=torch.float64)

    assert is_closed_and_oriented(extract().faces)
    expected = central_difference(extract, parameters, directions, 3e-3)
    found = directional_derivative(extract, parameters, directions)
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("norm", [0.5, 2.0])
def test_implicit_is_right_and_sdf_wrong_by_the_gradient_norm(norm):
    radius = parameter(0.6)
    slopes = {}
    for law in LAWS:
        mesh = isosurface(
            lambda p: norm * (p.norm(dim=-1) - radius), *BOX, 32, law=law, dtype=torch.float64
        )
        slopes[law] = torch.autograd.grad(mesh.vertices.norm(dim=1).mean(), radius)[0].item()
    assert slopes["implicit"] == pytest.approx(1, rel=1e-12)
    assert slopes["sdf"] == pytest.approx(norm, rel=1e-12)


# Errors.


@pytest.mark.parametrize("call", [isosurface, sample_field])
@pytest.mark.parametrize(
    ("field", "fragments"),
    [
        (lambda p: p, ("must return (P,)", ", 3)")),
        (lambda p: p.norm(dim=1, keepdim=True), ("must return (P,)", ", 1)")),
        (lambda p: p.sum(), ("must return (P,)", "got ()")),
        (lambda p: 0.0, ("must return a tensor", "got float")),
        (lambda p: p.norm(dim=1).long(), ("must return floating", "got torch.int64")),
        (lambda p: p.norm(dim=1) * math.nan, ("NaN everywhere", "got NaN")),
    ],
)
def test_bad_fields(field, fragments, call):
    with pytest.raises((ValueError, TypeError), match="field") as error:
        call(field, *BOX, 4)
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ((None, None, None), ("lower", "upper", "resolution")),
        (((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), 4), ("upper", "above lower")),
        (((0.0, 0.0), (1.0, 1.0, 1.0), 4), ("lower", "three")),
        ((*BOX, 0), ("resolution", "positive", "got 0")),
        ((*BOX, (4, 4)), ("resolution", "three", "got (4, 4)")),
        ((*BOX, (4, 4, -1)), ("resolution", "positive", "-1")),
    ],
)
def test_bad_bounds(arguments, fragments):
    with pytest.raises(ValueError, match="isosurface: ") as error:
        isosurface(sphere(0.5), *arguments)
    assert all(part in str(error.value) for part in fragments), error.value


def test_nan_level():
    with pytest.raises((ValueError, RuntimeError), match=r"level must be a number, got nan"):
        isosurface(sphere(0.5), *BOX, 8, level=math.nan)


# Edges.


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("inside", [False, True])
def test_empty_surface_stays_attached_to_the_field(law, inside):
    """Nothing left to extract: the gradient is zero, not an error and not None."""
    radius = parameter(9.0 if inside else -0.5)
    mesh = isosurface(sphere(radius), *BOX, 8, law=law, dtype=torch.float64)
    assert mesh.vertices.shape == mesh.faces.shape == (0, 3)
    assert mesh.vertices.requires_grad
    mesh.vertices.sum().backward()
    assert radius.grad == 0


def test_empty_surface_of_a_network_gives_every_weight_a_zero():
    network = SmallNetwork()
    mesh = isosurface(lambda p: network(p) + 99, *BOX, 8, dtype=torch.float64)
    mesh.vertices.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in network.parameters())


def test_empty_surface_of_a_grid_stays_attached():
    values = torch.ones(4, 4, 4, requires_grad=True)
    isosurface(Grid(values)).vertices.sum().backward()
    assert torch.equal(values.grad, torch.zeros(4, 4, 4))


def test_nothing_to_attach_to():
    assert not isosurface(Grid(torch.randn(4, 4, 4))).vertices.requires_grad
    with torch.no_grad():
        assert not isosurface(sphere(parameter(0.5)), *BOX, 8).vertices.requires_grad


@pytest.mark.parametrize("resolution", [(9, 10, 11), 7])
def test_resolution_counts_cells_and_nodes_include_both_bounds(resolution):
    lower, upper = (-1.0, -2.0, 0.5), (2.0, 1.0, 3.0)
    grid = sample_field(lambda p: p[:, 0] + 10 * p[:, 1] + 100 * p[:, 2], lower, upper, resolution)
    cells = (resolution,) * 3 if isinstance(resolution, int) else resolution
    assert grid.values.shape == tuple(n + 1 for n in cells)
    assert grid.values[0, 0, 0] == pytest.approx(-1 - 20 + 50)
    assert grid.values[-1, -1, -1] == pytest.approx(2 + 10 + 300)
    assert grid.values[-1, 0, 0] == pytest.approx(2 - 20 + 50)
    assert grid.upper == pytest.approx(upper)


def test_chunks_within_the_memory_budget_change_nothing():
    counts = []

    def field(points):
        counts.append(len(points))
        x, y, z = points.unbind(-1)
        return (x * x + y * y + z * z).sqrt() - 0.7

    whole = sample_field(field, *BOX, 40)
    assert max(counts) == 41**3
    counts.clear()
    chunked = sample_field(field, *BOX, 40, memory_budget=2**20)
    assert len(counts) > 2
    # Every node once, and a few more to measure what one takes.
    assert 41**3 <= sum(counts) <= 41**3 + 1000
    # Points alone take twelve bytes each.
    assert max(counts) * 12 <= 2**20
    assert torch.equal(chunked.values, whole.values)
    mesh, expected = isosurface(field, *BOX, 40, memory_budget=2**20), isosurface(field, *BOX, 40)
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)


def test_graphs_at_the_vertices_keep_within_the_memory_budget():
    """Small budgets evaluate vertices in chunks, twice: the same gradients, less at a time."""
    network, code = SmallNetwork(), torch.zeros(3, dtype=torch.float64, requires_grad=True)
    sizes = []

    def field(points):
        sizes.append(len(points))
        return network(points + code.sin())

    results = []
    for budget in (2**30, 2**21):
        sizes.clear()
        mesh = isosurface(field, *BOX, 64, memory_budget=budget, dtype=torch.float64)
        loss = (mesh.vertices * torch.linspace(-1, 1, 3).double()).sum() / len(mesh.vertices)
        gradients = torch.autograd.grad(loss, (code, *network.parameters()), allow_unused=True)
        assert (max(sizes[-10:]) < len(mesh.vertices)) == (budget == 2**21)
        results.append([g for g in gradients if g is not None])
    assert len(mesh.vertices) > 4096
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "options", [{"law": "exact"}, {"index_dtype": torch.int16}, {"level": math.nan}]
)
def test_wrong_options_are_refused_before_the_field_is_asked(options):
    """Sampling may take minutes."""
    calls = []

    def field(points):
        calls.append(len(points))
        return points.norm(dim=1) - 0.5

    with pytest.raises(ValueError, match=rf"{next(iter(options))} must be"):
        isosurface(field, *BOX, 8, **options)
    assert not calls


def test_resolution_of_other_integer_types():
    for resolution in (np.int64(7), np.array([7, 7, 7]), torch.Size((7, 7, 7))):
        assert sample_field(sphere(0.5), *BOX, resolution).values.shape == (8, 8, 8)


def test_budget_below_one_point():
    with pytest.raises(ValueError, match=r"memory_budget must hold one point .*got 1"):
        sample_field(sphere(0.5), *BOX, 4, memory_budget=1)


def test_dtype_and_device_follow_the_parameters_of_a_module():
    network = SmallNetwork()
    assert sample_field(network, *BOX, 4).values.dtype == torch.float64
    assert sample_field(sphere(0.5), *BOX, 4).values.dtype == torch.float32
    half = isosurface(lambda p: (p.norm(dim=1) - 0.5).half(), *BOX, 8)
    assert half.vertices.dtype == torch.float32


def test_constant_field_is_refused():
    """Nothing to take a normal from: the mesh could never be attached."""
    with pytest.raises(RuntimeError, match=r"field must be differentiable in its points"):
        isosurface(lambda p: torch.ones(len(p)), *BOX, 4)


def test_grid_takes_no_bounds():
    with pytest.raises(ValueError, match=r"isosurface: a Grid has its own bounds"):
        isosurface(Grid(torch.randn(4, 4, 4)), *BOX, 8)


@pytest.mark.parametrize("law", LAWS)
def test_batch_of_grids(law, generator):
    values = random_smooth(generator, (3, 5, 6, 4))
    level = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    meshes = isosurface(Grid(values.requires_grad_()), law=law, level=level)
    gradients = torch.autograd.grad(meshes.vertices.square().sum(), (values, level))
    for b, mesh in enumerate(meshes):
        one, its_level = values[b].detach().requires_grad_(), level[b].detach().requires_grad_()
        alone = isosurface(Grid(one), law=law, level=its_level)
        assert torch.equal(mesh.vertices, alone.vertices)
        assert torch.equal(mesh.faces, alone.faces)
        expected = torch.autograd.grad(alone.vertices.square().sum(), (one, its_level))
        assert torch.equal(gradients[0][b], expected[0])
        torch.testing.assert_close(gradients[1][b], expected[1])


def test_sampling_keeps_no_graph():
    grid = sample_field(sphere(parameter(0.5)), *BOX, 4, dtype=torch.float64)
    assert not grid.values.requires_grad
    assert grid.values.dtype == torch.float64


def test_close_boundary_and_index_dtype():
    mesh = isosurface(sphere(1.2), *BOX, 16, close_boundary=True, index_dtype=torch.int32)
    assert mesh.faces.dtype == torch.int32
    assert is_closed_and_oriented(mesh.faces)
    assert euler_number(mesh.faces) == 2
