// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/torch.h"
#include "core/occupancy.h"

namespace diffiso {

// The occupancy of a batch of grids and the memory it lies in.
struct GridOccupancy {
  Tensor memory;
  Occupancy occupancy;
};

// Marks the cells with nodes on both sides of a level, or, `below`, all with a node below it; for so
// many rays.
GridOccupancy find_occupancy(const Tensor& values, const GridShape& grid, double level, bool below,
                             int64_t rays);

// The most that neighbouring samples differ, per world unit, over all axes together: no cell of the
// batch is steeper. Samples that are not finite do not count.
double steepest_slope(const Tensor& values, const GridShape& grid);

}  // namespace diffiso
