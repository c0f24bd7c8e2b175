# SPDX-License-Identifier: Apache-2.0
"""shade: errors, edges, CUDA."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda
from fields import random_smooth, sphere
from rays import LOWER, SPACING, box_grid, orbit, random_rays, random_scene

from diffiso import Grid, Light, RayStatus, shade, trace
from diffiso import reference as ref

DTYPES = (torch.float32, torch.float64)
KINDS = ("central", "trilinear")


def upward(samples, start=-1.0, **options):
    """A grid of z alone, with one node at each whole number, and a ray up its middle."""
    grid = Grid(torch.tensor(samples).double().expand(2, 2, -1).contiguous())
    origin = torch.tensor([[0.5, 0.5, start]]).double()
    return grid, trace(grid, origin, torch.tensor([[0.0, 0.0, 1.0]]).double(), **options)


# Errors.


def test_bad_input():
    grid = box_grid(sphere(0.5), 6)
    camera = orbit(2, (3, 4))
    hits = trace(grid, cameras=camera)
    with pytest.raises(ValueError, match=r"shade: normals .*central.*trilinear.*smooth"):
        shade(grid, hits, normals="smooth")
    with pytest.raises(TypeError, match="shade: grid"):
        shade(grid.values.numpy(), hits)
    for place in (torch.zeros(2), torch.zeros(2, 2), torch.zeros(1, 2, 3), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match=r"Light: position .*\(3,\) or \(N, 3\)"):
            Light(place)
    for strength in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=rf"Light: strength .*{strength}"):
            Light(strength=strength)
    with pytest.raises(TypeError, match="Light: position must be a tensor, got tuple"):
        Light((0, 1, 2))
    for place in (math.nan, math.inf):
        with pytest.raises(RuntimeError, match="shade: light must be finite, got"):
            shade(grid, hits, light=Light(torch.full((3,), place).double()))
    batch = Grid(grid.values.expand(2, 6, 6, 6).contiguous(), grid.lower, grid.spacing)
    one = trace(grid, torch.zeros(3, 3).double(), torch.ones(3, 3).double())
    with pytest.raises(ValueError, match=r"shade: hits must be those of a batch of 2 .*\(3,\)"):
        shade(batch, one)
    with pytest.raises(RuntimeError, match=r"shade: light.*3"):
        shade(grid, hits, light=Light(torch.zeros(3, 3).double()))
    with pytest.raises(RuntimeError, match=r"shade: light.*float64.*float32"):
        shade(grid, hits, light=Light(torch.zeros(3)))
    with pytest.raises(RuntimeError, match=r"shade: .*float32"):
        shade(grid.to(torch.float32), hits)


def test_hits_of_another_grid():
    """Cells that the grid does not have are refused: no foreign memory is read."""
    large, small = box_grid(sphere(0.5), 40), box_grid(sphere(0.5), 4)
    hits = trace(large, cameras=orbit(1, (8, 8)))
    with pytest.raises((RuntimeError, ValueError), match=r"shade: .*cell"):
        shade(small, hits)


# Edges.


def test_no_rays():
    values = torch.randn(4, 4, 4, requires_grad=True)
    shading = shade(values, trace(values, torch.zeros(0, 3), torch.zeros(0, 3)))
    assert shading.intensity.shape == (0,)
    assert shading.normals.shape == (0, 3)
    (shading.intensity.sum() + shading.normals.sum()).backward()
    assert torch.equal(values.grad, torch.zeros(4, 4, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_misses_are_dark(kind, generator):
    grid, origins, directions = random_scene(generator)
    hits = trace(grid, origins, directions)
    shading = shade(grid, hits, normals=kind)
    assert (~hits.hit).any()
    assert (shading.intensity[~hits.hit] == 0).all()
    assert (shading.normals[~hits.hit] == 0).all()
    length = shading.normals[hits.hit].norm(dim=1)
    assert_close(length, torch.ones_like(length))


def test_flat_fields_have_no_normal():
    """Central differences of samples that alternate are zero: no normal, no light, no NaN."""
    grid, hits = upward((1, -1, 1, -1), start=1.0)
    assert hits.status.item() == RayStatus.EXIT
    values = grid.values.clone().requires_grad_()
    shading = shade(Grid(values), hits)
    assert shading.normals.tolist() == [[0.0, 0.0, 0.0]]
    assert shading.intensity.tolist() == [0.0]
    loss = shading.intensity.sum() + shading.normals.sum()
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient.isfinite().all()
    assert shade(grid, hits, normals="trilinear").normals.tolist() == [[0.0, 0.0, -1.0]]


@pytest.mark.parametrize("fill", [-0.1, -0.7, -1e4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_constant_fields_have_no_normal(kind, dtype, fill):
    """Sums of weights that are zero but for rounding make no direction, whatever the level."""
    values = torch.full((4, 4, 4), fill, dtype=dtype, requires_grad=True)
    rays = torch.tensor([[[1.3, 1.6, 1.2]], [[0.1, 0.2, 1.0]]], dtype=dtype)
    hits = trace(values, *rays, inside="start")
    assert hits.hit.all()
    shading = shade(values, hits, normals=kind)
    assert torch.equal(shading.normals, torch.zeros(1, 3, dtype=dtype))
    (gradient,) = torch.autograd.grad(shading.normals.sum() + shading.intensity.sum(), values)
    assert torch.equal(gradient, torch.zeros(4, 4, 4, dtype=dtype))
    found = ref.hit_normals(values.detach()[None], hits.points()[None], hits.cell[None], kind=kind)
    assert torch.equal(found, torch.zeros(1, 1, 3, dtype=dtype))


def test_a_field_far_from_zero_has_the_normals_of_one_near_it():
    grid = box_grid(sphere(0.6), 16, torch.float32)
    # Rounded so that adding 1024 loses nothing.
    near = (grid.values * 1024).round() / 1024
    far = Grid(near + 1024, grid.lower, grid.spacing)
    grid = Grid(near, grid.lower, grid.spacing)
    cameras = orbit(1, (24, 24), dtype=torch.float32)
    hits, shifted = trace(grid, cameras=cameras), trace(far, cameras=cameras, level=1024.0)
    assert torch.equal(hits.t, shifted.t)
    for kind in KINDS:
        expected = shade(grid, hits, normals=kind).normals
        assert_close(shade(far, shifted, normals=kind).normals, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_steep_and_shallow_fields(scale):
    """Squares that leave the range of float32 do not lose the normal."""
    grid = box_grid(lambda p: p[..., 2] - 0.1, 5, torch.float32)
    grid = Grid(grid.values * scale, grid.lower, grid.spacing)
    hits = trace(grid, torch.tensor([[0.1, 0.2, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    for kind in KINDS:
        shading = shade(grid, hits, normals=kind)
        assert_close(shading.normals, torch.tensor([[0.0, 0.0, 1.0]]))
        assert_close(shading.intensity, torch.ones(1))


@pytest.mark.parametrize("absent", [math.nan, math.inf, -math.inf])
def test_next_to_a_gap_the_cell_speaks_for_itself(absent, generator):
    """Where central differences need an absent sample, normals are those of the cell."""
    values = random_smooth(generator, (7, 7, 7))
    values[0] = absent
    origins, directions = random_rays(Grid(values), 1000, generator)
    hits = trace(values, origins, directions)
    first = hits.hit & (hits.cell // 49 == 1)  # their nodes at x = 1 need one at x = 0
    assert first.sum() > 20
    central, own = (shade(values, hits, normals=kind).normals for kind in KINDS)
    assert torch.equal(central[first], own[first])
    others = hits.hit & ~first
    assert not torch.isclose(central[others], own[others]).all(dim=1).any()
    leaf = values.clone().requires_grad_()
    moved = trace(leaf, origins, directions)
    shading = shade(leaf, moved)
    (gradient,) = torch.autograd.grad(shading.intensity.sum() + shading.normals.sum(), leaf)
    assert gradient.isfinite().all()
    assert (gradient[0] == 0).all()


def test_light_in_the_surface():
    """At no distance there is no direction: dark, and no NaN."""
    grid, hits = upward((1, -1))
    place = hits.points()[0].detach().requires_grad_()
    for falloff in (False, True):
        intensity = shade(grid, hits, light=Light(place, falloff=falloff)).intensity
        assert intensity.tolist() == [0.0]
        assert torch.autograd.grad(intensity.sum(), place)[0].isfinite().all()


def test_start_on_the_surface_has_no_light_of_its_own():
    grid, hits = upward((1, 0, -1), start=1.0)
    assert hits.t.tolist() == [0.0]
    shading = shade(grid, hits, light=Light(falloff=True))
    assert shading.intensity.tolist() == [0.0]
    assert shading.normals.tolist() == [[0.0, 0.0, -1.0]]


def test_non_contiguous_input(generator):
    values = random_smooth(generator, (5, 4, 6)).permute(2, 0, 1)
    origins, directions = random_rays(Grid(values), 50, generator)
    light = Light(torch.randn(3, 2, generator=generator).double().T[0])
    turned = origins.T.contiguous().T
    exact = shade(values.contiguous(), trace(values.contiguous(), origins, directions), light=light)
    shading = shade(values, trace(values, turned, directions), light=light)
    assert torch.equal(shading.intensity, exact.intensity)
    assert torch.equal(shading.normals, exact.normals)


def test_autocast_leaves_dtypes_alone():
    grid = box_grid(sphere(0.5), 8, torch.float32)
    hits = trace(grid, cameras=orbit(1, (8, 8), dtype=torch.float32))
    exact = shade(grid, hits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shading = shade(grid, hits)
    assert shading.intensity.dtype == shading.normals.dtype == torch.float32
    assert torch.equal(shading.intensity, exact.intensity)


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_and_mirrored_axes(kind, generator):
    """Normals turn with the box."""
    values = random_smooth(generator, (4, 5, 6))
    size = torch.tensor(values.shape).double() - 1
    origins, directions = random_rays(Grid(values), 200, generator)
    hits = trace(values, origins, directions)
    exact = shade(values, hits, normals=kind)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            turned = values.permute(order).flip([a for a in range(3) if flips[a]])
            flipped = torch.tensor(flips)
            origin, direction = origins[:, list(order)], directions[:, list(order)]
            origin = torch.where(flipped, size[list(order)] - origin, origin)
            direction = torch.where(flipped, -direction, direction)
            shading = shade(turned, trace(turned, origin, direction), normals=kind)
            normals = exact.normals[:, list(order)]
            normals = torch.where(flipped, -normals, normals)
            # Hits of grazing rays move by hundreds of roundings.
            assert_close(shading.normals, normals, factor=1e4)
            assert_close(shading.intensity, exact.intensity, factor=1e4)


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_cpu(dtype, kind, generator):
    grid, origins, directions = random_scene(generator, dtype, count=5000)
    place = torch.tensor([[-3.0, 4.0, 5.0], [2.0, -1.0, 1.0]], dtype=dtype)

    def parts(values, origins, directions, place):
        box = Grid(values, LOWER, SPACING)
        hits = trace(box, origins, directions)
        return tuple(shade(box, hits, light=Light(place, 2.0, True), normals=kind))

    # Thousands of rays add to each sample, each up to tens; a grazing ray passes on ten times more.
    arguments = grid.values, origins, directions, place
    assert_same_on_cuda(parts, *arguments, exact=(True, True), factor=1000 * 5000**0.5)


@pytest.mark.cuda
def test_cuda_deterministic_backward(deterministic, generator):
    grid, origins, directions = random_scene(generator, torch.float32, count=10_000)
    results = []
    for device in ("cpu", "cuda", "cuda"):
        values = grid.values.to(device).requires_grad_()
        box = Grid(values, LOWER, SPACING)
        hits = trace(box, origins.to(device), directions.to(device))
        moving = dataclasses.replace(hits, t=hits.t.detach())
        results.append(torch.autograd.grad(shade(box, moving).intensity.sum(), values)[0].cpu())
    assert torch.equal(results[1], results[2])
    assert_close(results[1], results[0], factor=10_000**0.5)
