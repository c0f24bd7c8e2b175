// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "core/refinement.h"
#include "cuda/narrow_band.cuh"

namespace diffiso {

// Lane 4*dx + 2*dy + dz gets the brick at that step from a place, or -1.
__device__ inline int64_t find_upper(const BrickShape& bricks, const Tile& tile) {
  const int n = lane_of_warp() & 7;
  return bricks.find(tile.at[0] + (n >> 2), tile.at[1] + (n >> 1 & 1), tile.at[2] + (n & 1));
}

// Loads the values at all corners of a brick's cells by a warp, given find_upper's answer; NaN
// where there is none.
template <typename value_t, typename scalar_t>
__device__ void load_cell_values(const value_t* values, int64_t upper, scalar_t* out) {
  for (int first = 0; first < kCellNodes; first += kWarpSize) {
    const int n = first + lane_of_warp();
    const int x = n / (kCellSide * kCellSide), y = n / kCellSide % kCellSide, z = n % kCellSide;
    const int64_t brick =
        __shfl_sync(kWholeWarp, upper, 4 * (x >> 3 & 1) + 2 * (y >> 3) + (z >> 3));
    if (n >= kCellNodes) continue;
    const int64_t at = kBrickNodes * brick + 64 * (x & 7) + 8 * (y & 7) + (z & 7);
    out[n] =
        brick < 0 ? std::numeric_limits<scalar_t>::quiet_NaN() : static_cast<scalar_t>(values[at]);
  }
  __syncwarp();
}

}  // namespace diffiso
