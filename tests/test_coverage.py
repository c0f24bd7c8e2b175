# SPDX-License-Identifier: Apache-2.0
"""coverage, and the closest approaches it is made of: values and gradients."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close
from fields import sphere
from rays import LOWER, SPACING, box_grid, orbit, random_grid, random_rays, random_scene
from torch.autograd import forward_ad

from diffiso import Grid, coverage, reference, trace
from diffiso.camera import Camera

DTYPES = (torch.float32, torch.float64)
MINIMUM, FACES, END = 1, (2, 3, 4), 5  # RayHits.closest_kind
BOX = 6  # one of these, where a ray comes into the box or leaves it


def exact_coverage(grid, origins, directions, footprint, **options):
    """The reference, of rays (P, 3): closest approach by brute force, then the formula."""
    rays = grid.values.double()[None], origins.double()[None], directions.double()[None]
    box = grid.lower, grid.spacing
    closest = reference.closest_approach(*rays, *box)
    width = torch.full_like(closest.t, footprint)
    share = reference.coverage(*rays, closest.t, closest.cell, width, *box, **options)
    return share[0], closest


# Values against the reference.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gaps", [0.0, 0.1])
@pytest.mark.parametrize("footprint", [0.01, 0.2])
def test_equals_brute_force(dtype, gaps, footprint, generator):
    """Random fields; rays that hit, or come near, or neither."""
    for level in (0.0, 0.25):
        grid = random_grid(generator, dtype, gaps)
        origins, directions = random_rays(grid, 3000, generator)
        hits = trace(grid, origins, directions, footprint=footprint, level=level)
        share = coverage(grid, hits, footprint, level=level)
        exact, closest = exact_coverage(grid, origins, directions, footprint, level=level)
        # A slope of tens over a footprint of a hundredth, and places with as many roundings as
        # cells; in float32 two places may be equally low.
        apart = (share.double() - exact).abs() > 1e5 * torch.finfo(dtype).eps
        assert apart.sum() <= (5 if dtype == torch.float32 else 0)
        assert ((share > 0) & (share < 1)).sum() > 4
        # Where the pixel is covered in part the place is the exact one; where it is covered wholly
        # the ray may have ended before.
        ramp = (share > 0) & (share < 1) & ~apart
        same = hits.closest_cell[ramp] == closest.cell[0, ramp]
        assert (~same).sum() <= (5 if dtype == torch.float32 else 0)
        late = (hits.closest_t.double() - closest.t[0])[ramp].abs()
        assert late.quantile(0.99) < 1e4 * torch.finfo(dtype).eps


def test_record_of_closest_approach(generator):
    grid, origins, directions = random_scene(generator, count=500)
    plain = trace(grid, origins, directions)
    assert (plain.closest_t, plain.closest_cell, plain.closest_kind) == (None, None, None)
    hits = trace(grid, origins, directions, footprint=0.002)
    for name in ("t", "status", "cell", "fraction", "samples"):
        assert torch.equal(getattr(hits, name), getattr(plain, name)), name
    near = hits.closest_cell >= 0
    assert near.any()
    assert not near.all()
    assert torch.equal(near, hits.closest_t.isfinite())
    assert torch.equal(near, hits.closest_kind > 0)
    kinds = set(hits.closest_kind.unique().tolist())
    assert kinds == {0, MINIMUM, *FACES, END}


def test_footprint_of_every_camera():
    """A number, one number in a tensor, or one a camera."""
    grid = box_grid(sphere(0.6), 12)
    cameras = orbit(2, (20, 24))
    each = torch.tensor([0.02, 0.05]).double()
    both = coverage(grid, trace(grid, cameras=cameras, footprint=each), each)
    for n, footprint in enumerate(each.tolist()):
        for one in (footprint, torch.tensor(footprint).double()):
            hits = trace(grid, cameras=cameras[n], footprint=one)
            assert torch.equal(coverage(grid, hits, one)[0], both[n])


@pytest.mark.parametrize("scale", [0.01, 1.0, 20.0])
@pytest.mark.parametrize("min_slope", [1e-3, 0.1])
def test_fields_of_any_slope(scale, min_slope, generator):
    """By its slope a field that is no distance gives the distance; a flat one counts as steeper."""
    grid = box_grid(sphere(0.6), 16)
    grid = Grid(scale * grid.values, grid.lower, grid.spacing)
    origins, directions = random_rays(grid, 1000, generator)
    hits = trace(grid, origins, directions, footprint=0.05)
    share = coverage(grid, hits, 0.05, min_slope=min_slope)
    exact, _ = exact_coverage(grid, origins, directions, 0.05, min_slope=min_slope)
    assert_close(share, exact, factor=1e4)


# Known outlines.


def test_ball():
    """1/2 at the tangent, and linear in the distance of the ray over the pixel's width there."""
    grid = box_grid(sphere(0.6), 65)
    cameras = orbit(2, (64, 64))
    footprint = 0.5 / cameras.focal[0, 0].item()
    hits = trace(grid, cameras=cameras, footprint=footprint)
    share = coverage(grid, hits, footprint)
    origins, directions = hits.rays()
    length = directions.norm(dim=-1)
    t = -(origins * directions).sum(dim=-1) / length**2
    outside = (origins + t[..., None] * directions).norm(dim=-1) - 0.6
    exact = (0.5 - outside / (2 * footprint * t)).clamp(0, 1)
    ramp = (exact > 0) & (exact < 1)
    assert ramp.sum() > 100
    # Interpolation moves the surface by up to 3 h^2 / (8 r), with h = 1 / 32, and so the ramp by as
    # much of a pixel's width; its slope is off by h^2 / (2 r^2).
    error = 3 * (1 / 32) ** 2 / (8 * 0.6) / (2 * footprint * 3.4)
    assert (share - exact).abs().max() < 1.5 * error


def test_area_of_a_disc():
    """The sum over pixels is the outline's area, and its derivative the length of the outline."""
    radius = 0.6
    grid = box_grid(sphere(radius), 65)
    camera = Camera.look_at((0.4, 1.0, 3.8), size=256, field_of_view=30.0, dtype=torch.float64)
    focal, distance = camera.focal[0, 0].item(), camera.centers.norm().item()
    footprint = 0.5 / focal
    values = grid.values.clone().requires_grad_()
    box = Grid(values, grid.lower, grid.spacing)
    share = coverage(box, trace(box, cameras=camera, footprint=footprint), footprint)
    across = focal * radius / math.sqrt(distance**2 - radius**2)
    assert abs(share.sum().item() / (math.pi * across**2) - 1) < 2e-3
    # A larger radius lowers every sample. d across / d radius = focal D^2 / (D^2 - r^2)^(3/2)
    (gradient,) = torch.autograd.grad(share.sum(), values)
    growth = 2 * math.pi * across * focal * distance**2 / (distance**2 - radius**2) ** 1.5
    assert abs(-gradient.sum().item() / growth - 1) < 1e-2


def test_continuous_across_the_tangent(generator):
    """Rays moved outwards: it falls steadily, through 1/2 where they cease to hit."""
    grid = box_grid(sphere(0.6, (0.05, 0.1, -0.02)), 33)
    height = torch.linspace(0.55, 0.65, 2001).double()
    directions = torch.tensor([0.03, 0.02, 1.0]).double().expand(2001, 3)
    origins = torch.tensor([0.05, 0.1, -0.02]).double() - 3 * directions
    origins[:, 1] += height
    footprint = 0.01
    hits = trace(grid, origins, directions, footprint=footprint)
    share = coverage(grid, hits, footprint)
    step = -share.diff()
    # 5e-5 over 2 * 0.01 * 3 from ray to ray. The slope is a cell's own, so that where the closest
    # place passes to another it jumps by some thousandths, and the ramp by half of that.
    assert step.min() > -1e-12
    assert step.max() < 5e-5 / (2 * footprint * 3) + 0.5 * 0.004
    assert share[0] == 1
    assert share[-1] == 0
    assert abs(share[hits.hit].min() - 0.5) < 2e-3
    assert abs(share[~hits.hit].max() - 0.5) < 2e-3


def test_wider_ramps_reach_farther():
    grid = box_grid(sphere(0.5), 33)
    camera = orbit(1, (64, 64))
    one = 0.5 / camera.focal[0, 0].item()
    shares = []
    for ramp in (1, 4, 16):
        hits = trace(grid, cameras=camera, footprint=ramp * one)
        shares.append(coverage(grid, hits, ramp * one))
    ramps = [((s > 0) & (s < 1)).sum().item() for s in shares]
    assert ramps[1] > 3 * ramps[0]
    assert ramps[2] > 3 * ramps[1]
    # Narrower ones can be had of a wider record.
    assert torch.equal(coverage(grid, hits, one), shares[0])


# Gradients.


@pytest.mark.parametrize("argument", range(4))
@pytest.mark.parametrize("kind", [MINIMUM, *FACES, END, BOX])
def test_gradcheck(argument, kind, generator):
    """Through tracing: values, origins, directions, footprint; whatever holds the closest place."""
    far = 1.0 if kind == END else math.inf
    footprint = torch.tensor([0.15]).double()
    grid, origins, directions = random_scene(generator, count=3000, batch=1)
    hits = trace(grid, origins, directions, footprint=footprint, far=far)
    share = coverage(grid, hits, footprint)
    held = hits.closest_kind.long()
    place = (origins + hits.closest_t.clamp(max=9.0)[..., None] * directions).detach()
    low, high = (torch.tensor(x).double() for x in (grid.lower, grid.upper))
    on_box = torch.minimum((place - low).abs(), (place - high).abs()).amin(dim=2) < 1e-9
    held = torch.where(on_box, BOX, held)
    chosen = (share > 0.05) & (share < 0.95) & (held == kind)
    chosen = chosen & (chosen.cumsum(1) <= 10)
    assert chosen.sum() >= 4
    inputs = [grid.values[0], origins[chosen], directions[chosen], footprint]
    inputs[argument] = inputs[argument].clone().requires_grad_()

    def outlines(values, origins, directions, footprint):
        box = Grid(values, LOWER, SPACING)
        hits = trace(box, origins, directions, footprint=footprint, far=far)
        return coverage(box, hits, footprint)

    # Minima may bend little, and move far.
    assert torch.autograd.gradcheck(outlines, inputs, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_reference(dtype, generator):
    """Every input by itself, the closest t among them, at fixed cells."""
    grid, origins, directions = random_scene(generator, dtype, count=500)
    width = torch.tensor([0.1, 0.2], dtype=dtype)
    hits = trace(grid, origins, directions, footprint=width)
    near = hits.closest_cell >= 0
    weights = torch.randn(2, 500, generator=generator).double()

    def ours(values, origins, directions, t, width):
        t = torch.where(near, t, math.inf)
        moving = dataclasses.replace(hits, origins=origins, directions=directions, closest_t=t)
        return coverage(Grid(values, LOWER, SPACING), moving, width)

    def exact(values, origins, directions, t, width):
        rays = values, origins, directions, t, hits.closest_cell
        return reference.coverage(*rays, width[:, None].expand(2, 500), LOWER, SPACING)

    results = []
    for function, kind in ((ours, dtype), (exact, torch.float64)):
        tensors = grid.values, origins, directions, hits.closest_t.where(near, 1.0), width
        inputs = [x.detach().to(kind).requires_grad_() for x in tensors]
        share = function(*inputs)
        results.append(torch.autograd.grad((share * weights.to(kind)).sum(), inputs))
    for one, other in zip(*results, strict=True):
        # Places in cells have 2 / 0.125 roundings of their own.
        scale = float(other.abs().max())
        torch.testing.assert_close(
            one.double(), other, rtol=0, atol=scale * 500 * torch.finfo(dtype).eps
        )


def test_closest_t_moves_as_the_reference_says(generator):
    """With the minimum of the field, or with the plane of nodes that holds it."""
    grid, origins, directions = random_scene(generator, count=500)
    hits = trace(grid, origins, directions, footprint=0.2)
    near = hits.closest_cell >= 0
    weights = torch.randn(2, 500, generator=generator).double()
    kinds = hits.closest_kind.long()
    held = torch.tensor([3, -1, 0, 1, 2, 3])[kinds]  # as in reference.ClosestApproach
    closest = reference.ClosestApproach(hits.closest_t.detach(), hits.closest_cell, None, held)
    results = []
    for exact in (False, True):
        inputs = [x.clone().requires_grad_() for x in (grid.values, origins, directions)]
        if exact:
            t = reference.closest_t(*inputs, closest, LOWER, SPACING)
        else:
            box = Grid(inputs[0], LOWER, SPACING)
            t = trace(box, *inputs[1:], footprint=0.2).closest_t
        results.append(torch.autograd.grad((t * weights)[near].sum(), inputs))
    for one, other in zip(*results, strict=True):
        # A minimum that bends little moves far: thousands for a unit of the field.
        assert_close(one, other, factor=float(1e3 * other.abs().max()))


def test_pixels_that_touch_nothing_have_zero_gradients():
    grid = box_grid(sphere(0.5), 8)
    values = grid.values.clone().requires_grad_()
    rays = [torch.tensor([[0.9, 0.9, -3.0], [0.0, 0.0, -3.0], [9.0, 9.0, 9.0]]).double()]
    rays.append(torch.tensor([0.0, 0.0, 1.0]).double().repeat(3, 1))
    rays = [x.requires_grad_() for x in rays]
    width = torch.tensor([0.01]).double().requires_grad_()
    box = Grid(values, grid.lower, grid.spacing)
    share = coverage(box, trace(box, *rays, footprint=width), width)
    assert share.tolist() == [0.0, 1.0, 0.0]
    for gradient in torch.autograd.grad(share.sum(), (values, *rays, width)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_backward(dtype, threads, deterministic, generator):
    grid, origins, directions = random_scene(generator, dtype, count=10_000)
    results = []
    for count in (1, 2, 3):
        threads(count)
        inputs = [x.clone().requires_grad_() for x in (grid.values, origins, directions)]
        width = torch.tensor([0.1, 0.2], dtype=dtype).requires_grad_()
        box = Grid(inputs[0], LOWER, SPACING)
        share = coverage(box, trace(box, *inputs[1:], footprint=width), width)
        results.append([share, *torch.autograd.grad(share.sum(), [*inputs, width])])
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_second_and_forward_derivatives_are_refused(generator):
    grid, origins, directions = random_scene(generator)
    hits = trace(grid, origins, directions, footprint=0.2)
    values = grid.values.clone().requires_grad_()
    loss = coverage(Grid(values, LOWER, SPACING), hits, 0.2).square().sum()
    (slope,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"coverage.*(double|twice|second)"):
        slope.square().sum().backward()
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(grid.values, torch.ones_like(grid.values))
        with pytest.raises(RuntimeError, match="coverage: forward-mode"):
            coverage(Grid(moving, LOWER, SPACING), hits, 0.2)
