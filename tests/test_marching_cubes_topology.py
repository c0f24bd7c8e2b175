# SPDX-License-Identifier: Apache-2.0
"""Closedness, orientation, Euler numbers and symmetries of extracted surfaces."""

import hashlib
import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import assert_within_ulps
from fields import (
    GRID_DTYPES,
    box,
    gyroid,
    periodic_gyroid,
    random_shape,
    random_ties,
    sample,
    sphere,
    sprinkle,
    torus,
)
from topology import (
    AXIS,
    check_crack_free,
    directed_edges,
    euler_number,
    face_segments,
    grid_edge_place,
    is_closed_and_oriented,
    transformed,
    transformed_edges,
    volume_and_area,
)

from diffiso import Grid, marching_cubes, reference

SEEDS = range(200)
SYMMETRIES = [
    (permutation, flips)
    for permutation in itertools.permutations(range(3))
    for count in range(4)
    for flips in itertools.combinations(range(3), count)
]
# One word of signs holds 32 or 64 nodes: rows that end just before, at and after a word.
ROW_LENGTHS = (31, 32, 33, 62, 63, 64, 65, 66, 127, 128, 129, 191, 194)


@pytest.fixture(autouse=True)
def _one_thread(threads):
    """Thousands of tiny grids: threads would only wait for each other."""
    threads(1)


def padded(values):
    """The lattice that `close_boundary` numbers: one layer of nodes that count as outside."""
    return torch.nn.functional.pad(values, (1,) * 6, value=math.inf)


def check_against_reference(values, level=0.0, **options):
    """Extract one grid, check it against the reference in float64, and return the mesh."""
    mesh = marching_cubes(values, level, return_edges=True, **options)
    exact = reference.marching_cubes(
        values[None].double(), torch.tensor([level]).double(), **options
    )
    assert torch.equal(mesh.faces, exact.faces)
    assert torch.equal(mesh.edges, exact.edges)
    assert_within_ulps(mesh.vertices, exact.vertices.to(mesh.vertices.dtype))
    return mesh


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_random_fields_with_ties(dtype):
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        values = random_ties(generator, random_shape(generator), dtype)
        for level in (0.0, 0.5):
            mesh = check_against_reference(values, level)
            check_crack_free(mesh.faces, mesh.edges, values)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_random_fields_with_nan_and_infinities(dtype):
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        values = sprinkle(random_ties(generator, random_shape(generator), dtype), generator)
        mesh = check_against_reference(values)
        check_crack_free(mesh.faces, mesh.edges, values)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_random_fields_closed_at_the_boundary(dtype):
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        values = random_ties(generator, random_shape(generator), dtype)
        mesh = check_against_reference(values, close_boundary=True)
        assert is_closed_and_oriented(mesh.faces)
        infinite = sprinkle(values, generator, (math.inf, -math.inf))
        mesh = check_against_reference(infinite, close_boundary=True)
        assert is_closed_and_oriented(mesh.faces)
        check_crack_free(mesh.faces, mesh.edges, padded(infinite))
        absent = sprinkle(values, generator)
        mesh = check_against_reference(absent, close_boundary=True)
        check_crack_free(mesh.faces, mesh.edges, padded(absent))


@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("length", ROW_LENGTHS)
def test_long_rows(length, close_boundary, generator):
    for dtype, special in itertools.product(GRID_DTYPES, ((), (math.nan, math.inf))):
        values = random_ties(generator, (3, 4, length), dtype)
        if special:
            values = sprinkle(values, generator, special, share=0.02)
        mesh = check_against_reference(values, close_boundary=close_boundary)
        check_crack_free(mesh.faces, mesh.edges, padded(values) if close_boundary else values)


@pytest.mark.parametrize("close_boundary", [False, True])
def test_sparse_crossings_in_long_rows(close_boundary):
    """One inside node at every place of a row, alone: the bit at each end of each word."""
    for position in range(130):
        values = torch.ones(3, 3, 130)
        values[1, 1, position] = -1
        mesh = check_against_reference(values, close_boundary=close_boundary)
        at_end = position in (0, 129)
        assert len(mesh.vertices) == (5 if at_end and not close_boundary else 6)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_one_absent_node_in_long_rows(dtype):
    """Alone at every place of a row: it is seen in each lane of each register."""
    for position in range(130):
        values = torch.ones(2, 3, 130, dtype=dtype)
        values[0] = -1
        whole = marching_cubes(values)
        values[0, 1, position] = math.nan
        mesh = check_against_reference(values)
        assert len(mesh.faces) < len(whole.faces)
        assert bool(mesh.vertices.isfinite().all())


@pytest.mark.parametrize("close_boundary", [False, True])
def test_every_one_cell_grid(close_boundary):
    """All 256 sign patterns, and each again with one absent corner."""
    for case in range(256):
        signs = torch.tensor([-1.0 if case >> c & 1 else 1.0 for c in range(8)]).view(2, 2, 2)
        mesh = check_against_reference(signs, close_boundary=close_boundary)
        check_crack_free(mesh.faces, mesh.edges, padded(signs) if close_boundary else signs)
        signs.view(-1)[case % 8] = math.nan
        mesh = check_against_reference(signs, close_boundary=close_boundary)
        assert len(mesh.faces) == 0 or close_boundary
        check_crack_free(mesh.faces, mesh.edges, padded(signs) if close_boundary else signs)


@pytest.mark.parametrize(
    ("field", "euler"), [(sphere(0.7), 2), (torus(0.6, 0.25), 0), (box((0.5, 0.5, 0.5)), 2)]
)
@pytest.mark.parametrize("shape", [(24, 31, 27), (33, 33, 33)])
def test_euler_number(field, euler, shape):
    for dtype in GRID_DTYPES:
        faces = marching_cubes(sample(field, shape, dtype=dtype)).faces
        assert is_closed_and_oriented(faces)
        assert euler_number(faces) == euler


def test_two_spheres_have_euler_number_four():
    left, right = sphere(0.3, (-0.5, 0.0, 0.0)), sphere(0.3, (0.5, 0.0, 0.0))
    values = sample(lambda p: torch.minimum(left(p), right(p)), (41, 21, 21))
    assert euler_number(marching_cubes(values).faces) == 4


@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_periodic_gyroid_has_genus_five(phase):
    """One period of the gyroid, opposite faces glued by grid edge, has Euler number -8."""
    cells = 24
    mesh = marching_cubes(periodic_gyroid(cells, phase), return_edges=True)
    _, place, axis = grid_edge_place(mesh.edges, (cells + 1,) * 3)
    wrapped = torch.cat((place % cells, axis[:, None]), dim=1)
    glued = wrapped.unique(dim=0, return_inverse=True)[1][mesh.faces]
    assert is_closed_and_oriented(glued)
    assert euler_number(glued) == -8


def test_capped_gyroid_is_closed():
    values = sample(gyroid, (20, 23, 26), (-4.0,) * 3, (4.0,) * 3)
    open_faces = marching_cubes(values).faces
    capped = marching_cubes(values, close_boundary=True).faces
    assert not is_closed_and_oriented(open_faces)
    assert is_closed_and_oriented(capped)


def test_normals_point_out_and_volume_is_positive():
    lower, upper = (-1.0, -2.0, -0.8), (1.2, 1.1, 1.0)
    values = sample(sphere(0.7), (40, 62, 37), lower, upper)
    mesh = marching_cubes(Grid.from_bounds(values, lower, upper))
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    outward = (normal * (a + b + c)).sum(dim=1)
    assert (outward[normal.norm(dim=1) > 1e-8] > 0).all()
    volume, area = volume_and_area(mesh.vertices, mesh.faces)
    # A mesh inscribed in a sphere of radius r loses about h^2 / r^2 of the volume: 0.5% here.
    assert volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=5e-3)
    assert area == pytest.approx(4 * math.pi * 0.7**2, rel=5e-3)


@pytest.mark.parametrize(("permutation", "flips"), SYMMETRIES)
def test_equivariance_under_axis_permutation_and_reflection(permutation, flips):
    swaps = sum(p > q for p, q in itertools.combinations(permutation, 2))
    mirrored = (swaps + len(flips)) % 2 == 1
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        values = random_ties(generator, random_shape(generator), torch.float32)
        if seed % 2:
            values = sprinkle(values, generator)
        image = transformed(values, permutation, flips)
        mesh = marching_cubes(values, return_edges=True)
        moved = marching_cubes(image, return_edges=True)

        # The vertices, keyed by grid edge.
        edges = transformed_edges(mesh.edges, tuple(values.shape), permutation, flips)
        edges, order = edges.sort()
        from_moved, moved_order = moved.edges.sort()
        assert torch.equal(edges, from_moved)
        positions = mesh.vertices[order][:, list(permutation)]
        for flip in flips:
            positions[:, flip] = image.shape[flip] - 1 - positions[:, flip]
        # Index coordinates below 8, a rounding each in t, in 1 - t and in their sum with the node.
        torch.testing.assert_close(
            positions, moved.vertices[moved_order], rtol=0, atol=3 * 2.0**-21
        )

        # The loops of the cells, as directed segments between grid edges; a reflection turns them.
        segments = face_segments(mesh.faces, mesh.edges, tuple(values.shape))
        segments = transformed_edges(
            segments.flatten(), tuple(values.shape), permutation, flips
        ).view(-1, 2)
        if mirrored:
            segments = segments.flip(1)
        expected = face_segments(moved.faces, moved.edges, tuple(image.shape))
        assert torch.equal(segments.unique(dim=0), expected.unique(dim=0))


def test_complement_has_the_same_vertices():
    """Inside and outside change places where no value equals the level; ambiguous faces aside."""
    values = sample(torus(0.6, 0.25), (21, 22, 23))
    mesh = marching_cubes(values, return_edges=True)
    turned = marching_cubes(-values, return_edges=True)
    assert torch.equal(mesh.edges, turned.edges)
    assert torch.equal(mesh.vertices, turned.vertices)
    assert is_closed_and_oriented(turned.faces)


def test_vertices_lie_on_their_grid_edges(generator):
    values = sprinkle(random_ties(generator, (6, 7, 8), torch.float32), generator)
    mesh = marching_cubes(values, return_edges=True)
    _, place, axis = grid_edge_place(mesh.edges, (6, 7, 8))
    along = (mesh.vertices - place) * AXIS[axis]
    across = (mesh.vertices - place) * (1 - AXIS[axis])
    assert (across == 0).all()
    assert (along >= 0).all()
    assert (along <= 1).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_same_output_for_any_thread_count(count, threads, generator):
    values = sample(torus(0.6, 0.25), (48, 50, 70), dtype=torch.float32)
    values = torch.stack(
        (values, values.flip(0), random_ties(generator, (48, 50, 70), torch.float32))
    )
    expected = reference.marching_cubes(values, torch.zeros(3))
    threads(count)
    meshes = marching_cubes(values, return_edges=True)
    assert torch.equal(meshes.faces, expected.faces)
    assert torch.equal(meshes.edges, expected.edges)
    assert torch.equal(meshes.vertex_offsets, expected.vertex_offsets)
    assert torch.equal(meshes.face_offsets, expected.face_offsets)
    assert_within_ulps(meshes.vertices, expected.vertices)


def digest_of_many_surfaces():
    """A hash of the output for all dtypes and many row lengths; run in processes of their own."""
    found = hashlib.sha256()
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 5, length) for length in ROW_LENGTHS] + [(90, 70, 66)]  # of one task, and of many
    for dtype, size in itertools.product(GRID_DTYPES, sizes):
        values = random_ties(generator, (2, *size), dtype)
        absent = sprinkle(values, generator, share=0.02)
        for grid, close_boundary in itertools.product((values, absent), (False, True)):
            meshes = marching_cubes(grid, close_boundary=close_boundary, return_edges=True)
            for part in (meshes.vertices, meshes.faces, meshes.edges, meshes.vertex_offsets):
                found.update(part.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("instructions", ["generic", "avx2"])
def test_same_output_for_any_instruction_set(instructions):
    program = "import test_marching_cubes_topology as t; print(t.digest_of_many_surfaces())"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DIFFISO_SIMD": instructions,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of_many_surfaces()


def test_large_edge_numbers_stay_distinct():
    """Past 2^24 nodes a grid edge no longer fits a float32: nothing may be merged."""
    values = torch.ones(2, 2, 2**23)
    values[:, :, :: 2**20] = -1
    mesh = marching_cubes(values, return_edges=True)
    assert 3 * 4 * 2**23 > 2**24
    assert len(mesh.vertices) == 4 * (2 * 8 - 1)
    assert len(mesh.edges.unique()) == len(mesh.edges)
    assert (mesh.edges % 3 == 2).all()
    assert len(directed_edges(mesh.faces)) == 3 * 2 * (2 * 8 - 1)


def test_scaling_the_field_changes_nothing():
    """No absolute epsilon: values of 1e-7 (and of 1e30) give the same mesh."""
    values = sample(gyroid, (9, 10, 11), (-3.0,) * 3, (3.0,) * 3, torch.float32)
    mesh = marching_cubes(values)
    for scale in (2.0**-40, 2.0**60):
        scaled = marching_cubes(values * scale)
        assert torch.equal(scaled.vertices, mesh.vertices)
        assert torch.equal(scaled.faces, mesh.faces)
