// SPDX-License-Identifier: Apache-2.0
// Small kernels that use all of what tests/simt interprets, and a few with planted faults. Compiled
// by nvcc as well, so that the harness speaks no dialect of its own.
#include "common/launch.cuh"
#include "common/scan.cuh"

namespace diffiso {
namespace {

constexpr int kBlock = 64;

struct Params {
  const int64_t* in;  // (N,)
  int64_t* out;       // what the test asks for
  int64_t count;      // N
  int64_t choice;
};

__device__ int64_t thread_index() {
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

// One word per warp: which of its values are not zero.
__global__ void ballot_kernel(Params p) {
  const int64_t n = thread_index();
  const unsigned word = __ballot_sync(0xffffffffu, n < p.count && p.in[n] != 0);
  const bool any = __any_sync(0xffffffffu, n < p.count && p.in[n] != 0);
  if (threadIdx.x % kWarpSize == 0) p.out[n / kWarpSize] = any ? int64_t{word} : -1;
}

// (4, N): shuffles of every kind within groups of `choice` lanes.
__global__ void shuffle_kernel(Params p) {
  const int64_t n = thread_index();
  const int width = static_cast<int>(p.choice);
  const int64_t value = n < p.count ? p.in[n] : 0;
  const int64_t from_first = __shfl_sync(0xffffffffu, value, 0, width);
  const int64_t from_below = __shfl_up_sync(0xffffffffu, value, 1, width);
  const int64_t from_above = __shfl_down_sync(0xffffffffu, value, 1, width);
  const int64_t from_pair = __shfl_xor_sync(0xffffffffu, value, 1, width);
  if (n >= p.count) return;
  p.out[n] = from_first;
  p.out[p.count + n] = from_below;
  p.out[2 * p.count + n] = from_above;
  p.out[3 * p.count + n] = from_pair;
}

// Reverses each block of values through shared memory.
__global__ void reverse_kernel(Params p) {
  __shared__ int64_t tile[kBlock];
  const int64_t n = thread_index();
  if (n < p.count) tile[threadIdx.x] = p.in[n];
  __syncthreads();
  const int64_t last = min(p.count - int64_t{blockIdx.x} * kBlock, int64_t{kBlock}) - 1;
  if (n < p.count) p.out[n] = tile[last - threadIdx.x];
}

// The same without the barrier: wrong, and seen to be wrong.
__global__ void racing_reverse_kernel(Params p) {
  __shared__ int64_t tile[kBlock];
  const int64_t n = thread_index();
  if (n < p.count) tile[threadIdx.x] = p.in[n];
  const int64_t last = min(p.count - int64_t{blockIdx.x} * kBlock, int64_t{kBlock}) - 1;
  if (n < p.count) p.out[n] = tile[last - threadIdx.x];
}

// (2,): the sums of all values and of their squares, one atomic each a block.
__global__ void sum_kernel(Params p) {
  int64_t value = 0, square = 0;
  for (int64_t n = thread_index(); n < p.count; n += int64_t{gridDim.x} * blockDim.x) {
    value += p.in[n];
    square += p.in[n] * p.in[n];
  }
  const int64_t sums[2] = {block_sum<kBlock>(value), block_sum<kBlock>(square)};
  if (threadIdx.x != 0) return;
  for (int k = 0; k < 2; ++k) {
    atomicAdd(reinterpret_cast<unsigned long long*>(p.out + k),
              static_cast<unsigned long long>(sums[k]));
  }
}

// Groups of 8 lanes: running sums.
__global__ void warp_sum_kernel(Params p) {
  const int64_t n = thread_index();
  const int64_t sum = warp_inclusive_sum(n < p.count ? p.in[n] : 0, 8);
  if (n < p.count) p.out[n] = sum;
}

// Planted faults, by choice.
__global__ void fault_kernel(Params p) {
  __shared__ int64_t tile[kBlock];
  const int64_t n = thread_index();
  switch (p.choice) {
    case 0:  // writes one past the end
      p.out[n + 1] = n;
      break;
    case 1:  // half a warp takes part
      if (threadIdx.x % 2 == 0) p.out[n] = __ballot_sync(0xffffffffu, 1);
      break;
    case 2:  // two different barriers
      if (threadIdx.x % 2 == 0) {
        p.out[n] = __ballot_sync(0xffffffffu, 1);
      } else {
        __syncthreads();
      }
      break;
    case 3:  // a thread has left before the barrier
      if (threadIdx.x == 3) return;
      __syncthreads();
      p.out[n] = n;
      break;
    case 4:  // reads a lane that takes no part
      if (threadIdx.x < 16) p.out[n] = __shfl_sync(0xffffu, static_cast<int>(n), 20);
      break;
    case 5:  // a lane that its own mask leaves out
      p.out[n] = __ballot_sync(0xfffffffeu, 1);
      break;
    case 6: {  // reads past shared memory
      const int64_t* shared = tile;
      tile[threadIdx.x] = n;
      p.out[n] = shared[threadIdx.x + 1];
      break;
    }
    default: {  // reads past its own variable, after having waited
      int64_t own[4] = {n, n, n, n};
      const int64_t* variable = own;
      __syncthreads();
      p.out[n] = variable[p.choice];
    }
  }
}

using Kernel = void (*)(Params);

Tensor run(Kernel kernel, const Tensor& in, int64_t out_count, int64_t choice) {
  const CudaContext cuda(in);
  Tensor out = zeros_on(in, {out_count}, DType::Long);
  const Params params{in.const_data_ptr<int64_t>(), out.mutable_data_ptr<int64_t>(), in.numel(),
                      choice};
  launch(kernel, grid_for(params.count, kBlock), dim3(kBlock), 0, cuda.stream, params);
  return out;
}

Tensor test_ballot(const Tensor& in) {
  return run(ballot_kernel, in, kBlock / kWarpSize * ceil_div(in.numel(), kBlock), 0);
}

Tensor test_shuffle(const Tensor& in, int64_t width) {
  return run(shuffle_kernel, in, 4 * in.numel(), width);
}

Tensor test_reverse(const Tensor& in, bool barrier) {
  return run(barrier ? reverse_kernel : racing_reverse_kernel, in, in.numel(), 0);
}

std::tuple<int64_t, int64_t> test_sums(const Tensor& in) {
  const CudaContext cuda(in);
  int64_t result[2];
  Tensor out = cuda.scratch(sizeof(result));
  auto* sums = static_cast<int64_t*>(out.mutable_data_ptr());
  fill_zero(sums, sizeof(result), cuda.stream);
  const Params params{in.const_data_ptr<int64_t>(), sums, in.numel(), 0};
  launch(sum_kernel, dim3(3), dim3(kBlock), 0, cuda.stream, params);
  copy_to_host(result, sums, 2, cuda.stream);
  return {result[0], result[1]};
}

Tensor test_warp_sum(const Tensor& in) {
  return run(warp_sum_kernel, in, in.numel(), 0);
}

Tensor test_fault(const Tensor& in, int64_t choice) {
  return run(fault_kernel, in, in.numel(), choice);
}

Tensor test_exclusive_sum(const Tensor& in) {
  const CudaContext cuda(in);
  Tensor out = empty_on(in, {in.numel()}, DType::Long);
  exclusive_sum(cuda, in.const_data_ptr<int64_t>(), out.mutable_data_ptr<int64_t>(), in.numel());
  return out;
}

std::tuple<Tensor, Tensor> test_sort(const Tensor& keys, const Tensor& values, int64_t key_bits) {
  const CudaContext cuda(keys);
  Tensor keys_out = empty_on(keys, {keys.numel()}, DType::Long);
  Tensor values_out = empty_on(keys, {keys.numel()}, DType::Long);
  sort_pairs(cuda, keys.const_data_ptr<int64_t>(), keys_out.mutable_data_ptr<int64_t>(),
             values.const_data_ptr<int64_t>(), values_out.mutable_data_ptr<int64_t>(), keys.numel(),
             static_cast<int>(key_bits));
  return {keys_out, values_out};
}

}  // namespace
}  // namespace diffiso

STABLE_TORCH_LIBRARY(simt_self_test, m) {
  m.def("ballot(Tensor values) -> Tensor");
  m.def("shuffle(Tensor values, int width) -> Tensor");
  m.def("reverse(Tensor values, bool barrier) -> Tensor");
  m.def("sums(Tensor values) -> (int, int)");
  m.def("warp_sum(Tensor values) -> Tensor");
  m.def("fault(Tensor values, int choice) -> Tensor");
  m.def("exclusive_sum(Tensor values) -> Tensor");
  m.def("sort(Tensor keys, Tensor values, int key_bits) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(simt_self_test, CUDA, m) {
  using namespace diffiso;
  m.impl("ballot", TORCH_BOX(&test_ballot));
  m.impl("shuffle", TORCH_BOX(&test_shuffle));
  m.impl("reverse", TORCH_BOX(&test_reverse));
  m.impl("sums", TORCH_BOX(&test_sums));
  m.impl("warp_sum", TORCH_BOX(&test_warp_sum));
  m.impl("fault", TORCH_BOX(&test_fault));
  m.impl("exclusive_sum", TORCH_BOX(&test_exclusive_sum));
  m.impl("sort", TORCH_BOX(&test_sort));
}
