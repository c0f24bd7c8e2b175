// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace diffiso {

// The instruction set of the loops that this processor gets: "generic", "avx2" or "avx512".
const char* simd_level();

}  // namespace diffiso
