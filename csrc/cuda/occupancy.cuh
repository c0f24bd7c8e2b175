// SPDX-License-Identifier: Apache-2.0
// Where rays can hit anything, worked out on the GPU. Nobody waits: what is measured stays there.
#pragma once

#include "common/launch.cuh"
#include "core/occupancy.h"

namespace diffiso {

// The occupancy of a batch of grids and the memory it lies in.
struct GridOccupancy {
  Tensor memory;
  Occupancy occupancy;
};

// Marks the cells with nodes on both sides of a level, or, `below`, all with a node below it; for so
// many rays. The level is `above`, a number on the device or null, higher than it is given.
GridOccupancy find_occupancy(const CudaContext& cuda, const Tensor& values, const GridShape& grid,
                             double level, const double* above, bool below, int64_t rays);

// The most that neighbouring samples differ, per world unit, over all axes together: no cell of the
// batch is steeper. Samples that are not finite do not count. A number on the device.
Tensor steepest_slope(const CudaContext& cuda, const Tensor& values, const GridShape& grid);

constexpr int kLargestBlock = 256;

// The largest of what a block's threads bring, given to thread 0. Numbers below zero count as zero,
// NaN as nothing.
__device__ inline double block_largest(double mine) {
  constexpr int kWarps = kLargestBlock / kWarpSize;
  __shared__ double of_warp[kWarps];
  double most = mine > 0 ? mine : 0;
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, most, step);
    most = other > most ? other : most;
  }
  __syncthreads();  // an earlier answer may still be read
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = most;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (const double other : of_warp) most = other > most ? other : most;
  }
  return most;
}

// The largest of some numbers on the device, none below zero.
Tensor largest(const CudaContext& cuda, const Tensor& numbers);

}  // namespace diffiso
