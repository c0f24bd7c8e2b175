# SPDX-License-Identifier: Apache-2.0
"""Write csrc/core/marching_cubes_tables.h: the triangles of every sign pattern of a cell.

Corner c = 4*dx + 2*dy + dz; bit c of a case is set where that corner is inside (value < level).
Edge numbers follow the order in which the extractor finds vertex ids, see EDGES below.

A pattern's loops come from one rule on each cell face: every run of inside corners around the face
is cut off by one segment. On an ambiguous face the inside corners are therefore separated. The rule
looks at one face's four signs only, so two neighbouring cells always agree, under any rotation or
reflection.

Agreeing on segments is not enough to be crack-free: a diagonal of a loop's triangulation that lies
in a cell face may be drawn by the neighbour too, and four triangles then share an edge. Diagonals
between two edges of a common face are refused; every loop has a triangulation without them.
"""

import argparse
import functools
import itertools
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

# (axis, dx, dy, dz): the edge runs along axis from the corner (dx, dy, dz).
# Edges 0 to 7 lie at depth k, one per pair (axis, row of nodes); 8 to 11 are edges 0 to 3 at depth
# k + 1.
EDGES = (
    (0, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0), (1, 1, 0, 0),
    (2, 0, 0, 0), (2, 0, 1, 0), (2, 1, 0, 0), (2, 1, 1, 0),
    (0, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 1), (1, 1, 0, 1),
)  # fmt: skip

Corner = tuple[int, int, int]
Loop = tuple[int, ...]
Triangle = tuple[int, int, int]


def corner_index(corner: Corner) -> int:
    return 4 * corner[0] + 2 * corner[1] + corner[2]


def edge_corners(edge: int) -> tuple[Corner, Corner]:
    axis, *start = EDGES[edge]
    end = list(start)
    end[axis] += 1
    return tuple(start), tuple(end)


EDGE_BETWEEN = {frozenset(edge_corners(e)): e for e in range(12)}
MIDPOINT = [np.mean(edge_corners(e), axis=0) for e in range(12)]


def cell_faces() -> list[list[Corner]]:
    """Return the six faces as corners in counter-clockwise order seen from outside the cell."""
    faces = []
    for axis, side in itertools.product(range(3), (0, 1)):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        square = [(0, 0), (1, 0), (1, 1), (0, 1)]
        if side == 0:
            square.reverse()
        face = []
        for a, b in square:
            corner = [0, 0, 0]
            corner[axis], corner[u], corner[v] = side, a, b
            face.append(tuple(corner))
        faces.append(face)
    return faces


FACES = cell_faces()
EDGES_OF_FACE = [
    {EDGE_BETWEEN[frozenset((face[m], face[(m + 1) % 4]))] for m in range(4)} for face in FACES
]


def loops_of_case(case: int) -> list[Loop]:
    """Return the loops of crossed edges, counter-clockwise seen from outside the solid."""

    def inside(corner: Corner) -> bool:
        return bool(case >> corner_index(corner) & 1)

    following: dict[int, int] = {}
    for face in FACES:
        for m in range(4):
            if inside(face[m]) or not inside(face[(m + 1) % 4]):
                continue
            entry = EDGE_BETWEEN[frozenset((face[m], face[(m + 1) % 4]))]
            last = m + 1
            while inside(face[(last + 1) % 4]):
                last += 1
            following[entry] = EDGE_BETWEEN[frozenset((face[last % 4], face[(last + 1) % 4]))]
    loops = []
    while following:
        start = min(following)
        loop = [start]
        while (edge := following.pop(loop[-1])) != start:
            loop.append(edge)
        loops.append(tuple(loop))
    return loops


def lies_in_face(a: int, b: int) -> bool:
    return any(a in edges and b in edges for edges in EDGES_OF_FACE)


@functools.cache
def triangulations(first: int, last: int) -> list[tuple[Triangle, ...]]:
    """Return all triangulations of the polygon with corners first, first + 1, ..., last."""
    if last - first < 2:
        return [()]
    return [
        (*left, (first, middle, last), *right)
        for middle in range(first + 1, last)
        for left in triangulations(first, middle)
        for right in triangulations(middle, last)
    ]


def smallest_angle(loop: Loop, triangles: tuple[Triangle, ...]) -> float:
    angles = []
    for triangle in triangles:
        corners = [MIDPOINT[loop[t]] for t in triangle]
        for m in range(3):
            a = corners[(m + 1) % 3] - corners[m]
            b = corners[(m + 2) % 3] - corners[m]
            angles.append(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))
    return min(angles)


def triangulate(loop: Loop) -> list[Triangle]:
    """Return the admissible triangulation with the largest smallest angle, at mid-edges."""
    count = len(loop)

    def admissible(triangles: tuple[Triangle, ...]) -> bool:
        sides = {(t[m], t[n]) for t in triangles for m, n in ((0, 1), (1, 2), (0, 2))}
        diagonals = [s for s in sides if s[1] - s[0] not in (1, count - 1)]
        return not any(lies_in_face(loop[a], loop[b]) for a, b in diagonals)

    candidates = [t for t in triangulations(0, count - 1) if admissible(t)]
    best = max(candidates, key=lambda t: round(smallest_angle(loop, t), 9))
    return [(loop[a], loop[b], loop[c]) for a, b, c in best]


def triangles_of_case(case: int) -> list[Triangle]:
    return [triangle for loop in loops_of_case(case) for triangle in triangulate(loop)]


HEADER = """\
// SPDX-License-Identifier: Apache-2.0
// Written by tools/generate_tables.py: change the script, not this file.
// clang-format off
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace diffiso {{

constexpr int kMaxTrianglesPerCell = {most};

struct MarchingCubesTables {{
  int8_t edge[12][4];                // axis and lower corner (dx, dy, dz) of each cell edge
  uint8_t triangle_count[256];       // by case: bit 4*dx + 2*dy + dz set where a corner is inside
  uint8_t triangle_edges[256][16];   // three edges a triangle, filled up with zeros
}};

// A function-local table: kernels and host code each get their own copy from this one initialiser.
DIFFISO_HD const MarchingCubesTables& marching_cubes_tables() {{
  static constexpr MarchingCubesTables tables = {{
      {{{edges}}},
      {{{counts}}},
      {{
{rows}
      }}}};
  return tables;
}}

}}  // namespace diffiso
"""


def braces(values: Iterable[object]) -> str:
    return "{" + ", ".join(str(v) for v in values) + "}"


def render() -> str:
    """Return the text of the header."""
    triangles = [triangles_of_case(case) for case in range(256)]
    counts = [len(t) for t in triangles]
    flat = [list(itertools.chain.from_iterable(t)) for t in triangles]
    return HEADER.format(
        most=max(counts),
        edges=", ".join(braces(e) for e in EDGES),
        counts=textwrap.fill(", ".join(map(str, counts)), 88, subsequent_indent=" " * 7),
        rows="\n".join(f"          {braces(f + [0] * (16 - len(f)))}," for f in flat),
    )


def main() -> None:
    """Write the header, or with --check compare it with what stands there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent.parent / "csrc/core/marching_cubes_tables.h"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--check", action="store_true", help="fail if the file is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        sys.exit(arguments.output.read_text() != render())
    arguments.output.write_text(render())


if __name__ == "__main__":
    main()
