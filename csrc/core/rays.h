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
  int64_t count;                            // R, of all rays
  int64_t per_grid;                         // R / B
  int64_t height, width;                    // of a picture, or 0 for rays one by one
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
    return pixel_of(n - source(n) * height * width);
  }
  DIFFISO_HD Ray<scalar_t> operator[](int64_t n) const {
    if (!is_picture()) return {load_vec3(origins, n), load_vec3(directions, n)};
    const int64_t view = source(n);
    return of_picture(view, n - view * height * width);
  }
  // The ray of a picture's k-th pixel.
  DIFFISO_HD Ray<scalar_t> of_picture(int64_t view, int64_t k) const {
    const Vec3<scalar_t> at = pixel_of(k);
    const scalar_t* matrix = directions + 9 * view;
    Vec3<scalar_t> direction;
    for (int a = 0; a < 3; ++a) {
      direction[a] = matrix[3 * a] * at.x + matrix[3 * a + 1] * at.y + matrix[3 * a + 2];
    }
    return {load_vec3(origins, view), direction};
  }

 private:
  DIFFISO_HD Vec3<scalar_t> pixel_of(int64_t k) const {
    const int64_t row = quotient(k, width);
    return {static_cast<scalar_t>(k - row * width) + scalar_t(0.5),
            static_cast<scalar_t>(row) + scalar_t(0.5), 1};
  }
};

enum class RayStatus : uint8_t { kMiss, kHit, kExit, kStart, kUnfinished, kInvalid };

// A ray on its way through a grid, in cells: from `entry` along `way`, whose largest part is 1 or -1,
// for a length of so many of these.
template <typename real>
struct RayPath {
  real length;
  WholeOf<real> begin_axis, end_axis;  // of the box's faces it comes in and goes out by, or -1
  Vec3<real> entry, way, inverse;      // inverse: 1 / way, 0 along an axis it does not move on
  Vec3<real> never;                    // infinity along such an axis, else 0

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

  // Without branches, so that compilers work on many rays at once.
  DIFFISO_HD GridRay(const GridShape& grid, const Ray<scalar_t>& ray, double near, double far) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    Vec3<double> start, step, pace;  // pace: 1 / step
    double largest = 0, total = 0;
    for (int a = 0; a < 3; ++a) {
      const double per_unit = 1 / grid.spacing[a];  // out of any loop over rays
      start[a] = (static_cast<double>(ray.origin[a]) - grid.lower[a]) * per_unit;
      step[a] = static_cast<double>(ray.direction[a]) * per_unit;
      const double size = std::abs(step[a]);
      largest = size > largest ? size : largest;
      total += start[a] * 0 + step[a] * 0;  // NaN unless all are finite
    }
    const bool moves_at_all = largest > 0, finite = total == 0;
    valid = moves_at_all & finite;
    scale = valid ? largest : 1;
    double enter = near, end = far;
    double through = -1, through_last = -1;  // the axes whose planes it comes in and goes out by
    bool meets = valid;
    for (int a = 0; a < 3; ++a) {
      const double last = static_cast<double>(grid.size[a] - 1);
      // Less than this and it stays where it is, to the last digit, on its way through any grid.
      const bool still = std::abs(step[a]) <= scale * 1e-12;
      step[a] = still ? 0 : step[a];
      pace[a] = still ? kInfinity : 1 / step[a];
      const double low = (0 - start[a]) * pace[a], high = (last - start[a]) * pace[a];
      const double in = low < high ? low : high, out = low < high ? high : low;
      const bool within = (start[a] >= 0) & (start[a] <= last);
      const bool later = !still & (in > enter), sooner = !still & (out < end);
      meets = meets & (!still | within);
      enter = later ? in : enter;
      through = later ? a : through;
      end = sooner ? out : end;
      through_last = sooner ? a : through_last;
    }
    this->begin_axis = static_cast<int32_t>(through);
    this->end_axis = static_cast<int32_t>(through_last);
    begin = enter;
    inside = meets & (enter <= end);
    this->length = static_cast<scalar_t>(inside ? (end - enter) * scale : 0);
    const double per_step = 1 / scale;
    for (int a = 0; a < 3; ++a) {
      const double last = static_cast<double>(grid.size[a] - 1);
      const bool still = step[a] == 0;
      const double face = step[a] > 0 ? 0 : last;
      const double at = through == a ? face : start[a] + enter * step[a];
      const double above = at > 0 ? at : 0, placed = above < last ? above : last;
      this->entry[a] = static_cast<scalar_t>(placed);
      this->way[a] = static_cast<scalar_t>(step[a] * per_step);
      this->inverse[a] = static_cast<scalar_t>(still ? 0 : scale * pace[a]);
      this->never[a] = static_cast<scalar_t>(still ? kInfinity : 0);
    }
  }

  DIFFISO_HD scalar_t t(scalar_t along) const {
    return static_cast<scalar_t>(begin + static_cast<double>(along) / scale);
  }
};

}  // namespace diffiso
