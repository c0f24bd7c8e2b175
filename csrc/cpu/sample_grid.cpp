// SPDX-License-Identifier: Apache-2.0
// Trilinear value and gradient of grids at points, and back. One task a run of points; the
// backward's sums are taken in the order of the points.
#include "common/checks.h"
#include "cpu/scatter.h"

namespace diffiso {
namespace {

constexpr int64_t kPointsPerTask = 4096;

std::tuple<Tensor, Tensor> sample_grid(Tensor values, Tensor points, std::vector<double> lower,
                                       std::vector<double> spacing) {
  const GridShape grid = check_grid("sample_grid", values, lower, spacing);
  check_sample_grid(values, points);
  const int64_t count = points.size(1);
  Tensor sdf = empty_on(values, {grid.batch, count}, values.scalar_type());
  Tensor gradient = empty_on(values, {grid.batch, count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(points.const_data_ptr());
    auto* out = static_cast<scalar_t*>(sdf.mutable_data_ptr());
    auto* out_gradient = static_cast<scalar_t*>(gradient.mutable_data_ptr());
    parallel_pieces(grid.batch * count, kPointsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const TrilinearStencil<scalar_t> stencil(grid, n / count, load_vec3(at, n));
        const FieldSample<scalar_t> sample = interpolate(stencil, in);
        out[n] = sample.value;
        store_vec3(out_gradient, n, sample.gradient);
      }
    });
  });
  return {sdf, gradient};
}

std::tuple<Tensor, Tensor> sample_grid_backward(std::optional<Tensor> grad_sdf,
                                                std::optional<Tensor> grad_gradient, Tensor values,
                                                Tensor points, std::vector<double> lower,
                                                std::vector<double> spacing, bool) {
  const GridShape grid = check_grid("sample_grid_backward", values, lower, spacing);
  check_sample_grid(values, points);
  check_sample_grid_gradients(grad_sdf, grad_gradient, points);
  const int64_t count = points.size(1);
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  Tensor grad_points = empty_on(values, {grid.batch, count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(points.const_data_ptr());
    const auto* of_sdf =
        grad_sdf ? static_cast<const scalar_t*>(grad_sdf->const_data_ptr()) : nullptr;
    const auto* of_gradient =
        grad_gradient ? static_cast<const scalar_t*>(grad_gradient->const_data_ptr()) : nullptr;
    auto* out = static_cast<scalar_t*>(grad_points.mutable_data_ptr());
    const auto pull_back = [&](int64_t n, const TrilinearStencil<scalar_t>&) {
      return InterpolateBackward<scalar_t>{of_sdf ? of_sdf[n] : 0, of_gradient
                                                                       ? load_vec3(of_gradient, n)
                                                                       : Vec3<scalar_t>{0, 0, 0}};
    };
    parallel_pieces(grid.batch * count, kPointsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const TrilinearStencil<scalar_t> stencil(grid, n / count, load_vec3(at, n));
        store_vec3(out, n, pull_back(n, stencil).point(stencil, in));
      }
    });
    for (int64_t b = 0; b < grid.batch; ++b) {
      scatter_points(grid, b, at, b * count, (b + 1) * count, pull_back,
                     static_cast<scalar_t*>(grad_values.mutable_data_ptr()));
    }
  });
  return {grad_values, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("sample_grid", TORCH_BOX(&sample_grid));
  m.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
}

}  // namespace diffiso
