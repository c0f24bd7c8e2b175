// SPDX-License-Identifier: Apache-2.0
// What hits and closest approaches pass back: to the eight samples of their cell, and to their ray.
#pragma once

#include "core/ray_cell.h"
#include "core/trace.h"

namespace diffiso {

// What the samples around a point of a ray receive.
template <typename scalar_t>
struct CellGradient {
  RayCell<scalar_t> cell;
  InterpolateBackward<scalar_t> back;
  const scalar_t* grad_samples;  // (8,) or null

  DIFFISO_HD scalar_t corner(int c) const {
    const scalar_t own = back.corner(cell, c);
    return grad_samples ? own + grad_samples[c] : own;
  }
};

template <typename scalar_t>
struct TraceGradients {
  GridShape grid;
  RayBundle<scalar_t> rays;
  const scalar_t* __restrict__ values;  // (B, X, Y, Z)
  const scalar_t* __restrict__ t;       // (R,) as all below
  const RayStatus* __restrict__ status;
  const int64_t* __restrict__ cell;
  const scalar_t* __restrict__ closest_t;
  const int64_t* __restrict__ closest_cell;
  const ApproachKind* __restrict__ closest_kind;
  const scalar_t* __restrict__ grad_t;        // or null, as the next
  const scalar_t* __restrict__ grad_samples;  // (R, 8)
  const scalar_t* __restrict__ grad_closest_t;
  HitLaw law;

  // A hit: t moves with the field's value there. One at the ray's own beginning does not move.
  DIFFISO_HD CellGradient<scalar_t> hit(int64_t n) const {
    const Ray<scalar_t> ray = rays[n];
    const RayCell<scalar_t> at(grid, cell[n], point_at(ray, t[n]));
    InterpolateBackward<scalar_t> back{0, {0, 0, 0}};
    if (grad_t && status[n] != RayStatus::kStart) {
      const Vec3<scalar_t> gradient = interpolate(at, values).gradient;
      const bool leaves = status[n] == RayStatus::kExit;
      back.grad_value = grad_t[n] * hit_factor(gradient, ray.direction, leaves, law);
    }
    return {at, back, grad_samples ? grad_samples + 8 * n : nullptr};
  }

  // A closest approach: t moves with the field's slope along the ray, where that is zero.
  DIFFISO_HD CellGradient<scalar_t> approach(int64_t n) const {
    const Ray<scalar_t> ray = rays[n];
    const RayCell<scalar_t> at(grid, closest_cell[n], point_at(ray, closest_t[n]));
    InterpolateBackward<scalar_t> back{0, {0, 0, 0}};
    if (closest_kind[n] == ApproachKind::kMinimum) {
      const scalar_t factor = approach_factor(at, values, ray.direction);
      back.grad_gradient = ray.direction * (grad_closest_t[n] * factor);
    }
    return {at, back, nullptr};
  }

  DIFFISO_HD RayGradient<scalar_t> ray(int64_t n) const {
    RayGradient<scalar_t> out;
    if (grad_t && cell[n] >= 0) {
      const CellGradient<scalar_t> from = hit(n);
      out.add_point(from.back.point(from.cell, values), t[n]);
    }
    if (grad_closest_t && closest_cell[n] >= 0) add_approach(n, out);
    return out;
  }

 private:
  DIFFISO_HD void add_approach(int64_t n, RayGradient<scalar_t>& out) const {
    const ApproachKind kind = closest_kind[n];
    const scalar_t t = closest_t[n];
    if (kind == ApproachKind::kMinimum) {
      const CellGradient<scalar_t> from = approach(n);
      out.add_point(from.back.point(from.cell, values), t);
      const scalar_t factor = approach_factor(from.cell, values, rays[n].direction);
      const Vec3<scalar_t> gradient = interpolate(from.cell, values).gradient;
      out.direction = out.direction + gradient * (grad_closest_t[n] * factor);
    } else if (kind >= ApproachKind::kFaceX && kind <= ApproachKind::kFaceZ) {
      // The ray meets the face at t = (place - o) / d along this axis.
      const int a = static_cast<int>(kind) - static_cast<int>(ApproachKind::kFaceX);
      const scalar_t moved = -grad_closest_t[n] / rays[n].direction[a];
      out.origin[a] += moved;
      out.direction[a] += t * moved;
    }
  }
};

}  // namespace diffiso
