// SPDX-License-Identifier: Apache-2.0
// The one trilinear stencil: where a point falls in a grid, the eight samples around it, their
// weights and the weights' derivatives. Sampling, scattering and every backward go through it. Dense
// and sparse grids differ in where the samples lie, and in nothing else.
#pragma once

#include "core/bricks.h"

namespace diffiso {

// Where a coordinate falls along one axis. The cell is the one of the lower index rounded down; the
// last node belongs to the last cell. Outside the box it is that of the nearest face, and `excess`
// is the way from there in world units, else zero. NaN takes the first cell and is carried on by
// its excess.
template <typename scalar_t>
struct AxisPlace {
  int64_t cell;
  scalar_t fraction, excess;

  DIFFISO_HD AxisPlace(const AxisNodes& axis, scalar_t p) {
    const int64_t cells = axis.count - 1;
    const scalar_t low = static_cast<scalar_t>(axis.lower);
    const scalar_t high =
        static_cast<scalar_t>(axis.lower + static_cast<double>(cells) * axis.spacing);
    // Compared in world units, so that the box's own bounds, as given, count as inside it.
    excess = p > high ? p - high : p >= low ? scalar_t{0} : p - low;
    const scalar_t last = static_cast<scalar_t>(cells);
    const scalar_t place = (p - low) / static_cast<scalar_t>(axis.spacing);
    const scalar_t inside = place > last ? last : place >= 0 ? place : scalar_t{0};
    const int64_t floored = static_cast<int64_t>(inside);
    cell = floored < cells ? floored : cells - 1;
    fraction = inside - static_cast<scalar_t>(cell);
  }
};

// A point's cell and its place in it, and so what the corners of the cell weigh; corner c = 4*dx +
// 2*dy + dz. A point outside the box has the place of the box's nearest point.
template <typename scalar_t>
struct TrilinearPlace {
  int64_t cell[3];  // its lower node
  Vec3<scalar_t> fraction, spacing, excess;

  template <typename Shape>
  DIFFISO_HD TrilinearPlace(const Shape& shape, Vec3<scalar_t> point) {
    for (int axis = 0; axis < 3; ++axis) {
      const AxisPlace<scalar_t> place(shape.axis(axis), point[axis]);
      cell[axis] = place.cell;
      fraction[axis] = place.fraction;
      excess[axis] = place.excess;
      spacing[axis] = static_cast<scalar_t>(shape.spacing[axis]);
    }
  }

  // A point of a known cell, such as a hit's; rounding may put it a little outside.
  DIFFISO_HD TrilinearPlace(const GridShape& shape, const int64_t of[3], Vec3<scalar_t> point)
      : excess{0, 0, 0} {
    for (int axis = 0; axis < 3; ++axis) {
      cell[axis] = of[axis];
      spacing[axis] = static_cast<scalar_t>(shape.spacing[axis]);
      fraction[axis] = static_cast<scalar_t>(
          (static_cast<double>(point[axis]) - shape.lower[axis]) / shape.spacing[axis] -
          static_cast<double>(of[axis]));
    }
  }

  DIFFISO_HD bool is_outside(int axis) const { return excess[axis] != 0; }

  // Weight of a corner along one axis, and the derivative of that in world units.
  DIFFISO_HD scalar_t axis_weight(int corner, int axis) const {
    return corner >> (2 - axis) & 1 ? fraction[axis] : 1 - fraction[axis];
  }
  DIFFISO_HD scalar_t axis_slope(int corner, int axis) const {
    if (is_outside(axis)) return 0;
    return (corner >> (2 - axis) & 1 ? scalar_t{1} : scalar_t{-1}) / spacing[axis];
  }

  DIFFISO_HD scalar_t weight(int corner) const {
    return axis_weight(corner, 0) * axis_weight(corner, 1) * axis_weight(corner, 2);
  }

  // d weight / d point, zero along the axes where the point is outside.
  DIFFISO_HD Vec3<scalar_t> weight_gradient(int corner) const {
    const scalar_t x = axis_weight(corner, 0), y = axis_weight(corner, 1),
                   z = axis_weight(corner, 2);
    return {axis_slope(corner, 0) * y * z, x * axis_slope(corner, 1) * z,
            x * y * axis_slope(corner, 2)};
  }

  // (d2 weight / d point2) * v: the mixed derivatives, since a weight is linear along each axis.
  DIFFISO_HD Vec3<scalar_t> weight_hessian_times(int corner, Vec3<scalar_t> v) const {
    const scalar_t x = axis_weight(corner, 0), y = axis_weight(corner, 1),
                   z = axis_weight(corner, 2);
    const scalar_t dx = axis_slope(corner, 0), dy = axis_slope(corner, 1),
                   dz = axis_slope(corner, 2);
    return {dx * (dy * z * v.y + y * dz * v.z), dy * (dx * z * v.x + x * dz * v.z),
            dz * (dx * y * v.x + x * dy * v.y)};
  }
};

// The stencil of a dense grid.
template <typename scalar_t>
struct GridStencil : TrilinearPlace<scalar_t> {
  int64_t cell_id;    // flat index of the cell's lower node: no other cell has it
  int64_t stride[2];  // flat steps in x and y (z is contiguous)

  DIFFISO_HD GridStencil(const GridShape& grid, int64_t batch, Vec3<scalar_t> point)
      : TrilinearPlace<scalar_t>(grid, point),
        cell_id(grid.node(batch, this->cell[0], this->cell[1], this->cell[2])),
        stride{grid.size[1] * grid.size[2], grid.size[2]} {}

  // Where the sample of a corner is stored.
  DIFFISO_HD int64_t offset(int corner) const {
    return cell_id + (corner >> 2) * stride[0] + (corner >> 1 & 1) * stride[1] + (corner & 1);
  }
  DIFFISO_HD scalar_t sample(const scalar_t* values, int corner) const {
    return values[offset(corner)];
  }
  // Where the gradient of a corner goes, and whether that is nowhere.
  DIFFISO_HD int64_t target(const scalar_t*, int corner) const { return offset(corner); }
  DIFFISO_HD static bool is_absent(int64_t) { return false; }
};

// The stencil of a sparse grid: a corner that no brick has reads as NaN, its offset is -1. Nothing
// goes to an absent corner, whether it is that or a NaN stored in a brick.
template <typename scalar_t>
struct BrickStencil : TrilinearPlace<scalar_t> {
  const BrickShape& bricks;
  int64_t cell_id;  // flat index of the cell's lower node in the whole lattice
  int64_t first;    // where the sample of that node is stored, or -1

  DIFFISO_HD BrickStencil(const BrickShape& shape, Vec3<scalar_t> point)
      : TrilinearPlace<scalar_t>(shape, point),
        bricks(shape),
        cell_id(shape.node(this->cell[0], this->cell[1], this->cell[2])),
        first(shape.offset(this->cell[0], this->cell[1], this->cell[2])) {}

  DIFFISO_HD int64_t offset(int corner) const {
    const int64_t x = this->cell[0], y = this->cell[1], z = this->cell[2];
    const int dx = corner >> 2, dy = corner >> 1 & 1, dz = corner & 1;
    const bool in_one_brick = (x & 7) < 7 && (y & 7) < 7 && (z & 7) < 7;  // two cells of three
    if (!in_one_brick) return bricks.offset(x + dx, y + dy, z + dz);
    return first < 0 ? -1 : first + 64 * dx + 8 * dy + dz;
  }
  DIFFISO_HD scalar_t sample(const scalar_t* values, int corner) const {
    const int64_t stored = offset(corner);
    return stored < 0 ? static_cast<scalar_t>(NAN) : values[stored];
  }
  DIFFISO_HD int64_t target(const scalar_t* values, int corner) const {
    const int64_t stored = offset(corner);
    return stored < 0 || std::isnan(values[stored]) ? -1 : stored;
  }
  DIFFISO_HD static bool is_absent(int64_t target) { return target < 0; }
};

// Value and gradient of the interpolated field, continued outside the box by the distance to it.
template <typename scalar_t>
struct FieldSample {
  scalar_t value;
  Vec3<scalar_t> gradient;
};

template <typename Stencil, typename scalar_t>
DIFFISO_HD FieldSample<scalar_t> interpolate(const Stencil& stencil, const scalar_t* values) {
  FieldSample<scalar_t> sample{0, {0, 0, 0}};
  for (int corner = 0; corner < 8; ++corner) {
    const scalar_t value = stencil.sample(values, corner);
    sample.value += stencil.weight(corner) * value;
    sample.gradient = sample.gradient + stencil.weight_gradient(corner) * value;
  }
  const scalar_t distance = length(stencil.excess);
  if (distance != 0) {  // also where it is NaN
    sample.value += distance;
    sample.gradient = sample.gradient + stencil.excess / distance;
  }
  return sample;
}

// What the samples of a point's cell receive when the point's value and gradient receive gradients,
// and what the point itself receives.
template <typename scalar_t>
struct InterpolateBackward {
  scalar_t grad_value;
  Vec3<scalar_t> grad_gradient;

  DIFFISO_HD scalar_t corner(const TrilinearPlace<scalar_t>& place, int c) const {
    return grad_value * place.weight(c) + dot(grad_gradient, place.weight_gradient(c));
  }

  template <typename Stencil>
  DIFFISO_HD Vec3<scalar_t> point(const Stencil& stencil, const scalar_t* values) const {
    Vec3<scalar_t> out{0, 0, 0};
    for (int c = 0; c < 8; ++c) {
      const scalar_t value = stencil.sample(values, c);
      out = out + stencil.weight_gradient(c) * (value * grad_value) +
            stencil.weight_hessian_times(c, grad_gradient) * value;
    }
    const scalar_t distance = length(stencil.excess);
    if (distance != 0) {
      const Vec3<scalar_t> away = stencil.excess / distance;
      out = out + away * grad_value;
      // The direction away from the box turns only within the axes that are outside.
      const scalar_t along = dot(grad_gradient, away);
      for (int axis = 0; axis < 3; ++axis) {
        if (!stencil.is_outside(axis)) continue;
        out[axis] += (grad_gradient[axis] - along * away[axis]) / distance;
      }
    }
    return out;
  }
};

}  // namespace diffiso
