// SPDX-License-Identifier: Apache-2.0
// Rays through grids on the CPU, and what their hits pass back. One task a run of rays; no ray knows
// of another, so that output does not depend on the number of threads. Where a ray can hit anything
// is worked out anew in each call, in one pass over the grid (occupancy.h). The backward gathers the
// samples again; its sums are taken in the order of the rays.
#include <algorithm>

#include "common/trace_tensors.h"
#include "core/trace_gradients.h"
#include "cpu/occupancy.h"
#include "cpu/rays.h"
#include "cpu/simd.h"
#include "cpu/trace_rays.h"

namespace diffiso {
namespace {

constexpr int64_t kRaysPerTask = 2048, kTileWidth = 8, kTileHeight = 4;

// The rays of a task, [begin, end) of one picture or grid, in the order to trace them. Those of a
// picture go by tiles of 8 x 4 pixels, row by row of tiles: neighbours take the same way.
template <typename scalar_t>
int64_t order_rays(const RayBundle<scalar_t>& rays, int64_t first, int64_t begin, int64_t end,
                   int64_t* order) {
  int64_t count = 0;
  if (!rays.is_picture()) {
    for (int64_t n = begin; n < end; ++n) order[count++] = first + n;
    return count;
  }
  const int64_t last_row = end / rays.width;
  for (int64_t y = begin / rays.width; y < last_row; y += kTileHeight) {
    for (int64_t x = 0; x < rays.width; x += kTileWidth) {
      for (int64_t j = y; j < std::min(y + kTileHeight, last_row); ++j) {
        for (int64_t i = x; i < std::min(x + kTileWidth, rays.width); ++i) {
          order[count++] = first + j * rays.width + i;
        }
      }
    }
  }
  return count;
}

// Calls loop(p, rays, count) for as many rays as a task takes, of one picture or grid each.
template <typename Loop, typename scalar_t>
void trace_all(const TraceRays<scalar_t>& p, const Loop& loop) {
  const bool picture = p.rays.is_picture();
  const int64_t group = picture ? p.rays.height * p.rays.width : p.rays.per_grid;
  const int64_t row = picture ? kTileHeight * p.rays.width : 1;
  const int64_t piece = std::max<int64_t>(1, kRaysPerTask / row) * row;
  const int64_t pieces = (group + piece - 1) / piece;
  parallel_tasks(p.rays.count / group * pieces, [&](int64_t task) {
    std::vector<int64_t> order(piece);
    const int64_t begin = task % pieces * piece, end = std::min(begin + piece, group);
    const int64_t count = order_rays(p.rays, task / pieces * group, begin, end, order.data());
    loop(p, order.data(), count);
  });
}

// The fastest loop for these rays that this processor runs: many side by side, if it can be done in
// 32 bits.
template <typename scalar_t>
void trace_all(const TraceRays<scalar_t>& p) {
#ifdef __x86_64__
  if constexpr (sizeof(scalar_t) == 4) {
    const bool fits =
        p.shape.nodes_per_grid() < INT32_MAX && p.occupancy.words_per_grid() < INT32_MAX;
    const SimdLevel level = fits && !p.sphere ? simd_level() : SimdLevel::kGeneric;
    if (level == SimdLevel::kAvx512) return trace_all(p, trace_rays_avx512);
    if (level == SimdLevel::kAvx2) return trace_all(p, trace_rays_avx2);
  }
#endif
  trace_all(p, trace_rays_generic<scalar_t>);
}

// The farthest that any pixel is from its ray, anywhere in the box: half its width there.
template <typename scalar_t>
double widest_footprint(const TraceRays<scalar_t>& p) {
  std::vector<double> widest((p.rays.count + kRaysPerTask - 1) / kRaysPerTask, 0);
  parallel_pieces(p.rays.count, kRaysPerTask, [&](int64_t begin, int64_t end) {
    double most = 0;
    for (int64_t n = begin; n < end; ++n) {
      const GridRay<scalar_t> ray(p.shape, p.rays[n], p.near, p.far);
      if (ray.inside) most = std::max<double>(most, p.touched(n, ray.t(ray.length)));
    }
    widest[begin / kRaysPerTask] = most;
  });
  return *std::max_element(widest.begin(), widest.end());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> trace(
    Tensor values, Tensor origins, Tensor directions, Tensor footprint, std::vector<int64_t> size,
    std::vector<double> lower, std::vector<double> spacing, double level, double near, double far,
    int64_t inside, std::vector<double> sphere, bool, double, bool capture) {
  const char* op = "trace";
  const GridShape shape = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, shape, tensors);
  check_per_group(op, "footprint", values, footprint, layout, 1);
  check_numbers(op, "footprint", footprint, true);
  const TraceInput in{values, footprint, tensors, level, near, far, inside};
  TraceOutput out(in, layout.count, capture);
  if (layout.count == 0) return out.tensors();
  const bool measured = in.near_wanted() || (!sphere.empty() && sphere[3] <= 0);
  const double slope = measured ? steepest_slope(values, shape) : 0;
  const SphereRule rule = sphere_rule(sphere, slope);
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    TraceRays<scalar_t> p = trace_rays<scalar_t>(in, shape, layout, out);
    p.sphere = sphere.empty() ? nullptr : &rule;
    p.slope = std::max(slope, kLeastSlope);
    const double above = in.near_wanted() ? widest_footprint(p) : 0;
    const GridOccupancy found =
        find_occupancy(values, shape, level + above, in.near_wanted(), layout.count);
    p.occupancy = found.occupancy;
    trace_all(p);
  });
  return out.tensors();
}

template <typename scalar_t>
void add_corners(const CellGradient<scalar_t>& from, const OwnedNodes<scalar_t>& owned) {
  for (int c = 0; c < 8; ++c) owned.add(from.cell.offset(c), from.corner(c));
}

std::tuple<Tensor, Tensor, Tensor> trace_backward(
    std::optional<Tensor> grad_t, std::optional<Tensor> grad_samples,
    std::optional<Tensor> grad_closest_t, Tensor values, Tensor origins, Tensor directions,
    Tensor t, Tensor status, Tensor cell, Tensor closest_t, Tensor closest_cell,
    Tensor closest_kind, std::vector<int64_t> size, std::vector<double> lower,
    std::vector<double> spacing, bool sdfdiff_law, double min_cosine, bool with_rays, bool) {
  const char* op = "trace_backward";
  const GridShape shape = check_grid(op, values, lower, spacing);
  const RayTensors tensors{origins, directions, size};
  const RayLayout layout = check_rays(op, values, shape, tensors);
  check_trace_backward(values, layout, t, status, cell, closest_t, closest_cell, closest_kind,
                       grad_t, grad_samples, grad_closest_t);
  Tensor grad_values = zeros_like(values);
  Tensor grad_origins = zeros_like(origins), grad_directions = zeros_like(directions);
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
      scatter_rays(shape, p.cell, layout.count, out,
                   [&](int64_t n, const auto& owned) { add_corners(p.hit(n), owned); });
    }
    if (p.grad_closest_t) {
      scatter_rays(shape, p.closest_cell, layout.count, out,
                   [&](int64_t n, const auto& owned) { add_corners(p.approach(n), owned); });
    }
    if (!with_rays) return;
    sum_rays(p.rays, shape.batch, &grad_origins, &grad_directions,
             [&](int64_t n, RayTotals&) { return p.ray(n); });
  });
  return {grad_values, grad_origins, grad_directions};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("trace", TORCH_BOX(&trace));
  m.impl("trace_backward", TORCH_BOX(&trace_backward));
}

}  // namespace diffiso
