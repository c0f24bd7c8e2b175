// SPDX-License-Identifier: Apache-2.0
// Rays: given one by one, or made from pictures; and a ray as a grid sees it.
#pragma once

#include "core/grid.h"
#include "core/lanes.h"

namespace diffiso {

template <typename scalar_t>
struct Ray {
  Vec3<scalar_t> origin, direction;
};

// Rays one by one, or those through the centres of all pixels of pictures of one size, row by row.
// The rays of a grid follow each other, as many for each.
template <typename scalar_t>
struct RayBundle {
  int64_t count;     // R, of all rays
  int64_t per_grid;  // R / B
  int64_t height, width;  // of a picture, or 0 for rays one by one
  const scalar_t* __restrict__ origins;     // (R, 3), or (N, 3) of N pictures
  const scalar_t* __restrict__ directions;  // (R, 3), or (N, 3, 3)

  DIFFISO_HD bool is_picture() const { return height > 0; }
  DIFFISO_HD int64_t grid(int64_t n) const { return quotient(n, per_grid); }
  // Which row of origins a ray has.
  DIFFISO_HD int64_t source(int64_t n) const {
    return is_picture() ? quotient(n, height * width) : n;
  }
  // What the matrix of a picture is multiplied by: the pixel's centre and 1.
  DIFFISO_HD Vec3<scalar_t> pixel(int64_t n) const {
    const int64_t row = quotient(n, width), first = quotient(row, height) * height;
    return {static_cast<scalar_t>(n - row * width) + scalar_t(0.5),
            static_cast<scalar_t>(row - first) + scalar_t(0.5), 1};
  }
  DIFFISO_HD Ray<scalar_t> operator[](int64_t n) const {
    if (!is_picture()) return {load_vec3(origins, n), load_vec3(directions, n)};
    const int64_t view = source(n);
    const Vec3<scalar_t> at = pixel(n);
    const scalar_t* matrix = directions + 9 * view;
    Vec3<scalar_t> direction;
    for (int a = 0; a < 3; ++a) {
      direction[a] = matrix[3 * a] * at.x + matrix[3 * a + 1] * at.y + matrix[3 * a + 2];
    }
    return {load_vec3(origins, view), direction};
  }
};

enum class RayStatus : uint8_t { kMiss, kHit, kExit, kStart, kUnfinished, kInvalid };

// A ray on its way through a grid, in cells: from `entry` along `way`, whose largest part is 1 or -1,
// for a length of so many of these.
template <typename real>
struct RayPath {
  real length;
  Vec3<real> entry, way, inverse;  // inverse: 1 / way, 0 along an axis it does not move on
  Vec3<real> never;                // infinity along such an axis, else 0

  // How far it has gone when it reaches a plane between nodes.
  DIFFISO_HD real reach(int axis, WholeOf<real> plane) const {
    return (real_of<real>(plane) - entry[axis]) * inverse[axis] + never[axis];
  }
};

// A ray as a grid sees it. Worked out in double precision from where it enters the box, so that a far
// origin costs no digits on the way.
template <typename scalar_t>
struct GridRay : RayPath<scalar_t> {
  bool valid;           // finite, with a direction
  bool inside;          // it meets the box
  double begin, scale;  // t = begin + along / scale

  DIFFISO_HD GridRay(const GridShape& grid, const Ray<scalar_t>& ray, double near, double far) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    Vec3<double> start, step;
    scale = 0;
    valid = true;
    for (int a = 0; a < 3; ++a) {
      start[a] = (static_cast<double>(ray.origin[a]) - grid.lower[a]) / grid.spacing[a];
      step[a] = static_cast<double>(ray.direction[a]) / grid.spacing[a];
      const double size = std::abs(step[a]);
      scale = size > scale ? size : scale;
      valid = valid && std::abs(start[a]) < kInfinity && size < kInfinity;
    }
    valid = valid && scale > 0;
    begin = near;
    inside = valid;
    if (!valid) return;
    double end = far;
    int through = -1;  // the axis whose plane it comes in by
    for (int a = 0; a < 3; ++a) {
      const double last = static_cast<double>(grid.size[a] - 1);
      // Less than this and it stays where it is, to the last digit, on its way through any grid.
      if (std::abs(step[a]) <= scale * 1e-12) {
        step[a] = 0;
        inside = inside && start[a] >= 0 && start[a] <= last;
        continue;
      }
      const double inverse = 1 / step[a];
      const double low = (0 - start[a]) * inverse, high = (last - start[a]) * inverse;
      const double in = low < high ? low : high, out = low < high ? high : low;
      if (in > begin) {
        begin = in;
        through = a;
      }
      end = out < end ? out : end;
    }
    inside = inside && begin <= end;
    if (!inside) return;
    this->length = static_cast<scalar_t>((end - begin) * scale);
    for (int a = 0; a < 3; ++a) {
      const double last = static_cast<double>(grid.size[a] - 1);
      double at = start[a] + begin * step[a];
      if (a == through) at = step[a] > 0 ? 0 : last;
      at = at > 0 ? at : 0;
      this->entry[a] = static_cast<scalar_t>(at < last ? at : last);
      this->way[a] = static_cast<scalar_t>(step[a] / scale);
      const bool moves = step[a] != 0;
      this->inverse[a] = moves ? static_cast<scalar_t>(scale / step[a]) : scalar_t{0};
      this->never[a] = moves ? scalar_t{0} : std::numeric_limits<scalar_t>::infinity();
    }
  }

  DIFFISO_HD scalar_t t(scalar_t along) const {
    return static_cast<scalar_t>(begin + static_cast<double>(along) / scale);
  }
};

}  // namespace diffiso
