// SPDX-License-Identifier: Apache-2.0
#include "cpu/marching_cubes_rows.h"

namespace diffiso {
namespace {

#include "cpu/marching_cubes_scalar.inl"

template <typename value_t, typename scalar_t>
uint64_t pack_word(const value_t* values, scalar_t level, bool& nan) {
  return pack_word_scalar<value_t, scalar_t>(values, level, nan);
}

int count_triangles(const CellWord& cells) {
  return count_triangles_scalar(cells);
}

template <typename index_t>
using FaceWriter = ScalarFaceWriter<index_t>;

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
  const std::string_view limit = wanted == nullptr ? "" : wanted;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi") &&
                      __builtin_cpu_supports("avx512vpopcntdq");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c");
  if (avx512 && limit != "avx2" && limit != "generic") return row_loops_avx512();
  if (avx2 && limit != "generic") return row_loops_avx2();
#endif
  return row_loops_generic();
}

}  // namespace diffiso
