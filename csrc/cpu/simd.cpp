// SPDX-License-Identifier: Apache-2.0
#include "cpu/simd.h"

#include <cstdlib>
#include <string_view>

namespace diffiso {

SimdLevel simd_level() {
#ifdef __x86_64__
  const char* asked = std::getenv("DIFFISO_SIMD");
  const std::string_view most = asked ? asked : "";
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx2 || most == "generic") return SimdLevel::kGeneric;
  return avx512 && most != "avx2" ? SimdLevel::kAvx512 : SimdLevel::kAvx2;
#else
  return SimdLevel::kGeneric;
#endif
}

const char* simd_name(SimdLevel level) {
  return level == SimdLevel::kAvx512 ? "avx512" : level == SimdLevel::kAvx2 ? "avx2" : "generic";
}

}  // namespace diffiso
