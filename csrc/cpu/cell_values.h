// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "core/refinement.h"

namespace diffiso {

// The values at all corners of a brick's cells; NaN where there is none.
template <typename scalar_t>
struct CellValues {
  scalar_t at[kCellNodes];

  template <typename value_t>
  CellValues(const value_t* values, const BrickHood& hood) {
    scalar_t* out = at;
    for (int x = 0; x < kCellSide; ++x) {
      for (int y = 0; y < kCellSide; ++y) {
        const int64_t row = 64 * (x & 7) + 8 * (y & 7);
        for (int beyond = 0; beyond < 2; ++beyond) {
          const int64_t brick = hood.at(x >> 3, y >> 3, beyond);
          for (int z = 0; z < (beyond ? 1 : kBrickSize); ++z) {
            *out++ = brick < 0 ? std::numeric_limits<scalar_t>::quiet_NaN()
                               : static_cast<scalar_t>(values[kBrickNodes * brick + row + z]);
          }
        }
      }
    }
  }
};

}  // namespace diffiso
