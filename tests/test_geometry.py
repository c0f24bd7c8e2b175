# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from fields import sample, sphere
from torch.testing import assert_close

import diffiso
from diffiso import geometry, shapes
from diffiso.types import Grid, Mesh, MeshBatch

TETRAHEDRON = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
SIDES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def ball(resolution=48, radius=0.6, dtype=torch.float64):
    mesh = diffiso.isosurface(shapes.Sphere(radius), -1.0, 1.0, resolution, dtype=dtype)
    assert isinstance(mesh, Mesh)
    return mesh


# Values.


def test_a_tetrahedron_by_hand():
    mesh = Mesh(TETRAHEDRON, SIDES)
    areas = geometry.face_areas(mesh.vertices, mesh.faces)
    assert_close(areas, torch.tensor([0.5, 0.5, 0.5, math.sqrt(3) / 2], dtype=torch.float64))
    assert_close(mesh.area(), areas.sum())
    assert_close(mesh.volume(), torch.tensor(1 / 6, dtype=torch.float64))
    third = 1 / math.sqrt(3)
    expected = torch.tensor([[0, 0, -1], [0, -1, 0], [-1, 0, 0], [third] * 3], dtype=torch.float64)
    assert_close(mesh.face_normals(), expected)
    # At the origin three right angles meet: the mean of three axes.
    assert_close(mesh.vertex_normals()[0], torch.tensor([-third] * 3, dtype=torch.float64))
    # At (1, 0, 0) two angles of 45 degrees and one of 60 weigh the three normals.
    turned = expected[0] * math.pi / 4 + expected[1] * math.pi / 4 + expected[3] * math.pi / 3
    assert_close(mesh.vertex_normals()[1], turned / turned.norm())
    assert mesh.euler_number() == 2
    assert mesh.open_edge_count() == 0


def test_a_ball_has_its_volume_area_and_normals():
    mesh = ball()
    # A face's diagonal of sqrt(2) / 24 sags by its square over 8 * 0.6, 7e-4: 0.12 % of the
    # radius, three times as much of the volume, twice as much of the area.
    assert float(mesh.volume()) == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=3.6e-3)
    assert float(mesh.area()) == pytest.approx(4 * math.pi * 0.6**2, rel=2.4e-3)
    outward = mesh.vertices.detach() / mesh.vertices.detach().norm(dim=1, keepdim=True)
    # Worst where marching cubes leaves slivers; a cell is seen under 4 degrees from the middle.
    assert float((mesh.vertex_normals() * outward).sum(dim=1).min()) > math.cos(math.radians(4))


def test_volume_does_not_depend_on_the_place():
    here = Mesh(TETRAHEDRON.float(), SIDES)
    far = Mesh(TETRAHEDRON.float() + 1000, SIDES)
    # Positions near 1000 are rounded to 6e-5; products of them would be to 6e4 * 6e-8 = 4e-3.
    assert float(far.volume()) == pytest.approx(float(here.volume()), abs=1e-6)


def test_turning_faces_over_turns_signs():
    mesh = Mesh(TETRAHEDRON, SIDES.flip(1))
    assert_close(mesh.volume(), torch.tensor(-1 / 6, dtype=torch.float64))
    assert_close(mesh.face_normals(), -Mesh(TETRAHEDRON, SIDES).face_normals())


def test_open_and_misoriented_edges_are_counted():
    assert Mesh(TETRAHEDRON, SIDES[1:]).open_edge_count() == 3
    mixed = torch.cat([SIDES[:1].flip(1), SIDES[1:]])
    assert Mesh(TETRAHEDRON, mixed).open_edge_count() == 3
    assert Mesh(TETRAHEDRON, torch.tensor([[0, 0, 1]])).open_edge_count() == 0
    assert Mesh(TETRAHEDRON, SIDES[:0]).open_edge_count() == 0
    assert Mesh(TETRAHEDRON, SIDES[:0]).euler_number() == 0


# Gradients.


@pytest.mark.parametrize(
    "function",
    [
        geometry.face_areas,
        geometry.face_normals,
        geometry.vertex_normals,
        geometry.surface_area,
        geometry.volume,
    ],
)
def test_gradients(function, generator):
    vertices = TETRAHEDRON + 0.1 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: function(v, SIDES), (vertices.requires_grad_(),))


def test_samples_move_with_the_vertices():
    vertices = TETRAHEDRON.clone().requires_grad_()

    def points(moved):
        return geometry.sample_surface(moved, SIDES, 7, torch.Generator().manual_seed(1)).points

    samples = geometry.sample_surface(vertices, SIDES, 7, torch.Generator().manual_seed(1))
    weighted = (vertices[SIDES[samples.faces]] * samples.barycentric[..., None]).sum(dim=1)
    assert_close(samples.points, weighted)
    # A translation moves every point by as much; which points were drawn does not change.
    assert_close(points(vertices + 2.0), samples.points + 2.0)
    samples.points.sum().backward()
    assert_close(vertices.grad.sum(), torch.tensor(21.0, dtype=torch.float64))


@pytest.mark.parametrize("name", ["face_normals", "vertex_normals", "area", "volume"])
def test_faces_without_area_do_no_harm(name):
    """Two coincident corners, three in a line, and a vertex that no face uses."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [9, 9, 9]])
    vertices = corners.clone().requires_grad_()
    faces = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 1, 3]])
    result = getattr(Mesh(vertices, faces), name)()
    weights = torch.linspace(1, 2, result.numel()).view(result.shape)
    (result * weights).sum().backward()
    assert result.isfinite().all()
    assert vertices.grad.isfinite().all()
    if name == "face_normals":
        assert_close(result[:1].detach(), Mesh(corners, faces[:1]).face_normals())
        assert_close(result[1:].detach(), torch.zeros(2, 3))
    elif name == "volume":
        assert_close(result.detach(), geometry.face_volumes(corners, faces[:1]).sum())
    else:
        assert_close(result.detach(), getattr(Mesh(corners, faces[:1]), name)())


def test_an_empty_mesh_is_still_attached():
    radius = torch.tensor(0.5, requires_grad=True)
    mesh = diffiso.isosurface(lambda p: p.norm(dim=1) + radius, -1, 1, 8)
    (mesh.area() + mesh.volume() + mesh.vertex_normals().sum()).backward()
    assert float(radius.grad) == 0


# Batches.


def test_batches_give_one_number_a_mesh():
    values = torch.stack([sample(sphere(r), (24, 24, 24)) for r in (0.3, 0.9, 0.6)])
    values[1] = 1.0
    batch = diffiso.marching_cubes(Grid.from_bounds(values.requires_grad_(), -1.0, 1.0))
    assert isinstance(batch, MeshBatch)
    assert_close(batch.area(), torch.stack([mesh.area() for mesh in batch]))
    # Volumes are taken about the middle of all vertices, or of each mesh's: rounding differs.
    singles = torch.stack([mesh.volume() for mesh in batch])
    assert_close(batch.volume(), singles, rtol=1e-12, atol=1e-14)
    assert float(batch.volume()[1].detach()) == 0
    (gradient,) = torch.autograd.grad(batch.volume()[2], values)
    assert float(gradient[0].abs().max()) == 0
    assert float(gradient[2].abs().max()) > 0


# Attributes.


def test_attributes_of_a_field_reach_field_and_vertices():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    mesh = diffiso.isosurface(
        lambda p: p.norm(dim=1) - radius,
        -1.0,
        1.0,
        16,
        dtype=torch.float64,
        attributes=lambda p: scale * p.square().sum(dim=1),
    )
    assert mesh.attributes.shape == (len(mesh.vertices), 1)
    assert_close(mesh.attributes[:, 0], 2 * mesh.vertices.square().sum(dim=1))
    mesh.attributes.mean().backward()
    squares = mesh.vertices.detach().square().sum(dim=1)
    assert_close(scale.grad, squares.mean())
    # d(2 r^2)/dr = 4 r where the vertices are; they lie within a chord's sag of the sphere.
    assert float(radius.grad) == pytest.approx(4 * float(squares.sqrt().mean()), rel=1e-9)


def test_attributes_of_a_grid_are_read_trilinearly_and_stop_at_its_box():
    axes = [torch.linspace(-0.5, 0.5, n) for n in (5, 6, 7)]
    channels = torch.stack(torch.meshgrid(*axes, indexing="ij")).requires_grad_()
    colors = Grid.from_bounds(channels, -0.5, 0.5)
    points = torch.tensor([[0.1, -0.2, 0.3], [0.5, 0.5, 0.5], [2.0, 0.0, -3.0]])
    read = diffiso.vertex_attributes(colors, points)
    # A linear function is reproduced but for rounding; beyond the box it stays what it was there.
    assert_close(read, points.clamp(-0.5, 0.5), rtol=0, atol=1e-6)
    read.sum().backward()
    assert float(channels.grad.sum()) == pytest.approx(9.0)
    single = diffiso.vertex_attributes(Grid.from_bounds(channels[1].detach(), -0.5, 0.5), points)
    assert_close(single, read[:, 1:2].detach())


def test_attributes_travel_with_the_mesh():
    mesh = diffiso.isosurface(shapes.Sphere(0.5), -1.0, 1.0, 8, attributes=lambda p: p)
    assert mesh.to("cpu").attributes is not None
    assert mesh.detach().attributes.requires_grad is False


# Errors.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mesh(TETRAHEDRON, SIDES).sample(-1), "count must not be negative, got -1"),
        (lambda: Mesh(TETRAHEDRON, SIDES[:0]).sample(3), "finite area, got 0 faces of 0"),
        (lambda: Mesh(TETRAHEDRON * 0, SIDES).sample(3), "finite area, got 4 faces of 0"),
        (lambda: Mesh(TETRAHEDRON * math.nan, SIDES).sample(3), "got 4 faces of nan"),
        (
            lambda: diffiso.isosurface(
                shapes.Sphere(0.5), -1.0, 1.0, 4, attributes=lambda p: p[:2]
            ),
            r"attributes must return \(P, C\) or \(P,\) for \d+ points, got \(2, 3\)",
        ),
        (
            lambda: diffiso.isosurface(
                Grid(torch.randn(2, 4, 4, 4)), attributes=Grid(torch.zeros(3, 4, 4, 4))
            ),
            "attributes are for single grids, got a batch",
        ),
    ],
)
def test_errors_name_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
