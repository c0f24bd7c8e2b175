// SPDX-License-Identifier: Apache-2.0
// MeshSDF's backward for grids: what a loss asks of surface points becomes what it asks of the
// samples around them. The forward hands the points on as they are. One thread a point; see
// scatter.cuh for the order of the sums.
#include "common/checks.h"
#include "common/threads.cuh"
#include "core/mesh_sdf.h"
#include "cuda/scatter.cuh"

namespace diffiso {
namespace {

template <typename scalar_t>
struct MeshSdfParams {
  GridShape grid;
  int64_t count;                               // V
  const int64_t* __restrict__ vertex_offsets;  // (B + 1,)
  const scalar_t* __restrict__ values;         // (B, X, Y, Z)
  const scalar_t* __restrict__ points;         // (V, 3)
  const scalar_t* __restrict__ grad_vertices;  // (V, 3)
  bool implicit;

  DIFFISO_HD GridStencil<scalar_t> stencil(int64_t n) const {
    return {grid, run_of(vertex_offsets, grid.batch, n), load_vec3(points, n)};
  }

  DIFFISO_HD InterpolateBackward<scalar_t> pull_back(int64_t n,
                                                     const GridStencil<scalar_t>& stencil) const {
    const Vec3<scalar_t> gradient = interpolate(stencil, values).gradient;
    return {mesh_sdf_pull_back(load_vec3(grad_vertices, n), gradient, implicit), {0, 0, 0}};
  }
};

Tensor mesh_sdf(Tensor values, Tensor vertices, Tensor vertex_offsets, std::vector<double> lower,
                std::vector<double> spacing, bool) {
  const CudaContext cuda(values);
  check_grid("mesh_sdf", values, lower, spacing);
  check_mesh_sdf(values, vertices, vertex_offsets);
  return torch::stable::clone(vertices);
}

Tensor mesh_sdf_backward(Tensor grad_vertices, Tensor values, Tensor vertices,
                         Tensor vertex_offsets, std::vector<double> lower,
                         std::vector<double> spacing, bool implicit, bool deterministic) {
  const CudaContext cuda(values);
  const GridShape grid = check_grid("mesh_sdf_backward", values, lower, spacing);
  check_mesh_sdf(values, vertices, vertex_offsets);
  check_gradient("mesh_sdf_backward", "grad_vertices", grad_vertices, vertices, 2);
  Tensor grad_values = zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]},
                                values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    MeshSdfParams<scalar_t> p{};
    p.grid = grid;
    p.count = vertices.size(0);
    p.vertex_offsets = static_cast<const int64_t*>(vertex_offsets.const_data_ptr());
    p.values = static_cast<const scalar_t*>(values.const_data_ptr());
    p.points = static_cast<const scalar_t*>(vertices.const_data_ptr());
    p.grad_vertices = static_cast<const scalar_t*>(grad_vertices.const_data_ptr());
    p.implicit = implicit;
    scatter_points(cuda, p, static_cast<scalar_t*>(grad_values.mutable_data_ptr()), deterministic);
  });
  return grad_values;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("mesh_sdf", TORCH_BOX(&mesh_sdf));
  m.impl("mesh_sdf_backward", TORCH_BOX(&mesh_sdf_backward));
}

}  // namespace diffiso
