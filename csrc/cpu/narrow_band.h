// SPDX-License-Identifier: Apache-2.0
// How the CPU makes a band's bricks: it marks the places of the new table that may get one,
// collects the bricks there in the table's order, in a sweep over the marks whose tasks are runs of
// rows, and stores them where a prefix sum over tasks says. Nothing but the table is as large as
// the volume, and that is 1/512 of it. Output order does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <vector>

#include "common/checks.h"
#include "core/narrow_band.h"
#include "cpu/parallel.h"

namespace diffiso {

constexpr int64_t kBricksPerTask = 64;

inline const uint64_t* words_of(const Tensor& masks) {
  return static_cast<const uint64_t*>(masks.const_data_ptr());
}

inline uint64_t* mutable_words_of(const Tensor& masks) {
  return static_cast<uint64_t*>(masks.mutable_data_ptr());
}

using Tile = std::array<int64_t, 3>;

inline Tile tile_of(const BrickShape& bricks, int64_t brick) {
  const int32_t* at = bricks.coordinates + 3 * brick;
  return {at[0], at[1], at[2]};
}

inline BrickHood hood_of(const BrickShape& bricks, const Tile& tile) {
  return BrickHood(bricks, tile[0], tile[1], tile[2]);
}

// Calls f(brick) for every brick of a table.
template <typename F>
void parallel_bricks(int64_t count, const F& f) {
  parallel_pieces(count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t brick = begin; brick < end; ++brick) f(brick);
  });
}

// Bit n: test(values[n]), of 64 values.
template <typename scalar_t, typename value_t, typename Test>
uint64_t pack_word(const value_t* values, const Test& test) {
  uint64_t word = 0;
  for (int bit = 0; bit < 64; ++bit) {
    word |= uint64_t{test(static_cast<scalar_t>(values[bit]))} << bit;
  }
  return word;
}

// What is known of every brick's nodes, (R, 8); without memory, `remembered` and `before` are null.
template <typename value_t, typename scalar_t>
std::vector<BandWords> band_state(const BrickShape& bricks, const value_t* values, scalar_t level,
                                  const uint64_t* asked, const uint64_t* remembered,
                                  const uint64_t* before) {
  std::vector<BandWords> out(kBrickSize * bricks.count);
  parallel_bricks(bricks.count, [&](int64_t brick) {
    const Tile tile = tile_of(bricks, brick);
    for (int x = 0; x < kBrickSize; ++x) {
      const int64_t w = kBrickSize * brick + x;
      const value_t* in = values + 64 * w;
      const BandMemory memory =
          remembered == nullptr ? BandMemory{0, 0} : BandMemory{remembered[w], before[w]};
      out[w] = band_words(box_plane(bricks.nodes, tile.data(), x), asked[w],
                          pack_word<scalar_t>(in, [&](scalar_t v) { return v < level; }),
                          pack_word<scalar_t>(in, [&](scalar_t v) { return v >= level; }), memory);
    }
  });
  return out;
}

// A brick of a band being made.
struct BandBrick {
  Tile tile;
  uint64_t wanted[8];  // nodes with a value, now or when `asked` ones are evaluated
  uint64_t asked[8];   // those without one yet
};

// The bricks of a new table in its order, in runs, and where each run begins.
struct BandBricks {
  std::vector<std::vector<BandBrick>> runs;
  std::vector<int64_t> first_brick, first_id;  // one more than runs: totals last

  int64_t count() const { return first_brick.back(); }
  int64_t ids() const { return first_id.back(); }
};

inline void mark(int32_t* marks, const int64_t tiles[3], int64_t x, int64_t y, int64_t z) {
  if (x < 0 || y < 0 || z < 0 || x >= tiles[0] || y >= tiles[1] || z >= tiles[2]) return;
  std::atomic_ref<int32_t>(marks[(x * tiles[1] + y) * tiles[2] + z])
      .store(1, std::memory_order_relaxed);
}

// Calls look(brick) at every marked tile; it fills the masks in and says whether a brick is needed.
template <typename Look>
BandBricks collect_bricks(const int64_t tiles[3], const int32_t* marks, const Look& look) {
  constexpr int64_t kRows = 16;
  const int64_t rows = tiles[0] * tiles[1];
  BandBricks out;
  out.runs.resize((rows + kRows - 1) / kRows);
  parallel_pieces(rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t z = 0; z < tiles[2]; ++z) {
        if (marks[row * tiles[2] + z] == 0) continue;
        BandBrick brick{{row / tiles[1], row % tiles[1], z}, {}, {}};
        if (look(brick)) out.runs[begin / kRows].push_back(brick);
      }
    }
  });
  out.first_brick.push_back(0);
  out.first_id.push_back(0);
  for (const std::vector<BandBrick>& run : out.runs) {
    int64_t ids = 0;
    for (const BandBrick& brick : run) {
      for (uint64_t word : brick.asked) ids += popcount(word);
    }
    out.first_brick.push_back(out.count() + static_cast<int64_t>(run.size()));
    out.first_id.push_back(out.ids() + ids);
  }
  return out;
}

// Where bricks are stored.
struct BandOutput {
  int32_t* table;        // marks before
  int32_t* coordinates;  // (R, 3)
  uint64_t* asked;       // (R, 8)
  int64_t* ids;          // (M,)
};

// Turns marks into the table of the bricks, and writes where they stand, which nodes have values
// and which are to be evaluated. Calls each(brick, index) for the rest.
template <typename Each>
void store_bricks(const BandBricks& bricks, const int64_t tiles[3], const BandOutput& out,
                  const Each& each) {
  parallel_pieces(
      tiles[0] * tiles[1] * tiles[2], int64_t{1} << 16,
      [&](int64_t begin, int64_t end) { std::fill(out.table + begin, out.table + end, -1); });
  parallel_tasks(static_cast<int64_t>(bricks.runs.size()), [&](int64_t run) {
    int64_t index = bricks.first_brick[run], id = bricks.first_id[run];
    for (const BandBrick& brick : bricks.runs[run]) {
      const Tile& at = brick.tile;
      out.table[(at[0] * tiles[1] + at[1]) * tiles[2] + at[2]] = static_cast<int32_t>(index);
      for (int axis = 0; axis < 3; ++axis) {
        out.coordinates[3 * index + axis] = static_cast<int32_t>(at[axis]);
      }
      for (int x = 0; x < kBrickSize; ++x) {
        out.asked[kBrickSize * index + x] = brick.wanted[x];
        for (uint64_t bits = brick.asked[x]; bits != 0; bits &= bits - 1) {
          out.ids[id++] = kBrickNodes * index + 64 * x + lowest_bit(bits);
        }
      }
      each(brick, index);
      ++index;
    }
  });
}

template <typename value_t>
void fill_absent(value_t* brick) {
  std::fill_n(brick, kBrickNodes, static_cast<value_t>(std::numeric_limits<float>::quiet_NaN()));
}

}  // namespace diffiso
