// SPDX-License-Identifier: Apache-2.0
// Stands in for csrc/common/launch.cuh: the same names, running kernels through tests/simt.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "common/checks.h"
#include "simt.h"

namespace diffiso {

constexpr int kWarpSize = simt::kWarpSize;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline void check_cuda(cudaError_t error, const char* what) {
  check(error == cudaSuccess, what);
}

struct CudaContext {
  cudaStream_t stream = nullptr;
  Tensor like;

  explicit CudaContext(const Tensor& like) : like(like) {}

  Tensor scratch(int64_t bytes) const { return empty_on(like, {bytes}, DType::Byte); }
};

inline dim3 grid_for(int64_t threads, int block) {
  return dim3(static_cast<unsigned>(
      std::min<int64_t>(ceil_div(threads, block), std::numeric_limits<int32_t>::max())));
}

// So few blocks that kernels stride in every test.
inline dim3 striding_grid(int64_t threads, int block) {
  return grid_for(std::min<int64_t>(threads, 3 * block), block);
}

template <typename Params>
void launch(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            const Params& params) {
  check(shared_bytes == 0, "simt: dynamic shared memory is not supported");
  simt::run_grid(grid, block, [&] { kernel(params); });
}

template <typename T>
void copy_to_host(T* host, const T* device, int64_t count, cudaStream_t) {
  std::copy_n(device, count, host);
}

inline void fill_zero(void* device, int64_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(device, 0, static_cast<size_t>(bytes));
}

}  // namespace diffiso
