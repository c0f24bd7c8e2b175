// SPDX-License-Identifier: Apache-2.0
// Which vertex and face belongs where, and where a vertex lies: the arithmetic of marching cubes
// that the CPU loop and the kernels share.
//
// Order of the output. Vertices: rows in (b, i, j) order, and within a row all crossed x-edges by
// k, then all y-edges, then all z-edges. Faces: cells in (b, i, j, k) order. So a vertex's index is
// a row's prefix sum plus a count of bits, and nothing is sorted, hashed or searched.
#pragma once

#include "core/marching_cubes_tables.h"
#include "core/sign_words.h"

namespace diffiso {

// What a row owns; as an exclusive prefix sum over rows: where each of its groups begins.
struct RowCounts {
  int64_t edges[3];  // crossed x-, y- and z-edges
  int64_t faces;
};

// Turns a row's counts into its beginnings and moves `total` on to the next row.
struct OutputTotals {
  int64_t vertices, faces;
};

DIFFISO_HD RowCounts advance(OutputTotals& total, RowCounts counts) {
  RowCounts begin;
  for (int axis = 0; axis < 3; ++axis) {
    begin.edges[axis] = total.vertices;
    total.vertices += counts.edges[axis];
  }
  begin.faces = total.faces;
  total.faces += counts.faces;
  return begin;
}

// Vertex ids of a cell's edges: `begin` is the id of each group's first vertex in this word, and
// the crossed edges before the cell's are counted.
template <typename index_t>
struct CellEdgeIds {
  index_t id[12];

  DIFFISO_HD CellEdgeIds(const uint64_t crossed[8], const int64_t begin[8], int k) {
    const uint64_t before = low_bits(k);
    for (int g = 0; g < 8; ++g) {
      id[g] = static_cast<index_t>(begin[g] + popcount(crossed[g] & before));
      if (g < 4)
        id[8 + g] = static_cast<index_t>(id[g] + static_cast<index_t>(crossed[g] >> k & 1));
    }
  }

  DIFFISO_HD index_t operator[](int edge) const { return id[edge]; }
};

// The same for every cell of a word.
template <typename index_t>
struct WordEdgeIds {
  const uint64_t* crossed;  // (8,)
  const int64_t* begin;     // (8,)

  DIFFISO_HD CellEdgeIds<index_t> operator()(int k) const { return {crossed, begin, k}; }
};

template <typename Cases>
DIFFISO_HD int count_triangles(uint64_t active, const Cases& cases) {
  const MarchingCubesTables& tables = marching_cubes_tables();
  int count = 0;
  for (; active != 0; active &= active - 1) {
    count += tables.triangle_count[cases[lowest_bit(active)]];
  }
  return count;
}

DIFFISO_HD int count_triangles(const CellWord& cells) {
  return count_triangles(cells.active, CellCases(cells));
}

// Writes the faces of one word's cells at `out`; returns where the next word's go. ids_of(k)[e] is
// the id of the vertex on edge e of cell k.
template <typename index_t, typename Cases, typename IdsOf>
DIFFISO_HD index_t* write_faces(uint64_t active, const Cases& cases, const IdsOf& ids_of,
                                index_t* out) {
  const MarchingCubesTables& tables = marching_cubes_tables();
  for (; active != 0; active &= active - 1) {
    const int k = lowest_bit(active);
    const int which = cases[k];
    const auto ids = ids_of(k);
    const int corners = 3 * tables.triangle_count[which];
    for (int c = 0; c < corners; ++c) *out++ = ids[tables.triangle_edges[which][c]];
  }
  return out;
}

template <typename index_t, typename IdsOf>
DIFFISO_HD index_t* write_faces(const CellWord& cells, const IdsOf& ids_of, index_t* out) {
  return write_faces(cells.active, CellCases(cells), ids_of, out);
}

// Where the surface crosses an edge, from 0 at the lower node (value a) to 1 at the upper (value
// b). An infinite end draws the crossing to the finite one; two infinite ends meet in the middle.
DIFFISO_HD double crossing(double a, double b, double level) {
  const double range = b - a;
  if (range == 0) return 0.5;  // a difference that was flushed to zero
  if (std::isfinite(range)) return (level - a) / range;
  if (std::isinf(a)) return std::isinf(b) ? 0.5 : 1.0;
  if (std::isinf(b)) return 0.0;
  return (0.5 * level - 0.5 * a) / (0.5 * b - 0.5 * a);  // the difference alone overflows
}

// d crossing / d (a, b, level); zero where an end is infinite, or the ends too close to divide by.
struct CrossingGradient {
  double a, b, level;
};

DIFFISO_HD CrossingGradient crossing_gradient(double a, double b, double level) {
  const double range = b - a;
  if (!std::isfinite(range) || !std::isfinite(1 / range)) return {0, 0, 0};
  const double t = (level - a) / range;
  return {(t - 1) / range, -t / range, 1 / range};
}

// An edge of the lattice seen from the grid: its two nodes' flat indices, or -1 for a padding node.
struct GridEdge {
  int64_t node[2];
  int64_t position[3];  // of the lower node, in grid nodes: -1 in the padding
};

DIFFISO_HD GridEdge grid_edge(const GridShape& grid, const Lattice& lattice, Row row, int64_t k,
                              int axis) {
  GridEdge edge;
  edge.position[0] = row.i - lattice.pad;
  edge.position[1] = row.j - lattice.pad;
  edge.position[2] = k - lattice.pad;
  const int64_t step = axis == 0 ? grid.size[1] * grid.size[2] : axis == 1 ? grid.size[2] : 1;
  const int64_t lower = grid.node(row.b, edge.position[0], edge.position[1], edge.position[2]);
  edge.node[0] = edge.position[axis] < 0 ? -1 : lower;
  edge.node[1] = edge.position[axis] + 1 >= grid.size[axis] ? -1 : lower + step;
  for (int other = 0; other < 3; ++other) {  // an edge between two padding nodes: never crossed
    const int64_t at = edge.position[other];
    if (other != axis && (at < 0 || at >= grid.size[other])) edge.node[0] = edge.node[1] = -1;
  }
  return edge;
}

// World coordinate of a place along an axis of a box, in nodes. In double, to be rounded once,
// whatever the dtype.
template <typename Box>
DIFFISO_HD double coordinate(const Box& box, int axis, double place) {
  return box.lower[axis] + place * box.spacing[axis];
}

// The vertex a fraction t along the edge that begins at a node.
template <typename scalar_t, typename Box>
DIFFISO_HD Vec3<scalar_t> vertex_at(const Box& box, const int64_t node[3], int axis, double t) {
  Vec3<scalar_t> vertex;
  for (int a = 0; a < 3; ++a) {
    const double place = static_cast<double>(node[a]) + (a == axis ? t : 0.0);
    vertex[a] = static_cast<scalar_t>(coordinate(box, a, place));
  }
  return vertex;
}

// The vertex on a crossed edge. On an edge into the padding it is the real node: the cap lies on
// the face of the box.
template <typename scalar_t, typename value_t>
DIFFISO_HD Vec3<scalar_t> edge_vertex(const GridShape& grid, const GridEdge& edge, int axis,
                                      const value_t* values, scalar_t level) {
  double t = 0;
  if (edge.node[0] < 0) {
    t = 1;
  } else if (edge.node[1] >= 0) {
    t = crossing(static_cast<scalar_t>(values[edge.node[0]]),
                 static_cast<scalar_t>(values[edge.node[1]]), level);
  }
  return vertex_at<scalar_t>(grid, edge.position, axis, t);
}

// The number by which callers know an edge: 3 * (flat lattice index of its lower node) + axis.
DIFFISO_HD int64_t edge_id(const Lattice& lattice, Row row, int64_t k, int axis) {
  return 3 * (row.index * lattice.size[2] + k) + axis;
}

struct LatticeEdge {
  Row row;
  int64_t k;
  int axis;
};

DIFFISO_HD LatticeEdge edge_from_id(const Lattice& lattice, int64_t id) {
  const int64_t node = id / 3;
  const int64_t row = quotient(node, lattice.size[2]);
  return {row_at(lattice, row), node - row * lattice.size[2], static_cast<int>(id - 3 * node)};
}

// What a vertex's gradient passes back: to its edge's two nodes, and to the level. Nothing where
// the edge leads into the padding, since a cap stays on the face of the box.
template <typename scalar_t>
struct VertexPullBack {
  int axis;
  int64_t node[2];
  scalar_t value[2];
  scalar_t level;

  // Nothing is passed on.
  DIFFISO_HD static VertexPullBack none() { return {0, {-1, -1}, {0, 0}, 0}; }

  // `along`: the gradient along the edge, per node.
  template <typename value_t>
  DIFFISO_HD void through(const value_t* values, scalar_t at_level, double along) {
    const CrossingGradient gradient = crossing_gradient(
        static_cast<scalar_t>(values[node[0]]), static_cast<scalar_t>(values[node[1]]), at_level);
    value[0] = static_cast<scalar_t>(along * gradient.a);
    value[1] = static_cast<scalar_t>(along * gradient.b);
    level = static_cast<scalar_t>(along * gradient.level);
  }
};

template <typename scalar_t, typename value_t>
DIFFISO_HD VertexPullBack<scalar_t> pull_back_vertex(const GridShape& grid, const Lattice& lattice,
                                                     int64_t id, const value_t* values,
                                                     const scalar_t* level,
                                                     Vec3<scalar_t> grad_vertex) {
  using PullBack = VertexPullBack<scalar_t>;
  // An id that no edge has passes nothing on, rather than reading out of bounds.
  if (id < 0 || id >= 3 * lattice.rows() * lattice.size[2]) return PullBack::none();
  const LatticeEdge at = edge_from_id(lattice, id);
  const GridEdge edge = grid_edge(grid, lattice, at.row, at.k, at.axis);
  PullBack out{at.axis, {edge.node[0], edge.node[1]}, {0, 0}, 0};
  if (edge.node[0] < 0 || edge.node[1] < 0) return out;
  const double along = static_cast<double>(grad_vertex[at.axis]) * grid.spacing[at.axis];
  out.through(values, level[at.row.b], along);
  return out;
}

}  // namespace diffiso
