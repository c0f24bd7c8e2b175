# SPDX-License-Identifier: Apache-2.0
"""render: pictures against their parts and known shapes, derivatives by finite differences."""

import math

import pytest
import torch
from conftest import assert_close
from fields import sample, sphere, torus
from rays import box_grid, orbit

from diffiso import Grid, Light, RayStatus, coverage, render, shade, trace
from diffiso.camera import Camera

DTYPES = (torch.float32, torch.float64)


def half_pixel(cameras):
    """By the mean of width and height, at depth one."""
    return (0.5 / cameras.focal).mean(dim=1)


def same_pictures(one, other):
    for name in ("intensity", "coverage", "depth", "normals", "image"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


# Pictures and their parts.


@pytest.mark.parametrize("dtype", DTYPES)
def test_pictures_are_made_of_trace_coverage_and_shade(dtype):
    grid = box_grid(torus(0.6, 0.25), (20, 22, 24), dtype)
    cameras = orbit(3, (24, 40), dtype=dtype)
    light = Light(torch.tensor([3.0, 4.0, 1.0], dtype=dtype), 5.0, falloff=True)
    pictures = render(grid, cameras, light=light, background=0.25)
    footprint = half_pixel(cameras)
    hits = trace(grid, cameras=cameras, footprint=footprint)
    share = coverage(grid, hits, footprint)
    shading = shade(grid, hits, light=light)
    assert torch.equal(pictures.depth, hits.t)
    assert torch.equal(pictures.hits.cell, hits.cell)
    assert_close(pictures.coverage, share, factor=100)
    assert torch.equal(pictures.intensity[hits.hit], shading.intensity[hits.hit])
    assert torch.equal(pictures.normals[hits.hit], shading.normals[hits.hit])
    # Pixels that are covered in part, but not at their centre, have a surface to see beside it.
    beside = ~hits.hit & (pictures.coverage > 0)
    assert beside.sum() > 20
    length = pictures.normals[beside].norm(dim=1)
    assert_close(length, torch.ones_like(length))
    empty = pictures.coverage == 0
    assert (pictures.normals[empty] == 0).all()
    assert (pictures.intensity[empty] == 0).all()
    assert (pictures.image[empty] == 0.25).all()
    full = pictures.coverage == 1
    assert torch.equal(pictures.image[full], pictures.intensity[full])
    mixed = share * pictures.intensity + (1 - share) * 0.25
    assert_close(pictures.image, mixed, factor=100)


def test_shapes_and_dtypes():
    for dtype in DTYPES:
        pictures = render(box_grid(sphere(0.6), 9, dtype), orbit(2, (5, 7), dtype=dtype))
        for name in ("intensity", "coverage", "depth", "image"):
            assert getattr(pictures, name).shape == (2, 5, 7), name
            assert getattr(pictures, name).dtype == dtype, name
        assert pictures.normals.shape == pictures.color().shape == (2, 5, 7, 3)


def test_color():
    pictures = render(box_grid(sphere(0.6), 17), orbit(1, (16, 16)), background=0.5)
    albedo = torch.tensor([0.9, 0.5, 0.1]).double().requires_grad_()
    color = pictures.color(albedo)
    share = pictures.coverage[..., None]
    assert_close(color, share * pictures.intensity[..., None] * albedo + (1 - share) * 0.5)
    white = pictures.color()
    assert torch.equal(white, pictures.image[..., None].expand_as(white))
    (gradient,) = torch.autograd.grad(color.sum(), albedo)
    assert_close(gradient, (pictures.coverage * pictures.intensity).sum().expand(3))


def test_depth_is_along_the_axis_of_the_camera():
    """Of a plane that faces the camera it is the same in every pixel; nothing is infinitely far."""
    grid = box_grid(lambda p: p[..., 2] - 0.25, 9)
    camera = Camera.look_at((0.0, 0.0, 4.0), size=(33, 41), field_of_view=60.0, dtype=torch.float64)
    pictures = render(grid, camera)
    assert_close(
        pictures.depth[pictures.hits.hit],
        torch.tensor(3.75).double().expand(int(pictures.hits.hit.sum())),
    )
    assert (pictures.depth[~pictures.hits.hit] == math.inf).all()
    # Rows are counted from the top: what is high in the world is in the first rows.
    low = box_grid(sphere(0.3, (0.0, -0.6, 0.0)), 33)
    image = render(low, camera).image[0]
    assert image[:16].sum() == 0
    assert image[17:].sum() > 0


def test_size_resizes_the_cameras():
    grid = box_grid(sphere(0.6), 17)
    cameras = orbit(2, (60, 80))
    same_pictures(render(grid, cameras, (30, 40)), render(grid, cameras.resized((30, 40))))
    same_pictures(render(grid, cameras, 32), render(grid, cameras.resized(32)))
    same_pictures(render(grid, cameras), render(grid, cameras, (60, 80)))


def test_batches_of_grids_and_of_views():
    """Each grid is seen by as many cameras, in order, each lit by its own light."""
    cameras = orbit(6, (16, 20))
    grids = [box_grid(sphere(0.4 + 0.1 * n), (10, 11, 12)) for n in range(3)]
    batch = Grid(torch.stack([g.values for g in grids]), grids[0].lower, grids[0].spacing)
    places = torch.randn(6, 3).double() * 4
    together = render(batch, cameras, light=Light(places))
    for n in range(6):
        alone = render(grids[n // 2], cameras[n], light=Light(places[n]))
        for name in ("intensity", "coverage", "depth", "normals"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[n]), name


def test_light_and_falloff():
    """Twice as far away a light with falloff gives a quarter."""
    grid = box_grid(sphere(0.5), 33)
    camera = Camera.look_at((0.0, 0.0, 4.0), size=33, field_of_view=20.0, dtype=torch.float64)
    at_camera = render(grid, camera)
    same_pictures(at_camera, render(grid, camera, light=Light(torch.tensor([0.0, 0, 4]).double())))
    middle = [
        render(
            grid, camera, light=Light(torch.tensor([0.0, 0.0, z]).double(), 2.0, falloff=True)
        ).intensity[0, 16, 16]
        for z in (2.5, 4.5)
    ]
    # On the axis: 2 / 2^2 and 2 / 4^2.
    assert_close(torch.stack(middle), torch.tensor([0.5, 0.125]), factor=10)
    behind = render(grid, camera, light=Light(torch.tensor([0.0, 0.0, -4.0]).double()))
    assert behind.intensity.max() == 0


def test_ramp():
    """Zero leaves pixels hit or not; a wider one softens the outline, and changes no depth."""
    grid = box_grid(sphere(0.6), 17)
    cameras = orbit(1, (32, 32))
    hard, one, wide = (render(grid, cameras, ramp=ramp) for ramp in (0.0, 1.0, 8.0))
    assert torch.equal(hard.coverage, hard.hits.hit.double())
    assert torch.equal(hard.depth, one.depth)
    assert torch.equal(wide.depth, one.depth)
    soft = [((p.coverage > 0) & (p.coverage < 1)).sum() for p in (one, wide)]
    assert soft[1] > 4 * soft[0]


@pytest.mark.parametrize("method", ["voxel", "sphere"])
def test_methods_and_policies(method):
    """A camera in the solid looks out of it, sees nothing, or has the solid before its eye."""
    grid = box_grid(sphere(0.6), 17)
    camera = Camera.look_at((0.0, 0.0, 0.1), size=5, field_of_view=60.0, dtype=torch.float64)
    exits = render(grid, camera, method=method)
    assert (exits.hits.status == RayStatus.EXIT).all()
    assert (exits.intensity > 0.5).all()
    assert (exits.coverage == 1).all()
    starts = render(grid, camera, method=method, inside="start")
    assert (starts.hits.status == RayStatus.START).all()
    assert (starts.depth == 0).all()
    ignores = render(grid, camera, method=method, inside="ignore")
    assert (ignores.hits.status == RayStatus.MISS).all()
    assert (ignores.coverage == 0).all()
    outside = orbit(1, (24, 24))
    assert torch.equal(
        render(grid, outside, method=method).hits.hit, render(grid, outside).hits.hit
    )


@pytest.mark.parametrize("method", ["voxel", "sphere"])
def test_behind_an_ignored_solid_the_next_one_is_seen(method):
    """From within a ball: another one ahead covers the pixels that it would cover alone."""

    def far(p):
        return (p - torch.tensor([0.0, 0.0, 0.5])).norm(dim=-1) - 0.3

    both = box_grid(lambda p: torch.minimum(far(p), far(-p)), 41)
    camera = Camera.look_at(
        (0.0, 0.0, -0.5), (0.0, 0.0, 1.0), size=33, field_of_view=60.0, dtype=torch.float64
    )
    pictures = render(both, camera, method=method, inside="ignore")
    alone = render(box_grid(far, 41), camera, method=method, inside="ignore")
    assert torch.equal(pictures.hits.hit, alone.hits.hit)
    assert pictures.hits.hit.any()
    assert (pictures.coverage == 0).any()
    assert_close(pictures.coverage, alone.coverage)


def test_near_and_far():
    grid = box_grid(sphere(0.5), 17)
    camera = Camera.look_at((0.0, 0.0, 4.0), size=9, field_of_view=10.0, dtype=torch.float64)
    assert render(grid, camera, far=3.4).hits.hit.sum() == 0
    assert (render(grid, camera, near=4.0).hits.status == RayStatus.EXIT).all()


# Derivatives.


def moved_ball(shift, field=None, nodes=48):
    """Samples of a shape that is moved by a tensor (3,), differentiable."""
    shape = field or sphere(0.6)
    points = sample(lambda p: p, (nodes,) * 3)
    return Grid.from_bounds(shape(points - shift), -1, 1)


VIEW = {"size": 256, "field_of_view": 32.0, "dtype": torch.float64}
PLACE = (0.03, -0.05, 0.02)
# Plain means, and means with a weight that tells left from right or up from down.
MEANS = ("plain", "across", "down")


def weights(which, pictures):
    """One weight for all pixels, or one that grows across the picture, or down."""
    height, width = pictures.depth.shape[1:]
    ramp = torch.linspace(-1, 1, width).double()
    weight = {"plain": torch.ones(height, width).double(), "across": ramp, "down": ramp[:, None]}
    return weight[which].expand(1, height, width)


def derivative_error(picture, which, quantity, at):
    """Of the gradient of an image's mean, relative to that by finite differences."""
    with torch.no_grad():
        weight = weights(which, picture(at))

    def mean(place):
        pictures = picture(place)
        return ((pictures.coverage if quantity == "coverage" else pictures.image) * weight).mean()

    place = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mean(place), place)
    # So small a step that no pixel passes from one cell to another.
    moves = 1e-6 * torch.eye(3).double()
    with torch.no_grad():
        numbers = [(mean(at + move) - mean(at - move)) / 2e-6 for move in moves]
    numeric = torch.stack(numbers)
    assert numeric.norm() > 1e-3
    return ((gradient - numeric).norm() / numeric.norm()).item()


@pytest.mark.parametrize("which", MEANS)
@pytest.mark.parametrize("quantity", ["image", "coverage", "lit"])
def test_translation_of_the_shape(which, quantity):
    """The derivative of an image's mean by finite differences: 1 % at 256^2."""
    camera = Camera.look_at((0.5, 1.0, 3.6), **VIEW)
    light = Light(torch.tensor([3.0, 2.0, 4.0]).double(), 20.0, falloff=True)
    options = {"light": light, "background": 0.3} if quantity == "lit" else {}

    def picture(shift):
        return render(moved_ball(shift), camera, **options)

    at = torch.tensor(PLACE).double()
    assert derivative_error(picture, which, quantity, at) < 0.01


@pytest.mark.parametrize("which", MEANS)
def test_translation_of_the_camera(which):
    grid = moved_ball(torch.tensor(PLACE).double())
    camera = Camera.look_at((0.5, 1.0, 3.6), **VIEW)

    def picture(shift):
        parts = camera.rotation, camera.translation + shift, camera.focal, camera.principal
        return render(grid, Camera(*parts, camera.size))

    at = torch.zeros(3).double()
    for quantity in ("image", "coverage"):
        assert derivative_error(picture, which, quantity, at) < 0.01


def test_without_a_ramp_outlines_do_not_move():
    """What the ramp is for: the mask has no gradient without it."""
    shift = torch.zeros(3).double().requires_grad_()
    camera = orbit(1, (32, 32))
    assert not render(moved_ball(shift, nodes=16), camera, ramp=0.0).coverage.requires_grad
    assert render(moved_ball(shift, nodes=16), camera).coverage.requires_grad


def test_gradients_reach_everything():
    """Values, cameras, light; finite in every pixel."""
    values = box_grid(torus(0.6, 0.25), 16).values.requires_grad_()
    base = orbit(2, (16, 16))
    names = ("rotation", "translation", "focal", "principal")
    parts = [getattr(base, name).detach().clone().requires_grad_() for name in names]
    place = torch.tensor([3.0, 2.0, 4.0]).double().requires_grad_()
    cameras = Camera(*parts, base.size)
    for normals in ("central", "trilinear"):
        for law in ("implicit", "sdfdiff"):
            pictures = render(
                Grid.from_bounds(values, -1, 1), cameras, light=Light(place, falloff=True),
                normals=normals, law=law,
            )  # fmt: skip
            loss = pictures.image.square().sum() + pictures.normals.sum()
            loss = loss + pictures.depth[pictures.hits.hit].sum()
            for gradient in torch.autograd.grad(loss, (values, *parts, place)):
                assert gradient.isfinite().all()
                assert (gradient != 0).any()


def test_descent_finds_a_ball():
    """A mask and a picture pull a ball of another size to its place."""
    cameras = orbit(4, (32, 32), field_of_view=40.0)
    goal = render(moved_ball(torch.tensor([0.15, -0.1, 0.05]).double(), nodes=24), cameras)
    shift = torch.zeros(3).double().requires_grad_()
    radius = torch.tensor(0.45).double().requires_grad_()
    optimizer = torch.optim.Adam([shift, radius], lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        shape = moved_ball(shift, lambda p: p.norm(dim=-1) - radius, nodes=24)
        pictures = render(shape, cameras, ramp=2.0)
        target = goal.image.detach()
        loss = (pictures.image - target).square().mean()
        loss.backward()
        optimizer.step()
    assert abs(radius.item() - 0.6) < 0.02
    assert (shift - torch.tensor([0.15, -0.1, 0.05]).double()).norm() < 0.02


# Errors and edges.


def test_bad_input():
    grid, cameras = box_grid(sphere(0.5), 6), orbit(2, (4, 4))
    with pytest.raises(TypeError, match="render: cameras"):
        render(grid, cameras.centers)
    with pytest.raises(TypeError, match="grid must be"):
        render(grid.values.numpy(), cameras)
    for ramp in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"render: ramp"):
            render(grid, cameras, ramp=ramp)
    for options in ({"law": "exact"}, {"inside": "no"}, {"normals": "no"}, {"method": "no"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            render(grid, cameras, **options)
    for size in (0, (3,), (3, 4, 5), 3.5):
        with pytest.raises((TypeError, ValueError), match=r"size"):
            render(grid, cameras, size)
    with pytest.raises(ValueError, match=r"render: background must be finite, got nan"):
        render(grid, cameras, background=math.nan)
    with pytest.raises(ValueError, match=r"near must not be negative with a footprint, got -1"):
        render(grid, cameras, near=-1.0)
    with pytest.raises(ValueError, match=r"albedo must be \(3,\), got \(2,\)"):
        render(grid, cameras).color((1, 2))
    with pytest.raises(RuntimeError, match=r"cameras .*multiple.*2.*3"):
        render(Grid(grid.values.expand(3, 6, 6, 6)), cameras)
    with pytest.raises(RuntimeError, match=r"float32.*float64"):
        render(grid.to(torch.float32), cameras)


@pytest.mark.parametrize("fill", [1.0, math.nan])
def test_empty_grids(fill):
    values = torch.full((4, 5, 6), fill).double().requires_grad_()
    pictures = render(Grid.from_bounds(values, -1, 1), orbit(1, (6, 6)), background=0.5)
    assert (pictures.image == 0.5).all()
    assert (pictures.depth == math.inf).all()
    (gradient,) = torch.autograd.grad(pictures.image.sum(), values)
    assert torch.equal(gradient, torch.zeros(4, 5, 6).double())


def test_a_grid_that_is_all_inside():
    """No hit and no depth; its pixels are covered where there is a ramp. Nothing has a normal."""
    values = torch.full((4, 5, 6), -0.1).double().requires_grad_()
    for ramp in (0.0, 1.0):
        pictures = render(Grid.from_bounds(values, -1, 1), orbit(1, (6, 6)), ramp=ramp)
        assert not pictures.hits.hit.any()
        assert (pictures.depth == math.inf).all()
        assert (pictures.coverage.max() == 1) == (ramp > 0)
        assert (pictures.image == 0).all()
        (gradient,) = torch.autograd.grad(pictures.image.sum(), values)
        assert torch.equal(gradient, torch.zeros(4, 5, 6).double())


def test_autocast_leaves_dtypes_alone():
    grid, cameras = box_grid(sphere(0.5), 8, torch.float32), orbit(1, (8, 8), dtype=torch.float32)
    expected = render(grid, cameras)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same_pictures(render(grid, cameras), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["voxel", "sphere"])
def test_cuda_equals_cpu(method):
    grid = box_grid(torus(0.6, 0.25), (20, 22, 24), torch.float32)
    cameras = orbit(3, (48, 64), dtype=torch.float32)
    same = render(grid, cameras, method=method)
    theirs = render(grid.to("cuda"), cameras.to("cuda"), method=method)
    for name in ("intensity", "coverage", "depth", "normals"):
        assert torch.equal(getattr(theirs, name).cpu(), getattr(same, name)), name
