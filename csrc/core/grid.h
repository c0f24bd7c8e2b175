// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/vec3.h"

namespace diffiso {

// The nodes of a box along one axis: node i sits at lower + i * spacing.
struct AxisNodes {
  int64_t count;
  double lower, spacing;
};

// The box of a batch of node-centred grids: node (i, j, k) sits at lower + (i, j, k) * spacing, z
// is contiguous, and the grids of a batch follow each other.
struct GridShape {
  int64_t batch;
  int64_t size[3];  // nodes along x, y, z
  Vec3<double> lower;
  Vec3<double> spacing;

  DIFFISO_HD int64_t node(int64_t b, int64_t i, int64_t j, int64_t k) const {
    return ((b * size[0] + i) * size[1] + j) * size[2] + k;
  }
  DIFFISO_HD AxisNodes axis(int a) const { return {size[a], lower[a], spacing[a]}; }
  DIFFISO_HD int64_t nodes_per_grid() const { return size[0] * size[1] * size[2]; }
};

}  // namespace diffiso
