// SPDX-License-Identifier: Apache-2.0
// A band that follows a surface, on the CPU: which of its nodes to evaluate anew, and the bricks of
// the band with what it lacks. Bricks come in the table's order.
#include "core/narrow_band.h"

#include "cpu/narrow_band.h"

namespace diffiso {
namespace {

std::tuple<Tensor, Tensor, Tensor> narrow_band_reuse(Tensor values, Tensor table,
                                                     Tensor coordinates, Tensor asked,
                                                     std::vector<int64_t> nodes, double level,
                                                     double threshold) {
  const BrickShape bricks =
      check_narrow_band("narrow_band_reuse", values, table, coordinates, nodes, asked);
  Tensor wanted = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  Tensor remembered = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  Tensor before = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const auto at_level = static_cast<scalar_t>(level), most = static_cast<scalar_t>(threshold);
    const std::vector<BandWords> state =
        band_state(bricks, in, at_level, words_of(asked), nullptr, nullptr);
    parallel_bricks(bricks.count, [&](int64_t brick) {
      const Tile tile = tile_of(bricks, brick);
      uint64_t* mine = mutable_words_of(wanted) + kBrickSize * brick;
      if (threshold > 0) {
        for (int x = 0; x < kBrickSize; ++x) {
          mine[x] = pack_word<scalar_t>(in + kBrickNodes * brick + 64 * x, [&](scalar_t value) {
            return std::abs(value - at_level) <= most;
          });
        }
      } else {
        const BrickHood hood = hood_of(bricks, tile);
        nodes_of_all_cells(BandAround{state.data(), hood, bricks.nodes, tile.data()}, bricks.nodes,
                           tile.data(), CrossingCells{}, mine);
      }
      for (int x = 0; x < kBrickSize; ++x) {
        const int64_t w = kBrickSize * brick + x;
        mine[x] &= words_of(asked)[w];
        mutable_words_of(remembered)[w] = state[w].inside | state[w].outside;
        mutable_words_of(before)[w] = state[w].inside;
      }
    });
  });
  return {wanted, remembered, before};
}

// A band before it grows.
struct Band {
  BrickShape bricks;
  const uint64_t *asked, *remembered, *before;  // (R, 8)

  BandMemory memory(int64_t brick, int x) const {
    if (brick < 0) return {0, 0};
    return {remembered[kBrickSize * brick + x], before[kBrickSize * brick + x]};
  }
};

// The bricks of the grown band, those of the old one among them.
BandBricks grown_bricks(const Band& band, const std::vector<BandWords>& state, int32_t* marks) {
  const BrickShape& bricks = band.bricks;
  parallel_bricks(bricks.count, [&](int64_t brick) {
    const Tile tile = tile_of(bricks, brick);
    const BrickFaces known([&](int x) {
      return box_plane(bricks.nodes, tile.data(), x) & ~state[kBrickSize * brick + x].unknown;
    });
    for (int n = 0; n < 27; ++n) {
      const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
      if (n == 13 || known.touch(dx, dy, dz)) {
        mark(marks, bricks.tiles, tile[0] + dx, tile[1] + dy, tile[2] + dz);
      }
    }
  });
  return collect_bricks(bricks.tiles, marks, [&](BandBrick& brick) {
    const BrickHood hood = hood_of(bricks, brick.tile);
    const int64_t* tile = brick.tile.data();
    nodes_of_all_cells(BandAround{state.data(), hood, bricks.nodes, tile}, bricks.nodes, tile,
                       GrowingCells{}, brick.wanted);
    const int64_t here = hood.at(0, 0, 0);
    bool needed = here >= 0;
    for (int x = 0; x < kBrickSize; ++x) {
      const uint64_t had = here < 0 ? 0 : band.asked[kBrickSize * here + x];
      brick.asked[x] = brick.wanted[x] & ~had;
      brick.wanted[x] |= had;
      needed = needed || brick.asked[x] != 0;
    }
    return needed;
  });
}

// What a brick of the grown band remembers.
void inherit_memory(const Band& band, const BrickHood& hood, const BandBrick& brick,
                    uint64_t* remembered, uint64_t* before) {
  const auto was_inside = [&](int plane, int by, int bz) {
    return band.memory(hood.at(plane >> 3, by, bz), plane & 7).was_inside();
  };
  const auto was_outside = [&](int plane, int by, int bz) {
    return band.memory(hood.at(plane >> 3, by, bz), plane & 7).was_outside();
  };
  for (int x = 0; x < kBrickSize; ++x) {
    const BandMemory had = band.memory(hood.at(0, 0, 0), x);
    const bool any = (brick.asked[x] & ~had.remembered) != 0;
    const BandMemory now = inherit(had, brick.asked[x], any ? dilated_word(was_inside, x) : 0,
                                   any ? dilated_word(was_outside, x) : 0);
    remembered[x] = now.remembered;
    before[x] = now.before;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_grow(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, Tensor remembered, Tensor before,
    std::vector<int64_t> nodes, double level) {
  const char* op = "narrow_band_grow";
  const BrickShape old = check_narrow_band(op, values, table, coordinates, nodes, asked);
  check_masks(op, values, "remembered", remembered);
  check_masks(op, values, "before", before);
  const Band band{old, words_of(asked), words_of(remembered), words_of(before)};
  Tensor new_table = zeros_on(values, {old.tiles[0], old.tiles[1], old.tiles[2]}, DType::Int);
  auto* marks = static_cast<int32_t*>(new_table.mutable_data_ptr());
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const std::vector<BandWords> state =
        band_state(old, in, static_cast<scalar_t>(level), band.asked, band.remembered, band.before);
    BandBricks bricks = grown_bricks(band, state, marks);
    if (bricks.ids() == 0) bricks = {{}, {0}, {0}};
    const int64_t count = bricks.count();
    Tensor new_values =
        empty_on(values, {count, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
    Tensor new_coordinates = empty_on(values, {count, 3}, DType::Int);
    Tensor new_asked = empty_on(values, {count, kBrickSize}, DType::Long);
    Tensor new_remembered = empty_on(values, {count, kBrickSize}, DType::Long);
    Tensor new_before = empty_on(values, {count, kBrickSize}, DType::Long);
    Tensor ids = empty_on(values, {bricks.ids()}, DType::Long);
    auto* out = static_cast<value_t*>(new_values.mutable_data_ptr());
    store_bricks(bricks, old.tiles,
                 {marks, static_cast<int32_t*>(new_coordinates.mutable_data_ptr()),
                  mutable_words_of(new_asked), static_cast<int64_t*>(ids.mutable_data_ptr())},
                 [&](const BandBrick& brick, int64_t index) {
                   const BrickHood hood = hood_of(old, brick.tile);
                   const int64_t here = hood.at(0, 0, 0);
                   value_t* mine = out + kBrickNodes * index;
                   if (here >= 0) {
                     std::copy_n(in + kBrickNodes * here, kBrickNodes, mine);
                   } else {
                     fill_absent(mine);
                   }
                   inherit_memory(band, hood, brick,
                                  mutable_words_of(new_remembered) + kBrickSize * index,
                                  mutable_words_of(new_before) + kBrickSize * index);
                 });
    return std::tuple{new_values, new_table, new_coordinates, new_asked, new_remembered,
                      new_before, ids};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("narrow_band_reuse", TORCH_BOX(&narrow_band_reuse));
  m.impl("narrow_band_grow", TORCH_BOX(&narrow_band_grow));
}

}  // namespace diffiso
