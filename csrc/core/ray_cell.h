// SPDX-License-Identifier: Apache-2.0
// The eight samples around a point of a ray whose cell is known, and what moves with them: the
// local derivative of SDFDiff (section 4), to which tracing itself adds nothing.
#pragma once

#include "core/rays.h"
#include "core/trilinear.h"

namespace diffiso {

// The stencil of a point on a ray, in the cell that tracing found; none for a cell of -1.
template <typename scalar_t>
struct RayCell : TrilinearPlace<scalar_t> {
  int64_t cell_id;    // flat index of the cell's lower node among all samples, or -1
  int64_t stride[2];  // flat steps in x and y

  DIFFISO_HD RayCell(const GridShape& grid, int64_t node, Vec3<scalar_t> point)
      : RayCell(grid, node, place(grid, node < 0 ? 0 : node), point) {}

  DIFFISO_HD bool found() const { return cell_id >= 0; }
  DIFFISO_HD int64_t offset(int corner) const {
    return cell_id + (corner >> 2) * stride[0] + (corner >> 1 & 1) * stride[1] + (corner & 1);
  }
  DIFFISO_HD scalar_t sample(const scalar_t* values, int corner) const {
    return values[offset(corner)];
  }
  DIFFISO_HD int64_t target(const scalar_t*, int corner) const {
    return found() ? offset(corner) : -1;
  }
  DIFFISO_HD static bool is_absent(int64_t target) { return target < 0; }

 private:
  struct Place {
    int64_t grid, cell[3];
  };
  // The last nodes belong to the last cells, so that no number leads out of the samples.
  DIFFISO_HD static Place place(const GridShape& grid, int64_t node) {
    const int64_t row = quotient(node, grid.size[2]), plane = quotient(row, grid.size[1]);
    const int64_t number = quotient(plane, grid.size[0]);
    Place out{number < grid.batch ? number : grid.batch - 1, {}};
    const int64_t at[3] = {plane - number * grid.size[0], row - plane * grid.size[1],
                           node - row * grid.size[2]};
    for (int a = 0; a < 3; ++a) {
      const int64_t last = grid.size[a] - 2;
      out.cell[a] = at[a] < last ? at[a] : last;
    }
    return out;
  }
  DIFFISO_HD RayCell(const GridShape& grid, int64_t node, const Place& at, Vec3<scalar_t> point)
      : TrilinearPlace<scalar_t>(grid, at.cell, point),
        cell_id(node < 0 ? -1 : grid.node(at.grid, at.cell[0], at.cell[1], at.cell[2])),
        stride{grid.size[1] * grid.size[2], grid.size[2]} {}
};

template <typename scalar_t>
DIFFISO_HD Vec3<scalar_t> point_at(const Ray<scalar_t>& ray, scalar_t t) {
  return ray.origin + ray.direction * t;
}

// What a ray receives.
template <typename scalar_t>
struct RayGradient {
  Vec3<scalar_t> origin{0, 0, 0}, direction{0, 0, 0};

  // From its point at t.
  DIFFISO_HD void add_point(Vec3<scalar_t> point, scalar_t t) {
    origin = origin + point;
    direction = direction + point * t;
  }
};

// How a hit moves along its ray with the field there: dt = factor * df.
//
// Implicit: from f(o + t d) = level, so factor = -1 / (grad f . d); the cosine between the two counts
// as at least so much, with the sign that the hit has. SDFDiff: p = s + f(s) d / |d|.
struct HitLaw {
  bool sdfdiff;
  double min_cosine;
};

template <typename scalar_t>
DIFFISO_HD scalar_t hit_factor(Vec3<scalar_t> gradient, Vec3<scalar_t> direction, bool leaves,
                               HitLaw law) {
  const scalar_t pace = length(direction);
  if (law.sdfdiff) return (leaves ? -1 : 1) / pace;
  const scalar_t steepest = length(gradient) * pace;
  if (!(steepest > 0)) return 0;
  const scalar_t along = leaves ? dot(gradient, direction) : -dot(gradient, direction);
  const scalar_t least = static_cast<scalar_t>(law.min_cosine) * steepest;
  return (leaves ? -1 : 1) / (along > least ? along : least);
}

// The closest approach where the field has a minimum along the ray: its slope there is zero, so that
// dt = factor * d(slope). Zero where the field is too straight to tell.
template <typename scalar_t>
DIFFISO_HD scalar_t approach_factor(const RayCell<scalar_t>& cell, const scalar_t* values,
                                    Vec3<scalar_t> direction) {
  scalar_t bend = 0, size = 0;
  for (int c = 0; c < 8; ++c) {
    const scalar_t term =
        dot(direction, cell.weight_hessian_times(c, direction)) * cell.sample(values, c);
    bend += term;
    size += std::abs(term);
  }
  constexpr scalar_t kRounding = sizeof(scalar_t) == 8 ? scalar_t(1e-12) : scalar_t(1e-4);
  return bend > kRounding * size ? -1 / bend : scalar_t{0};
}

}  // namespace diffiso
