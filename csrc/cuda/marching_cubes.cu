// SPDX-License-Identifier: Apache-2.0
// Marching cubes on the GPU, the same steps as on the CPU and the same output, in order.
//   pack:  a warp a row, two ballots a word of 64 samples; the only kernel that reads all samples
//   count: some lanes a row, a word each; crossings by population count, faces by table
//   scan:  prefix sums over rows, then the one read-back: totals, and whether a level was NaN
//   emit:  the same lanes a row; ranks within the row come from sums over its lanes
// If packing saw a NaN, two more kernels make the words of present cells; else they return at once.
// Nothing is sorted, hashed or added with atomics: the output is the same in every run.
// Scratch: 3/8 byte a sample, two thirds of it touched only after a NaN, and 32 bytes a row.
#include "cuda/marching_cubes.cuh"

#include "common/checks.h"

namespace diffiso {
namespace {

// A power of two of lanes, about as many as a row has words.
int lanes_for(int64_t words) {
  int lanes = 1;
  while (lanes < kWarpSize && lanes < words) lanes *= 2;
  return lanes;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes(
    Tensor values, Tensor level, std::vector<double> lower, std::vector<double> spacing,
    bool close_boundary, bool int32_faces, bool with_edges) {
  const CudaContext cuda(values);
  const GridShape grid = check_marching_cubes(values, level, lower, spacing);
  const Lattice lattice = make_lattice(grid, close_boundary);
  const int64_t rows = lattice.rows(), words = rows * lattice.words;
  const DType dtype = compute_dtype(values.scalar_type());
  const DType index = int32_faces ? DType::Int : DType::Long;
  Tensor vertex_offsets = zeros_on(values, {grid.batch + 1}, DType::Long);
  Tensor face_offsets = zeros_on(values, {grid.batch + 1}, DType::Long);
  if (rows == 0) {
    return {empty_on(values, {0, 3}, dtype), empty_on(values, {0, 3}, index),
            empty_on(values, {0}, DType::Long), vertex_offsets, face_offsets};
  }
  const int64_t scratch_bytes =
      8 * (3 * words + (3 * rows + 1) + (rows + 1) + 1) + sizeof(MarchingCubesTotals);
  Tensor scratch = cuda.scratch(scratch_bytes);
  char* next = static_cast<char*>(scratch.mutable_data_ptr());

  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    using Params = MarchingCubesParams<value_t, scalar_t>;
    Params p{};
    p.grid = grid;
    p.lattice = lattice;
    p.lanes = lanes_for(lattice.words);
    p.values = static_cast<const value_t*>(values.const_data_ptr());
    p.level = static_cast<const scalar_t*>(level.const_data_ptr());
    p.inside = part_of<uint64_t>(next, words);
    p.present = part_of<uint64_t>(next, words);
    p.cells = part_of<uint64_t>(next, words);
    p.edge_begins = part_of<int64_t>(next, 3 * rows + 1);
    p.face_begins = part_of<int64_t>(next, rows + 1);
    p.nan_seen = part_of<int32_t>(next, 2);
    p.totals = part_of<MarchingCubesTotals>(next, 1);
    p.vertex_offsets = static_cast<int64_t*>(vertex_offsets.mutable_data_ptr());
    p.face_offsets = static_cast<int64_t*>(face_offsets.mutable_data_ptr());
    // The counts one past the last row are zero, so that its prefix sum is the total.
    fill_zero(p.edge_begins + 3 * rows, 8, cuda.stream);
    fill_zero(p.face_begins + rows, 16 + sizeof(MarchingCubesTotals), cuda.stream);

    const dim3 by_warp = grid_for(rows * kWarpSize, kBlockSize);
    const dim3 by_lane = grid_for(rows * p.lanes, kBlockSize);
    launch(marching_cubes_pack_kernel<value_t, scalar_t>, by_warp, kBlockSize, 0, cuda.stream, p);
    launch(marching_cubes_present_kernel<value_t, scalar_t>, by_warp, kBlockSize, 0, cuda.stream,
           p);
    launch(marching_cubes_cells_kernel<Params>, by_lane, kBlockSize, 0, cuda.stream, p);
    launch(marching_cubes_count_kernel<Params>, by_lane, kBlockSize, 0, cuda.stream, p);
    exclusive_sum(cuda, p.edge_begins, p.edge_begins, 3 * rows + 1);
    exclusive_sum(cuda, p.face_begins, p.face_begins, rows + 1);
    launch(marching_cubes_totals_kernel<value_t, scalar_t>, dim3(1), kBlockSize, 0, cuda.stream, p);
    MarchingCubesTotals total{};
    copy_to_host(&total, p.totals, 1, cuda.stream);
    check_level_is_number(total.nan_level != 0);
    check_index_range(total.vertices, int32_faces);

    Tensor vertices = empty_on(values, {total.vertices, 3}, dtype);
    Tensor faces = empty_on(values, {total.faces, 3}, index);
    Tensor edges = empty_on(values, {with_edges ? total.vertices : 0}, DType::Long);
    p.vertices = static_cast<scalar_t*>(vertices.mutable_data_ptr());
    p.edges = with_edges ? static_cast<int64_t*>(edges.mutable_data_ptr()) : nullptr;
    p.faces = faces.mutable_data_ptr();
    if (total.vertices > 0) {
      launch(marching_cubes_vertices_kernel<value_t, scalar_t>, by_lane, kBlockSize, 0, cuda.stream,
             p);
      launch(int32_faces ? marching_cubes_faces_kernel<int32_t, Params>
                         : marching_cubes_faces_kernel<int64_t, Params>,
             by_lane, kBlockSize, 0, cuda.stream, p);
    }
    return std::tuple{vertices, faces, edges, vertex_offsets, face_offsets};
  });
}

std::tuple<Tensor, Tensor> marching_cubes_backward(Tensor grad_vertices, Tensor values,
                                                   Tensor level, Tensor edges,
                                                   Tensor vertex_offsets,
                                                   std::vector<double> spacing,
                                                   bool close_boundary) {
  const CudaContext cuda(values);
  const GridShape grid =
      check_marching_cubes_backward(grad_vertices, values, level, edges, vertex_offsets, spacing);
  const DType dtype = compute_dtype(values.scalar_type());
  Tensor grad_values =
      zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]}, dtype);
  Tensor grad_level = zeros_on(values, {grid.batch}, dtype);
  const int64_t count = edges.numel();
  if (count == 0) return {grad_values, grad_level};
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    using Params = MarchingCubesBackwardParams<value_t, scalar_t>;
    Params p{};
    p.grid = grid;
    p.lattice = make_lattice(grid, close_boundary);
    p.count = count;
    p.grad_vertices = static_cast<const scalar_t*>(grad_vertices.const_data_ptr());
    p.values = static_cast<const value_t*>(values.const_data_ptr());
    p.level = static_cast<const scalar_t*>(level.const_data_ptr());
    p.edges = static_cast<const int64_t*>(edges.const_data_ptr());
    p.vertex_offsets = static_cast<const int64_t*>(vertex_offsets.const_data_ptr());
    p.grad_values = static_cast<scalar_t*>(grad_values.mutable_data_ptr());
    p.grad_level = static_cast<scalar_t*>(grad_level.mutable_data_ptr());
    for (p.axis = 0; p.axis < 3; ++p.axis) {
      for (p.end = 0; p.end < 2; ++p.end) {
        launch(marching_cubes_backward_values_kernel<Params>, grid_for(count, kBlockSize),
               kBlockSize, 0, cuda.stream, p);
      }
    }
    p.blocks =
        static_cast<int>(std::clamp<int64_t>(ceil_div(count, grid.batch * 8 * kBlockSize), 1, 512));
    Tensor partial = empty_on(values, {grid.batch * p.blocks}, DType::Double);
    p.partial_level = static_cast<double*>(partial.mutable_data_ptr());
    const dim3 by_part(static_cast<unsigned>(grid.batch * p.blocks));
    launch(marching_cubes_backward_level_kernel<value_t, scalar_t>, by_part, kBlockSize, 0,
           cuda.stream, p);
    launch(marching_cubes_backward_level_sum_kernel<value_t, scalar_t>,
           dim3(static_cast<unsigned>(grid.batch)), kBlockSize, 0, cuda.stream, p);
  });
  return {grad_values, grad_level};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("marching_cubes", TORCH_BOX(&marching_cubes));
  m.impl("marching_cubes_backward", TORCH_BOX(&marching_cubes_backward));
}

}  // namespace diffiso
