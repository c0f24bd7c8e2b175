// SPDX-License-Identifier: Apache-2.0
#include "cpu/simd.h"

#include "cpu/marching_cubes_rows.h"

namespace diffiso {

const char* simd_level() {
  return row_loops().name;
}

}  // namespace diffiso
