// SPDX-License-Identifier: Apache-2.0
// What the loops of tracing share: their input, and where a ray's results go.
#pragma once

#include "core/sphere_trace.h"

namespace diffiso {

template <typename scalar_t>
struct TraceRays {
  GridShape shape;
  RayBundle<scalar_t> rays;
  double near, far;
  Occupancy occupancy;
  const scalar_t* values;  // (B, X, Y, Z)
  scalar_t level;
  InsideRule inside;
  const SphereRule* sphere;   // or null
  const scalar_t* footprint;  // (1,), or one a picture or grid; null: no closest approach is wanted
  bool one_footprint;
  double slope;         // no cell is steeper, world units
  scalar_t* t;          // (R,)
  RayStatus* status;    // (R,)
  int64_t* cell;        // (R,)
  scalar_t* fraction;   // (R, 3) or null
  scalar_t* samples;    // (R, 8) or null
  scalar_t* closest_t;  // (R,) as the next two, or null
  int64_t* closest_cell;
  uint8_t* closest_kind;

  DIFFISO_HD TracedGrid<scalar_t> grid(int64_t b) const {
    return {shape, occupancy, values, b, level, inside};
  }

  // Below this value of the field a ray's pixel is touched, as far away as it gets.
  DIFFISO_HD scalar_t touched(int64_t n, double end) const {
    const int64_t group = one_footprint ? 0 : rays.is_picture() ? rays.source(n) : rays.grid(n);
    return static_cast<scalar_t>(end * slope * static_cast<double>(footprint[group]));
  }

  // What is known of a ray that hits nothing.
  DIFFISO_HD void write_miss(int64_t n, RayStatus why) const {
    t[n] = std::numeric_limits<scalar_t>::infinity();
    status[n] = why;
    cell[n] = -1;
    if (!fraction) return;
    for (int a = 0; a < 3; ++a) fraction[3 * n + a] = 0;
    for (int c = 0; c < 8; ++c) samples[8 * n + c] = 0;
  }

  // t = start + along / scale.
  DIFFISO_HD void write_hit(int64_t n, double start, double scale, const TracedGrid<scalar_t>& from,
                            const Hit<scalar_t>& hit) const {
    t[n] = static_cast<scalar_t>(start + static_cast<double>(hit.along) / scale);
    status[n] = static_cast<RayStatus>(hit.status);
    const int64_t node = index_of(hit.cell, from.stride, hit.cell[2]);
    cell[n] = from.values - values + node;
    if (!fraction) return;
    store_vec3(fraction, n, hit.fraction);
    for (int c = 0; c < 8; ++c) samples[8 * n + c] = from.values[node + from.corner(c)];
  }

  DIFFISO_HD void write_approach(int64_t n, double start, double scale,
                                 const TracedGrid<scalar_t>& from,
                                 const Approach<scalar_t>& approach) const {
    const bool any = approach.kind != 0;
    closest_kind[n] = static_cast<uint8_t>(approach.kind);
    closest_t[n] = any ? static_cast<scalar_t>(start + static_cast<double>(approach.along) / scale)
                       : std::numeric_limits<scalar_t>::infinity();
    const int64_t node = index_of(approach.cell, from.stride, approach.cell[2]);
    closest_cell[n] = any ? from.values - values + node : -1;
  }
};

// One ray: kNear with its closest approach, kSphere by spheres.
template <bool kNear, bool kSphere, typename scalar_t>
DIFFISO_HD void trace_ray(const TraceRays<scalar_t>& p, const TracedGrid<scalar_t>& grid,
                          int64_t n) {
  const Ray<scalar_t> given = p.rays[n];
  const GridRay<scalar_t> ray(p.shape, given, p.near, p.far);
  Hit<scalar_t> hit;
  Approach<scalar_t> approach(scalar_t{0});
  if (ray.inside) {
    const Walk<scalar_t> walk(ray, grid.cells, true);
    if constexpr (kNear) {
      const scalar_t touched = p.touched(n, ray.t(ray.length));
      approach.value = touched;
      hit = trace_voxels<true>(grid, walk, -touched, approach);
    } else if constexpr (!kSphere) {
      hit = trace_voxels<false>(grid, walk, scalar_t{0}, approach);
    }
    if constexpr (kSphere) {
      const scalar_t pace = static_cast<scalar_t>(length(given.direction) / ray.scale);
      hit = trace_spheres(grid, ray, *p.sphere, pace);
    }
  }
  if (hit.found()) {
    p.write_hit(n, ray.begin, ray.scale, grid, hit);
  } else {
    const RayStatus why = static_cast<RayStatus>(hit.status);
    p.write_miss(n, ray.valid ? why : RayStatus::kInvalid);
  }
  if constexpr (kNear) p.write_approach(n, ray.begin, ray.scale, grid, approach);
}

}  // namespace diffiso
