// SPDX-License-Identifier: Apache-2.0
// What code must say so that it serves one ray or several side by side. A `real` is a float or a
// double, or several of them where a processor works on many numbers at once (cpu/lanes.h):
// comparisons give a mask of the same width, `select` chooses lane by lane, and a branch asks `any`.
#pragma once

#include <limits>
#include <type_traits>

#include "core/host_device.h"

namespace diffiso {

// The types that go with a real: one of its numbers, whole numbers and truth values beside it.
template <typename real>
struct LaneTypes {
  using Scalar = real;
  using Whole = int32_t;
  using Mask = bool;
};

template <typename real>
using ScalarOf = typename LaneTypes<real>::Scalar;
template <typename real>
using WholeOf = typename LaneTypes<real>::Whole;
template <typename real>
using MaskOf = typename LaneTypes<real>::Mask;

DIFFISO_HD bool any(bool mask) {
  return mask;
}

template <typename T>
DIFFISO_HD T select(bool mask, T yes, T no) {
  return mask ? yes : no;
}

template <typename real>
DIFFISO_HD real larger(real a, real b) {
  return a > b ? a : b;
}
template <typename real>
DIFFISO_HD real smaller(real a, real b) {
  return a < b ? a : b;
}

DIFFISO_HD float square_root(float x) {
  return std::sqrt(x);
}
DIFFISO_HD double square_root(double x) {
  return std::sqrt(x);
}

// Towards zero.
DIFFISO_HD int32_t truncated(float x) {
  return static_cast<int32_t>(x);
}
DIFFISO_HD int32_t truncated(double x) {
  return static_cast<int32_t>(x);
}

template <typename real>
DIFFISO_HD real real_of(int32_t whole) {
  return static_cast<real>(whole);
}

// What an array has at a place, or at one for each lane.
template <typename T>
DIFFISO_HD T gather(const T* from, int64_t at) {
  return from[at];
}
DIFFISO_HD int32_t gather(const uint8_t* from, int64_t at) {
  return from[at];
}
DIFFISO_HD int32_t gather(const uint32_t* from, int64_t at) {
  return static_cast<int32_t>(from[at]);
}

}  // namespace diffiso
