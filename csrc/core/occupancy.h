// SPDX-License-Identifier: Apache-2.0
// Where the surface can be: a bit for every cell, in rows along z, and for blocks of cells how far
// away the nearest marked cell is, so that a ray crosses empty space in a few steps.
#pragma once

#include "core/sign_words.h"

namespace diffiso {

// Blocks further off than this count as this far.
constexpr int kFarthestBlock = 12;

struct Occupancy {
  int64_t batch;
  int32_t cells[3];   // of a grid, along each axis
  int32_t shift;      // blocks have 1 << shift cells along each axis
  int32_t blocks[3];  // that cover them
  int32_t step[2];    // block (x, y, z) is number (x << step[0]) + (y << step[1]) + z
  int64_t
      word_step[2];  // the bit of cell (x, y, z) stands in word x * word_step[0] + y * word_step[1]
                     // + z / 32 of its grid, at z % 32
  const uint32_t* words;  // of all grids
  const uint8_t*
      distance;  // (B, numbers): blocks to the nearest with a marked cell, along the axis
                 // on which that is farther; 0 where the block itself has one. Up to
                 // three bytes after the last may be read

  DIFFISO_HD int64_t blocks_per_grid() const { return static_cast<int64_t>(blocks[0]) << step[0]; }
  DIFFISO_HD int64_t words_per_grid() const { return (cells[0] + 1) * word_step[0]; }
};

// The blocks are as small as pays for so many rays.
DIFFISO_HD Occupancy make_occupancy(const GridShape& grid, int64_t rays) {
  constexpr int64_t kBlocksPerRay = 8, kLargestShift = 4;
  Occupancy out{};
  out.batch = grid.batch;
  for (int a = 0; a < 3; ++a) out.cells[a] = static_cast<int32_t>(grid.size[a] - 1);
  while (out.shift < kLargestShift &&
         out.batch * (grid.nodes_per_grid() >> (3 * out.shift)) > kBlocksPerRay * rays) {
    ++out.shift;
  }
  for (int a = 0; a < 3; ++a) out.blocks[a] = ((out.cells[a] - 1) >> out.shift) + 1;
  // Rounded up to powers of two: a ray finds a block's number without products.
  while (int32_t{1} << out.step[1] < out.blocks[2]) ++out.step[1];
  out.step[0] = out.step[1];
  while (int64_t{1} << out.step[0] < int64_t{out.blocks[1]} << out.step[1]) ++out.step[0];
  out.word_step[1] = 2 * ((grid.size[2] + 63) / 64);
  out.word_step[0] = grid.size[1] * out.word_step[1];
  return out;
}

// The cells of word w of a row of nodes that have a node inside, but for those that have no other;
// or, `all_inside`, also those. Cells start at the row's nodes; the last rows have none.
DIFFISO_HD uint64_t marked_cells(const uint64_t* inside, const Lattice& lattice, Row row, int64_t w,
                                 bool all_inside) {
  if (!has_cells(lattice, row)) return 0;
  uint64_t any = 0, all = ~uint64_t{0};
  for (int r = 0; r < 4; ++r) {
    const int64_t index = row.index + (r >> 1) * lattice.size[1] + (r & 1);
    const uint64_t here = word_at(inside, lattice, index, w);
    const uint64_t next = next_word(inside, lattice, index, w);
    any |= here | next;
    all &= here & next;
  }
  return (all_inside ? any : any & ~all) & lattice.below_last(w);
}

}  // namespace diffiso
