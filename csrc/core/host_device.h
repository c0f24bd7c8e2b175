// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

// Marks what both a kernel and the host may call. Every function in core carries it. On the host it
// also inlines, so that a caller compiled for a wider instruction set takes core along.
#ifdef __CUDACC__
#define DIFFISO_HD __host__ __device__ inline
#else
#define DIFFISO_HD inline __attribute__((always_inline))
#endif

namespace diffiso {

// Number of set bits.
DIFFISO_HD int popcount(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// Index of the lowest set bit of a word that is not zero.
DIFFISO_HD int lowest_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(word)) - 1;
#else
  return __builtin_ctzll(word);
#endif
}

// A word whose lowest `count` bits are set; count may be anything, also negative or above 64.
DIFFISO_HD uint64_t low_bits(int64_t count) {
  if (count <= 0) return 0;
  return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// a / b for numbers that are not negative. Where both fit 32 bits, as they nearly always do, the
// short division is several times faster, on a GPU above all.
DIFFISO_HD int64_t quotient(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

}  // namespace diffiso
