// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/host_device.h"

namespace diffiso {

template <typename T>
struct Vec3 {
  T x, y, z;

  DIFFISO_HD T& operator[](int axis) { return axis == 0 ? x : axis == 1 ? y : z; }
  DIFFISO_HD const T& operator[](int axis) const { return axis == 0 ? x : axis == 1 ? y : z; }

  DIFFISO_HD friend Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
  DIFFISO_HD friend Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
  DIFFISO_HD friend Vec3 operator*(Vec3 a, T s) { return {a.x * s, a.y * s, a.z * s}; }
  DIFFISO_HD friend Vec3 operator/(Vec3 a, T s) { return {a.x / s, a.y / s, a.z / s}; }
};

template <typename T>
DIFFISO_HD T dot(Vec3<T> a, Vec3<T> b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <typename T>
DIFFISO_HD T length(Vec3<T> a) {
  const T square = dot(a, a);
  constexpr T kSmall = sizeof(T) == 8 ? T(1e-280) : T(1e-30), kLarge = T(1) / kSmall;
  if ((square > kSmall && square < kLarge) || square != square) return std::sqrt(square);
  // Squares that overflow or vanish: measured in units of the sum of sizes.
  const T scale = std::abs(a.x) + std::abs(a.y) + std::abs(a.z);
  if (scale == 0 || std::isinf(scale)) return scale;
  const Vec3<T> unit = a / scale;
  return scale * std::sqrt(dot(unit, unit));
}

// The n-th row of an (N, 3) array.
template <typename T>
DIFFISO_HD Vec3<T> load_vec3(const T* rows, int64_t n) {
  return {rows[3 * n], rows[3 * n + 1], rows[3 * n + 2]};
}

template <typename T>
DIFFISO_HD void store_vec3(T* rows, int64_t n, Vec3<T> value) {
  rows[3 * n] = value.x;
  rows[3 * n + 1] = value.y;
  rows[3 * n + 2] = value.z;
}

}  // namespace diffiso
