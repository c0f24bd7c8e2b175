// SPDX-License-Identifier: Apache-2.0
// The signs of a lattice, 64 nodes of a z-row to a word, and what follows from them by bit
// arithmetic: crossed edges, present cells, the cases of cells.
#pragma once

#include "core/grid.h"

namespace diffiso {

// The lattice marching cubes runs on: the grid's nodes and, with `pad` = 1, one more layer on every
// side whose nodes count as outside. A row is all nodes of one (b, i, j).
struct Lattice {
  int64_t batch;
  int64_t size[3];  // nodes, padding included
  int64_t words;    // per row
  int64_t pad;

  DIFFISO_HD int64_t rows() const { return batch * size[0] * size[1]; }
  DIFFISO_HD int64_t rows_per_grid() const { return size[0] * size[1]; }
  // Bits of word w whose node has a neighbour above it in z.
  DIFFISO_HD uint64_t below_last(int64_t w) const { return low_bits(size[2] - 1 - 64 * w); }
};

DIFFISO_HD Lattice make_lattice(const GridShape& grid, bool close_boundary) {
  const int64_t pad = close_boundary ? 1 : 0;
  Lattice out{};
  out.batch = grid.batch;
  for (int axis = 0; axis < 3; ++axis) out.size[axis] = grid.size[axis] + 2 * pad;
  out.words = (out.size[2] + 63) / 64;
  out.pad = pad;
  return out;
}

// A row's place in its lattice.
struct Row {
  int64_t index;  // (b * X + i) * Y + j
  int64_t b, i, j;
};

DIFFISO_HD Row row_at(const Lattice& lattice, int64_t index) {
  const int64_t plane = quotient(index, lattice.size[1]);
  const int64_t b = quotient(plane, lattice.size[0]);
  return {index, b, plane - b * lattice.size[0], index - plane * lattice.size[1]};
}

// The row after `row`, without the divisions of row_at.
DIFFISO_HD Row next_row(const Lattice& lattice, Row row) {
  ++row.index;
  if (++row.j == lattice.size[1]) {
    row.j = 0;
    if (++row.i == lattice.size[0]) {
      row.i = 0;
      ++row.b;
    }
  }
  return row;
}

// Word arrays of a lattice, (rows, words) each. Bits past a row's end are zero.
struct SignWords {
  const uint64_t* inside;
  const uint64_t* cells;  // present cells, by their lower node; null while every cell is present
};

DIFFISO_HD uint64_t word_at(const uint64_t* words, const Lattice& lattice, int64_t row, int64_t w) {
  return words[row * lattice.words + w];
}

// Word w of the row moved by one, so that bit k is node k + 1.
DIFFISO_HD uint64_t next_word(const uint64_t* words, const Lattice& lattice, int64_t row,
                              int64_t w) {
  const uint64_t* at = words + row * lattice.words + w;
  return at[0] >> 1 | (w + 1 < lattice.words ? at[1] << 63 : 0);
}

// Word w of the row moved by one the other way, so that bit k is node k - 1.
DIFFISO_HD uint64_t previous_word(const uint64_t* words, const Lattice& lattice, int64_t row,
                                  int64_t w) {
  const uint64_t* at = words + row * lattice.words + w;
  return at[0] << 1 | (w > 0 ? at[-1] >> 63 : 0);
}

// The cells of one word of a row whose eight nodes are all present. `nodes` has a bit per present
// node.
DIFFISO_HD uint64_t present_cells(const uint64_t* nodes, const Lattice& lattice, Row row,
                                  int64_t w) {
  if (row.i + 1 >= lattice.size[0] || row.j + 1 >= lattice.size[1]) return 0;
  uint64_t all = lattice.below_last(w);
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t r = row.index + (corner >> 1) * lattice.size[1] + (corner & 1);
    all &= word_at(nodes, lattice, r, w) & next_word(nodes, lattice, r, w);
  }
  return all;
}

// Edges of one word along an axis that some present cell uses.
DIFFISO_HD uint64_t used_edges(const SignWords& signs, const Lattice& lattice, Row row, int64_t w,
                               int axis) {
  if (signs.cells == nullptr) return ~uint64_t{0};
  uint64_t used = 0;
  // Cells around the edge: those at its lower node, or one step back along the two other axes.
  for (int back_i = 0; back_i <= (axis != 0 && row.i > 0); ++back_i) {
    for (int back_j = 0; back_j <= (axis != 1 && row.j > 0); ++back_j) {
      const int64_t r = row.index - back_i * lattice.size[1] - back_j;
      used |= word_at(signs.cells, lattice, r, w);
      if (axis != 2) used |= previous_word(signs.cells, lattice, r, w);
    }
  }
  return used;
}

// The signs of one word of a row and of its neighbours in x and y. Past the lattice's last row
// there is nobody: the row itself stands in, so that no edge in that direction is crossed.
struct CellWord {
  uint64_t corner[8];  // bit k: corner c = 4*dx + 2*dy + dz of cell k is inside
  uint64_t active;     // cells that the surface crosses and that are present
};

DIFFISO_HD bool has_cells(const Lattice& lattice, Row row) {
  return row.i + 1 < lattice.size[0] && row.j + 1 < lattice.size[1];
}

DIFFISO_HD CellWord load_cells(const SignWords& signs, const Lattice& lattice, Row row, int64_t w) {
  const int64_t dx = row.i + 1 < lattice.size[0] ? lattice.size[1] : 0;
  const int64_t dy = row.j + 1 < lattice.size[1] ? 1 : 0;
  CellWord out;
  uint64_t any = 0, all = ~uint64_t{0};
  for (int r = 0; r < 4; ++r) {
    const int64_t index = row.index + (r >> 1) * dx + (r & 1) * dy;
    out.corner[2 * r] = word_at(signs.inside, lattice, index, w);
    out.corner[2 * r + 1] = next_word(signs.inside, lattice, index, w);
    any |= out.corner[2 * r] | out.corner[2 * r + 1];
    all &= out.corner[2 * r] & out.corner[2 * r + 1];
  }
  out.active = has_cells(lattice, row) ? any & ~all & lattice.below_last(w) : 0;
  if (signs.cells != nullptr) out.active &= word_at(signs.cells, lattice, row.index, w);
  return out;
}

// The eight groups of edges that the cells of a row touch, each one axis of one of the four rows:
// its axis, its row, and the corners at the ends of its edges. Group g holds cell edge g, and for g
// < 4 also cell edge 8 + g, one step up in z. Groups 0, 2 and 4 are the row's own edges.
struct EdgeGroup {
  int axis, dx, dy;
  int corner[2];
};

DIFFISO_HD EdgeGroup edge_group(int g) {
  static constexpr EdgeGroup groups[8] = {
      {0, 0, 0, {0, 4}}, {0, 0, 1, {2, 6}}, {1, 0, 0, {0, 2}}, {1, 1, 0, {4, 6}},
      {2, 0, 0, {0, 1}}, {2, 0, 1, {2, 3}}, {2, 1, 0, {4, 5}}, {2, 1, 1, {6, 7}},
  };
  return groups[g];
}

DIFFISO_HD Row group_row(const Lattice& lattice, Row row, EdgeGroup group) {
  return {row.index + group.dx * lattice.size[1] + group.dy, row.b, row.i + group.dx,
          row.j + group.dy};
}

// The crossed edges of one group, each at its lower node. Groups of other rows than the row's own
// need a row that has cells.
DIFFISO_HD uint64_t crossed_edges(const SignWords& signs, const Lattice& lattice, Row row,
                                  int64_t w, const CellWord& cells, int g) {
  const EdgeGroup group = edge_group(g);
  uint64_t crossed = cells.corner[group.corner[0]] ^ cells.corner[group.corner[1]];
  if (group.axis == 2) crossed &= lattice.below_last(w);
  if (signs.cells != nullptr && crossed != 0) {
    crossed &= used_edges(signs, lattice, group_row(lattice, row, group), w, group.axis);
  }
  return crossed;
}

// The crossed edges of the row itself along an axis.
DIFFISO_HD uint64_t own_edges(const SignWords& signs, const Lattice& lattice, Row row, int64_t w,
                              const CellWord& cells, int axis) {
  return crossed_edges(signs, lattice, row, w, cells, 2 * axis);
}

// The case of cell k: bit c is set where corner c is inside.
DIFFISO_HD int case_of(const CellWord& cells, int k) {
  int out = 0;
  for (int corner = 0; corner < 8; ++corner) {
    out |= static_cast<int>(cells.corner[corner] >> k & 1) << corner;
  }
  return out;
}

// The cases of one word's cells, each found when it is asked for.
struct CellCases {
  const CellWord& cells;

  DIFFISO_HD explicit CellCases(const CellWord& of) : cells(of) {}
  DIFFISO_HD int operator[](int k) const { return case_of(cells, k); }
};

}  // namespace diffiso
