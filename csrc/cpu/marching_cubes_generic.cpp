// SPDX-License-Identifier: Apache-2.0
#include "cpu/marching_cubes_bricks.h"
#include "cpu/marching_cubes_rows.h"
#include "cpu/simd.h"

namespace diffiso {
namespace {

// Bytes that are 0 or 1 as bits, eight at a time by one product: compilers vectorise the loops that
// make the bytes.
uint64_t word_of(const uint8_t bytes[64]) {
  uint64_t word = 0;
  for (int byte = 0; byte < 8; ++byte) {
    uint64_t eight = 0;
    for (int k = 0; k < 8; ++k) eight |= uint64_t{bytes[8 * byte + k]} << (8 * k);
    word |= (eight * 0x0102040810204080u >> 56) << (8 * byte);
  }
  return word;
}

template <typename value_t, typename scalar_t>
uint64_t pack_word(const value_t* values, scalar_t level, bool& nan) {
  uint8_t inside[64], absent = 0;
  for (int k = 0; k < 64; ++k) {
    const scalar_t value = static_cast<scalar_t>(values[k]);
    inside[k] = value < level;
    absent |= value != value;
  }
  nan |= absent != 0;
  return word_of(inside);
}

template <typename value_t, typename scalar_t>
uint64_t present_word(const value_t* values) {
  uint8_t present[64];
  for (int k = 0; k < 64; ++k) {
    const scalar_t value = static_cast<scalar_t>(values[k]);
    present[k] = value == value;
  }
  return word_of(present);
}

using WordCases = CellCases;

#include "cpu/marching_cubes_loops.inl"
//
#include "cpu/marching_cubes_bricks_loops.inl"

}  // namespace

const RowLoops& row_loops_generic() {
  static constexpr RowLoops loops = {"generic", pack, sweep, emit_faces};
  return loops;
}

const BrickLoops& brick_loops_generic() {
  static constexpr BrickLoops loops = {pack_bricks, find_brick_cells, count_bricks,
                                       emit_brick_vertices, emit_brick_faces};
  return loops;
}

#ifdef __x86_64__
const RowLoops& row_loops() {
  const SimdLevel level = simd_level();
  if (level >= SimdLevel::kAvx512) return row_loops_avx512();
  return level >= SimdLevel::kAvx2 ? row_loops_avx2() : row_loops_generic();
}

const BrickLoops& brick_loops() {
  return simd_level() >= SimdLevel::kAvx2 ? brick_loops_avx2() : brick_loops_generic();
}
#else
const RowLoops& row_loops() {
  return row_loops_generic();
}

const BrickLoops& brick_loops() {
  return brick_loops_generic();
}
#endif

}  // namespace diffiso
