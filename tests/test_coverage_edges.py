# SPDX-License-Identifier: Apache-2.0
"""coverage: registration, errors, edges, CUDA."""

import math

import pytest
import torch
from conftest import assert_same_on_cuda
from fields import sphere
from rays import LOWER, SPACING, box_grid, orbit, random_rays, random_scene

from diffiso import Grid, coverage, trace

DTYPES = (torch.float32, torch.float64)
OP = torch.ops.diffiso.coverage
BACKWARD = torch.ops.diffiso.coverage_backward


# Registration.


def op_arguments(generator, grad, count=7):
    grid, origins, directions = random_scene(generator, count=count)
    hits = trace(grid, origins, directions, footprint=0.2)
    t, cell = hits.closest_t.flatten().clamp(max=9.0), hits.closest_cell.flatten()
    tensors = grid.values, origins, directions, t, torch.tensor([0.1, 0.2]).double()
    values, origins, directions, t, width = (x.clone().requires_grad_(grad) for x in tensors)
    box = list(LOWER), list(SPACING)
    return [values, origins, directions, t, cell, width, [], *box, 0.0, 0.1]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("count", [0, 7])
def test_opcheck(grad, count, generator):
    torch.library.opcheck(OP.default, op_arguments(generator, grad, count))


@pytest.mark.parametrize("flag", [False, True])
def test_opcheck_backward(flag, generator):
    arguments = op_arguments(generator, False)
    grad = torch.ones_like(OP(*arguments))
    torch.library.opcheck(BACKWARD.default, (grad, *arguments, True, flag))


# Errors.


def test_bad_input():
    grid = box_grid(sphere(0.5), 6)
    cameras = orbit(2, (3, 4))
    with pytest.raises(ValueError, match=r"coverage: hits .*footprint"):
        coverage(grid, trace(grid, cameras=cameras), 0.1)
    hits = trace(grid, cameras=cameras, footprint=0.1)
    for footprint in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"coverage: footprint .*positive"):
            coverage(grid, hits, footprint)
    for slope in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"coverage: min_slope .*positive"):
            coverage(grid, hits, 0.1, min_slope=slope)
    with pytest.raises(RuntimeError, match=r"coverage: footprint.*3"):
        coverage(grid, hits, torch.full((3,), 0.1).double())
    with pytest.raises(RuntimeError, match=r"coverage: footprint.*float64.*float32"):
        coverage(grid, hits, torch.full((2,), 0.1))
    with pytest.raises(TypeError, match="coverage: grid"):
        coverage(grid.values.numpy(), hits, 0.1)
    with pytest.raises((RuntimeError, ValueError), match=r"coverage: .*cell"):
        coverage(box_grid(sphere(0.5), 3), hits, 0.1)


# Edges.


def test_widths_that_are_none():
    grid, cameras = box_grid(sphere(0.5), 6), orbit(2, (3, 4))
    hits = trace(grid, cameras=cameras, footprint=0.02)
    for width in (math.nan, math.inf, -0.02):
        widths = torch.tensor([0.02, width]).double()
        with pytest.raises(RuntimeError, match=r"trace: footprint must not be negative, got"):
            trace(grid, cameras=cameras, footprint=widths)
        with pytest.raises(RuntimeError, match=r"coverage: footprint must not be negative, got"):
            coverage(grid, hits, widths)
    with pytest.raises(ValueError, match="trace: footprint must have at least one number"):
        trace(grid, cameras=cameras, footprint=torch.zeros(0).double())
    for level in (math.nan, math.inf):
        with pytest.raises(ValueError, match="coverage: level must be finite"):
            coverage(grid, hits, 0.02, level=level)


def test_no_rays():
    values = torch.randn(4, 4, 4, requires_grad=True)
    hits = trace(values, torch.zeros(0, 3), torch.zeros(0, 3), footprint=0.1)
    share = coverage(values, hits, 0.1)
    assert share.shape == (0,)
    share.sum().backward()
    assert torch.equal(values.grad, torch.zeros(4, 4, 4))


@pytest.mark.parametrize("fill", [1.0, -1.0, math.nan, math.inf, -math.inf, 0.0])
def test_constant_fields(fill, generator):
    """Full inside, none outside or where nothing is known; 1/2 where all is at the level."""
    values = torch.full((4, 5, 6), fill).requires_grad_()
    origins, directions = random_rays(Grid(values.detach()), 50, generator)
    share = coverage(values, trace(values, origins, directions, footprint=0.01), 0.01)
    expected = torch.full((50,), {-1.0: 1.0, 0.0: 0.5}.get(fill, 0.0))
    if fill == 0:  # where a ray begins its pixel has no width, and the level is outside
        size = torch.tensor([3.0, 4.0, 5.0])
        expected[((origins > 0) & (origins < size)).all(dim=1)] = 0.0
    assert torch.equal(share, expected)
    (gradient,) = torch.autograd.grad(share.sum(), values)
    assert gradient.isfinite().all()


def test_autocast_leaves_dtypes_alone():
    grid = box_grid(sphere(0.5), 8, torch.float32)
    hits = trace(grid, cameras=orbit(1, (8, 8), dtype=torch.float32), footprint=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        share = coverage(grid, hits, 0.1)
    assert share.dtype == torch.float32
    assert torch.equal(share, coverage(grid, hits, 0.1))


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_cpu(dtype, generator):
    grid, origins, directions = random_scene(generator, dtype, count=5000)
    width = torch.tensor([0.1, 0.2], dtype=dtype)

    def share(values, origins, directions, width):
        box = Grid(values, LOWER, SPACING)
        return (coverage(box, trace(box, origins, directions, footprint=width), width),)

    # Thousands of rays add to each sample; minima that bend little pass on a thousand times more.
    arguments = grid.values, origins, directions, width
    assert_same_on_cuda(share, *arguments, exact=(True,), factor=1000 * 5000**0.5)
