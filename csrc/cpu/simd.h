// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace diffiso {

// The instruction set of the loops that this processor gets: "generic" or "avx2".
const char* simd_level();

}  // namespace diffiso
