# SPDX-License-Identifier: Apache-2.0
"""Losses of fields and grids: values worked by hand, derivatives in float64, what they refuse."""

import math

import pytest
import torch
from fields import sphere
from torch.autograd import gradcheck

import diffiso
from diffiso import Grid, Mesh
from diffiso.losses import (
    clamped_l1,
    eikonal,
    grid_gradient,
    grid_laplacian,
    narrow_band_mask,
)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def tetrahedron(dtype=torch.float64):
    vertices = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=dtype)
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


# Clamped L1.


def test_clamped_l1_by_hand():
    prediction = torch.tensor([[0.3, -0.3], [0.05, -0.02]])
    target = torch.tensor([[0.2, 0.5], [0.05, 0.02]])
    assert clamped_l1(prediction, target).item() == pytest.approx((0.1 + 0.8 + 0 + 0.04) / 4)
    assert clamped_l1(prediction, target, 0.1).item() == pytest.approx((0 + 0.2 + 0 + 0.04) / 4)


def test_clamped_l1_gives_nothing_beyond_the_band():
    prediction = torch.tensor([0.3, -0.3, 0.05], requires_grad=True)
    clamped_l1(prediction, torch.zeros(3), 0.1).backward()
    assert torch.equal(prediction.grad, torch.tensor([0.0, 0.0, 1 / 3]))


def test_clamped_l1_derivatives():
    prediction, target = random(4, 5), random(4, 5)
    assert gradcheck(lambda p, t: clamped_l1(p, t, 0.7), (prediction, target))
    assert gradcheck(clamped_l1, (prediction, target))


def test_clamped_l1_errors():
    with pytest.raises(ValueError, match=r"clamped_l1: target must have .*\(3, 1\), got \(3,\)"):
        clamped_l1(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"prediction must have values, got shape \(0,\)"):
        clamped_l1(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="clamped_l1: both sides must have one dtype and device"):
        clamped_l1(torch.zeros(2), torch.zeros(2).double())
    with pytest.raises(ValueError, match="clamp must be positive, got 0"):
        clamped_l1(torch.zeros(1), torch.zeros(1), 0.0)


# Eikonal.


def test_eikonal_by_hand():
    gradients = torch.tensor([[[3.0, 0, 4.0]], [[0, 0.5, 0]]])
    assert eikonal(gradients).item() == pytest.approx((16 + 0.25) / 2)
    assert eikonal(gradients, squared=True).item() == pytest.approx((24 + 0.75) / 2)
    unit = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
    # Lengths of one, rounded to double.
    assert eikonal(unit) < 1e-30
    assert eikonal(unit, squared=True) < 1e-15


@pytest.mark.parametrize("squared", [False, True])
def test_eikonal_derivatives(squared):
    gradients = random(4, 5, 3)
    mask = torch.rand(4, 5) < 0.5
    assert gradcheck(lambda g: eikonal(g, squared=squared), gradients)
    assert gradcheck(lambda g: eikonal(g, squared=squared, mask=mask), gradients)
    assert torch.autograd.gradgradcheck(lambda g: eikonal(g, squared=squared), gradients)


def test_eikonal_has_second_derivatives_where_the_field_is_flat():
    """Of a field a |p|^2, whose gradient is zero at 0: its loss there changes with nothing."""
    points = torch.tensor([[0.0, 0, 0], [0, 0, 1]], requires_grad=True)
    weight = torch.tensor(2.0, requires_grad=True)
    values = weight * points.square().sum(dim=1)
    (gradients,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    loss = eikonal(gradients)
    assert loss.item() == (1 + 9) / 2
    (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
    assert slope.item() == 2 * 3 * 2 / 2
    assert torch.autograd.grad(slope, weight)[0].item() == 2 * 2 * 2 / 2


def test_eikonal_counts_the_mask_only():
    gradients = torch.tensor([[2.0, 0, 0], [math.nan, 0, 0], [0, 0, 0]], requires_grad=True)
    loss = eikonal(gradients, mask=torch.tensor([True, False, True]))
    loss.backward()
    assert loss.item() == pytest.approx((1 + 1) / 2)
    # A gradient of length zero has no direction to grow in.
    assert torch.equal(gradients.grad, torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]))


def test_eikonal_of_an_empty_band_is_an_attached_zero():
    gradients = torch.ones(4, 3, requires_grad=True)
    loss = eikonal(gradients, mask=torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(gradients.grad, torch.zeros(4, 3))


def test_eikonal_errors():
    with pytest.raises(ValueError, match=r"eikonal: gradients must be .*got \(3, 2\)"):
        eikonal(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"not empty, got \(0, 3\)"):
        eikonal(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"mask must be \(4,\) bool, got \(4, 1\) torch\.bool"):
        eikonal(torch.zeros(4, 3), mask=torch.ones(4, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got \(4,\) torch\.float32"):
        eikonal(torch.zeros(4, 3), mask=torch.ones(4))


# Grids.


def quadratic(nodes=(4, 5, 6)):
    """x^2 + 3 y^2 - 2 z^2 + x y z on a box of uneven cells, with its inner nodes' positions."""
    grid = diffiso.sample_field(
        lambda p: p[:, 0] ** 2 + 3 * p[:, 1] ** 2 - 2 * p[:, 2] ** 2 + p.prod(dim=1),
        (-1.0, 0.0, 2.0),
        (2.0, 1.0, 3.0),
        [n - 1 for n in nodes],
        dtype=torch.float64,
    )
    axes = [
        low + step * torch.arange(1, n - 1, dtype=torch.float64)
        for low, step, n in zip(grid.lower, grid.spacing, nodes, strict=True)
    ]
    return grid, torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def test_stencils_are_exact_for_quadratics():
    grid, where = quadratic()
    x, y, z = where.unbind(-1)
    gradient = torch.stack([2 * x + y * z, 6 * y + x * z, -4 * z + x * y], dim=-1)
    # Differences of numbers up to 20, rounded to double, over squared cells of 1/5.
    torch.testing.assert_close(grid_gradient(grid), gradient, rtol=0, atol=1e-12)
    laplacian = torch.full((2, 3, 4), 2.0 + 6.0 - 4.0, dtype=torch.float64)
    torch.testing.assert_close(grid_laplacian(grid), laplacian, rtol=0, atol=1e-12)


def test_batches_of_grids():
    values = torch.randn(2, 3, 4, 5)
    batch = Grid(values, spacing=(0.5, 1.0, 2.0))
    for function in (grid_gradient, grid_laplacian):
        each = [function(Grid(v, spacing=batch.spacing)) for v in values]
        assert torch.equal(function(batch), torch.stack(each))


def test_stencil_derivatives():
    values = random(3, 4, 3)
    spacing = (0.5, 1.0, 2.0)
    assert gradcheck(lambda v: grid_gradient(Grid(v, spacing=spacing)), values)
    assert gradcheck(lambda v: grid_laplacian(Grid(v, spacing=spacing)).square().mean(), values)


@pytest.mark.parametrize("function", [grid_gradient, grid_laplacian])
def test_stencil_errors(function):
    with pytest.raises(ValueError, match=rf"{function.__name__}: .*3 nodes .*got \(2, 3, 3\)"):
        function(Grid(torch.zeros(2, 3, 3)))


def test_narrow_band():
    grid = diffiso.sample_field(sphere(0.5), -1, 1, 16)
    mask = narrow_band_mask(grid.values, 1.6 * grid.spacing[0])
    assert torch.equal(mask, grid.values.abs() <= 0.2)
    assert 0 < mask.sum() < mask.numel() / 4
    odd = torch.tensor([math.nan, math.inf, -0.0, -1.0])
    assert narrow_band_mask(odd, 0.0).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="narrow_band_mask: width must not be negative, got -1"):
        narrow_band_mask(odd, -1.0)
    with pytest.raises(ValueError, match="got nan"):
        narrow_band_mask(odd, math.nan)


def test_regularisers_of_a_grid_work_together():
    """SDFDiff, Eq. 4, without the image: a distance has nearly none, its double has."""
    values = diffiso.sample_field(sphere(0.5), -1, 1, 24).values
    totals = []
    for factor in (1.0, 2.0):
        grid = Grid.from_bounds(factor * values, -1, 1)
        band = narrow_band_mask(grid.values, 1.6 * grid.spacing[0])[1:-1, 1:-1, 1:-1]
        totals.append(eikonal(grid_gradient(grid), mask=band).item())
    # Second differences of |x| at radius 0.5, cells of 1/12: 1 - cell^2 / (6 * 0.5^2) and so on.
    assert totals[0] < 1e-4
    assert totals[1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("loss", [grid_gradient, grid_laplacian])
def test_sparse_grids_are_refused(loss):
    """Their bricks look like a batch of dense grids."""
    bricks = diffiso.NarrowBand(-1, 1, 16, lipschitz=1.0).sample(sphere(0.5))
    with pytest.raises(TypeError, match=r"grid must be a Grid, got BrickGrid"):
        loss(bricks)
