// SPDX-License-Identifier: Apache-2.0
// Tensors of trace as both backends make them and hand them to core.
#pragma once

#include "common/ray_checks.h"
#include "core/trace_rays.h"

namespace diffiso {

struct TraceInput {
  const Tensor &values, &footprint;
  const RayTensors& rays;
  double level, near, far;
  int64_t inside;

  bool near_wanted() const { return footprint.size(0) > 0; }
};

// What trace returns; empty where it is not asked for.
struct TraceOutput {
  Tensor t, status, cell, fraction, samples, closest_t, closest_cell, closest_kind;

  TraceOutput(const TraceInput& in, int64_t count, bool capture)
      : TraceOutput(in.values, count, capture ? count : 0, in.near_wanted() ? count : 0) {}

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> tensors() const {
    return {t, status, cell, fraction, samples, closest_t, closest_cell, closest_kind};
  }

 private:
  TraceOutput(const Tensor& values, int64_t count, int64_t captured, int64_t approaches)
      : t(empty_on(values, {count}, values.scalar_type())),
        status(empty_on(values, {count}, DType::Byte)),
        cell(empty_on(values, {count}, DType::Long)),
        fraction(empty_on(values, {captured, 3}, values.scalar_type())),
        samples(empty_on(values, {captured, 8}, values.scalar_type())),
        closest_t(empty_on(values, {approaches}, values.scalar_type())),
        closest_cell(empty_on(values, {approaches}, DType::Long)),
        closest_kind(empty_on(values, {approaches}, DType::Byte)) {}
};

// All but what is found on the way: the occupancy, the slope, and the sphere rule.
template <typename scalar_t>
TraceRays<scalar_t> trace_rays(const TraceInput& in, const GridShape& shape,
                               const RayLayout& layout, TraceOutput& out) {
  TraceRays<scalar_t> p{};
  p.shape = shape;
  p.rays = rays_of<scalar_t>(layout, in.rays);
  p.near = in.near;
  p.far = in.far;
  p.values = data<scalar_t>(in.values);
  p.level = static_cast<scalar_t>(in.level);
  p.inside = static_cast<InsideRule>(in.inside);
  p.t = static_cast<scalar_t*>(out.t.mutable_data_ptr());
  p.status = static_cast<RayStatus*>(out.status.mutable_data_ptr());
  p.cell = static_cast<int64_t*>(out.cell.mutable_data_ptr());
  if (out.samples.size(0) > 0) {
    p.fraction = static_cast<scalar_t*>(out.fraction.mutable_data_ptr());
    p.samples = static_cast<scalar_t*>(out.samples.mutable_data_ptr());
  }
  if (in.near_wanted()) {
    p.footprint = data<scalar_t>(in.footprint);
    p.one_footprint = in.footprint.size(0) == 1;
    p.closest_t = static_cast<scalar_t*>(out.closest_t.mutable_data_ptr());
    p.closest_cell = static_cast<int64_t*>(out.closest_cell.mutable_data_ptr());
    p.closest_kind = static_cast<uint8_t*>(out.closest_kind.mutable_data_ptr());
  }
  return p;
}

}  // namespace diffiso
