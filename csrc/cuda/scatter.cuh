// SPDX-License-Identifier: Apache-2.0
// Adds to the eight samples around points, on the GPU. `Source` is a params struct with count,
// values, stencil(n) and pull_back(n, stencil).
//
// Atomic: one thread a point. Deterministic: points are sorted by cell (stable, so that a cell
// keeps their order), and in eight rounds, one a corner, the first point of each cell adds up its
// whole cell. A node is a given corner of one cell only, so within a round no two threads meet.
#pragma once

#include "common/launch.cuh"
#include "common/scan.cuh"
#include "core/trilinear.h"

namespace diffiso {

constexpr int kScatterBlockSize = 256;

template <typename Source, typename scalar_t>
struct ScatterParams {
  Source source;
  scalar_t* grad_values;  // as the values that the stencils' offsets index
  int64_t* cells;         // (N,) each point's cell, then sorted
  int64_t* order;         // (N,) points in the order of their cells
  int corner;             // of this round
};

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_atomic_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.source.count; n += step) {
    const auto stencil = p.source.stencil(n);
    const InterpolateBackward<scalar_t> back = p.source.pull_back(n, stencil);
    for (int corner = 0; corner < 8; ++corner) {
      const int64_t node = stencil.target(p.source.values, corner);
      if (!stencil.is_absent(node)) atomicAdd(p.grad_values + node, back.corner(stencil, corner));
    }
  }
}

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_cells_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.source.count; n += step) {
    p.cells[n] = p.source.stencil(n).cell_id;
    p.order[n] = n;
  }
}

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_ordered_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t count = p.source.count;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < count; s += step) {
    if (s > 0 && p.cells[s] == p.cells[s - 1]) continue;
    int64_t node = -1;
    scalar_t sum = 0;
    for (int64_t same = s; same < count && p.cells[same] == p.cells[s]; ++same) {
      const int64_t n = p.order[same];
      const auto stencil = p.source.stencil(n);
      node = stencil.target(p.source.values, p.corner);
      if (stencil.is_absent(node)) break;
      sum += p.source.pull_back(n, stencil).corner(stencil, p.corner);
    }
    if (node >= 0) p.grad_values[node] += sum;
  }
}

template <typename Source, typename scalar_t>
void scatter_points(const CudaContext& cuda, const Source& source, scalar_t* grad_values,
                    bool deterministic) {
  const int64_t count = source.count;
  if (count == 0) return;
  ScatterParams<Source, scalar_t> p{source, grad_values, nullptr, nullptr, 0};
  const dim3 grid = grid_for(count, kScatterBlockSize);
  if (!deterministic) {
    launch(scatter_atomic_kernel<Source, scalar_t>, grid, kScatterBlockSize, 0, cuda.stream, p);
    return;
  }
  Tensor unsorted = cuda.scratch(2 * count * sizeof(int64_t));
  Tensor sorted = cuda.scratch(2 * count * sizeof(int64_t));
  auto* first = static_cast<int64_t*>(unsorted.mutable_data_ptr());
  auto* second = static_cast<int64_t*>(sorted.mutable_data_ptr());
  p.cells = first;
  p.order = first + count;
  launch(scatter_cells_kernel<Source, scalar_t>, grid, kScatterBlockSize, 0, cuda.stream, p);
  constexpr int kKeyBits = 48;  // more nodes than any memory holds, or its table of bricks covers
  sort_pairs(cuda, first, second, first + count, second + count, count, kKeyBits);
  p.cells = second;
  p.order = second + count;
  for (p.corner = 0; p.corner < 8; ++p.corner) {
    launch(scatter_ordered_kernel<Source, scalar_t>, grid, kScatterBlockSize, 0, cuda.stream, p);
  }
}

}  // namespace diffiso
