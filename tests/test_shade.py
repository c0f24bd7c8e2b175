# SPDX-License-Identifier: Apache-2.0
"""shade: normals and light against the reference and known surfaces, gradients, errors, edges."""

import dataclasses
import math

import pytest
import torch
from conftest import assert_close
from fields import sphere
from rays import LOWER, SPACING, box_grid, found, orbit, random_rays, random_scene, steep
from torch.autograd import forward_ad

from diffiso import Grid, Light, RayStatus, reference, shade, trace

DTYPES = (torch.float32, torch.float64)
KINDS = ("central", "trilinear")
LIGHTS = ("origin", "one", "each")
OP = torch.ops.diffiso.shade
BACKWARD = torch.ops.diffiso.shade_backward


def light_of(which, dtype=torch.float64, **options):
    """At the rays' origins, one for all, or one for each of two grids."""
    places = {
        "origin": None,
        "one": torch.tensor([-3.0, 4.0, 5.0], dtype=dtype),
        "each": torch.tensor([[-3.0, 4.0, 5.0], [2.0, -1.0, 1.0]], dtype=dtype),
    }
    return Light(places[which], **options)


def expected_shading(grid, origins, directions, hits, light, kind, t=None):
    """The reference, of rays (B, P, 3)."""
    at = light.position
    if at is not None:
        at = at.reshape(-1, 1, 3).expand_as(origins)
    return reference.shade(
        grid.values, origins, directions, hits.t if t is None else t, found(hits), grid.lower,
        grid.spacing, light=at, strength=light.strength, falloff=light.falloff, normals=kind,
    )  # fmt: skip


# Values against the reference.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", LIGHTS)
@pytest.mark.parametrize("falloff", [False, True])
def test_equals_reference(dtype, kind, which, falloff, generator):
    grid, origins, directions = random_scene(generator, dtype, count=500)
    hits = trace(grid, origins, directions)
    light = light_of(which, dtype, strength=2.5, falloff=falloff)
    shading = shade(grid, hits, light=light, normals=kind)
    wide = [x.double() for x in (grid.values, origins, directions)]
    exact = expected_shading(
        Grid(wide[0], LOWER, SPACING), *wide[1:], hits,
        Light(None if light.position is None else light.position.double(), 2.5, falloff), kind,
        hits.t.double(),
    )  # fmt: skip
    assert set(hits.status.unique().tolist()) >= {RayStatus.MISS, RayStatus.HIT, RayStatus.EXIT}
    # The place in the cell has 2 / 0.125 roundings, and a normal where the field is rather flat
    # moves tens of times that. A ray that begins next to the surface has no digits left of the
    # way back to its origin.
    known = (hits.t * directions.norm(dim=2) > 0.1) | (light.position is not None)
    torch.testing.assert_close(
        shading.normals.double(), exact.normals, rtol=0, atol=1000 * torch.finfo(dtype).eps
    )
    torch.testing.assert_close(
        shading.intensity.double()[known], exact.intensity[known],
        rtol=1000 * torch.finfo(dtype).eps, atol=1000 * torch.finfo(dtype).eps,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_linear_fields_have_one_normal(kind, generator):
    """To the border of the box, and with two nodes along an axis."""
    tilt = torch.tensor([0.3, -0.5, 0.8]).double()
    for shape in ((5, 6, 7), (2, 3, 4), (2, 2, 2)):
        grid = box_grid(lambda p: p @ tilt - 0.1, shape)
        origins, directions = random_rays(grid, 300, generator)
        hits = trace(grid, origins, directions)
        assert hits.hit.sum() > 100
        normals = shade(grid, hits, normals=kind).normals
        side = torch.where(hits.status == RayStatus.EXIT, -1.0, 1.0)[:, None]
        exact = side * tilt / tilt.norm() * hits.hit[:, None]
        # Differences of samples over cells of a third.
        assert_close(normals, exact, factor=10)


def test_central_normals_are_exact_on_quadratic_fields(generator):
    """Central and one-sided differences of second order, interpolated linearly, are."""

    def field(p):
        x, y, z = p.unbind(-1)
        return x * x + 2 * y * y - 0.5 * z * z + x * y - 0.7 * y * z + 0.2 * x - 0.4

    grid = box_grid(field, (5, 6, 7))
    origins, directions = random_rays(grid, 1000, generator)
    hits = trace(grid, origins, directions)
    points = hits.points()[hits.hit].requires_grad_()
    (slope,) = torch.autograd.grad(field(points).sum(), points)
    side = torch.where(hits.status[hits.hit] == RayStatus.EXIT, -1.0, 1.0)[:, None]
    exact = side * slope / slope.norm(dim=1, keepdim=True)
    normals = shade(grid, hits).normals[hits.hit]
    # Half of the slope's size on the surface is a tenth at least.
    assert_close(normals, exact, factor=100)


def test_light_of_a_ball():
    """Lambert's law, by the angle between the normal and the way to the light."""
    center, radius = torch.tensor([0.1, 0.0, -0.05]).double(), 0.6
    grid = box_grid(sphere(radius, tuple(center.tolist())), 65)
    cameras = orbit(2, (20, 24))
    hits = trace(grid, cameras=cameras)
    points = hits.points()
    normal = (points - center) / (points - center).norm(dim=-1, keepdim=True)
    place = torch.tensor([2.0, 1.0, 2.5]).double()
    for at in (None, place, torch.stack((place, -place))):
        towards = cameras.centers if at is None else at.expand(2, 3)
        to_light = towards[:, None, None] - points
        distance = to_light.norm(dim=-1)
        cosine = ((normal * to_light).sum(dim=-1) / distance).clamp(min=0).nan_to_num()
        plain = shade(grid, hits, light=Light(at, 3.0)).intensity
        # The normal of a sphere sampled at h = 1 / 32 turns by h^2 / (2 r^2) or so.
        error = 3 * (1 / 32) ** 2 / (2 * radius**2)
        assert (plain - 3 * cosine).abs().max() < 3 * error
        fading = shade(grid, hits, light=Light(at, 3.0, falloff=True)).intensity
        assert_close(fading, torch.where(hits.hit, plain / distance**2, 0.0))


def test_normals_face_the_ray():
    """Out of the solid where rays enter it, into it where they leave."""
    grid = box_grid(sphere(0.6), 33)
    origin = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 0.1], [0.0, 0.0, 0.1]]).double()
    direction = torch.tensor([[0.0, 0.0, 1.0]] * 2 + [[0.0, 0.0, -1.0]]).double()
    hits = trace(grid, origin, direction)
    assert hits.status.tolist() == [RayStatus.HIT, RayStatus.EXIT, RayStatus.EXIT]
    for kind in KINDS:
        shading = shade(grid, hits, normals=kind)
        cosines = shading.normals[:, 2] * torch.tensor([-1.0, -1.0, 1.0])
        # On the axes differences over two cells are symmetric; those over one, h = 1 / 16, lean by
        # h / (2 r) in x and y.
        least = 1.0 if kind == "central" else 1 - (1 / 16 / (2 * 0.6)) ** 2
        assert (cosines > least - 1e-12).all()
        assert (shading.intensity > least - 1e-12).all()


def test_light_from_behind_gives_none():
    grid = box_grid(sphere(0.6), 17)
    hits = trace(grid, torch.tensor([[0.0, 0.0, -3.0]]).double(), torch.eye(3)[2:].double())
    position = torch.tensor([0.0, 0.0, 3.0]).double().requires_grad_()
    values = grid.values.clone().requires_grad_()
    shading = shade(Grid(values, grid.lower, grid.spacing), hits, light=Light(position))
    assert shading.intensity.item() == 0
    for gradient in torch.autograd.grad(shading.intensity.sum(), (values, position)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


# Gradients.


def chain(grid, kind, light_options, options, values, origins, directions, *light):
    """Intensities and normals of hits that move with everything."""
    box = Grid(values, grid.lower, grid.spacing)
    hits = trace(box, origins, directions, **options)
    shading = shade(box, hits, light=Light(*light, **light_options), normals=kind)
    return shading.intensity, shading.normals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("falloff", [False, True])
@pytest.mark.parametrize("lit", [False, True])
@pytest.mark.parametrize("argument", range(4))
def test_gradcheck(kind, falloff, lit, argument, generator):
    """Through tracing and shading: values, origins, directions and light."""
    if argument == 3 and not lit:
        argument = 2  # no light to move: directions once more, of other rays
    grid, origins, directions = random_scene(generator, count=60, batch=1)
    grid = Grid(grid.values[0], LOWER, SPACING)
    inputs = [grid.values, origins[0], directions[0]]
    if lit:
        inputs.append(torch.tensor([-3.0, 4.0, 5.0]).double())
    options = {"strength": 2.0, "falloff": falloff}
    hits = trace(grid, *inputs[1:3])
    bright = shade(grid, hits, light=Light(*inputs[3:]), normals=kind).intensity
    # Away from grazing rays and from where light comes in flat, and the cosine is cut off.
    chosen = steep(grid, directions[0], hits) & (bright > 0.05)
    chosen = chosen & (chosen.cumsum(0) <= 12)
    assert chosen.sum() >= 8
    inputs[1:3] = inputs[1][chosen], inputs[2][chosen]
    inputs[argument] = inputs[argument].clone().requires_grad_()

    def both(*inputs):
        return chain(grid, kind, options, {}, *inputs)

    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", LIGHTS)
def test_gradients_equal_reference(dtype, kind, which, generator):
    """Every input by itself, the hits' t among them, at fixed cells."""
    grid, origins, directions = random_scene(generator, dtype, count=200)
    hits = trace(grid, origins, directions, inside="start")
    light = light_of(which, dtype, strength=2.0, falloff=True)
    weights = [torch.randn(2, 200, *s, generator=generator).double() for s in ((), (3,))]

    def gradients(function, kind):
        inputs = [x.detach().to(kind) for x in (grid.values, origins, directions)]
        inputs.append(hits.t.detach().where(hits.hit, 0.0).to(kind))
        if light.position is not None:
            inputs.append(light.position.to(kind))
        inputs = [x.requires_grad_() for x in inputs]
        shading = function(*inputs)
        loss = sum((w.to(kind) * x).sum() for w, x in zip(weights, shading, strict=True))
        return torch.autograd.grad(loss, inputs)

    def ours(values, origins, directions, t, *position):
        moving = dataclasses.replace(
            hits, t=torch.where(hits.hit, t, math.inf), origins=origins, directions=directions
        )
        box = Grid(values, LOWER, SPACING)
        return shade(box, moving, light=Light(*position, 2.0, True), normals=kind)

    def exact(values, origins, directions, t, *position):
        box = Grid(values, LOWER, SPACING)
        lamp = Light(*position, 2.0, True)
        return expected_shading(box, origins, directions, hits, lamp, kind, t)

    if light.position is None:
        actual = gradients(lambda *x: ours(*x, None), dtype)
        expected = gradients(lambda *x: exact(*x, None), torch.float64)
    else:
        actual, expected = gradients(ours, dtype), gradients(exact, torch.float64)
    for one, other in zip(actual, expected, strict=True):
        # As in test_equals_reference, and sums over rays of which one may outweigh all others.
        scale = float(other.abs().max())
        torch.testing.assert_close(
            one.double(), other, rtol=0, atol=scale * 2000 * torch.finfo(dtype).eps
        )


def test_gradcheck_cameras():
    """Pose, lens and lights, of pictures."""
    grid = box_grid(sphere(0.6), 8)
    camera = orbit(2, (5, 6), field_of_view=20.0)
    lights = torch.tensor([[3.0, 1.0, 2.0], [-3.0, 2.0, 1.0]]).double()
    hits = trace(grid, cameras=camera)
    bright = shade(grid, hits, light=Light(lights)).intensity
    chosen = steep(grid, hits.rays()[1], hits, 0.3) & (bright > 0.05)
    assert chosen.sum() >= 4
    names = ("rotation", "translation", "focal", "principal")
    parts = [getattr(camera, name).detach().clone().requires_grad_() for name in names]

    def intensity(position, *parts):
        moved = trace(grid, cameras=type(camera)(*parts, camera.size))
        return shade(grid, moved, light=Light(position, falloff=True)).intensity[chosen]

    assert torch.autograd.gradcheck(intensity, [lights.requires_grad_(), *parts])


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_backward(dtype, threads, deterministic, generator):
    grid, origins, directions = random_scene(generator, dtype, count=10_000)
    hits = trace(grid, origins, directions)
    results = []
    for count in (1, 2, 3):
        threads(count)
        inputs = [x.clone().requires_grad_() for x in (grid.values, origins, directions)]
        position = torch.tensor([[-3.0, 4.0, 5.0]], dtype=dtype).requires_grad_()
        moving = dataclasses.replace(hits, origins=inputs[1], directions=inputs[2])
        shading = shade(Grid(inputs[0], LOWER, SPACING), moving, light=Light(position))
        loss = shading.intensity.sum() + shading.normals.sum()
        results.append([*shading, *torch.autograd.grad(loss, [*inputs, position])])
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


def test_second_and_forward_derivatives_are_refused(generator):
    grid, origins, directions = random_scene(generator)
    hits = trace(grid, origins, directions)
    values = grid.values.clone().requires_grad_()
    loss = shade(Grid(values, LOWER, SPACING), hits).intensity.square().sum()
    (slope,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"shade.*(double|twice|second)"):
        slope.square().sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    grid, origins, directions = random_scene(generator)
    hits = trace(grid, origins, directions)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(grid.values, torch.ones_like(grid.values))
        with pytest.raises(RuntimeError, match="shade: forward-mode"):
            shade(Grid(moving, LOWER, SPACING), hits)


# Registration.


def op_arguments(generator, grad, which, count=7):
    grid, origins, directions = random_scene(generator, count=count)
    hits = trace(grid, origins, directions)
    at = light_of(which).position
    at = torch.empty(0, 3).double() if at is None else at.reshape(-1, 3)
    tensors = [grid.values, origins, directions, hits.t.flatten().clamp(max=9.0), at]
    values, origins, directions, t, at = (x.clone().requires_grad_(grad) for x in tensors)
    rays = values, origins, directions, t, hits.status.flatten(), hits.cell.flatten(), at
    return [*rays, [], list(LOWER), list(SPACING), 2.0, True, True]


@pytest.mark.parametrize("which", LIGHTS)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("count", [0, 7])
def test_opcheck(which, grad, count, generator):
    torch.library.opcheck(OP.default, op_arguments(generator, grad, which, count))


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("flag", [False, True])
def test_opcheck_backward(given, flag, generator):
    arguments = op_arguments(generator, False, "each")
    outputs = OP(*arguments)
    cotangents = [torch.ones_like(o) if g else None for o, g in zip(outputs, given, strict=True)]
    torch.library.opcheck(BACKWARD.default, (*cotangents, *arguments, True, flag))
