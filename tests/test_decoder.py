# SPDX-License-Identifier: Apache-2.0
"""DeepSDF's decoder: the papers' networks, codes that cost nothing per point, a sphere to start."""

import io
import json
from dataclasses import asdict, replace

import pytest
import torch
from decoders import SMALL, SMOOTH, radii, small_decoder
from torch.nn import functional

import diffiso
from diffiso.fields import DecoderSettings, DeepSdfDecoder


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the networks are small: where cores are shared, a second one waits


def concatenated(decoder, points, code):
    """What the decoder computes, with the code copied to every point as the papers draw it."""
    settings = decoder.settings
    features = decoder.encoding(points)
    codes = code[..., None, :].expand(*points.shape[:-1], -1)
    inputs = hidden = torch.cat([features, codes], dim=-1)
    for i, layer in enumerate(decoder.mlp.hidden):
        if i in settings.skips:
            hidden = torch.cat([hidden, inputs], dim=-1)
        hidden = layer(hidden)
        if settings.activation == "relu":
            hidden = hidden.relu()
        else:
            hidden = functional.softplus(hidden, settings.beta)
    values = decoder.mlp.last(hidden)[..., 0]
    return values.tanh() if settings.final_tanh else values


@pytest.mark.parametrize(
    ("points", "codes"), [((5,), ()), ((2, 5), (2,)), ((2, 3, 5), (2, 3)), ((4, 5), ())]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "softplus", "weight_norm": False, "skips": (1, 2)},
        {"frequencies": 2, "raw_points": False, "final_tanh": True},
        {"skips": ()},
    ],
)
def test_equals_concatenation(points, codes, changes):
    decoder = DeepSdfDecoder(replace(SMALL, **{"geometric_init": False, **changes})).double()
    at = torch.randn(*points, 3, dtype=torch.float64)
    code = torch.randn(*codes, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for values in (decoder(at, code), concatenated(decoder, at, code)):
        inputs = [code, *decoder.parameters()]
        results.append([values, *torch.autograd.grad(values.square().sum(), inputs)])
    assert results[0][0].shape == points
    for actual, expected in zip(*results, strict=True):
        # Sums of some hundred products in another order, in double.
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_weights_are_made_once_a_forward():
    decoder = DeepSdfDecoder(SMALL)
    made = []
    for layer in decoder.mlp.hidden:
        layer.parametrizations.weight[0].register_forward_hook(lambda *_: made.append(1))
    decoder(torch.rand(2, 5, 3), torch.rand(2, 3))
    assert len(made) == SMALL.depth


def sizes(decoder):
    return [tuple(layer.weight.shape) for layer in [*decoder.mlp.hidden, decoder.mlp.last]]


def test_presets_are_the_papers_networks():
    for decoder in (DeepSdfDecoder.paper(), DeepSdfDecoder.official()):
        square = (512, 512)
        expected = [(512, 259), square, square, (253, 512), *[square] * 4, (1, 512)]
        assert sizes(decoder) == expected
        assert decoder.settings.dropout == 0.2
        assert decoder.settings.weight_norm
        assert decoder.settings.final_tanh
    toy = DeepSdfDecoder.meshsdf_toy()
    assert sizes(toy) == [(128, 32), *[(128, 128)] * 2, (96, 128), *[(128, 128)] * 4, (1, 128)]
    assert toy.encoding.size == 30  # no points, five sines and five cosines of each coordinate
    view = DeepSdfDecoder(DecoderSettings.meshsdf_single_view())
    assert sizes(view) == [(512, 259), *[(512, 512)] * 4, (1, 512)]
    assert view.settings.dropout == 0


def test_settings_rebuild_a_decoder():
    settings = replace(SMOOTH, frequencies=2, final_tanh=True)
    decoder = small_decoder(settings)
    file = io.BytesIO()
    torch.save({"settings": asdict(settings), "state": decoder.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    rebuilt = DeepSdfDecoder(DecoderSettings(**saved["settings"]))
    rebuilt.load_state_dict(saved["state"])
    points, code = torch.rand(5, 3), torch.rand(3)
    assert torch.equal(rebuilt(points, code), decoder(points, code))
    assert DecoderSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_dropout_belongs_to_training_and_never_to_a_field():
    decoder = DeepSdfDecoder(replace(SMALL, dropout=0.5))
    points, code = torch.rand(50, 3), torch.zeros(3)
    still = decoder.field(code)(points)
    assert not torch.equal(decoder(points, code), decoder(points, code))
    assert torch.equal(decoder.eval()(points, code), still)


def test_field_keeps_the_history_of_its_code():
    decoder = small_decoder()
    root = torch.zeros(3, requires_grad=True)
    decoder.field(root * 2 + 0.1)(torch.rand(5, 3)).sum().backward()
    assert (root.grad != 0).any()


def test_field_takes_its_code_along():
    root = torch.full((3,), 0.1, requires_grad=True)
    field = small_decoder().field(2 * root).double()
    assert field.code.dtype == torch.float64
    field(torch.rand(5, 3, dtype=torch.float64)).sum().backward()
    assert (root.grad != 0).any()


@pytest.mark.parametrize(("shapes", "points"), [(2, 0), (0, 5), (0, 0)])
def test_nothing_in_nothing_out(shapes, points):
    decoder = DeepSdfDecoder(SMALL)
    assert decoder(torch.zeros(shapes, points, 3), torch.zeros(shapes, 3)).shape == (shapes, points)


@pytest.mark.parametrize("law", ["sdf", "implicit"])
def test_volume_follows_the_code(law):
    """The gradient in the code against finite differences, with a new extraction for each."""
    torch.manual_seed(1)
    decoder = small_decoder(SMOOTH, code_weight=0.2).double()
    code = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def volume(at):
        return diffiso.isosurface(decoder.field(at), -1, 1, 40, law=law).volume()

    (gradient,) = torch.autograd.grad(volume(code), code)
    with torch.no_grad():
        steps = 1e-3 * torch.eye(3, dtype=torch.float64)
        expected = torch.stack([(volume(code + s) - volume(code - s)) / 2e-3 for s in steps])
    assert expected.norm() > 0.05
    # The exact law is off by the cells' size; the paper's by |grad f|, some tenths from 1 here.
    assert (gradient - expected).norm() < (0.02 if law == "implicit" else 0.3) * expected.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_size": 0}, "latent_size must be at least 1, got 0"),
        ({"width": 0, "skips": ()}, "width must be at least 1, got 0"),
        ({"width": 32.5}, "width must be a whole number, got 32.5"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"skips": (0,)}, r"skips must be hidden layers from 1 to 3, got \(0,\)"),
        ({"skips": (4,)}, r"skips must be hidden layers from 1 to 3, got \(4,\)"),
        ({"width": 6}, "width must be above the 6 inputs that a skip layer reads again, got 6"),
        ({"activation": "elu"}, 'activation must be "relu" or "softplus", got \'elu\''),
        ({"beta": 0.0}, "beta must be positive, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        ({"frequencies": -1}, "frequencies must not be negative, got -1"),
        ({"raw_points": False}, "raw_points must be true without frequencies"),
        ({"raw_points": False, "frequencies": 2}, "raw_points must be true for geometric_init"),
        ({"radius": 0.0}, "radius must be positive, got 0"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=f"DecoderSettings: {message}"):
        replace(SMALL, **changes)


def test_decoder_shape_errors():
    decoder = DeepSdfDecoder(SMALL)
    with pytest.raises(ValueError, match=r"points must be \(..., P, 3\), got \(5, 2\)"):
        decoder(torch.zeros(5, 2), torch.zeros(3))
    with pytest.raises(
        ValueError, match=r"code must be \(3,\), or \(2, 3\) for points \(2, 5, 3\), got \(4, 3\)"
    ):
        decoder(torch.zeros(2, 5, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"code must be .*got \(2,\)"):
        decoder(torch.zeros(5, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"LatentField: code must be \(3,\), got \(1, 3\)"):
        decoder.field(torch.zeros(1, 3))


# The start as a sphere.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_norm": False, "skips": (), "depth": 4},
        {"frequencies": 5, "radius": 0.3},
        {"activation": "softplus", "final_tanh": True},
        {"latent_size": 100, "width": 256, "skips": (2, 5), "radius": 0.7},
    ],
)
def test_decoder_starts_as_a_sphere_whatever_the_code(changes, seed):
    torch.manual_seed(seed)
    settings = replace(DecoderSettings(), **changes)
    decoder = DeepSdfDecoder(settings)
    code = torch.randn(settings.latent_size)
    off = radii(decoder.field(code)) / settings.radius - 1
    # Measured over many seeds: the mean within 2%, dents up to 10% with 128 units.
    assert off.mean().abs() < 0.05
    assert off.abs().max() < 0.15
    points = torch.rand(20, 3)
    other = decoder(points, torch.randn(settings.latent_size))
    assert torch.equal(decoder(points, code), other)
    # But the code can come to matter: its weights hear of their errors.
    (slope,) = torch.autograd.grad(
        decoder(points, code).square().sum(),
        [
            decoder.mlp.hidden[0].parametrizations.weight.original1
            if settings.weight_norm
            else decoder.mlp.hidden[0].weight
        ],
    )
    assert (slope[:, -settings.latent_size :] != 0).any()
