# SPDX-License-Identifier: Apache-2.0
"""Whoever is timed at silhouettes draws the same outlines, and pulls them the same way."""

import pytest
import torch

import diffiso
from bench.cases import Settings
from bench.ops import silhouette
from bench.peers import silhouettes
from diffiso import shapes

CPU = torch.device("cpu")
SMOKE = Settings(CPU, threads=2, runs=1, smoke=True)


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")  # DEODR's
def test_contenders_draw_the_same():
    mesh = diffiso.isosurface(shapes.Torus(0.5, 0.2), -1, 1, 24)
    scene = silhouette.picture("torus", mesh.vertices, mesh.faces, 64, CPU)
    weights = torch.linspace(0, 1, 64).expand(1, 64, 64) + torch.linspace(0, 0.5, 64)[:, None]
    scene = scene._replace(weights=weights.contiguous())
    first, _, soft = silhouette.ours(scene)
    expected = first.outputs(first.run())
    area = expected["coverage"][0].double().sum()
    moved = expected["gradients"][0].double().sum(dim=0)
    for each in (soft, *silhouettes.deodr(scene, SMOKE)[:1]):
        found = each.outputs(each.run())
        # 160 pixels of outline, which DEODR draws about two thirds of a pixel farther out.
        assert (found["coverage"][0].double().sum() / area - 1).abs() < 0.1, each.name
        if each.kind == "other":
            pulled = found["gradients"][0].double().sum(dim=0)
            assert (pulled - moved).norm() < 0.2 * moved.norm(), each.name
