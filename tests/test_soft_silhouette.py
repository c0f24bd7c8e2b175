# SPDX-License-Identifier: Apache-2.0
"""silhouette, mode "soft": against the reference, gradients, errors, edges."""

import math

import pytest
import torch
from conftest import assert_close
from silhouettes import arguments, ball, cameras, cube, soup

import diffiso
from diffiso import SoftRasterizing, reference, silhouette

OP = torch.ops.diffiso.soft_silhouette
BACKWARD = torch.ops.diffiso.soft_silhouette_backward
RULES = (
    SoftRasterizing(),
    SoftRasterizing(1e-2, faces_per_pixel=128),
    SoftRasterizing(1e-2, faces_per_pixel=3),
    SoftRasterizing(1e-3, 0.0, 5),
    SoftRasterizing.mesh_sdf(),
)


def numbers(rule):
    return rule.sigma, rule.radius, rule.faces_per_pixel


# Values and gradients against the reference.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(20, 28), (24, 16)])
def test_equals_reference(rule, size, generator):
    vertices, faces = soup(generator)
    views = cameras(size=size)
    inputs = [x.requires_grad_() for x in (vertices, views.projection_matrices.detach())]
    clear = OP(*arguments(vertices, faces, inputs[1], size), *numbers(rule))[0]
    expected = reference.soft_silhouette(vertices, faces, inputs[1], size, *numbers(rule))
    torch.testing.assert_close(clear, expected)
    weights = torch.randn(clear.shape, dtype=torch.float64, generator=generator)
    ours, exact = (torch.autograd.grad(x, inputs, weights) for x in (clear, expected))
    for actual, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-9 * float(wanted.abs().max()))
        assert float(wanted.abs().max()) > 0.1
    assert torch.equal(silhouette((vertices, faces), views, mode=rule), 1 - clear)


@pytest.mark.parametrize("rule", RULES)
def test_float32_is_close(rule, generator):
    vertices, faces = soup(generator)
    views = cameras()
    wide = silhouette((vertices, faces), views, mode=rule)
    narrow = silhouette((vertices.float(), faces.int()), views.to(torch.float32), mode=rule)
    assert narrow.dtype == torch.float32
    changed = (wide - narrow.double()).abs()
    # A pixel at the blur radius, or between two faces of one depth, may fall to either side.
    assert float((changed > 1e-4).double().mean()) < 2e-3


def test_gradcheck(generator):
    vertices, faces = soup(generator, faces=4)
    views = cameras(1, size=(6, 7))
    # Wide enough that no pixel lies at the radius, where faces begin to count.
    rule = SoftRasterizing(3e-2, 9.0, 128)

    def clear(points, matrices):
        return OP(*arguments(points, faces, matrices, views.size), *numbers(rule))[0]

    inputs = vertices.requires_grad_(), views.projection_matrices.detach().requires_grad_()
    assert torch.autograd.gradcheck(clear, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


# What it is made for.


def test_sigmoid_of_the_signed_squared_distance():
    """One large triangle: its border is half covered, and the sigmoid runs to both sides."""
    camera = diffiso.Camera.look_at((0.0, 0.0, 1.0), field_of_view=90.0, size=64).to(torch.float64)
    corners = torch.tensor([[-30.0, 0.0, 0.0], [30.0, 0.0, 0.0], [0.0, 40.0, 0.0]]).double()
    sigma = 1e-3
    coverage = silhouette((corners, torch.tensor([[0, 1, 2]])), camera, mode=SoftRasterizing(sigma))
    # Above the middle is inside; rows are 2 / 64 apart.
    height = (31.5 - torch.arange(64, dtype=torch.float64)) * (2 / 64)
    exact = torch.sigmoid(height.sign() * height.square() / sigma)
    exact[height.square() * height.sign() < -SoftRasterizing(sigma).radius] = 0
    torch.testing.assert_close(coverage[0], exact[:, None].expand(64, 64))


def test_pulls_outlines_that_are_far_apart():
    """With a wide sigmoid a ball beside the target still moves towards it."""
    vertices, faces = ball(8)
    camera = diffiso.Camera.look_at((0.0, 0.0, 4.0), field_of_view=50.0, size=32).to(torch.float64)
    offset = torch.tensor([1.2, 0.0, 0.0]).double()
    rule = SoftRasterizing(3e-1, faces_per_pixel=100)
    target = silhouette((0.5 * vertices + offset, faces), camera, mode=rule)
    points = (0.5 * vertices).requires_grad_()
    (silhouette((points, faces), camera, mode=rule) - target).square().sum().backward()
    assert float(points.grad[:, 0].sum()) < -1


def test_depends_on_tessellation_as_documented():
    """Where faces meet both cover a pixel by half; with more faces there is more of that."""
    plate = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]).double()
    square = plate, torch.tensor([[0, 1, 2], [0, 2, 3]])
    camera = diffiso.Camera.look_at((0.0, 0.0, 3.0), field_of_view=50.0, size=32).to(torch.float64)
    rule = SoftRasterizing(1e-7)
    whole = silhouette(square, camera, mode=rule)[0]
    # The diagonal goes through the pixel's centre: both halves leave it clear by half.
    assert float(whole[16, 15]) == pytest.approx(0.75, abs=1e-3)
    assert float(whole[16, 10]) == pytest.approx(1.0, abs=1e-3)
    # Four triangles around a middle, which lies on the border of pixels: a second diagonal.
    middle = torch.cat([plate, torch.zeros(1, 3).double()])
    fan = middle, torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    finer = silhouette(fan, camera, mode=rule)[0]
    assert float(finer[16, 16]) == pytest.approx(0.75, abs=1e-3)
    assert float(whole[16, 16]) == pytest.approx(1.0, abs=1e-3)
    assert bool((silhouette(square, camera) == silhouette(fan, camera)).all())


# Registration, errors, edges.


def test_opcheck(generator):
    views = cameras(size=(6, 8))
    for dtype in (torch.float32, torch.float64):
        vertices, faces = soup(generator, dtype=dtype)
        matrices = views.projection_matrices.to(dtype)
        inputs = arguments(vertices.requires_grad_(), faces, matrices.requires_grad_(), views.size)
        torch.library.opcheck(OP, (*inputs, 1e-2, 0.1, 4))


def test_opcheck_backward(generator):
    vertices, faces = soup(generator)
    views = cameras(size=(6, 8))
    inputs = arguments(vertices, faces, views.projection_matrices, views.size)
    found = OP(*inputs, 1e-2, 0.1, 4)
    inputs = (torch.ones_like(found[0]), *found, *inputs, 1e-2, 0.1, 4, False)
    torch.library.opcheck(BACKWARD, inputs)


def test_double_backward_is_refused(generator):
    vertices, faces = soup(generator)
    points = vertices.clone().requires_grad_()
    total = silhouette((points, faces), cameras(), mode="soft").square().sum()
    (grad,) = torch.autograd.grad(total, points, create_graph=True)
    with pytest.raises(RuntimeError, match="soft_silhouette: second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"sigma": math.inf}, "sigma must be positive, got inf"),
        ({"blur_radius": -1.0}, "blur_radius must not be negative, got -1.0"),
        ({"faces_per_pixel": 0}, "faces_per_pixel must be 1 to 128, got 0"),
        ({"faces_per_pixel": 129}, "faces_per_pixel must be 1 to 128, got 129"),
        ({"faces_per_pixel": 2.0}, "faces_per_pixel must be 1 to 128, got 2.0"),
    ],
)
def test_option_errors(change, message):
    with pytest.raises(ValueError, match=message):
        SoftRasterizing(**change)


def test_nothing_to_see_is_zero():
    views = cameras()
    vertices, faces = cube()
    points = (vertices + 100).requires_grad_()
    for mesh in (
        (points[:0], faces[:0]),
        (points, faces[:0]),
        (points, faces),
        (vertices * 0, faces),
    ):
        coverage = silhouette(mesh, views, mode="soft")
        assert torch.equal(coverage, torch.zeros_like(coverage))
    silhouette((points, faces), views, mode="soft").sum().backward()
    assert torch.equal(points.grad, torch.zeros_like(points))


def test_faces_that_the_near_plane_cuts_are_left_out():
    vertices, faces = cube()
    views = cameras(1)
    alone = silhouette((vertices, faces), views, mode="soft")
    behind = torch.cat([vertices, vertices.new_tensor([[0, 0, 0], [0.1, 0, 0], [9.0, 3.0, 9.0]])])
    more = torch.cat([faces, torch.tensor([[8, 9, 10]])])
    assert torch.equal(silhouette((behind, more), views, mode="soft"), alone)


def test_faces_of_one_depth_are_kept_by_number():
    """Copies of a face: exactly so many count."""
    corners = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.0, 0.5, 0]]).double()
    views = cameras(1)
    one = OP(*arguments(corners, torch.tensor([[0, 1, 2]]), views.projection_matrices, views.size),
             1e-2, 0.1, 1)[0]  # fmt: skip
    many = torch.tensor([[0, 1, 2]] * 7)
    for kept in (2, 5):
        clear, _, last = OP(
            *arguments(corners, many, views.projection_matrices, views.size), 1e-2, 0.1, kept
        )
        assert_close(clear, one**kept, factor=10)
        assert set(last.unique().tolist()) == {-1, kept - 1}


def test_threads_change_nothing(generator):
    vertices, faces = ball(12)
    views = cameras(size=(32, 32))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            points = vertices.clone().requires_grad_()
            coverage = silhouette((points, faces), views, mode="soft")
            coverage.square().sum().backward()
            results.append((coverage.detach(), points.grad))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
