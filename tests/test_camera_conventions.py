# SPDX-License-Identifier: Apache-2.0
"""Cameras against the formulae that OpenCV, OpenGL, PyTorch3D and NeRF document, written anew."""

import math

import numpy as np
import pytest
import torch
from cameras import (
    CLOSE,
    SIZES,
    assert_same_cameras,
    assert_same_picture,
    points_in_front,
    random_numbers,
)

from diffiso.camera import Camera

# Five sizes: 1250 cameras in every test that runs over them, eight points each.
COUNT = 250
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def numpy(*tensors):
    return [tensor.numpy() for tensor in tensors]


# OpenCV, https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html: s p = K [R | t] P.


def opencv_pixels(K, R, t, points):
    pixels, depths = [], []
    for k, r, offset, cloud in zip(K, R, t, points, strict=True):
        homogeneous = (
            k @ np.hstack([r, offset[:, None]]) @ np.vstack([cloud.T, np.ones(len(cloud))])
        )
        pixels.append((homogeneous[:2] / homogeneous[2]).T)
        depths.append(homogeneous[2])
    return np.stack(pixels), np.stack(depths)


@each_size
def test_opencv(size):
    numbers = random_numbers(COUNT, size)
    camera, points = numbers.camera(), points_in_front(numbers)
    K, R, t = camera.to_opencv()
    assert_same_picture(camera, points, *opencv_pixels(*numpy(K, R, t), points))
    assert_same_cameras(Camera.from_opencv(K, R, t, size), camera)


def test_opencv_counts_from_pixel_centers():
    """The centre of the first pixel is 0 for cv2 and 0.5 here."""
    numbers = random_numbers(20, (480, 640))
    camera, points = numbers.camera(), points_in_front(numbers)
    K, R, t = camera.to_opencv(pixel_center=0.0)
    pixels, depth = opencv_pixels(*numpy(K, R, t), points)
    assert_same_picture(camera, points, pixels + 0.5, depth)
    again = Camera.from_opencv(K, R, t[:, :, None], (480, 640), pixel_center=0.0)
    assert_same_cameras(again, camera)


# OpenGL 2.1 reference pages: glFrustum, gluPerspective, gluLookAt, glViewport, glDepthRange.


def gl_frustum(left, right, bottom, top, near, far):
    matrix = np.zeros((4, 4))
    matrix[0, 0] = 2 * near / (right - left)
    matrix[1, 1] = 2 * near / (top - bottom)
    matrix[0, 2] = (right + left) / (right - left)
    matrix[1, 2] = (top + bottom) / (top - bottom)
    matrix[2, 2] = -(far + near) / (far - near)
    matrix[2, 3] = -2 * far * near / (far - near)
    matrix[3, 2] = -1
    return matrix


def glu_perspective(fovy, aspect, near, far):
    f = 1 / math.tan(math.radians(fovy) / 2)
    matrix = np.diag([f / aspect, f, (far + near) / (near - far), 0.0])
    matrix[2, 3], matrix[3, 2] = 2 * far * near / (near - far), -1
    return matrix


def glu_look_at(eye, center, up):
    forward = (center - eye) / np.linalg.norm(center - eye)
    side = np.cross(forward, up / np.linalg.norm(up))
    side = side / np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[:3, :3] = [side, np.cross(side, forward), -forward]
    translation = np.eye(4)
    translation[:3, 3] = -eye
    return matrix @ translation


def opengl_window(view, projection, points, size):
    """Window coordinates (N, P, 3), from the lower left corner, with z in [0, 1]."""
    height, width = size
    homogeneous = np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)
    clip = homogeneous @ np.swapaxes(view, 1, 2) @ np.swapaxes(projection, 1, 2)
    device = clip[..., :3] / clip[..., 3:]
    x = (device[..., 0] + 1) * width / 2
    y = (device[..., 1] + 1) * height / 2
    return np.stack([x, y, (device[..., 2] + 1) / 2], axis=2), clip[..., 3]


def window_depth(z, near, far):
    """The distance of a fragment whose depth buffer value is z."""
    return far * near / (far - z * (far - near))


@each_size
@pytest.mark.parametrize("first_row", ["bottom", "top"])
def test_opengl(size, first_row):
    near, far = 0.3, 20.0
    numbers = random_numbers(COUNT, size)
    camera, points = numbers.camera(), points_in_front(numbers)
    view, projection = camera.to_opengl(near, far, first_row=first_row)
    window, w = opengl_window(*numpy(view, projection), points, size)
    # Memory begins with the window's lowest row.
    y = window[..., 1] if first_row == "top" else size[0] - window[..., 1]
    assert_same_picture(camera, points, np.stack([window[..., 0], y], axis=2), w)
    assert np.abs(window_depth(window[..., 2], near, far) - w).max() < CLOSE
    assert_same_cameras(Camera.from_opengl(view, projection, size, first_row=first_row), camera)


@each_size
def test_opengl_projections_are_glfrustum(size):
    """Off-centre frusta, given by where the picture's borders cut the near plane."""
    random = np.random.default_rng(3)
    numbers = random_numbers(COUNT, size)
    points = points_in_front(numbers)
    view = np.tile(np.eye(4), (COUNT, 1, 1))
    view[:, :3, :3] = numbers.rotation * [[1], [-1], [-1]]
    view[:, :3, 3] = numbers.translation * [1, -1, -1]
    left, bottom = -random.uniform(0.1, 1, (2, COUNT))
    right, top = random.uniform(0.1, 1, (2, COUNT))
    near, far = random.uniform(0.1, 0.4, COUNT), random.uniform(20, 50, COUNT)
    projection = np.stack(
        [gl_frustum(*row) for row in zip(left, right, bottom, top, near, far, strict=True)]
    )
    camera = Camera.from_opengl(torch.from_numpy(view), torch.from_numpy(projection), size)
    window, w = opengl_window(view, projection, points, size)
    pixels = np.stack([window[..., 0], size[0] - window[..., 1]], axis=2)
    assert_same_picture(camera, points, pixels, w)
    for i in (0, 1):
        written = camera.to_opengl(near[i], far[i])
        assert np.abs(written.projection[i].numpy() - projection[i]).max() < CLOSE
        assert np.abs(written.view[i].numpy() - view[i]).max() < CLOSE


def test_look_at_is_glulookat_and_gluperspective():
    random = np.random.default_rng(4)
    eyes, targets, ups = random.normal(size=(3, 100, 3))
    angle, (height, width) = 50.0, (30, 70)
    camera = Camera.look_at(
        *(torch.from_numpy(v) for v in (eyes, targets, ups)),
        field_of_view=angle,
        size=(height, width),
    )
    view, projection = camera.to_opengl(0.1, 10.0)
    expected = [glu_look_at(*row) for row in zip(eyes, targets, ups, strict=True)]
    assert np.abs(view.numpy() - expected).max() < CLOSE
    perspective = glu_perspective(angle, width / height, 0.1, 10.0)
    assert np.abs(projection.numpy() - perspective).max() < CLOSE


def test_an_infinite_far_plane_is_the_limit():
    camera = Camera.orbit(10.0, 20.0, 3.0, focal=50.0, size=(30, 40), dtype=torch.float64)
    limit = camera.to_opengl(0.1, math.inf).projection
    far = camera.to_opengl(0.1, 1e12).projection
    assert (limit - far).abs().max() < 1e-12
    assert Camera.from_opengl(camera.to_opengl(0.1, 5.0).view, limit, (30, 40)).focal[0, 0] == 50


# PyTorch3D, docs/notes/cameras.md: world to view by rows, view to NDC, NDC to screen.


def pytorch3d_pixels(R, T, focal_length, principal_point, size, in_ndc, points):
    height, width = size
    s = min(height, width)
    if not in_ndc:
        focal_length = focal_length * 2 / s
        middle = np.array([width / 2, height / 2])
        principal_point = -(principal_point - middle) * 2 / s
    view = np.stack([cloud @ r + t for cloud, r, t in zip(points, R, T, strict=True)])
    ndc = focal_length[:, None] * view[..., :2] / view[..., 2:] + principal_point[:, None]
    # (1, 1) is the upper left of a square; the shorter side spans [-1, 1].
    screen = np.stack([width / 2 - ndc[..., 0] * s / 2, height / 2 - ndc[..., 1] * s / 2], axis=2)
    return screen, view[..., 2]


@each_size
@pytest.mark.parametrize("in_ndc", [True, False])
def test_pytorch3d(size, in_ndc):
    numbers = random_numbers(COUNT, size)
    camera, points = numbers.camera(), points_in_front(numbers)
    given = camera.to_pytorch3d(in_ndc=in_ndc)
    R, T, focal_length, principal_point = given[:4]
    pixels = pytorch3d_pixels(*numpy(*given[:4]), size, in_ndc, points)
    assert_same_picture(camera, points, *pixels)
    assert given.image_size.tolist() == [list(size)] * COUNT
    assert given.in_ndc == in_ndc
    again = Camera.from_pytorch3d(R, T, focal_length, principal_point, size, in_ndc=in_ndc)
    assert_same_cameras(again, camera)


def test_pytorch3d_documents_one_camera_twice():
    """The pair in its notes: NDC 1.2 and (0.2, 0.5) is screen 76.8 and (115.2, 32)."""
    R, T = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    in_ndc = Camera.from_pytorch3d(
        R, T, T.new_tensor([1.2]), T.new_tensor([[0.2, 0.5]]), (128, 256), in_ndc=True
    )
    screen = Camera.from_pytorch3d(
        R, T, T.new_tensor([76.8]), T.new_tensor([[115.2, 32.0]]), (128, 256), in_ndc=False
    )
    assert_same_cameras(in_ndc, screen)


def test_pytorch3d_looks_the_same_way():
    """Its identity camera has +x left and +y up: a point there is in the upper left."""
    zero = torch.zeros(1, 3)
    camera = Camera.from_pytorch3d(
        torch.eye(3), zero, torch.ones(1, 2), torch.zeros(1, 2), (100, 200)
    )
    x, y = camera.project(torch.tensor([[0.5, 0.25, 1.0]])).pixels[0, 0].tolist()
    assert (x, y) == (75.0, 37.5)


# NeRF: rays of the first published code with pixel centres at half numbers, as its successors have.


def nerf_rays(pose, fl_x, fl_y, cx, cy, size):
    pose = np.asarray(pose)
    i, j = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5, indexing="xy")
    local = np.stack([(i - cx) / fl_x, -(j - cy) / fl_y, -np.ones_like(i)], axis=2)
    return pose[:3, 3], local @ pose[:3, :3].T


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (9, 9)])
def test_nerf(size):
    numbers = random_numbers(COUNT, size)
    camera = numbers.camera()
    content = camera.to_nerf()
    rays = camera.rays(unit=False)
    for i, frame in enumerate(content["frames"]):
        lens = [frame[key] for key in ("fl_x", "fl_y", "cx", "cy")]
        origin, directions = nerf_rays(frame["transform_matrix"], *lens, size)
        assert np.abs(rays.origins[i].numpy() - origin).max() < CLOSE
        assert np.abs(rays.directions[i].numpy() - directions).max() < CLOSE
    assert_same_cameras(Camera.from_nerf(content, dtype=torch.float64), camera)


def test_nerf_from_an_angle_only():
    """Blender's kind of file: camera_angle_x across the width, and no picture size."""
    numbers = random_numbers(20, (60, 80), square_pixels=True, centered=True)
    frames = numbers.camera().to_nerf()["frames"]
    poses = [{"transform_matrix": frame["transform_matrix"]} for frame in frames]
    content = {"camera_angle_x": 0.6911112, "frames": poses}
    camera = Camera.from_nerf(content, (60, 80), dtype=torch.float64)
    focal = 0.5 * 80 / math.tan(0.5 * 0.6911112)
    rays = camera.rays(unit=False)
    for i, frame in enumerate(poses):
        _, directions = nerf_rays(frame["transform_matrix"], focal, focal, 40, 30, (60, 80))
        assert np.abs(rays.directions[i].numpy() - directions).max() < CLOSE


# All of them.


def test_points_beside_the_axis_keep_their_side():
    """From (0, 0, 5) to the origin: +x is right, +y is up, and nearer points are less deep."""
    camera = Camera.look_at((0.0, 0.0, 5.0), focal=100.0, size=(60, 80), dtype=torch.float64)
    points = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    pixels, depth = camera.project(points)
    assert pixels[0].tolist() == [[60, 30], [40, 10], [40, 30]]
    assert depth[0].tolist() == [5, 5, 4]
    gl = camera.to_opengl(0.1, 10)
    assert (gl.view[0, :3, :3] - torch.eye(3)).abs().max() < CLOSE
    assert (camera.to_pytorch3d().R[0] - torch.diag(torch.tensor([-1, 1, -1]))).abs().max() < CLOSE
    pose = torch.tensor(camera.to_nerf()["frames"][0]["transform_matrix"])
    assert (pose[:3, :3] - torch.eye(3)).abs().max() < CLOSE


def test_a_chain_through_all_conventions_comes_back():
    size = (481, 640)
    camera = start = random_numbers(COUNT, size).camera()
    for _ in range(3):
        camera = Camera.from_opencv(*camera.to_opencv(), size)
        camera = Camera.from_opengl(*camera.to_opengl(0.1, 100.0), size)
        camera = Camera.from_pytorch3d(*camera.to_pytorch3d()[:4], size)
        camera = Camera.from_nerf(camera.to_nerf(), dtype=torch.float64)
    assert_same_cameras(camera, start)


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (Camera.from_opencv, lambda camera: camera.to_opencv()),
        (Camera.from_opengl, lambda camera: camera.to_opengl(0.1, 10.0)),
        (Camera.from_pytorch3d, lambda camera: camera.to_pytorch3d()[:4]),
    ],
    ids=["opencv", "opengl", "pytorch3d"],
)
def test_gradients_pass_through_conversions(make, given):
    """There and back: the pixels' gradient in a camera's numbers is the one without the detour."""
    size = (30, 40)
    numbers = random_numbers(2, size)
    points = torch.from_numpy(np.ascontiguousarray(points_in_front(numbers, 3)))
    leaves = [torch.from_numpy(part).requires_grad_() for part in numbers[:4]]
    camera = Camera(*leaves, size)
    detour = make(*given(camera), size)
    expected = torch.autograd.grad(camera.project(points).pixels.sum(), leaves)
    actual = torch.autograd.grad(detour.project(points).pixels.sum(), leaves)
    for one, other in zip(actual, expected, strict=True):
        assert ((one - other).abs() < CLOSE * (1 + other.abs())).all()
