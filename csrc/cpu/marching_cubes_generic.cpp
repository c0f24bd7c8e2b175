// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "cpu/marching_cubes_rows.h"

namespace diffiso {
namespace {

template <typename value_t, typename scalar_t>
uint64_t pack_word(const value_t* values, scalar_t level, bool& nan) {
  // Bytes first, in a loop that compilers vectorise; then eight bytes to eight bits by one product.
  uint8_t inside[64], absent = 0;
  for (int k = 0; k < 64; ++k) {
    const scalar_t value = static_cast<scalar_t>(values[k]);
    inside[k] = value < level;
    absent |= value != value;
  }
  nan |= absent != 0;
  uint64_t word = 0;
  for (int byte = 0; byte < 8; ++byte) {
    uint64_t eight = 0;
    for (int k = 0; k < 8; ++k) eight |= uint64_t{inside[8 * byte + k]} << (8 * k);
    word |= (eight * 0x0102040810204080u >> 56) << (8 * byte);
  }
  return word;
}

#include "cpu/marching_cubes_loops.inl"

}  // namespace

const RowLoops& row_loops_generic() {
  static constexpr RowLoops loops = {"generic", pack, count, emit_vertices, emit_faces};
  return loops;
}

const RowLoops& row_loops() {
#ifdef __x86_64__
  __builtin_cpu_init();
  const char* wanted = std::getenv("DIFFISO_SIMD");
  const bool plain = wanted != nullptr && std::string_view(wanted) == "generic";
  if (!plain && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c")) {
    return row_loops_avx2();
  }
#endif
  return row_loops_generic();
}

}  // namespace diffiso
