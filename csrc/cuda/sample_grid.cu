// SPDX-License-Identifier: Apache-2.0
// Trilinear value and gradient of grids at points, and back. One thread a point. The backward adds
// to the samples with atomics, so that its sums depend on the order of arrival; asked to be
// deterministic it adds in the order of the points instead (scatter.cuh).
#include "common/checks.h"
#include "common/launch.cuh"
#include "cuda/scatter.cuh"

namespace diffiso {
namespace {

constexpr int kBlockSize = 256;

template <typename scalar_t>
struct SampleGridParams {
  GridShape grid;
  int64_t points_per_grid;
  const scalar_t* __restrict__ values;         // (B, X, Y, Z)
  const scalar_t* __restrict__ points;         // (B, P, 3)
  const scalar_t* __restrict__ grad_sdf;       // (B, P) or null
  const scalar_t* __restrict__ grad_gradient;  // (B, P, 3) or null
  scalar_t* sdf;                               // (B, P)
  scalar_t* gradient;                          // (B, P, 3)
  scalar_t* grad_points;                       // (B, P, 3)

  DIFFISO_HD int64_t count() const { return grid.batch * points_per_grid; }
  DIFFISO_HD int64_t batch(int64_t n) const { return n / points_per_grid; }

  DIFFISO_HD InterpolateBackward<scalar_t> pull_back(int64_t n,
                                                     const TrilinearStencil<scalar_t>&) const {
    return {grad_sdf ? grad_sdf[n] : 0,
            grad_gradient ? load_vec3(grad_gradient, n) : Vec3<scalar_t>{0, 0, 0}};
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kBlockSize) sample_grid_kernel(SampleGridParams<scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.count(); n += step) {
    const TrilinearStencil<scalar_t> stencil(p.grid, p.batch(n), load_vec3(p.points, n));
    const FieldSample<scalar_t> sample = interpolate(stencil, p.values);
    p.sdf[n] = sample.value;
    store_vec3(p.gradient, n, sample.gradient);
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    sample_grid_backward_points_kernel(SampleGridParams<scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.count(); n += step) {
    const TrilinearStencil<scalar_t> stencil(p.grid, p.batch(n), load_vec3(p.points, n));
    store_vec3(p.grad_points, n, p.pull_back(n, stencil).point(stencil, p.values));
  }
}

std::tuple<Tensor, Tensor> sample_grid(Tensor values, Tensor points, std::vector<double> lower,
                                       std::vector<double> spacing) {
  const CudaContext cuda(values);
  const GridShape grid = check_grid("sample_grid", values, lower, spacing);
  check_sample_grid(values, points);
  const int64_t count = points.size(1);
  Tensor sdf = empty_on(values, {grid.batch, count}, values.scalar_type());
  Tensor gradient = empty_on(values, {grid.batch, count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    SampleGridParams<scalar_t> p{};
    p.grid = grid;
    p.points_per_grid = count;
    p.values = static_cast<const scalar_t*>(values.const_data_ptr());
    p.points = static_cast<const scalar_t*>(points.const_data_ptr());
    p.sdf = static_cast<scalar_t*>(sdf.mutable_data_ptr());
    p.gradient = static_cast<scalar_t*>(gradient.mutable_data_ptr());
    launch(sample_grid_kernel<scalar_t>, grid_for(p.count(), kBlockSize), kBlockSize, 0,
           cuda.stream, p);
  });
  return {sdf, gradient};
}

std::tuple<Tensor, Tensor> sample_grid_backward(std::optional<Tensor> grad_sdf,
                                                std::optional<Tensor> grad_gradient, Tensor values,
                                                Tensor points, std::vector<double> lower,
                                                std::vector<double> spacing, bool deterministic) {
  const CudaContext cuda(values);
  const GridShape grid = check_grid("sample_grid_backward", values, lower, spacing);
  check_sample_grid(values, points);
  check_sample_grid_gradients(grad_sdf, grad_gradient, points);
  const int64_t count = points.size(1);
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  Tensor grad_points = empty_on(values, {grid.batch, count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    SampleGridParams<scalar_t> p{};
    p.grid = grid;
    p.points_per_grid = count;
    p.values = static_cast<const scalar_t*>(values.const_data_ptr());
    p.points = static_cast<const scalar_t*>(points.const_data_ptr());
    if (grad_sdf) p.grad_sdf = static_cast<const scalar_t*>(grad_sdf->const_data_ptr());
    if (grad_gradient) {
      p.grad_gradient = static_cast<const scalar_t*>(grad_gradient->const_data_ptr());
    }
    p.grad_points = static_cast<scalar_t*>(grad_points.mutable_data_ptr());
    launch(sample_grid_backward_points_kernel<scalar_t>, grid_for(p.count(), kBlockSize),
           kBlockSize, 0, cuda.stream, p);
    scatter_points(cuda, p, static_cast<scalar_t*>(grad_values.mutable_data_ptr()), deterministic);
  });
  return {grad_values, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("sample_grid", TORCH_BOX(&sample_grid));
  m.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
}

}  // namespace diffiso
