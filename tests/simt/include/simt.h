// SPDX-License-Identifier: Apache-2.0
// The words of CUDA for a C++ compiler. tests/simt/build.py puts this file in front of every source
// (-include); the library's code is called diffiso_simt here, so that its ops stand beside the real
// ones. What a test run needs is in tests/simt/run.py.
//
// A block's threads are fibers of one CPU thread, and blocks run one after another. Where a thread
// asks for others (a barrier, a ballot, a shuffle) it waits until all that its call names have come
// to the same call. It is an error, never a hang, if one of them has left the kernel or waits at
// another call: stricter than hardware, which forgives some of this. A warp runs on until it waits
// for the block, and every second block runs its threads backwards, so that a missing barrier shows
// in one order or the other.
//
// Not supported: dynamic shared memory, waiting for another block, __activemask. A __shared__ array
// is the same memory in every block and starts with what the last one left.
#pragma once

#include <bit>
#include <functional>
#include <source_location>
#include <type_traits>

#define diffiso diffiso_simt
#include "common/checks.h"
#define CUDA CPU

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };

namespace simt {

constexpr int kWarpSize = 32;

// Where a thread waits for others, and for whom.
struct Call {
  const char* name = nullptr;
  std::source_location where;
  unsigned lanes = 0;  // of its warp; 0 asks for the whole block

  bool same_as(const Call& other) const;
};

// Runs `thread` once for every thread of the grid.
void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread);

void wait_for_block(const Call& call);
// Gives each lane of call.lanes the word of bits of who brought a nonzero value,
uint64_t ballot(const Call& call, uint64_t value);
// or the value that lane `source` brought.
uint64_t exchange(const Call& call, uint64_t value, int source);
int lane();

template <typename T>
T exchange_as(const Call& call, T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return std::bit_cast<T>(static_cast<Bits>(exchange(call, std::bit_cast<Bits>(value), source)));
}

}  // namespace simt

// Call sites are default arguments, evaluated where the kernel calls.
#define SIMT_HERE std::source_location where = std::source_location::current()

inline void __syncthreads(SIMT_HERE) {
  simt::wait_for_block({"__syncthreads", where, 0});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) {
  simt::ballot({"__syncwarp", where, mask}, 0);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return static_cast<unsigned>(simt::ballot({"__ballot_sync", where, mask}, predicate != 0));
}

inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot({"__any_sync", where, mask}, predicate != 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot({"__all_sync", where, mask}, predicate != 0) == mask;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_HERE) {
  const int first = simt::lane() & ~(width - 1);
  return simt::exchange_as({"__shfl_sync", where, mask}, value, first + (source & (width - 1)));
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  const int lane = simt::lane(), first = lane & ~(width - 1);
  const int source = lane - static_cast<int>(delta);
  return simt::exchange_as({"__shfl_up_sync", where, mask}, value, source < first ? lane : source);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  const int lane = simt::lane(), last = lane | (width - 1);
  const int source = lane + static_cast<int>(delta);
  return simt::exchange_as({"__shfl_down_sync", where, mask}, value, source > last ? lane : source);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_HERE) {
  const int lane = simt::lane(), last = lane | (width - 1);
  const int source = lane ^ bits;
  return simt::exchange_as({"__shfl_xor_sync", where, mask}, value, source > last ? lane : source);
}

#undef SIMT_HERE

inline int __popc(unsigned word) {
  return std::popcount(word);
}
inline int __popcll(unsigned long long word) {
  return std::popcount(word);
}
inline int __ffs(int word) {
  return __builtin_ffs(word);
}
inline int __ffsll(long long word) {
  return __builtin_ffsll(word);
}
inline int __clz(int word) {
  return std::countl_zero(static_cast<unsigned>(word));
}
inline int __clzll(long long word) {
  return std::countl_zero(static_cast<unsigned long long>(word));
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

// One thread runs at a time, so a plain addition is atomic.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old + value;
  return old;
}

template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T before = *address;
  *address = before < value ? value : before;
  return before;
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T before = *address;
  if (before == expected) *address = value;
  return before;
}
inline unsigned atomicOr(unsigned* address, unsigned bits) {
  const unsigned old = *address;
  *address = old | bits;
  return old;
}

using std::max;
using std::min;
