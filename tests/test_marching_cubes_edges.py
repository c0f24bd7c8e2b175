# SPDX-License-Identifier: Apache-2.0
"""marching_cubes: what it refuses, and the inputs at the edge of what it takes."""

import math

import pytest
import torch
from fields import random_ties, sample, sphere, sprinkle
from topology import is_closed_and_oriented, volume_and_area

from diffiso import Grid, marching_cubes

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
OP = torch.ops.diffiso.marching_cubes


# Errors.


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        (torch.zeros(64, 64), ("values must be (X, Y, Z) or (B, X, Y, Z)", "got (64, 64)")),
        (torch.zeros(1, 1, 4, 4, 4), ("(X, Y, Z) or (B, X, Y, Z)", "got (1, 1, 4, 4, 4)")),
        (torch.zeros(()), ("(X, Y, Z) or (B, X, Y, Z)", "got ()")),
        (torch.zeros(4, 4, 4, dtype=torch.int64), ("values", "float", "got torch.int64")),
        (torch.zeros(4, 4, 4, dtype=torch.bool), ("values", "float", "got torch.bool")),
        (torch.zeros(4, 4, 4, dtype=torch.complex64), ("values", "float", "got", "omplex")),
        (torch.zeros(1, 4, 4), ("values", "at least 2 nodes", "1, 4, 4)")),
        (torch.zeros(4, 4, 1), ("values", "at least 2 nodes", "4, 4, 1)")),
        (torch.zeros(2, 4, 0, 4), ("values", "at least 2 nodes", "got (2, 4, 0, 4)")),
    ],
)
def test_bad_values(values, fragments):
    with pytest.raises(RuntimeError) as error:
        marching_cubes(values)
    assert all(part in str(error.value) for part in ("marching_cubes: ", *fragments)), error.value


@pytest.mark.parametrize(
    ("level", "fragments"),
    [
        (torch.zeros(2), ("level", "(B,)", "got (2,)")),
        (torch.zeros(1, 1), ("level", "(B,)", "got (1, 1)")),
        (torch.zeros((), dtype=torch.float64), ("level must be torch.float32", "torch.float64")),
        (torch.tensor(math.nan), ("level must be a number", "got nan")),
        (torch.tensor([0.0, math.nan, 0.0]), ("level must be a number", "got nan")),
    ],
)
def test_bad_level_tensor(level, fragments):
    with pytest.raises((RuntimeError, ValueError)) as error:
        marching_cubes(torch.zeros(3, 4, 4, 4), level)
    assert all(part in str(error.value) for part in ("marching_cubes: ", *fragments)), error.value


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ({"level": math.nan}, ("level must be a number", "got nan")),
        ({"level": 1e300}, ("level must fit torch.float32", "torch.float32 values", "got 1e+300")),
        ({"level": -1e39}, ("level must fit torch.float32", "got -1e+39")),
        ({"gradient": "cubic"}, ("gradient", "linear", "none", "got 'cubic'")),
        ({"index_dtype": torch.int16}, ("index_dtype", "int32", "int64", "got torch.int16")),
    ],
)
def test_bad_options(arguments, fragments):
    with pytest.raises(ValueError, match="marching_cubes: ") as error:
        marching_cubes(torch.zeros(4, 4, 4), **arguments)
    assert all(part in str(error.value) for part in fragments), error.value


def test_bad_type():
    with pytest.raises(TypeError, match=r"marching_cubes: grid must be .*, got list"):
        marching_cubes([[[1.0]]])


def test_raw_op_refuses_what_the_public_function_repairs():
    values = torch.zeros(1, 4, 4, 4)
    with pytest.raises(RuntimeError, match="marching_cubes: values must be contiguous"):
        OP(values.transpose(1, 3), torch.zeros(1), LOWER, SPACING, False, False, True)
    with pytest.raises(RuntimeError, match=r"marching_cubes: level must be torch\.float32, got"):
        OP(values, torch.zeros(1).double(), LOWER, SPACING, False, False, True)
    with pytest.raises(RuntimeError, match=r"marching_cubes: lower .*3 numbers, got 2"):
        OP(values, torch.zeros(1), (0.0, 0.0), SPACING, False, False, True)


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, math.nan, 1.0)])
def test_bad_spacing(spacing):
    with pytest.raises((RuntimeError, ValueError), match=r"spacing.* must be"):
        marching_cubes(Grid(torch.zeros(4, 4, 4), LOWER, spacing))


# Edges.


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 5, 2), (7, 2, 3)])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, -0.0, math.inf, -math.inf, math.nan])
def test_constant_grids_give_empty_meshes(shape, value):
    mesh = marching_cubes(torch.full(shape, value), return_edges=True)
    assert mesh.vertices.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)
    assert mesh.edges.shape == (0,)
    assert mesh.faces.dtype == mesh.edges.dtype == torch.int64


def test_zero_size_batch():
    meshes = marching_cubes(torch.zeros(0, 4, 4, 4), return_edges=True)
    assert len(meshes) == 0
    assert meshes.vertices.shape == meshes.faces.shape == (0, 3)
    assert meshes.vertex_offsets.tolist() == meshes.face_offsets.tolist() == [0]


@pytest.mark.parametrize("value", [-1.0, -math.inf])
def test_full_grid_closed_at_the_boundary_is_its_box(value):
    mesh = marching_cubes(Grid(torch.full((3, 4, 5), value), LOWER, SPACING), close_boundary=True)
    # Corners and rims are cut at no distance from them: the mesh is the box itself.
    assert is_closed_and_oriented(mesh.faces)
    volume, _ = volume_and_area(mesh.vertices.double(), mesh.faces)
    assert volume == pytest.approx(0.1 * 2 * 0.7 * 3 * 0.02 * 4, rel=1e-4)
    low = torch.tensor(LOWER)
    assert torch.equal(mesh.vertices.amin(dim=0), low)
    torch.testing.assert_close(
        mesh.vertices.amax(dim=0), low + torch.tensor(SPACING) * torch.tensor([2.0, 3.0, 4.0])
    )


def test_infinite_samples_draw_the_vertex_to_the_finite_end():
    for ends, place in (
        ((-1.0, math.inf), 0.0),
        ((math.inf, -1.0), 1.0),
        ((-math.inf, 1.0), 1.0),
        ((1.0, -math.inf), 0.0),
        ((-math.inf, math.inf), 0.5),
        ((math.inf, -math.inf), 0.5),
        ((-1.0, 0.0), 1.0),
        ((0.0, -1.0), 0.0),
        ((-0.0, -1.0), 0.0),
    ):
        vertices = marching_cubes(torch.tensor(ends).repeat(2, 2, 1)).vertices
        assert vertices[:, 2].tolist() == [place] * 4, ends


def test_finite_values_of_any_size_give_finite_vertices():
    huge = torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64).repeat(2, 2, 1)
    assert marching_cubes(huge).vertices[:, 2].tolist() == [0.5] * 4
    assert marching_cubes(huge.half().float(), 3.0).vertices[:, 2].tolist() == [0.5] * 4
    tiny = torch.tensor([-5e-324, 5e-324], dtype=torch.float64).repeat(2, 2, 1)
    assert marching_cubes(tiny).vertices[:, 2].tolist() == [0.5] * 4
    half = torch.tensor([-6e-8, 6e-8], dtype=torch.float16).repeat(2, 2, 1)
    assert marching_cubes(half).vertices[:, 2].tolist() == [0.5] * 4


def test_level_is_compared_in_the_compute_dtype():
    """0.1 in float16 is below 0.1 in float32: those samples are inside."""
    values = torch.tensor([0.1, 1.0], dtype=torch.float16).repeat(2, 2, 1)
    assert len(marching_cubes(values, 0.1).vertices) == 4
    assert len(marching_cubes(values.float(), float(values[0, 0, 0])).vertices) == 0


def test_non_contiguous_grids(generator):
    whole = random_ties(generator, (6, 8, 10), torch.float32)
    for view in (
        whole.permute(2, 0, 1),
        whole[::2, 1:, ::3],
        whole.flip(1)[:, 1:-1],
        whole[:1].expand(4, -1, -1),
    ):
        mesh, expected = marching_cubes(view), marching_cubes(view.contiguous())
        assert torch.equal(mesh.vertices, expected.vertices)
        assert torch.equal(mesh.faces, expected.faces)


def test_input_is_left_alone(generator):
    values = sprinkle(random_ties(generator, (5, 5, 5), torch.float16), generator)
    before = values.clone()
    marching_cubes(values, close_boundary=True)
    assert torch.equal(values.view(torch.int16), before.view(torch.int16))


def test_autocast_leaves_dtypes_alone():
    values = sample(sphere(0.5), (5, 5, 5), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert marching_cubes(values).vertices.dtype == torch.float32


def test_more_samples_than_32_bits_count():
    """1291^3 nodes: the far corner's flat index, and its edges' ids, pass 2^31."""
    nodes = 1291
    values = torch.zeros(nodes, nodes, nodes, dtype=torch.float16)
    assert values.numel() > 2**31
    far = nodes - 3
    values[0, 1, 1] = values[far, far, far] = -1
    mesh = marching_cubes(values, -0.5, return_edges=True)
    assert mesh.faces.shape == (4 + 8, 3)  # half a tip on the box's face, and a whole one
    tip = mesh.vertices[-6:]
    assert torch.equal(tip.mean(dim=0), torch.full((3,), float(far)))
    assert torch.equal((tip - far).abs().sum(dim=1), torch.full((6,), 0.5))
    node = far * (nodes * nodes + nodes + 1)
    lower_nodes = [node - nodes * nodes, node - nodes, node - 1]  # of the edges that end at the tip
    ids = [3 * lower + axis for axis, lower in enumerate(lower_nodes)]
    assert sorted(mesh.edges[-6:].tolist()) == sorted(ids + [3 * node + a for a in range(3)])
