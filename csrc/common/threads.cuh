// SPDX-License-Identifier: Apache-2.0
// Kernels of one thread for each of many things, and the memory that an op's kernels share.
#pragma once

#include "common/launch.cuh"

namespace diffiso {

constexpr int kThreadBlock = 128;

// Calls f(n) for n from 0 to count - 1, a thread each.
template <typename F>
__device__ void for_each_by_thread(int64_t count, const F& f) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < count; n += step) f(n);
}

template <typename Params>
void launch_by_thread(void (*kernel)(Params), int64_t most, const CudaContext& cuda,
                      const Params& params) {
  launch(kernel, striding_grid(most, kThreadBlock), kThreadBlock, 0, cuda.stream, params);
}

// The last n of `count` whose `begins[n]` is at most i.
DIFFISO_HD int64_t run_of(const int64_t* begins, int64_t count, int64_t i) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (begins[middle] <= i) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Memory for one op's kernels.
class Scratch {
 public:
  explicit Scratch(const CudaContext& cuda) : cuda_(cuda) {}

  template <typename T>
  T* take(int64_t count) {
    parts_.push_back(cuda_.scratch(count * static_cast<int64_t>(sizeof(T))));
    return static_cast<T*>(parts_.back().mutable_data_ptr());
  }
  template <typename T>
  T* take_zeros(int64_t count) {
    T* out = take<T>(count);
    fill_zero(out, count * static_cast<int64_t>(sizeof(T)), cuda_.stream);
    return out;
  }

 private:
  const CudaContext& cuda_;
  std::vector<Tensor> parts_;
};

}  // namespace diffiso
