# SPDX-License-Identifier: Apache-2.0
"""Silhouettes of fields by sphere tracing: what a ball must look like, and where gradients lead."""

import math

import pytest
import torch

import diffiso
from diffiso import Camera, shapes
from diffiso.pipelines.mesh_sdf import SilhouetteTarget, ray_silhouette
from diffiso.pipelines.mesh_sdf.rays import closest_points

TOLERANCE = 5e-3  # how much thicker than its solid a silhouette may be, by DIST's rule


def disc(cameras, radius):
    """The pixels whose ray passes the origin at most so far."""
    rays = cameras.rays()
    middle = -(rays.origins * rays.directions).sum(dim=-1, keepdim=True)
    return ((rays.origins + middle * rays.directions).norm(dim=-1) < radius).float()


@pytest.mark.parametrize("size", [64, (37, 50), (3, 90), 1])
def test_a_ball_is_a_disc(size):
    cameras = Camera.orbit([45.0, 190.0], [30.0, -50.0], 2.5, field_of_view=60.0, size=size)
    ball = shapes.Sphere(0.5)
    found = ray_silhouette(ball, cameras, disc(cameras, 0.5))
    assert found.coverage.shape == (2, *cameras.size)
    assert bool((found.coverage >= disc(cameras, 0.5)).all())
    assert bool((found.coverage <= disc(cameras, 0.5 + TOLERANCE)).all())


def test_sees_what_the_mesh_shows():
    solid = shapes.Torus(0.5, 0.2) | shapes.Sphere(0.2).moved((0.1, 0.2, 0.5))
    cameras = Camera.orbit([45.0, 10.0], [30.0, 20.0], 2.5, field_of_view=60.0, size=128)
    mesh = diffiso.isosurface(solid, -1.0, 1.0, 64)
    target = diffiso.silhouette(mesh, cameras)
    found = ray_silhouette(solid, cameras, target)
    outline = (target > 0) & (target < 1)
    wide = torch.nn.functional.max_pool2d(outline.float(), 3, 1, 1) > 0  # tolerance: half a pixel
    assert bool((found.coverage == target)[~wide].all())
    assert int(outline.sum()) > 300


SOLIDS = {
    "small ball": shapes.Sphere(0.1),
    "thin ring": shapes.Torus(0.7, 0.08),
    "ring with a hole": shapes.Torus(0.5, 0.2),
    "chair": shapes.chairs(1, torch.Generator().manual_seed(0))[0],
}


@pytest.mark.parametrize("name", SOLIDS)
def test_steps_over_nothing(name):
    """Long steps are taken back: a ray that meets a solid, however thin, arrives."""
    cameras = Camera.orbit(
        [45.0, 10.0, 120.0, 0.0], [30.0, 20.0, -40.0, 90.0], 2.5, field_of_view=60.0, size=96
    )
    mesh = diffiso.isosurface(SOLIDS[name], -1.0, 1.0, 64)
    seen = diffiso.silhouette(mesh, cameras)
    found = ray_silhouette(SOLIDS[name], cameras, seen).coverage
    assert int((seen == 1).sum()) > 50
    assert bool((found[seen == 1] == 1).all())


def test_closest_points_are_the_closest():
    """Of rays that pass closely, to a part of the distance: so long are their steps there."""
    ball = shapes.Sphere(0.1).moved((0.0, 0.0, 0.8))
    cameras = Camera.orbit([0.0, 90.0], [0.0, 10.0], 2.5, field_of_view=50.0, size=256)
    found = closest_points(ball, cameras)
    rays = cameras.rays()
    origins, directions = (part.reshape(-1, 3)[found.pixels] for part in rays)
    along = (torch.tensor([0.0, 0.0, 0.8]) - origins).mul(directions).sum(dim=1)
    middle = -(origins * directions).sum(dim=1)
    reach = (1 - (origins + middle[:, None] * directions).square().sum(dim=1)).clamp(min=0).sqrt()
    best = along.clamp(middle - reach, middle + reach)
    exact = ball(origins + best[:, None] * directions)
    passing = (exact > TOLERANCE) & (exact < 0.05)
    excess = (ball(found.points) - exact)[passing]
    assert len(excess) > 200
    assert float(excess.min()) > -1e-5
    assert bool((excess < 0.2 * exact[passing]).all())


def test_queries_are_those_of_the_field():
    asked = 0

    def ball(points):
        nonlocal asked
        asked += len(points)
        return points.norm(dim=1) - 0.5

    cameras = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=128)
    found = ray_silhouette(ball, cameras, disc(cameras, 0.5))
    assert found.queries == asked
    passing = int((disc(cameras, 1.0) > 0).sum())
    assert passing < found.queries < 8 * passing  # each ray alone would take some ten steps


def test_gradient_of_a_radius():
    """The loss is a mean over pixels of what lies between the tangents' distances."""
    cameras = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=96)
    target = disc(cameras, 0.6)

    def loss_of(radius):
        return ray_silhouette(lambda p: p.norm(dim=1) - radius, cameras, target).loss

    radius = torch.tensor(0.45, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(radius), radius)
    # Each pixel of the ring that is not reached pulls with weight one.
    ring = target - disc(cameras, 0.45 + TOLERANCE)
    assert float(slope) == pytest.approx(-float(ring.mean()), rel=1e-5)
    radius = torch.tensor(0.7, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(radius), radius)
    assert float(slope) == pytest.approx(float((disc(cameras, 0.705) - target).mean()), rel=1e-5)


def test_nothing_is_lost_where_the_target_is_met():
    cameras = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=64)
    ball = shapes.Sphere(0.5)
    own = ray_silhouette(ball, cameras, disc(cameras, 0.5)).coverage
    assert float(ray_silhouette(ball, cameras, own).loss) == 0.0


def test_a_camera_that_sees_nothing():
    weight = torch.tensor(0.5, requires_grad=True)
    away = Camera.look_at((0, 0, 3), (0, 0, 6), field_of_view=40.0, size=16)
    found = ray_silhouette(lambda p: p.norm(dim=1) - weight, away, torch.zeros(1, 16, 16))
    assert float(found.loss.detach()) == 0.0
    assert not bool(found.coverage.any())
    (slope,) = torch.autograd.grad(found.loss, weight)
    assert float(slope) == 0.0
    within = Camera.look_at((0.1, 0, 0), (1, 0, 0), field_of_view=40.0, size=16)
    found = ray_silhouette(shapes.Sphere(0.5), within, torch.zeros(1, 16, 16))
    assert bool((found.coverage == 1).all())
    assert math.isfinite(float(found.loss))


@pytest.mark.parametrize(
    ("coverage", "message"),
    [
        (torch.zeros(1, 16, 15), r"coverage must be \(1, 16, 16\), got \(1, 16, 15\)"),
        (torch.zeros(16, 16), r"coverage must be \(1, 16, 16\), got \(16, 16\)"),
        (torch.full((1, 16, 16), 255.0), "coverage must be from 0 to 1, got 255 to 255"),
        (torch.full((1, 16, 16), torch.nan), "coverage must be from 0 to 1, got nan to nan"),
    ],
)
def test_coverage_must_fit_the_cameras(coverage, message):
    camera = Camera.orbit(45.0, 30.0, 2.5, field_of_view=60.0, size=16)
    with pytest.raises(ValueError, match=f"ray_silhouette: {message}"):
        ray_silhouette(shapes.Sphere(0.5), camera, coverage)
    with pytest.raises(ValueError, match=f"SilhouetteTarget: {message}"):
        SilhouetteTarget(camera, coverage)
