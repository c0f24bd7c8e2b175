// SPDX-License-Identifier: Apache-2.0
// Where a field must be evaluated: which cells of a coarse lattice to refine, and which nodes a band
// must grow by until it holds all of a surface. Everything but the test of a cell works on masks.
#pragma once

#include <limits>

#include "core/bricks.h"

namespace diffiso {

// Refinement halves a lattice's cells. Coarse node i is node min(2 * i, last) of the fine lattice,
// so that both have the box's own corners; where the number of fine cells is odd the last coarse
// cell is half a cell.

// The fine node along one axis as a coarse one, or -1 if the coarse lattice lacks it.
DIFFISO_HD int64_t coarse_node(int64_t fine, int64_t fine_nodes, int64_t coarse_nodes) {
  if (fine == fine_nodes - 1) return coarse_nodes - 1;
  return fine % 2 == 0 ? fine / 2 : -1;
}

// The farthest that a corner of a coarse cell is from any point of one of the cell's eight children,
// times the field's Lipschitz bound. Along an axis a child reaches one fine spacing from its own
// corner and two from the other; `far` has a bit (4, 2, 1) for each axis of the second kind.
template <typename scalar_t>
struct Reach {
  scalar_t of[8];
};

// Bit o: child o = 4*dx + 2*dy + dz of a cell may hold the surface. A field with that Lipschitz
// bound is not zero within |value| / bound of a sample, so any one corner can clear a child. A corner
// that is NaN clears nothing, but a cell of eight is taken for empty.
template <typename scalar_t>
DIFFISO_HD unsigned children_to_refine(const scalar_t corners[8], scalar_t level,
                                       const Reach<scalar_t>& reach) {
  unsigned cleared = 0;
  bool any = false;
  for (int c = 0; c < 8; ++c) {
    if (corners[c] != corners[c]) continue;
    any = true;
    const scalar_t distance = std::abs(corners[c] - level);
    for (int o = 0; o < 8; ++o) cleared |= static_cast<unsigned>(distance > reach.of[c ^ o]) << o;
  }
  return any ? ~cleared & 0xffu : 0u;
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

// What is known of the nodes of some bricks: masks of eight words a brick.
struct BandMasks {
  const uint64_t* inside;   // by the newest value known
  const uint64_t* outside;  // likewise; a node known to be absent is neither
  const uint64_t* flipped;  // evaluated, and on the other side than before
  const uint64_t* known;    // inside, outside, or evaluated and absent
};

// The four cells of a plane of nodes that touch node (y, z): what any of their four nodes in the
// plane has. Index 2*a + b: the cell whose lower node is (y + a - 1, z + b - 1).
struct CellsOfPlane {
  uint64_t any[4];
};

template <typename Word>
DIFFISO_HD CellsOfPlane cells_of_plane(const Word& word) {
  uint64_t pair[3][2];  // by dy + 1: any of z - 1 and z, any of z and z + 1
  for (int dy = -1; dy <= 1; ++dy) {
    const uint64_t here = word(dy, 0);
    pair[dy + 1][0] = word(dy, -1) | here;
    pair[dy + 1][1] = here | word(dy, 1);
  }
  CellsOfPlane out;
  for (int a = 0; a < 2; ++a) {
    for (int b = 0; b < 2; ++b) out.any[2 * a + b] = pair[a][b] | pair[a + 1][b];
  }
  return out;
}

// A plane of nodes seen by the cells on it.
struct BandPlane {
  CellsOfPlane inside, outside, flipped, unknown;

  // Plane x of the brick at tile, -1 to 8.
  DIFFISO_HD BandPlane(const BandMasks& masks, const BrickHood& hood, const int64_t nodes[3],
                       const int64_t tile[3], int x)
      : inside(of(masks.inside, hood, x)),
        outside(of(masks.outside, hood, x)),
        flipped(of(masks.flipped, hood, x)),
        unknown(cells_of_plane([&](int dy, int dz) {
          return box_word(nodes, kBrickSize * tile[0] + x, kBrickSize * tile[1] + dy,
                          kBrickSize * tile[2] + dz) &
                 ~shifted_word(masks.known, hood, x, 0, dy, dz);
        })) {}

  DIFFISO_HD static CellsOfPlane of(const uint64_t* mask, const BrickHood& hood, int x) {
    return cells_of_plane([&](int dy, int dz) { return shifted_word(mask, hood, x, 0, dy, dz); });
  }
};

// Which cells all nodes of are wanted, from what any of their nodes is.
//
// Crossing: known in full and with nodes on both sides.
struct CrossingCells {
  DIFFISO_HD uint64_t operator()(uint64_t inside, uint64_t outside, uint64_t,
                                 uint64_t unknown) const {
    return inside & outside & ~unknown;
  }
};

// Growing: with nodes on both sides. A node without a value was on the side of its neighbours in the
// cell when they last were on one, so a neighbour that has flipped is on the other side.
struct GrowingCells {
  DIFFISO_HD uint64_t operator()(uint64_t inside, uint64_t outside, uint64_t flipped,
                                 uint64_t unknown) const {
    return (inside & outside) | (flipped & unknown);
  }
};

// Nodes of all cells that `rule` wants, for the brick at a tile, also one without a brick.
template <typename Rule>
DIFFISO_HD void nodes_of_cells(const BandMasks& masks, const BrickHood& hood,
                               const int64_t nodes[3], const int64_t tile[3], const Rule& rule,
                               uint64_t out[8]) {
  const int64_t cells[3] = {nodes[0] - 1, nodes[1] - 1, nodes[2] - 1};
  for (int x = 0; x < kBrickSize; ++x) out[x] = 0;
  BandPlane below(masks, hood, nodes, tile, -1);
  for (int x = 0; x <= kBrickSize; ++x) {
    const BandPlane above(masks, hood, nodes, tile, x);
    uint64_t wanted = 0;
    for (int n = 0; n < 4; ++n) {
      const uint64_t exist =
          box_word(cells, kBrickSize * tile[0] + x - 1, kBrickSize * tile[1] + (n >> 1) - 1,
                   kBrickSize * tile[2] + (n & 1) - 1);
      wanted |= exist & rule(below.inside.any[n] | above.inside.any[n],
                             below.outside.any[n] | above.outside.any[n],
                             below.flipped.any[n] | above.flipped.any[n],
                             below.unknown.any[n] | above.unknown.any[n]);
    }
    if (x > 0) out[x - 1] |= wanted;
    if (x < kBrickSize) out[x] |= wanted;
    below = above;
  }
}

// Nodes of the cells in a mask of cells.
DIFFISO_HD uint64_t nodes_of_cell_mask(const uint64_t* cells, const BrickHood& hood, int x) {
  uint64_t out = 0;
  for (int corner = 0; corner < 8; ++corner) {
    out |= shifted_word(cells, hood, x, -(corner >> 2), -(corner >> 1 & 1), -(corner & 1));
  }
  return out;
}

// Word x of a mask and all its neighbours, 26 around each bit.
DIFFISO_HD uint64_t dilated_word(const uint64_t* masks, const BrickHood& hood, int x) {
  uint64_t out = 0;
  for (int n = 0; n < 27; ++n) {
    out |= shifted_word(masks, hood, x, n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1);
  }
  return out;
}

// Whether a step to a neighbouring brick leads over a node of the mask: a node in the face, edge or
// corner towards it.
DIFFISO_HD bool touches(const uint64_t mask[8], int dx, int dy, int dz) {
  uint64_t any = 0;
  for (int x = 0; x < kBrickSize; ++x) {
    if ((dx < 0 && x > 0) || (dx > 0 && x < kBrickSize - 1)) continue;
    any |= mask[x];
  }
  if (dy != 0) any &= dy < 0 ? uint64_t{0xff} : uint64_t{0xff} << 56;
  if (dz != 0) any &= dz < 0 ? kFirstInZ : kLastInZ;
  return any != 0;
}

}  // namespace diffiso
