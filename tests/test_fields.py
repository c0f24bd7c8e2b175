# SPDX-License-Identifier: Apache-2.0
"""Fields that learn: values, starts, gradients of every kind, checkpoints, compilation."""

import io
import math

import pytest
import torch
from decoders import SMOOTH, radii, small_decoder
from fields import sphere
from topology import is_closed_and_oriented
from torch.nn import functional

import diffiso
from diffiso.fields import (
    BrickField,
    FeatureGridField,
    GeometricField,
    GridField,
    PositionalEncoding,
    Siren,
)
from diffiso.losses import eikonal


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the networks are small: where cores are shared, a second one waits


def small_siren():
    field = Siren(32, 3, frequency=5.0)
    with torch.no_grad():
        field.last.bias -= field(2 * torch.rand(500, 3) - 1).median()  # so that there is a surface
    return field


FIELDS = {
    "decoder": lambda: small_decoder().field(torch.nn.Parameter(0.1 * torch.randn(3))),
    "smooth decoder": lambda: small_decoder(SMOOTH).field(torch.nn.Parameter(torch.zeros(3))),
    "geometric": lambda: GeometricField(32, 4, skips=(2,), radius=0.5, frequencies=1),
    "siren": small_siren,
    "grid": lambda: GridField(diffiso.sample_field(sphere(0.5), -1, 1, 12)),
    "bricks": lambda: BrickField(
        diffiso.BrickGrid.from_grid(diffiso.sample_field(sphere(0.5), -1, 1, 12))
    ),
    "feature grid": lambda: FeatureGridField(resolutions=(4, 8), width=16),
}


@pytest.fixture(params=FIELDS)
def field(request):
    return FIELDS[request.param]()


# Every field.


def test_one_value_a_point(field):
    assert field(torch.rand(7, 3)).shape == (7,)
    assert field(torch.empty(0, 3)).shape == (0,)
    assert repr(field).startswith(type(field).__name__)


def test_other_dtype(field):
    points = 2 * torch.rand(20, 3, dtype=torch.float64) - 1
    single = field(points.float())
    double = field.double()(points)
    assert double.dtype == torch.float64
    # Single precision through a few layers of 32.
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("law", ["sdf", "implicit"])
def test_gradients_through_the_isosurface(field, law):
    if isinstance(field, FeatureGridField):  # values of a fresh one are of one sign
        field.decoder.last.bias.data -= field(2 * torch.rand(500, 3) - 1).median().detach()
    mesh = diffiso.isosurface(field, -1, 1, 12, law=law, close_boundary=True)
    assert len(mesh.faces) > 0
    assert is_closed_and_oriented(mesh.faces)
    mesh.volume().backward()
    for name, parameter in field.named_parameters():  # a code is one of them
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_state_returns(field):
    points = torch.rand(9, 3)
    values = field(points)
    file = io.BytesIO()
    torch.save(field.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(1.0)
    assert not torch.equal(field(points), values)
    field.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(field(points), values)


def test_compiled_whole(field):
    points = 2 * torch.rand(8, 3) - 1
    results = []
    for function in (field, torch.compile(field, fullgraph=True, backend="aot_eager")):
        field.zero_grad()
        values = function(points)
        values.square().sum().backward()
        results.append([values.detach(), *(p.grad.clone() for p in field.parameters())])
    for eager, compiled in zip(*results, strict=True):
        # The same sums in another order, in a few layers of 32.
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["smooth decoder", "geometric", "siren"])
def test_second_derivatives(name):
    field = FIELDS[name]().double()
    points = (torch.rand(2, 3, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(field, points)
    assert torch.autograd.gradgradcheck(field, points)


@pytest.mark.parametrize("name", ["decoder", "smooth decoder", "geometric", "siren"])
def test_learns_from_its_gradient(name):
    """What the loss on gradients passes to the weights is its derivative, relu included."""
    field = FIELDS[name]().double()
    points = 2 * torch.rand(50, 3, dtype=torch.float64) - 1

    def loss():
        at = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(field(at).sum(), at, create_graph=True)
        return eikonal(gradient)

    parameters = list(field.parameters())
    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True)
    directions = [
        torch.zeros_like(p) if s is None else s for p, s in zip(parameters, slopes, strict=True)
    ]
    size = math.sqrt(sum(float(d.square().sum()) for d in directions))
    ends = []
    for step in (1e-8, -2e-8):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step / size)
        ends.append(float(loss().detach()))
    # Rounding, 1e-16 of each step's 1e-8; so short a step, that no relu bends at a point meanwhile:
    # there the loss jumps.
    assert (ends[0] - ends[1]) / 2e-8 == pytest.approx(size, rel=1e-5)


# Positional encoding.


def test_encoding_by_hand():
    encoding = PositionalEncoding(2)
    waves = encoding(torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64))[0]
    half = math.sqrt(0.5)
    expected = [0.5, 0.25, 0, 1, half, 0, 0, 1, 0, 0, half, 1, -1, 0, 1]
    # Sines of numbers up to pi, rounded to double.
    torch.testing.assert_close(
        waves, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )
    assert encoding.size == 15
    bare = PositionalEncoding(2, raw=False)
    assert bare.size == 12
    assert torch.equal(bare(torch.ones(4, 5, 3)), encoding(torch.ones(4, 5, 3))[..., 3:])


def test_no_waves_are_the_points():
    points = torch.rand(4, 3)
    assert torch.equal(PositionalEncoding(0)(points), points)


def test_encoding_errors():
    with pytest.raises(ValueError, match="frequencies must not be negative, got -1"):
        PositionalEncoding(-1)
    with pytest.raises(ValueError, match="without a frequency, raw must be true"):
        PositionalEncoding(0, raw=False)


# The start as a sphere.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {"width": 256},
        {"activation": "relu", "weight_norm": True, "width": 256},
        {"frequencies": 4, "width": 128, "depth": 6, "skips": (3,)},
    ],
)
def test_geometric_field_starts_as_a_sphere(options, seed):
    torch.manual_seed(seed)
    off = radii(GeometricField(radius=0.5, **options)) / 0.5 - 1
    assert off.mean().abs() < 0.05
    assert off.abs().max() < 0.15


def test_geometric_field_rises_by_one(generator):
    field = GeometricField(256, 6, skips=(3,), radius=0.5)
    points = (2 * torch.rand(500, 3, generator=generator) - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(field(points).sum(), points)
    lengths = gradient.norm(dim=1)
    # Measured 1.07 with this softplus, which is round where units are small: near the middle.
    assert lengths.median() == pytest.approx(1, abs=0.15)


def test_geometric_errors():
    with pytest.raises(ValueError, match="GeometricField: radius must be positive, got -1"):
        GeometricField(32, 2, skips=(), radius=-1)
    with pytest.raises(ValueError, match="GeometricField: skips must be hidden layers"):
        GeometricField(32, 2)


# Siren.


def test_siren_by_hand():
    field = Siren(2, 1, frequency=3.0)
    with torch.no_grad():
        field.hidden[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]))
        field.hidden[0].bias.copy_(torch.tensor([0.0, 0.5]))
        field.last.weight.copy_(torch.tensor([[1.0, 10.0]]))
        field.last.bias.fill_(100.0)
    value = field(torch.tensor([[0.1, 0.2, 0.3]])).detach()
    expected = math.sin(0.3) + 10 * math.sin(3 * 0.9) + 100
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_siren_starts_alike_at_every_depth(generator):
    """What enters each sine but the first has standard deviation one (section 3.2)."""
    field = Siren(256, 5)
    assert field.hidden[0].weight.abs().max() <= 1 / 3
    out = 2 * torch.rand(2000, 3, generator=generator) - 1
    for i, layer in enumerate(field.hidden):
        before = 30 * functional.linear(out, layer.weight.detach())  # biases: none in the claim
        if i > 0:
            assert float(before.std()) == pytest.approx(1, abs=0.1)
        out = before.sin()


def test_siren_errors():
    with pytest.raises(ValueError, match="width and depth must be positive, got 4 and 0"):
        Siren(4, 0)
    with pytest.raises(ValueError, match="frequency must be positive, got 0"):
        Siren(4, 1, frequency=0)


# Grids.


def test_grid_field_is_its_grid(generator):
    grid = diffiso.sample_field(sphere(0.5), (-1, -2, -1), (1, 2, 3), (5, 6, 7))
    field = GridField(grid)
    points = 3 * torch.rand(50, 3, generator=generator) - 1.5
    expected = diffiso.sample_grid(grid, points)
    assert torch.equal(field(points), expected.sdf)
    assert torch.equal(field.sample(points).gradient, expected.gradient)
    assert field.grid.lower == grid.lower
    assert field.grid.spacing == grid.spacing
    grid.values.zero_()
    assert (field.values != 0).any()  # a copy


def test_grid_field_takes_the_box_with_the_samples():
    saved = GridField(diffiso.sample_field(sphere(0.5), -1, 1, 8))
    field = GridField(diffiso.sample_field(sphere(0.5), 0, 4, 8))
    field.load_state_dict(saved.state_dict())
    assert torch.equal(field(torch.zeros(1, 3)), saved(torch.zeros(1, 3)))


def test_grid_field_learns_from_its_gradient():
    grid = diffiso.sample_field(lambda p: 2 * (p.norm(dim=1) - 0.5), -1, 1, 12)
    field = GridField(grid)
    points = (torch.rand(500, 3) - 0.5) * 1.6
    optimizer = torch.optim.Adam(field.parameters(), 0.01)
    losses = []
    for _ in range(20):
        loss = eikonal(field.sample(points).gradient)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    at = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(field(at).sum(), at, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


def test_grid_field_errors():
    with pytest.raises(
        ValueError, match=r"values must be \(X, Y, Z\), 2 nodes .*got \(2, 3, 3, 3\)"
    ):
        GridField(diffiso.Grid(torch.zeros(2, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"got \(1, 3, 3\)"):
        GridField(diffiso.Grid(torch.zeros(1, 3, 3)))
    with pytest.raises(ValueError, match=r"must be float32 or float64, got torch\.float16"):
        GridField(diffiso.Grid(torch.zeros(3, 3, 3, dtype=torch.float16)))


def test_feature_grid_field_works_in_world_units():
    here = FeatureGridField(resolutions=(4, 8), width=16)
    there = FeatureGridField((10.0, 20.0, 30.0), 4.0, resolutions=(4, 8), width=16)
    there.load_state_dict({**here.state_dict(), "center": there.center})
    points = 2 * torch.rand(50, 3) - 1
    # Coordinates of some tens, rounded to single precision.
    torch.testing.assert_close(
        there(points * 4 + there.center), 4 * here(points), rtol=1e-4, atol=1e-4
    )


def test_feature_grid_field_errors():
    with pytest.raises(ValueError, match="half_size must be positive, got 0"):
        FeatureGridField(half_size=0.0)
    with pytest.raises(ValueError, match=r"resolutions must be 2 nodes or more each, got \(1, 4\)"):
        FeatureGridField(resolutions=(1, 4))
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        FeatureGridField(channels=0)
