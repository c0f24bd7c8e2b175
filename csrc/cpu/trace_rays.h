// SPDX-License-Identifier: Apache-2.0
// The loop of tracing over rays of one grid, built once for each instruction set, with the same
// output to the last bit.
#pragma once

#include "core/trace_rays.h"

namespace diffiso {

// Each traces some rays of one grid, and where there are pictures of one of these.
void trace_rays_avx2(const TraceRays<float>& p, const int64_t* rays, int64_t count);
void trace_rays_avx512(const TraceRays<float>& p, const int64_t* rays, int64_t count);

// One after the other.
template <typename scalar_t>
void trace_rays_generic(const TraceRays<scalar_t>& p, const int64_t* rays, int64_t count) {
  const TracedGrid<scalar_t> grid = p.grid(p.rays.grid(rays[0]));
  for (int64_t k = 0; k < count; ++k) {
    const int64_t n = rays[k];
    if (p.footprint && p.sphere) {
      trace_ray<true, true>(p, grid, n);
    } else if (p.footprint) {
      trace_ray<true, false>(p, grid, n);
    } else if (p.sphere) {
      trace_ray<false, true>(p, grid, n);
    } else {
      trace_ray<false, false>(p, grid, n);
    }
  }
}

}  // namespace diffiso
