// SPDX-License-Identifier: Apache-2.0
// Normals, diffuse light and coverage of traced rays on the GPU, and back; the same arithmetic as on
// the CPU. One thread a ray (rays.cuh). The backward adds to the samples with atomics, or in a fixed
// order (scatter.cuh); sums over pictures always have one (ray_sums.cuh).
#include "common/shade_tensors.h"
#include "cuda/ray_sums.cuh"
#include "cuda/scatter.cuh"

namespace diffiso {
namespace {

template <typename scalar_t>
struct ShadeParams {
  ShadeRays<scalar_t> rays;
  RayThreads threads;
  scalar_t* intensity;  // (R,)
  scalar_t* normals;    // (R, 3)
};

template <typename scalar_t>
__global__ void __launch_bounds__(kRayBlock) shade_kernel(ShadeParams<scalar_t> p) {
  for_each_ray(p.threads, [&](int64_t n) {
    scalar_t intensity = 0;
    Vec3<scalar_t> normal{0, 0, 0};
    if (p.rays.cell[n] >= 0) {
      const ShadedHit<scalar_t> hit(p.rays, n);
      intensity = hit.intensity();
      normal = hit.surface.normal;
    }
    p.intensity[n] = intensity;
    store_vec3(p.normals, n, normal);
  });
}

std::tuple<Tensor, Tensor> shade(Tensor values, Tensor origins, Tensor directions, Tensor t,
                                 Tensor status, Tensor cell, Tensor light,
                                 std::vector<int64_t> size, std::vector<double> lower,
                                 std::vector<double> spacing, double strength, bool falloff,
                                 bool central) {
  const CudaContext cuda(values);
  const GridShape grid = check_grid("shade", values, lower, spacing);
  const ShadeInput in{values, origins, directions, t,        status,  cell,   light,
                      size,   lower,   spacing,    strength, falloff, central};
  const RayLayout layout = check_shade_input("shade", in, grid);
  Tensor intensity = empty_on(values, {layout.count}, values.scalar_type());
  Tensor normals = empty_on(values, {layout.count, 3}, values.scalar_type());
  if (layout.count == 0) return {intensity, normals};
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto rays = shade_rays<scalar_t>(in, grid, layout);
    const ShadeParams<scalar_t> p{rays, ray_threads(rays.rays, grid.batch),
                                  static_cast<scalar_t*>(intensity.mutable_data_ptr()),
                                  static_cast<scalar_t*>(normals.mutable_data_ptr())};
    launch(shade_kernel<scalar_t>, grid_of(p.threads), kRayBlock, 0, cuda.stream, p);
  });
  return {intensity, normals};
}

// The samples around a hit that its normal is made of, and what they receive.
template <typename scalar_t>
struct StencilTerms {
  RayCell<scalar_t> cell;
  NormalStencil<scalar_t> stencil;
  Vec3<scalar_t> gradient;

  DIFFISO_HD int64_t node(int k) const {
    const int node = stencil.node(k);
    return stencil.is_used(node) ? stencil.offset(node) : -1;
  }
  DIFFISO_HD scalar_t value(int k) const {
    return dot(gradient, stencil.weight(cell, stencil.node(k)));
  }
};

template <typename scalar_t>
struct ShadeTerms {
  static constexpr int kTerms = NormalStencil<scalar_t>::kNodes;
  ShadeRays<scalar_t> p;
  int64_t count;  // R

  DIFFISO_HD int64_t cell(int64_t n) const { return cell_of<scalar_t>(p.grid, p.cell[n]); }
  DIFFISO_HD bool gives(int64_t n) const { return p.cell[n] >= 0; }
  DIFFISO_HD StencilTerms<scalar_t> terms(int64_t n) const {
    const ShadedHit<scalar_t> hit(p, n);
    Vec3<scalar_t> to_light, gradient;
    hit.backward(p, n, to_light, gradient);
    return {hit.cell, hit.stencil, gradient};
  }
};

template <typename scalar_t>
struct ShadeRayGradients {
  static constexpr int kShared = 3;
  ShadeRays<scalar_t> p;
  scalar_t* grad_t;  // (R,)

  DIFFISO_HD RayGradient<scalar_t> backward(int64_t n, double* light) const {
    const ShadeRayGradient<scalar_t> grad(p, n);
    grad_t[n] = grad.t;
    for (int a = 0; a < 3; ++a) light[a] += double{grad.light[a]};
    return grad.ray;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> shade_backward(
    std::optional<Tensor> grad_intensity, std::optional<Tensor> grad_normals, Tensor values,
    Tensor origins, Tensor directions, Tensor t, Tensor status, Tensor cell, Tensor light,
    std::vector<int64_t> size, std::vector<double> lower, std::vector<double> spacing,
    double strength, bool falloff, bool central, bool with_rays, bool deterministic) {
  const CudaContext cuda(values);
  const char* op = "shade_backward";
  const GridShape grid = check_grid(op, values, lower, spacing);
  const ShadeInput in{values, origins, directions, t,        status,  cell,   light,
                      size,   lower,   spacing,    strength, falloff, central};
  const RayLayout layout = check_shade_input(op, in, grid);
  if (grad_intensity) check_gradient(op, "grad_intensity", *grad_intensity, t, 1);
  if (grad_normals) check_normals_gradient(op, *grad_normals, t);
  Tensor grad_values = zeros_like(values), grad_light = zeros_like(light);
  Tensor grad_origins = zeros_like(origins), grad_directions = zeros_like(directions);
  Tensor grad_t = zeros_like(t);
  if (layout.count == 0) return {grad_values, grad_origins, grad_directions, grad_t, grad_light};
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = shade_rays<scalar_t>(in, grid, layout);
    p.grad_intensity = data<scalar_t>(grad_intensity);
    p.grad_normals = data<scalar_t>(grad_normals);
    const ShadeTerms<scalar_t> terms{p, layout.count};
    scatter_terms(cuda, terms, static_cast<scalar_t*>(grad_values.mutable_data_ptr()),
                  deterministic);
    const ShadeRayGradients<scalar_t> gradients{p,
                                                static_cast<scalar_t*>(grad_t.mutable_data_ptr())};
    sum_ray_gradients(cuda, gradients, p.rays, grid.batch,
                      {with_rays ? &grad_origins : nullptr, with_rays ? &grad_directions : nullptr,
                       p.light ? &grad_light : nullptr});
  });
  return {grad_values, grad_origins, grad_directions, grad_t, grad_light};
}

template <typename scalar_t>
struct CoverageParams {
  CoverageRays<scalar_t> rays;
  RayThreads threads;
  scalar_t* share;  // (R,)
};

template <typename scalar_t>
__global__ void __launch_bounds__(kRayBlock) coverage_kernel(CoverageParams<scalar_t> p) {
  for_each_ray(p.threads, [&](int64_t n) {
    p.share[n] = p.rays.cell[n] < 0 ? scalar_t{0} : CoveredRay<scalar_t>(p.rays, n).coverage.share;
  });
}

Tensor coverage(Tensor values, Tensor origins, Tensor directions, Tensor closest_t,
                Tensor closest_cell, Tensor footprint, std::vector<int64_t> size,
                std::vector<double> lower, std::vector<double> spacing, double level,
                double min_slope) {
  const CudaContext cuda(values);
  const char* op = "coverage";
  const GridShape grid = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, grid, tensors);
  check_coverage(op, values, layout, closest_t, closest_cell, footprint);
  Tensor out = empty_on(values, {layout.count}, values.scalar_type());
  if (layout.count == 0) return out;
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto rays = coverage_rays<scalar_t>(grid, layout, tensors, values, closest_t,
                                              closest_cell, footprint, level, min_slope);
    const CoverageParams<scalar_t> p{rays, ray_threads(rays.rays, grid.batch),
                                     static_cast<scalar_t*>(out.mutable_data_ptr())};
    launch(coverage_kernel<scalar_t>, grid_of(p.threads), kRayBlock, 0, cuda.stream, p);
  });
  return out;
}

// The samples around a closest approach, and what they receive.
template <typename scalar_t>
struct CoveredTerms {
  RayCell<scalar_t> cell;
  InterpolateBackward<scalar_t> back;
  bool ramp;  // if not, they receive nothing

  DIFFISO_HD int64_t node(int corner) const { return ramp ? cell.offset(corner) : -1; }
  DIFFISO_HD scalar_t value(int corner) const { return back.corner(cell, corner); }
};

template <typename scalar_t>
struct CoverageTerms {
  static constexpr int kTerms = 8;
  CoverageRays<scalar_t> p;
  int64_t count;  // R

  DIFFISO_HD int64_t cell(int64_t n) const { return cell_of<scalar_t>(p.grid, p.cell[n]); }
  DIFFISO_HD bool gives(int64_t n) const { return p.cell[n] >= 0; }
  DIFFISO_HD CoveredTerms<scalar_t> terms(int64_t n) const {
    const CoveredRay<scalar_t> from(p, n);
    return {from.cell, from.backward(p.grad_coverage[n]), from.coverage.ramp};
  }
};

template <typename scalar_t>
struct CoverageRayGradients {
  static constexpr int kShared = 1;
  CoverageRays<scalar_t> p;
  scalar_t* grad_t;  // (R,)

  DIFFISO_HD RayGradient<scalar_t> backward(int64_t n, double* footprint) const {
    const CoverageRayGradient<scalar_t> grad(p, n);
    grad_t[n] = grad.t;
    footprint[0] += double{grad.footprint};
    return grad.ray;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> coverage_backward(
    Tensor grad_coverage, Tensor values, Tensor origins, Tensor directions, Tensor closest_t,
    Tensor closest_cell, Tensor footprint, std::vector<int64_t> size, std::vector<double> lower,
    std::vector<double> spacing, double level, double min_slope, bool with_rays,
    bool deterministic) {
  const CudaContext cuda(values);
  const char* op = "coverage_backward";
  const GridShape grid = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, grid, tensors);
  check_coverage(op, values, layout, closest_t, closest_cell, footprint);
  check_gradient(op, "grad_coverage", grad_coverage, closest_t, 1);
  Tensor grad_values = zeros_like(values), grad_footprint = zeros_like(footprint);
  Tensor grad_origins = zeros_like(origins), grad_directions = zeros_like(directions);
  Tensor grad_t = zeros_like(closest_t);
  if (layout.count == 0) {
    return {grad_values, grad_origins, grad_directions, grad_t, grad_footprint};
  }
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = coverage_rays<scalar_t>(grid, layout, tensors, values, closest_t, closest_cell,
                                     footprint, level, min_slope);
    p.grad_coverage = data<scalar_t>(grad_coverage);
    const CoverageTerms<scalar_t> terms{p, layout.count};
    scatter_terms(cuda, terms, static_cast<scalar_t*>(grad_values.mutable_data_ptr()),
                  deterministic);
    const CoverageRayGradients<scalar_t> gradients{
        p, static_cast<scalar_t*>(grad_t.mutable_data_ptr())};
    sum_ray_gradients(cuda, gradients, p.rays, grid.batch,
                      {with_rays ? &grad_origins : nullptr, with_rays ? &grad_directions : nullptr,
                       &grad_footprint});
  });
  return {grad_values, grad_origins, grad_directions, grad_t, grad_footprint};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("shade", TORCH_BOX(&shade));
  m.impl("shade_backward", TORCH_BOX(&shade_backward));
  m.impl("coverage", TORCH_BOX(&coverage));
  m.impl("coverage_backward", TORCH_BOX(&coverage_backward));
}

}  // namespace diffiso
