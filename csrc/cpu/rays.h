// SPDX-License-Identifier: Apache-2.0
// Loops over rays on the CPU that give sums: to the samples around their hits, and to what rays of one
// picture share. Every sum is taken in the order of the rays.
#pragma once

#include <vector>

#include "common/ray_checks.h"
#include "core/ray_cell.h"
#include "cpu/parallel.h"

namespace diffiso {

// The part of the samples' gradient that one task adds to.
template <typename scalar_t>
struct OwnedNodes {
  int64_t begin, end;
  scalar_t* grad_values;

  DIFFISO_HD void add(int64_t node, scalar_t grad) const {
    if (node >= begin && node < end) grad_values[node] += grad;
  }
};

// Calls f(n, owned) for every ray with a cell, without atomics: a task owns some planes of nodes and
// looks through all rays for those whose cell is near. f adds what its ray gives, at nodes -1 to 2
// of the cell along each axis.
template <typename scalar_t, typename F>
void scatter_rays(const GridShape& grid, const int64_t* cells, int64_t count, scalar_t* grad_values,
                  const F& f) {
  const int64_t planes = grid.batch * grid.size[0], plane = grid.size[1] * grid.size[2];
  const int64_t tasks = count < 4096 ? 1 : 4 * torch::stable::get_num_threads();
  const int64_t slabs = std::min(planes, tasks);
  parallel_tasks(slabs, [&](int64_t slab) {
    const OwnedNodes<scalar_t> owned{slab * planes / slabs * plane,
                                     (slab + 1) * planes / slabs * plane, grad_values};
    for (int64_t n = 0; n < count; ++n) {
      const bool near = cells[n] + 3 * plane > owned.begin && cells[n] - 2 * plane < owned.end;
      if (cells[n] >= 0 && near) f(n, owned);
    }
  });
}

// Sums over the rays of a picture, or over rays given one by one of a grid.
struct RayTotals {
  Vec3<double> origin{0, 0, 0}, light{0, 0, 0};
  double direction[9] = {}, footprint = 0;

  void add(const RayTotals& other) {
    origin = origin + other.origin;
    light = light + other.light;
    for (int k = 0; k < 9; ++k) direction[k] += other.direction[k];
    footprint += other.footprint;
  }
};

template <typename scalar_t>
Vec3<double> to_double(Vec3<scalar_t> v) {
  return {v.x, v.y, v.z};
}

// Calls f(n, totals) -> RayGradient for every ray, and writes what the rays receive, unless nobody asks:
// where they stand one by one, or summed over their picture. Returns the totals of all groups:
// pictures, or grids.
template <typename scalar_t, typename F>
std::vector<RayTotals> sum_rays(const RayBundle<scalar_t>& rays, int64_t grids,
                                const Tensor* grad_origins, const Tensor* grad_directions,
                                const F& f) {
  constexpr int64_t kRaysPerTask = 4096;
  const auto pointer = [](const Tensor* tensor) {
    return tensor ? static_cast<scalar_t*>(tensor->mutable_data_ptr()) : nullptr;
  };
  scalar_t *origins = pointer(grad_origins), *directions = pointer(grad_directions);
  const int64_t per_group = rays.is_picture() ? rays.height * rays.width : rays.per_grid;
  const int64_t groups = rays.is_picture() ? rays.count / per_group : grids;
  const int64_t pieces = (per_group + kRaysPerTask - 1) / kRaysPerTask;
  std::vector<RayTotals> partial(groups * pieces);
  parallel_tasks(groups * pieces, [&](int64_t task) {
    const int64_t first = task / pieces * per_group, begin = task % pieces * kRaysPerTask;
    const int64_t end = std::min(begin + kRaysPerTask, per_group);
    RayTotals& totals = partial[task];
    for (int64_t n = first + begin; n < first + end; ++n) {
      const RayGradient<scalar_t> grad = f(n, totals);
      if (!origins) continue;
      if (!rays.is_picture()) {
        store_vec3(origins, n, grad.origin);
        store_vec3(directions, n, grad.direction);
        continue;
      }
      const Vec3<scalar_t> pixel = rays.pixel(n);
      totals.origin = totals.origin + to_double(grad.origin);
      for (int k = 0; k < 9; ++k)
        totals.direction[k] += double{grad.direction[k / 3]} * pixel[k % 3];
    }
  });
  std::vector<RayTotals> sums(groups);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t piece = 0; piece < pieces; ++piece) sums[g].add(partial[g * pieces + piece]);
    if (!origins || !rays.is_picture()) continue;
    for (int a = 0; a < 3; ++a) origins[3 * g + a] = static_cast<scalar_t>(sums[g].origin[a]);
    for (int k = 0; k < 9; ++k) {
      directions[9 * g + k] = static_cast<scalar_t>(sums[g].direction[k]);
    }
  }
  return sums;
}

// The sum that goes with one of so many rows: of one group, or where there is one row of all.
inline RayTotals group_total(const std::vector<RayTotals>& sums, int64_t row, int64_t rows) {
  RayTotals total;
  for (size_t g = 0; g < sums.size(); ++g) {
    if (rows == 1 || static_cast<int64_t>(g) == row) total.add(sums[g]);
  }
  return total;
}

}  // namespace diffiso
