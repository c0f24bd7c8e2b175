// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/trilinear.h"
#include "cpu/parallel.h"

namespace diffiso {

// Adds to the eight samples around each of some points of one grid, without atomics: a task owns a
// slab of x-planes, looks through all points and adds those that reach into it. Every node is added
// to in the order of the points, so the sums do not depend on the number of threads. `pull_back(n,
// stencil)` gives the InterpolateBackward of point n.
template <typename scalar_t, typename PullBack>
void scatter_points(const GridShape& grid, int64_t batch, const scalar_t* points, int64_t begin,
                    int64_t end, const PullBack& pull_back, scalar_t* grad_values) {
  if (begin == end) return;
  const int64_t planes = grid.size[0];
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slabs = end - begin < 4096 ? 1 : std::min<int64_t>(planes, threads);
  parallel_tasks(slabs, [&](int64_t slab) {
    const int64_t first = slab * planes / slabs, last = (slab + 1) * planes / slabs;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t cell = AxisPlace<scalar_t>(grid, 0, points[3 * n]).cell;
      const bool owns[2] = {cell >= first && cell < last, cell + 1 >= first && cell + 1 < last};
      if (!owns[0] && !owns[1]) continue;
      const TrilinearStencil<scalar_t> stencil(grid, batch, load_vec3(points, n));
      const InterpolateBackward<scalar_t> back = pull_back(n, stencil);
      for (int corner = 0; corner < 8; ++corner) {
        if (owns[corner >> 2]) grad_values[stencil.offset(corner)] += back.corner(stencil, corner);
      }
    }
  });
}

}  // namespace diffiso
