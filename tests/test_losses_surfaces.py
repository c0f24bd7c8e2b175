# SPDX-License-Identifier: Apache-2.0
"""Losses of meshes and clouds: values worked by hand, derivatives in float64, what they refuse."""

import math

import pytest
import torch
from fields import gyroid, sphere
from torch.autograd import gradcheck

from diffiso import Mesh, isosurface
from diffiso.losses import (
    chamfer,
    mesh_laplacian,
    point_to_surface,
    surface_loss,
)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def tetrahedron(dtype=torch.float64):
    vertices = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=dtype)
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


# The mesh Laplacian.


def test_mesh_laplacian_by_hand():
    mesh = tetrahedron()
    expected = mesh.vertices.sum(dim=0) / 3 - mesh.vertices * 4 / 3  # all others are neighbours
    torch.testing.assert_close(mesh_laplacian(mesh), expected, rtol=0, atol=1e-15)


def test_mesh_laplacian_counts_an_edge_once():
    """Two triangles share an edge; a third vertex lies alone, a fourth face is no triangle."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [9, 9, 9]])
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 3, 3]], dtype=torch.int32)
    found = mesh_laplacian(Mesh(vertices, faces))
    expected = [[0.5, 0.5, 0], [1 / 3 - 1, 2 / 3, 0], [2 / 3, 1 / 3 - 1, 0], [-0.5, -0.5, 0]]
    torch.testing.assert_close(found, torch.tensor([*expected, [0.0, 0.0, 0.0]]))


def test_mesh_laplacian_derivatives():
    faces = tetrahedron().faces
    assert gradcheck(lambda v: mesh_laplacian(Mesh(v, faces)).square().sum(), random(5, 3))


def test_mesh_laplacian_smooths():
    mesh = isosurface(sphere(0.5), -1, 1, 16)
    rough = Mesh(mesh.vertices + 0.02 * torch.randn_like(mesh.vertices), mesh.faces)
    loss = [mesh_laplacian(m).square().sum(dim=1).mean() for m in (mesh, rough)]
    assert loss[1] > 2 * loss[0]
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert mesh_laplacian(empty).shape == (0, 3)


# Chamfer.

HERE = [[0.0, 0, 0], [1, 0, 0], [0, 4, 0]]
THERE = [[0.0, 0, 2], [1, 0, 0]]
# Nearest: (0,0,0) to (1,0,0): 1; (1,0,0): 0; (0,4,0) to (1,0,0): 17. Back: (0,0,2) to 0: 4; 0.
SQUARED = ((1 + 0 + 17) / 3, (4 + 0) / 2)
PLAIN = ((1 + 0 + math.sqrt(17)) / 3, (2 + 0) / 2)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("directions", ["sum", "mean"])
def test_chamfer_by_hand(squared, directions):
    a, b = SQUARED if squared else PLAIN
    expected = a + b if directions == "sum" else (a + b) / 2
    here, there = (torch.tensor(c, dtype=torch.float64) for c in (HERE, THERE))
    found = chamfer(here, there, squared=squared, directions=directions)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-14)
    swapped = chamfer(there, here, squared=squared, directions=directions)
    assert swapped.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("squared", [True, False])
def test_chamfer_of_batches(squared):
    points, target = random(3, 6, 3), random(3, 4, 3)
    found = chamfer(points, target, squared=squared, directions="mean")
    each = [
        chamfer(p, t, squared=squared, directions="mean")
        for p, t in zip(points, target, strict=True)
    ]
    assert torch.equal(found, torch.stack(each))


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_chamfer_derivatives(squared, shape):
    points, target = random(*shape, 3), random(*shape[:-1], 5, 3)
    assert gradcheck(lambda p, t: chamfer(p, t, squared=squared), (points, target))


@pytest.mark.parametrize("squared", [True, False])
def test_chamfer_of_equal_clouds_is_a_flat_zero(squared):
    points = torch.randn(20, 3, requires_grad=True)
    loss = chamfer(points, points.detach().flip(0), squared=squared)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(points.grad, torch.zeros(20, 3))


def test_chamfer_errors():
    cloud = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"chamfer: points must be .*got \(4, 2\)"):
        chamfer(torch.zeros(4, 2), cloud)
    with pytest.raises(ValueError, match=r"chamfer: target must be .*not empty, got \(0, 3\)"):
        chamfer(cloud, torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"one cloud for each of points \(2, 4, 3\), got \(4, 3\)"):
        chamfer(torch.zeros(2, 4, 3), cloud)
    with pytest.raises(ValueError, match=r"one dtype .*float32 on cpu and torch\.float64 on cpu"):
        chamfer(cloud, cloud.double())
    with pytest.raises(ValueError, match='directions must be "sum" or "mean", got \'both\''):
        chamfer(cloud, cloud, directions="both")
    with pytest.raises(ValueError, match="must be finite"):
        chamfer(cloud, torch.full((2, 3), math.nan))


# Points and surfaces.


def test_point_to_surface_by_hand():
    mesh = tetrahedron()
    # Before the face x = 0, before the corner (1, 0, 0), before the edge along z, and on a face.
    points = [[-2.0, 0.25, 0.25], [3.0, 0, 0], [-3.0, -4.0, 0.5], [0.2, 0.2, 0]]
    points = torch.tensor(points, dtype=torch.float64)
    found = point_to_surface(points, mesh)
    assert found.item() == pytest.approx((4 + 4 + 25 + 0) / 4, rel=1e-14)
    found = point_to_surface(points, mesh, squared=False)
    assert found.item() == pytest.approx((2 + 2 + 5 + 0) / 4, rel=1e-14)


@pytest.mark.parametrize("squared", [True, False])
def test_point_to_surface_derivatives(squared):
    """Closest points count as constants, and still the derivative is the whole one."""
    mesh = tetrahedron()
    points = random(8, 3)
    vertices = mesh.vertices.requires_grad_()
    assert gradcheck(
        lambda p, v: point_to_surface(p, Mesh(v, mesh.faces), squared=squared), (points, vertices)
    )


def test_point_to_surface_of_a_face_without_area():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], requires_grad=True)
    mesh = Mesh(vertices, torch.tensor([[0, 1, 3]]))
    loss = point_to_surface(torch.tensor([[0.5, -1.0, 0.0]]), mesh)
    assert loss.item() == 1.0
    loss.backward()
    # The nearest point lies halfway between two corners, which share its pull.
    assert torch.equal(vertices.grad.sum(dim=0), torch.tensor([0.0, 2.0, 0.0]))
    assert torch.equal(vertices.grad[0], torch.tensor([0.0, 1.0, 0.0]))


def test_point_to_surface_errors():
    mesh = tetrahedron()
    with pytest.raises(ValueError, match=r"point_to_surface: points must be .*got \(0, 3\)"):
        point_to_surface(torch.zeros(0, 3, dtype=torch.float64), mesh)
    with pytest.raises(ValueError, match="one dtype and device"):
        point_to_surface(torch.zeros(1, 3), mesh)
    empty = Mesh(mesh.vertices, torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="mesh must have faces, got none"):
        point_to_surface(torch.zeros(1, 3, dtype=torch.float64), empty)


@pytest.mark.parametrize("squared", [True, False])
def test_what_is_out_of_reach_does_not_pull(squared):
    mesh = tetrahedron()
    points = torch.tensor([[-0.1, 0.2, 0.2], [-2.0, 0.2, 0.2]], dtype=torch.float64)
    points.requires_grad_()
    near = point_to_surface(points[:1], mesh, squared=squared)
    found = point_to_surface(points, mesh, squared=squared, reach=0.5)
    assert found.item() == pytest.approx((near.item() + (0.25 if squared else 0.5)) / 2)
    (grad,) = torch.autograd.grad(found, points)
    assert torch.equal(grad[1], torch.zeros(3, dtype=torch.float64))
    assert grad[0, 0].item() == pytest.approx(-0.1 if squared else -0.5)
    with pytest.raises(ValueError, match="reach must be positive, got 0"):
        point_to_surface(points, mesh, reach=0)


def test_surface_loss_pulls_vertices_to_the_target(generator):
    inner, outer = (isosurface(sphere(radius), -1, 1, 32).detach() for radius in (0.6, 0.7))
    points = outer.sample(4000, generator).points
    vertices = inner.vertices.clone().requires_grad_()
    loss = surface_loss(Mesh(vertices, inner.faces), outer, points, generator)
    # Chords of cells of 1/16 sag by up to (1/16)^2 / (8 * 0.6) = 8e-4, of 0.1.
    assert loss.item() == pytest.approx(2 * 0.1**2, rel=0.05)
    loss.backward()
    # d/dr of 2 (0.7 - r)^2 along the normals.
    outward = (vertices.grad * torch.nn.functional.normalize(inner.vertices, dim=1)).sum()
    assert outward.item() == pytest.approx(-4 * 0.1, rel=0.05)


def test_surface_loss_derivatives(generator):
    target = isosurface(gyroid, -1, 1, 3, dtype=torch.float64).detach()
    target_points = target.sample(6, generator).points
    mesh = tetrahedron()

    # The draws depend on areas: the derivative takes them as fixed, so the check moves the mesh as
    # a whole, which changes no area.
    def moved(shift):
        draws = torch.Generator().manual_seed(0)
        return surface_loss(Mesh(mesh.vertices + shift, mesh.faces), target, target_points, draws)

    assert gradcheck(moved, random(3))


def test_surface_loss_errors():
    mesh = tetrahedron()
    flat = Mesh(torch.zeros(4, 3, dtype=torch.float64), mesh.faces)
    points = mesh.sample(5).points
    with pytest.raises(ValueError, match="must have a finite area"):
        surface_loss(flat, mesh, points)
    with pytest.raises(ValueError, match="points must be"):
        surface_loss(mesh, mesh, points[:0])
