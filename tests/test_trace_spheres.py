# SPDX-License-Identifier: Apache-2.0
"""trace by spheres: its last step, solids that are ignored, and gaps."""

import math

import pytest
import torch
from rays import box_grid, orbit

from diffiso import Grid, RayStatus, SphereTracing, shapes, trace
from diffiso import reference as ref

HIT, MISS, NAN = RayStatus.HIT, RayStatus.MISS, math.nan


def ball(nodes, dtype=torch.float64):
    return box_grid(lambda p: p.norm(dim=-1) - 0.6, nodes, dtype)


def upward(samples, start=-1.0, **options):
    """t and status of a ray up the middle of a grid of z alone, a node at each whole number."""
    grid = Grid(torch.tensor(samples, dtype=torch.float64).expand(2, 2, -1).contiguous())
    origin, up = torch.tensor([[0.5, 0.5, start], [0.0, 0.0, 1.0]]).double()
    hits = trace(grid, origin, up, **options)
    return hits.t.item(), hits.status.item()


def pixel_tracing(cameras, **options):
    return SphereTracing(1e-6, footprint=1 / float(cameras.focal.min()), refine=False, **options)


@pytest.mark.parametrize("nodes", [8, 64])
def test_samples_are_those_around_the_point(nodes):
    """A tolerance of a pixel, up to 1.4 cells: the last step may end in another cell."""
    grid, cameras = ball(nodes), orbit(1, (64, 64))
    hits = trace(grid, cameras=cameras, method=pixel_tracing(cameras))
    assert hits.hit.sum() > 500
    inner = hits.fraction[hits.hit]
    assert inner.min() >= 0
    assert inner.max() <= 1
    node = torch.stack(torch.unravel_index(hits.cell[hits.hit], grid.values.shape), dim=1)
    place = inner.new_tensor(grid.lower) + (node + inner) * inner.new_tensor(grid.spacing)
    # Both are t times a direction of about one, rounded.
    assert (place - hits.points()[hits.hit]).abs().max() < 1e-12
    # What moves t are the weights of these samples, over the length of the ray's direction.
    values = grid.values.clone().requires_grad_()
    hits = trace(
        Grid(values, grid.lower, grid.spacing),
        cameras=cameras,
        method=pixel_tracing(cameras),
        law="sdfdiff",
    )
    (gradient,) = torch.autograd.grad(hits.t[hits.hit].sum(), values)
    assert gradient.min() >= 0
    lengths = hits.rays()[1][hits.hit].norm(dim=1)
    assert gradient.sum().item() == pytest.approx(float((1 / lengths).sum()), rel=1e-12)


def test_the_last_step_stays_in_the_box():
    """A field that says "far" where the box ends: the step would lead out of it."""
    slope = torch.tensor([9.0, 9.0, 4.0]).double().expand(1, 2, 2, 3).contiguous()
    rays = torch.tensor([[[0.5, 0.5, 1.5]], [[0.0, 0.0, 1.0]]]).double()
    method = SphereTracing(tolerance=8.0, refine=False)
    hits = trace(slope[0], *rays, method=method)
    assert hits.t.item() == 0.5
    assert hits.fraction[0].tolist() == [0.5, 0.5, 1.0]
    found = ref.sphere_trace(slope, *rays[:, None], tolerance=8.0)
    assert found.t.item() == 0.5
    assert found.cell.item() == hits.cell.item()


@pytest.mark.parametrize("tolerance", [1e-4, 1e-3, 1e-2])
def test_the_surface_of_an_ignored_solid_is_not_hit(tolerance, generator):
    directions = torch.randn(1000, 3, generator=generator).double()
    origins = torch.zeros(1000, 3).double()
    method = SphereTracing(tolerance)
    assert (trace(ball(32), origins, directions, method=method, inside="ignore").cell < 0).all()
    # But the next one is.
    two = box_grid(lambda p: (p[..., 2].abs() - 0.5).abs() - 0.2, 41)
    up = torch.tensor([0.0, 0.0, 1.0]).double()
    hits = trace(two, -0.5 * up, up, method=method, inside="ignore")
    assert hits.status == HIT
    assert hits.t.item() == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize("lipschitz", [1.0, 2.0, 100.0])
def test_a_surface_behind_a_gap_is_found(lipschitz):
    method = SphereTracing(lipschitz=lipschitz, max_steps=10_000)
    samples = (3.2, 2.2, NAN, 0.2, -0.8, -1.8)
    # It is looked at again a thousandth of a cell behind the gap; the crossing is exact.
    assert upward(samples, method=method) == (pytest.approx(4.2, abs=1e-12), HIT)
    assert upward((3.2, 2.2, NAN, NAN, 1.0, 1.0), method=method) == (math.inf, MISS)


def test_gaps_lose_no_hits(generator):
    """In grids with holes rays end as by the voxel method, but for those that barely touch."""
    grid = box_grid(shapes.Sphere(0.6), 24)
    values = grid.values.clone()
    values[torch.rand(values.shape, generator=generator) < 0.03] = NAN
    grid = Grid(values, grid.lower, grid.spacing)
    cameras = orbit(2, (32, 32))
    exact = trace(grid, cameras=cameras)
    found = trace(grid, cameras=cameras, method=SphereTracing(lipschitz=2.0))
    assert exact.hit.sum() > 200
    assert (exact.status != found.status).sum() <= 0.01 * exact.hit.sum()
