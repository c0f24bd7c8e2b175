// SPDX-License-Identifier: Apache-2.0
#include "cpu/marching_cubes_bricks.h"
#include "cpu/marching_cubes_rows.h"

#ifdef __x86_64__
#include <immintrin.h>

#pragma GCC target("avx2,bmi,bmi2,popcnt,f16c")

namespace diffiso {
namespace {

__m256 load_eight(const float* values) {
  return _mm256_loadu_ps(values);
}

__m256 load_eight(const Half* values) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}

__m256 load_eight(const BFloat16* values) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Two registers at a time: one comparison finds the NaNs of both, and one test those of the word.
template <typename value_t, typename scalar_t>
uint64_t pack_word(const value_t* values, scalar_t level, bool& nan) {
  uint64_t word = 0;
  if constexpr (sizeof(scalar_t) == 8) {
    const __m256d threshold = _mm256_set1_pd(level);
    __m256d absent = _mm256_setzero_pd();
    for (int k = 0; k < 64; k += 8) {
      const __m256d low = _mm256_loadu_pd(values + k), high = _mm256_loadu_pd(values + k + 4);
      absent = _mm256_or_pd(absent, _mm256_cmp_pd(low, high, _CMP_UNORD_Q));
      word |= uint64_t(_mm256_movemask_pd(_mm256_cmp_pd(low, threshold, _CMP_LT_OQ))) << k;
      word |= uint64_t(_mm256_movemask_pd(_mm256_cmp_pd(high, threshold, _CMP_LT_OQ))) << (k + 4);
    }
    nan |= _mm256_movemask_pd(absent) != 0;
  } else {
    const __m256 threshold = _mm256_set1_ps(level);
    __m256 absent = _mm256_setzero_ps();
    for (int k = 0; k < 64; k += 16) {
      const __m256 low = load_eight(values + k), high = load_eight(values + k + 8);
      absent = _mm256_or_ps(absent, _mm256_cmp_ps(low, high, _CMP_UNORD_Q));
      word |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(low, threshold, _CMP_LT_OQ))) << k;
      word |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(high, threshold, _CMP_LT_OQ))) << (k + 8);
    }
    nan |= _mm256_movemask_ps(absent) != 0;
  }
  return word;
}

template <typename value_t, typename scalar_t>
uint64_t present_word(const value_t* values) {
  uint64_t word = 0;
  if constexpr (sizeof(scalar_t) == 8) {
    for (int k = 0; k < 64; k += 4) {
      const __m256d four = _mm256_loadu_pd(values + k);
      word |= uint64_t(_mm256_movemask_pd(_mm256_cmp_pd(four, four, _CMP_ORD_Q))) << k;
    }
  } else {
    for (int k = 0; k < 64; k += 8) {
      const __m256 eight = load_eight(values + k);
      word |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(eight, eight, _CMP_ORD_Q))) << k;
    }
  }
  return word;
}

using WordCases = CellCases;

#include "cpu/marching_cubes_loops.inl"
//
#include "cpu/marching_cubes_bricks_loops.inl"

}  // namespace

const RowLoops& row_loops_avx2() {
  static constexpr RowLoops loops = {"avx2", pack, sweep, emit_faces};
  return loops;
}

const BrickLoops& brick_loops_avx2() {
  static constexpr BrickLoops loops = {pack_bricks, find_brick_cells, count_bricks,
                                       emit_brick_vertices, emit_brick_faces};
  return loops;
}

}  // namespace diffiso
#endif
