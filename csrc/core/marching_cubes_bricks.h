// SPDX-License-Identifier: Apache-2.0
// Which vertices and faces a brick owns, what numbers they get and where a vertex lies: what
// marching cubes on a sparse grid adds to marching_cubes.h, whose tables and arithmetic it uses.
//
// Order of the output. Bricks as they are stored; within a brick vertices by axis of their edge,
// then x, y, z of its lower node, and faces by cell x, y, z. An edge belongs to the brick of its
// lower node, a cell likewise, so a vertex's index is a brick's prefix sum plus a count of bits.
//
// Words are those of bricks.h: word x of a brick, bit 8 * y + z.
#pragma once

#include "core/bricks.h"
#include "core/marching_cubes.h"

namespace diffiso {

// The brick at a place of the table, or -1. Only where table and coordinates agree: whatever the
// two say, each brick then has one place at most, and each place one brick.
DIFFISO_HD int64_t standing_brick(const BrickShape& bricks, int64_t x, int64_t y, int64_t z) {
  const int64_t brick = bricks.find(x, y, z);
  if (brick < 0) return -1;
  const int32_t* at = bricks.coordinates + 3 * brick;
  return at[0] == x && at[1] == y && at[2] == z ? brick : -1;
}

DIFFISO_HD bool stands(const BrickShape& bricks, int64_t brick) {
  const int32_t* at = bricks.coordinates + 3 * brick;
  return bricks.find(at[0], at[1], at[2]) == brick;
}

// Bits of word x that count: nodes of a brick that stands, and that the lattice has.
DIFFISO_HD uint64_t countable_nodes(const BrickShape& bricks, int64_t brick, int x) {
  const int32_t* at = bricks.coordinates + 3 * brick;
  return stands(bricks, brick) ? lattice_word(bricks, at[0], at[1], at[2], x) : 0;
}

// A brick and the seven that its cells reach into (kStep = 1), or whose cells reach into it (-1).
template <int kStep>
struct BrickOctant {
  int64_t
      brick[8];  // 4 * bx + 2 * by + bz, 0 or 1 step away along each axis; -1 where there is none

  DIFFISO_HD BrickOctant(const BrickShape& bricks, int64_t of) {
    const int32_t* at = bricks.coordinates + 3 * of;
    const int64_t x = at[0], y = at[1], z = at[2];
    brick[0] = of;
    for (int n = 1; n < 8; ++n) {
      brick[n] = standing_brick(bricks, x + kStep * (n >> 2), y + kStep * (n >> 1 & 1),
                                z + kStep * (n & 1));
    }
  }

  // Word x of the mask of the brick at (dx, dy, dz), each 0 or kStep; 0 where there is no brick.
  DIFFISO_HD uint64_t word(const uint64_t* masks, int dx, int dy, int dz, int x) const {
    const int n = 2 * (dy != 0) + (dz != 0);
    const int64_t index = dx == 0 ? brick[n] : brick[4 + n];
    return index < 0 ? 0 : masks[kBrickSize * index + x];
  }
};

// A plane of a mask as it is, and moved by a step along z, along y and along both.
struct MovedPlane {
  uint64_t at[4];  // 2 * dy + dz
};

// Plane x of a brick: 0 to 8 going up, -1 to 7 going down.
template <int kStep>
DIFFISO_HD MovedPlane moved_plane(const uint64_t* masks, const BrickOctant<kStep>& octant, int x) {
  MovedPlane out;
  for (int n = 0; n < 4; ++n) {
    out.at[n] = shifted_word(masks, octant, x, 0, kStep * (n >> 1), kStep * (n & 1));
  }
  return out;
}

// The cells between two planes whose eight nodes are all present.
DIFFISO_HD uint64_t present_cells(const MovedPlane& lower, const MovedPlane& upper) {
  uint64_t all = ~uint64_t{0};
  for (int n = 0; n < 4; ++n) all &= lower.at[n] & upper.at[n];
  return all;
}

// The signs around the cells between two planes; `present` has a bit per present cell.
DIFFISO_HD CellWord load_cells(const MovedPlane& lower, const MovedPlane& upper, uint64_t present) {
  CellWord out;
  uint64_t any = 0, all = ~uint64_t{0};
  for (int n = 0; n < 4; ++n) {
    out.corner[n] = lower.at[n];
    out.corner[4 + n] = upper.at[n];
    any |= lower.at[n] | upper.at[n];
    all &= lower.at[n] & upper.at[n];
  }
  out.active = any & ~all & present;
  return out;
}

// The edges of one word along an axis that some present cell uses. `here` and `before` are the
// present cells of its plane and the one below it, moved down.
DIFFISO_HD uint64_t used_edges(const MovedPlane& here, const MovedPlane& before, int axis) {
  // Cells around the edge: at its lower node, or one step back along the two other axes.
  if (axis == 0) return here.at[0] | here.at[1] | here.at[2] | here.at[3];
  const int step = axis == 1 ? 1 : 2;
  return here.at[0] | here.at[step] | before.at[0] | before.at[step];
}

// The crossed edges of one word along an axis, each at its lower node.
DIFFISO_HD uint64_t crossed_edges(const CellWord& cells, const MovedPlane& here,
                                  const MovedPlane& before, int axis) {
  return (cells.corner[0] ^ cells.corner[4 >> axis]) & used_edges(here, before, axis);
}

// What numbers vertices.
struct BrickVertices {
  const uint64_t* crossed;  // (R, 3, 8) crossed edges by axis, a word each
  const uint16_t* before;   // (R, 3, 8) how many vertices of the brick come before the word's
  const int64_t* begins;    // (R,) index of each brick's first vertex

  DIFFISO_HD int64_t id(int64_t brick, int axis, int x, int bit) const {
    const int64_t w = (3 * brick + axis) * kBrickSize + x;
    return begins[brick] + before[w] + popcount(crossed[w] & low_bits(bit));
  }
};

// Vertex ids of the edges of the cells of one word, as write_faces asks for them.
template <typename index_t>
struct BrickEdgeIds {
  const BrickVertices& vertices;
  const BrickOctant<1>& above;
  int x, bit;

  DIFFISO_HD BrickEdgeIds operator()(int cell) const { return {vertices, above, x, cell}; }

  DIFFISO_HD index_t operator[](int edge) const {
    const int8_t* e = marching_cubes_tables().edge[edge];
    const int at[3] = {x + e[1], (bit >> 3) + e[2], (bit & 7) + e[3]};
    const int64_t owner = above.brick[4 * (at[0] >> 3) + 2 * (at[1] >> 3) + (at[2] >> 3)];
    if (owner < 0) return 0;  // never for an edge that its cell crosses
    return static_cast<index_t>(
        vertices.id(owner, e[0], at[0] & 7, kBrickSize * (at[1] & 7) + (at[2] & 7)));
  }
};

// An edge of the lattice: its lower node, and where its two nodes are stored, or -1.
struct BrickEdge {
  int64_t position[3];
  int64_t node[2];
};

// An edge that a brick owns, at one of its nodes.
DIFFISO_HD BrickEdge brick_edge(const BrickShape& bricks, const BrickOctant<1>& above, int x,
                                int bit, int axis) {
  const int local[3] = {x, bit >> 3, bit & 7};
  const int64_t first = 64 * x + bit, step = 64 >> 3 * axis;
  BrickEdge edge;
  for (int a = 0; a < 3; ++a) edge.position[a] = bricks.origin(above.brick[0], a) + local[a];
  edge.node[0] = kBrickNodes * above.brick[0] + first;
  edge.node[1] = edge.node[0] + step;
  if (local[axis] == kBrickSize - 1) {
    const int64_t next = above.brick[4 >> axis];
    edge.node[1] = next < 0 ? -1 : kBrickNodes * next + first - (kBrickSize - 1) * step;
  }
  return edge;
}

// The number by which callers know an edge, the same as on the dense grid.
DIFFISO_HD int64_t edge_id(const BrickShape& bricks, const int64_t position[3], int axis) {
  return 3 * bricks.node(position[0], position[1], position[2]) + axis;
}

// The vertex on a crossed edge, both of whose nodes are present.
template <typename scalar_t, typename value_t>
DIFFISO_HD Vec3<scalar_t> edge_vertex(const BrickShape& bricks, const BrickEdge& edge, int axis,
                                      const value_t* values, scalar_t level) {
  const double t = crossing(static_cast<scalar_t>(values[edge.node[0]]),
                            static_cast<scalar_t>(values[edge.node[1]]), level);
  return vertex_at<scalar_t>(bricks, edge.position, axis, t);
}

// Where a node of the lattice is stored, or -1.
DIFFISO_HD int64_t standing_offset(const BrickShape& bricks, const int64_t at[3]) {
  const int64_t brick = standing_brick(bricks, at[0] >> 3, at[1] >> 3, at[2] >> 3);
  if (brick < 0) return -1;
  return kBrickNodes * brick + 64 * (at[0] & 7) + 8 * (at[1] & 7) + (at[2] & 7);
}

// What a vertex's gradient passes back, to where its edge's nodes are stored. Nothing for an id
// that no edge has, or whose nodes are absent.
template <typename scalar_t, typename value_t>
DIFFISO_HD VertexPullBack<scalar_t> pull_back_vertex(const BrickShape& bricks, int64_t id,
                                                     const value_t* values, scalar_t level,
                                                     Vec3<scalar_t> grad_vertex) {
  using PullBack = VertexPullBack<scalar_t>;
  const int64_t node = id / 3;
  const int axis = static_cast<int>(id - 3 * node);
  if (id < 0 || node >= bricks.nodes[0] * bricks.nodes[1] * bricks.nodes[2]) {
    return PullBack::none();
  }
  const int64_t row = quotient(node, bricks.nodes[2]), plane = quotient(row, bricks.nodes[1]);
  int64_t at[3] = {plane, row - plane * bricks.nodes[1], node - row * bricks.nodes[2]};
  PullBack out{axis, {standing_offset(bricks, at), -1}, {0, 0}, 0};
  if (out.node[0] < 0 || ++at[axis] >= bricks.nodes[axis]) return PullBack::none();
  out.node[1] = (at[axis] & 7) != 0 ? out.node[0] + (64 >> 3 * axis) : standing_offset(bricks, at);
  if (out.node[1] < 0) return PullBack::none();
  const double along = static_cast<double>(grad_vertex[axis]) * bricks.spacing[axis];
  out.through(values, level, along);
  return out;
}

}  // namespace diffiso
