# SPDX-License-Identifier: Apache-2.0
"""sample_grid: values, gradients, registration, errors, edges, CUDA, properties."""

import itertools
import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda
from fields import box, sample, sheared_plane, sphere
from torch.autograd import forward_ad

from diffiso import Grid, reference, sample_grid

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
UPPER = tuple(
    low + step * cells for low, step, cells in zip(LOWER, SPACING, (3, 2, 4), strict=True)
)
SHAPE = (4, 3, 5)
OP = torch.ops.diffiso.sample_grid
BACKWARD = torch.ops.diffiso.sample_grid_backward
# Where a point lies along an axis: below the box, in it, above it.
REGIONS = list(itertools.product((-1, 0, 1), repeat=3))


def random_grid(generator, batch=2, dtype=torch.float64):
    return torch.randn((batch, *SHAPE), generator=generator, dtype=torch.float64).to(dtype)


def points_in(regions, generator, per_region=3, dtype=torch.float64):
    """Points of each region, at least a tenth of a cell away from every plane of nodes."""
    points = []
    for region in regions:
        for _ in range(per_region):
            offset = 0.1 + 0.8 * torch.rand(3, generator=generator, dtype=torch.float64)
            cell = torch.stack([torch.randint(n - 1, (), generator=generator) for n in SHAPE])
            below, above = -offset, torch.tensor(SHAPE) - 1 + offset
            where = torch.tensor(region)
            place = torch.where(where < 0, below, torch.where(where > 0, above, cell + offset))
            points.append(place)
    world = torch.tensor(LOWER).double() + torch.stack(points) * torch.tensor(SPACING).double()
    return world.to(dtype)


# Values against the reference.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(dtype, generator):
    values = random_grid(generator, dtype=dtype)
    points = points_in(REGIONS, generator, dtype=dtype).expand(2, -1, -1)
    sdf, gradient = sample_grid(Grid(values, LOWER, SPACING), points)
    expected = reference.sample_grid(values.double(), points.double(), LOWER, SPACING)
    # A point's place in its cell has the rounding of a coordinate near 12 over a cell of 0.02, and
    # a gradient is a difference of samples over the spacing: both are 1 / 0.02 of the plain sum's.
    assert_close(sdf, expected.sdf, factor=12 / 0.02)
    assert_close(gradient, expected.gradient, factor=12 / 0.02**2)


def test_one_grid_and_a_batch_agree(generator):
    values = random_grid(generator)
    points = torch.stack([points_in(REGIONS, generator) for _ in range(2)])
    sdf, gradient = sample_grid(Grid(values, LOWER, SPACING), points)
    for b in range(2):
        alone = sample_grid(Grid(values[b], LOWER, SPACING), points[b])
        assert torch.equal(alone.sdf, sdf[b])
        assert torch.equal(alone.gradient, gradient[b])


def test_nodes_give_their_samples(generator):
    values = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    index = torch.cartesian_prod(*(torch.arange(n) for n in SHAPE))
    assert torch.equal(sample_grid(values, index.double()).sdf, values.flatten())


def test_linear_field_is_met_exactly(generator):
    lower, upper = (-1.0, -2.0, 0.5), (2.0, 1.0, 3.0)
    grid = Grid.from_bounds(sample(sheared_plane, (7, 12, 5), lower, upper), lower, upper)
    low, high = torch.tensor(lower).double(), torch.tensor(upper).double()
    points = low + (high - low) * torch.rand(100, 3, generator=generator, dtype=torch.float64)
    sdf, gradient = sample_grid(grid, points)
    assert_close(sdf, sheared_plane(points))
    slope = torch.tensor([1.0, -0.25, 0.5]).double().expand(100, 3)
    # Differences of samples over a spacing of about 1/4.
    assert_close(gradient, slope, factor=4)


def test_upper_cell_owns_a_face_and_the_last_node_the_last_cell():
    values = torch.tensor([0.0, 1.0, 5.0, 6.0]).expand(2, 2, 4).contiguous()
    at = torch.tensor([0.0, 0.999, 1.0, 1.5, 2.0, 2.5, 3.0])
    points = torch.stack((torch.full((7,), 0.5), torch.full((7,), 0.5), at), dim=1)
    gradient = sample_grid(values, points).gradient
    assert gradient[:, 2].tolist() == [1.0, 1.0, 4.0, 4.0, 1.0, 1.0, 1.0]


def test_outside_is_the_nearest_value_plus_the_distance():
    lower, upper = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
    grid = Grid.from_bounds(torch.full((3, 4, 5), 0.25).double(), lower, upper)
    points = torch.tensor([[3.0, 0.0, 0.0], [4.0, 5.0, 0.5], [-3.0, -4.0, 4.0]]).double()
    sdf, gradient = sample_grid(grid, points)
    away = torch.tensor([[2.0, 0.0, 0.0], [3.0, 4.0, 0.0], [-2.0, -3.0, 3.0]]).double()
    distance = away.norm(dim=1)
    assert_close(sdf, 0.25 + distance)
    assert_close(gradient, away / distance[:, None])


def test_outside_keeps_the_distance_of_a_box(generator):
    """Zero on the rim of the grid, the distance of the solid that fills it beyond."""
    field = box((1.0, 1.0, 1.0))
    grid = Grid.from_bounds(sample(field, (9, 9, 9)), (-1.0,) * 3, (1.0,) * 3)
    points = 4 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    points = points[(points.abs() > 1).any(dim=1)]
    assert_close(sample_grid(grid, points).sdf, field(points))


def test_value_is_continuous_across_the_faces_of_the_box(generator):
    values = random_grid(generator, batch=1)[0]
    upper = torch.tensor(UPPER).double()
    points = points_in([(0, 0, 0)], generator, per_region=10)
    for axis, step in itertools.product(range(3), (-1e-9, 0.0, 1e-9)):
        points[:, axis] = upper[axis] + step
        sdf = sample_grid(Grid(values, LOWER, SPACING), points).sdf
        points[:, axis] = upper[axis]
        expected = sample_grid(Grid(values, LOWER, SPACING), points).sdf
        # A slope is at most 4 / 0.02.
        torch.testing.assert_close(sdf, expected, rtol=0, atol=200e-9)


# Gradients.


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("output", ["sdf", "gradient", "both"])
def test_gradcheck_values_and_points(region, output, generator):
    values = random_grid(generator, batch=1)[0].requires_grad_()
    points = points_in([region], generator).requires_grad_()

    def outputs(values, points):
        result = sample_grid(Grid(values, (0.4, -0.3, 0.1), (0.5, 0.7, 0.4)), points)
        return tuple(result) if output == "both" else getattr(result, output)

    # The same places in a box of even cells, where finite differences are well conditioned.
    with torch.no_grad():
        points.sub_(points.new_tensor(LOWER)).div_(points.new_tensor(SPACING))
        points.mul_(points.new_tensor((0.5, 0.7, 0.4))).add_(points.new_tensor((0.4, -0.3, 0.1)))
    assert torch.autograd.gradcheck(outputs, (values, points))
    for alone in (values, points):
        other = points if alone is values else values
        other.requires_grad_(False)
        assert torch.autograd.gradcheck(outputs, (values, points))
        other.requires_grad_(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_reference(dtype, generator):
    values, points = random_grid(generator, dtype=dtype), points_in(REGIONS, generator, dtype=dtype)
    points = points.repeat(2, 1, 1)
    cotangents = [
        torch.randn(shape, generator=generator).to(dtype)
        for shape in (points.shape[:2], points.shape)
    ]
    results = []
    for function, kind in (
        (lambda v, p: sample_grid(Grid(v, LOWER, SPACING), p), dtype),
        (lambda v, p: reference.sample_grid(v, p, LOWER, SPACING), torch.float64),
    ):
        inputs = [x.to(kind).requires_grad_() for x in (values, points)]
        outputs = function(*inputs)
        results.append(torch.autograd.grad(outputs, inputs, [c.to(kind) for c in cotangents]))
    for ours, exact, power in zip(*results, (2, 3), strict=True):
        # As in test_equals_reference; derivatives divide by the spacing once more.
        assert_close(ours, exact, factor=12 / 0.02**power)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deterministic_backward(dtype, threads, deterministic, generator):
    """Many points in one cell: the same bits for any thread count, and the ordinary answer."""
    values = random_grid(generator, batch=1, dtype=dtype)[0].requires_grad_()
    points = torch.rand(20000, 3, generator=generator).to(dtype) * 1.5
    gradients = []
    for count in (1, 2, 3):
        threads(count)
        sdf, gradient = sample_grid(values, points)
        gradients.append(torch.autograd.grad(sdf.sum() + gradient.square().sum(), values)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    torch.use_deterministic_algorithms(False)
    sdf, gradient = sample_grid(values, points)
    loose = torch.autograd.grad(sdf.sum() + gradient.square().sum(), values)[0]
    # A sum of 20000 terms in another order.
    assert_close(loose, gradients[0], factor=20000**0.5)


def test_double_backward_is_refused(generator):
    values = random_grid(generator, batch=1)[0].requires_grad_()
    sdf = sample_grid(values, torch.rand(5, 3).double()).sdf
    (slope,) = torch.autograd.grad(sdf.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"sample_grid.*(double|twice|second)"):
        slope.square().sum().backward()


# Registration.


@pytest.mark.parametrize(
    ("values_grad", "points_grad"), list(itertools.product((False, True), repeat=2))
)
@pytest.mark.parametrize("count", [0, 7])
def test_opcheck(values_grad, points_grad, count, generator):
    values = random_grid(generator).requires_grad_(values_grad)
    points = torch.rand(2, count, 3, generator=generator).double().requires_grad_(points_grad)
    torch.library.opcheck(OP.default, (values, points, (0.0,) * 3, (0.4,) * 3))


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("deterministic_flag", [False, True])
def test_opcheck_backward(given, deterministic_flag, generator):
    values, points = random_grid(generator), torch.rand(2, 7, 3, generator=generator).double()
    outputs = OP(values, points, (0.0,) * 3, (0.4,) * 3)
    cotangents = [torch.ones_like(o) if g else None for o, g in zip(outputs, given, strict=True)]
    arguments = (*cotangents, values, points, (0.0,) * 3, (0.4,) * 3, deterministic_flag)
    torch.library.opcheck(BACKWARD.default, arguments)


# Errors.

GRID, POINTS = torch.zeros(4, 4, 4), torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("values", "points", "fragments"),
    [
        (torch.zeros(64, 64), POINTS, ("values must be (X, Y, Z)", "got (64, 64)")),
        (torch.zeros(4, 1, 4), POINTS, ("values", "at least 2 nodes", "4, 1, 4)")),
        (GRID.half(), POINTS.half(), ("values", "torch.float32 or torch.float64", "torch.float16")),
        (GRID.long(), POINTS, ("values", "torch.float32 or torch.float64", "got torch.int64")),
        (GRID, POINTS.double(), ("points must be torch.float32", "got torch.float64")),
        (GRID, POINTS.long(), ("points must be torch.float32", "got torch.int64")),
        (GRID, torch.zeros(5, 2), ("points must be (P, 3)", "5, 2)")),
        (GRID, torch.zeros(3), ("points must be (P, 3)", "3)")),
        (GRID, torch.zeros(1, 5, 3), ("points must be (P, 3)", "1, 5, 3)")),
        (GRID.expand(2, 4, 4, 4), POINTS, ("points", "(B, P, 3)", "got (5, 3)")),
        (GRID.expand(2, 4, 4, 4), torch.zeros(3, 5, 3), ("points", "(B, P, 3)", "got (3, 5, 3)")),
    ],
)
def test_bad_input(values, points, fragments):
    with pytest.raises(RuntimeError) as error:
        sample_grid(values, points)
    assert all(part in str(error.value) for part in ("sample_grid: ", *fragments)), error.value


# Edges.


def test_no_points_and_no_grids():
    sdf, gradient = sample_grid(GRID, torch.zeros(0, 3))
    assert sdf.shape == (0,)
    assert gradient.shape == (0, 3)
    sdf, gradient = sample_grid(torch.zeros(0, 4, 4, 4), torch.zeros(0, 5, 3))
    assert sdf.shape == (0, 5)
    assert gradient.shape == (0, 5, 3)


def test_no_points_give_a_zero_gradient():
    values = GRID.clone().requires_grad_()
    sdf, gradient = sample_grid(values, torch.zeros(0, 3))
    (sdf.sum() + gradient.sum()).backward()
    assert torch.equal(values.grad, GRID)


def test_one_cell_grid(generator):
    values = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)
    sdf, gradient = sample_grid(values, torch.tensor([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]).double())
    assert_close(sdf, torch.stack((values.mean(), values[1, 1, 1])))
    assert_close(gradient[0, 0], (values[1] - values[0]).mean())
    assert_close(gradient[1, 2], values[1, 1, 1] - values[1, 1, 0])


@pytest.mark.parametrize("axis", range(3))
def test_nan_points_give_nan(axis):
    points = torch.full((2, 3), 0.5)
    points[0, axis] = math.nan
    values = torch.randn(4, 4, 4, requires_grad=True)
    points.requires_grad_()
    sdf, gradient = sample_grid(values, points)
    assert sdf.isnan().tolist() == [True, False]
    assert gradient.isnan().all(dim=1).tolist() == [True, False]
    sdf[1].backward()
    assert points.grad[1].isfinite().all()


def test_points_at_infinity():
    points = torch.tensor([[math.inf, 0.5, 0.5], [0.5, -math.inf, 0.5]], requires_grad=True)
    sdf, gradient = sample_grid(torch.zeros(4, 4, 4), points)
    assert sdf.tolist() == [math.inf, math.inf]
    gradient.sum().backward()


def test_non_finite_samples_reach_their_cells_alone():
    values = torch.zeros(4, 4, 4)
    values[1, 1, 1], values[3, 3, 3] = math.nan, math.inf
    points = torch.tensor([[0.5, 0.5, 0.5], [1.5, 1.5, 1.5], [2.5, 0.5, 0.5], [2.5, 2.5, 2.5]])
    sdf, gradient = sample_grid(values, points)
    assert sdf.isnan().tolist() == [True, True, False, False]
    assert gradient.isfinite().all(dim=1).tolist() == [False, False, True, False]
    assert sdf[2:].tolist() == [0.0, math.inf]


def test_non_contiguous_input(generator):
    values = torch.randn(5, 4, 6, generator=generator)
    points = 3 * torch.rand(3, 7, generator=generator)
    sdf, gradient = sample_grid(values.permute(2, 0, 1), points.T)
    expected = sample_grid(values.permute(2, 0, 1).contiguous(), points.T.contiguous())
    assert torch.equal(sdf, expected.sdf)
    assert torch.equal(gradient, expected.gradient)


def test_autocast_leaves_dtypes_alone():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sdf, gradient = sample_grid(GRID, POINTS)
    assert sdf.dtype == gradient.dtype == torch.float32


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(dtype, generator):
    values = random_grid(generator, dtype=dtype)
    points = points_in(REGIONS, generator, per_region=100, dtype=dtype).repeat(2, 1, 1)

    def joined(values, points):
        sdf, gradient = sample_grid(Grid(values, LOWER, SPACING), points)
        return (torch.cat((sdf[..., None], gradient), dim=-1),)

    # Hundreds of points in a cell, each passing on up to 1 / 0.02.
    assert_same_on_cuda(joined, values, points, exact=(False,), factor=20 / 0.02)


@pytest.mark.cuda
def test_cuda_deterministic_backward(deterministic, generator):
    """No atomics: the same bits every time, and the CPU's up to rounding."""
    values = random_grid(generator, dtype=torch.float32)
    points = 1.5 * torch.rand(2, 20000, 3, generator=generator)
    gradients = []
    for device in ("cpu", "cuda", "cuda"):
        inputs = values.to(device).requires_grad_()
        sdf, gradient = sample_grid(inputs, points.to(device))
        gradients.append(torch.autograd.grad(sdf.sum() + gradient.sum(), inputs)[0].cpu())
    assert torch.equal(gradients[1], gradients[2])
    assert_close(gradients[1], gradients[0], factor=20000**0.5)


# Properties.


def test_gradient_is_that_of_the_value(generator):
    """The second output is the first one's derivative, inside and outside."""
    values = random_grid(generator)
    points = points_in(REGIONS, generator).repeat(2, 1, 1).requires_grad_()
    sdf, gradient = sample_grid(Grid(values, LOWER, SPACING), points)
    (slope,) = torch.autograd.grad(sdf.sum(), points)
    assert_close(gradient, slope, factor=1 / 0.02)


def test_unit_gradient_of_a_sphere(generator):
    grid = Grid.from_bounds(sample(sphere(0.5), (65, 65, 65)), (-1.0,) * 3, (1.0,) * 3)
    points = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    points = 0.5 * points / points.norm(dim=1, keepdim=True)
    # A forward difference over h = 1/32 errs by h / (2 r) of the curvature along each axis.
    error = sample_grid(grid, points).gradient.norm(dim=1) - 1
    assert error.abs().max() < 3**0.5 * (1 / 32) / (2 * 0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    values = torch.rand(3, 3, 3, generator=generator)
    points = torch.rand(4, 3, generator=generator)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(points, torch.ones_like(points))
        with pytest.raises(RuntimeError, match="sample_grid: forward-mode"):
            sample_grid(values, moving)


def test_gradients_pass_through_vmap(generator):
    # A batched tensor does not say that what it was made from needs a gradient.
    points = torch.rand((4, 3), generator=generator, dtype=torch.float64)
    values = torch.rand((3, 3, 3), generator=generator, dtype=torch.float64).requires_grad_()
    factors = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def summed(factor):
        return sample_grid(factor * values, points).sdf.sum()

    (batched,) = torch.autograd.grad(torch.func.vmap(summed)(factors).sum(), values)
    (expected,) = torch.autograd.grad(sum(summed(factor) for factor in factors), values)
    assert_close(batched, expected)
    assert expected.any()
