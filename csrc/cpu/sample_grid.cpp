// SPDX-License-Identifier: Apache-2.0
// Trilinear value and gradient of grids at points, dense and sparse, and back. One task a run of
// points; the backward's sums are taken in the order of the points.
#include "common/checks.h"
#include "cpu/scatter.h"

namespace diffiso {
namespace {

constexpr int64_t kPointsPerTask = 4096;

// The points of a batch of dense grids, the same number in each. This and what follows is inlined
// into its loops: a stencil that is handed on through memory makes them a fifth slower.
template <typename scalar_t>
struct GridPoints {
  const GridShape& grid;
  int64_t per_grid;
  const scalar_t* points;

  DIFFISO_HD GridStencil<scalar_t> stencil(int64_t n) const {
    return {grid, n / per_grid, load_vec3(points, n)};
  }
};

template <typename scalar_t>
struct BrickPoints {
  const BrickShape& bricks;
  const scalar_t* points;

  DIFFISO_HD BrickStencil<scalar_t> stencil(int64_t n) const {
    return {bricks, load_vec3(points, n)};
  }
};

template <typename scalar_t, typename Points>
void sample_points(const Points& points, int64_t count, const scalar_t* values, const Tensor& sdf,
                   const Tensor& gradient) {
  auto* out = static_cast<scalar_t*>(sdf.mutable_data_ptr());
  auto* out_gradient = static_cast<scalar_t*>(gradient.mutable_data_ptr());
  parallel_pieces(count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const FieldSample<scalar_t> sample = interpolate(points.stencil(n), values);
      out[n] = sample.value;
      store_vec3(out_gradient, n, sample.gradient);
    }
  });
}

// What the outputs of each point receive, or zeros where an output has no gradient.
template <typename scalar_t>
struct PullBack {
  const scalar_t* grad_sdf;
  const scalar_t* grad_gradient;

  PullBack(const std::optional<Tensor>& sdf, const std::optional<Tensor>& gradient)
      : grad_sdf(sdf ? static_cast<const scalar_t*>(sdf->const_data_ptr()) : nullptr),
        grad_gradient(gradient ? static_cast<const scalar_t*>(gradient->const_data_ptr())
                               : nullptr) {}

  template <typename Stencil>
  InterpolateBackward<scalar_t> operator()(int64_t n, const Stencil&) const {
    return {grad_sdf ? grad_sdf[n] : 0,
            grad_gradient ? load_vec3(grad_gradient, n) : Vec3<scalar_t>{0, 0, 0}};
  }
};

template <typename scalar_t, typename Points>
void pull_points_back(const Points& points, int64_t count, const scalar_t* values,
                      const PullBack<scalar_t>& pull_back, const Tensor& grad_points) {
  auto* out = static_cast<scalar_t*>(grad_points.mutable_data_ptr());
  parallel_pieces(count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const auto stencil = points.stencil(n);
      store_vec3(out, n, pull_back(n, stencil).point(stencil, values));
    }
  });
}

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
    sample_points(GridPoints<scalar_t>{grid, count, at}, grid.batch * count, in, sdf, gradient);
  });
  return {sdf, gradient};
}

std::tuple<Tensor, Tensor> sample_grid_backward(std::optional<Tensor> grad_sdf,
                                                std::optional<Tensor> grad_gradient, Tensor values,
                                                Tensor points, std::vector<double> lower,
                                                std::vector<double> spacing, bool) {
  const GridShape grid = check_grid("sample_grid_backward", values, lower, spacing);
  check_sample_grid(values, points);
  check_sample_gradients("sample_grid_backward", grad_sdf, grad_gradient, points);
  const int64_t count = points.size(1);
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  Tensor grad_points = empty_on(values, {grid.batch, count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(points.const_data_ptr());
    const PullBack<scalar_t> pull_back(grad_sdf, grad_gradient);
    pull_points_back(GridPoints<scalar_t>{grid, count, at}, grid.batch * count, in, pull_back,
                     grad_points);
    for (int64_t b = 0; b < grid.batch; ++b) {
      scatter_points(grid.axis(0), PointsOfGrid<scalar_t>{grid, b, at}, b * count, (b + 1) * count,
                     in, pull_back, static_cast<scalar_t*>(grad_values.mutable_data_ptr()));
    }
  });
  return {grad_values, grad_points};
}

std::tuple<Tensor, Tensor> sample_bricks(Tensor values, Tensor table, Tensor coordinates,
                                         Tensor points, std::vector<int64_t> nodes,
                                         std::vector<double> lower, std::vector<double> spacing) {
  const BrickShape bricks =
      check_bricks("sample_bricks", values, table, coordinates, nodes, lower, spacing);
  check_sample_bricks(values, points);
  const int64_t count = points.size(0);
  Tensor sdf = empty_on(values, {count}, values.scalar_type());
  Tensor gradient = empty_on(values, {count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(points.const_data_ptr());
    sample_points(BrickPoints<scalar_t>{bricks, at}, count, in, sdf, gradient);
  });
  return {sdf, gradient};
}

std::tuple<Tensor, Tensor> sample_bricks_backward(std::optional<Tensor> grad_sdf,
                                                  std::optional<Tensor> grad_gradient,
                                                  Tensor values, Tensor table, Tensor coordinates,
                                                  Tensor points, std::vector<int64_t> nodes,
                                                  std::vector<double> lower,
                                                  std::vector<double> spacing, bool) {
  const char* op = "sample_bricks_backward";
  const BrickShape bricks = check_bricks(op, values, table, coordinates, nodes, lower, spacing);
  check_sample_bricks(values, points);
  check_sample_gradients(op, grad_sdf, grad_gradient, points);
  const int64_t count = points.size(0);
  Tensor grad_values =
      zeros_on(values, {bricks.count, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
  Tensor grad_points = empty_on(values, {count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(points.const_data_ptr());
    const PullBack<scalar_t> pull_back(grad_sdf, grad_gradient);
    const BrickPoints<scalar_t> at_points{bricks, at};
    pull_points_back(at_points, count, in, pull_back, grad_points);
    scatter_points(bricks.axis(0), at_points, 0, count, in, pull_back,
                   static_cast<scalar_t*>(grad_values.mutable_data_ptr()));
  });
  return {grad_values, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("sample_grid", TORCH_BOX(&sample_grid));
  m.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
  m.impl("sample_bricks", TORCH_BOX(&sample_bricks));
  m.impl("sample_bricks_backward", TORCH_BOX(&sample_bricks_backward));
}

}  // namespace diffiso
