# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.testing import assert_close

import diffiso
from diffiso import proximity, shapes
from diffiso.losses import point_to_surface
from diffiso.proximity import SurfaceTree, closest_points, nearest_neighbors, winding_numbers
from diffiso.types import Mesh


def clouds(generator, dtype=torch.float64):
    return (
        torch.rand(200, 3, generator=generator, dtype=dtype),
        torch.rand(300, 3, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize("search", ["tree", "every pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbors_are_those_of_all_pairs(search, dtype, generator):
    points, cloud = clouds(generator, dtype)
    find = nearest_neighbors if search == "tree" else proximity._measure_all
    found = find(points, cloud, 3)
    pairs = (points[:, None].double() - cloud[None].double()).norm(dim=2)
    expected = pairs.topk(3, dim=1, largest=False)
    assert torch.equal(found.indices, expected.indices)
    assert found.distances.dtype == dtype
    assert_close(found.distances, expected.values.to(dtype))


def test_every_pair_in_chunks_is_the_same(generator, monkeypatch):
    points, cloud = clouds(generator)
    whole = proximity._measure_all(points, cloud, 2)
    monkeypatch.setattr(proximity, "_PAIRS", 7 * len(cloud))
    parts = proximity._measure_all(points, cloud, 2)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.distances, parts.distances)


@pytest.mark.parametrize("find", [nearest_neighbors, proximity._measure_all])
def test_no_queries_no_neighbors(find):
    found = find(torch.zeros(0, 3), torch.zeros(4, 3), 2)
    assert found.distances.shape == found.indices.shape == (0, 2)


def test_a_single_query_on_a_mesh():
    mesh = diffiso.isosurface(shapes.Sphere(0.5), -1.0, 1.0, 32)
    nearest = closest_points(mesh, torch.tensor([[2.0, 0.0, 0.0]]))
    assert nearest.points.shape == nearest.barycentric.shape == (1, 3)
    # The sphere's sag within a cell of 1/16 is 1e-3.
    assert float(nearest.distances[0]) == pytest.approx(1.5, abs=2e-3)
    assert winding_numbers(mesh, torch.zeros(1, 3)).shape == (1,)


@pytest.mark.parametrize("height", [0.5, 1e-6, 1e-9, 1e-13, 0.0])
def test_barycentrics_lead_back_to_the_point_on_slivers_too(height, generator):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.3, height, 0]], dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    mesh = Mesh(corners @ turn + 2, torch.tensor([[0, 1, 2]]))
    points = 2 + torch.randn(100, 3, generator=generator, dtype=torch.float64)
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        faces = torch.tensor([order])
        nearest = closest_points(Mesh(mesh.vertices, faces), points)
        found = (mesh.vertices[faces[nearest.faces]] * nearest.barycentric[..., None]).sum(dim=1)
        assert_close(found, nearest.points, rtol=0, atol=1e-14)
        assert nearest.barycentric.min() >= 0
        assert_close(nearest.barycentric.sum(dim=1), torch.ones(100).double(), rtol=0, atol=1e-14)


def test_winding_numbers_tell_inside_from_outside(generator):
    mesh = diffiso.isosurface(shapes.Torus(0.6, 0.25), -1.0, 1.0, 32)
    points = 2 * torch.rand(500, 3, generator=generator) - 1
    far = shapes.Torus(0.6, 0.25)(points).abs() > 0.02  # beyond what the mesh rounds off
    inside = shapes.Torus(0.6, 0.25)(points) < 0
    numbers = winding_numbers(mesh, points)
    assert torch.equal((numbers > 0.5)[far], inside[far])
    assert numbers.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nearest_neighbors(torch.zeros(3), torch.zeros(4, 3)),
            r"nearest_neighbors: points must be \(P, D\), got \(3,\)",
        ),
        (
            lambda: nearest_neighbors(torch.zeros(3, 3), torch.full((4, 3), math.nan)),
            "cloud must be finite",
        ),
        (
            lambda: nearest_neighbors(torch.zeros(3, 2), torch.zeros(4, 3)),
            "equal dimensions, got 2 and 3",
        ),
        (
            lambda: nearest_neighbors(torch.zeros(3, 3), torch.zeros(4, 3), 5),
            "count must be 1 to the cloud's 4 points, got 5",
        ),
        (
            lambda: nearest_neighbors(torch.ones(1, 3).long(), torch.rand(4, 3)),
            "nearest_neighbors: points must be floating point, got torch.int64",
        ),
        (
            lambda: closest_points(
                Mesh(torch.eye(3), torch.arange(3)[None]), torch.ones(1, 3).long()
            ),
            "closest_points: points must be floating point, got torch.int64",
        ),
        (
            lambda: closest_points(
                Mesh(torch.zeros(0, 3), torch.zeros(0, 3).long()), torch.ones(1, 3)
            ),
            "mesh must have faces, got none",
        ),
        (
            lambda: closest_points(Mesh(torch.eye(3), torch.arange(3)[None]), torch.ones(1, 2)),
            r"closest_points: points must be \(P, 3\), got \(1, 2\)",
        ),
        (
            lambda: winding_numbers(
                Mesh(torch.eye(3), torch.arange(3)[None]), torch.full((1, 3), math.inf)
            ),
            "winding_numbers: points must be finite",
        ),
        (
            lambda: winding_numbers(Mesh(torch.eye(3), torch.arange(1, 4)[None]), torch.ones(1, 3)),
            "faces must index the 3 vertices, got indices from 1 to 3",
        ),
    ],
)
def test_errors_name_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tree_answers_as_its_mesh(generator):
    mesh = diffiso.isosurface(shapes.Sphere(0.5), -1.0, 1.0, 16, dtype=torch.float64)
    tree = SurfaceTree(mesh)
    for count in (1, 100):
        points = torch.randn((count, 3), generator=generator, dtype=mesh.vertices.dtype)
        expected, found = closest_points(mesh, points), closest_points(tree, points)
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)


def test_a_tree_is_a_surface_at_rest(generator):
    sphere = diffiso.isosurface(shapes.Sphere(0.5), -1.0, 1.0, 16, dtype=torch.float64)
    vertices = sphere.vertices.detach().requires_grad_()
    tree = SurfaceTree(Mesh(vertices, sphere.faces))
    points = torch.randn((10, 3), generator=generator, dtype=vertices.dtype).requires_grad_()
    point_to_surface(points, tree).backward()
    assert points.grad.any()
    assert vertices.grad is None


def test_trees_need_faces():
    with pytest.raises(ValueError, match="mesh must have faces, got none"):
        SurfaceTree(Mesh(torch.zeros(0, 3), torch.zeros((0, 3), dtype=torch.int64)))
