# SPDX-License-Identifier: Apache-2.0
"""silhouette: areas and their derivatives, which do not depend on how fine a mesh is."""

import math

import pytest
import torch
from conftest import assert_same_on_cuda
from silhouettes import NEAR, ball, cameras, cube, smooth_weights, soup, subdivided

from diffiso import Camera, SoftRasterizing, silhouette


def facing(size, distance=4.0, field_of_view=40.0, dtype=torch.float64):
    """One camera on the z axis that looks at the origin."""
    eye = torch.tensor([0.0, 0.0, distance], dtype=dtype)
    return Camera.look_at(eye, field_of_view=field_of_view, size=size, dtype=dtype)


def disc(corners, radius=1.0):
    """A regular polygon in the plane z = 0, as a fan."""
    turn = torch.arange(corners, dtype=torch.float64) * (2 * math.pi / corners)
    rim = radius * torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], dim=1)
    vertices = torch.cat([rim, torch.zeros(1, 3, dtype=torch.float64)])
    ring = torch.arange(corners)
    faces = torch.stack([torch.full_like(ring, corners), ring, (ring + 1) % corners], dim=1)
    return vertices, faces


def derivatives(vertices, faces, views, weights=None):
    """Coverage, and what moving by (x, y, z) and growing does to its weighted sum."""
    points = vertices.clone().requires_grad_()
    coverage = silhouette((points, faces), views)
    weights = torch.ones_like(coverage) if weights is None else weights
    (grad,) = torch.autograd.grad(coverage, points, weights)
    return coverage.detach(), grad.sum(dim=0), (grad * vertices).sum()


# Areas and their derivatives.


def test_area_of_a_disc():
    """Within 0.1 %, and its derivative under growth within 1 %, as of any radius."""
    camera = facing(256)
    for radius in (0.3, 0.77, 1.2):
        coverage, _, growth = derivatives(*disc(2000, radius), camera)
        pixels = float(camera.focal[0, 0]) / 4.0
        area = math.pi * (radius * pixels) ** 2
        assert float(coverage.sum()) == pytest.approx(area, rel=1e-3)
        assert float(growth) == pytest.approx(2 * area, rel=1e-3)


def test_area_of_a_sphere():
    """A cone around the line of sight: perspective shows the rim larger."""
    camera = facing(256, distance=3.0)
    vertices, faces = ball(128)
    coverage, _, growth = derivatives(vertices, faces, camera)
    angle = math.asin(0.5 / 3.0)
    focal = float(camera.focal[0, 0])
    area = math.pi * (focal * math.tan(angle)) ** 2
    # d(tan^2 a) with sin a = s / 6 at s = 1.
    slope = 2 * area / math.tan(angle) / math.cos(angle) ** 2 * (0.5 / 3.0) / math.cos(angle)
    assert float(coverage.sum()) == pytest.approx(area, rel=1e-3)
    # Which edges are the outline changes from cell to cell, and the derivative with them.
    assert float(growth) == pytest.approx(slope, rel=5e-3)


@pytest.mark.parametrize("side", [33.4, 50.0, 97.3])
def test_area_of_a_square_along_the_axes(side):
    """Within 0.3 % at 16 samples, wherever it lies in the pixels."""
    camera = facing(128, distance=1.0, field_of_view=90.0)
    half = side / 128
    for shift in (0.0, 0.003, 0.0071):
        corners = torch.tensor(
            [[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]],
            dtype=torch.float64,
        )
        corners[:, :2] += shift
        square = corners, torch.tensor([[0, 1, 2], [0, 2, 3]])
        coverage, _, growth = derivatives(*square, camera)
        assert float(coverage.sum()) == pytest.approx(side**2, rel=3e-3)
        assert float(growth) == pytest.approx(2 * side**2, rel=1e-9)


def plate(half_pixels, camera):
    """A square around the middle of the picture, so many pixels from its centre to its sides."""
    half = half_pixels * 1.0 / float(camera.focal[0, 0])
    corners = [[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]]
    return torch.tensor(corners, dtype=torch.float64), torch.tensor([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("half", [16, 9])
def test_outlines_on_borders_pull_on_both_sides(half):
    """The mean of both one-sided derivatives: all of a pixel grows, none beyond the picture."""
    camera = Camera.look_at((0.0, 0.0, 1.0), focal=32.0, size=32, dtype=torch.float64)
    vertices, faces = plate(half, camera)
    coverage, moved, growth = derivatives(vertices, faces, camera)
    assert float(coverage.sum()) == (2 * half) ** 2
    share = 0.5 if half == 16 else 1.0
    assert float(growth) == pytest.approx(share * 2 * (2 * half) ** 2, rel=1e-12)
    assert float(moved[:2].abs().max()) < 1e-9
    # Left, right, upper and lower pixels alike.
    weights = torch.zeros_like(coverage)
    outer = slice(16 - half - 1 if half < 16 else 0, 16 + half + 1)
    weights[:, outer, outer] = 1
    weights[:, 16 - half : 16 + half, 16 - half : 16 + half] = 0
    points = vertices.clone().requires_grad_()
    (grad,) = torch.autograd.grad(silhouette((points, faces), camera), points, weights)
    pushed = (grad * vertices.sign())[:, :2]
    assert float(pushed.max() - pushed.min()) < 1e-9
    assert float(pushed.mean()) == pytest.approx(0.0 if half == 16 else 9 * 32 / 2, abs=1e-9)


def test_many_outlines_over_each_other_stay_exact():
    """More meetings in a row than are kept at a time: crossing combs, whose area is known."""
    camera = Camera.look_at((0.0, 0.0, 1.0), focal=100.0, size=40, dtype=torch.float64)
    teeth = 70
    left = torch.linspace(-0.15, 0.15, teeth + 1, dtype=torch.float64)[:-1]
    width = 0.3 / teeth / 2
    upright = torch.stack([left, left + width], dim=1)
    strips = []
    for x0, x1 in upright.tolist():
        strips.append([[x0, -0.1, 0], [x1, -0.1, 0], [x1, 0.1, 0], [x0, 0.1, 0]])
    bar = [[-0.17, -0.012, 0.01], [0.17, -0.012, 0.01], [0.17, 0.012, 0.01], [-0.17, 0.012, 0.01]]
    vertices = torch.tensor([*strips, bar], dtype=torch.float64).view(-1, 3)
    first = 4 * torch.arange(teeth + 1)[:, None]
    faces = torch.cat([first + torch.tensor([0, 1, 2]), first + torch.tensor([0, 2, 3])])
    points = vertices.clone().requires_grad_()
    weights = torch.ones(1, 40, 40, dtype=torch.float64)
    coverage = silhouette((points, faces), camera)
    (grad,) = torch.autograd.grad(coverage, points, weights)
    # The bar's long sides move over what no tooth covers, at its own depth of 0.99.
    scale = 100.0 / 0.99
    free = 0.34 * scale - teeth * width * 100.0
    lifted = grad[-4:, 1]
    assert float(lifted[2:].sum()) == pytest.approx(free * scale, rel=1e-6)
    assert float(lifted[:2].sum()) == pytest.approx(-free * scale, rel=1e-6)


def test_half_plane_image_under_translation():
    """Weights of one half of the picture: moving the disc moves its chord over the border."""
    camera = facing(200)
    pixels = float(camera.focal[0, 0]) / 4.0
    weights = torch.zeros(1, 200, 200, dtype=torch.float64)
    weights[:, :, 100:] = 1
    radius = 0.8
    for center in (0.0, 0.31, -0.5):
        vertices, faces = disc(3000, radius)
        vertices = vertices + torch.tensor([center, 0.0, 0.0])
        _, moved, _ = derivatives(vertices, faces, camera, weights)
        chord = 2 * math.sqrt(radius**2 - center**2)
        assert float(moved[0]) == pytest.approx(chord * pixels**2, rel=1e-3)
        assert abs(float(moved[1])) < 1e-3 * chord * pixels**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_derivatives_equal_differences_of_areas(axis, generator):
    """A cube before four cameras: smooth weights, 64 samples, moved by half a pixel each way."""
    vertices, faces = cube()
    views = cameras(4, size=(160, 160))
    weights = smooth_weights(generator, 4, (160, 160))
    step = torch.zeros(3, dtype=torch.float64)
    step[axis] = 0.01
    _, moved, _ = derivatives(vertices, faces, views, weights)
    totals = [
        float((silhouette((vertices + s * step, faces), views, samples=64) * weights).sum())
        for s in (1, -1)
    ]
    # Each total is wrong by parts of a sample along some 300 pixels of outline.
    assert float(moved[axis]) == pytest.approx((totals[0] - totals[1]) / 0.02, rel=1e-2, abs=2)


def test_camera_derivatives_equal_those_of_the_mesh(generator):
    """Moving a camera one way moves the mesh the other; a longer lens enlarges."""
    vertices, faces = ball(24)
    views = cameras(2, size=(64, 64))
    weights = smooth_weights(generator, 2, (64, 64))
    parts = [p.clone().requires_grad_() for p in (views.translation, views.focal, views.principal)]
    moved = Camera(views.rotation, *parts, views.size)
    points = vertices.clone().requires_grad_()
    coverage = silhouette((points, faces), moved)
    grad, translation, focal, principal = torch.autograd.grad(coverage, (points, *parts), weights)
    # In the world, a change of translation t moves all points by R^T t.
    per_view = [derivatives(vertices, faces, views[k], weights[k : k + 1])[1] for k in range(2)]
    turned = torch.stack([views.rotation[k] @ per_view[k] for k in range(2)])
    torch.testing.assert_close(translation, turned)
    torch.testing.assert_close(grad.sum(dim=0), per_view[0] + per_view[1])
    # A principal point that moves by a pixel moves the picture by one: so does one plane of points.
    plate, corners = disc(50, 0.5)
    plane = facing(64)
    center = plane.principal.clone().requires_grad_()
    lens = plane.focal.clone().requires_grad_()
    camera = Camera(plane.rotation, plane.translation, lens, center, plane.size)
    seen = silhouette((plate, corners), camera)
    of_center, of_lens = torch.autograd.grad(seen, (center, lens), weights[:1])
    _, by_points, growth = derivatives(plate, corners, plane, weights[:1])
    pixels = float(plane.focal[0, 0]) / 4.0
    torch.testing.assert_close(of_center[0, 0] * pixels, by_points[0])
    torch.testing.assert_close(of_center[0, 1] * pixels, -by_points[1])
    torch.testing.assert_close((of_lens * plane.focal).sum(), growth)
    assert float(principal.abs().min()) > 0.1
    assert float(focal.abs().min()) > 0.1


# How fine the mesh is.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_subdivision_changes_nothing(dtype, generator):
    """1, 4 and 16 times the triangles, and 64: pictures and gradients within 0.1 %."""
    vertices, faces = ball(20)
    stretched = vertices * torch.tensor([1.0, 0.6, 0.8]) + 0.1 * vertices.roll(1, dims=1).sin()
    views = cameras(3, size=(96, 96)).to(dtype)
    weights = smooth_weights(generator, 3, (96, 96), dtype)
    mesh, results = (stretched.to(dtype), faces), []
    for _ in range(4):
        coverage, moved, growth = derivatives(*mesh, views, weights)
        results.append((coverage, moved.double(), growth.double()))
        mesh = subdivided(*mesh)
    first = results[0]
    for coverage, moved, growth in results[1:]:
        assert float((coverage - first[0]).abs().sum() / first[0].sum()) < 1e-3
        assert float((moved - first[1]).norm() / first[1].norm()) < 1e-3
        assert float(growth) == pytest.approx(float(first[2]), rel=1e-3)


def test_gradients_of_coarse_vertices_are_sums_over_fine_ones(generator):
    """A middle passes half of what it receives to either end of its edge."""
    vertices, faces = cube()
    views = cameras(3, size=(64, 64))
    weights = smooth_weights(generator, 3, (64, 64))
    points = vertices.clone().requires_grad_()
    coarse = silhouette((points, faces), views)
    (expected,) = torch.autograd.grad(coarse, points, weights)
    fine = silhouette(subdivided(*subdivided(points, faces)), views)
    (actual,) = torch.autograd.grad(fine, points, weights)
    assert torch.equal(coarse, fine)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


# Occlusion.


def test_hidden_edges_have_no_gradient():
    """A small cube behind a large one; a small one before it."""
    small, faces = cube()
    both = torch.cat([faces, faces + 8])
    views = facing(64)
    for depth in (-1.5, 0.6):
        inner = (0.3 * small + torch.tensor([0.1, 0.0, depth])).requires_grad_()
        points = torch.cat([small, inner])
        silhouette((points, both), views).sum().backward()
        assert torch.equal(inner.grad, torch.zeros_like(inner))


def test_the_hidden_part_of_an_edge_has_none(generator):
    """Two overlapping plates: an edge counts as far as it is not covered by the other."""
    plate = torch.tensor([[-0.6, -0.6, 0], [0.6, -0.6, 0], [0.6, 0.6, 0], [-0.6, 0.6, 0]]).double()
    square = torch.tensor([[0, 1, 2], [0, 2, 3]])
    camera = facing(128)
    pixels = float(camera.focal[0, 0]) / 4.0
    shift = torch.tensor([0.43, 0.29, 0.0]).double()
    # The second stands a little nearer and is scaled so that it looks as large.
    near = ((plate + shift) * (3.9 / 4.0) + torch.tensor([0.0, 0.0, 0.1])).double()
    points = torch.cat([plate, near]).requires_grad_()
    silhouette((points, torch.cat([square, square + 4])), camera).sum().backward()
    # To the right, the first plate's right edge is covered but for its lowest 0.29.
    right, left = 0.29 * pixels**2, 1.2 * pixels**2
    assert float(points.grad[:4, 0].sum()) == pytest.approx(right - left, rel=1e-6)


def test_folds_finer_than_a_pixel_cancel():
    """A plate whose right rim runs back and forth, a hundredth of a pixel to either side."""
    camera = facing(64)
    pixel = 4.0 / float(camera.focal[0, 0])
    for fold in (1e-2, 1e-4, 1e-6):
        rows = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)
        right = torch.stack([0.5 + torch.zeros_like(rows), rows, torch.zeros_like(rows)], dim=1)
        right[1:-1, 1] += torch.tensor([1.0, -1.0, 0.5]).double().repeat(13) * 0.04
        right[1:-1, 0] += torch.tensor([1.0, -1.0, 0.0]).double().repeat(13) * fold * pixel
        points = torch.cat([right, torch.tensor([[-0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]]).double()])
        fan = torch.tensor([[41, k, k + 1] for k in range(40)] + [[41, 40, 42]])
        points.requires_grad_()
        silhouette((points, fan), camera).sum().backward()
        # The folds themselves stick out by a hundredth of a pixel here and there, of 12 pixels.
        assert float(points.grad[:41, 0].sum()) == pytest.approx(1 / pixel**2, rel=2e-2)


def test_a_wire_thinner_than_a_pixel_has_a_gradient():
    """Its two outlines lie a twentieth of a pixel apart."""
    camera = facing(64)
    pixel = 4.0 / float(camera.focal[0, 0])
    width = pixel / 20
    points = torch.tensor(
        [[-width / 2, -0.5, 0], [width / 2, -0.5, 0], [width / 2, 0.5, 0], [-width / 2, 0.5, 0]]
    )
    points = points.double().requires_grad_()
    silhouette((points, torch.tensor([[0, 1, 2], [0, 2, 3]])), camera).sum().backward()
    assert float(points.grad[1:3, 0].sum()) == pytest.approx(1 / pixel**2, rel=1e-6)
    assert float(points.grad[[0, 3], 0].sum()) == pytest.approx(-1 / pixel**2, rel=1e-6)


# Near plane.


def cut(vertices, faces, camera, near):
    """The faces' parts in front of the near plane, by torch, with vertices of their own."""
    depth = (vertices @ camera.rotation[0].T + camera.translation[0])[:, 2]
    corners = []
    for face in faces.tolist():
        polygon = []
        for a, b in zip(face, face[1:] + face[:1], strict=True):
            if depth[a] >= near:
                polygon.append(vertices[a])
            if (depth[a] >= near) != (depth[b] >= near):
                share = (near - depth[a]) / (depth[b] - depth[a])
                polygon.append(vertices[a] + share * (vertices[b] - vertices[a]))
        for k in range(1, len(polygon) - 1):
            corners += [polygon[0], polygon[k], polygon[k + 1]]
    return torch.stack(corners), torch.arange(len(corners)).view(-1, 3)


@pytest.mark.parametrize("near", [1.0, 1.2, 1.55])
def test_near_plane(near, generator):
    """As if the faces had been cut before; the rim of the cut moves with them."""
    vertices, faces = cube()
    spike = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 1.6], [0.05, 0.33, 1.6]]).double()
    points = torch.cat([vertices * 0.6, spike]).requires_grad_()
    corners = torch.cat([faces, torch.tensor([[8, 9, 10]])])
    camera = Camera.look_at(
        torch.tensor([0.35, 0.2, 1.7]).double(), field_of_view=75.0, size=64, dtype=torch.float64
    )
    weights = smooth_weights(generator, 1, (64, 64))
    depth = (points @ camera.rotation[0].T + camera.translation[0])[:, 2]
    assert bool((depth < near).any())
    ours = silhouette((points, corners), camera, near=near)
    before = silhouette(cut(points, corners, camera, near), camera, near=NEAR)
    # The rim's vertices are rounded before they are seen: a sample on it may fall either way.
    assert float((ours - before).detach().abs().sum()) <= 2 / 16
    assert 0.01 < float(ours.detach().mean()) < 0.99
    expected, actual = (torch.autograd.grad(c, points, weights)[0] for c in (before, ours))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 1


@pytest.mark.parametrize("seed", [2, 4, 15, 25])
def test_edges_far_longer_than_the_picture(seed):
    """Triangles around the camera: as they grow, their picture stays, but not its edges' length."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn((6, 3), dtype=torch.float64, generator=generator)
    corners = torch.randint(0, 6, (3, 3), generator=generator)
    weights = torch.rand((1, 32, 32), dtype=torch.float64, generator=generator)
    ahead = torch.tensor([0.0, 0.0, -1.0]).double()
    camera = Camera.look_at(1e-9 * -ahead, ahead, field_of_view=60.0, size=32, dtype=torch.float64)

    def look(scale):
        grown = (scale * points).requires_grad_()
        picture = silhouette((grown, corners), camera, near=NEAR)
        return picture.detach(), scale * torch.autograd.grad(picture, grown, weights)[0]

    (small, expected), (large, actual) = look(1.0), look(1e4)
    assert torch.equal(small, large)
    # Edges of 1e8 pixels: their places are good to 1e-8 pixels.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 1


def test_gradient_descent_finds_a_circle():
    """An image loss alone moves and resizes a ball until its picture is the target."""
    camera = facing(48, dtype=torch.float32)
    vertices, faces = ball(16, torch.float32)
    target = silhouette((1.3 * vertices + torch.tensor([0.3, -0.2, 0.0]), faces), camera)
    place = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([place], 0.03)
    for _ in range(80):
        optimizer.zero_grad()
        moved = (1 + place[3]) * vertices + place[:3] * torch.tensor([1.0, 1.0, 0.0])
        loss = (silhouette((moved, faces), camera) - target).square().mean()
        loss.backward()
        optimizer.step()
    expected = torch.tensor([0.3, -0.2, 0.0, 0.3])
    # A pixel is 0.06 wide.
    torch.testing.assert_close(place.detach(), expected, rtol=0, atol=0.01)


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["contour", SoftRasterizing()], ids=["contour", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_equals_cpu(dtype, mode, generator):
    vertices, faces = soup(generator, 60, 80, dtype)

    def picture(vertices, faces):
        views = cameras(dtype=dtype).to(vertices.device)
        return (silhouette((vertices, faces), views, mode=mode),)

    # Gradients are sums over the pixels of outlines, or of blurred faces, in another order.
    assert_same_on_cuda(picture, vertices, faces, exact=(mode == "contour",), factor=1000.0)
