// SPDX-License-Identifier: Apache-2.0
// Marching cubes on bricks on the CPU. Sweeps over the bricks as they are stored: pack the samples'
// signs into words (the only one that reads them all), find the cells whose nodes are all present,
// count what every brick owns, and, after a prefix sum, emit vertices and faces. All but the
// emitted vertices works on bits, and a brick asks only those around it.
//
// Memory: 448 bytes a brick of 512 samples. Output order does not depend on the number of threads.
#include "cpu/marching_cubes_bricks.h"

#include "common/checks.h"
#include "cpu/parallel.h"

namespace diffiso {
namespace {

constexpr int64_t kBricksPerTask = 64;

// Turns counts into where each brick begins; returns the total.
int64_t scan(int64_t* counts, int64_t bricks) {
  int64_t total = 0;
  for (int64_t brick = 0; brick < bricks; ++brick) {
    const int64_t here = total;
    total += counts[brick];
    counts[brick] = here;
  }
  counts[bricks] = total;
  return total;
}

std::tuple<Tensor, Tensor, Tensor> marching_cubes_bricks(
    Tensor values, Tensor table, Tensor coordinates, Tensor level, std::vector<int64_t> nodes,
    std::vector<double> lower, std::vector<double> spacing, bool int32_faces, bool with_edges) {
  MarchingCubesBricks p{};
  p.bricks = check_marching_cubes_bricks(values, table, coordinates, level, nodes, lower, spacing);
  dispatch_floating(level.scalar_type(), [&]<typename scalar_t>() {
    check_level_is_number(std::isnan(*static_cast<const scalar_t*>(level.const_data_ptr())));
  });
  p.dtype = values.scalar_type();
  p.values = values.const_data_ptr();
  p.level = level.const_data_ptr();
  p.int32_faces = int32_faces;
  const int64_t count = p.bricks.count;
  const BrickLoops& loops = brick_loops();

  Tensor masks = empty_on(values, {6, count, kBrickSize}, DType::Long);
  Tensor before = empty_on(values, {count, 3, kBrickSize}, DType::Short);
  Tensor begins = empty_on(values, {2, count + 1}, DType::Long);
  advise_large_pages(masks);
  p.inside = static_cast<uint64_t*>(masks.mutable_data_ptr());
  p.present = p.inside + kBrickSize * count;
  p.cells = p.present + kBrickSize * count;
  p.crossed = p.cells + kBrickSize * count;
  p.before = static_cast<uint16_t*>(before.mutable_data_ptr());
  p.vertex_begins = static_cast<int64_t*>(begins.mutable_data_ptr());
  p.face_begins = p.vertex_begins + count + 1;
  for (const auto step : {loops.pack, loops.find_cells, loops.count}) {
    parallel_pieces(count, kBricksPerTask,
                    [&](int64_t begin, int64_t end) { step(p, begin, end); });
  }

  const int64_t vertex_count = scan(p.vertex_begins, count);
  const int64_t face_count = scan(p.face_begins, count);
  check_index_range(vertex_count, int32_faces);
  Tensor vertices = empty_on(values, {vertex_count, 3}, compute_dtype(p.dtype));
  Tensor faces = empty_on(values, {face_count, 3}, int32_faces ? DType::Int : DType::Long);
  Tensor edges = empty_on(values, {with_edges ? vertex_count : 0}, DType::Long);
  for (const Tensor& output : {vertices, faces, edges}) advise_large_pages(output);
  p.vertices = vertices.mutable_data_ptr();
  p.edges = with_edges ? static_cast<int64_t*>(edges.mutable_data_ptr()) : nullptr;
  p.faces = faces.mutable_data_ptr();
  parallel_pieces(count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    loops.emit_vertices(p, begin, end);
    loops.emit_faces(p, begin, end);
  });
  return {vertices, faces, edges};
}

// Adds what vertices pass back, without atomics and in one order: a round for each axis and end of
// an edge. A node is that end of one edge only, so that within a round no two vertices meet. What
// they pass is worked out once, before the rounds: that takes longer than all of them.
std::tuple<Tensor, Tensor> marching_cubes_bricks_backward(Tensor grad_vertices, Tensor values,
                                                          Tensor table, Tensor coordinates,
                                                          Tensor level, Tensor edges,
                                                          std::vector<int64_t> nodes,
                                                          std::vector<double> spacing) {
  const BrickShape bricks = check_marching_cubes_bricks_backward(
      grad_vertices, values, table, coordinates, level, edges, nodes, spacing);
  const DType dtype = compute_dtype(values.scalar_type());
  const int64_t count = edges.numel();
  Tensor grad_values = empty_on(values, {bricks.count, kBrickSize, kBrickSize, kBrickSize}, dtype);
  Tensor grad_level = zeros_on(values, {1}, dtype);
  Tensor scratch = empty_on(values, {count, sizeof(VertexPullBack<double>)}, DType::Byte);
  for (const Tensor& fresh : {grad_values, scratch}) advise_large_pages(fresh);
  torch::stable::zero_(grad_values);
  constexpr int64_t kGrain = 4096;  // fixed, so that sums do not depend on the number of threads
  std::vector<double> level_sums((count + kGrain - 1) / kGrain);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* ids = static_cast<const int64_t*>(edges.const_data_ptr());
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const auto* grad = static_cast<const scalar_t*>(grad_vertices.const_data_ptr());
    const scalar_t at_level = *static_cast<const scalar_t*>(level.const_data_ptr());
    auto* passed = static_cast<VertexPullBack<scalar_t>*>(scratch.mutable_data_ptr());
    parallel_pieces(count, kGrain, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t v = begin; v < end; ++v) {
        passed[v] =
            pull_back_vertex<scalar_t, value_t>(bricks, ids[v], in, at_level, load_vec3(grad, v));
        sum += passed[v].level;
      }
      level_sums[begin / kGrain] = sum;
    });
    auto* out = static_cast<scalar_t*>(grad_values.mutable_data_ptr());
    for (int round = 0; round < 6; ++round) {
      const int axis = round / 2, side = round % 2;
      parallel_pieces(count, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < end; ++v) {
          const VertexPullBack<scalar_t>& back = passed[v];
          if (back.axis == axis && back.node[side] >= 0) out[back.node[side]] += back.value[side];
        }
      });
    }
    double sum = 0;
    for (const double part : level_sums) sum += part;
    *static_cast<scalar_t*>(grad_level.mutable_data_ptr()) = static_cast<scalar_t>(sum);
  });
  return {grad_values, grad_level};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("marching_cubes_bricks", TORCH_BOX(&marching_cubes_bricks));
  m.impl("marching_cubes_bricks_backward", TORCH_BOX(&marching_cubes_bricks_backward));
}

}  // namespace diffiso
