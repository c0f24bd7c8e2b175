// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace diffiso {

// Instruction sets that some loops are built for; each has all of those before it.
enum class SimdLevel { kGeneric, kAvx2, kAvx512 };

// The best that this processor has; DIFFISO_SIMD, "generic" or "avx2", asks for less.
SimdLevel simd_level();
const char* simd_name(SimdLevel level);

}  // namespace diffiso
