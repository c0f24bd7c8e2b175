// SPDX-License-Identifier: Apache-2.0
#include "cpu/marching_cubes_rows.h"

#ifdef __x86_64__
// GCC's own header leaves vectors unset that no lane is taken from (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,popcnt,f16c")

namespace diffiso {
namespace {

__m512 load_sixteen(const float* values) {
  return _mm512_loadu_ps(values);
}

__m512 load_sixteen(const Half* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

__m512 load_sixteen(const BFloat16* values) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <typename value_t, typename scalar_t>
uint64_t pack_word(const value_t* values, scalar_t level, bool& nan) {
  uint64_t word = 0;
  unsigned absent = 0;
  if constexpr (sizeof(scalar_t) == 8) {
    const __m512d threshold = _mm512_set1_pd(level);
    for (int k = 0; k < 64; k += 16) {
      const __m512d low = _mm512_loadu_pd(values + k), high = _mm512_loadu_pd(values + k + 8);
      absent |= _mm512_cmp_pd_mask(low, high, _CMP_UNORD_Q);
      word |= uint64_t{_mm512_cmp_pd_mask(low, threshold, _CMP_LT_OQ)} << k;
      word |= uint64_t{_mm512_cmp_pd_mask(high, threshold, _CMP_LT_OQ)} << (k + 8);
    }
  } else {
    const __m512 threshold = _mm512_set1_ps(level);
    for (int k = 0; k < 64; k += 32) {
      const __m512 low = load_sixteen(values + k), high = load_sixteen(values + k + 16);
      absent |= _mm512_cmp_ps_mask(low, high, _CMP_UNORD_Q);
      word |= uint64_t{_mm512_cmp_ps_mask(low, threshold, _CMP_LT_OQ)} << k;
      word |= uint64_t{_mm512_cmp_ps_mask(high, threshold, _CMP_LT_OQ)} << (k + 16);
    }
  }
  nan |= absent != 0;
  return word;
}

// The cases of a word's 64 cells at once: a byte each, to which every corner's word adds one bit.
class WordCases {
 public:
  explicit WordCases(const CellWord& cells) {
    __m512i bytes = _mm512_setzero_si512();
    for (int corner = 0; corner < 8; ++corner) {
      const __m512i bit = _mm512_set1_epi8(static_cast<char>(1 << corner));
      bytes = _mm512_or_si512(bytes, _mm512_maskz_mov_epi8(cells.corner[corner], bit));
    }
    _mm512_store_si512(cases_, bytes);
  }

  int operator[](int k) const { return cases_[k]; }

 private:
  alignas(64) uint8_t cases_[64];
};

#include "cpu/marching_cubes_loops.inl"

}  // namespace

const RowLoops& row_loops_avx512() {
  static constexpr RowLoops loops = {"avx512", pack, sweep, emit_faces};
  return loops;
}

}  // namespace diffiso
#endif
