# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
import trimesh

import diffiso
from diffiso import metrics, shapes
from diffiso.metrics import (
    error_map,
    hausdorff,
    on_meshes,
    sample_evenly,
    surface_distance,
    surface_iou,
    vertex_distance,
    volume_iou,
)
from diffiso.types import Mesh

EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))


def square(height=0.0, side=1.0):
    """A square of two triangles, parallel to the floor."""
    corners = [[0, 0, height], [side, 0, height], [side, side, height], [0, side, height]]
    return Mesh(torch.tensor(corners, dtype=torch.float64), torch.tensor([[0, 1, 2], [0, 2, 3]]))


def cube(side=1.0, corner=(0.0, 0.0, 0.0)):
    box = trimesh.creation.box(extents=(side,) * 3)
    vertices = torch.tensor(np.array(box.vertices)) + side / 2 + torch.tensor(corner).double()
    return Mesh(vertices, torch.tensor(np.array(box.faces)))


def ball(radius, subdivisions=4):
    sphere = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(torch.tensor(np.array(sphere.vertices)), torch.tensor(np.array(sphere.faces)))


def torus():
    mesh = diffiso.isosurface(shapes.Torus(0.6, 0.25), -1.0, 1.0, 24)
    return Mesh(mesh.vertices.detach(), mesh.faces)


def by_trimesh(mesh, points):
    """Distances of points to a mesh, computed by trimesh alone."""
    surface = trimesh.Trimesh(*mesh.numpy(), process=False)
    return trimesh.proximity.closest_point_naive(surface, points.numpy())[1]


# Distances to triangles.


def test_surface_distance_has_no_floor_and_measures_offsets(generator):
    inner, outer = ball(0.6), ball(0.7)
    same = surface_distance(inner, inner, 5000, generator)
    # A sample lies off its face by rounding alone; libigl's squares have a root of that.
    assert same.rms < 1e-7
    apart = surface_distance(inner, outer, 5000, generator)
    # Chords of edges of 0.06 sag by 0.06^2 / (8 * 0.6) = 8e-4.
    assert apart.there == pytest.approx(0.1, abs=1e-3)
    assert apart.back == pytest.approx(0.1, abs=1e-3)
    assert apart.rms == pytest.approx(0.1, abs=1e-3)
    assert apart.side == pytest.approx(1.4, abs=1e-3)
    assert apart.worst >= apart.rms
    assert "of the longest side" in str(apart)
    assert apart.as_dict()["rms_share_of_side"] == apart.rms / apart.side


def test_parallel_squares():
    found = surface_distance(square(0.25), square(), 100)
    # Exact up to rounding.
    assert (found.there, found.back, found.worst) == pytest.approx((0.25, 0.25, 0.25), rel=1e-12)
    assert found.side == 1.0
    found = hausdorff(square(0.25), square(), 100)
    assert (found.there, found.back, found.distance) == pytest.approx((0.25,) * 3, rel=1e-12)
    assert found.share_of_diagonal == pytest.approx(0.25 / math.sqrt(2))
    assert found.share_of_side == pytest.approx(0.25)


def test_directions_differ_where_one_surface_has_more():
    small, large = square(side=1.0), square(side=3.0)
    found = hausdorff(small, large, 100)
    # The far corner of the large square is a diagonal of two away from the small one.
    assert found.there == pytest.approx(0, abs=1e-12)
    assert found.back == found.distance == pytest.approx(math.sqrt(8))
    assert (found.side, found.diagonal) == pytest.approx((3, math.sqrt(18)))
    distance = surface_distance(small, large, 1000)
    assert distance.there == pytest.approx(0, abs=1e-12)
    assert distance.back > 0.5


def test_hausdorff_looks_into_faces(generator):
    """Four corners on a square with a tent in the middle: no vertex of the square is off it."""
    roof = torch.cat([square().vertices, torch.tensor([[0.5, 0.5, 0.5]]).double()])
    tent = Mesh(roof, torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]))
    # The square's centre is sqrt(1/8) from the tent's slopes; 1,000 samples come within 0.03 of it.
    expected = 0.5 / math.sqrt(2)
    assert vertex_distance(tent, square()).mean == pytest.approx(0, abs=1e-12)
    found = hausdorff(square(), tent, 1000, generator)
    assert expected - 0.05 < found.there <= expected
    assert found.back == pytest.approx(0.5)


def test_distances_are_those_of_trimesh(generator):
    mesh, reference = torus(), ball(0.7, 2)
    found = vertex_distance(mesh, reference, (0.05, 0.1))
    expected = by_trimesh(mesh, reference.vertices)
    assert found.vertices == len(reference.vertices)
    # The torus has vertices of float32, which trimesh and libigl take as they are.
    close = {"rel": 1e-6}
    assert found.mean == pytest.approx(expected.mean(), **close)
    assert found.deviation == pytest.approx(expected.std(), **close)
    assert found.median == pytest.approx(np.median(expected), **close)
    assert found.percentile_90 == pytest.approx(np.percentile(expected, 90), **close)
    assert found.shares == ((expected > 0.05).mean(), (expected > 0.1).mean())
    assert 0 < found.shares[1] < found.shares[0] < 1

    points = reference.sample(200, generator).points
    again = torch.Generator().manual_seed(0)
    there = surface_distance(reference, mesh, 200, again).there
    assert there == pytest.approx(np.sqrt((by_trimesh(mesh, points) ** 2).mean()), **close)


def test_vertices_without_faces_do_not_count():
    lone = square().vertices.clone()
    lone = torch.cat([lone, torch.tensor([[50.0, 0.0, 0.0]]).double()])
    stray = Mesh(lone, square().faces)
    assert vertex_distance(square(0.5), stray).vertices == 4
    found = hausdorff(square(0.5), stray, 10)
    assert (found.distance, found.side) == pytest.approx((0.5, 1.0))


def test_dtypes_may_differ_between_meshes():
    single = Mesh(square(0.25).vertices.float(), square().faces.int())
    assert surface_distance(single, square(), 100).rms == pytest.approx(0.25)
    assert vertex_distance(single, square()).mean == pytest.approx(0.25)
    assert volume_iou(Mesh(cube().vertices.float(), cube().faces), cube()) == 1.0


# Where the error is.


def test_error_maps_are_fine_closed_and_the_same_surface():
    coarse = cube()
    found = error_map(coarse, cube(1.0, (0.1, 0.0, 0.0)), edge=0.07)
    corners = found.mesh.vertices[found.mesh.faces]
    assert float((corners - corners.roll(1, dims=1)).norm(dim=2).max()) <= 0.07
    assert found.mesh.open_edge_count() == 0
    assert found.mesh.euler_number() == 2
    # Sums of thousands of products, rounded.
    assert float(found.mesh.area()) == pytest.approx(6, rel=1e-12)
    assert float(found.mesh.volume()) == pytest.approx(1, rel=1e-12)
    # The side at x = 0 is 0.1 away; that at x = 1 lies within, 0.1 below the other's.
    left = found.mesh.vertices[:, 0] == 0
    assert bool(left.any())
    assert torch.allclose(found.distances[left], torch.tensor(0.1, dtype=torch.float64))
    assert float(found.distances.max()) == pytest.approx(0.1)


def test_error_maps_leave_fine_meshes_alone():
    mesh = ball(0.5, 3)
    found = error_map(mesh, mesh, edge=1.0)
    assert torch.equal(found.mesh.faces, mesh.faces)
    assert torch.equal(found.mesh.vertices, mesh.vertices)
    assert float(found.distances.max()) < 1e-7


def test_error_maps_see_what_corners_do_not():
    roof = torch.cat([square().vertices, torch.tensor([[0.5, 0.5, 0.5]]).double()])
    tent = Mesh(roof, torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]))
    assert float(error_map(square(), tent, edge=9.0).distances.max()) < 1e-9
    assert float(error_map(square(), tent).distances.max()) == pytest.approx(0.5 / math.sqrt(2))


# Overlap.


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, 1.0), (0.5, 1 / 3), (1.0, 0.0), (0.25, 0.6), (-0.5, 1 / 3)]
)
def test_cubes_that_overlap(shift, expected):
    """Whole cells: 8 a side, so that the shift is a number of them and the answer exact."""
    found = volume_iou(cube(1.0, (shift, 0.0, 0.0)), cube(), resolution=8)
    assert found == pytest.approx(expected)


def test_what_sticks_out_of_the_box_counts():
    """A cube of side 3 around one of side 1: without the outside it would score 1."""
    assert volume_iou(cube(3.0, (-1.0,) * 3), cube(), resolution=8) == pytest.approx(1 / 27)


def test_volumes_of_concentric_balls():
    # Some thousand cells on the surface are cut by chance: 0.5 % is many deviations.
    found = volume_iou(ball(0.4), ball(0.5), resolution=64)
    assert found == pytest.approx(0.8**3, rel=5e-3)


def test_orientation_does_not_matter_to_volumes():
    inside_out = Mesh(cube().vertices, cube().faces.flip(1))
    assert volume_iou(inside_out, cube()) == 1.0


def test_cells_have_the_proportions_of_the_box():
    points = torch.tensor([[0.5, 5.0, 50.0], [1.5, 15.0, 150.0]])
    box = {"lower": torch.zeros(3), "upper": torch.tensor([2.0, 20.0, 200.0]), "resolution": 2}
    # The same two cells of eight; then one of them and its neighbour along y.
    assert surface_iou(points, points * 0.9, **box) == 1.0
    moved = torch.tensor([[0.5, 15.0, 50.0], [1.5, 15.0, 150.0]])
    assert surface_iou(points, moved, **box) == pytest.approx(1 / 3)


def test_cells_on_the_sides_of_the_box_and_beyond():
    box = {"lower": torch.zeros(3), "upper": torch.ones(3), "resolution": 4}
    corner, near = torch.ones(1, 3), torch.full((1, 3), 0.99)
    assert surface_iou(corner, near, **box) == 1.0
    assert surface_iou(torch.full((1, 3), 1.01), near, **box) == 0.0
    # Beyond the box cells go on: these two share one, far out.
    assert surface_iou(torch.full((1, 3), 7.01), torch.full((1, 3), 7.02), **box) == 1.0
    assert surface_iou(torch.full((1, 3), 1e6), torch.full((1, 3), -1e6), **box) == 0.0


def test_the_box_is_that_of_the_reference_and_may_be_flat():
    flat = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    assert surface_iou(flat, flat) == 1.0
    assert surface_iou(flat + torch.tensor([0.0, 0.0, 0.5]), flat) == 0.0


# Samples.


def test_even_samples_keep_their_distance(generator):
    mesh = torus()
    samples = sample_evenly(mesh, 500, generator)
    pairs = torch.cdist(samples.points, samples.points) + torch.eye(500)
    radius = math.sqrt(float(mesh.area()) / 1500)
    assert float(pairs.min()) > radius
    corners = mesh.vertices[mesh.faces[samples.faces]]
    rebuilt = (corners * samples.barycentric[..., None]).sum(dim=1)
    # Three products of the order of one, rounded.
    assert torch.allclose(rebuilt, samples.points, atol=1e-6)
    assert sample_evenly(mesh, 0).points.shape == (0, 3)


def test_even_samples_fill_up_between_sheets_that_touch(generator):
    """Forty squares on top of each other have room for few points: the count holds all the same."""
    sheets = torch.cat([square(1e-6 * k).vertices for k in range(40)])
    faces = torch.cat([square().faces + 4 * k for k in range(40)])
    assert sample_evenly(Mesh(sheets, faces), 300, generator).points.shape == (300, 3)


def test_samples_repeat_and_the_limit_is_the_references_own(generator):
    mesh, reference = ball(0.6, 3), ball(0.5, 3)
    calls = []

    def record(cloud, target):
        calls.append((cloud, target))
        return len(calls)

    score = on_meshes(
        record, mesh, reference, count=50, frame="unit_cube", scale=10.0, generator=generator
    )
    assert (score.value, score.limit, score.result) == (10.0, 20.0, 1)
    (ours, target), (second, same) = calls
    assert target is same
    # Fitted to the reference: its radius becomes a half, and the other's six tenths; chords sag.
    assert ours.points.norm(dim=1).mean() == pytest.approx(0.6, abs=5e-3)
    assert target.points.norm(dim=1).mean() == pytest.approx(0.5, abs=5e-3)
    assert second.points.norm(dim=1).mean() == pytest.approx(0.5, abs=5e-3)
    assert not torch.equal(second.points, target.points)
    assert torch.allclose(target.upper - target.lower, torch.ones(3, dtype=torch.float64))
    # A sphere's normals point away from its middle, up to half an edge.
    outward = torch.nn.functional.normalize(target.points, dim=1)
    assert float((target.normals * outward).sum(dim=1).min()) > 0.99


# Errors.


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (EMPTY, "mesh must have faces, got none"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 1]])), "finite area, got 1 faces of 0 in all"),
        (Mesh(torch.full((3, 3), math.nan), torch.arange(3)[None]), "finite vertices, got 3 that"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 3]])), "index its 3 vertices, got .* 0 to 3"),
    ],
)
@pytest.mark.parametrize(
    "score",
    [
        surface_distance,
        hausdorff,
        vertex_distance,
        volume_iou,
        error_map,
        metrics.compare,
        lambda a, b: on_meshes(lambda c, d: 0.0, a, b, count=5),
        lambda a, b: metrics.PROTOCOLS["chamfer_1k"].score(a, b),
    ],
)
def test_bad_meshes_are_named(score, mesh, message):
    with pytest.raises(ValueError, match=message):
        score(mesh, square())
    with pytest.raises(ValueError, match=message.replace("mesh must", "reference must")):
        score(square(), mesh)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surface_distance(square(), square(), 0), "samples must be positive, got 0"),
        (lambda: hausdorff(square(), square(), -1), "samples must be positive, got -1"),
        (lambda: volume_iou(cube(), cube(), resolution=0), "resolution must be positive, got 0"),
        (lambda: volume_iou(cube(), square(0.1)), "must enclose a cell's centre, got none of 32"),
        (lambda: volume_iou(cube(1e3), cube()), "mesh must not be much larger .* 1e.03"),
        (lambda: error_map(cube(), cube(), edge=0.0), "edge must be positive, got 0.0"),
        (lambda: sample_evenly(EMPTY, 5), "mesh must have a finite area"),
        (
            lambda: surface_iou(torch.zeros(1, 3), torch.zeros(1, 3)),
            "surface_iou: upper must be above lower",
        ),
        (
            lambda: on_meshes(lambda a, b: 0.0, cube(), cube(), count=0),
            "on_meshes: count must be positive, got 0",
        ),
    ],
)
def test_errors_name_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
