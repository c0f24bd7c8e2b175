// SPDX-License-Identifier: Apache-2.0
// The steepest pair of neighbouring samples on the GPU, the same as on the CPU. A warp a brick
// finds how much the field rises in each direction, and where the steepest of these first occurs;
// then warps, blocks and a last block take the steepest by a rule that knows no ties. Nobody waits
// for the result. Scratch: 16 bytes a block.
#include "core/refinement.h"
#include "cuda/cell_values.cuh"
#include "cuda/narrow_band.cuh"

namespace diffiso {
namespace {

template <typename value_t>
struct SlopeParams {
  BrickShape bricks;
  const value_t* values;  // (R, 8, 8, 8)
  double lengths[8];
  int64_t blocks;
  SteepestPair* of_block;  // (blocks,)
  double* out;             // (7,)
};

// The steepest of the pairs that the lanes bring.
__device__ SteepestPair steepest_of_warp(SteepestPair mine) {
  for (int step = 1; step < kWarpSize; step *= 2) {
    SteepestPair other;
    other.slope = __shfl_xor_sync(kWholeWarp, mine.slope, step);
    other.rank = __shfl_xor_sync(kWholeWarp, mine.rank, step);
    if (other.exceeds(mine)) mine = other;
  }
  return mine;
}

// The steepest pair of a brick if it is steeper than `best`, else `best`. All lanes get the same.
template <typename scalar_t, typename Params>
__device__ SteepestPair steepest_of_brick(const Params& p, int64_t brick, const scalar_t* local,
                                          SteepestPair best) {
  constexpr int kCells = kBrickNodes / kWarpSize;  // of a lane
  scalar_t most[kCornerPairs] = {};
  for (int k = 0; k < kCells; ++k) {
    const scalar_t* first = local + cell_node(kWarpSize * k + lane_of_warp());
    scalar_t corners[8];
    for (int c = 0; c < 8; ++c) corners[c] = first[corner_step(c)];
#pragma unroll
    for (int n = 0; n < kCornerPairs; ++n) {
      const CornerPair pair = corner_pair(n);
      const scalar_t rise = rise_between(corners[pair.first], corners[pair.second]);
      most[n] = rise > most[n] ? rise : most[n];
    }
  }
  int steepest = -1;
#pragma unroll
  for (int n = 0; n < kCornerPairs; ++n) {
    for (int step = 1; step < kWarpSize; step *= 2) {
      const scalar_t other = __shfl_xor_sync(kWholeWarp, most[n], step);
      most[n] = other > most[n] ? other : most[n];
    }
    const CornerPair pair = corner_pair(n);
    const double slope = slope_of(most[n], p.lengths[pair.first ^ pair.second]);
    if (slope > best.slope) {
      best.slope = slope;
      steepest = n;
    }
  }
  if (steepest < 0) return best;
  const CornerPair pair = corner_pair(steepest);
  const double length = p.lengths[pair.first ^ pair.second];
  for (int k = 0; k < kCells; ++k) {
    const scalar_t* at = local + cell_node(kWarpSize * k + lane_of_warp());
    const scalar_t rise = rise_between(at[corner_step(pair.first)], at[corner_step(pair.second)]);
    const unsigned found = __ballot_sync(kWholeWarp, slope_of(rise, length) == best.slope);
    if (found == 0) continue;
    best.rank = kBrickNodes * (kCornerPairs * brick + steepest) + kWarpSize * k + lowest_bit(found);
    break;
  }
  return best;
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBandBlock) slope_kernel(SlopeParams<value_t> p) {
  __shared__ scalar_t corners_of_warp[kBandWarps][kCellNodes];
  __shared__ SteepestPair pair_of_warp[kBandWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  SteepestPair best;
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const Tile tile(p.bricks.coordinates, brick);
    load_cell_values(p.values, find_upper(p.bricks, tile), corners_of_warp[warp]);
    best = steepest_of_brick(p, brick, corners_of_warp[warp], best);
    __syncwarp();  // the values of the next brick take their place
  });
  if (lane_of_warp() == 0) pair_of_warp[warp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int n = 1; n < kBandWarps; ++n) {
    if (pair_of_warp[n].exceeds(best)) best = pair_of_warp[n];
  }
  p.of_block[blockIdx.x] = best;
}

template <typename value_t>
__global__ void __launch_bounds__(kWarpSize) slope_last_kernel(SlopeParams<value_t> p) {
  SteepestPair best;
  for (int64_t n = threadIdx.x; n < p.blocks; n += kWarpSize) {
    if (p.of_block[n].exceeds(best)) best = p.of_block[n];
  }
  best = steepest_of_warp(best);
  if (threadIdx.x == 0) best.write(p.bricks, p.out);
}

Tensor narrow_band_slope(Tensor values, Tensor table, Tensor coordinates, Tensor asked,
                         std::vector<int64_t> nodes, std::vector<double> lengths) {
  const CudaContext cuda(values);
  const BrickShape bricks =
      check_narrow_band("narrow_band_slope", values, table, coordinates, nodes, asked);
  check_lengths(lengths);
  Scratch scratch(cuda);
  Tensor out = empty_on(values, {7}, DType::Double);
  const dim3 grid = striding_grid(bricks.count * kWarpSize, kBandBlock);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    SlopeParams<value_t> p{bricks,
                           static_cast<const value_t*>(values.const_data_ptr()),
                           {},
                           grid.x,
                           scratch.take<SteepestPair>(grid.x),
                           static_cast<double*>(out.mutable_data_ptr())};
    std::copy(lengths.begin(), lengths.end(), p.lengths);
    launch(slope_kernel<value_t, scalar_t>, grid, kBandBlock, 0, cuda.stream, p);
    launch(slope_last_kernel<value_t>, dim3(1), kWarpSize, 0, cuda.stream, p);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("narrow_band_slope", TORCH_BOX(&narrow_band_slope));
}

}  // namespace diffiso
