// SPDX-License-Identifier: Apache-2.0
// The kernels of marching cubes on bricks; marching_cubes_bricks.cu says in what order.
#pragma once

#include "core/marching_cubes_bricks.h"
#include "cuda/marching_cubes.cuh"

namespace diffiso {

template <typename value_t, typename scalar_t>
struct MarchingCubesBricksParams {
  BrickShape bricks;
  const value_t* __restrict__ values;  // (R, 8, 8, 8)
  const scalar_t* __restrict__ level;  // (1,)
  uint64_t* inside;                    // (R, 8) signs
  uint64_t* present;                   // (R, 8) nodes that are no NaN
  uint64_t* cells;                     // (R, 8) cells without an absent node
  uint64_t* crossed;                   // (R, 3, 8) crossed edges by axis
  uint16_t* before;                    // (R, 3, 8) as in BrickVertices
  int64_t* vertex_begins;              // (R + 1,) counts, then prefix sums
  int64_t* face_begins;                // (R + 1,) likewise
  MarchingCubesTotals* totals;         // (1,)
  scalar_t* vertices;                  // (V, 3)
  int64_t* edges;                      // (V,) or null
  void* faces;                         // (F, 3)

  __device__ int64_t words() const { return kBrickSize * bricks.count; }
};

// Two ballots a word of 64 samples; the loads of half a brick are in flight together.
template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_bricks_pack_kernel(MarchingCubesBricksParams<value_t, scalar_t> p) {
  constexpr int kAtOnce = 4;  // words
  const int lane = threadIdx.x % kWarpSize;
  const scalar_t level = *p.level;
  const int64_t step = int64_t{gridDim.x} * kWarpsPerBlock;
  for (int64_t brick = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarpSize;
       brick < p.bricks.count; brick += step) {
    const value_t* in = p.values + kBrickNodes * brick;
    for (int first = 0; first < kBrickSize; first += kAtOnce) {
      scalar_t value[2 * kAtOnce];
#pragma unroll
      for (int half = 0; half < 2 * kAtOnce; ++half) {
        value[half] = static_cast<scalar_t>(in[64 * first + kWarpSize * half + lane]);
      }
      uint64_t inside = 0, present = 0;
#pragma unroll
      for (int word = 0; word < kAtOnce; ++word) {
        const scalar_t low = value[2 * word], high = value[2 * word + 1];
        const uint64_t in_low = __ballot_sync(kAllLanes, low < level);
        const uint64_t in_high = __ballot_sync(kAllLanes, high < level);
        const uint64_t is_low = __ballot_sync(kAllLanes, low == low);
        const uint64_t is_high = __ballot_sync(kAllLanes, high == high);
        if (lane == word) {
          inside = in_low | in_high << 32;
          present = is_low | is_high << 32;
        }
      }
      if (lane < kAtOnce) {
        const int x = first + lane;
        present &= countable_nodes(p.bricks, brick, x);
        p.inside[kBrickSize * brick + x] = inside & present;
        p.present[kBrickSize * brick + x] = present;
      }
    }
  }
}

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_bricks_cells_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t w = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; w < p.words(); w += step) {
    const BrickOctant<1> above(p.bricks, w / kBrickSize);
    const int x = static_cast<int>(w % kBrickSize);
    p.cells[w] =
        present_cells(moved_plane(p.present, above, x), moved_plane(p.present, above, x + 1));
  }
}

// The signs around the cells of word x of a brick.
template <typename Params>
__device__ CellWord brick_cells(const Params& p, const BrickOctant<1>& above, int x) {
  return load_cells(moved_plane(p.inside, above, x), moved_plane(p.inside, above, x + 1),
                    p.cells[kBrickSize * above.brick[0] + x]);
}

// A thread a word, eight to a brick; all threads of a block make the same number of steps, so that
// they can meet in sums over a brick's lanes.
template <typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_bricks_count_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.x; first < p.words(); first += step) {
    const int64_t w = first + threadIdx.x, brick = w / kBrickSize;
    const int x = static_cast<int>(w % kBrickSize);
    uint64_t crossed[3] = {0, 0, 0};
    int64_t faces = 0;
    if (w < p.words()) {
      const CellWord cells = brick_cells(p, BrickOctant<1>(p.bricks, brick), x);
      const BrickOctant<-1> below(p.bricks, brick);
      const MovedPlane here = moved_plane(p.cells, below, x),
                       back = moved_plane(p.cells, below, x - 1);
      for (int axis = 0; axis < 3; ++axis) {
        // A brick that stands nowhere has no present node, and so no edge.
        crossed[axis] = crossed_edges(cells, here, back, axis) & p.present[w];
      }
      faces = count_triangles(cells);
    }
    int64_t vertices = 0, all_faces = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t before = rank_in_row(popcount(crossed[axis]), kBrickSize, vertices);
      if (w >= p.words()) continue;
      const int64_t at = (3 * brick + axis) * kBrickSize + x;
      p.crossed[at] = crossed[axis];
      p.before[at] = static_cast<uint16_t>(before);
    }
    rank_in_row(faces, kBrickSize, all_faces);
    if (w < p.words() && x == 0) {
      p.vertex_begins[brick] = vertices;
      p.face_begins[brick] = all_faces;
    }
  }
}

// After the prefix sums: what the host reads back.
template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kWarpSize)
    marching_cubes_bricks_totals_kernel(MarchingCubesBricksParams<value_t, scalar_t> p) {
  if (threadIdx.x != 0) return;
  const scalar_t level = *p.level;
  *p.totals = {p.vertex_begins[p.bricks.count], p.face_begins[p.bricks.count], level != level};
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_bricks_vertices_kernel(MarchingCubesBricksParams<value_t, scalar_t> p) {
  const scalar_t level = *p.level;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t w = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; w < p.words(); w += step) {
    const int64_t brick = w / kBrickSize;
    if (p.vertex_begins[brick] == p.vertex_begins[brick + 1]) continue;
    const BrickOctant<1> above(p.bricks, brick);
    const int x = static_cast<int>(w % kBrickSize);
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t at = (3 * brick + axis) * kBrickSize + x;
      int64_t id = p.vertex_begins[brick] + p.before[at];
      for (uint64_t crossed = p.crossed[at]; crossed != 0; crossed &= crossed - 1, ++id) {
        const BrickEdge edge = brick_edge(p.bricks, above, x, lowest_bit(crossed), axis);
        store_vec3(p.vertices, id,
                   edge_vertex<scalar_t, value_t>(p.bricks, edge, axis, p.values, level));
        if (p.edges != nullptr) p.edges[id] = edge_id(p.bricks, edge.position, axis);
      }
    }
  }
}

template <typename index_t, typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_bricks_faces_kernel(Params p) {
  const BrickVertices vertices{p.crossed, p.before, p.vertex_begins};
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.x; first < p.words(); first += step) {
    const int64_t w = first + threadIdx.x, brick = w / kBrickSize;
    const int x = static_cast<int>(w % kBrickSize);
    const bool active = w < p.words() && p.face_begins[brick] != p.face_begins[brick + 1];
    if (!__any_sync(kAllLanes, active)) continue;
    const BrickOctant<1> above(p.bricks, active ? brick : 0);
    CellWord cells{};
    if (active) cells = brick_cells(p, above, x);
    int64_t next = active ? p.face_begins[brick] : 0;
    const int64_t face = rank_in_row(count_triangles(cells), kBrickSize, next);
    write_faces(cells, BrickEdgeIds<index_t>{vertices, above, x, 0},
                static_cast<index_t*>(p.faces) + 3 * face);
  }
}

template <typename value_t, typename scalar_t>
struct MarchingCubesBricksBackwardParams {
  BrickShape bricks;
  int64_t count;                               // V
  const scalar_t* __restrict__ grad_vertices;  // (V, 3)
  const value_t* __restrict__ values;          // (R, 8, 8, 8)
  const scalar_t* __restrict__ level;          // (1,)
  const int64_t* __restrict__ edges;           // (V,)
  scalar_t* grad_values;                       // (R, 8, 8, 8)
  double* partial_level;                       // (blocks,)
  scalar_t* grad_level;                        // (1,)
  int axis, end, blocks;                       // of this round; of the sum over vertices

  __device__ VertexPullBack<scalar_t> pull_back(int64_t v) const {
    return pull_back_vertex<scalar_t, value_t>(bricks, edges[v], values, *level,
                                               load_vec3(grad_vertices, v));
  }
};

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_bricks_backward_level_kernel(
    MarchingCubesBricksBackwardParams<value_t, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * kBlockSize;
  double sum = 0;
  for (int64_t v = int64_t{blockIdx.x} * kBlockSize + threadIdx.x; v < p.count; v += step) {
    sum += p.pull_back(v).level;
  }
  sum = block_sum<kBlockSize>(sum);
  if (threadIdx.x == 0) p.partial_level[blockIdx.x] = sum;
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_bricks_backward_level_sum_kernel(
    MarchingCubesBricksBackwardParams<value_t, scalar_t> p) {
  double sum = 0;
  for (int n = threadIdx.x; n < p.blocks; n += kBlockSize) sum += p.partial_level[n];
  sum = block_sum<kBlockSize>(sum);
  if (threadIdx.x == 0) *p.grad_level = static_cast<scalar_t>(sum);
}

}  // namespace diffiso
