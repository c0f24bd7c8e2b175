// SPDX-License-Identifier: Apache-2.0
// Marching cubes on bricks on the GPU, the same steps as on the CPU and the same output, in order.
//   pack:  a warp a brick, four ballots a word; the only kernel that reads all samples
//   cells: a thread a word, as in all that follow: which cells have all eight nodes
//   count: crossings by population count, faces by table; ranks by sums over a brick's lanes
//   scan:  prefix sums over bricks, then the one read-back: totals, and whether the level was NaN
//   emit:  vertices, then faces, whose vertices' ids are prefix sums and counts of bits
// Nothing is sorted, hashed or added with atomics: the output is the same in every run.
// Scratch: 448 bytes a brick of 512 samples.
#include "cuda/marching_cubes_bricks.cuh"

#include "common/checks.h"

namespace diffiso {
namespace {

std::tuple<Tensor, Tensor, Tensor> marching_cubes_bricks(
    Tensor values, Tensor table, Tensor coordinates, Tensor level, std::vector<int64_t> nodes,
    std::vector<double> lower, std::vector<double> spacing, bool int32_faces, bool with_edges) {
  const CudaContext cuda(values);
  const BrickShape bricks =
      check_marching_cubes_bricks(values, table, coordinates, level, nodes, lower, spacing);
  const int64_t count = bricks.count, words = kBrickSize * count;
  const DType dtype = compute_dtype(values.scalar_type());
  const DType index = int32_faces ? DType::Int : DType::Long;
  const int64_t scratch_bytes =
      8 * (6 * words + 2 * (count + 1)) + sizeof(MarchingCubesTotals) + 2 * 3 * words;
  Tensor scratch = cuda.scratch(scratch_bytes);
  char* next = static_cast<char*>(scratch.mutable_data_ptr());

  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    using Params = MarchingCubesBricksParams<value_t, scalar_t>;
    Params p{};
    p.bricks = bricks;
    p.values = static_cast<const value_t*>(values.const_data_ptr());
    p.level = static_cast<const scalar_t*>(level.const_data_ptr());
    p.inside = part_of<uint64_t>(next, words);
    p.present = part_of<uint64_t>(next, words);
    p.cells = part_of<uint64_t>(next, words);
    p.crossed = part_of<uint64_t>(next, 3 * words);
    p.vertex_begins = part_of<int64_t>(next, count + 1);
    p.face_begins = part_of<int64_t>(next, count + 1);
    p.totals = part_of<MarchingCubesTotals>(next, 1);
    p.before = part_of<uint16_t>(next, 3 * words);
    // The counts one past the last brick are zero, so that its prefix sum is the total.
    fill_zero(p.vertex_begins + count, 8, cuda.stream);
    fill_zero(p.face_begins + count, 8, cuda.stream);

    const dim3 by_warp = grid_for(count * kWarpSize, kBlockSize);
    const dim3 by_word = grid_for(words, kBlockSize);
    launch(marching_cubes_bricks_pack_kernel<value_t, scalar_t>, by_warp, kBlockSize, 0,
           cuda.stream, p);
    launch(marching_cubes_bricks_cells_kernel<Params>, by_word, kBlockSize, 0, cuda.stream, p);
    launch(marching_cubes_bricks_count_kernel<Params>, by_word, kBlockSize, 0, cuda.stream, p);
    exclusive_sum(cuda, p.vertex_begins, p.vertex_begins, count + 1);
    exclusive_sum(cuda, p.face_begins, p.face_begins, count + 1);
    launch(marching_cubes_bricks_totals_kernel<value_t, scalar_t>, dim3(1), kWarpSize, 0,
           cuda.stream, p);
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
      launch(marching_cubes_bricks_vertices_kernel<value_t, scalar_t>, by_word, kBlockSize, 0,
             cuda.stream, p);
      launch(int32_faces ? marching_cubes_bricks_faces_kernel<int32_t, Params>
                         : marching_cubes_bricks_faces_kernel<int64_t, Params>,
             by_word, kBlockSize, 0, cuda.stream, p);
    }
    return std::tuple{vertices, faces, edges};
  });
}

std::tuple<Tensor, Tensor> marching_cubes_bricks_backward(Tensor grad_vertices, Tensor values,
                                                          Tensor table, Tensor coordinates,
                                                          Tensor level, Tensor edges,
                                                          std::vector<int64_t> nodes,
                                                          std::vector<double> spacing) {
  const CudaContext cuda(values);
  const BrickShape bricks = check_marching_cubes_bricks_backward(
      grad_vertices, values, table, coordinates, level, edges, nodes, spacing);
  const DType dtype = compute_dtype(values.scalar_type());
  Tensor grad_values = zeros_on(values, {bricks.count, kBrickSize, kBrickSize, kBrickSize}, dtype);
  Tensor grad_level = zeros_on(values, {1}, dtype);
  const int64_t count = edges.numel();
  if (count == 0) return {grad_values, grad_level};
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    using Params = MarchingCubesBricksBackwardParams<value_t, scalar_t>;
    Params p{};
    p.bricks = bricks;
    p.count = count;
    p.grad_vertices = static_cast<const scalar_t*>(grad_vertices.const_data_ptr());
    p.values = static_cast<const value_t*>(values.const_data_ptr());
    p.level = static_cast<const scalar_t*>(level.const_data_ptr());
    p.edges = static_cast<const int64_t*>(edges.const_data_ptr());
    p.grad_values = static_cast<scalar_t*>(grad_values.mutable_data_ptr());
    p.grad_level = static_cast<scalar_t*>(grad_level.mutable_data_ptr());
    for (p.axis = 0; p.axis < 3; ++p.axis) {
      for (p.end = 0; p.end < 2; ++p.end) {
        launch(marching_cubes_backward_values_kernel<Params>, grid_for(count, kBlockSize),
               kBlockSize, 0, cuda.stream, p);
      }
    }
    p.blocks = static_cast<int>(std::clamp<int64_t>(ceil_div(count, 8 * kBlockSize), 1, 512));
    Tensor partial = empty_on(values, {p.blocks}, DType::Double);
    p.partial_level = static_cast<double*>(partial.mutable_data_ptr());
    launch(marching_cubes_bricks_backward_level_kernel<value_t, scalar_t>,
           dim3(static_cast<unsigned>(p.blocks)), kBlockSize, 0, cuda.stream, p);
    launch(marching_cubes_bricks_backward_level_sum_kernel<value_t, scalar_t>, dim3(1), kBlockSize,
           0, cuda.stream, p);
  });
  return {grad_values, grad_level};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("marching_cubes_bricks", TORCH_BOX(&marching_cubes_bricks));
  m.impl("marching_cubes_bricks_backward", TORCH_BOX(&marching_cubes_bricks_backward));
}

}  // namespace diffiso
