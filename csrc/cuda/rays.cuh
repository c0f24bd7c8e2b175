// SPDX-License-Identifier: Apache-2.0
// Which thread has which ray. One thread a ray. In pictures a warp has a tile of 8 x 4 pixels: its
// rays stay near each other and so take as many steps, through the same samples. No ray knows of
// another, so that output does not depend on this.
#pragma once

#include "common/launch.cuh"
#include "common/ray_checks.h"
#include "core/ray_cell.h"

namespace diffiso {

constexpr int kRayBlock = 128;

// Threads for rays: as many for each group, a picture or the rays one by one of a grid.
struct RayThreads {
  static constexpr int64_t kTileWidth = 8, kTileHeight = 4;

  int64_t groups, per_group;
  int64_t rays;           // of a group
  int64_t height, width;  // of a picture, or 0
  int64_t tiles_across;   // a picture

  DIFFISO_HD int64_t count() const { return groups * per_group; }

  // The ray of thread i of a group, or -1 where there is none.
  DIFFISO_HD int64_t ray(int64_t group, int64_t i) const {
    if (height == 0) return group * rays + i;
    const int64_t tile = i / kWarpSize, down = quotient(tile, tiles_across);
    const int64_t x = kTileWidth * (tile - down * tiles_across) + i % kTileWidth;
    const int64_t y = kTileHeight * down + i % kWarpSize / kTileWidth;
    return x < width && y < height ? group * rays + y * width + x : -1;
  }
};

template <typename scalar_t>
RayThreads ray_threads(const RayBundle<scalar_t>& rays, int64_t grids) {
  if (!rays.is_picture()) return {grids, rays.per_grid, rays.per_grid, 0, 0, 0};
  RayThreads out{};
  out.height = rays.height;
  out.width = rays.width;
  out.rays = rays.height * rays.width;
  out.groups = rays.count / out.rays;
  out.tiles_across = ceil_div(rays.width, RayThreads::kTileWidth);
  out.per_group = kWarpSize * out.tiles_across * ceil_div(rays.height, RayThreads::kTileHeight);
  return out;
}

inline dim3 grid_of(const RayThreads& threads) {
  return grid_for(threads.count(), kRayBlock);
}

// Calls f(n) for every ray.
template <typename F>
__device__ void for_each_ray(const RayThreads& threads, const F& f) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < threads.count(); i += step) {
    const int64_t group = quotient(i, threads.per_group);
    const int64_t n = threads.ray(group, i - group * threads.per_group);
    if (n >= 0) f(n);
  }
}

// The cell that a ray's number stands for: no other has its lower node.
template <typename scalar_t>
DIFFISO_HD int64_t cell_of(const GridShape& grid, int64_t number) {
  return RayCell<scalar_t>(grid, number, {0, 0, 0}).cell_id;
}

}  // namespace diffiso
