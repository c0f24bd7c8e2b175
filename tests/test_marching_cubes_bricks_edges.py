# SPDX-License-Identifier: Apache-2.0
"""marching_cubes on sparse grids: what it refuses, odd inputs, topology."""

import dataclasses
import hashlib
import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from fields import (
    GRID_DTYPES,
    random_shape,
    random_smooth,
    random_ties,
    sample,
    shuffled_bricks,
    sphere,
    sprinkle,
    torus,
    with_holes,
)
from topology import (
    assert_same_surface,
    check_crack_free,
    directed_edges,
    euler_number,
    is_closed_and_oriented,
    pair_keys,
)

from diffiso import BrickGrid, Grid, marching_cubes

LOWER, SPACING = (-1.3, 0.4, 12.0), (0.1, 0.7, 0.02)
OP = torch.ops.diffiso.marching_cubes_bricks
BACKWARD = torch.ops.diffiso.marching_cubes_bricks_backward
PLACES = torch.tensor([[0, 1, 0], [1, 0, 0]])
TWO = BrickGrid.from_bricks(torch.zeros(2, 8, 8, 8), PLACES, (16, 9, 3))
NUMBERS = (list(TWO.nodes), LOWER, SPACING)


def near_surface(field, shape, margin, dtype=torch.float64):
    """A dense grid over [-1, 1]^3, and bricks of its nodes near the surface, in any order."""
    grid = Grid.from_bounds(sample(field, shape, dtype=dtype), -1.0, 1.0)
    near = grid.values.where(grid.values.abs() < margin, math.nan)
    generator = torch.Generator().manual_seed(0)
    return grid, shuffled_bricks(Grid(near, grid.lower, grid.spacing), generator)


# Errors.


def test_closing_at_the_boundary_is_refused():
    with pytest.raises(ValueError, match="marching_cubes: close_boundary must be False") as error:
        marching_cubes(TWO, close_boundary=True)
    message = str(error.value)
    assert all(part in message for part in ("BrickGrid", "face of the box", "to_grid()", "sample"))


@pytest.mark.parametrize(
    ("level", "fragments"),
    [
        (torch.zeros(2), ("level must be a number or (1,)", "got (2,)")),
        (torch.zeros(0), ("level must be a number or (1,)", "got (0,)")),
        (torch.zeros(1, 1), ("level", "(1,)", "got (1, 1)")),
        (torch.zeros((), dtype=torch.float64), ("level must be torch.float32", "torch.float64")),
        (torch.tensor(math.nan), ("level must be a number", "got nan")),
        (math.nan, ("level must be a number", "got nan")),
        (1e300, ("level must fit torch.float32", "got 1e+300")),
    ],
)
def test_bad_level(level, fragments):
    with pytest.raises((RuntimeError, ValueError)) as error:
        marching_cubes(TWO, level)
    assert all(part in str(error.value) for part in ("marching_cubes: ", *fragments)), error.value


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"gradient": "cubic"}, ("gradient", "linear", "none", "got 'cubic'")),
        ({"index_dtype": torch.int16}, ("index_dtype", "int32", "int64", "got torch.int16")),
    ],
)
def test_bad_options(options, fragments):
    with pytest.raises(ValueError, match="marching_cubes: ") as error:
        marching_cubes(TWO, **options)
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({0: torch.zeros(2, 8, 8)}, ("values must be contiguous (R, 8, 8, 8)", "got (2, 8, 8)")),
        ({0: torch.zeros(2, 8, 8, 9)}, ("values", "(R, 8, 8, 8)", "got (2, 8, 8, 9)")),
        ({0: torch.zeros(2, 8, 8, 8).int()}, ("values", "float", "got torch.int32")),
        ({0: torch.zeros(2, 8, 8, 8).transpose(1, 2)[..., ::1]}, ("values must be contiguous",)),
        ({1: TWO.table.long()}, ("table must be torch.int32", "got torch.int64")),
        ({1: TWO.table[:1]}, ("table must cover the nodes", "got (1, 2, 1)", "16 nodes")),
        ({1: TWO.table.flatten()}, ("table", "(TX, TY, TZ)", "got (4,)")),
        ({2: PLACES}, ("coordinates must be torch.int32", "got torch.int64")),
        ({2: PLACES[:1].int()}, ("coordinates", "(R, 3)", "got (1, 3)")),
        ({4: [16, 9]}, ("nodes", "3 numbers", "got 2")),
        ({4: [16, 9, 1]}, ("nodes must be at least 2", "got 1")),
        ({5: [0.0, math.nan, 0.0]}, ("lower must be finite", "got nan")),
        ({6: [1.0, 0.0, 1.0]}, ("spacing must be positive", "got 0")),
    ],
)
def test_raw_op_refuses_what_does_not_fit(change, fragments):
    inputs = [TWO.values, TWO.table, TWO.coordinates, torch.zeros(1), *NUMBERS]
    for n, value in change.items():
        inputs[n] = value
    with pytest.raises(RuntimeError) as error:
        OP(*inputs, False, True)
    assert all(part in str(error.value) for part in ("marching_cubes: ", *fragments)), error.value


def test_raw_backward_refuses_what_does_not_fit():
    grad, edges = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    for bad in (
        {"grad": grad[:3]},
        {"grad": grad.double()},
        {"grad": grad[:, :2]},
        {"edges": edges.int()},
        {"edges": edges[:, None]},
    ):
        given = {"grad": grad, "edges": edges, **bad}
        with pytest.raises(RuntimeError, match="marching_cubes_bricks_backward: "):
            BACKWARD(
                given["grad"],
                *(TWO.values, TWO.table, TWO.coordinates, torch.zeros(1), given["edges"]),
                *(TWO.nodes, SPACING),
            )


# Edges.


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, -0.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_constant_bricks_give_empty_meshes(count, value):
    """Also at a face of the box, and against places without a brick."""
    bricks = BrickGrid.from_bricks(torch.full((count, 8, 8, 8), value), PLACES[:count], TWO.nodes)
    for index_dtype in (torch.int64, torch.int32):
        mesh = marching_cubes(bricks, return_edges=True, index_dtype=index_dtype)
        assert mesh.vertices.shape == mesh.faces.shape == (0, 3)
        assert mesh.edges.shape == (0,)
        assert mesh.faces.dtype == index_dtype


def test_every_one_cell_grid():
    for case in range(256):
        signs = torch.tensor([-1.0 if case >> c & 1 else 1.0 for c in range(8)]).view(2, 2, 2)
        for values in (signs, signs.clone()):
            mesh = marching_cubes(BrickGrid.from_grid(Grid(values)), return_edges=True)
            assert_same_surface(mesh, marching_cubes(values, return_edges=True))
            signs.view(-1)[case % 8] = math.nan


def test_one_node_at_every_place():
    """Alone inside or absent, at each place of a corner where eight bricks meet, one by one."""
    for place in itertools.product(range(6, 10), repeat=3):
        for around, value in ((1.0, -1.0), (-1.0, 1.0), (1.0, math.nan), (-1.0, math.nan)):
            values = torch.full((16, 16, 16), around)
            values[4:12, 4:12, 8:] *= -1.0
            values[place] = value
            mesh = marching_cubes(BrickGrid.from_grid(Grid(values)), return_edges=True)
            assert_same_surface(mesh, marching_cubes(values, return_edges=True))


def test_what_is_stored_beyond_the_box_counts_for_nothing():
    inside = torch.full((1, 8, 8, 8), -1.0)
    inside[0, :5, :6, :7] = 1.0
    bricks = BrickGrid.from_bricks(inside, torch.zeros(1, 3).int(), (5, 6, 7))
    assert len(marching_cubes(bricks).vertices) == 0
    bricks = BrickGrid.from_bricks(-inside, torch.zeros(1, 3).int(), (5, 6, 7))
    assert len(marching_cubes(bricks).vertices) == 0


def test_numbers_of_edges_past_two_to_the_31():
    """One inside node beside the last corner of a box of 2001^3 nodes."""
    nodes, last = 2001, 2001 // 8
    at = nodes - 2  # 1999 = 8 * 249 + 7: all around it are eight bricks
    places = torch.cartesian_prod(*[torch.arange(last - 1, last + 1)] * 3)
    values = torch.ones(8, 8, 8, 8)
    values[0, 7, 7, 7] = -1.0
    bricks = BrickGrid.from_bricks(values, places, (nodes,) * 3)
    mesh = marching_cubes(bricks, return_edges=True)
    assert mesh.faces.shape == (8, 3)
    assert is_closed_and_oriented(mesh.faces)
    assert torch.equal(mesh.vertices.mean(dim=0), torch.full((3,), float(at)))
    node = (at * nodes + at) * nodes + at
    ends = [node - nodes * nodes, node - nodes, node - 1]
    expected = [3 * end + axis for axis, end in enumerate(ends)] + [3 * node + a for a in range(3)]
    assert min(expected) > 2**34
    assert sorted(mesh.edges.tolist()) == sorted(expected)
    values.requires_grad_()
    marching_cubes(dataclasses.replace(bricks, values=values)).vertices.sum().backward()
    # Half of t = 1/2 over a difference of 2, up along three edges and down along three.
    assert values.grad[0, 7, 7, 7] == 0
    assert values.grad.count_nonzero() == 6
    assert values.grad[1, 7, 7, 0] == -0.25


def test_bricks_that_are_not_contiguous(generator):
    values = random_smooth(generator, (8, 8, 8, 2)).float()
    bricks = BrickGrid.from_bricks(values.movedim(3, 0), PLACES, (16, 16, 8))
    strange = dataclasses.replace(
        bricks,
        table=bricks.table.mT.contiguous().mT,
        coordinates=bricks.coordinates.T.contiguous().T,
    )
    plain = BrickGrid.from_bricks(values.movedim(3, 0).contiguous(), PLACES, (16, 16, 8))
    mesh, expected = marching_cubes(strange), marching_cubes(plain)
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)


def test_input_is_left_alone(generator):
    bricks = shuffled_bricks(Grid(random_ties(generator, (9, 9, 9), torch.float16)), generator)
    kept = [t.clone() for t in (bricks.values, bricks.table, bricks.coordinates)]
    marching_cubes(bricks)
    for before, after in zip(kept, (bricks.values, bricks.table, bricks.coordinates), strict=True):
        assert torch.equal(before, after)


def test_tables_that_are_wrong_say_nothing(generator):
    """Bricks count where table and coordinates agree: the rest is as if it were not there."""
    whole = BrickGrid.from_grid(Grid(random_ties(generator, (24, 17, 25), torch.float32)))
    count, places = len(whole.values), whole.table.numel()
    garbage = torch.tensor([-1, -5, -(2**31), 2**31 - 1, count, 0, 1, 2], dtype=torch.int32)

    def any_garbage(*shape):
        return garbage[torch.randint(len(garbage), shape, generator=generator)]

    found = 0
    for _ in range(50):
        table, coordinates = whole.table.clone(), whole.coordinates.clone()
        table.view(-1)[torch.randint(places, (4,), generator=generator)] = any_garbage(4)
        wrong = torch.randint(count, (3,), generator=generator)
        coordinates[wrong, torch.randint(3, (3,), generator=generator)] = any_garbage(3)
        agree = torch.full_like(table, -1)
        for x, y, z in itertools.product(*map(range, table.shape)):
            brick = int(table[x, y, z])
            if 0 <= brick < count and coordinates[brick].tolist() == [x, y, z]:
                agree[x, y, z] = brick
        bad = dataclasses.replace(whole, table=table, coordinates=coordinates)
        good = dataclasses.replace(whole, table=agree)
        mesh = marching_cubes(bad, return_edges=True)
        expected = marching_cubes(good, return_edges=True)
        for name in ("vertices", "faces", "edges"):
            assert torch.equal(getattr(mesh, name), getattr(expected, name))
        found += len(mesh.faces)

        passed = []
        for grid in (bad, good):
            inputs = (grid.values, grid.table, grid.coordinates, torch.zeros(1), mesh.edges)
            grad = torch.ones_like(mesh.vertices)
            passed.append(BACKWARD(grad, *inputs, grid.nodes, SPACING)[0])
        assert torch.equal(*passed)
        assert passed[0].count_nonzero() > 1000
    assert found > 100_000


def test_edges_that_are_none_pass_nothing_on(generator):
    bricks = shuffled_bricks(
        Grid(with_holes(random_smooth(generator, (17, 9, 20)), generator)), generator
    )
    x, y, z = bricks.nodes
    ids = torch.cat(
        (
            torch.tensor([-1, -3, -(2**63), 2**63 - 1, 3 * x * y * z, 3 * x * y * z + 2]),
            # From the last nodes along each axis out of the box.
            3 * (torch.arange(x * y) * z + z - 1) + 2,
            3 * ((torch.arange(x)[:, None] * y + y - 1) * z + torch.arange(z)).flatten() + 1,
            3 * (((x - 1) * y + torch.arange(y)[:, None]) * z + torch.arange(z)).flatten(),
        )
    )
    # All edges with an absent node.
    dense = bricks.to_grid().values
    for axis in range(3):
        ends = (
            dense.narrow(axis, 0, dense.shape[axis] - 1),
            dense.narrow(axis, 1, dense.shape[axis] - 1),
        )
        i, j, k = (ends[0] + ends[1]).isnan().nonzero().unbind(1)
        ids = torch.cat((ids, 3 * ((i * y + j) * z + k) + axis))
    level = torch.zeros(1, dtype=torch.float64)
    grad = torch.ones(len(ids), 3, dtype=torch.float64)
    inputs = (bricks.values, bricks.table, bricks.coordinates, level)
    grad_values, grad_level = BACKWARD(grad, *inputs, ids, bricks.nodes, SPACING)
    assert len(ids) > 3000
    assert grad_values.count_nonzero() == grad_level.count_nonzero() == 0


# Properties.


@pytest.mark.parametrize(("field", "euler"), [(sphere(0.7), 2), (torus(0.6, 0.25), 0)])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_bricks_near_a_surface_are_enough(field, euler, dtype):
    grid, bricks = near_surface(field, (66, 71, 60), 0.1, dtype)
    assert len(bricks.values) < 0.6 * bricks.table.numel()
    mesh = marching_cubes(bricks, return_edges=True)
    assert_same_surface(mesh, marching_cubes(grid, return_edges=True))
    assert is_closed_and_oriented(mesh.faces)
    assert euler_number(mesh.faces) == euler


def test_a_missing_brick_leaves_an_open_rim():
    grid, bricks = near_surface(sphere(0.7), (48, 48, 48), 0.15)
    crossing = (bricks.values < 0).any(3).any(2).any(1) & (bricks.values > 0).any(3).any(2).any(1)
    for gone in crossing.nonzero().flatten()[::7].tolist():
        kept = torch.arange(len(bricks.values)) != gone
        part = BrickGrid.from_bricks(
            bricks.values[kept],
            bricks.coordinates[kept],
            bricks.nodes,
            bricks.lower,
            bricks.spacing,
        )
        mesh = marching_cubes(part, return_edges=True)
        check_crack_free(mesh.faces, mesh.edges, part.to_grid().values)
        ways = directed_edges(mesh.faces)
        lone = ~torch.isin(pair_keys(ways), pair_keys(ways.flip(1)))
        assert lone.any()
        # The rim runs where the cells end that touch the brick: one cell around it at most.
        low = 8 * bricks.coordinates[gone].double() - 1
        place = (mesh.vertices[ways[lone].unique()] - grid.lower[0]) / low.new_tensor(grid.spacing)
        assert (place > low - 1e-9).all()
        assert (place < low + 9 + 1e-9).all()


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_random_bricks_are_crack_free(dtype, threads):
    threads(1)
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        values = random_ties(generator, random_shape(generator, 2, 20), dtype)
        values = with_holes(sprinkle(values, generator, share=0.02), generator)
        mesh = marching_cubes(shuffled_bricks(Grid(values), generator), return_edges=True)
        check_crack_free(mesh.faces, mesh.edges, values)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_same_output_for_any_thread_count(count, threads, generator):
    values = with_holes(random_ties(generator, (66, 50, 70), torch.float32), generator)
    bricks = shuffled_bricks(Grid(values), generator)
    assert len(bricks.values) > 3 * 64  # the bricks of one task
    threads(1)
    expected = marching_cubes(bricks, return_edges=True)
    threads(count)
    mesh = marching_cubes(bricks, return_edges=True)
    assert torch.equal(mesh.vertices, expected.vertices)
    assert torch.equal(mesh.faces, expected.faces)
    assert torch.equal(mesh.edges, expected.edges)


def digest_of_many_surfaces():
    """A hash of the output for all dtypes; run in processes of their own."""
    found = hashlib.sha256()
    generator = torch.Generator().manual_seed(0)
    for dtype in GRID_DTYPES:
        values = random_ties(generator, (18, 27, 33), dtype)
        values = with_holes(sprinkle(values, generator, share=0.02), generator)
        mesh = marching_cubes(shuffled_bricks(Grid(values), generator), return_edges=True)
        for part in (mesh.vertices, mesh.faces, mesh.edges):
            found.update(part.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("instructions", ["generic", "avx2"])
def test_same_output_for_any_instruction_set(instructions):
    program = "import test_marching_cubes_bricks_edges as t; print(t.digest_of_many_surfaces())"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DIFFISO_SIMD": instructions,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of_many_surfaces()
