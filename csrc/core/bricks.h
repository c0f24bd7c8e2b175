// SPDX-License-Identifier: Apache-2.0
// A sparse grid: bricks of 8 x 8 x 8 nodes, and a dense table that says which brick stands where.
// A node is stored once, in its own brick; a cell belongs to the brick of its lower node and
// reaches into the bricks above it. What is in no brick is absent, as if it were NaN.
//
// Masks have a bit per node, or per cell by its lower node: eight words a brick, word x with bit
// 8 * y + z.
#pragma once

#include "core/grid.h"

namespace diffiso {

constexpr int kBrickSize = 8;
constexpr int kBrickNodes = 512;

struct BrickShape {
  int64_t count;               // bricks
  int64_t nodes[3];            // of the whole lattice along x, y, z
  int64_t tiles[3];            // of the table: the bricks that would cover all nodes
  const int32_t* table;        // (TX, TY, TZ) index of a brick, or -1
  const int32_t* coordinates;  // (R, 3) where in the table each brick stands
  Vec3<double> lower, spacing;

  // The brick at a place of the table, or -1: also outside the table, and for numbers that no brick
  // has.
  DIFFISO_HD int64_t find(int64_t x, int64_t y, int64_t z) const {
    if (x < 0 || y < 0 || z < 0 || x >= tiles[0] || y >= tiles[1] || z >= tiles[2]) return -1;
    const int64_t brick = table[(x * tiles[1] + y) * tiles[2] + z];
    return brick < count ? brick : -1;
  }

  // Where node (i, j, k) is stored, or -1.
  DIFFISO_HD int64_t offset(int64_t i, int64_t j, int64_t k) const {
    const int64_t brick = find(i >> 3, j >> 3, k >> 3);  // rounds down: -1 stays outside
    return brick < 0 ? -1 : brick * kBrickNodes + ((i & 7) * 8 + (j & 7)) * 8 + (k & 7);
  }

  // Flat index of a node in the grid that has them all.
  DIFFISO_HD int64_t node(int64_t i, int64_t j, int64_t k) const {
    return (i * nodes[1] + j) * nodes[2] + k;
  }

  DIFFISO_HD AxisNodes axis(int a) const { return {nodes[a], lower[a], spacing[a]}; }

  // The node of a brick with local coordinates 0, along one axis.
  DIFFISO_HD int64_t origin(int64_t brick, int axis) const {
    return int64_t{kBrickSize} * coordinates[3 * brick + axis];
  }
};

// The bricks around a brick (or around a place without one): index 9 * (dx + 1) + 3 * (dy + 1) +
// dz + 1, -1 where there is none.
struct BrickHood {
  int32_t brick[27];

  // find(dx, dy, dz) names the brick at a step.
  template <typename Find>
  DIFFISO_HD explicit BrickHood(const Find& find) {
    for (int n = 0; n < 27; ++n) {
      brick[n] = static_cast<int32_t>(find(n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1));
    }
  }

  DIFFISO_HD BrickHood(const BrickShape& shape, int64_t x, int64_t y, int64_t z)
      : BrickHood([&](int dx, int dy, int dz) { return shape.find(x + dx, y + dy, z + dz); }) {}

  DIFFISO_HD int64_t at(int dx, int dy, int dz) const {
    return brick[9 * (dx + 1) + 3 * (dy + 1) + dz + 1];
  }

  // Word x of the mask of the brick at (dx, dy, dz); 0 where there is no brick.
  DIFFISO_HD uint64_t word(const uint64_t* masks, int dx, int dy, int dz, int x) const {
    const int64_t index = at(dx, dy, dz);
    return index < 0 ? 0 : masks[kBrickSize * index + x];
  }
};

constexpr uint64_t kFirstInZ = 0x0101010101010101u;  // bits of a word with z = 0
constexpr uint64_t kLastInZ = kFirstInZ << 7;

// Bits moved by one along z or y: bit n of the result is the bit after, or before, n. `beyond` is
// the same word of the brick that the bits come from at the end.
DIFFISO_HD uint64_t next_in_z(uint64_t word, uint64_t beyond) {
  return (word >> 1 & ~kLastInZ) | (beyond << 7 & kLastInZ);
}
DIFFISO_HD uint64_t previous_in_z(uint64_t word, uint64_t beyond) {
  return (word << 1 & ~kFirstInZ) | (beyond >> 7 & kFirstInZ);
}
DIFFISO_HD uint64_t next_in_y(uint64_t word, uint64_t beyond) {
  return word >> 8 | beyond << 56;
}
DIFFISO_HD uint64_t previous_in_y(uint64_t word, uint64_t beyond) {
  return word << 8 | beyond >> 56;
}

// A word of a mask around a brick: bit (y, z) is node (x + dx, y + dy, z + dz) of the brick, each
// step -1, 0 or 1, and x + dx from -8 to 15. A Hood has the bricks that are asked for.
template <typename Hood>
DIFFISO_HD uint64_t shifted_word(const uint64_t* masks, const Hood& hood, int x, int dx, int dy,
                                 int dz) {
  const int plane = x + dx, bx = plane >> 3, w = plane & 7;
  // Along z for the brick's own y, and for the y beyond it if that is asked for.
  uint64_t of_y[2] = {0, 0};
  for (int beyond = 0; beyond <= (dy != 0); ++beyond) {
    const int by = beyond * dy;
    const uint64_t here = hood.word(masks, bx, by, 0, w);
    of_y[beyond] = dz == 0  ? here
                   : dz > 0 ? next_in_z(here, hood.word(masks, bx, by, 1, w))
                            : previous_in_z(here, hood.word(masks, bx, by, -1, w));
  }
  return dy == 0 ? of_y[0] : dy > 0 ? next_in_y(of_y[0], of_y[1]) : previous_in_y(of_y[0], of_y[1]);
}

// A mask around a brick: word(plane, by, bz) is the word of plane -8 to 15 in the row of bricks
// that stands by and bz bricks from it.
struct MaskAround {
  const uint64_t* masks;
  const BrickHood& hood;

  DIFFISO_HD uint64_t operator()(int plane, int by, int bz) const {
    return hood.word(masks, plane >> 3, by, bz, plane & 7);
  }
};

struct AnyOf {
  template <typename T>
  DIFFISO_HD T operator()(const T& a, const T& b) const {
    return a | b;
  }
};

struct AllOf {
  template <typename T>
  DIFFISO_HD T operator()(const T& a, const T& b) const {
    return a & b;
  }
};

// Folds bit (y, z) with (y, z + dz), (y + dy, z) and (y + dy, z + dz), each step -1 or 1.
// word(by, bz) is the word of the brick that stands by and bz bricks away, 0 or a step.
template <typename Word, typename Fold>
DIFFISO_HD auto fold_square(const Word& word, int dy, int dz, const Fold& fold) {
  const auto along_z = [&](int by) {
    const auto here = word(by, 0), beyond = word(by, dz);
    return fold(here, dz > 0 ? next_in_z(here, beyond) : previous_in_z(here, beyond));
  };
  const auto here = along_z(0), beyond = along_z(dy);
  return fold(here, dy > 0 ? next_in_y(here, beyond) : previous_in_y(here, beyond));
}

// Bits (y, z) of a word whose place lies in a box of some size that begins at 0: bit 0 is at
// (x, y, z).
DIFFISO_HD uint64_t box_word(const int64_t size[3], int64_t x, int64_t y, int64_t z) {
  if (x < 0 || x >= size[0]) return 0;
  const uint64_t rows = low_bits(8 * (size[1] - y)) & ~low_bits(-8 * y);
  const uint64_t columns = low_bits(size[2] - z) & ~low_bits(-z) & 0xff;
  return rows & (columns * kFirstInZ);
}

// Bits of plane x of the brick at a place of the table that lie in such a box.
DIFFISO_HD uint64_t box_plane(const int64_t size[3], const int64_t tile[3], int x) {
  return box_word(size, kBrickSize * tile[0] + x, kBrickSize * tile[1], kBrickSize * tile[2]);
}

// Bits of word x whose node lies in the lattice.
DIFFISO_HD uint64_t lattice_word(const BrickShape& shape, int64_t tile_x, int64_t tile_y,
                                 int64_t tile_z, int x) {
  return box_word(shape.nodes, kBrickSize * tile_x + x, kBrickSize * tile_y, kBrickSize * tile_z);
}

}  // namespace diffiso
