// SPDX-License-Identifier: Apache-2.0
// The one place that names the torch C++ API. Everything goes through torch's stable ABI, so that
// one binary serves every torch from the target version on.
#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace diffiso {

using torch::stable::Tensor;
using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;
using DType = torch::headeronly::ScalarType;

// A new tensor on the device of `like`; its memory is not set.
inline Tensor empty_on(const Tensor& like, std::vector<int64_t> sizes, DType dtype) {
  return torch::stable::empty(sizes, dtype, std::nullopt, like.device());
}

inline Tensor zeros_on(const Tensor& like, std::vector<int64_t> sizes, DType dtype) {
  Tensor out = empty_on(like, sizes, dtype);
  return torch::stable::zero_(out);
}

// Calls f.operator()<value_t, scalar_t>() for the dtype of a grid: what it stores, and in what it
// is computed with (double for double, float for all others).
template <typename F>
auto dispatch_grid(DType dtype, F&& f) {
  switch (dtype) {
    case DType::Half:
      return f.template operator()<Half, float>();
    case DType::BFloat16:
      return f.template operator()<BFloat16, float>();
    case DType::Double:
      return f.template operator()<double, double>();
    default:
      return f.template operator()<float, float>();
  }
}

// Calls f.operator()<scalar_t>() for float or double.
template <typename F>
auto dispatch_floating(DType dtype, F&& f) {
  return dtype == DType::Double ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace diffiso
