# SPDX-License-Identifier: Apache-2.0
"""sample_grid of bricks: the dense op's values and gradients, registration, CUDA, properties."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda
from fields import sample, sheared_plane, shuffled_bricks, with_holes

from diffiso import BrickGrid, Grid, reference, sample_grid

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
SHAPE = (19, 10, 26)  # of three, two and four bricks, the last of each with some nodes beyond
OP = torch.ops.diffiso.sample_bricks
BACKWARD = torch.ops.diffiso.sample_bricks_backward


def holed_grid(generator, dtype=torch.float64, shape=SHAPE):
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return Grid(with_holes(values, generator), LOWER, SPACING)


def points_around(grid, generator, count=3000):
    """Points in the box and beyond it, many of them on planes of nodes, the last one among them."""
    cells = torch.tensor(grid.values.shape) - 1
    place = (1.4 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.2) * cells
    on_plane = torch.rand(count, 3, generator=generator) < 0.3
    place = torch.where(on_plane, place.round(), place)
    lower, spacing = (torch.tensor(v, dtype=torch.float64) for v in (grid.lower, grid.spacing))
    return (lower + place * spacing).to(grid.values.dtype)


def arguments(bricks, points):
    where = (list(bricks.nodes), list(bricks.lower), list(bricks.spacing))
    return bricks.values, bricks.table, bricks.coordinates, points, *where


def assert_same(actual, expected):
    """Equal to the bit, NaN where the other is NaN."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# Values against the dense op and the reference.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_dense_grid(dtype, generator):
    grid = holed_grid(generator, dtype)
    points = points_around(grid, generator)
    found = sample_grid(shuffled_bricks(grid, generator), points)
    expected = sample_grid(grid, points)
    assert 0.1 < found.sdf.isnan().float().mean() < 0.9
    assert_same(found.sdf, expected.sdf)
    assert_same(found.gradient, expected.gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(dtype, generator):
    grid = holed_grid(generator, dtype)
    bricks = shuffled_bricks(grid, generator)
    cells = torch.stack([torch.randint(n - 1, (500,), generator=generator) for n in SHAPE], dim=1)
    # A tenth of a cell away from every plane of nodes: rounding changes no cell.
    place = cells + 0.1 + 0.8 * torch.rand(500, 3, generator=generator, dtype=torch.float64)
    points = (place * torch.tensor(SPACING).double() + torch.tensor(LOWER).double()).to(dtype)
    found = sample_grid(bricks, points)
    dense = bricks.to_grid().values.double()
    expected = reference.sample_grid(dense[None], points.double()[None], LOWER, SPACING)
    # A point's place in its cell has the rounding of a coordinate near 12 over a cell of 0.02, and
    # a gradient is a difference of samples over the spacing: both are 1 / 0.02 of the plain sum's.
    assert_close(found.sdf, expected.sdf[0], factor=12 / 0.02)
    assert_close(found.gradient, expected.gradient[0], factor=12 / 0.02**2)


def test_band_of_a_plane_is_met_exactly(generator):
    """Around a plane all nodes within half a cell's diagonal are there, and far from it none."""
    values = sample(sheared_plane, (41, 41, 41))
    near = values.abs() < 0.25
    grid = Grid.from_bounds(values.where(near, torch.nan), -1, 1)
    points = 2 * torch.rand(500, 3, generator=generator, dtype=torch.float64) - 1
    sdf, gradient = sample_grid(BrickGrid.from_grid(grid), points)
    # From a corner of a cell to another the plane rises by at most 1.75 cells of 1/20.
    inside = sheared_plane(points).abs() < 0.25 - 1.75 / 20
    outside = sheared_plane(points).abs() > 0.25
    assert_close(sdf[inside], sheared_plane(points)[inside])
    slope = torch.tensor([1.0, -0.25, 0.5]).double().expand(len(points), 3)
    assert_close(gradient[inside], slope[inside], factor=20)
    assert sdf[outside].isnan().all()


# Gradients.


@pytest.mark.parametrize("region", list(itertools.product((-1, 0, 1), repeat=3)))
def test_gradcheck_values_and_points(region, generator):
    """Across the face between two bricks, beside an absent third; below the box, in it, above."""
    values = torch.randn(18, 3, 3, generator=generator, dtype=torch.float64)
    values[16:] = math.nan
    lower, spacing = (0.4, -0.3, 0.1), (0.5, 0.7, 0.4)
    grid = Grid(values if region[0] < 1 else values[:16], lower, spacing)
    bricks = shuffled_bricks(grid, generator)
    place = 0.1 + 0.8 * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    cell = torch.tensor([[7, 0, 0], [7, 1, 0], [14, 1, 1]])
    last = torch.tensor(grid.values.shape) - 1
    where = torch.tensor(region)
    place = torch.where(where < 0, -place, torch.where(where > 0, last + place, cell + place))
    points = torch.tensor(lower).double() + place * torch.tensor(spacing).double()

    def outputs(values, points):
        return tuple(sample_grid(dataclasses.replace(bricks, values=values), points))

    inputs = (bricks.values.clone().requires_grad_(), points.requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_the_dense_grid(dtype, generator):
    """To the bit, for sums run in the order of the points; and nothing where a node is absent."""
    grid = holed_grid(generator, dtype)
    bricks = shuffled_bricks(grid, generator)
    points = points_around(grid, generator)
    cotangents = [torch.randn(s, generator=generator).to(dtype) for s in ((3000,), (3000, 3))]
    gradients = []
    for kind in (grid, bricks):
        inputs = kind.values.requires_grad_(), points.requires_grad_()
        gradients.append(torch.autograd.grad(sample_grid(kind, points), inputs, cotangents))
    (of_nodes, of_points), (of_bricks, of_brick_points) = gradients
    assert_same(of_brick_points, of_points)
    present = ~grid.values.isnan()
    found = dataclasses.replace(bricks, values=of_bricks).to_grid().values
    assert of_nodes[present].count_nonzero() > 1000
    assert torch.equal(found[present], of_nodes[present])
    for absent in (bricks.values.isnan(), padding_of(bricks)):
        assert absent.any()
        assert torch.equal(of_bricks[absent], torch.zeros_like(of_bricks[absent]))


def padding_of(bricks):
    """What is stored beyond the box."""
    ones = dataclasses.replace(bricks, values=torch.ones_like(bricks.values, requires_grad=True))
    dense = ones.to_grid().values
    return torch.autograd.grad(dense.nansum(), ones.values)[0] == 0


@pytest.mark.parametrize("needed", ["values", "points"])
def test_gradient_of_one_alone(needed, generator):
    grid = holed_grid(generator)
    bricks, points = shuffled_bricks(grid, generator), points_around(grid, generator, 50)
    (bricks.values if needed == "values" else points).requires_grad_()
    sdf, gradient = sample_grid(bricks, points)
    (sdf.sum() + gradient.sum()).backward()
    assert (bricks.values.grad is None) == (needed == "points")
    assert (points.grad is None) == (needed == "values")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deterministic_backward(dtype, threads, deterministic, generator):
    """Many points in few cells: the same bits for any thread count, and the ordinary answer."""
    bricks = shuffled_bricks(holed_grid(generator, dtype), generator)
    values = bricks.values.requires_grad_()
    size = torch.tensor([18 * 0.1, 0.7, 0.02])
    points = torch.tensor(LOWER) + size * torch.rand(20000, 3, generator=generator)

    cotangents = [torch.randn(s, generator=generator).to(dtype) for s in ((20000,), (20000, 3))]

    def gradient():
        return torch.autograd.grad(sample_grid(bricks, points.to(dtype)), values, cotangents)[0]

    gradients = []
    for count in (1, 2, 3):
        threads(count)
        gradients.append(gradient())
    assert gradients[0].count_nonzero() > 0
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    torch.use_deterministic_algorithms(False)
    # A sum of 20000 terms of up to 1 / 0.02 in another order.
    assert_close(gradient(), gradients[0], factor=20000**0.5 / 0.02)


def test_double_backward_is_refused(generator):
    grid = holed_grid(generator)
    bricks = shuffled_bricks(grid, generator)
    values = bricks.values.requires_grad_()
    sdf = sample_grid(bricks, points_around(grid, generator, 5)).sdf
    (slope,) = torch.autograd.grad(sdf.square().sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"sample_bricks.*(double|twice|second)"):
        slope.square().sum().backward()


# Registration.


@pytest.mark.parametrize(
    ("values_grad", "points_grad"), list(itertools.product((False, True), repeat=2))
)
@pytest.mark.parametrize(("count", "bricks"), [(7, 2), (0, 2), (7, 0)])
def test_opcheck(values_grad, points_grad, count, bricks, generator):
    values = torch.randn(bricks, 8, 8, 8, generator=generator, dtype=torch.float64)
    grid = BrickGrid.from_bricks(values, torch.tensor([[0, 0, 0], [1, 0, 0]])[:bricks], (16, 8, 8))
    grid.values.requires_grad_(values_grad)
    points = 7 * torch.rand(count, 3, generator=generator).double()
    inputs = arguments(grid, points.requires_grad_(points_grad))
    # Points lie within the bricks. Without bricks all is NaN, which opcheck takes for a difference
    # where it compares numbers.
    numbers = [] if bricks == 0 else ["test_aot_dispatch_dynamic"]
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", *numbers]
    torch.library.opcheck(OP.default, inputs, test_utils=tests)


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("deterministic_flag", [False, True])
def test_opcheck_backward(given, deterministic_flag, generator):
    values = torch.randn(2, 8, 8, 8, generator=generator, dtype=torch.float64)
    grid = BrickGrid.from_bricks(values, torch.tensor([[0, 0, 0], [1, 0, 0]]), (16, 8, 8))
    inputs = arguments(grid, 7 * torch.rand(9, 3, generator=generator).double())
    outputs = OP(*inputs)
    cotangents = [torch.ones_like(o) if g else None for o, g in zip(outputs, given, strict=True)]
    torch.library.opcheck(BACKWARD.default, (*cotangents, *inputs, deterministic_flag))


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(dtype, generator):
    # Without holes, for NaN equals nothing.
    grid = Grid(torch.randn(SHAPE, generator=generator).to(dtype), LOWER, SPACING)
    bricks = shuffled_bricks(grid, generator)
    points = points_around(grid, generator)

    def joined(values, points):
        device = values.device
        moved = bricks.to(device)
        sdf, gradient = sample_grid(dataclasses.replace(moved, values=values), points)
        return (torch.cat((sdf[:, None], gradient), dim=1),)

    # A few points in a cell, each passing on up to 1 / 0.02.
    assert_same_on_cuda(joined, bricks.values, points, exact=(False,), factor=20 / 0.02)


@pytest.mark.cuda
def test_cuda_deterministic_backward(deterministic, generator):
    """No atomics: the same bits every time, and the CPU's up to rounding."""
    grid = holed_grid(generator, torch.float32)
    bricks = shuffled_bricks(grid, generator)
    points = points_around(grid, generator, 20000)
    gradients = []
    for device in ("cpu", "cuda", "cuda"):
        moved = bricks.to(device)
        values = moved.values.detach().clone().requires_grad_()
        sdf, gradient = sample_grid(dataclasses.replace(moved, values=values), points.to(device))
        loss = sdf.nansum() + gradient.nansum()
        gradients.append(torch.autograd.grad(loss, values)[0].cpu())
    assert torch.equal(gradients[1], gradients[2])
    assert_close(gradients[1], gradients[0], factor=20000**0.5 / 0.02)


# Properties.


def test_non_contiguous_input(generator):
    grid = holed_grid(generator)
    bricks, points = shuffled_bricks(grid, generator), points_around(grid, generator, 50)
    strided = BrickGrid(
        bricks.values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        bricks.table.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        bricks.coordinates.T.contiguous().T,
        *arguments(bricks, points)[4:],
    )
    assert not strided.table.is_contiguous()
    found, expected = sample_grid(strided, points.T.contiguous().T), sample_grid(bricks, points)
    assert_same(found.sdf, expected.sdf)
    assert_same(found.gradient, expected.gradient)


def test_order_of_bricks_does_not_matter(generator):
    grid = holed_grid(generator)
    points = points_around(grid, generator)
    results = []
    for _ in range(2):
        bricks = shuffled_bricks(grid, generator)
        values = bricks.values.requires_grad_()
        sdf, gradient = sample_grid(bricks, points)
        (slope,) = torch.autograd.grad(sdf.nansum() + gradient.nansum(), values)
        dense = dataclasses.replace(bricks, values=slope).to_grid().values
        results.append((bricks.coordinates, sdf.detach(), gradient.detach(), dense))
    assert not torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1:], results[1][1:], strict=True):
        assert_same(one, other)


def test_gradient_is_that_of_the_value(generator):
    """The second output is the first one's derivative, inside and outside."""
    grid = holed_grid(generator)
    points = points_around(grid, generator).requires_grad_()
    sdf, gradient = sample_grid(shuffled_bricks(grid, generator), points)
    (slope,) = torch.autograd.grad(sdf.sum(), points)
    assert_close(gradient, slope, factor=1 / 0.02)
