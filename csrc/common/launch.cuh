// SPDX-License-Identifier: Apache-2.0
// How host code starts kernels: torch's device, current stream and allocator, checked launches. No
// other file says <<<>>> or names the CUDA runtime, so that the kernels also run in tests/simt.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <limits>

#include "common/checks.h"

namespace diffiso {

constexpr int kWarpSize = 32;

DIFFISO_HD constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline void check_cuda(cudaError_t error, const char* what) {
  check(error == cudaSuccess, "diffiso: ", what, ": ", cudaGetErrorString(error));
}

// torch's current stream. Its one CUDA-only symbol is looked up at run time, so that a binary with
// kernels still loads beside a CPU-only torch.
inline cudaStream_t current_stream(int32_t device_index) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<GetStream>(symbol);
  }();
  check(get_stream != nullptr, "diffiso: tensors on a GPU need a torch built with CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get_stream(device_index, &stream));
  return static_cast<cudaStream_t>(stream);
}

// What a host function holds while it works on the device of `like`.
struct CudaContext {
  torch::stable::accelerator::DeviceGuard guard;
  torch::stable::Device device;
  cudaStream_t stream;

  explicit CudaContext(const Tensor& like)
      : guard(like.get_device_index()),
        device(like.device()),
        stream(current_stream(like.get_device_index())) {
    // The runtime linked into this library stands beside torch's and is told the device as well.
    check_cuda(cudaSetDevice(like.get_device_index()), "cudaSetDevice");
  }

  // Memory from torch's allocator for work on this stream; not set.
  Tensor scratch(int64_t bytes) const {
    return torch::stable::empty({bytes}, DType::Byte, std::nullopt, device);
  }
};

// As many blocks as the work fills, up to the hardware's limit: kernels stride over the rest.
inline dim3 grid_for(int64_t threads, int block) {
  return dim3(static_cast<unsigned>(
      std::min<int64_t>(ceil_div(threads, block), std::numeric_limits<int32_t>::max())));
}

// The same for work whose amount only the device knows: no more blocks than a few times what a
// device holds at once.
inline dim3 striding_grid(int64_t threads, int block) {
  constexpr int64_t kMostBlocks = 8192;
  return grid_for(std::min(threads, kMostBlocks * block), block);
}

// Runs a kernel of one params struct. An empty grid is no launch.
template <typename Params>
void launch(void (*kernel)(Params), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const Params& params) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr size_t kDefaultSharedLimit = 48 * 1024;
  if (shared_bytes > kDefaultSharedLimit) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               "shared memory of a kernel");
  }
  kernel<<<grid, block, shared_bytes, stream>>>(params);
  check_cuda(cudaGetLastError(), "kernel launch");
}

// Waits for the stream: only for reading back the sizes of an op's outputs.
template <typename T>
void copy_to_host(T* host, const T* device, int64_t count, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(host, device, static_cast<size_t>(count) * sizeof(T),
                             cudaMemcpyDeviceToHost, stream),
             "copy to host");
  check_cuda(cudaStreamSynchronize(stream), "wait for a copy to host");
}

inline void fill_zero(void* device, int64_t bytes, cudaStream_t stream) {
  if (bytes > 0) check_cuda(cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), stream), "fill");
}

}  // namespace diffiso
