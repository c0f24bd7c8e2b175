// SPDX-License-Identifier: Apache-2.0
// Prefix sums, sums of warps and blocks, and a stable sort: CUB stays behind this file. What works
// on whole arrays takes its temporary storage from torch's allocator and does not wait for the
// stream.
#pragma once

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "common/launch.cuh"

namespace diffiso {

// CUB asks for its storage in a first call, and works in a second.
template <typename Call>
void with_cub_storage(const CudaContext& cuda, const char* what, Call&& call) {
  size_t bytes = 0;
  check_cuda(call(nullptr, bytes), what);
  Tensor storage = cuda.scratch(static_cast<int64_t>(bytes));
  check_cuda(call(storage.mutable_data_ptr(), bytes), what);
}

// out[n] = in[0] + ... + in[n - 1]. `out` may be `in`.
template <typename T>
void exclusive_sum(const CudaContext& cuda, const T* in, T* out, int64_t count) {
  if (count == 0) return;
  with_cub_storage(cuda, "prefix sum", [&](void* storage, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(storage, bytes, in, out, count, cuda.stream);
  });
}

// Sorts by keys from 0 to 2^key_bits - 1; equal keys keep their order. Outputs are not the inputs.
template <typename K, typename V>
void sort_pairs(const CudaContext& cuda, const K* keys_in, K* keys_out, const V* values_in,
                V* values_out, int64_t count, int key_bits) {
  if (count == 0) return;
  with_cub_storage(cuda, "sort", [&](void* storage, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(storage, bytes, keys_in, keys_out, values_in, values_out,
                                           count, 0, key_bits, cuda.stream);
  });
}

// Sum over this lane and the lanes before it, in groups of `width` lanes (a power of two). All
// lanes of the warp take part.
template <typename T>
__device__ T warp_inclusive_sum(T value, int width = kWarpSize) {
  const int lane = static_cast<int>(threadIdx.x) & (width - 1);
  for (int step = 1; step < width; step *= 2) {
    const T before = __shfl_up_sync(0xffffffffu, value, step, width);
    if (lane >= step) value += before;
  }
  return value;
}

// Sum over a one-dimensional block of kThreads (whole warps), given to its thread 0. All threads of
// the block take part, and the order of additions is fixed.
template <int kThreads, typename T>
__device__ T block_sum(T value) {
  constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kThreads % kWarpSize == 0);
  __shared__ T warp_sums[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const T sum = warp_inclusive_sum(value);
  __syncthreads();  // an earlier sum may still be read
  if (lane == kWarpSize - 1) warp_sums[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  T total = 0;
  if (threadIdx.x == 0) {
    for (const T warp_sum : warp_sums) total += warp_sum;
  }
  return total;
}

}  // namespace diffiso
