// SPDX-License-Identifier: Apache-2.0
#ifdef __x86_64__
// GCC's own header leaves vectors unset that no lane is taken from (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,popcnt")

#include "cpu/lanes.h"
//
#include "cpu/trace_rays.h"

namespace diffiso {
namespace {

struct Isa {
  using Real = __m512;
  using Whole = __m512i;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;

  DIFFISO_HD static Real all(float x) { return _mm512_set1_ps(x); }
  DIFFISO_HD static Whole all(int32_t x) { return _mm512_set1_epi32(x); }
  DIFFISO_HD static Mask all(bool x) { return x ? 0xffff : 0; }
  DIFFISO_HD static Real load(const float* from) { return _mm512_load_ps(from); }
  DIFFISO_HD static Whole load(const int32_t* from) {
    return _mm512_load_si512(reinterpret_cast<const __m512i*>(from));
  }
  DIFFISO_HD static void store(Real x, float* to) { _mm512_store_ps(to, x); }
  DIFFISO_HD static void store(Whole x, int32_t* to) {
    _mm512_store_si512(reinterpret_cast<__m512i*>(to), x);
  }

  DIFFISO_HD static Real sum(Real a, Real b) { return _mm512_add_ps(a, b); }
  DIFFISO_HD static Real difference(Real a, Real b) { return _mm512_sub_ps(a, b); }
  DIFFISO_HD static Real product(Real a, Real b) { return _mm512_mul_ps(a, b); }
  DIFFISO_HD static Real quotient(Real a, Real b) { return _mm512_div_ps(a, b); }
  DIFFISO_HD static Real square_root(Real a) { return _mm512_sqrt_ps(a); }
  DIFFISO_HD static Real larger(Real a, Real b) { return _mm512_max_ps(a, b); }
  DIFFISO_HD static Real smaller(Real a, Real b) { return _mm512_min_ps(a, b); }
  DIFFISO_HD static Mask less(Real a, Real b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  DIFFISO_HD static Mask not_less(Real a, Real b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  DIFFISO_HD static Mask same(Real a, Real b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

  DIFFISO_HD static Whole sum(Whole a, Whole b) { return _mm512_add_epi32(a, b); }
  DIFFISO_HD static Whole difference(Whole a, Whole b) { return _mm512_sub_epi32(a, b); }
  DIFFISO_HD static Whole product(Whole a, Whole b) { return _mm512_mullo_epi32(a, b); }
  DIFFISO_HD static Whole common_bits(Whole a, Whole b) { return _mm512_and_si512(a, b); }
  DIFFISO_HD static Whole up(Whole a, int32_t by) { return _mm512_slli_epi32(a, by); }
  DIFFISO_HD static Whole down(Whole a, int32_t by) { return _mm512_srli_epi32(a, by); }
  DIFFISO_HD static Whole down_each(Whole a, Whole by) { return _mm512_srlv_epi32(a, by); }
  DIFFISO_HD static Whole larger(Whole a, Whole b) { return _mm512_max_epi32(a, b); }
  DIFFISO_HD static Whole smaller(Whole a, Whole b) { return _mm512_min_epi32(a, b); }
  DIFFISO_HD static Mask same(Whole a, Whole b) { return _mm512_cmpeq_epi32_mask(a, b); }
  DIFFISO_HD static Mask less(Whole a, Whole b) { return _mm512_cmplt_epi32_mask(a, b); }

  DIFFISO_HD static Mask both(Mask a, Mask b) { return a & b; }
  DIFFISO_HD static Mask either(Mask a, Mask b) { return a | b; }
  DIFFISO_HD static Mask differ(Mask a, Mask b) { return a ^ b; }
  DIFFISO_HD static bool any(Mask a) { return a != 0; }
  DIFFISO_HD static Real select(Mask mask, Real yes, Real no) {
    return _mm512_mask_blend_ps(mask, no, yes);
  }
  DIFFISO_HD static Whole select(Mask mask, Whole yes, Whole no) {
    return _mm512_mask_blend_epi32(mask, no, yes);
  }

  DIFFISO_HD static Whole truncated(Real a) { return _mm512_cvttps_epi32(a); }
  DIFFISO_HD static Real real_of(Whole a) { return _mm512_cvtepi32_ps(a); }
  DIFFISO_HD static Real gather(const float* from, Whole at) {
    return _mm512_i32gather_ps(at, from, 4);
  }
  DIFFISO_HD static Whole gather(const uint32_t* from, Whole at) {
    return _mm512_i32gather_epi32(at, reinterpret_cast<const int*>(from), 4);
  }
  DIFFISO_HD static Whole gather(const uint8_t* from, Whole at) {
    const Whole four = _mm512_i32gather_epi32(at, reinterpret_cast<const int*>(from), 1);
    return _mm512_and_si512(four, _mm512_set1_epi32(255));
  }
};

constexpr int kCount = 2;

#include "cpu/trace_lanes.inl"

}  // namespace

void trace_rays_avx512(const TraceRays<float>& p, const int64_t* rays, int64_t count) {
  if (p.footprint) return trace_rays<true>(p, rays, count);
  trace_rays<false>(p, rays, count);
}

}  // namespace diffiso
#endif
