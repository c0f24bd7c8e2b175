// SPDX-License-Identifier: Apache-2.0
// The one trilinear stencil: where a point falls in a grid, the eight samples around it, their
// weights and the weights' derivatives. Sampling, scattering and every backward go through it.
#pragma once

#include "core/grid.h"

namespace diffiso {

// Where a coordinate falls along one axis. The cell is the one of the lower index rounded down; the
// last node belongs to the last cell. Outside the box it is that of the nearest face, and `excess`
// is the way from there in world units, else zero. NaN takes the first cell and is carried on by
// its excess.
template <typename scalar_t>
struct AxisPlace {
  int64_t cell;
  scalar_t fraction, excess;

  DIFFISO_HD AxisPlace(const GridShape& grid, int axis, scalar_t p) {
    const int64_t cells = grid.size[axis] - 1;
    const scalar_t low = static_cast<scalar_t>(grid.lower[axis]);
    const scalar_t high =
        static_cast<scalar_t>(grid.lower[axis] + static_cast<double>(cells) * grid.spacing[axis]);
    // Compared in world units, so that the box's own bounds, as given, count as inside it.
    excess = p > high ? p - high : p >= low ? scalar_t{0} : p - low;
    const scalar_t last = static_cast<scalar_t>(cells);
    const scalar_t place = (p - low) / static_cast<scalar_t>(grid.spacing[axis]);
    const scalar_t inside = place > last ? last : place >= 0 ? place : scalar_t{0};
    const int64_t floored = static_cast<int64_t>(inside);
    cell = floored < cells ? floored : cells - 1;
    fraction = inside - static_cast<scalar_t>(cell);
  }
};

// A point's cell and its place in it; corner c = 4*dx + 2*dy + dz. A point outside the box takes
// the stencil of the box's nearest point.
template <typename scalar_t>
struct TrilinearStencil {
  int64_t first;      // flat index of the cell's lower node
  int64_t stride[2];  // flat steps in x and y (z is contiguous)
  Vec3<scalar_t> fraction, spacing, excess;

  DIFFISO_HD TrilinearStencil(const GridShape& grid, int64_t batch, Vec3<scalar_t> point) {
    int64_t cell[3];
    for (int axis = 0; axis < 3; ++axis) {
      const AxisPlace<scalar_t> place(grid, axis, point[axis]);
      cell[axis] = place.cell;
      fraction[axis] = place.fraction;
      excess[axis] = place.excess;
      spacing[axis] = static_cast<scalar_t>(grid.spacing[axis]);
    }
    stride[0] = grid.size[1] * grid.size[2];
    stride[1] = grid.size[2];
    first = grid.node(batch, cell[0], cell[1], cell[2]);
  }

  DIFFISO_HD int64_t offset(int corner) const {
    return first + (corner >> 2) * stride[0] + (corner >> 1 & 1) * stride[1] + (corner & 1);
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

// Value and gradient of the interpolated field, continued outside the box by the distance to it.
template <typename scalar_t>
struct FieldSample {
  scalar_t value;
  Vec3<scalar_t> gradient;
};

template <typename scalar_t>
DIFFISO_HD FieldSample<scalar_t> interpolate(const TrilinearStencil<scalar_t>& stencil,
                                             const scalar_t* values) {
  FieldSample<scalar_t> sample{0, {0, 0, 0}};
  for (int corner = 0; corner < 8; ++corner) {
    const scalar_t value = values[stencil.offset(corner)];
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

  DIFFISO_HD scalar_t corner(const TrilinearStencil<scalar_t>& stencil, int c) const {
    return grad_value * stencil.weight(c) + dot(grad_gradient, stencil.weight_gradient(c));
  }

  DIFFISO_HD Vec3<scalar_t> point(const TrilinearStencil<scalar_t>& stencil,
                                  const scalar_t* values) const {
    Vec3<scalar_t> out{0, 0, 0};
    for (int c = 0; c < 8; ++c) {
      const scalar_t value = values[stencil.offset(c)];
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
