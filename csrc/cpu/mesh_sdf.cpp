// SPDX-License-Identifier: Apache-2.0
// MeshSDF's backward for grids: what a loss asks of surface points becomes what it asks of the
// samples around them. The forward hands the points on as they are.
#include "core/mesh_sdf.h"
#include "common/checks.h"
#include "cpu/scatter.h"

namespace diffiso {
namespace {

Tensor mesh_sdf(Tensor values, Tensor vertices, Tensor vertex_offsets, std::vector<double> lower,
                std::vector<double> spacing, bool) {
  check_grid("mesh_sdf", values, lower, spacing);
  check_mesh_sdf(values, vertices, vertex_offsets);
  check_offsets("mesh_sdf", static_cast<const int64_t*>(vertex_offsets.const_data_ptr()),
                values.size(0), vertices.size(0));
  return torch::stable::clone(vertices);
}

Tensor mesh_sdf_backward(Tensor grad_vertices, Tensor values, Tensor vertices,
                         Tensor vertex_offsets, std::vector<double> lower,
                         std::vector<double> spacing, bool implicit, bool) {
  const GridShape grid = check_grid("mesh_sdf_backward", values, lower, spacing);
  check_mesh_sdf(values, vertices, vertex_offsets);
  check_gradient("mesh_sdf_backward", "grad_vertices", grad_vertices, vertices, 2);
  check_offsets("mesh_sdf", static_cast<const int64_t*>(vertex_offsets.const_data_ptr()),
                grid.batch, vertices.size(0));
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* in = static_cast<const scalar_t*>(values.const_data_ptr());
    const auto* at = static_cast<const scalar_t*>(vertices.const_data_ptr());
    const auto* grad = static_cast<const scalar_t*>(grad_vertices.const_data_ptr());
    const auto* offsets = static_cast<const int64_t*>(vertex_offsets.const_data_ptr());
    const auto pull_back = [&](int64_t n, const GridStencil<scalar_t>& stencil) {
      const Vec3<scalar_t> gradient = interpolate(stencil, in).gradient;
      return InterpolateBackward<scalar_t>{
          mesh_sdf_pull_back(load_vec3(grad, n), gradient, implicit), {0, 0, 0}};
    };
    for (int64_t b = 0; b < grid.batch; ++b) {
      scatter_points(grid.axis(0), PointsOfGrid<scalar_t>{grid, b, at}, offsets[b], offsets[b + 1],
                     in, pull_back, static_cast<scalar_t*>(grad_values.mutable_data_ptr()));
    }
  });
  return grad_values;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("mesh_sdf", TORCH_BOX(&mesh_sdf));
  m.impl("mesh_sdf_backward", TORCH_BOX(&mesh_sdf_backward));
}

}  // namespace diffiso
