// SPDX-License-Identifier: Apache-2.0
// Normals at hits, diffuse light and coverage, each with what it passes back. SDFDiff, section 4.
#pragma once

#include <limits>
#include <utility>

#include "core/ray_cell.h"

namespace diffiso {

// Along one axis, the nodes -1 to 2 of a cell: weights of the interpolated central difference, and of
// the interpolated value, with their derivatives in the point; per world unit. At the box's border
// differences are one-sided, of second order, or of first order where there are but two nodes.
template <typename scalar_t>
struct AxisTaps {
  scalar_t slope[4], slope_change[4], value[2], value_change[2];

  DIFFISO_HD AxisTaps(int64_t cell, int64_t nodes, scalar_t fraction, scalar_t spacing) {
    const scalar_t h = 1 / spacing, half = h / 2;
    scalar_t low[4] = {-half, 0, half, 0}, high[4] = {0, -half, 0, half};
    if (nodes == 2) {
      low[0] = high[3] = 0;
      low[1] = high[1] = -h;
      low[2] = high[2] = h;
    } else {
      if (cell == 0) {
        low[0] = 0;
        low[1] = -3 * half;
        low[2] = 4 * half;
        low[3] = -half;
      }
      if (cell == nodes - 2) {
        high[0] = half;
        high[1] = -4 * half;
        high[2] = 3 * half;
        high[3] = 0;
      }
    }
    for (int i = 0; i < 4; ++i) {
      slope[i] = (1 - fraction) * low[i] + fraction * high[i];
      slope_change[i] = (high[i] - low[i]) * h;
    }
    value[0] = 1 - fraction;
    value[1] = fraction;
    value_change[0] = -h;
    value_change[1] = h;
  }
};

// The gradient of the field at a point, by differences over the 4 x 4 x 4 nodes around it, or by
// the cell's own eight where one of those is not finite, or `central` is false.
template <typename scalar_t>
struct NormalStencil {
  int64_t corner;     // flat index of node -1 along each axis
  int64_t stride[2];  // flat steps in x and y
  AxisTaps<scalar_t> taps[3];
  bool central;

  // Nodes are numbered 16 x + 4 y + z, each 0 to 3 for nodes -1 to 2 of the cell. Only those that
  // are off the cell along one axis at most have a weight: thirty-two.
  static constexpr int kNodes = 32;
  DIFFISO_HD static int node(int k) {
    static constexpr uint8_t nodes[kNodes] = {
        5,  6,  9,  10, 20, 21, 22, 23, 24, 25, 26, 27, 17, 18, 29, 30,
        36, 37, 38, 39, 40, 41, 42, 43, 33, 34, 45, 46, 53, 54, 57, 58,
    };
    return nodes[k];
  }

  DIFFISO_HD NormalStencil(const GridShape& grid, const RayCell<scalar_t>& at,
                           const scalar_t* values, bool wants_central)
      : corner(at.cell_id - at.stride[0] - at.stride[1] - 1),
        stride{at.stride[0], at.stride[1]},
        taps{axis_taps(grid, at, 0), axis_taps(grid, at, 1), axis_taps(grid, at, 2)},
        central(wants_central) {
    if (wants_central) central = sum_of_zeros(values, Nodes{}) == 0;
  }

  DIFFISO_HD static int along(int n, int axis) { return n >> (4 - 2 * axis) & 3; }
  DIFFISO_HD int64_t offset(int n) const {
    return corner + along(n, 0) * stride[0] + along(n, 1) * stride[1] + along(n, 2);
  }
  // Whether a node has a weight; if not it may lie outside the grid.
  DIFFISO_HD bool is_used(int n) const {
    for (int a = 0; a < 3; ++a) {
      const int i = along(n, a);
      if (is_off(i)) return central && (taps[a].slope[i] != 0 || taps[a].slope_change[i] != 0);
    }
    return true;
  }

  // What a node weighs in the gradient's x, y and z.
  DIFFISO_HD Vec3<scalar_t> weight(const RayCell<scalar_t>& cell, int n) const {
    if (!central) return own_corner(n) >= 0 ? cell.weight_gradient(own_corner(n)) : zero();
    Vec3<scalar_t> out;
    for (int a = 0; a < 3; ++a) {
      const int b = a == 0 ? 1 : 0, c = a == 2 ? 1 : 2;
      out[a] = taps[a].slope[along(n, a)] * value(b, n) * value(c, n);
    }
    return out;
  }
  // (d weight / d point)^T * v.
  DIFFISO_HD Vec3<scalar_t> weight_change(const RayCell<scalar_t>& cell, int n,
                                          Vec3<scalar_t> v) const {
    if (!central) return own_corner(n) >= 0 ? cell.weight_hessian_times(own_corner(n), v) : zero();
    Vec3<scalar_t> out{0, 0, 0};
    for (int a = 0; a < 3; ++a) {
      const int b = a == 0 ? 1 : 0, c = a == 2 ? 1 : 2, i = along(n, a);
      out[a] += v[a] * taps[a].slope_change[i] * value(b, n) * value(c, n);
      out[b] += v[a] * taps[a].slope[i] * change(b, n) * value(c, n);
      out[c] += v[a] * taps[a].slope[i] * value(b, n) * change(c, n);
    }
    return out;
  }

  DIFFISO_HD Vec3<scalar_t> gradient(const RayCell<scalar_t>& cell, const scalar_t* values) const {
    return gradient(cell, values, Nodes{});
  }
  // What the point receives when the gradient receives `grad`.
  DIFFISO_HD Vec3<scalar_t> point(const RayCell<scalar_t>& cell, const scalar_t* values,
                                  Vec3<scalar_t> grad) const {
    return point(cell, values, grad, Nodes{});
  }
  // Gives the samples what they then receive: to.add(node, number).
  template <typename Samples>
  DIFFISO_HD void scatter(const RayCell<scalar_t>& cell, Vec3<scalar_t> grad,
                          const Samples& to) const {
    scatter(cell, grad, to, Nodes{});
  }

 private:
  // Sums over the nodes are written out, so that every number in them stays in a register. Weights
  // sum to zero: they weigh differences to one sample, so that a flat field's gradient is zero to
  // the last bit, however far from zero it lies.
  using Nodes = std::make_integer_sequence<int, kNodes>;

  template <int... k>
  DIFFISO_HD scalar_t sum_of_zeros(const scalar_t* values, std::integer_sequence<int, k...>) const {
    scalar_t sum = 0;
    ((sum += is_used(node(k)) ? values[offset(node(k))] * 0 : scalar_t{0}), ...);
    return sum;
  }
  template <int... k>
  DIFFISO_HD Vec3<scalar_t> gradient(const RayCell<scalar_t>& cell, const scalar_t* values,
                                     std::integer_sequence<int, k...>) const {
    const scalar_t base = values[cell.cell_id];
    Vec3<scalar_t> out = zero();
    ((out =
          is_used(node(k)) ? out + weight(cell, node(k)) * (values[offset(node(k))] - base) : out),
     ...);
    return out;
  }
  template <int... k>
  DIFFISO_HD Vec3<scalar_t> point(const RayCell<scalar_t>& cell, const scalar_t* values,
                                  Vec3<scalar_t> grad, std::integer_sequence<int, k...>) const {
    const scalar_t base = values[cell.cell_id];
    Vec3<scalar_t> out = zero();
    ((out = is_used(node(k))
                ? out + weight_change(cell, node(k), grad) * (values[offset(node(k))] - base)
                : out),
     ...);
    return out;
  }
  template <typename Samples, int... k>
  DIFFISO_HD void scatter(const RayCell<scalar_t>& cell, Vec3<scalar_t> grad, const Samples& to,
                          std::integer_sequence<int, k...>) const {
    (scatter_to(cell, grad, to, node(k)), ...);
  }
  template <typename Samples>
  DIFFISO_HD void scatter_to(const RayCell<scalar_t>& cell, Vec3<scalar_t> grad, const Samples& to,
                             int n) const {
    if (is_used(n)) to.add(offset(n), dot(grad, weight(cell, n)));
  }

  DIFFISO_HD static AxisTaps<scalar_t> axis_taps(const GridShape& grid, const RayCell<scalar_t>& at,
                                                 int a) {
    return {at.cell[a], grid.size[a], at.fraction[a], at.spacing[a]};
  }
  DIFFISO_HD static Vec3<scalar_t> zero() { return {0, 0, 0}; }
  DIFFISO_HD static bool is_off(int i) { return i == 0 || i == 3; }
  DIFFISO_HD static int own_corner(int n) {
    for (int a = 0; a < 3; ++a) {
      if (is_off(along(n, a))) return -1;
    }
    return 4 * (along(n, 0) - 1) + 2 * (along(n, 1) - 1) + along(n, 2) - 1;
  }
  DIFFISO_HD scalar_t value(int a, int n) const {
    const int i = along(n, a);
    return is_off(i) ? scalar_t{0} : taps[a].value[i - 1];
  }
  DIFFISO_HD scalar_t change(int a, int n) const {
    const int i = along(n, a);
    return is_off(i) ? scalar_t{0} : taps[a].value_change[i - 1];
  }
};

// A light, and how much of it comes back from a surface.
template <typename scalar_t>
struct DiffuseLight {
  Vec3<scalar_t> position;
  scalar_t strength;
  bool falloff;  // with the square of the distance

  DIFFISO_HD scalar_t intensity(Vec3<scalar_t> point, Vec3<scalar_t> normal) const {
    const Vec3<scalar_t> to = position - point;
    const scalar_t distance = length(to), facing = dot(normal, to);
    if (!(facing > 0)) return 0;
    const scalar_t cosine = facing / distance;
    return falloff ? strength * cosine / (distance * distance) : strength * cosine;
  }

  // What the way to the light and the normal receive.
  DIFFISO_HD void backward(Vec3<scalar_t> point, Vec3<scalar_t> normal, scalar_t grad,
                           Vec3<scalar_t>& grad_to, Vec3<scalar_t>& grad_normal) const {
    const Vec3<scalar_t> to = position - point;
    const scalar_t distance = length(to), facing = dot(normal, to);
    if (!(facing > 0)) return;
    const Vec3<scalar_t> unit = to / distance;
    const scalar_t fade = falloff ? strength / (distance * distance) : strength;
    const scalar_t power = falloff ? 3 : 1;
    const scalar_t scaled = grad * fade;
    grad_normal = grad_normal + unit * scaled;
    grad_to = grad_to + (normal - unit * (power * dot(normal, unit))) * (scaled / distance);
  }
};

// The unit normal at a hit, turned to the side that the ray comes from, and what it passes back.
template <typename scalar_t>
struct HitNormal {
  Vec3<scalar_t> normal;
  scalar_t steepness;  // length of the gradient, with the sign of the turn; 0 without a normal

  DIFFISO_HD HitNormal(Vec3<scalar_t> gradient, bool turned) {
    const scalar_t size = length(gradient);
    const bool any = size > 0 && size < std::numeric_limits<scalar_t>::infinity();
    steepness = any ? (turned ? -size : size) : scalar_t{0};
    normal = any ? gradient / steepness : Vec3<scalar_t>{0, 0, 0};
  }

  DIFFISO_HD Vec3<scalar_t> backward(Vec3<scalar_t> grad) const {
    if (steepness == 0) return {0, 0, 0};
    return (grad - normal * dot(normal, grad)) / steepness;
  }
};

// How much of a pixel's width the surface covers, from the field at the ray's closest approach: the
// field over its slope is the distance to the outline, in widths of the pixel there.
template <typename scalar_t>
struct Coverage {
  scalar_t field, slope, width;  // width: of the pixel, world units
  scalar_t share;
  bool ramp;  // between none and all of it

  DIFFISO_HD Coverage(const FieldSample<scalar_t>& at, scalar_t level, scalar_t half_width,
                      scalar_t min_slope) {
    const scalar_t steepness = length(at.gradient);
    field = at.value - level;
    slope = steepness > min_slope ? steepness : min_slope;
    width = 2 * half_width;
    const scalar_t size = width * slope;
    const scalar_t open =
        size > 0 ? scalar_t(0.5) - field / size : (field < 0 ? scalar_t{1} : scalar_t{0});
    share = open > 0 ? (open < 1 ? open : scalar_t{1}) : scalar_t{0};
    ramp = size > 0 && open > 0 && open < 1;
  }

  DIFFISO_HD scalar_t to_field(scalar_t grad) const { return ramp ? -grad / (width * slope) : 0; }
  DIFFISO_HD scalar_t to_slope(scalar_t grad) const {
    return ramp ? grad * field / (width * slope * slope) : 0;
  }
  DIFFISO_HD scalar_t to_half_width(scalar_t grad) const {
    return ramp ? 2 * grad * field / (width * width * slope) : 0;
  }
};

}  // namespace diffiso
