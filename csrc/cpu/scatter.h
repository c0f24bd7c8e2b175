// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/trilinear.h"
#include "cpu/parallel.h"

namespace diffiso {

// Points of one grid of a dense batch.
template <typename scalar_t>
struct PointsOfGrid {
  const GridShape& grid;
  int64_t batch;
  const scalar_t* points;

  DIFFISO_HD GridStencil<scalar_t> stencil(int64_t n) const {
    return {grid, batch, load_vec3(points, n)};
  }
};

// Adds to the eight samples around each of some points of one grid, without atomics: a task owns a
// slab of x-planes, looks through all points and adds those that reach into it. Every node is added
// to in the order of the points, so the sums do not depend on the number of threads. `x` is the
// grid's first axis, `source` has the points and their stencil(n), and `pull_back(n, stencil)` gives
// the InterpolateBackward of point n.
template <typename scalar_t, typename Source, typename PullBack>
void scatter_points(const AxisNodes& x, const Source& source, int64_t begin, int64_t end,
                    const scalar_t* values, const PullBack& pull_back, scalar_t* grad_values) {
  if (begin == end) return;
  const int64_t planes = x.count;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slabs = end - begin < 4096 ? 1 : std::min<int64_t>(planes, threads);
  parallel_tasks(slabs, [&](int64_t slab) {
    const int64_t first = slab * planes / slabs, last = (slab + 1) * planes / slabs;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t cell = AxisPlace<scalar_t>(x, source.points[3 * n]).cell;
      const bool owns[2] = {cell >= first && cell < last, cell + 1 >= first && cell + 1 < last};
      if (!owns[0] && !owns[1]) continue;
      const auto stencil = source.stencil(n);
      const InterpolateBackward<scalar_t> back = pull_back(n, stencil);
      for (int corner = 0; corner < 8; ++corner) {
        if (!owns[corner >> 2]) continue;
        const int64_t node = stencil.target(values, corner);
        if (!stencil.is_absent(node)) grad_values[node] += back.corner(stencil, corner);
      }
    }
  });
}

}  // namespace diffiso
