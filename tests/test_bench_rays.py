# SPDX-License-Identifier: Apache-2.0
"""Whoever is timed at tracing and shading finds the same hits, pictures and gradients."""

import pytest
import torch

from bench.cases import Settings
from bench.ops import shade, trace
from bench.peers import rays as ray_peers
from bench.peers.rays import View
from diffiso import reference

CPU = torch.device("cpu")
SMOKE = Settings(CPU, threads=2, runs=1, smoke=True)


def bounds(view: View) -> tuple[tuple[float, ...], tuple[float, ...]]:
    spacing = (view.upper - view.lower) / (len(view.values) - 1)
    return (view.lower,) * 3, (spacing,) * 3


def first_hits(view: View) -> reference.RayHit:
    return reference.first_hit(
        view.values[None], view.origins[None], view.directions[None], *bounds(view)
    )


def test_contenders_hit_the_same():
    view = trace.picture(20, 16, CPU)
    expected = first_hits(view).t[0]
    hit = expected.isfinite()
    assert 0.4 < hit.double().mean() < 0.6
    contenders = [
        *trace.ours(view),
        *ray_peers.mitsuba_hits(view, SMOKE),
        *ray_peers.by_hand_hits(view, SMOKE),
    ]
    for each in contenders:
        found = each.outputs(each.run())
        t = found["t"][0].double()
        assert torch.equal(t.isfinite(), hit), each.name
        assert len(found["hits"][0]) == hit.sum()
        if "sphere tracing" in each.name:
            # It stops where the field is this small, on its way to the same crossing.
            points = view.origins[hit] + t[hit, None] * view.directions[hit]
            field, _ = reference.sample_grid(
                view.values[None].double(), points[None].double(), *bounds(view)
            )
            assert field.abs().max() < 1.1 * ray_peers.TOLERANCE
            assert (t - expected)[hit].abs().max() < 0.01
        else:
            # Mitsuba's solver stops at steps below 1e-5; t is about 3, good to 2e-7 in float32.
            assert (t - expected)[hit].abs().max() < 1.1e-5, each.name


@pytest.mark.parametrize("normals", ["central", "trilinear"])
def test_contenders_shade_the_same(normals):
    view = shade.pictures(16, 8, CPU)
    weights = torch.rand((len(view.cameras), 8, 8))
    values = view.values[None].double().requires_grad_()
    rays = view.origins[None].double(), view.directions[None].double()
    hits = first_hits(view)
    t = reference.hit_t(values, *rays, hits, *bounds(view))
    shading = reference.shade(values, *rays, t, hits, *bounds(view), normals=normals)
    expected = shading.intensity[0].detach()
    (gradient,) = torch.autograd.grad((shading.intensity[0] * weights.flatten()).sum(), values)

    first, of_cells, *_ = shade.ours(view, weights)
    # How far gradients may be off, relative to their norm. By hand the slope is that of a point up
    # to 1e-4 before the hit; Mitsuba takes every slope for 1, which on 16 nodes is not quite so.
    if normals == "central":
        chosen = [(first, 1e-4), (ray_peers.by_hand_shading(view, weights, SMOKE)[0], 0.01)]
    else:
        peers = ray_peers.mitsuba_shading(view, weights, SMOKE)[:1]
        chosen = [(of_cells, 1e-4), *[(each, 0.06) for each in peers]]
    for each, tolerance in chosen:
        found = each.outputs(each.run())
        # A hit 1e-5 off, by the curvature of the normals and over the size of a cell.
        assert (found["intensity"][0] - expected).abs().max() < 2e-5, each.name
        apart = (found["gradients"][0] - gradient[0]).norm() / gradient.norm()
        assert apart < tolerance, each.name
