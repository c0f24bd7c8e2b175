# SPDX-License-Identifier: Apache-2.0
"""What cameras refuse, and that they name the function, the argument, the rule and what came."""

import math

import pytest
import torch

from diffiso.camera import Camera, fibonacci_rig, ring_rig

EYE, ZERO, ONE = torch.eye(3), torch.zeros(3), torch.ones(2)
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
ORBIT = {"focal": 9.0, "size": 8}


def made(**changes):
    parts = {"rotation": EYE, "translation": ZERO, "focal": ONE, "principal": ONE, "size": (4, 6)}
    return Camera(**{**parts, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(rotation=EYE[:2]), r"rotation must be \(N, 3, 3\) .* \(2, 3\)"),
        (lambda: made(rotation=EYE[None][:0]), r"N at least 1, got \(0, 3, 3\)"),
        (lambda: made(translation=ZERO.half()), "translation must be float32 or float64"),
        (lambda: made(translation=ZERO.double()), "translation must be torch.float32 on"),
        (
            lambda: made(rotation=EYE.repeat(3, 1, 1), translation=ZERO.repeat(2, 1)),
            "Camera: translation must be for 3 cameras or for one, got 2",
        ),
        (lambda: made(size=(4, 0)), r"size must be a positive int or .* got \(4, 0\)"),
        (lambda: made(size=(4.0, 6)), r"Camera: size must be .* got \(4.0, 6\)"),
        (lambda: made(size=True), "Camera: size must be .* got True"),
        (
            lambda: made(rotation=torch.stack([EYE, 2 * EYE])),
            "rotation must be a rotation .* got a matrix that is 3 from orthogonal in camera 1",
        ),
        (lambda: made(rotation=MIRROR), "got a reflection .determinant -1. in camera 0"),
        (lambda: made(rotation=EYE * math.nan), "rotation must be finite, got .nan"),
        (lambda: made(translation=ZERO / 0), "translation must be finite, got .nan"),
        (lambda: made(focal=0 * ONE), "focal must be positive .* got .0.0"),
        (lambda: made(focal=-ONE), "focal must be positive .* got .-1.0"),
        (lambda: made(focal=ONE / 0), "focal must be positive .* got .inf"),
        (lambda: made(principal=ONE / 0), "principal must be finite, got .inf, inf."),
        (lambda: Camera.cat([]), "cat: cameras must hold at least one, got none"),
        (lambda: Camera.cat([made(), made().resized(3)]), "cameras must be of one size, dtype"),
        (lambda: made().project(ZERO), r"project: points must be \(P, 3\) or .* got \(3,\)"),
        (
            lambda: made().project(torch.zeros(2, 5, 3)),
            r"points must be \(P, 3\) or \(N, P, 3\) for N = 1 cameras, got \(2, 5, 3\)",
        ),
        (
            lambda: made().project(torch.zeros(5, 3).double()),
            "points must be torch.float32 on cpu as the cameras, got torch.float64 on cpu",
        ),
        (
            lambda: made().unproject(torch.zeros(5, 2), torch.zeros(4)),
            "depth must be one per pixel",
        ),
        (
            lambda: made().unproject(torch.zeros(5, 2), torch.zeros(5, 1)),
            r"unproject: depth must be \(P,\) or \(N, P\) for N = 1 cameras, got \(5, 1\)",
        ),
        (lambda: made().rays(torch.zeros(5, 3)), r"rays: pixels must be \(P, 2\) or"),
        (lambda: made().resized((0, 2)), "Camera.resized: size must be"),
        (lambda: made().cropped(0, 0, -1), "Camera.cropped: size must be .* got -1"),
        (lambda: Camera.look_at(ZERO, **ORBIT), "target must not be at eye, got .0.0, 0.0, 0.0."),
        (
            lambda: Camera.look_at((100.0, 0, 1), (100.0, 0, 1 + 1e-5), **ORBIT),
            "target must not be at eye, got .100.0, 0.0, 1.0. for both in camera 0",
        ),
        (
            lambda: Camera.look_at([[1.0, 0, 0], [0, 5.0, 0]], **ORBIT),
            "up must not be zero or along the view, got .0.0, 1.0, 0.0. .* in camera 1",
        ),
        (lambda: Camera.look_at((1, 0, 0), up=(0, 0, 0), **ORBIT), "up must not be zero or along"),
        (
            lambda: Camera.look_at((1, 0, 0), up="x", **ORBIT),
            "look_at: up must be 'y' or 'z', got 'x'",
        ),
        (lambda: Camera.look_at((1, math.inf, 0), **ORBIT), "look_at: eye must be finite"),
        (lambda: Camera.look_at((1, 0), **ORBIT), r"eye must be \(3,\) or \(N, 3\), got \(2,\)"),
        (
            lambda: Camera.look_at(torch.ones(2, 3), torch.zeros(3, 3), **ORBIT),
            "look_at: eye must be for 3 cameras or for one, got 2",
        ),
        (
            lambda: Camera.look_at(torch.ones(3), torch.zeros(3).double(), **ORBIT),
            "look_at: target must be torch.float32 as eye, got torch.float64",
        ),
        (
            lambda: Camera.look_at(torch.ones(3), torch.zeros(3, device="meta"), **ORBIT),
            "look_at: target must be on cpu as eye, got meta",
        ),
        (lambda: Camera.look_at((1, 0, 0), size=8), "one of field_of_view and focal .* got none"),
        (
            lambda: Camera.look_at((1, 0, 0), field_of_view=50, **ORBIT),
            "one of field_of_view and focal must be given, got both",
        ),
        (
            lambda: Camera.look_at((1, 0, 0), field_of_view=180, size=8),
            "field_of_view must be above 0 and below 180 degrees, got 180.0 in camera 0",
        ),
        (lambda: Camera.look_at((1, 0, 0), focal=-1.0, size=8), "look_at: focal must be positive"),
        (
            lambda: Camera.look_at((1, 0, 0), focal=torch.ones(1, 3), size=8),
            r"focal must be a number, \(N,\) or \(N, 2\), got \(1, 3\)",
        ),
        (
            lambda: Camera.look_at((1, 0, 0), focal=1.0, principal=(1, 2, 3), size=8),
            r"look_at: principal must be \(2,\) or \(N, 2\), got \(3,\)",
        ),
        (lambda: Camera.orbit(0, 0, 0, **ORBIT), "orbit: distance must be positive .* got .0.0"),
        (
            lambda: Camera.orbit(0, math.nan, 1, **ORBIT),
            "orbit: elevation must be finite, got .nan",
        ),
        (lambda: Camera.orbit(0, 0, 1, up="x", **ORBIT), "orbit: up must be 'y' or 'z', got 'x'"),
        (
            lambda: Camera.orbit([1, 2], [1, 2, 3], 1, **ORBIT),
            "orbit: azimuth must be for 3 cameras or for one, got 2",
        ),
        (
            lambda: Camera.orbit(torch.zeros(1, 2), 0, 1, **ORBIT),
            r"azimuth must be a number or \(N,\), got \(1, 2\)",
        ),
        (
            lambda: Camera.orbit(0, 0, 1, field_of_view=0, size=8),
            "above 0 and below 180 degrees, got 0",
        ),
        (
            lambda: ring_rig(0, 0, 1, size=8, field_of_view=50),
            "ring_rig: count must be a positive int",
        ),
        (lambda: fibonacci_rig(0, 1, size=8, field_of_view=50), "fibonacci_rig: count must be a"),
    ],
)
def test_errors_of_cameras_and_poses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="Camera: rotation must be a tensor, got list"):
        made(rotation=EYE.tolist())
    with pytest.raises(TypeError, match=r"Camera\.project: points must be a tensor, got list"):
        made().project([[0.0, 0.0, 1.0]])


# Conventions.

EYE4 = torch.eye(4)
LENS = Camera.orbit(0, 0, 1, focal=9.0, size=8).to_opengl(1, 2).projection[0]


def changed(matrix, row, column, value):
    matrix = matrix.clone()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Camera.from_opencv(torch.eye(3)[:2], torch.eye(3), torch.zeros(3), 8),
            r"Camera.from_opencv: intrinsics must be \(N, 3, 3\) .* got \(2, 3\)",
        ),
        (
            lambda: Camera.from_opencv(torch.zeros(3, 3), torch.eye(3), torch.zeros(3), 8),
            "focal lengths of intrinsics must be positive and finite, got .0.0, 0.0. in camera 0",
        ),
        (
            lambda: Camera.from_opencv(
                changed(torch.eye(3), 0, 1, 0.1), torch.eye(3), torch.zeros(3), 8
            ),
            "skew of intrinsics must be",
        ),
        (
            lambda: Camera.from_opencv(2 * torch.eye(3), torch.eye(3), torch.zeros(3), 8),
            "last row of intrinsics must be .0.0, 0.0, 1.0., got .0.0, 0.0, 2.0. in camera 0",
        ),
        (
            lambda: Camera.from_opencv(
                torch.eye(3), torch.diag(torch.tensor([1.0, 1, -1])), torch.zeros(3), 8
            ),
            "from_opencv: rotation must be a rotation .* got a reflection .* in camera 0",
        ),
        (
            lambda: Camera.from_opencv(
                torch.eye(3).repeat(2, 1, 1), torch.eye(3).repeat(3, 1, 1), torch.zeros(3), 8
            ),
            "from_opencv: intrinsics must be for 3 cameras or for one, got 2",
        ),
        (
            lambda: Camera.from_opencv(torch.eye(3), torch.eye(3).double(), torch.zeros(3), 8),
            "rotation must be torch.float32 on cpu as intrinsics, got torch.float64 on cpu",
        ),
        (
            lambda: Camera.from_opengl(2 * EYE4, LENS, 8),
            "last row of view must be",
        ),
        (
            lambda: Camera.from_opengl(torch.diag(torch.tensor([2.0, 2, 2, 1])), LENS, 8),
            "from_opengl: view must be a rotation .* got a matrix that is 3 from orthogonal",
        ),
        (
            lambda: Camera.from_opengl(EYE4, EYE4, 8),
            "last row of projection must be .0.0, 0.0, -1.0, 0.0., got .0.0, 0.0, 0.0, 1.0.",
        ),
        (
            lambda: Camera.from_opengl(EYE4, changed(LENS, 1, 1, -2.0), 8),
            "x and y scale of projection with first_row='bottom' must be positive",
        ),
        (
            lambda: Camera.from_opengl(EYE4, LENS, 8, first_row="top"),
            "x and y scale of projection with first_row='top' must be positive",
        ),
        (
            lambda: Camera.from_opengl(EYE4, changed(LENS, 0, 1, 0.5), 8),
            "skew and shift of projection must be",
        ),
        (
            lambda: Camera.from_opengl(changed(EYE4, 0, 3, math.nan), LENS, 8),
            "from_opengl: view must be finite",
        ),
        (
            lambda: Camera.from_opencv(torch.eye(3), torch.eye(3), torch.zeros(3), (8,)),
            r"from_opencv: size must be a positive int or \(height, width\), got \(8,\)",
        ),
        (
            lambda: Camera.from_opengl(EYE4, LENS, 8, first_row="left"),
            "from_opengl: first_row must be 'bottom' or 'top', got 'left'",
        ),
        (
            lambda: Camera.orbit(0, 0, 1, focal=9.0, size=8).to_opengl(2, 1),
            "to_opengl: near and far must be 0 < near < far, got 2 and 1",
        ),
        (
            lambda: Camera.from_pytorch3d(
                torch.eye(3), torch.zeros(3), torch.tensor([[-1.0, 1.0]]), torch.zeros(2), 8
            ),
            "from_pytorch3d: focal_length must be positive and finite, got .-1.0, 1.0. in camera 0",
        ),
        (
            lambda: Camera.from_pytorch3d(
                torch.eye(3), torch.zeros(3), torch.ones(1, 3), torch.zeros(2), 8
            ),
            r"from_pytorch3d: focal_length must be \(N, 2\) .* got \(1, 3\)",
        ),
        (
            lambda: Camera.from_pytorch3d(
                -torch.eye(3), torch.zeros(3), torch.ones(1), torch.zeros(2), 8
            ),
            "from_pytorch3d: R must be a rotation .* reflection",
        ),
    ],
)
def test_errors_of_conventions(call, message):
    with pytest.raises(ValueError, match=message):
        call()
