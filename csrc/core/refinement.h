// SPDX-License-Identifier: Apache-2.0
// From a coarse lattice to one of half the spacing: which cells to refine by a field's Lipschitz
// bound, where they and their nodes are in the fine lattice, and how steep the samples are.
#pragma once

#include <limits>

#include "core/bricks.h"

namespace diffiso {

// Refinement halves a lattice's cells. Coarse node i is node min(2 * i, last) of the fine lattice,
// so that both have the box's own corners; where the number of fine cells is odd the last coarse
// cell is half a cell.
struct Refinement {
  BrickShape coarse;
  int64_t coarse_cells[3], fine_nodes[3], fine_cells[3], fine_tiles[3];
  bool closed;  // the outermost nodes lie outside the box, where every solid ends

  DIFFISO_HD Refinement(const BrickShape& from, const int64_t* nodes, bool ends = false)
      : coarse(from), closed(ends) {
    for (int axis = 0; axis < 3; ++axis) {
      coarse_cells[axis] = from.nodes[axis] - 1;
      fine_nodes[axis] = nodes[axis];
      fine_cells[axis] = nodes[axis] - 1;
      fine_tiles[axis] = (nodes[axis] + kBrickSize - 1) / kBrickSize;
    }
  }
};

// The fine node along one axis as a coarse one, or -1 if the coarse lattice lacks it.
DIFFISO_HD int64_t coarse_node(int64_t fine, int64_t fine_nodes, int64_t coarse_nodes) {
  if (fine == fine_nodes - 1) return coarse_nodes - 1;
  return fine % 2 == 0 ? fine / 2 : -1;
}

// Where the coarse lattice holds the value of a fine brick's node, or -1 if it was not asked for.
DIFFISO_HD int64_t coarse_offset(const Refinement& p, const uint64_t* asked, const int64_t tile[3],
                                 int x, int bit) {
  const int local[3] = {x, bit >> 3, bit & 7};
  int64_t node[3];
  for (int axis = 0; axis < 3; ++axis) {
    node[axis] = coarse_node(kBrickSize * tile[axis] + local[axis], p.fine_nodes[axis],
                             p.coarse.nodes[axis]);
    if (node[axis] < 0) return -1;
  }
  const int64_t at = p.coarse.offset(node[0], node[1], node[2]);
  return at >= 0 && (asked[at >> 6] >> (at & 63) & 1) != 0 ? at : -1;
}

// Nodes in plane x of a fine brick that are nodes of the coarse lattice as well.
DIFFISO_HD uint64_t coarse_nodes_of_plane(const Refinement& p, const int64_t tile[3], int x) {
  int64_t last[3];
  for (int axis = 0; axis < 3; ++axis)
    last[axis] = p.fine_nodes[axis] - 1 - kBrickSize * tile[axis];
  if (x % 2 != 0 && x != last[0]) return 0;
  uint64_t rows = 0x00ff00ff00ff00ffu, columns = 0x55;
  if (last[1] < kBrickSize) rows |= uint64_t{0xff} << 8 * last[1];
  if (last[2] < kBrickSize) columns |= uint64_t{1} << last[2];
  return rows & (columns * kFirstInZ);
}

// Those of some nodes in plane x of a fine brick whose values the coarse lattice holds.
DIFFISO_HD uint64_t held_by_coarse(const Refinement& p, const uint64_t* asked,
                                   const int64_t tile[3], int x, uint64_t nodes) {
  uint64_t out = 0;
  for (uint64_t bits = nodes & coarse_nodes_of_plane(p, tile, x); bits != 0; bits &= bits - 1) {
    if (coarse_offset(p, asked, tile, x, lowest_bit(bits)) >= 0) out |= bits & ~(bits - 1);
  }
  return out;
}

// The cells in plane x of a brick whose eight nodes are all in a mask around it.
template <typename Around>
DIFFISO_HD uint64_t full_cells(const Around& nodes, const int64_t cells[3], const int64_t tile[3],
                               int x) {
  const uint64_t exist = box_plane(cells, tile, x);
  if (exist == 0) return 0;
  const auto both = [&](int by, int bz) { return nodes(x, by, bz) & nodes(x + 1, by, bz); };
  return exist & fold_square(both, 1, 1, AllOf{});
}

// The farthest that a corner of a coarse cell is from any point of one of the cell's eight
// children, times the field's Lipschitz bound. Along an axis a child reaches one fine spacing from
// its own corner and two from the other; `far` has a bit (4, 2, 1) for each axis of the second
// kind.
template <typename scalar_t>
struct Reach {
  scalar_t of[8];

  explicit Reach(const double* numbers) {
    for (int n = 0; n < 8; ++n) of[n] = static_cast<scalar_t>(numbers[n]);
  }
};

// Whether a solid may end in a coarse cell because the lattice does.
DIFFISO_HD bool ends_in_cell(const Refinement& p, const int64_t tile[3], int x, int bit) {
  const int local[3] = {x, bit >> 3, bit & 7};
  bool outermost = false;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t cell = kBrickSize * tile[axis] + local[axis];
    outermost = outermost || cell == 0 || cell == p.coarse_cells[axis] - 1;
  }
  return p.closed && outermost;
}

// Bit o: child o = 4*dx + 2*dy + dz of a cell may hold the surface. A field with that Lipschitz
// bound is not zero within |value| / bound of a sample, so any one corner can clear a child. A corner
// that is not finite clears nothing, and a cell of eight on one side is taken for empty. Where a solid
// may `end`, only corners that are outside and in the box can: inside there is a surface wherever the
// box ends.
template <typename scalar_t>
DIFFISO_HD unsigned children_to_refine(const scalar_t corners[8], scalar_t level,
                                       const Reach<scalar_t>& reach, bool end) {
  unsigned cleared = 0;
  bool known = false, inside = false, outside = false;
  for (int c = 0; c < 8; ++c) {
    if (corners[c] != corners[c]) continue;
    const bool is_inside = corners[c] < level;
    inside = inside || is_inside;
    outside = outside || !is_inside;
    const scalar_t distance = std::abs(corners[c] - level);
    const bool finite = distance <= std::numeric_limits<scalar_t>::max();
    known = known || finite || end;
    if (!finite || (end && is_inside)) continue;
    for (int o = 0; o < 8; ++o) cleared |= static_cast<unsigned>(distance > reach.of[c ^ o]) << o;
  }
  return known || (inside && outside) ? ~cleared & 0xffu : 0u;
}

// Bits (4 * qy + y, 4 * qz + z) of a word moved to (2 * y, 2 * z), y and z from 0 to 3: from coarse
// cells to the first children that they have in one of the brick's four quadrants.
DIFFISO_HD uint64_t spread_quadrant(uint64_t word, int qy, int qz) {
  uint64_t out = word >> (32 * qy + 4 * qz) & 0x0f0f0f0fu;
  out = (out | out << 16) & 0x0000ffff0000ffffu;
  out = (out | out << 8) & 0x00ff00ff00ff00ffu;
  out = (out | out << 2) & 0x3333333333333333u;
  return (out | out << 1) & 0x5555555555555555u;
}

// The children of a plane x of a brick's cells fill eight words of masks, n = 4*dx + 2*qy + qz:
// plane 2 * (x % 4) + dx of child brick (x / 4, qy, qz). Where that is among a brick's 64:
DIFFISO_HD int child_word(int x, int n) {
  return kBrickSize * (4 * (x >> 2) + (n & 3)) + 2 * (x & 3) + (n >> 2);
}

// And what it is, if have[2*dy + dz] are the cells of the plane that have child 4*dx + 2*dy + dz.
DIFFISO_HD uint64_t children_of_plane(const uint64_t have[4], const int64_t fine_cells[3],
                                      const int64_t tile[3], int x, int n) {
  const int qy = n >> 1 & 1, qz = n & 1;
  uint64_t out = 0;
  for (int o = 0; o < 4; ++o) out |= spread_quadrant(have[o], qy, qz) << (8 * (o >> 1) + (o & 1));
  return out & box_word(fine_cells, 2 * (kBrickSize * tile[0] + x) + (n >> 2),
                        kBrickSize * (2 * tile[1] + qy), kBrickSize * (2 * tile[2] + qz));
}

// The cells of a fine lattice that refinement chose, found by way of their parents.
struct ChosenCells {
  BrickShape parents;
  const uint64_t* children;  // (R, 8, 8) masks of a brick's child bricks, 4*x + 2*y + z; or null:
  const uint64_t* cells;     // (R, 8) masks of parents, all of whose children are chosen
  int64_t fine_cells[3];

  ChosenCells(const Refinement& p, const BrickShape& of, const uint64_t* words, bool by_child)
      : parents(of), children(by_child ? words : nullptr), cells(by_child ? nullptr : words) {
    for (int axis = 0; axis < 3; ++axis) fine_cells[axis] = p.fine_cells[axis];
  }

  // The brick of the parents of the cells of a fine brick, or -1.
  DIFFISO_HD int64_t parent_of(const int64_t tile[3]) const {
    return parents.find(tile[0] >> 1, tile[1] >> 1, tile[2] >> 1);
  }

  // Plane 0 to 7 of the fine brick at a place of the table, whose parents are in brick `parent`.
  DIFFISO_HD uint64_t word(int64_t parent, const int64_t tile[3], int plane) const {
    if (parent < 0) return 0;
    const int64_t qx = tile[0] & 1, qy = tile[1] & 1, qz = tile[2] & 1;
    if (children != nullptr) return children[8 * (8 * parent + 4 * qx + 2 * qy + qz) + plane];
    const int64_t parents_tile[3] = {tile[0] >> 1, tile[1] >> 1, tile[2] >> 1};
    const int x = static_cast<int>(4 * qx) + (plane >> 1);
    const uint64_t of = cells[kBrickSize * parent + x];
    const uint64_t all[4] = {of, of, of, of};
    return children_of_plane(all, fine_cells, parents_tile, x,
                             static_cast<int>(4 * (plane & 1) + 2 * qy + qz));
  }
};

// The nodes of cells in a mask around a brick, in its plane x.
template <typename Around>
DIFFISO_HD uint64_t nodes_of_cell_mask(const Around& cells, int x) {
  const auto either = [&](int by, int bz) { return cells(x, by, bz) | cells(x - 1, by, bz); };
  return fold_square(either, -1, -1, AnyOf{});
}

// The nodes of a brick's cells: its own and those of the next bricks, 9 along each axis.
constexpr int kCellSide = kBrickSize + 1;
constexpr int kCellNodes = kCellSide * kCellSide * kCellSide;

// From a node of a cell to its corner c, in an array of those.
DIFFISO_HD int corner_step(int c) {
  return (c >> 2) * kCellSide * kCellSide + (c >> 1 & 1) * kCellSide + (c & 1);
}

// Local node, or cell by its lower node, 64*x + 8*y + z, in an array of those.
DIFFISO_HD int cell_node(int local) {
  return ((local >> 6) * kCellSide + (local >> 3 & 7)) * kCellSide + (local & 7);
}

// The pairs of a cell's corners that no other cell has, one for each direction between neighbours.
struct CornerPair {
  int first, second;
};

constexpr int kCornerPairs = 13;

DIFFISO_HD CornerPair corner_pair(int n) {
  static constexpr CornerPair pairs[kCornerPairs] = {{0, 4}, {0, 2}, {0, 1}, {0, 6}, {4, 2},
                                                     {0, 5}, {4, 1}, {0, 3}, {2, 1}, {0, 7},
                                                     {1, 6}, {2, 5}, {4, 3}};
  return pairs[n];
}

// By how much two samples differ; 0 if that is no finite number.
template <typename scalar_t>
DIFFISO_HD scalar_t rise_between(scalar_t a, scalar_t b) {
  const scalar_t rise = std::abs(a - b);
  return rise <= std::numeric_limits<scalar_t>::max() ? rise : scalar_t{0};
}

template <typename scalar_t>
DIFFISO_HD double slope_of(scalar_t rise, double length) {
  return static_cast<double>(rise) / length;
}

// Two neighbouring samples, by how much the field rises between them per length. Of pairs equally
// steep the first is taken: by brick, then by pair, then by cell.
struct SteepestPair {
  double slope = 0;  // 0: no pair
  int64_t rank = 0;  // 512 * (13 * brick + pair) + cell

  DIFFISO_HD bool exceeds(const SteepestPair& other) const {
    return slope > other.slope || (slope == other.slope && rank < other.rank);
  }

  // Slope, and both nodes.
  DIFFISO_HD void write(const BrickShape& bricks, double out[7]) const {
    for (int n = 0; n < 7; ++n) out[n] = 0;
    if (slope == 0) return;
    out[0] = slope;
    const int64_t brick = rank / (kCornerPairs * kBrickNodes);
    const CornerPair pair = corner_pair(static_cast<int>(rank / kBrickNodes % kCornerPairs));
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t node = bricks.origin(brick, axis) + (rank >> (6 - 3 * axis) & 7);
      out[1 + axis] = static_cast<double>(node + (pair.first >> (2 - axis) & 1));
      out[4 + axis] = static_cast<double>(node + (pair.second >> (2 - axis) & 1));
    }
  }
};

}  // namespace diffiso
