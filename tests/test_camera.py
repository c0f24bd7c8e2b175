# SPDX-License-Identifier: Apache-2.0
"""What cameras do with points and pixels; see the other files for where they stand and errors."""

import numpy as np
import pytest
import torch
from cameras import CLOSE, SIZES, points_in_front, random_numbers
from conftest import assert_close

from diffiso.camera import Camera, sdfdiff_rig

DTYPES = (torch.float32, torch.float64)


def scene(count=4, size=(30, 40), points=5):
    numbers = random_numbers(count, size)
    cloud = torch.from_numpy(np.ascontiguousarray(points_in_front(numbers, points)))
    return numbers.camera(), cloud


def rebuilt(camera, *parts):
    return Camera(*parts, camera.size)


def parts_of(camera):
    return tuple(
        part.detach().clone().requires_grad_()
        for part in (camera.rotation, camera.translation, camera.focal, camera.principal)
    )


# Points, pixels and rays.


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_unproject_undoes_project(size):
    camera, points = scene(250, size)
    assert (camera.unproject(*camera.project(points)) - points).abs().max() < CLOSE


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rays_go_through_pixel_centers(size):
    camera, _ = scene(3, size)
    rays = camera.rays()
    assert rays.origins.shape == rays.directions.shape == (3, *size, 3)
    points = (rays.origins + 2.5 * rays.directions).view(3, -1, 3)
    seen = camera.project(points).pixels.view(3, *size, 2)
    for row, column in ((0, 0), (size[0] - 1, 0), (size[0] // 2, size[1] - 1)):
        expected = seen.new_tensor([column + 0.5, row + 0.5])
        assert (seen[:, row, column] - expected).abs().max() / max(size) < CLOSE
    assert_close(rays.directions.norm(dim=-1), torch.ones(3, *size))


def test_rays_of_given_pixels_are_those_of_the_picture():
    camera, _ = scene(2, (3, 5))
    for unit in (True, False):
        whole = camera.rays(unit=unit)
        x, y = torch.tensor([0.5, 4.5, 2.5]).double(), torch.tensor([0.5, 1.5, 2.5]).double()
        some = camera.rays(torch.stack([x, y], dim=1), unit=unit)
        expected = whole.directions[:, [0, 1, 2], [0, 4, 2]]
        assert_close(some.directions, expected)
        assert_close(some.origins, camera.centers[:, None].expand(2, 3, 3))


def test_length_along_a_ray_of_depth_one_is_depth():
    camera, _ = scene()
    rays = camera.rays(unit=False)
    depth = camera.project((rays.origins + 3.25 * rays.directions).flatten(1, 2)).depth
    assert (depth - 3.25).abs().max() < CLOSE


def test_points_behind_have_no_pixels_and_no_gradient():
    """Also a point in the plane of the camera, where the quotient would be infinite."""
    camera = Camera.look_at((0.0, 0, 5), focal=50.0, size=(30, 40), dtype=torch.float64)
    points = torch.tensor([[0.1, 0.2, 1], [0.1, 0.2, 5], [0.1, 0.2, 6]], dtype=torch.float64)
    points.requires_grad_()
    seen = camera.project(points)
    assert seen.depth[0].tolist() == [4, 0, -1]
    assert seen.pixels.isnan().all(dim=2).tolist() == [[False, True, True]]
    seen.pixels.nansum().backward()
    assert points.grad.isfinite().all()
    assert (points.grad[1:] == 0).all()
    assert (points.grad[0] != 0).all()


def test_matrices_agree_with_the_parts():
    camera, points = scene()
    eye = torch.eye(4, dtype=torch.float64)
    assert (camera.camera_to_world @ camera.world_to_camera - eye).abs().max() < CLOSE
    assert (camera.camera_to_world[:, :3, 3] - camera.centers).abs().max() < CLOSE
    local = points @ camera.rotation.mT + camera.translation[:, None]
    pixels = local @ camera.intrinsics.mT
    apart = pixels[..., :2] / pixels[..., 2:] - camera.project(points).pixels
    assert apart.abs().max() / max(camera.size) < CLOSE


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_followed(dtype):
    camera, points = scene()
    camera, points = camera.to(dtype), points.to(dtype)
    seen, rays = camera.project(points), camera.rays()
    results = [*seen, *rays, camera.centers, camera.intrinsics, camera.camera_to_world]
    results += [*camera.to_opencv(), *camera.to_opengl(1, 2), *camera.to_pytorch3d()[:4]]
    assert {result.dtype for result in results} == {dtype}


def test_single_precision_is_as_good_as_it_can_be():
    """Coordinates below 20 round by 2^-20 three times; times focal lengths over depths < 4000."""
    camera, points = scene(50, (480, 640))
    exact = camera.project(points)
    rounded = camera.to(torch.float32).project(points.float())
    assert (rounded.pixels - exact.pixels).abs().max() < 3 * 2**-20 * 4000
    assert (rounded.depth - exact.depth).abs().max() < 3 * 2**-20


def test_autocast_does_not_round_cameras():
    """Matrix products would run in bfloat16, and a good rotation would fail its own check."""
    camera, points = scene()
    camera, points = camera.to(torch.float32), points.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = camera.to(torch.float32).project(points)
    assert torch.equal(again.pixels, camera.project(points).pixels)


def test_no_points_are_fine():
    camera, _ = scene(2)
    seen = camera.project(torch.zeros(0, 3, dtype=torch.float64))
    assert seen.pixels.shape == (2, 0, 2)
    assert camera.unproject(*seen).shape == (2, 0, 3)


# Other pictures.


def test_resized_pictures_show_the_same():
    camera, points = scene()
    larger = camera.resized((90, 20))
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    moved = larger.project(points).pixels - camera.project(points).pixels * scale
    assert larger.size == (90, 20)
    assert moved.abs().max() / 90 < CLOSE


def test_crops_have_the_rays_of_their_pixels():
    camera, _ = scene(2, (30, 40))
    part = camera.cropped(5, 12, (8, 9))
    assert (part.rays().directions - camera.rays().directions[:, 5:13, 12:21]).abs().max() < CLOSE
    wider = camera.cropped(-2, -3, (40, 50))
    assert (wider.rays().directions[:, 2:32, 3:43] - camera.rays().directions).abs().max() < CLOSE


# Batches.


def test_batches_can_be_taken_apart_and_put_together():
    camera, points = scene()
    whole = camera.project(points).pixels
    assert torch.equal(Camera.cat(list(camera)).project(points).pixels, whole)
    for index in (
        slice(1, 3),
        [2, 0],
        torch.tensor([3, 1]),
        torch.tensor([True, False, True, True]),
    ):
        assert torch.equal(camera[index].project(points[index]).pixels, whole[index])
    assert torch.equal(camera[-1].project(points[3]).pixels, whole[3:])
    assert len(camera) == 4
    with pytest.raises(IndexError, match="index must be below 4, got 4"):
        camera[4]


def test_one_focal_length_serves_all_cameras():
    camera, points = scene()
    focal = torch.tensor([[50.0, 60.0]], dtype=torch.float64, requires_grad=True)
    shared = Camera(camera.rotation, camera.translation, focal, camera.principal, camera.size)
    assert shared.focal.shape == (4, 2)
    shared.project(points).pixels.sum().backward()
    slopes = (shared.project(points).pixels - shared.principal[:, None]) / shared.focal[:, None]
    assert_close(focal.grad[0], slopes.detach().sum(dim=(0, 1)), factor=16)


# Gradients.


def test_gradients_of_project_unproject_and_rays():
    camera, points = scene(2, (2, 3), 3)
    parts = parts_of(camera)
    pixels, depth = (t.requires_grad_() for t in camera.project(points))
    points.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda p, *c: tuple(rebuilt(camera, *c).project(p)), (points, *parts))
    assert check(lambda p, d, *c: rebuilt(camera, *c).unproject(p, d), (pixels, depth, *parts))
    assert check(lambda *c: tuple(rebuilt(camera, *c).rays()), parts)
    assert check(lambda p, *c: rebuilt(camera, *c).rays(p, unit=False)[1], (pixels, *parts))
    assert check(lambda *c: rebuilt(camera, *c).cropped(1, 2, 3).resized(5).rays()[1], parts)


# Values.


def test_rotations_rounded_to_five_digits_pass():
    camera, _ = scene(50)
    rounded = camera.rotation.mul(1e5).round().div(1e5)
    assert len(Camera(rounded, camera.translation, camera.focal, camera.principal, (4, 6))) == 50


@pytest.mark.cuda
def test_devices_are_followed():
    camera, points = scene()
    on_gpu = camera.to("cuda").project(points.cuda())
    assert_close(on_gpu.pixels.cpu(), camera.project(points).pixels, factor=16)
    rig = sdfdiff_rig(16, device="cuda")
    assert rig.rays().directions.device.type == "cuda"
    assert (
        Camera.look_at(torch.ones(3, device="cuda"), focal=9.0, size=8).centers.device.type
        == "cuda"
    )
