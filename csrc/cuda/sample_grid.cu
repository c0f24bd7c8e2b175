// SPDX-License-Identifier: Apache-2.0
// Trilinear value and gradient of grids at points, dense and sparse, and back. One thread a point.
// The backward adds to the samples with atomics, so that its sums depend on the order of arrival;
// asked to be deterministic it adds in the order of the points instead (scatter.cuh).
#include "common/checks.h"
#include "common/launch.cuh"
#include "cuda/scatter.cuh"

namespace diffiso {
namespace {

constexpr int kBlockSize = 256;

// What the kernels know of either kind of grid; N points in all.
template <typename scalar_t>
struct SampleParams {
  int64_t count;                               // N
  const scalar_t* __restrict__ values;         // (B, X, Y, Z) or (R, 8, 8, 8)
  const scalar_t* __restrict__ points;         // (N, 3)
  const scalar_t* __restrict__ grad_sdf;       // (N,) or null
  const scalar_t* __restrict__ grad_gradient;  // (N, 3) or null
  scalar_t* sdf;                               // (N,)
  scalar_t* gradient;                          // (N, 3)
  scalar_t* grad_points;                       // (N, 3)

  template <typename Stencil>
  DIFFISO_HD InterpolateBackward<scalar_t> pull_back(int64_t n, const Stencil&) const {
    return {grad_sdf ? grad_sdf[n] : 0,
            grad_gradient ? load_vec3(grad_gradient, n) : Vec3<scalar_t>{0, 0, 0}};
  }
};

template <typename scalar_t>
struct SampleGridParams : SampleParams<scalar_t> {
  GridShape grid;
  int64_t points_per_grid;

  DIFFISO_HD GridStencil<scalar_t> stencil(int64_t n) const {
    return {grid, n / points_per_grid, load_vec3(this->points, n)};
  }
};

template <typename scalar_t>
struct SampleBricksParams : SampleParams<scalar_t> {
  BrickShape bricks;

  DIFFISO_HD BrickStencil<scalar_t> stencil(int64_t n) const {
    return {bricks, load_vec3(this->points, n)};
  }
};

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) sample_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.count; n += step) {
    const auto sample = interpolate(p.stencil(n), p.values);
    p.sdf[n] = sample.value;
    store_vec3(p.gradient, n, sample.gradient);
  }
}

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) sample_backward_points_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.count; n += step) {
    const auto stencil = p.stencil(n);
    store_vec3(p.grad_points, n, p.pull_back(n, stencil).point(stencil, p.values));
  }
}

template <typename Params>
void run_sample(const CudaContext& cuda, Params& p, const Tensor& sdf, const Tensor& gradient) {
  using scalar_t = std::remove_pointer_t<decltype(p.sdf)>;
  p.sdf = static_cast<scalar_t*>(sdf.mutable_data_ptr());
  p.gradient = static_cast<scalar_t*>(gradient.mutable_data_ptr());
  launch(sample_kernel<Params>, grid_for(p.count, kBlockSize), kBlockSize, 0, cuda.stream, p);
}

template <typename Params>
void run_sample_backward(const CudaContext& cuda, Params& p, const std::optional<Tensor>& grad_sdf,
                         const std::optional<Tensor>& grad_gradient, const Tensor& grad_values,
                         const Tensor& grad_points, bool deterministic) {
  using scalar_t = std::remove_pointer_t<decltype(p.grad_points)>;
  if (grad_sdf) p.grad_sdf = static_cast<const scalar_t*>(grad_sdf->const_data_ptr());
  if (grad_gradient) {
    p.grad_gradient = static_cast<const scalar_t*>(grad_gradient->const_data_ptr());
  }
  p.grad_points = static_cast<scalar_t*>(grad_points.mutable_data_ptr());
  launch(sample_backward_points_kernel<Params>, grid_for(p.count, kBlockSize), kBlockSize, 0,
         cuda.stream, p);
  scatter_points(cuda, p, static_cast<scalar_t*>(grad_values.mutable_data_ptr()), deterministic);
}

template <typename scalar_t>
SampleGridParams<scalar_t> grid_params(const GridShape& grid, const Tensor& values,
                                       const Tensor& points) {
  SampleGridParams<scalar_t> p{};
  p.grid = grid;
  p.points_per_grid = points.size(1);
  p.count = grid.batch * p.points_per_grid;
  p.values = static_cast<const scalar_t*>(values.const_data_ptr());
  p.points = static_cast<const scalar_t*>(points.const_data_ptr());
  return p;
}

template <typename scalar_t>
SampleBricksParams<scalar_t> bricks_params(const BrickShape& bricks, const Tensor& values,
                                           const Tensor& points) {
  SampleBricksParams<scalar_t> p{};
  p.bricks = bricks;
  p.count = points.size(0);
  p.values = static_cast<const scalar_t*>(values.const_data_ptr());
  p.points = static_cast<const scalar_t*>(points.const_data_ptr());
  return p;
}

std::tuple<Tensor, Tensor> sample_grid(Tensor values, Tensor points, std::vector<double> lower,
                                       std::vector<double> spacing) {
  const CudaContext cuda(values);
  const GridShape grid = check_grid("sample_grid", values, lower, spacing);
  check_sample_grid(values, points);
  Tensor sdf = empty_on(values, {grid.batch, points.size(1)}, values.scalar_type());
  Tensor gradient = empty_on(values, {grid.batch, points.size(1), 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = grid_params<scalar_t>(grid, values, points);
    run_sample(cuda, p, sdf, gradient);
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
  check_sample_gradients("sample_grid_backward", grad_sdf, grad_gradient, points);
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  Tensor grad_points = empty_on(values, {grid.batch, points.size(1), 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = grid_params<scalar_t>(grid, values, points);
    run_sample_backward(cuda, p, grad_sdf, grad_gradient, grad_values, grad_points, deterministic);
  });
  return {grad_values, grad_points};
}

std::tuple<Tensor, Tensor> sample_bricks(Tensor values, Tensor table, Tensor coordinates,
                                         Tensor points, std::vector<int64_t> nodes,
                                         std::vector<double> lower, std::vector<double> spacing) {
  const CudaContext cuda(values);
  const BrickShape bricks =
      check_bricks("sample_bricks", values, table, coordinates, nodes, lower, spacing);
  check_sample_bricks(values, points);
  Tensor sdf = empty_on(values, {points.size(0)}, values.scalar_type());
  Tensor gradient = empty_on(values, {points.size(0), 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = bricks_params<scalar_t>(bricks, values, points);
    run_sample(cuda, p, sdf, gradient);
  });
  return {sdf, gradient};
}

std::tuple<Tensor, Tensor> sample_bricks_backward(std::optional<Tensor> grad_sdf,
                                                  std::optional<Tensor> grad_gradient,
                                                  Tensor values, Tensor table, Tensor coordinates,
                                                  Tensor points, std::vector<int64_t> nodes,
                                                  std::vector<double> lower,
                                                  std::vector<double> spacing, bool deterministic) {
  const CudaContext cuda(values);
  const char* op = "sample_bricks_backward";
  const BrickShape bricks = check_bricks(op, values, table, coordinates, nodes, lower, spacing);
  check_sample_bricks(values, points);
  check_sample_gradients(op, grad_sdf, grad_gradient, points);
  Tensor grad_values =
      zeros_on(values, {bricks.count, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
  Tensor grad_points = empty_on(values, {points.size(0), 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = bricks_params<scalar_t>(bricks, values, points);
    run_sample_backward(cuda, p, grad_sdf, grad_gradient, grad_values, grad_points, deterministic);
  });
  return {grad_values, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("sample_grid", TORCH_BOX(&sample_grid));
  m.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
  m.impl("sample_bricks", TORCH_BOX(&sample_bricks));
  m.impl("sample_bricks_backward", TORCH_BOX(&sample_bricks_backward));
}

}  // namespace diffiso
