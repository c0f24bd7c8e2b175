// SPDX-License-Identifier: Apache-2.0
// Normals, diffuse light and coverage of traced rays on the CPU, and back. One task a run of rays;
// the backward's sums are taken in the order of the rays.
#include "common/shade_tensors.h"
#include "cpu/rays.h"

namespace diffiso {
namespace {

constexpr int64_t kRaysPerTask = 2048;

std::tuple<Tensor, Tensor> shade(Tensor values, Tensor origins, Tensor directions, Tensor t,
                                 Tensor status, Tensor cell, Tensor light,
                                 std::vector<int64_t> size, std::vector<double> lower,
                                 std::vector<double> spacing, double strength, bool falloff,
                                 bool central) {
  const GridShape grid = check_grid("shade", values, lower, spacing);
  const ShadeInput in{values, origins, directions, t,        status,  cell,   light,
                      size,   lower,   spacing,    strength, falloff, central};
  const RayLayout layout = check_shade_input("shade", in, grid);
  Tensor intensity = empty_on(values, {layout.count}, values.scalar_type());
  Tensor normals = empty_on(values, {layout.count, 3}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto p = shade_rays<scalar_t>(in, grid, layout);
    auto* out = static_cast<scalar_t*>(intensity.mutable_data_ptr());
    auto* out_normals = static_cast<scalar_t*>(normals.mutable_data_ptr());
    parallel_pieces(layout.count, kRaysPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        out[n] = 0;
        Vec3<scalar_t> normal{0, 0, 0};
        if (p.cell[n] >= 0) {
          const ShadedHit<scalar_t> hit(p, n);
          out[n] = hit.intensity();
          normal = hit.surface.normal;
        }
        store_vec3(out_normals, n, normal);
      }
    });
  });
  return {intensity, normals};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> shade_backward(
    std::optional<Tensor> grad_intensity, std::optional<Tensor> grad_normals, Tensor values,
    Tensor origins, Tensor directions, Tensor t, Tensor status, Tensor cell, Tensor light,
    std::vector<int64_t> size, std::vector<double> lower, std::vector<double> spacing,
    double strength, bool falloff, bool central, bool with_rays, bool) {
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
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = shade_rays<scalar_t>(in, grid, layout);
    p.grad_intensity = data<scalar_t>(grad_intensity);
    p.grad_normals = data<scalar_t>(grad_normals);
    scatter_rays(grid, p.cell, layout.count, static_cast<scalar_t*>(grad_values.mutable_data_ptr()),
                 [&](int64_t n, const OwnedNodes<scalar_t>& owned) {
                   const ShadedHit<scalar_t> hit(p, n);
                   Vec3<scalar_t> to_light, gradient;
                   hit.backward(p, n, to_light, gradient);
                   hit.stencil.scatter(hit.cell, gradient, owned);
                 });
    auto* out_t = static_cast<scalar_t*>(grad_t.mutable_data_ptr());
    const auto sums =
        sum_rays(p.rays, grid.batch, with_rays ? &grad_origins : nullptr,
                 with_rays ? &grad_directions : nullptr, [&](int64_t n, RayTotals& totals) {
                   const ShadeRayGradient<scalar_t> grad(p, n);
                   out_t[n] = grad.t;
                   totals.light = totals.light + to_double(grad.light);
                   return grad.ray;
                 });
    auto* out_light = static_cast<scalar_t*>(grad_light.mutable_data_ptr());
    for (int64_t row = 0; row < light.size(0); ++row) {
      const RayTotals total = group_total(sums, row, light.size(0));
      const double lit[3] = {total.light.x, total.light.y, total.light.z};
      for (int a = 0; a < 3; ++a) out_light[3 * row + a] = static_cast<scalar_t>(lit[a]);
    }
  });
  return {grad_values, grad_origins, grad_directions, grad_t, grad_light};
}

Tensor coverage(Tensor values, Tensor origins, Tensor directions, Tensor closest_t,
                Tensor closest_cell, Tensor footprint, std::vector<int64_t> size,
                std::vector<double> lower, std::vector<double> spacing, double level,
                double min_slope) {
  const char* op = "coverage";
  const GridShape grid = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, grid, tensors);
  check_coverage(op, values, layout, closest_t, closest_cell, footprint);
  Tensor out = empty_on(values, {layout.count}, values.scalar_type());
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto p = coverage_rays<scalar_t>(grid, layout, tensors, values, closest_t, closest_cell,
                                           footprint, level, min_slope);
    auto* shares = static_cast<scalar_t*>(out.mutable_data_ptr());
    parallel_pieces(layout.count, kRaysPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        shares[n] = p.cell[n] < 0 ? scalar_t{0} : CoveredRay<scalar_t>(p, n).coverage.share;
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> coverage_backward(
    Tensor grad_coverage, Tensor values, Tensor origins, Tensor directions, Tensor closest_t,
    Tensor closest_cell, Tensor footprint, std::vector<int64_t> size, std::vector<double> lower,
    std::vector<double> spacing, double level, double min_slope, bool with_rays, bool) {
  const char* op = "coverage_backward";
  const GridShape grid = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, grid, tensors);
  check_coverage(op, values, layout, closest_t, closest_cell, footprint);
  check_gradient(op, "grad_coverage", grad_coverage, closest_t, 1);
  Tensor grad_values = zeros_like(values), grad_footprint = zeros_like(footprint);
  Tensor grad_origins = zeros_like(origins), grad_directions = zeros_like(directions);
  Tensor grad_t = zeros_like(closest_t);
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    auto p = coverage_rays<scalar_t>(grid, layout, tensors, values, closest_t, closest_cell,
                                     footprint, level, min_slope);
    p.grad_coverage = data<scalar_t>(grad_coverage);
    scatter_rays(grid, p.cell, layout.count, static_cast<scalar_t*>(grad_values.mutable_data_ptr()),
                 [&](int64_t n, const OwnedNodes<scalar_t>& owned) {
                   const CoveredRay<scalar_t> from(p, n);
                   if (!from.coverage.ramp) return;
                   const auto back = from.backward(p.grad_coverage[n]);
                   for (int c = 0; c < 8; ++c) {
                     owned.add(from.cell.offset(c), back.corner(from.cell, c));
                   }
                 });
    auto* out_t = static_cast<scalar_t*>(grad_t.mutable_data_ptr());
    const auto sums =
        sum_rays(p.rays, grid.batch, with_rays ? &grad_origins : nullptr,
                 with_rays ? &grad_directions : nullptr, [&](int64_t n, RayTotals& totals) {
                   const CoverageRayGradient<scalar_t> grad(p, n);
                   out_t[n] = grad.t;
                   totals.footprint += static_cast<double>(grad.footprint);
                   return grad.ray;
                 });
    auto* out_footprint = static_cast<scalar_t*>(grad_footprint.mutable_data_ptr());
    for (int64_t row = 0; row < footprint.size(0); ++row) {
      const RayTotals total = group_total(sums, row, footprint.size(0));
      out_footprint[row] = static_cast<scalar_t>(total.footprint);
    }
  });
  return {grad_values, grad_origins, grad_directions, grad_t, grad_footprint};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("shade", TORCH_BOX(&shade));
  m.impl("shade_backward", TORCH_BOX(&shade_backward));
  m.impl("coverage", TORCH_BOX(&coverage));
  m.impl("coverage_backward", TORCH_BOX(&coverage_backward));
}

}  // namespace diffiso
