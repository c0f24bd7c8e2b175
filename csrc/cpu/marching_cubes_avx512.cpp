// SPDX-License-Identifier: Apache-2.0
// A word's 64 cells fill one register: their cases come from eight masked moves, their triangle
// counts from byte permutes, a cell's twelve vertex ids from one population count over eight
// groups, and its faces from one permute of those ids.
#include "cpu/marching_cubes_rows.h"

#ifdef __x86_64__
// GCC 12 takes the "undefined" operand inside its own AVX-512 headers for an uninitialised one.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vpopcntdq,bmi,bmi2,popcnt")

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
  uint32_t absent = 0;
  if constexpr (sizeof(scalar_t) == 8) {
    const __m512d threshold = _mm512_set1_pd(level);
    for (int k = 0; k < 64; k += 8) {
      const __m512d eight = _mm512_loadu_pd(values + k);
      absent |= _mm512_cmp_pd_mask(eight, eight, _CMP_UNORD_Q);
      word |= uint64_t{_mm512_cmp_pd_mask(eight, threshold, _CMP_LT_OQ)} << k;
    }
  } else {
    const __m512 threshold = _mm512_set1_ps(level);
    for (int k = 0; k < 64; k += 16) {
      const __m512 sixteen = load_sixteen(values + k);
      absent |= _mm512_cmp_ps_mask(sixteen, sixteen, _CMP_UNORD_Q);
      word |= uint64_t{_mm512_cmp_ps_mask(sixteen, threshold, _CMP_LT_OQ)} << k;
    }
  }
  nan |= absent != 0;
  return word;
}

// The cases of a word's 64 cells, a byte each.
__m512i cases_of(const CellWord& cells) {
  __m512i cases = _mm512_setzero_si512();
  for (int corner = 0; corner < 8; ++corner) {
    const __m512i bit =
        _mm512_maskz_set1_epi8(cells.corner[corner], static_cast<char>(1 << corner));
    cases = _mm512_or_si512(cases, bit);
  }
  return cases;
}

int count_triangles(const CellWord& cells) {
  const uint8_t* counts = marching_cubes_tables().triangle_count;
  const __m512i cases = cases_of(cells);
  const __m512i low =
      _mm512_permutex2var_epi8(_mm512_loadu_si512(counts), cases, _mm512_loadu_si512(counts + 64));
  const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(counts + 128), cases,
                                                _mm512_loadu_si512(counts + 192));
  const __m512i all = _mm512_mask_blend_epi8(_mm512_movepi8_mask(cases), low, high);
  const __m512i active = _mm512_maskz_mov_epi8(cells.active, all);
  return static_cast<int>(_mm512_reduce_add_epi64(_mm512_sad_epu8(active, _mm512_setzero_si512())));
}

// Faces of a row. Lanes are the eight groups of edges; `next_id` runs along with the words.
template <typename index_t>
struct FaceWriter {
  const MarchingCubesRows& p;
  Row row;
  index_t* out;
  index_t* const end;
  __m512i next_id;

  FaceWriter(const MarchingCubesRows& params, Row at, index_t* begin, index_t* row_end)
      : p(params), row(at), out(begin), end(row_end) {
    int64_t ids[8];
    for (int g = 0; g < 8; ++g) {
      ids[g] = p.rows[group_row(p.lattice, row, edge_group(g)).index].edges[edge_group(g).axis];
    }
    next_id = _mm512_loadu_si512(ids);
  }

  void write(int64_t w, const CellWord& cells) {
    const auto crossed = [&](int g) {
      return static_cast<int64_t>(crossed_edges(p.signs, p.lattice, row, w, cells, g));
    };
    const __m512i edges = _mm512_set_epi64(crossed(7), crossed(6), crossed(5), crossed(4),
                                           crossed(3), crossed(2), crossed(1), crossed(0));
    if (cells.active != 0) {
      alignas(64) uint8_t cases[64];
      _mm512_store_si512(cases, cases_of(cells));
      for (uint64_t active = cells.active; active != 0; active &= active - 1) {
        const int k = lowest_bit(active);
        write_cell(edges, k, cases[k]);
      }
    }
    next_id = _mm512_add_epi64(next_id, _mm512_popcnt_epi64(edges));
  }

  void write_cell(__m512i edges, int k, int which) {
    const MarchingCubesTables& tables = marching_cubes_tables();
    const __m512i before = _mm512_set1_epi64(static_cast<int64_t>(low_bits(k)));
    const __m512i here =
        _mm512_add_epi64(next_id, _mm512_popcnt_epi64(_mm512_and_si512(edges, before)));
    const __m512i crossed = _mm512_and_si512(_mm512_srli_epi64(edges, k), _mm512_set1_epi64(1));
    const __m512i above = _mm512_add_epi64(here, crossed);  // edges 8 to 11 in lanes 0 to 3
    const int count = 3 * tables.triangle_count[which];
    const __m128i order =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(tables.triangle_edges[which]));
    // A whole register is stored while it stays within this row's faces; the next cell overwrites
    // what it did not need.
    const uint32_t wanted = end - out >= 16 ? 0xffff : (1u << count) - 1;
    if constexpr (sizeof(index_t) == 4) {
      const __m512i ids = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(here)),
                                             _mm512_cvtepi64_epi32(above), 1);
      const __m512i sorted = _mm512_permutexvar_epi32(_mm512_cvtepu8_epi32(order), ids);
      _mm512_mask_storeu_epi32(out, static_cast<__mmask16>(wanted), sorted);
    } else {
      const __m512i first = _mm512_permutex2var_epi64(here, _mm512_cvtepu8_epi64(order), above);
      const __m512i rest =
          _mm512_permutex2var_epi64(here, _mm512_cvtepu8_epi64(_mm_srli_si128(order, 8)), above);
      _mm512_mask_storeu_epi64(out, static_cast<__mmask8>(wanted), first);
      _mm512_mask_storeu_epi64(out + 8, static_cast<__mmask8>(wanted >> 8), rest);
    }
    out += count;
  }
};

#include "cpu/marching_cubes_loops.inl"

}  // namespace

const RowLoops& row_loops_avx512() {
  static constexpr RowLoops loops = {"avx512", pack, count, emit_vertices, emit_faces};
  return loops;
}

}  // namespace diffiso
#endif
