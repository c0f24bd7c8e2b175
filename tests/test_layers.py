# SPDX-License-Identifier: Apache-2.0
"""The layers do what their ops do, with settings kept, and train."""

import pytest
import torch
from fields import random_smooth, sample, sphere
from topology import euler_number, is_closed_and_oriented

from diffiso import (
    Camera,
    Grid,
    Light,
    NarrowBand,
    isosurface,
    marching_cubes,
    render,
    sample_field,
    sample_grid,
    silhouette,
)
from diffiso.layers import GridSampler, IsoSurface, MarchingCubes, SdfRenderer, Silhouette

LOWER, UPPER = (-1.0, -1.5, -2.0), (1.0, 0.5, 2.5)


@pytest.mark.parametrize("law", ["sdf", "implicit"])
@pytest.mark.parametrize("close_boundary", [False, True])
def test_isosurface_layer(law, close_boundary):
    layer = IsoSurface(
        LOWER, UPPER, (10, 11, 12), level=0.1, law=law, close_boundary=close_boundary
    )
    radius = torch.tensor(0.7, requires_grad=True)
    mesh = layer(lambda p: 2 * (p.norm(dim=1) - radius))
    expected = isosurface(
        lambda p: 2 * (p.norm(dim=1) - radius),
        LOWER,
        UPPER,
        (10, 11, 12),
        level=0.1,
        law=law,
        close_boundary=close_boundary,
    )
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)
    ours, theirs = (torch.autograd.grad(m.vertices.norm(), radius)[0] for m in (mesh, expected))
    assert torch.equal(ours, theirs)
    assert is_closed_and_oriented(mesh.faces) or not close_boundary


@pytest.mark.parametrize("band", [1.0, "lipschitz", "sign", "warm"])
@pytest.mark.parametrize("close_boundary", [False, True])
def test_isosurface_layer_with_a_band(band, close_boundary):
    layer = IsoSurface(-1.0, 1.0, 32, band=band, close_boundary=close_boundary)
    for radius in (0.5, 0.52):
        field = sphere(radius)
        expected = isosurface(field, -1, 1, 32, close_boundary=close_boundary)
        assert layer(field).faces.shape == expected.faces.shape
    if band == "warm":
        assert layer.band.report.mode == "warm"


def test_isosurface_layer_takes_no_band_with_a_box_of_its_own():
    with pytest.raises(ValueError, match=r"band must be a rule or"):
        IsoSurface(-1.0, 1.0, 32, band=NarrowBand(-2.0, 2.0, 16))


@pytest.mark.parametrize("shape", [(6, 7, 8), (3, 6, 7, 8)])
@pytest.mark.parametrize("gradient", ["linear", "none"])
def test_marching_cubes_layer(shape, gradient, generator):
    values = random_smooth(generator, shape).requires_grad_()
    layer = MarchingCubes(LOWER, UPPER, level=0.05, gradient=gradient, close_boundary=True)
    mesh = layer(values)
    expected = marching_cubes(
        Grid.from_bounds(values, LOWER, UPPER), 0.05, gradient=gradient, close_boundary=True
    )
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)
    assert mesh.vertices.requires_grad == (gradient == "linear")
    assert is_closed_and_oriented(mesh.faces)


def test_grid_sampler_layer(generator):
    values = random_smooth(generator, (6, 7, 8))
    layer = GridSampler(values, LOWER, UPPER)
    points = torch.rand(20, 3, generator=generator, dtype=torch.float64)
    found = layer(points)
    expected = sample_grid(Grid.from_bounds(values, LOWER, UPPER), points)
    assert torch.equal(found.sdf, expected.sdf)
    assert torch.equal(found.gradient, expected.gradient)
    assert [name for name, _ in layer.named_parameters()] == ["values"]


def test_grid_sampler_keeps_its_own_copy(generator):
    values = random_smooth(generator, (4, 4, 4))
    layer = GridSampler(values)
    values.zero_()
    assert (layer.values != 0).all()
    restored = GridSampler(torch.zeros(4, 4, 4, dtype=torch.float64))
    restored.load_state_dict(layer.state_dict())
    assert torch.equal(restored.values, layer.values)


def test_layers_train_together():
    """A grid, as a field, is pulled from a small sphere to a larger one through mesh vertices."""
    start = sample(sphere(0.4), (17, 17, 17), dtype=torch.float32)
    field = GridSampler(start)
    surface = IsoSurface(-1.0, 1.0, 16, law="implicit")
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02)
    for _ in range(40):
        vertices = surface(lambda p: field(p).sdf).vertices
        loss = (vertices.norm(dim=1) - 0.6).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mesh = surface(lambda p: field(p).sdf)
    assert is_closed_and_oriented(mesh.faces)
    assert euler_number(mesh.faces) == 2
    # From 0.2 to a tenth of a cell (1/8).
    assert (mesh.vertices.norm(dim=1) - 0.6).abs().max() < 0.1 / 8


def test_the_light_of_a_renderer_goes_where_it_goes():
    place = torch.tensor([0.0, 4.0, 0.0])
    renderer = SdfRenderer(light=Light(place, strength=3.0)).to(torch.float64)
    assert renderer.state_dict()["light_position"].dtype == torch.float64
    ball = sample_field(lambda p: p.norm(dim=1) - 0.6, -1, 1, 12).values.double()
    cameras = Camera.orbit(0.0, 0.0, 4.0, field_of_view=40.0, size=16, dtype=torch.float64)
    found = renderer(ball, cameras).image
    light = Light(place.double(), strength=3.0)
    expected = render(Grid.from_bounds(ball, -1, 1), cameras, light=light).image
    assert torch.equal(found, expected)
    learns = SdfRenderer(light=Light(torch.nn.Parameter(place)))
    assert [name for name, _ in learns.named_parameters()] == ["light_position"]
    assert SdfRenderer().state_dict() == {}
    assert not SdfRenderer(far=1.0)(ball, cameras).hits.hit.any()


def test_a_grid_learns_masks_through_the_renderer():
    """A ball grows into the outlines of another, though no ray begins to hit at first."""
    cameras = Camera.orbit([0.0, 90.0, 0.0], [0.0, 0.0, 89.0], 4.0, field_of_view=40.0, size=24)
    wide, sharp = SdfRenderer(ramp=8.0), SdfRenderer()
    ball = sample(sphere(0.6), (17, 17, 17), dtype=torch.float32)
    target, outlines = wide(ball, cameras).coverage, sharp(ball, cameras).coverage
    field = GridSampler(sample(sphere(0.4), (17, 17, 17), dtype=torch.float32))

    def wrong_pixels():
        apart = sharp(field.values.detach(), cameras).coverage - outlines
        return float(apart.abs().sum(dim=(1, 2)).max())

    before = wrong_pixels()
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02)
    for _ in range(40):
        loss = (wide(field.values, cameras).coverage - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The area between the discs, in pixels; Adam's steps at the end are a sixth of that.
    assert before > 40
    assert wrong_pixels() < before / 4


def test_silhouette_is_the_op_with_its_settings():
    mesh = isosurface(sphere(0.5), -1, 1, 12)
    cameras = Camera.orbit([0.0, 50.0], 0.0, 4.0, field_of_view=40.0, size=24)
    for options in ({}, {"mode": "soft"}, {"samples": 4, "near": 3.8}):
        layer = Silhouette((16, 20), **options)
        assert torch.equal(layer(mesh, cameras), silhouette(mesh, cameras, (16, 20), **options))
    assert Silhouette()(mesh, cameras).shape == (2, 24, 24)


@pytest.mark.parametrize(
    "layer",
    [
        IsoSurface(-1, 1, 16),
        MarchingCubes(),
        GridSampler(torch.zeros(2, 2, 2)),
        SdfRenderer(),
        Silhouette(),
    ],
)
def test_layers_are_modules_with_a_readable_name(layer):
    assert isinstance(layer, torch.nn.Module)
    assert repr(layer).startswith(type(layer).__name__)
    assert layer.to(torch.float64) is layer


@pytest.mark.parametrize("layer", [IsoSurface, MarchingCubes, GridSampler, SdfRenderer])
def test_bad_bounds(layer):
    arguments = {
        IsoSurface: ((0.0, 0.0), 1.0, 8),
        MarchingCubes: ((0.0, 0.0), 1.0),
        GridSampler: (torch.zeros(4, 4, 4), (0.0, 0.0), 1.0),
        SdfRenderer: ((0.0, 0.0), 1.0),
    }[layer]
    with pytest.raises(ValueError, match=rf"{layer.__name__}: lower.* three finite numbers, got"):
        layer(*arguments)


def test_bad_values():
    with pytest.raises((ValueError, RuntimeError), match=r"values must be .*got \(4, 4\)"):
        MarchingCubes()(torch.zeros(4, 4))
