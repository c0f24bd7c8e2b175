// SPDX-License-Identifier: Apache-2.0
// Adds what points or rays give to the samples around them, on the GPU. `Source` is a params struct:
//   kTerms      how many samples one may give to, each at an offset of its own from the cell
//   count       N
//   gives(n)    whether n gives anything
//   cell(n)     the flat index of its cell's lower node, if it does
//   terms(n)    -> what it gives: value(k) to node(k), or nothing where that is negative
//
// Atomic: one thread a point. Deterministic: points are sorted by cell (stable, so that a cell
// keeps their order), and in a round for every term the first point of each cell adds up its whole
// cell. A node is a given term of one cell only, so within a round no two threads meet.
#pragma once

#include "common/launch.cuh"
#include "common/scan.cuh"
#include "core/trilinear.h"

namespace diffiso {

constexpr int kScatterBlockSize = 256;

template <typename Source, typename scalar_t>
struct ScatterParams {
  Source source;
  scalar_t* grad_values;  // as the values that the terms' nodes index
  int64_t* cells;         // (N,) each point's cell or -1, then sorted
  int64_t* order;         // (N,) points in the order of their cells
  int term;               // of this round
};

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_atomic_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.source.count; n += step) {
    if (!p.source.gives(n)) continue;
    const auto terms = p.source.terms(n);
#pragma unroll
    for (int k = 0; k < Source::kTerms; ++k) {
      const int64_t node = terms.node(k);
      if (node >= 0) atomicAdd(p.grad_values + node, terms.value(k));
    }
  }
}

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_cells_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < p.source.count; n += step) {
    p.cells[n] = p.source.gives(n) ? p.source.cell(n) : -1;
    p.order[n] = n;
  }
}

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kScatterBlockSize)
    scatter_ordered_kernel(ScatterParams<Source, scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t count = p.source.count;
  for (int64_t s = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; s < count; s += step) {
    if (p.cells[s] < 0 || (s > 0 && p.cells[s] == p.cells[s - 1])) continue;
    int64_t node = -1;
    scalar_t sum = 0;
    for (int64_t same = s; same < count && p.cells[same] == p.cells[s]; ++same) {
      const auto terms = p.source.terms(p.order[same]);
      if (terms.node(p.term) < 0) continue;
      node = terms.node(p.term);
      sum += terms.value(p.term);
    }
    if (node >= 0) p.grad_values[node] += sum;
  }
}

template <typename Source, typename scalar_t>
void scatter_terms(const CudaContext& cuda, const Source& source, scalar_t* grad_values,
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
  for (p.term = 0; p.term < Source::kTerms; ++p.term) {
    launch(scatter_ordered_kernel<Source, scalar_t>, grid, kScatterBlockSize, 0, cuda.stream, p);
  }
}

// The corners of a stencil, and what they receive.
template <typename Stencil, typename scalar_t>
struct CornerTerms {
  Stencil stencil;
  InterpolateBackward<scalar_t> back;
  const scalar_t* values;

  DIFFISO_HD int64_t node(int corner) const {
    const int64_t node = stencil.target(values, corner);
    return stencil.is_absent(node) ? -1 : node;
  }
  DIFFISO_HD scalar_t value(int corner) const { return back.corner(stencil, corner); }
};

// Points, by a params struct with count, values, stencil(n) and pull_back(n, stencil).
template <typename Points>
struct PointTerms {
  static constexpr int kTerms = 8;
  Points points;
  int64_t count;

  DIFFISO_HD static bool gives(int64_t) { return true; }
  DIFFISO_HD int64_t cell(int64_t n) const { return points.stencil(n).cell_id; }
  DIFFISO_HD auto terms(int64_t n) const {
    const auto stencil = points.stencil(n);
    return CornerTerms{stencil, points.pull_back(n, stencil), points.values};
  }
};

template <typename Points, typename scalar_t>
void scatter_points(const CudaContext& cuda, const Points& points, scalar_t* grad_values,
                    bool deterministic) {
  scatter_terms(cuda, PointTerms<Points>{points, points.count}, grad_values, deterministic);
}

}  // namespace diffiso
