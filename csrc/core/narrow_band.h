// SPDX-License-Identifier: Apache-2.0
// What a band of bricks knows of a surface, and which nodes it must grow by until it holds all of
// it: bit arithmetic on masks.
#pragma once

#include "core/bricks.h"

namespace diffiso {

// Plane x of a mask around a brick and all its neighbours, 26 around each bit.
template <typename Around>
DIFFISO_HD uint64_t dilated_word(const Around& mask, int x) {
  const auto along_z = [&](int by) {
    uint64_t any[3];
    for (int n = 0; n < 3; ++n) {
      any[n] = mask(x - 1, by, n - 1) | mask(x, by, n - 1) | mask(x + 1, by, n - 1);
    }
    return previous_in_z(any[1], any[0]) | any[1] | next_in_z(any[1], any[2]);
  };
  const uint64_t here = along_z(0);
  return previous_in_y(here, along_z(-1)) | here | next_in_y(here, along_z(1));
}

// Which steps to neighbouring bricks lead over a node of a mask: one in the face, edge or corner
// towards it.
struct BrickFaces {
  uint64_t first, any, last;  // planes along x

  // word(x) is plane x of the mask.
  template <typename Word>
  DIFFISO_HD explicit BrickFaces(const Word& word) : first(word(0)), any(0), last(word(7)) {
    for (int x = 0; x < kBrickSize; ++x) any |= word(x);
  }

  DIFFISO_HD bool touch(int dx, int dy, int dz) const {
    uint64_t nodes = dx < 0 ? first : dx > 0 ? last : any;
    if (dy != 0) nodes &= dy < 0 ? uint64_t{0xff} : uint64_t{0xff} << 56;
    if (dz != 0) nodes &= dz < 0 ? kFirstInZ : kLastInZ;
    return nodes != 0;
  }
};

// What is known of the nodes in one plane of a brick, a bit each.
struct BandWords {
  uint64_t inside;   // by the newest value known
  uint64_t outside;  // likewise; a node known to be absent is neither
  uint64_t flipped;  // evaluated, and on the other side than before
  uint64_t unknown;  // of the lattice, and neither inside, outside, nor evaluated and absent

  template <typename Combine>
  DIFFISO_HD static BandWords of(const BandWords& a, const BandWords& b, const Combine& combine) {
    return {combine(a.inside, b.inside), combine(a.outside, b.outside),
            combine(a.flipped, b.flipped), combine(a.unknown, b.unknown)};
  }

  DIFFISO_HD friend BandWords operator|(const BandWords& a, const BandWords& b) {
    return of(a, b, AnyOf{});
  }
  DIFFISO_HD friend BandWords next_in_z(const BandWords& a, const BandWords& beyond) {
    return of(a, beyond, [](uint64_t x, uint64_t y) { return next_in_z(x, y); });
  }
  DIFFISO_HD friend BandWords previous_in_z(const BandWords& a, const BandWords& beyond) {
    return of(a, beyond, [](uint64_t x, uint64_t y) { return previous_in_z(x, y); });
  }
  DIFFISO_HD friend BandWords next_in_y(const BandWords& a, const BandWords& beyond) {
    return of(a, beyond, [](uint64_t x, uint64_t y) { return next_in_y(x, y); });
  }
  DIFFISO_HD friend BandWords previous_in_y(const BandWords& a, const BandWords& beyond) {
    return of(a, beyond, [](uint64_t x, uint64_t y) { return previous_in_y(x, y); });
  }
};

// What is remembered of the nodes in one plane of a brick from an earlier field.
struct BandMemory {
  uint64_t remembered;  // nodes whose side then is known
  uint64_t before;      // those of them that were inside

  DIFFISO_HD uint64_t was_inside() const { return remembered & before; }
  DIFFISO_HD uint64_t was_outside() const { return remembered & ~before; }
};

// `exist`: nodes of the lattice; `below` and `above`: those whose value is on that side of the
// level, where one was asked for.
DIFFISO_HD BandWords band_words(uint64_t exist, uint64_t asked, uint64_t below, uint64_t above,
                                const BandMemory& memory) {
  const uint64_t known = exist & asked, stale = exist & memory.remembered & ~asked;
  const uint64_t inside = known & below, outside = known & above;
  return {inside | (stale & memory.before), outside | (stale & ~memory.before),
          (inside & memory.was_outside()) | (outside & memory.was_inside()),
          exist & ~(known | stale)};
}

// Where a brick is missing its nodes are unknown: plane -8 to 15 as seen from a place of the table,
// of the brick that stands by and bz places from it.
DIFFISO_HD BandWords unknown_words(const int64_t nodes[3], const int64_t tile[3], int plane, int by,
                                   int bz) {
  return {0, 0, 0,
          box_word(nodes, kBrickSize * tile[0] + plane, kBrickSize * (tile[1] + by),
                   kBrickSize * (tile[2] + bz))};
}

// What is known around the brick at a place of the table.
struct BandAround {
  const BandWords* words;  // (R, 8)
  const BrickHood& hood;
  const int64_t* nodes;
  const int64_t* tile;

  DIFFISO_HD BandWords operator()(int plane, int by, int bz) const {
    const int64_t brick = hood.at(plane >> 3, by, bz);
    if (brick < 0) return unknown_words(nodes, tile, plane, by, bz);
    return words[kBrickSize * brick + (plane & 7)];
  }
};

// Which cells are wanted, from what any of their nodes is.
//
// Crossing: known in full and with nodes on both sides.
struct CrossingCells {
  DIFFISO_HD uint64_t operator()(const BandWords& any) const {
    return any.inside & any.outside & ~any.unknown;
  }
};

// Growing: with nodes on both sides. A node without a value was on the side of its neighbours in
// the cell when they last were on one, so a neighbour that has flipped is on the other side.
struct GrowingCells {
  DIFFISO_HD uint64_t operator()(const BandWords& any) const {
    return (any.inside & any.outside) | (any.flipped & any.unknown);
  }
};

// The cells of a brick's plane x that a rule wants.
template <typename Around, typename Rule>
DIFFISO_HD uint64_t cells_of_plane(const Around& around, const int64_t cells[3],
                                   const int64_t tile[3], const Rule& rule, int x) {
  const auto either = [&](int by, int bz) { return around(x, by, bz) | around(x + 1, by, bz); };
  return box_plane(cells, tile, x) & rule(fold_square(either, 1, 1, AnyOf{}));
}

// Between two planes of nodes four cells touch the line from node (y, z) to the next: cell n = 2*a
// + b has its lower node at (y + a - 1, z + b - 1). What any of its nodes in one plane is:
template <typename Around>
DIFFISO_HD BandWords side_of_cells(const Around& around, int plane, int n) {
  const auto word = [&](int by, int bz) { return around(plane, by, bz); };
  return fold_square(word, 2 * (n >> 1) - 1, 2 * (n & 1) - 1, AnyOf{});
}

// Which of these cells the lattice has, below a plane of nodes.
DIFFISO_HD uint64_t cells_below(const int64_t nodes[3], const int64_t tile[3], int plane, int n) {
  const int64_t cells[3] = {nodes[0] - 1, nodes[1] - 1, nodes[2] - 1};
  return box_word(cells, kBrickSize * tile[0] + plane - 1, kBrickSize * tile[1] + (n >> 1) - 1,
                  kBrickSize * tile[2] + (n & 1) - 1);
}

// The nodes in a brick's plane x of all cells n that a rule wants, below the plane and above it;
// the brick at a place of the table may be one that does not exist.
template <typename Around, typename Rule>
DIFFISO_HD uint64_t nodes_of_cells(const Around& around, const int64_t nodes[3],
                                   const int64_t tile[3], const Rule& rule, int x, int n) {
  const BandWords here = side_of_cells(around, x, n);
  return (rule(side_of_cells(around, x - 1, n) | here) & cells_below(nodes, tile, x, n)) |
         (rule(here | side_of_cells(around, x + 1, n)) & cells_below(nodes, tile, x + 1, n));
}

// The same for all its planes and cells, each side looked at once.
template <typename Around, typename Rule>
DIFFISO_HD void nodes_of_all_cells(const Around& around, const int64_t nodes[3],
                                   const int64_t tile[3], const Rule& rule, uint64_t out[8]) {
  BandWords below[4];
  for (int n = 0; n < 4; ++n) below[n] = side_of_cells(around, -1, n);
  for (int plane = 0; plane <= kBrickSize; ++plane) {
    uint64_t wanted = 0;
    for (int n = 0; n < 4; ++n) {
      const BandWords above = side_of_cells(around, plane, n);
      wanted |= rule(below[n] | above) & cells_below(nodes, tile, plane, n);
      below[n] = above;
    }
    if (plane > 0) out[plane - 1] |= wanted;
    if (plane < kBrickSize) out[plane] = wanted;
  }
}

// What is remembered of a plane's nodes when `asked` join the band: a new node was on the side that
// all remembered nodes around it were on.
DIFFISO_HD BandMemory inherit(const BandMemory& had, uint64_t asked, uint64_t around_inside,
                              uint64_t around_outside) {
  const uint64_t fresh = asked & ~had.remembered;
  return {had.remembered | (fresh & (around_inside ^ around_outside)),
          had.was_inside() | (fresh & around_inside & ~around_outside)};
}

}  // namespace diffiso
