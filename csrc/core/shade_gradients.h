// SPDX-License-Identifier: Apache-2.0
// Shading and coverage of rays whose cells are known, and what they pass back.
#pragma once

#include "core/shade.h"

namespace diffiso {

template <typename scalar_t>
struct ShadeRays {
  GridShape grid;
  RayBundle<scalar_t> rays;
  const scalar_t* __restrict__ values;   // (B, X, Y, Z)
  const scalar_t* __restrict__ t;        // (R,)
  const RayStatus* __restrict__ status;  // (R,)
  const int64_t* __restrict__ cell;      // (R,)
  const scalar_t* __restrict__ light;  // (1, 3), or one a picture or grid; null: at the rays' origins
  bool one_light;
  scalar_t strength;
  bool falloff, central;
  const scalar_t* __restrict__ grad_intensity;  // (R,) or null
  const scalar_t* __restrict__ grad_normals;    // (R, 3) or null

  DIFFISO_HD int64_t light_row(int64_t n) const {
    return one_light ? 0 : rays.is_picture() ? rays.source(n) : rays.grid(n);
  }
  DIFFISO_HD DiffuseLight<scalar_t> light_of(int64_t n, const Ray<scalar_t>& ray) const {
    return {light ? load_vec3(light, light_row(n)) : ray.origin, strength, falloff};
  }
};

// A hit and its shading.
template <typename scalar_t>
struct ShadedHit {
  Ray<scalar_t> ray;
  Vec3<scalar_t> point;
  RayCell<scalar_t> cell;
  NormalStencil<scalar_t> stencil;
  HitNormal<scalar_t> surface;
  DiffuseLight<scalar_t> light;

  DIFFISO_HD ShadedHit(const ShadeRays<scalar_t>& p, int64_t n)
      : ray(p.rays[n]),
        point(point_at(ray, p.t[n])),
        cell(p.grid, p.cell[n], point),
        stencil(p.grid, cell, p.values, p.central),
        surface(stencil.gradient(cell, p.values), p.status[n] == RayStatus::kExit),
        light(p.light_of(n, ray)) {}

  DIFFISO_HD scalar_t intensity() const { return light.intensity(point, surface.normal); }

  // What the way to the light receives, and the field's gradient.
  DIFFISO_HD void backward(const ShadeRays<scalar_t>& p, int64_t n, Vec3<scalar_t>& to_light,
                           Vec3<scalar_t>& gradient) const {
    Vec3<scalar_t> normal{0, 0, 0};
    to_light = {0, 0, 0};
    if (p.grad_normals) normal = load_vec3(p.grad_normals, n);
    if (p.grad_intensity) {
      light.backward(point, surface.normal, p.grad_intensity[n], to_light, normal);
    }
    gradient = surface.backward(normal);
  }
};

template <typename scalar_t>
struct ShadeRayGradient {
  RayGradient<scalar_t> ray;
  Vec3<scalar_t> light{0, 0, 0};
  scalar_t t = 0;

  DIFFISO_HD ShadeRayGradient(const ShadeRays<scalar_t>& p, int64_t n) {
    if (p.cell[n] < 0) return;
    const ShadedHit<scalar_t> hit(p, n);
    Vec3<scalar_t> to_light, gradient;
    hit.backward(p, n, to_light, gradient);
    const Vec3<scalar_t> point = hit.stencil.point(hit.cell, p.values, gradient) - to_light;
    ray.add_point(point, p.t[n]);
    t = dot(point, hit.ray.direction);
    if (p.light) {
      light = to_light;
    } else {
      ray.origin = ray.origin + to_light;
    }
  }
};

template <typename scalar_t>
struct CoverageRays {
  GridShape grid;
  RayBundle<scalar_t> rays;
  const scalar_t* __restrict__ values;     // (B, X, Y, Z)
  const scalar_t* __restrict__ t;          // (R,) of the closest approach
  const int64_t* __restrict__ cell;        // (R,)
  const scalar_t* __restrict__ footprint;  // (1,), or one a picture or grid
  bool one_footprint;
  scalar_t level, min_slope;
  const scalar_t* __restrict__ grad_coverage;  // (R,) or null

  DIFFISO_HD scalar_t half_width_at_one(int64_t n) const {
    const int64_t row = one_footprint ? 0 : rays.is_picture() ? rays.source(n) : rays.grid(n);
    return footprint[row];
  }
};

// A closest approach and what of its pixel is covered.
template <typename scalar_t>
struct CoveredRay {
  Ray<scalar_t> ray;
  RayCell<scalar_t> cell;
  FieldSample<scalar_t> at;
  Coverage<scalar_t> coverage;

  DIFFISO_HD CoveredRay(const CoverageRays<scalar_t>& p, int64_t n)
      : ray(p.rays[n]),
        cell(p.grid, p.cell[n], point_at(ray, p.t[n])),
        at(interpolate(cell, p.values)),
        coverage(at, p.level, p.half_width_at_one(n) * p.t[n], p.min_slope) {}

  // What value and gradient of the field receive.
  DIFFISO_HD InterpolateBackward<scalar_t> backward(scalar_t grad) const {
    InterpolateBackward<scalar_t> out{coverage.to_field(grad), {0, 0, 0}};
    const scalar_t steepness = length(at.gradient);
    if (steepness == coverage.slope) {
      out.grad_gradient = at.gradient * (coverage.to_slope(grad) / steepness);
    }
    return out;
  }
};

template <typename scalar_t>
struct CoverageRayGradient {
  RayGradient<scalar_t> ray;
  scalar_t t = 0, footprint = 0;

  DIFFISO_HD CoverageRayGradient(const CoverageRays<scalar_t>& p, int64_t n) {
    if (p.cell[n] < 0) return;
    const CoveredRay<scalar_t> from(p, n);
    if (!from.coverage.ramp) return;
    const scalar_t grad = p.grad_coverage[n];
    const Vec3<scalar_t> point = from.backward(grad).point(from.cell, p.values);
    const scalar_t half_width = from.coverage.to_half_width(grad);
    ray.add_point(point, p.t[n]);
    t = dot(point, from.ray.direction) + half_width * p.half_width_at_one(n);
    footprint = half_width * p.t[n];
  }
};

}  // namespace diffiso
