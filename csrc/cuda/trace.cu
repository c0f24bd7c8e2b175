// SPDX-License-Identifier: Apache-2.0
// Rays through grids on the GPU, and what their hits pass back; the same output as on the CPU. One
// thread a ray (rays.cuh). Before them a few kernels work out where a ray can hit anything
// (occupancy.cuh); what they measure, the steepest slope and how far pixels reach, stays on the
// device, so that nobody waits. The backward adds to the samples with atomics, or in a fixed order
// (scatter.cuh); sums over pictures always have one.
#include "common/trace_tensors.h"
#include "core/trace_gradients.h"
#include "cuda/occupancy.cuh"
#include "cuda/ray_sums.cuh"
#include "cuda/scatter.cuh"

namespace diffiso {
namespace {

template <typename scalar_t>
struct TraceParams {
  TraceRays<scalar_t> rays;
  RayThreads threads;
  SphereRule sphere;
  bool measured;        // the sphere rule's bound is the slope
  const double* slope;  // (1,) or null: not needed
  double* of_block;     // (blocks,) widest footprints

  // With what only the device knows.
  DIFFISO_HD TraceRays<scalar_t> complete(SphereRule& rule) const {
    TraceRays<scalar_t> out = rays;
    rule = sphere;
    out.sphere = &rule;
    if (slope == nullptr) return out;
    out.slope = *slope > kLeastSlope ? *slope : kLeastSlope;
    if (measured) rule.lipschitz = *slope > 0 ? *slope : 1;
    return out;
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kLargestBlock) widest_footprint_kernel(TraceParams<scalar_t> p) {
  SphereRule rule;
  const TraceRays<scalar_t> rays = p.complete(rule);
  double widest = 0;
  for_each_ray(p.threads, [&](int64_t n) {
    const GridRay<scalar_t> ray(rays.shape, rays.rays[n], rays.near, rays.far);
    const double touched = ray.inside ? rays.touched(n, ray.t(ray.length)) : scalar_t{0};
    widest = touched > widest ? touched : widest;
  });
  widest = block_largest(widest);
  if (threadIdx.x == 0) p.of_block[blockIdx.x] = widest;
}

template <bool kNear, bool kSphere, typename scalar_t>
__global__ void __launch_bounds__(kRayBlock) trace_kernel(TraceParams<scalar_t> p) {
  SphereRule rule;
  const TraceRays<scalar_t> rays = p.complete(rule);
  for_each_ray(p.threads, [&](int64_t n) {
    trace_ray<kNear, kSphere>(rays, rays.grid(rays.rays.grid(n)), n);
  });
}

// The closest approaches of rays that step by spheres come from a run by voxels before.
template <typename scalar_t>
void run_trace(const CudaContext& cuda, const TraceParams<scalar_t>& p, bool sphere) {
  const bool near_wanted = p.rays.footprint != nullptr;
  const auto run = [&](void (*kernel)(TraceParams<scalar_t>)) {
    launch(kernel, grid_of(p.threads), kRayBlock, 0, cuda.stream, p);
  };
  if (near_wanted) run(trace_kernel<true, false, scalar_t>);
  if (sphere) {
    run(trace_kernel<false, true, scalar_t>);
  } else if (!near_wanted) {
    run(trace_kernel<false, false, scalar_t>);
  }
}

// The farthest that any pixel is from its ray, anywhere in the box: a number on the device.
template <typename scalar_t>
Tensor widest_footprint(const CudaContext& cuda, TraceParams<scalar_t> p, const Tensor& like) {
  const dim3 blocks = striding_grid(p.threads.count(), kLargestBlock);
  Tensor of_block = empty_on(like, {blocks.x}, DType::Double);
  p.of_block = static_cast<double*>(of_block.mutable_data_ptr());
  launch(widest_footprint_kernel<scalar_t>, blocks, kLargestBlock, 0, cuda.stream, p);
  return largest(cuda, of_block);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> trace(
    Tensor values, Tensor origins, Tensor directions, Tensor footprint, std::vector<int64_t> size,
    std::vector<double> lower, std::vector<double> spacing, double level, double near, double far,
    int64_t inside, std::vector<double> sphere, bool, double, bool capture) {
  const CudaContext cuda(values);
  const char* op = "trace";
  const GridShape shape = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, shape, tensors);
  check_per_group(op, "footprint", values, footprint, layout, 1);
  const TraceInput in{values, footprint, tensors, level, near, far, inside};
  TraceOutput out(in, layout.count, capture);
  if (layout.count == 0) return out.tensors();
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    TraceParams<scalar_t> p{};
    p.rays = trace_rays<scalar_t>(in, shape, layout, out);
    p.threads = ray_threads(p.rays.rays, shape.batch);
    p.sphere = sphere_rule(sphere, 0);
    p.measured = !sphere.empty() && sphere[3] <= 0;
    Tensor slope = empty_on(values, {0}, DType::Double), above = slope;
    if (in.near_wanted() || p.measured) {
      slope = steepest_slope(cuda, values, shape);
      p.slope = data<double>(slope);
    }
    if (in.near_wanted()) above = widest_footprint(cuda, p, values);
    const GridOccupancy found =
        find_occupancy(cuda, values, shape, level, in.near_wanted() ? data<double>(above) : nullptr,
                       in.near_wanted(), layout.count);
    p.rays.occupancy = found.occupancy;
    run_trace(cuda, p, !sphere.empty());
  });
  return out.tensors();
}

// The samples around hits, or around closest approaches, and what they receive.
template <typename scalar_t>
struct CellGradientTerms {
  CellGradient<scalar_t> from;

  DIFFISO_HD int64_t node(int corner) const { return from.cell.offset(corner); }
  DIFFISO_HD scalar_t value(int corner) const { return from.corner(corner); }
};

template <bool kApproach, typename scalar_t>
struct TraceTerms {
  static constexpr int kTerms = 8;
  TraceGradients<scalar_t> p;
  int64_t count;  // R

  DIFFISO_HD const int64_t* cells() const { return kApproach ? p.closest_cell : p.cell; }
  DIFFISO_HD bool gives(int64_t n) const { return cells()[n] >= 0; }
  DIFFISO_HD int64_t cell(int64_t n) const { return cell_of<scalar_t>(p.grid, cells()[n]); }
  DIFFISO_HD CellGradientTerms<scalar_t> terms(int64_t n) const {
    return {kApproach ? p.approach(n) : p.hit(n)};
  }
};

template <typename scalar_t>
struct TraceRayGradients {
  static constexpr int kShared = 0;
  TraceGradients<scalar_t> p;

  DIFFISO_HD RayGradient<scalar_t> backward(int64_t n, double*) const { return p.ray(n); }
};

std::tuple<Tensor, Tensor, Tensor> trace_backward(
    std::optional<Tensor> grad_t, std::optional<Tensor> grad_samples,
    std::optional<Tensor> grad_closest_t, Tensor values, Tensor origins, Tensor directions,
    Tensor t, Tensor status, Tensor cell, Tensor closest_t, Tensor closest_cell,
    Tensor closest_kind, std::vector<int64_t> size, std::vector<double> lower,
    std::vector<double> spacing, bool sdfdiff_law, double min_cosine, bool with_rays,
    bool deterministic) {
  const CudaContext cuda(values);
  const char* op = "trace_backward";
  const GridShape shape = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, shape, tensors);
  check_trace_backward(values, layout, t, status, cell, closest_t, closest_cell, closest_kind,
                       grad_t, grad_samples, grad_closest_t);
  Tensor grad_values = zeros_like(values);
  Tensor grad_origins = zeros_like(origins), grad_directions = zeros_like(directions);
  if (layout.count == 0) return {grad_values, grad_origins, grad_directions};
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const TraceGradients<scalar_t> p{shape,
                                     rays_of<scalar_t>(layout, tensors),
                                     data<scalar_t>(values),
                                     data<scalar_t>(t),
                                     data<RayStatus>(status),
                                     data<int64_t>(cell),
                                     data<scalar_t>(closest_t),
                                     data<int64_t>(closest_cell),
                                     data<ApproachKind>(closest_kind),
                                     data<scalar_t>(grad_t),
                                     data<scalar_t>(grad_samples),
                                     data<scalar_t>(grad_closest_t),
                                     {sdfdiff_law, min_cosine}};
    auto* out = static_cast<scalar_t*>(grad_values.mutable_data_ptr());
    if (p.grad_t || p.grad_samples) {
      const TraceTerms<false, scalar_t> hits{p, layout.count};
      scatter_terms(cuda, hits, out, deterministic);
    }
    if (p.grad_closest_t) {
      const TraceTerms<true, scalar_t> approaches{p, layout.count};
      scatter_terms(cuda, approaches, out, deterministic);
    }
    if (!with_rays) return;
    sum_ray_gradients(cuda, TraceRayGradients<scalar_t>{p}, p.rays, shape.batch,
                      {&grad_origins, &grad_directions, nullptr});
  });
  return {grad_values, grad_origins, grad_directions};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("trace", TORCH_BOX(&trace));
  m.impl("trace_backward", TORCH_BOX(&trace_backward));
}

}  // namespace diffiso
