// SPDX-License-Identifier: Apache-2.0
// The steepest pair of neighbouring samples, on the CPU: that of each brick, then the first of the
// steepest.
#include "cpu/cell_values.h"
#include "cpu/narrow_band.h"

namespace diffiso {
namespace {

// `rank` without the brick.
template <typename scalar_t>
SteepestPair steepest_in_brick(const CellValues<scalar_t>& local,
                               const std::vector<double>& lengths) {
  SteepestPair out;
  for (int n = 0; n < kCornerPairs; ++n) {
    const CornerPair pair = corner_pair(n);
    const scalar_t* first = local.at + corner_step(pair.first);
    const scalar_t* second = local.at + corner_step(pair.second);
    const double length = lengths[pair.first ^ pair.second];
    for (int row = 0; row < 64; ++row) {
      const int begin = cell_node(kBrickSize * row);
      scalar_t most = 0;
      for (int z = 0; z < kBrickSize; ++z) {
        const scalar_t rise = rise_between(first[begin + z], second[begin + z]);
        most = rise > most ? rise : most;
      }
      if (!(slope_of(most, length) > out.slope)) continue;
      out.slope = slope_of(most, length);
      int z = 0;
      while (slope_of(rise_between(first[begin + z], second[begin + z]), length) != out.slope) ++z;
      out.rank = kBrickNodes * n + kBrickSize * row + z;
    }
  }
  return out;
}

Tensor narrow_band_slope(Tensor values, Tensor table, Tensor coordinates, Tensor asked,
                         std::vector<int64_t> nodes, std::vector<double> lengths) {
  const BrickShape bricks =
      check_narrow_band("narrow_band_slope", values, table, coordinates, nodes, asked);
  check_lengths(lengths);
  std::vector<SteepestPair> of_brick(bricks.count);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    parallel_bricks(bricks.count, [&](int64_t brick) {
      const CellValues<scalar_t> local(in, hood_of(bricks, tile_of(bricks, brick)));
      of_brick[brick] = steepest_in_brick(local, lengths);
      of_brick[brick].rank += kCornerPairs * kBrickNodes * brick;
    });
  });
  SteepestPair steepest;
  for (const SteepestPair& pair : of_brick) {
    if (pair.exceeds(steepest)) steepest = pair;
  }
  Tensor out = empty_on(values, {7}, DType::Double);
  steepest.write(bricks, static_cast<double*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("narrow_band_slope", TORCH_BOX(&narrow_band_slope));
}

}  // namespace diffiso
