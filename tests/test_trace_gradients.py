# SPDX-License-Identifier: Apache-2.0
"""trace: gradients and registration."""

import itertools
import math

import pytest
import torch
from conftest import assert_close
from fields import sphere
from rays import LOWER, SPACING, box_grid, found, orbit, random_scene, steep
from torch.autograd import forward_ad

from diffiso import Grid, RayStatus, reference, trace

DTYPES = (torch.float32, torch.float64)
OP = torch.ops.diffiso.trace
BACKWARD = torch.ops.diffiso.trace_backward


# Gradients.


@pytest.mark.parametrize("law", ["implicit", "sdfdiff"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_reference(law, dtype, generator):
    """The laws as formulas, by autograd of the reference: values, origins, directions."""
    grid, origins, directions = random_scene(generator, dtype)
    hits = trace(grid, origins, directions)
    assert set(hits.status.unique().tolist()) >= {RayStatus.HIT, RayStatus.EXIT}
    weights = torch.randn(hits.t.shape, generator=generator, dtype=torch.float64)

    def gradients(function, kind):
        inputs = [x.detach().to(kind).requires_grad_() for x in (grid.values, origins, directions)]
        t = function(*inputs)[hits.hit]
        return torch.autograd.grad((t * weights[hits.hit].to(kind)).sum(), inputs)

    ours = gradients(lambda v, o, d: trace(Grid(v, LOWER, SPACING), o, d, law=law).t, dtype)
    exact = gradients(
        lambda v, o, d: reference.hit_t(v, o, d, found(hits), LOWER, SPACING, law=law),
        torch.float64,
    )
    for one, other in zip(ours, exact, strict=True):
        # In float32 the place in the cell has 2 / 0.125 roundings of its own, and a slope that is
        # clamped at a tenth passes on ten times the error.
        scale = float(other.abs().max())
        torch.testing.assert_close(
            one.double(), other, rtol=0, atol=scale * 2000 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("inside", ["exit", "ignore"])
@pytest.mark.parametrize("argument", range(3))
def test_gradcheck(argument, inside, generator):
    """The implicit law is the derivative of the trace itself, but for grazing rays."""
    grid, origins, directions = random_scene(generator, count=24, batch=1)
    grid = Grid(grid.values[0], LOWER, SPACING)
    hits = trace(grid, origins[0], directions[0], inside=inside)
    chosen = steep(grid, directions[0], hits)
    assert chosen.sum() >= 8
    inputs = [grid.values, origins[0, chosen], directions[0, chosen]]
    inputs[argument] = inputs[argument].clone().requires_grad_()

    def t(values, origins, directions):
        return trace(Grid(values, LOWER, SPACING), origins, directions, inside=inside).t

    assert torch.autograd.gradcheck(t, inputs)


def test_grazing_rays_have_bounded_gradients(generator):
    """|dt| is at most |df| / (min_cosine |grad f| |d|): the clamp of the implicit law."""
    grid, origins, directions = random_scene(generator, count=3000, batch=1)
    values = grid.values.clone().requires_grad_()
    hits = trace(Grid(values, LOWER, SPACING), origins, directions, min_cosine=0.1)
    grazing = hits.hit & ~steep(grid, directions, hits, 0.1)
    assert grazing.sum() > 20
    fraction, samples = hits.fraction[grazing].detach(), hits.samples[grazing].detach()
    slope = reference.trilinear(samples, fraction, SPACING).gradient.norm(dim=1)
    bound = 1 / (0.1 * slope * directions[grazing].norm(dim=1))
    for n, t in enumerate(hits.t[grazing][:20]):
        (gradient,) = torch.autograd.grad(t, values, retain_graph=True)
        # The eight weights add up to one.
        assert_close(gradient.abs().sum(), bound[n], factor=100)


def test_samples_are_a_differentiable_gather(generator):
    grid, origins, directions = random_scene(generator)
    values = grid.values.clone().requires_grad_()
    hits = trace(Grid(values, LOWER, SPACING), origins, directions)
    weights = torch.randn(hits.samples.shape, generator=generator, dtype=torch.float64)
    (ours,) = torch.autograd.grad((hits.samples * weights).sum(), values)
    (exact,) = torch.autograd.grad(
        (reference.cell_samples(values, hits.cell) * weights).sum(), values
    )
    # Tens of rays share a sample.
    assert_close(ours, exact, factor=10)


def test_gradcheck_cameras(generator):
    """Pose and lens move the hits as finite differences say."""
    grid = box_grid(sphere(0.6), 10)
    camera = orbit(2, (5, 4))
    hits = trace(grid, cameras=camera)
    chosen = steep(grid, hits.rays()[1], hits)
    assert chosen.sum() >= 4
    parts = [
        getattr(camera, name).detach().clone().requires_grad_()
        for name in ("rotation", "translation", "focal", "principal")
    ]

    def t(*parts):
        return trace(grid, cameras=type(camera)(*parts, camera.size)).t[chosen]

    assert torch.autograd.gradcheck(t, parts)


def test_misses_and_other_rays_have_zero_gradients():
    grid = box_grid(sphere(0.5), 8)
    values = grid.values.clone().requires_grad_()
    origins = torch.tensor([[0.9, 0.9, -3.0], [0.0, 0.0, -3.0]]).double().requires_grad_()
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).double().requires_grad_()
    hits = trace(Grid(values, grid.lower, grid.spacing), origins, directions)
    assert hits.status.tolist() == [RayStatus.MISS, RayStatus.INVALID]
    for gradient in torch.autograd.grad(hits.t.sum(), (values, origins, directions)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_backward(dtype, threads, deterministic, generator):
    """Many rays through few cells: the same bits for any number of threads."""
    grid, origins, directions = random_scene(generator, dtype, count=20_000)
    results = []
    for count in (1, 2, 3):
        threads(count)
        inputs = [x.clone().requires_grad_() for x in (grid.values, origins, directions)]
        hits = trace(Grid(inputs[0], LOWER, SPACING), *inputs[1:])
        loss = hits.t[hits.hit].sum() + hits.samples.square().sum()
        results.append(torch.autograd.grad(loss, inputs))
    for one in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, results[0], strict=True))


def test_double_backward_is_refused(generator):
    grid, origins, directions = random_scene(generator)
    values = grid.values.requires_grad_()
    hits = trace(Grid(values, LOWER, SPACING), origins, directions)
    loss = hits.t[hits.hit].square().sum()
    (slope,) = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match=r"trace.*(double|twice|second)"):
        slope.square().sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    grid, origins, directions = random_scene(generator)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(origins, torch.ones_like(origins))
        with pytest.raises(RuntimeError, match="trace: forward-mode"):
            trace(grid, moving, directions)


# Registration.


def op_arguments(generator, grads, pictures, footprint, count=7):
    grid, origins, directions = random_scene(generator, count=count)
    size = []
    if pictures:
        size, matrices = [3, 2], torch.eye(3).double().repeat(4, 1, 1)
        origins, directions = torch.tensor([[0.0, 1.0, -1.0]]).double().repeat(4, 1), matrices
    tensors = [
        x.clone().requires_grad_(g)
        for x, g in zip((grid.values, origins, directions), grads, strict=True)
    ]
    near = torch.full((1 if footprint else 0,), 0.1, dtype=torch.float64)
    box = list(LOWER), list(SPACING)
    return [*tensors, near, size, *box, 0.0, 0.0, math.inf, 0, [], False, 0.01, True]


@pytest.mark.parametrize("grads", list(itertools.product((False, True), repeat=3)))
def test_opcheck(grads, generator):
    torch.library.opcheck(OP.default, op_arguments(generator, grads, False, True))


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("footprint", [False, True])
@pytest.mark.parametrize("count", [0, 7])
def test_opcheck_of_forms(pictures, footprint, count, generator):
    arguments = op_arguments(generator, (True,) * 3, pictures, footprint, count)
    torch.library.opcheck(OP.default, arguments)
    arguments[-1] = False
    arguments[-4] = [1e-4, 0.0, 100.0, 0.0, 1.0]
    torch.library.opcheck(OP.default, arguments)


@pytest.mark.parametrize("given", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("flag", [False, True])
def test_opcheck_backward(given, flag, generator):
    arguments = op_arguments(generator, (False,) * 3, False, True)
    t, status, cell, _, samples, *closest = OP(*arguments)
    outputs = (t, samples, closest[0])
    cotangents = [torch.ones_like(o) if g else None for o, g in zip(outputs, given, strict=True)]
    box = arguments[5:7]
    torch.library.opcheck(
        BACKWARD.default,
        (*cotangents, *arguments[:3], t, status, cell, *closest, [], *box, False, 0.01, True, flag),
    )
