# SPDX-License-Identifier: Apache-2.0
"""The marching cubes table, proved over all cases and all pairs of neighbouring cases."""

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diffiso import _C

TABLES = _C.marching_cubes_tables()
EDGES = [tuple(edge) for edge in TABLES["edge"]]
CORNERS = list(itertools.product((0, 1), repeat=3))
CASES = range(256)


def is_inside(case, corner):
    return bool(case >> (4 * corner[0] + 2 * corner[1] + corner[2]) & 1)


def doubled_middle(edge):
    """The edge's middle in a cell of side 2, as integers: a name that symmetries can act on."""
    axis, *start = EDGES[edge]
    return tuple(2 * s + (a == axis) for a, s in enumerate(start))


MIDDLES = [doubled_middle(edge) for edge in range(12)]


def ends(middle):
    """The two corners of the edge with this middle."""
    axis = next(a for a in range(3) if middle[a] == 1)
    return tuple(tuple(end if a == axis else middle[a] // 2 for a in range(3)) for end in (0, 1))


def triangles(case):
    flat = TABLES["triangle_edges"][case][: 3 * TABLES["triangle_count"][case]]
    return [tuple(MIDDLES[e] for e in flat[n : n + 3]) for n in range(0, len(flat), 3)]


def directed_edges(case):
    return [(t[m], t[(m + 1) % 3]) for t in triangles(case) for m in range(3)]


def common_faces(a, b):
    """The faces (axis, side) of the cell in which both edges lie."""
    return [(axis, a[axis] // 2) for axis in range(3) if a[axis] == b[axis] != 1]


def segments(case):
    """The directed mesh edges that lie in a face of the cell."""
    return [(a, b) for a, b in directed_edges(case) if common_faces(a, b)]


def crossed(case):
    return {m for m in MIDDLES if is_inside(case, ends(m)[0]) != is_inside(case, ends(m)[1])}


def test_edges_are_the_twelve_edges_of_a_cell():
    assert len(EDGES) == 12
    assert len(set(EDGES)) == 12
    for axis, *start in EDGES:
        assert axis in (0, 1, 2)
        assert start[axis] == 0
        assert set(start) <= {0, 1}


def test_table_shape_and_filling():
    assert len(TABLES["triangle_count"]) == 256
    for count, row in zip(TABLES["triangle_count"], TABLES["triangle_edges"], strict=True):
        assert 0 <= count <= 5
        assert len(row) == 16
        assert set(row[3 * count :]) <= {0}
        assert set(row) <= set(range(12))


def test_used_edges_are_exactly_the_crossed_ones():
    for case in CASES:
        used = {m for triangle in triangles(case) for m in triangle}
        assert used == crossed(case), case
        assert all(len(set(triangle)) == 3 for triangle in triangles(case)), case


def test_edges_inside_a_cell_are_paired_and_face_edges_are_not():
    for case in CASES:
        ways = Counter(directed_edges(case))
        assert set(ways.values()) <= {1}, case
        for a, b in ways:
            assert ((b, a) in ways) == (not common_faces(a, b)), (case, a, b)


def test_segments_form_loops_through_every_crossed_edge():
    for case in CASES:
        following = dict(segments(case))
        assert len(following) == len(segments(case)), case
        assert set(following) == set(following.values()) == crossed(case), case


def loops(case):
    following = dict(segments(case))
    found = []
    while following:
        loop = [min(following)]
        while (edge := following.pop(loop[-1])) != loop[0]:
            loop.append(edge)
        found.append(loop)
    return found


def test_every_loop_bounds_a_disc():
    for case in CASES:
        inner = len(directed_edges(case)) - len(segments(case))
        assert TABLES["triangle_count"][case] == sum(len(loop) - 2 for loop in loops(case)), case
        # V - E + F of a disc is 1, and triangles of different loops share nothing.
        edges = len(segments(case)) + inner // 2
        assert len(crossed(case)) - edges + len(triangles(case)) == len(loops(case)), case
        for triangle in triangles(case):
            assert sum(set(triangle) <= set(loop) for loop in loops(case)) == 1, case


def test_no_diagonal_lies_in_a_cell_face():
    # Such a diagonal would be a mesh edge between crossed edges of one face that no loop has.
    for case in CASES:
        on_loops = {
            frozenset(pair)
            for loop in loops(case)
            for pair in zip(loop, loop[1:] + loop[:1], strict=True)
        }
        for a, b in directed_edges(case):
            if frozenset((a, b)) not in on_loops:
                assert not common_faces(a, b), (case, a, b)


def test_faces_wind_counter_clockwise_seen_from_outside():
    for case in CASES:
        for a, b in segments(case):
            ((axis, side),) = common_faces(a, b)
            outward = np.zeros(3)
            outward[axis] = 2 * side - 1
            inside_end = next(c for c in ends(a) if is_inside(case, c))
            to_inside = 2 * np.array(inside_end) - np.array(a)
            # Standing on the cell face, outward up, and walking along the segment, the solid is on
            # the right: then the triangle, which lies below, is counter-clockwise from outside.
            assert np.linalg.det([outward, np.subtract(b, a), to_inside]) < 0, (case, a, b)


@pytest.mark.parametrize("corner", CORNERS)
def test_one_corner_is_cut_off_by_a_triangle_facing_away(corner):
    bit = 4 * corner[0] + 2 * corner[1] + corner[2]
    for case, outside in ((1 << bit, 1), (255 ^ 1 << bit, -1)):
        ((a, b, c),) = triangles(case)
        normal = np.cross(np.subtract(b, a), np.subtract(c, a))
        assert outside * normal @ (np.array(a) - 2 * np.array(corner)) > 0


def test_inside_corners_of_an_ambiguous_face_are_separated():
    for case, axis, side in itertools.product(CASES, range(3), (0, 1)):
        face = [c for c in CORNERS if c[axis] == side]
        inside = [c for c in face if is_inside(case, c)]
        if len(inside) != 2 or sum(p != q for p, q in zip(*inside, strict=True)) != 2:
            continue
        own = [{a, b} for a, b in segments(case) if (axis, side) in common_faces(a, b)]
        around = [{m for m in MIDDLES if m[axis] == 2 * side and c in ends(m)} for c in inside]
        assert len(own) == 2, case
        assert all(pair in own for pair in around), case


@pytest.mark.parametrize("axis", range(3))
def test_neighbouring_cells_agree(axis):
    """All 2^12 sign patterns of two cells that share a face."""
    across = [
        {(a, b) for a, b in segments(case) if (axis, 1) in common_faces(a, b)} for case in CASES
    ]
    back = [set() for _ in CASES]
    for case in CASES:
        for a, b in segments(case):
            if (axis, 0) in common_faces(a, b):
                shift = [tuple(v + 2 * (n == axis) for n, v in enumerate(p)) for p in (b, a)]
                back[case].add(tuple(shift))
    pairs = 0
    for first, second in itertools.product(CASES, CASES):
        shared = all(
            is_inside(first, c)
            == is_inside(second, tuple(0 if n == axis else v for n, v in enumerate(c)))
            for c in CORNERS
            if c[axis] == 1
        )
        if shared:
            pairs += 1
            assert across[first] == back[second], (first, second)
    assert pairs == 2**12


SYMMETRIES = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((0, 1), repeat=3))
)


@pytest.mark.parametrize(("permutation", "flips"), SYMMETRIES)
def test_loops_are_equivariant(permutation, flips):
    """The crossed edges and the directed loops turn with the cell, reversed by a reflection."""

    def moved(point, top):
        return tuple(
            top - point[p] if flip else point[p] for p, flip in zip(permutation, flips, strict=True)
        )

    swaps = sum(p > q for p, q in itertools.combinations(permutation, 2))
    mirrored = (swaps + sum(flips)) % 2 == 1
    for case in CASES:
        image = sum(
            is_inside(case, c) << (4 * m[0] + 2 * m[1] + m[2])
            for c in CORNERS
            for m in [moved(c, 1)]
        )
        expected = {(moved(a, 2), moved(b, 2)) for a, b in segments(case)}
        if mirrored:
            expected = {(b, a) for a, b in expected}
        assert set(segments(image)) == expected, case


def test_header_is_what_the_script_writes():
    script = Path(__file__).parent.parent / "tools" / "generate_tables.py"
    subprocess.run([sys.executable, script, "--check"], check=True)
