# SPDX-License-Identifier: Apache-2.0
"""Where look_at, orbit and the rigs put cameras."""

import math

import numpy as np
import pytest
import torch
from cameras import CLOSE

from diffiso.camera import Camera, fibonacci_rig, ring_rig, sdfdiff_rig
from diffiso.view.cameras import View, camera_rays

# Poses.


# Pictures are drawn in single precision, with a few roundings of numbers below 8.
SINGLE = 2.0**-20


@pytest.mark.parametrize("up", ["y", "z"])
@pytest.mark.parametrize("size", [(6, 8), (8, 6), (5, 5)])
def test_orbit_is_the_view_of_pictures(up, size):
    random = np.random.default_rng(2)
    for azimuth, elevation in ((30, 20), (-200, -75), (0, 90), (15, -90)):
        target, distance = tuple(random.normal(size=3)), random.uniform(1, 5)
        angle = random.uniform(10, 120)
        old = View(azimuth, elevation, target, distance, angle, up)
        origins, directions = camera_rays(old, old.frame(), *size)
        camera = Camera.orbit(
            azimuth,
            elevation,
            distance,
            target=target,
            up=up,
            field_of_view=angle,
            size=size,
            dtype=torch.float64,
        )
        rays = camera.rays()
        assert np.abs(rays.origins.view(-1, 3).numpy() - origins).max() < SINGLE
        assert np.abs(rays.directions.view(-1, 3).numpy() - directions).max() < SINGLE


def test_look_at_and_orbit_agree():
    for up in ("y", "z"):
        orbit = Camera.orbit(
            [20.0, 250.0], [-60.0, 80.0], 3.0, target=(1, 2, 3), up=up, focal=9.0, size=8,
            dtype=torch.float64,
        )  # fmt: skip
        look = Camera.look_at(orbit.centers, (1, 2, 3), up, focal=9.0, size=8)
        assert (look.rotation - orbit.rotation).abs().max() < CLOSE
        assert (look.translation - orbit.translation).abs().max() < CLOSE


def test_the_target_is_in_the_middle_or_where_asked():
    target = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    eye = torch.tensor([[2, 3, 1], [4, 1, 1]])
    for principal in (None, (3.0, 25.0)):
        camera = Camera.look_at(eye, target, "z", focal=50.0, principal=principal, size=(30, 40))
        expected = target.new_tensor(principal or (20.0, 15.0)).expand(2, 2)
        assert (camera.project(target[None]).pixels[:, 0] - expected).abs().max() < CLOSE
        assert (camera.centers - eye).abs().max() < CLOSE
        above = camera.project((target + target.new_tensor([0, 0, 0.1]))[None]).pixels[:, 0]
        assert (above[:, 0] - expected[:, 0]).abs().max() < CLOSE
        assert (above[:, 1] < expected[:, 1]).all()


@pytest.mark.parametrize("size", [(30, 40), (40, 30)])
def test_the_field_of_view_is_that_of_the_short_side(size):
    camera = Camera.look_at((0, 0, 3), field_of_view=60.0, size=size, dtype=torch.float64)
    middle = camera.principal.new_tensor([[size[1] / 2, size[0] / 2]])
    border = middle - middle.new_tensor([15.0, 0] if size[1] == 30 else [0, 15.0])
    a, b = camera.rays(torch.cat([middle, border])).directions[0]
    assert math.degrees(math.acos(float(a @ b))) == pytest.approx(30, abs=1e-9)


# Rigs.


def sdfdiff_ray(eye, x, y, size):
    """The published program's ray: a frame (u, v, w) with w towards the eye, tan 30 at the top."""
    w = eye / np.linalg.norm(eye)
    u = np.cross([0.0, 1.0, 0.0], w)
    u /= np.linalg.norm(u)
    v = np.cross(w, u)
    top = math.tan(math.pi / 6)
    right = top * size[1] / size[0]
    direction = (2 * (x + 0.5) / size[1] - 1) * right * u
    direction = direction + (1 - 2 * (y + 0.5) / size[0]) * top * v - w
    return direction / np.linalg.norm(direction)


def test_sdfdiff_rig_is_the_published_one():
    size = (12, 16)
    rig = sdfdiff_rig(size, dtype=torch.float64)
    rays, centers = rig.rays(), rig.centers.numpy()
    for camera, eye in enumerate(centers):
        for y, x in ((0, 0), (3, 11), (11, 15)):
            expected = sdfdiff_ray(eye, x, y, size)
            assert np.abs(rays.directions[camera, y, x].numpy() - expected).max() < CLOSE
    steps = np.array([p for p in np.ndindex(3, 3, 3) if p != (1, 1, 1)]) - 1.0
    wanted = 5 * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    wanted[np.abs(wanted[:, 1]) == 5, 0] = 0.1
    apart = np.linalg.norm(centers[:, None] - wanted, axis=2)
    assert (apart.min(axis=0) < CLOSE).all()
    assert (apart.min(axis=1) < CLOSE).all()
    assert len(rig) == 26


def test_sdfdiff_rig_sees_its_box():
    rig = sdfdiff_rig()
    assert rig.size == (256, 256)
    assert rig.focal.dtype == torch.float32
    ball = torch.nn.functional.normalize(torch.randn(1000, 3), dim=1) * 2
    seen = rig.project(ball).pixels
    assert ((seen > 0) & (seen < 256)).all()


@pytest.mark.parametrize("up", ["y", "z"])
def test_rings_are_even(up):
    ring = ring_rig(24, 36.869898, 5.0, size=64, field_of_view=60.0, up=up, dtype=torch.float64)
    height = ring.centers[:, 1 if up == "y" else 2]
    assert (height - 3).abs().max() < 1e-6
    assert (ring.centers.norm(dim=1) - 5).abs().max() < CLOSE
    steps = (ring.centers.roll(-1, 0) - ring.centers).norm(dim=1)
    assert (steps - 8 * math.sin(math.pi / 24)).abs().max() < 1e-6


@pytest.mark.parametrize("count", [1, 2, 7, 50, 1000])
def test_fibonacci_rigs_are_even(count):
    rig = fibonacci_rig(count, 2.0, size=16, field_of_view=40.0, dtype=torch.float64)
    assert len(rig) == count
    directions = rig.centers / 2
    assert (directions.norm(dim=1) - 1).abs().max() < CLOSE
    assert torch.equal(directions[:, 1].sort(descending=True).values, directions[:, 1])
    if count >= 50:
        angles = (directions @ directions.T).fill_diagonal_(-1).amax(dim=1).clamp(max=1).acos()
        # Discs of the densest packing would be 3.81 / sqrt(count) apart; no two are twice as near.
        assert angles.min() * math.sqrt(count) > 3.81 / 2
        assert angles.max() * math.sqrt(count) < 3.81


# Gradients.


def numbers_of(camera):
    return camera.rotation, camera.translation, camera.focal


def test_gradients_of_look_at_and_orbit():
    eye, target, up = torch.randn(3, 2, 3, dtype=torch.float64).requires_grad_().unbind()
    angle = torch.tensor([40.0, 70.0], dtype=torch.float64, requires_grad=True)
    check = torch.autograd.gradcheck

    def look(eye, target, up, angle):
        return numbers_of(Camera.look_at(eye, target, up, field_of_view=angle, size=(6, 8)))

    def orbit(azimuth, elevation, distance, target, angle):
        camera = Camera.orbit(
            azimuth, elevation, distance, target=target, up="z", field_of_view=angle, size=(6, 8)
        )
        return numbers_of(camera)

    assert check(look, (eye, target, up, angle))
    azimuth, elevation, distance = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for v in ([30.0, 200.0], [90.0, -20.0], [3.0, 4.0])
    )
    assert check(orbit, (azimuth, elevation, distance, target, angle))
