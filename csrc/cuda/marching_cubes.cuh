// SPDX-License-Identifier: Apache-2.0
// The kernels of marching cubes; marching_cubes.cu says how they follow each other.
#pragma once

#include "common/launch.cuh"
#include "common/scan.cuh"
#include "core/marching_cubes.h"

namespace diffiso {

constexpr int kBlockSize = 256;
constexpr int kWarpsPerBlock = kBlockSize / kWarpSize;
constexpr unsigned kAllLanes = 0xffffffffu;

// Takes the next `count` elements of a scratch buffer.
template <typename T>
T* part_of(char*& scratch, int64_t count) {
  T* part = reinterpret_cast<T*>(scratch);
  scratch += count * sizeof(T);
  return part;
}

struct MarchingCubesTotals {
  int64_t vertices, faces;
  int64_t nan_level;  // not 0: a level is NaN
};

template <typename value_t, typename scalar_t>
struct MarchingCubesParams {
  GridShape grid;
  Lattice lattice;
  int lanes;                           // of a warp that share a row: a power of two
  const value_t* __restrict__ values;  // (B, X, Y, Z)
  const scalar_t* __restrict__ level;  // (B,)
  uint64_t* inside;                    // (rows, words) signs
  uint64_t* present;            // (rows, words) nodes that are no NaN; written if one was seen
  uint64_t* cells;              // (rows, words) cells without an absent node; likewise
  int32_t* nan_seen;            // (1,)
  int64_t* edge_begins;         // (3 * rows + 1) by row and axis: counts, then prefix sums
  int64_t* face_begins;         // (rows + 1)
  int64_t* vertex_offsets;      // (B + 1,)
  int64_t* face_offsets;        // (B + 1,)
  MarchingCubesTotals* totals;  // (1,)
  scalar_t* vertices;           // (V, 3)
  int64_t* edges;               // (V,) or null
  void* faces;                  // (F, 3)

  __device__ SignWords signs() const { return {inside, *nan_seen != 0 ? cells : nullptr}; }
};

// Which row this thread works on, in steps of whole blocks: `lanes` threads share a row. All
// threads of a block make the same number of steps, so that they can meet in sums over lanes.
template <typename Params>
struct RowSteps {
  int64_t rows, per_block, first, step;
  int lane, place;

  __device__ explicit RowSteps(const Params& p)
      : rows(p.lattice.rows()),
        per_block(kBlockSize / p.lanes),
        first(blockIdx.x * per_block),
        step(gridDim.x * per_block),
        lane(threadIdx.x % p.lanes),
        place(threadIdx.x / p.lanes) {}
};

// Packs one bit a node, 64 nodes of a row to a word, by a warp: bit(value) for the nodes of the
// grid, `padding` for those around it, 0 past the end of a row.
template <typename Params, typename Bit>
__device__ void pack_row(const Params& p, int64_t r, bool padding, uint64_t* words,
                         const Bit& bit) {
  constexpr int kAtOnce = 4;  // words whose loads are in flight together
  const int lane = threadIdx.x % kWarpSize;
  const Row row = row_at(p.lattice, r);
  const int64_t i = row.i - p.lattice.pad, j = row.j - p.lattice.pad;
  const bool real = i >= 0 && i < p.grid.size[0] && j >= 0 && j < p.grid.size[1];
  const auto* in = p.values + (real ? p.grid.node(row.b, i, j, 0) : 0);
  for (int64_t first = 0; first < p.lattice.words; first += kAtOnce) {
    bool bits[2 * kAtOnce];
#pragma unroll
    for (int half = 0; half < 2 * kAtOnce; ++half) {
      const int64_t k = 64 * first + kWarpSize * half + lane, z = k - p.lattice.pad;
      bits[half] = padding && k < p.lattice.size[2];
      if (real && z >= 0 && z < p.grid.size[2]) bits[half] = bit(in[z], row.b);
    }
    uint64_t mine = 0;
#pragma unroll
    for (int word = 0; word < kAtOnce; ++word) {
      const uint64_t low = __ballot_sync(kAllLanes, bits[2 * word]);
      const uint64_t high = __ballot_sync(kAllLanes, bits[2 * word + 1]);
      if (lane == word) mine = low | high << 32;
    }
    if (lane < kAtOnce && first + lane < p.lattice.words) {
      words[r * p.lattice.words + first + lane] = mine;
    }
  }
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_pack_kernel(MarchingCubesParams<value_t, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * kWarpsPerBlock;
  bool nan = false;
  for (int64_t r = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarpSize;
       r < p.lattice.rows(); r += step) {
    pack_row(p, r, false, p.inside, [&](value_t stored, int64_t b) {
      const scalar_t value = static_cast<scalar_t>(stored);
      nan |= value != value;
      return value < p.level[b];
    });
  }
  if (nan) *p.nan_seen = 1;  // whoever writes, writes the same
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_present_kernel(MarchingCubesParams<value_t, scalar_t> p) {
  if (*p.nan_seen == 0) return;
  const int64_t step = int64_t{gridDim.x} * kWarpsPerBlock;
  for (int64_t r = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarpSize;
       r < p.lattice.rows(); r += step) {
    pack_row(p, r, true, p.present, [](value_t stored, int64_t) {
      const scalar_t value = static_cast<scalar_t>(stored);
      return value == value;
    });
  }
}

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_cells_kernel(Params p) {
  if (*p.nan_seen == 0) return;
  const RowSteps<Params> at(p);
  for (int64_t r = at.first + at.place; r < at.rows; r += at.step) {
    const Row row = row_at(p.lattice, r);
    for (int64_t w = at.lane; w < p.lattice.words; w += p.lanes) {
      p.cells[r * p.lattice.words + w] = present_cells(p.present, p.lattice, row, w);
    }
  }
}

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_count_kernel(Params p) {
  const RowSteps<Params> at(p);
  const SignWords signs = p.signs();
  for (int64_t first = at.first; first < at.rows; first += at.step) {
    const int64_t r = first + at.place;
    int64_t counts[4] = {0, 0, 0, 0};
    if (r < at.rows) {
      const Row row = row_at(p.lattice, r);
      for (int64_t w = at.lane; w < p.lattice.words; w += p.lanes) {
        const CellWord cells = load_cells(signs, p.lattice, row, w);
        for (int axis = 0; axis < 3; ++axis) {
          counts[axis] += popcount(own_edges(signs, p.lattice, row, w, cells, axis));
        }
        counts[3] += count_triangles(cells);
      }
    }
    for (int64_t& count : counts) count = warp_inclusive_sum(count, p.lanes);
    if (r < at.rows && at.lane == p.lanes - 1) {
      for (int axis = 0; axis < 3; ++axis) p.edge_begins[3 * r + axis] = counts[axis];
      p.face_begins[r] = counts[3];
    }
  }
}

// After the prefix sums: what the host reads back, and where each grid's part begins.
template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_totals_kernel(MarchingCubesParams<value_t, scalar_t> p) {
  const int64_t rows = p.lattice.rows();
  for (int64_t b = threadIdx.x; b <= p.grid.batch; b += blockDim.x) {
    p.vertex_offsets[b] = p.edge_begins[3 * b * p.lattice.rows_per_grid()];
    p.face_offsets[b] = p.face_begins[b * p.lattice.rows_per_grid()];
    if (b < p.grid.batch && p.level[b] != p.level[b]) p.totals->nan_level = 1;
  }
  if (threadIdx.x != 0) return;
  p.totals->vertices = p.edge_begins[3 * rows];
  p.totals->faces = p.face_begins[rows];
}

// Sum of `value` over the lanes before this one; `total` moves on by the sum over all lanes of the
// row.
__device__ inline int64_t rank_in_row(int64_t value, int lanes, int64_t& total) {
  const int64_t inclusive = warp_inclusive_sum(value, lanes);
  const int64_t rank = total + inclusive - value;
  total += __shfl_sync(kAllLanes, inclusive, lanes - 1, lanes);
  return rank;
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_vertices_kernel(MarchingCubesParams<value_t, scalar_t> p) {
  const RowSteps<MarchingCubesParams<value_t, scalar_t>> at(p);
  const SignWords signs = p.signs();
  for (int64_t first = at.first; first < at.rows; first += at.step) {
    const int64_t r = first + at.place;
    const bool active = r < at.rows && p.edge_begins[3 * r] != p.edge_begins[3 * r + 3];
    if (!__any_sync(kAllLanes, active)) continue;
    const Row row = row_at(p.lattice, active ? r : 0);
    for (int axis = 0; axis < 3; ++axis) {
      int64_t next = active ? p.edge_begins[3 * r + axis] : 0;
      for (int64_t w = at.lane; w < p.lattice.words + at.lane; w += p.lanes) {
        uint64_t crossed = 0;
        if (active && w < p.lattice.words) {
          const CellWord cells = load_cells(signs, p.lattice, row, w);
          crossed = own_edges(signs, p.lattice, row, w, cells, axis);
        }
        int64_t id = rank_in_row(popcount(crossed), p.lanes, next);
        for (; crossed != 0; crossed &= crossed - 1, ++id) {
          const int64_t k = 64 * w + lowest_bit(crossed);
          const GridEdge edge = grid_edge(p.grid, p.lattice, row, k, axis);
          store_vec3(p.vertices, id,
                     edge_vertex<scalar_t, value_t>(p.grid, edge, axis, p.values, p.level[row.b]));
          if (p.edges != nullptr) p.edges[id] = edge_id(p.lattice, row, k, axis);
        }
      }
    }
  }
}

template <typename index_t, typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_faces_kernel(Params p) {
  const RowSteps<Params> at(p);
  const SignWords signs = p.signs();
  for (int64_t first = at.first; first < at.rows; first += at.step) {
    const int64_t r = first + at.place;
    const bool active = r < at.rows && p.face_begins[r] != p.face_begins[r + 1];
    if (!__any_sync(kAllLanes, active)) continue;
    const Row row = row_at(p.lattice, active ? r : 0);
    int64_t next_face = active ? p.face_begins[r] : 0;
    int64_t next_id[8];
    for (int g = 0; g < 8; ++g) {
      next_id[g] =
          p.edge_begins[3 * group_row(p.lattice, row, edge_group(g)).index + edge_group(g).axis];
    }
    for (int64_t w = at.lane; w < p.lattice.words + at.lane; w += p.lanes) {
      const bool mine = active && w < p.lattice.words;
      CellWord cells{};
      if (mine) cells = load_cells(signs, p.lattice, row, w);
      uint64_t crossed[8];
      int64_t begin[8];
      for (int g = 0; g < 8; ++g) {
        crossed[g] = mine ? crossed_edges(signs, p.lattice, row, w, cells, g) : 0;
        begin[g] = rank_in_row(popcount(crossed[g]), p.lanes, next_id[g]);
      }
      const int64_t face = rank_in_row(count_triangles(cells), p.lanes, next_face);
      write_faces(cells, WordEdgeIds<index_t>{crossed, begin},
                  static_cast<index_t*>(p.faces) + 3 * face);
    }
  }
}

template <typename value_t, typename scalar_t>
struct MarchingCubesBackwardParams {
  GridShape grid;
  Lattice lattice;
  int64_t count;                               // V
  const scalar_t* __restrict__ grad_vertices;  // (V, 3)
  const value_t* __restrict__ values;          // (B, X, Y, Z)
  const scalar_t* __restrict__ level;          // (B,)
  const int64_t* __restrict__ edges;           // (V,)
  const int64_t* __restrict__ vertex_offsets;  // (B + 1,)
  scalar_t* grad_values;                       // (B, X, Y, Z)
  double* partial_level;                       // (B, blocks)
  scalar_t* grad_level;                        // (B,)
  int axis, end, blocks;                       // of this round; of a grid's sum over vertices

  __device__ VertexPullBack<scalar_t> pull_back(int64_t v) const {
    return pull_back_vertex<scalar_t, value_t>(grid, lattice, edges[v], values, level,
                                               load_vec3(grad_vertices, v));
  }
};

// One round for each axis and end of an edge: a node is that end of one edge only, so that no two
// threads meet, and the order of additions is that of the rounds.
template <typename Params>
__global__ void __launch_bounds__(kBlockSize) marching_cubes_backward_values_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t v = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; v < p.count; v += step) {
    if (p.edges[v] % 3 != p.axis) continue;
    const auto back = p.pull_back(v);
    if (back.node[p.end] >= 0) p.grad_values[back.node[p.end]] += back.value[p.end];
  }
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_backward_level_kernel(MarchingCubesBackwardParams<value_t, scalar_t> p) {
  const int64_t b = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const int64_t step = int64_t{p.blocks} * kBlockSize;
  double sum = 0;
  for (int64_t v = p.vertex_offsets[b] + block * kBlockSize + threadIdx.x;
       v < p.vertex_offsets[b + 1]; v += step) {
    sum += p.pull_back(v).level;
  }
  sum = block_sum<kBlockSize>(sum);
  if (threadIdx.x == 0) p.partial_level[blockIdx.x] = sum;
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBlockSize)
    marching_cubes_backward_level_sum_kernel(MarchingCubesBackwardParams<value_t, scalar_t> p) {
  double sum = 0;
  for (int n = threadIdx.x; n < p.blocks; n += kBlockSize) {
    sum += p.partial_level[int64_t{blockIdx.x} * p.blocks + n];
  }
  sum = block_sum<kBlockSize>(sum);
  if (threadIdx.x == 0) p.grad_level[blockIdx.x] = static_cast<scalar_t>(sum);
}

}  // namespace diffiso
