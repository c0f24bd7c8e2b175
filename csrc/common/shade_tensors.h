// SPDX-License-Identifier: Apache-2.0
// Tensors of shade and coverage as both backends check them and hand them to core.
#pragma once

#include "common/ray_checks.h"
#include "core/shade_gradients.h"

namespace diffiso {

struct ShadeInput {
  Tensor values, origins, directions, t, status, cell, light;
  std::vector<int64_t> size;
  std::vector<double> lower, spacing;
  double strength;
  bool falloff, central;
};

inline RayLayout check_shade_input(const char* op, const ShadeInput& in, const GridShape& grid) {
  const RayLayout layout = check_rays(op, in.values, grid, {in.origins, in.directions, in.size});
  check_shade(op, in.values, layout, in.t, in.status, in.cell, in.light);
  return layout;
}

template <typename scalar_t>
ShadeRays<scalar_t> shade_rays(const ShadeInput& in, const GridShape& grid,
                               const RayLayout& layout) {
  ShadeRays<scalar_t> p{};
  p.grid = grid;
  p.rays = rays_of<scalar_t>(layout, {in.origins, in.directions, in.size});
  p.values = data<scalar_t>(in.values);
  p.t = data<scalar_t>(in.t);
  p.status = data<RayStatus>(in.status);
  p.cell = data<int64_t>(in.cell);
  p.light = in.light.size(0) > 0 ? data<scalar_t>(in.light) : nullptr;
  p.one_light = in.light.size(0) == 1;
  p.strength = static_cast<scalar_t>(in.strength);
  p.falloff = in.falloff;
  p.central = in.central;
  return p;
}

template <typename scalar_t>
CoverageRays<scalar_t> coverage_rays(const GridShape& grid, const RayLayout& layout,
                                     const RayTensors& tensors, const Tensor& values,
                                     const Tensor& t, const Tensor& cell, const Tensor& footprint,
                                     double level, double min_slope) {
  return {grid,
          rays_of<scalar_t>(layout, tensors),
          data<scalar_t>(values),
          data<scalar_t>(t),
          data<int64_t>(cell),
          data<scalar_t>(footprint),
          footprint.size(0) == 1,
          static_cast<scalar_t>(level),
          static_cast<scalar_t>(min_slope),
          nullptr};
}

}  // namespace diffiso
