# SPDX-License-Identifier: Apache-2.0
"""Random cameras, and points that they see, made without the library's own arithmetic."""

from typing import NamedTuple

import numpy as np
import torch

from diffiso.camera import Camera

# Square, wide, tall, and so narrow that one side hardly has pixels.
SIZES = ((256, 256), (480, 640), (641, 479), (33, 1000), (7, 1))

# Pixels are compared in units of the picture's longer side, depths in world units, both of the
# order of one. A dozen products round 2^-53 each, and points stand up to ten units away.
CLOSE = 1e-9


class Numbers(NamedTuple):
    """What defines N cameras in float64: `x_camera = rotation @ x + translation`."""

    rotation: np.ndarray
    translation: np.ndarray
    focal: np.ndarray
    principal: np.ndarray
    size: tuple[int, int]

    def camera(self, dtype=torch.float64):
        parts = (torch.from_numpy(part).to(dtype) for part in self[:4])
        return Camera(*parts, self.size)


def random_numbers(count, size, *, square_pixels=False, centered=False, seed=0):
    """Cameras turned at random, with unequal focal lengths and principal points off the middle."""
    random = np.random.default_rng([seed, *size])
    rotation = np.stack([random_rotation(random) for _ in range(count)])
    focal = random.uniform(0.5, 3.0, (count, 2)) * max(size)
    principal = random.uniform(0.0, 1.0, (count, 2)) * [size[1], size[0]]
    if square_pixels:
        focal[:, 1] = focal[:, 0]
    if centered:
        principal[:] = [size[1] / 2, size[0] / 2]
    return Numbers(rotation, random.normal(size=(count, 3)) * 3, focal, principal, size)


def random_rotation(random):
    """Uniform: the orthogonal factor of a normal matrix, with the signs that make it unique."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, 2]]


def points_in_front(numbers, count=8, seed=1):
    """World points (N, count, 3) of depth 0.5 to 10, inside pictures and beyond their borders."""
    random = np.random.default_rng(seed)
    depth = random.uniform(0.5, 10.0, (len(numbers.focal), count, 1))
    slopes = random.uniform(-1.0, 1.0, (len(numbers.focal), count, 2))
    local = np.concatenate([slopes * depth, depth], axis=2)
    return (local - numbers.translation[:, None]) @ numbers.rotation


def assert_same_picture(camera, points, pixels, depth):
    """Compare with pixels from the upper left corner, and depths, that a test worked out."""
    seen = camera.project(torch.from_numpy(np.ascontiguousarray(points)))
    side = max(camera.size)
    assert np.abs(seen.pixels.numpy() - pixels).max() / side < CLOSE
    assert np.abs(seen.depth.numpy() - depth).max() < CLOSE


def assert_same_cameras(actual, expected):
    """Compare all numbers, lengths in pixels in units of the picture's longer side."""
    assert actual.size == expected.size
    side = max(expected.size)
    for name, unit in (("rotation", 1), ("translation", 1), ("focal", side), ("principal", side)):
        apart = (getattr(actual, name) - getattr(expected, name)).abs().max() / unit
        assert apart < CLOSE, f"{name} is {apart} apart"
