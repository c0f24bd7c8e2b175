// SPDX-License-Identifier: Apache-2.0
// What the ops of tracing ask of their tensors, as checks.h.
#pragma once

#include "common/checks.h"
#include "core/sphere_trace.h"

namespace diffiso {

// A flatter field counts as so steep where its closest approach is looked for: what coverage takes
// unless told otherwise.
constexpr double kLeastSlope = 0.1;

// Where the rays of an op stand, as tensors.
struct RayTensors {
  const Tensor& origins;
  const Tensor& directions;
  const std::vector<int64_t>& size;
};

// How many rays there are, and how they are laid out; pointers are set by rays_of.
struct RayLayout {
  int64_t count, per_grid, height, width;
  int64_t sources;  // rows of origins
};

inline RayLayout check_rays(const char* op, const Tensor& values, const GridShape& grid,
                            const RayTensors& rays) {
  check(is_floating(values.scalar_type()), op,
        ": grid must be torch.float32 or torch.float64, got ", dtype_name(values.scalar_type()));
  check(values.dim() == 0 || grid.nodes_per_grid() < (int64_t{1} << 47), op, ": grid is too large");
  for (const auto& [name, tensor] :
       {std::pair{"origins", &rays.origins}, std::pair{"directions", &rays.directions}}) {
    check_same_device(op, values, name, *tensor);
    check_dtype(op, name, *tensor, values.scalar_type());
    check(tensor->is_contiguous(), op, ": ", name, " must be contiguous");
  }
  const Tensor &origins = rays.origins, &directions = rays.directions;
  RayLayout out{};
  if (rays.size.empty()) {
    check(origins.dim() == 3 && origins.size(2) == 3 && origins.size(0) == grid.batch, op,
          ": origins must be (P, 3), or (B, P, 3) with the batch of the grid, got ",
          shape_of(origins));
    bool same = directions.dim() == 3;
    for (int64_t d = 0; same && d < 3; ++d) same = directions.size(d) == origins.size(d);
    check(same, op, ": directions must have the shape of origins, ", shape_of(origins), ", got ",
          shape_of(directions));
    out.per_grid = origins.size(1);
    out.count = out.sources = grid.batch * out.per_grid;
    return out;
  }
  check(rays.size.size() == 2 && rays.size[0] > 0 && rays.size[1] > 0, op,
        ": size must be a height and a width");
  check(origins.dim() == 2 && origins.size(1) == 3, op,
        ": origins of pictures must be (N, 3), got ", shape_of(origins));
  check(directions.dim() == 3 && directions.size(0) == origins.size(0) && directions.size(1) == 3 &&
            directions.size(2) == 3,
        op, ": directions of pictures must be (N, 3, 3), got ", shape_of(directions));
  out.sources = origins.size(0);
  check(grid.batch > 0 ? out.sources % grid.batch == 0 : out.sources == 0, op,
        ": cameras must be a multiple of the grids, got ", out.sources, " for ", grid.batch);
  out.height = rays.size[0];
  out.width = rays.size[1];
  out.count = out.sources * out.height * out.width;
  out.per_grid = grid.batch > 0 ? out.count / grid.batch : 0;
  return out;
}

template <typename scalar_t>
RayBundle<scalar_t> rays_of(const RayLayout& layout, const RayTensors& rays) {
  return {layout.count,
          layout.per_grid,
          layout.height,
          layout.width,
          static_cast<const scalar_t*>(rays.origins.const_data_ptr()),
          static_cast<const scalar_t*>(rays.directions.const_data_ptr())};
}

// A tensor of one number a ray, or of none where it may be missing.
inline void check_per_ray(const char* op, const char* name, const Tensor& values,
                          const Tensor& tensor, DType dtype, int64_t count, bool optional = false) {
  check_same_device(op, values, name, tensor);
  check_dtype(op, name, tensor, dtype);
  const bool fits = tensor.dim() == 1 && tensor.is_contiguous() &&
                    (tensor.size(0) == count || (optional && tensor.size(0) == 0));
  check(fits, op, ": ", name, " must be contiguous (", count, ",), one a ray, got ",
        shape_of(tensor));
}

// Rows of numbers that go with every picture, or every grid of rays one by one; or one for all.
inline void check_per_group(const char* op, const char* name, const Tensor& values,
                            const Tensor& tensor, const RayLayout& layout, int64_t columns) {
  const int64_t groups = layout.height > 0 ? layout.sources : values.size(0);
  check_same_device(op, values, name, tensor);
  check_dtype(op, name, tensor, values.scalar_type());
  bool fits = tensor.dim() == (columns > 1 ? 2 : 1) && tensor.is_contiguous();
  if (fits && columns > 1) fits = tensor.size(1) == columns;
  fits = fits && (tensor.size(0) <= 1 || tensor.size(0) == groups);
  check(fits, op, ": ", name, " must be one for all rays, or one for each of ", groups,
        layout.height > 0 ? " cameras" : " grids", ", got ", shape_of(tensor));
}

// Numbers of such a tensor must be finite, and not negative where they are widths; those on a GPU
// nobody waits to look at.
inline void check_numbers(const char* op, const char* name, const Tensor& tensor, bool widths) {
  if (!tensor.is_cpu()) return;
  dispatch_floating(tensor.scalar_type(), [&]<typename scalar_t>() {
    const auto* at = static_cast<const scalar_t*>(tensor.const_data_ptr());
    for (int64_t n = 0; n < tensor.numel(); ++n) {
      const bool fits = at[n] * 0 == 0 && (!widths || at[n] >= 0);
      check(fits, op, ": ", name, widths ? " must not be negative" : " must be finite", ", got ",
            at[n]);
    }
  });
}

inline SphereRule sphere_rule(const std::vector<double>& sphere, double slope) {
  if (sphere.empty()) return {};
  check(sphere.size() == 5, "trace: sphere must have 5 numbers, got ", sphere.size());
  const double lipschitz = sphere[3] > 0 ? sphere[3] : slope > 0 ? slope : 1;
  return {sphere[0], sphere[1], static_cast<int64_t>(sphere[2]), lipschitz, sphere[4] != 0};
}

// Cells must be such as tracing gives; those on a GPU nobody waits to look at.
inline void check_cells(const char* op, const Tensor& values, const Tensor& cells) {
  if (!cells.is_cpu()) return;
  const auto* at = static_cast<const int64_t*>(cells.const_data_ptr());
  const int64_t nodes = values.numel();
  bool fits = true;
  for (int64_t n = 0; n < cells.size(0); ++n) fits &= at[n] >= -1 && at[n] < nodes;
  check(fits, op, ": cell must be -1 or the number of a cell's lower node, got one beyond the ",
        nodes, " nodes");
}

inline void check_hits(const char* op, const Tensor& values, const RayLayout& layout,
                       const Tensor& t, const Tensor& status, const Tensor& cell) {
  check_per_ray(op, "t", values, t, values.scalar_type(), layout.count);
  check_per_ray(op, "status", values, status, DType::Byte, layout.count);
  check_per_ray(op, "cell", values, cell, DType::Long, layout.count);
  check_cells(op, values, cell);
}

inline void check_trace_backward(const Tensor& values, const RayLayout& layout, const Tensor& t,
                                 const Tensor& status, const Tensor& cell, const Tensor& closest_t,
                                 const Tensor& closest_cell, const Tensor& closest_kind,
                                 const std::optional<Tensor>& grad_t,
                                 const std::optional<Tensor>& grad_samples,
                                 const std::optional<Tensor>& grad_closest_t) {
  const char* op = "trace_backward";
  const DType dtype = values.scalar_type();
  check_hits(op, values, layout, t, status, cell);
  const int64_t closest = closest_t.size(0);
  check(closest == 0 || closest == layout.count, op, ": closest_t must be one a ray");
  check_per_ray(op, "closest_t", values, closest_t, dtype, closest);
  check_per_ray(op, "closest_cell", values, closest_cell, DType::Long, closest);
  check_per_ray(op, "closest_kind", values, closest_kind, DType::Byte, closest);
  check_cells(op, values, closest_cell);
  if (grad_t) check_gradient(op, "grad_t", *grad_t, t, 1);
  if (grad_closest_t) check_gradient(op, "grad_closest_t", *grad_closest_t, closest_t, 1);
  if (!grad_samples) return;
  check_same_device(op, values, "grad_samples", *grad_samples);
  check_dtype(op, "grad_samples", *grad_samples, dtype);
  const bool none = grad_samples->numel() == 0;  // they were not captured
  check(none || (grad_samples->dim() == 2 && grad_samples->size(0) == layout.count &&
                 grad_samples->size(1) == 8 && grad_samples->is_contiguous()),
        op, ": grad_samples must be contiguous (R, 8), got ", shape_of(*grad_samples));
}

inline void check_shade(const char* op, const Tensor& values, const RayLayout& layout,
                        const Tensor& t, const Tensor& status, const Tensor& cell,
                        const Tensor& light) {
  check_hits(op, values, layout, t, status, cell);
  check_per_group(op, "light", values, light, layout, 3);
  check_numbers(op, "light", light, false);
}

inline void check_normals_gradient(const char* op, const Tensor& grad, const Tensor& t) {
  check_same_device(op, t, "grad_normals", grad);
  check_dtype(op, "grad_normals", grad, t.scalar_type());
  check(grad.dim() == 2 && grad.size(0) == t.size(0) && grad.size(1) == 3 && grad.is_contiguous(),
        op, ": grad_normals must be contiguous (R, 3), got ", shape_of(grad));
}

inline void check_coverage(const char* op, const Tensor& values, const RayLayout& layout,
                           const Tensor& closest_t, const Tensor& closest_cell,
                           const Tensor& footprint) {
  check_per_ray(op, "closest_t", values, closest_t, values.scalar_type(), layout.count);
  check_per_ray(op, "closest_cell", values, closest_cell, DType::Long, layout.count);
  check_cells(op, values, closest_cell);
  check_per_group(op, "footprint", values, footprint, layout, 1);
  check_numbers(op, "footprint", footprint, true);
  check(footprint.size(0) > 0, op, ": footprint must have at least one number");
}

// Tensors as the kernels see them.
template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor && tensor->numel() > 0 ? data<T>(*tensor) : nullptr;
}

inline Tensor zeros_like(const Tensor& like) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < like.dim(); ++d) sizes.push_back(like.size(d));
  return zeros_on(like, sizes, like.scalar_type());
}

}  // namespace diffiso
