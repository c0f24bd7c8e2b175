// SPDX-License-Identifier: Apache-2.0
#ifdef __x86_64__
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#pragma GCC target("avx2,bmi,bmi2,popcnt")

#include "cpu/lanes.h"
//
#include "cpu/trace_rays.h"

namespace diffiso {
namespace {

struct Isa {
  using Real = __m256;
  using Whole = __m256i;
  using Mask = __m256i;
  static constexpr int kLanes = 8;

  DIFFISO_HD static Real all(float x) { return _mm256_set1_ps(x); }
  DIFFISO_HD static Whole all(int32_t x) { return _mm256_set1_epi32(x); }
  DIFFISO_HD static Mask all(bool x) { return _mm256_set1_epi32(x ? -1 : 0); }
  DIFFISO_HD static Real load(const float* from) { return _mm256_load_ps(from); }
  DIFFISO_HD static Whole load(const int32_t* from) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
  }
  DIFFISO_HD static void store(Real x, float* to) { _mm256_store_ps(to, x); }
  DIFFISO_HD static void store(Whole x, int32_t* to) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), x);
  }

  DIFFISO_HD static Real sum(Real a, Real b) { return _mm256_add_ps(a, b); }
  DIFFISO_HD static Real difference(Real a, Real b) { return _mm256_sub_ps(a, b); }
  DIFFISO_HD static Real product(Real a, Real b) { return _mm256_mul_ps(a, b); }
  DIFFISO_HD static Real quotient(Real a, Real b) { return _mm256_div_ps(a, b); }
  DIFFISO_HD static Real square_root(Real a) { return _mm256_sqrt_ps(a); }
  DIFFISO_HD static Real larger(Real a, Real b) { return _mm256_max_ps(a, b); }
  DIFFISO_HD static Real smaller(Real a, Real b) { return _mm256_min_ps(a, b); }
  DIFFISO_HD static Mask less(Real a, Real b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  DIFFISO_HD static Mask not_less(Real a, Real b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
  }
  DIFFISO_HD static Mask same(Real a, Real b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
  }

  DIFFISO_HD static Whole sum(Whole a, Whole b) { return _mm256_add_epi32(a, b); }
  DIFFISO_HD static Whole difference(Whole a, Whole b) { return _mm256_sub_epi32(a, b); }
  DIFFISO_HD static Whole product(Whole a, Whole b) { return _mm256_mullo_epi32(a, b); }
  DIFFISO_HD static Whole common_bits(Whole a, Whole b) { return _mm256_and_si256(a, b); }
  DIFFISO_HD static Whole up(Whole a, int32_t by) { return _mm256_slli_epi32(a, by); }
  DIFFISO_HD static Whole down(Whole a, int32_t by) { return _mm256_srli_epi32(a, by); }
  DIFFISO_HD static Whole down_each(Whole a, Whole by) { return _mm256_srlv_epi32(a, by); }
  DIFFISO_HD static Whole larger(Whole a, Whole b) { return _mm256_max_epi32(a, b); }
  DIFFISO_HD static Whole smaller(Whole a, Whole b) { return _mm256_min_epi32(a, b); }
  DIFFISO_HD static Mask same(Whole a, Whole b) { return _mm256_cmpeq_epi32(a, b); }
  DIFFISO_HD static Mask less(Whole a, Whole b) { return _mm256_cmpgt_epi32(b, a); }

  DIFFISO_HD static Mask both(Mask a, Mask b) { return _mm256_and_si256(a, b); }
  DIFFISO_HD static Mask either(Mask a, Mask b) { return _mm256_or_si256(a, b); }
  DIFFISO_HD static Mask differ(Mask a, Mask b) { return _mm256_xor_si256(a, b); }
  DIFFISO_HD static bool any(Mask a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a)) != 0; }
  DIFFISO_HD static Real select(Mask mask, Real yes, Real no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask));
  }
  DIFFISO_HD static Whole select(Mask mask, Whole yes, Whole no) {
    return _mm256_blendv_epi8(no, yes, mask);
  }

  DIFFISO_HD static Whole truncated(Real a) { return _mm256_cvttps_epi32(a); }
  DIFFISO_HD static Real real_of(Whole a) { return _mm256_cvtepi32_ps(a); }
  DIFFISO_HD static Real gather(const float* from, Whole at) {
    return _mm256_i32gather_ps(from, at, 4);
  }
  DIFFISO_HD static Whole gather(const uint32_t* from, Whole at) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(from), at, 4);
  }
  DIFFISO_HD static Whole gather(const uint8_t* from, Whole at) {
    const Whole four = _mm256_i32gather_epi32(reinterpret_cast<const int*>(from), at, 1);
    return _mm256_and_si256(four, _mm256_set1_epi32(255));
  }
};

constexpr int kCount = 2;

#include "cpu/trace_lanes.inl"

}  // namespace

void trace_rays_avx2(const TraceRays<float>& p, const int64_t* rays, int64_t count) {
  if (p.footprint) return trace_rays<true>(p, rays, count);
  trace_rays<false>(p, rays, count);
}

}  // namespace diffiso
#endif
