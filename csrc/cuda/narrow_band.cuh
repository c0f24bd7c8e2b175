// SPDX-License-Identifier: Apache-2.0
// What the kernels of a narrow band share. They work on bricks, a warp each, or on the words of
// their masks, and stride over as many as there turn out to be.
//
// New bricks come in the order of the table without a sort. Old bricks mark the places that they
// reach into, a bit each: integer "or", the same in any order. A prefix sum over words of 32 marks
// numbers and lists the marked places; kernels count what belongs into each, prefix sums turn
// counts into offsets, the host reads both totals back, and the table is written once.
#pragma once

#include "common/scan.cuh"
#include "common/threads.cuh"
#include "core/narrow_band.h"

namespace diffiso {

constexpr int kBandBlock = kThreadBlock;
constexpr int kBandWarps = kBandBlock / kWarpSize;
constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}

// Calls f(n) for n from 0 to count - 1, a warp each.
template <typename F>
__device__ void for_each_by_warp(int64_t count, const F& f) {
  const int64_t step = int64_t{gridDim.x} * kBandWarps;
  for (int64_t n = int64_t{blockIdx.x} * kBandWarps + threadIdx.x / kWarpSize; n < count; n += step)
    f(n);
}

template <typename Params>
void launch_by_warp(void (*kernel)(Params), int64_t most, const CudaContext& cuda,
                    const Params& params) {
  launch(kernel, striding_grid(most * kWarpSize, kBandBlock), kBandBlock, 0, cuda.stream, params);
}

inline const uint64_t* words_of(const Tensor& masks) {
  return static_cast<const uint64_t*>(masks.const_data_ptr());
}

inline uint64_t* mutable_words_of(const Tensor& masks) {
  return static_cast<uint64_t*>(masks.mutable_data_ptr());
}

// A place of a table, from an array of those.
struct Tile {
  int64_t at[3];

  __device__ Tile(const int32_t* coordinates, int64_t n)
      : at{coordinates[3 * n], coordinates[3 * n + 1], coordinates[3 * n + 2]} {}
};

// Places of a table that may get a brick.
struct PlaceList {
  int64_t tiles[3];      // of the table
  int64_t words;         // of marks, 32 places each
  int64_t most;          // that can be marked
  uint32_t* marks;       // (words,)
  int32_t* ranks;        // (words + 1,) marks before each word: the last is their number
  int32_t* coordinates;  // (most, 3) marked places, in the table's order

  __device__ int64_t count() const { return ranks[words]; }

  __device__ void mark(int64_t x, int64_t y, int64_t z) const {
    if (x < 0 || y < 0 || z < 0 || x >= tiles[0] || y >= tiles[1] || z >= tiles[2]) return;
    const int64_t place = (x * tiles[1] + y) * tiles[2] + z;
    const uint32_t bit = uint32_t{1} << (place & 31);
    if ((marks[place >> 5] & bit) == 0) atomicOr(marks + (place >> 5), bit);
  }
};

PlaceList make_place_list(const CudaContext& cuda, Scratch& scratch, const int64_t tiles[3],
                          int64_t most);

// After marking: fills in ranks and coordinates.
void list_places(const CudaContext& cuda, const PlaceList& places);

// Bricks at listed places: counts of each, then what comes before each. Index `most` is the total.
struct PlaceCounts {
  int32_t* bricks;  // (most + 1,) 0 or 1; null: one each
  int64_t* ids;     // (most + 1,) nodes to be evaluated
};

struct BandTotals {
  int64_t bricks, ids;
};

PlaceCounts make_place_counts(Scratch& scratch, const PlaceList& places, bool one_each);

// Turns counts into what comes before each, and waits for the totals: the one wait of an op.
BandTotals sum_counts(const CudaContext& cuda, Scratch& scratch, const PlaceList& places,
                      const PlaceCounts& counts);

// Writes the table of a lattice of so many bricks.
void write_table(const CudaContext& cuda, const PlaceList& places, const PlaceCounts& counts,
                 int64_t bricks, int32_t* table);

// The values of a brick, in the registers of a warp.
template <typename scalar_t>
struct BrickValues {
  scalar_t value[kBrickNodes / kWarpSize];  // node 32 * n + lane

  template <typename value_t>
  __device__ BrickValues(const value_t* values, int64_t brick) {
    const value_t* in = values + kBrickNodes * brick + lane_of_warp();
#pragma unroll
    for (int n = 0; n < kBrickNodes / kWarpSize; ++n) {
      value[n] = static_cast<scalar_t>(in[kWarpSize * n]);
    }
  }

  // Lanes 0 to 7 get the words of test(value).
  template <typename Test>
  __device__ uint64_t pack(const Test& test) const {
    uint64_t mine = 0;
#pragma unroll
    for (int x = 0; x < kBrickSize; ++x) {
      const uint64_t low = __ballot_sync(kWholeWarp, test(value[2 * x]));
      const uint64_t high = __ballot_sync(kWholeWarp, test(value[2 * x + 1]));
      if (lane_of_warp() == x) mine = low | high << 32;
    }
    return mine;
  }
};

template <typename value_t, typename scalar_t>
struct BandStateParams {
  BrickShape bricks;
  const value_t* __restrict__ values;  // (R, 8, 8, 8)
  const uint64_t* asked;               // (R, 8)
  const uint64_t* remembered;          // (R, 8) or null
  const uint64_t* before;              // (R, 8) or null
  scalar_t level;
  BandWords* state;  // (R, 8)
};

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBandBlock)
    band_state_kernel(BandStateParams<value_t, scalar_t> p) {
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const BrickValues<scalar_t> values(p.values, brick);
    const uint64_t below = values.pack([&](scalar_t value) { return value < p.level; });
    const uint64_t above = values.pack([&](scalar_t value) { return value >= p.level; });
    const int x = lane_of_warp();
    if (x >= kBrickSize) return;
    const int64_t w = kBrickSize * brick + x;
    const BandMemory memory =
        p.remembered == nullptr ? BandMemory{0, 0} : BandMemory{p.remembered[w], p.before[w]};
    const Tile tile(p.bricks.coordinates, brick);
    p.state[w] =
        band_words(box_plane(p.bricks.nodes, tile.at, x), p.asked[w], below, above, memory);
  });
}

// Writes the ids of a brick's nodes in masks, in order from place `first` on. Lanes 4*x to 4*x + 3
// hold word x.
__device__ inline void write_ids(uint64_t mine, int64_t brick, int64_t first, int64_t* ids) {
  for (int x = 0; x < kBrickSize; ++x) {
    const uint64_t word = __shfl_sync(kWholeWarp, mine, 4 * x);
    for (int bit = lane_of_warp(); bit < 64; bit += kWarpSize) {
      if ((word >> bit & 1) == 0) continue;
      ids[first + popcount(word & low_bits(bit))] = kBrickNodes * brick + 64 * x + bit;
    }
    first += popcount(word);
  }
}

// Sum over a brick's words, held as above.
__device__ inline int64_t count_bits(uint64_t mine) {
  int count = popcount(mine);
  for (int step = 4; step < kWarpSize; step *= 2) {
    count += __shfl_xor_sync(kWholeWarp, count, step);
  }
  return count;
}

// What a node has where there is no value. Made on the host: devices have NaNs of their own.
template <typename value_t>
value_t absent_value() {
  return static_cast<value_t>(std::numeric_limits<float>::quiet_NaN());
}

}  // namespace diffiso
