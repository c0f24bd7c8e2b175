# SPDX-License-Identifier: Apache-2.0
"""Small decoders, and the shape of what fields start as."""

from dataclasses import replace

import torch
from topology import is_closed_and_oriented

import diffiso
from diffiso.fields import DecoderSettings, DeepSdfDecoder

SMALL = DecoderSettings(latent_size=3, width=32, depth=4, skips=(2,))
SMOOTH = replace(SMALL, activation="softplus", beta=20.0)


def small_decoder(settings=SMALL, code_weight=0.3):
    """A decoder on whose values the code has a say from the start."""
    decoder = DeepSdfDecoder(settings)
    with torch.no_grad():
        first = decoder.mlp.hidden[0]
        weight = first.weight.clone()
        weight[:, -settings.latent_size :] = code_weight * torch.randn(
            settings.width, settings.latent_size
        )
        if settings.weight_norm:
            first.weight = weight
        else:
            first.weight.copy_(weight)
    return decoder


def radii(field):
    """The distance from 0 of every vertex of a closed surface."""
    mesh = diffiso.isosurface(field, -1, 1, 24)
    assert is_closed_and_oriented(mesh.faces)
    return mesh.vertices.detach().norm(dim=1)
