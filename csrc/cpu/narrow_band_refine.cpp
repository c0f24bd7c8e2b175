// SPDX-License-Identifier: Apache-2.0
// Refinement of a coarse lattice on the CPU: masks of the cells to refine, brick by brick, and from
// them the bricks of the fine lattice. The output holds what csrc/ops.cpp says, bricks in the
// table's order.
#include "core/narrow_band.h"
#include "core/refinement.h"
#include "cpu/cell_values.h"
#include "cpu/narrow_band.h"

namespace diffiso {
namespace {

// Masks of coarse cells, or of their children by octant, in bricks of the coarse lattice or in a
// table of their own.
struct CellBricks {
  BrickShape bricks;
  std::vector<int32_t> table, coordinates;  // empty: the coarse lattice's own
  std::vector<uint64_t> words;
};

template <typename value_t, typename scalar_t>
std::vector<uint64_t> children_by_bound(const Refinement& p, const value_t* values,
                                        const uint64_t* asked, scalar_t level,
                                        const Reach<scalar_t>& reach) {
  std::vector<uint64_t> out(64 * p.coarse.count);
  parallel_bricks(p.coarse.count, [&](int64_t brick) {
    const Tile tile = tile_of(p.coarse, brick);
    const BrickHood hood = hood_of(p.coarse, tile);
    const CellValues<scalar_t> local(values, hood);
    for (int x = 0; x < kBrickSize; ++x) {
      uint64_t have[8] = {};
      uint64_t cells = full_cells(MaskAround{asked, hood}, p.coarse_cells, tile.data(), x);
      for (; cells != 0; cells &= cells - 1) {
        const int bit = lowest_bit(cells);
        scalar_t corners[8];
        for (int c = 0; c < 8; ++c) corners[c] = local.at[cell_node(64 * x + bit) + corner_step(c)];
        const bool end = ends_in_cell(p, tile.data(), x, bit);
        const unsigned children = children_to_refine(corners, level, reach, end);
        for (int o = 0; o < 8; ++o) have[o] |= uint64_t{children >> o & 1} << bit;
      }
      for (int n = 0; n < 8; ++n) {
        out[64 * brick + child_word(x, n)] =
            children_of_plane(have + (n & 4), p.fine_cells, tile.data(), x, n);
      }
    }
  });
  return out;
}

// One cell more on every side, also into places without a brick.
CellBricks dilate(const CellBricks& from, const int64_t cells[3]) {
  const int64_t* tiles = from.bricks.tiles;
  CellBricks out{from.bricks, std::vector<int32_t>(tiles[0] * tiles[1] * tiles[2]), {}, {}};
  parallel_bricks(from.bricks.count, [&](int64_t brick) {
    const Tile at = tile_of(from.bricks, brick);
    const BrickFaces faces([&](int x) { return from.words[kBrickSize * brick + x]; });
    for (int n = 0; n < 27; ++n) {
      const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
      if (faces.touch(dx, dy, dz)) {
        mark(out.table.data(), tiles, at[0] + dx, at[1] + dy, at[2] + dz);
      }
    }
  });
  const BandBricks bricks = collect_bricks(tiles, out.table.data(), [&](BandBrick& brick) {
    const BrickHood hood = hood_of(from.bricks, brick.tile);
    uint64_t any = 0;
    for (int x = 0; x < kBrickSize; ++x) {
      brick.wanted[x] = dilated_word(MaskAround{from.words.data(), hood}, x) &
                        box_plane(cells, brick.tile.data(), x);
      any |= brick.wanted[x];
    }
    return any != 0;
  });
  out.words.resize(kBrickSize * bricks.count());
  out.coordinates.resize(3 * bricks.count());
  store_bricks(bricks, tiles, {out.table.data(), out.coordinates.data(), out.words.data(), nullptr},
               [](const BandBrick&, int64_t) {});
  out.bricks.count = bricks.count();
  out.bricks.table = out.table.data();
  out.bricks.coordinates = out.coordinates.data();
  return out;
}

// The cells that are crossed, or in `keep`, and those around them.
template <typename value_t, typename scalar_t>
CellBricks cells_to_refine(const Refinement& p, const value_t* values, const uint64_t* asked,
                           scalar_t level, const uint64_t* keep, int64_t dilation) {
  CellBricks out{p.coarse, {}, {}, std::vector<uint64_t>(kBrickSize * p.coarse.count)};
  std::vector<BandWords> state;
  if (keep == nullptr) state = band_state(p.coarse, values, level, asked, nullptr, nullptr);
  parallel_bricks(p.coarse.count, [&](int64_t brick) {
    const Tile tile = tile_of(p.coarse, brick);
    const BrickHood hood = hood_of(p.coarse, tile);
    const BandAround around{state.data(), hood, p.coarse.nodes, tile.data()};
    for (int x = 0; x < kBrickSize; ++x) {
      const int64_t w = kBrickSize * brick + x;
      out.words[w] =
          keep != nullptr
              ? keep[w] & full_cells(MaskAround{asked, hood}, p.coarse_cells, tile.data(), x)
              : cells_of_plane(around, p.coarse_cells, tile.data(), CrossingCells{}, x);
    }
  });
  const int64_t most = *std::max_element(p.coarse_cells, p.coarse_cells + 3);
  for (int64_t n = 0; n < std::min(dilation, most); ++n) out = dilate(out, p.coarse_cells);
  return out;
}

// Marks the bricks that hold a node of the chosen cells.
void mark_nodes(const Refinement& p, const ChosenCells& chosen, int32_t* marks) {
  parallel_bricks(chosen.parents.count, [&](int64_t parent) {
    const Tile at = tile_of(chosen.parents, parent);
    for (int octant = 0; octant < 8; ++octant) {
      const Tile tile{2 * at[0] + (octant >> 2), 2 * at[1] + (octant >> 1 & 1),
                      2 * at[2] + (octant & 1)};
      const BrickFaces faces([&](int x) { return chosen.word(parent, tile.data(), x); });
      for (int n = 0; n < 8; ++n) {  // the cells' upper nodes may be in the next bricks
        const int dx = n >> 2, dy = n >> 1 & 1, dz = n & 1;
        if (faces.touch(dx, dy, dz)) {
          mark(marks, p.fine_tiles, tile[0] + dx, tile[1] + dy, tile[2] + dz);
        }
      }
    }
  });
}

// The bricks of the fine lattice.
BandBricks fine_bricks(const Refinement& p, const ChosenCells& chosen, const uint64_t* asked,
                       const int32_t* marks) {
  return collect_bricks(p.fine_tiles, marks, [&](BandBrick& brick) {
    const Tile& at = brick.tile;
    const BrickHood parents([&](int dx, int dy, int dz) {
      const int64_t tile[3] = {at[0] + dx, at[1] + dy, at[2] + dz};
      return chosen.parent_of(tile);
    });
    const auto around = [&](int plane, int by, int bz) {
      const int64_t tile[3] = {at[0] + (plane >> 3), at[1] + by, at[2] + bz};
      return chosen.word(parents.at(plane >> 3, by, bz), tile, plane & 7);
    };
    for (int x = 0; x < kBrickSize; ++x) {
      brick.wanted[x] = nodes_of_cell_mask(around, x);
      brick.asked[x] = brick.wanted[x] & ~held_by_coarse(p, asked, at.data(), x, brick.wanted[x]);
    }
    return true;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_refine(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, std::optional<Tensor> keep,
    std::vector<int64_t> nodes, std::vector<int64_t> fine_nodes, std::vector<double> reach,
    double level, bool by_bound, int64_t dilation, bool closed) {
  const BrickShape coarse =
      check_narrow_band("narrow_band_refine", values, table, coordinates, nodes, asked);
  check_refinement(values, keep, nodes, fine_nodes, reach, dilation);
  const Refinement p(coarse, fine_nodes.data(), closed);
  const uint64_t* known = words_of(asked);
  Tensor fine_table =
      zeros_on(values, {p.fine_tiles[0], p.fine_tiles[1], p.fine_tiles[2]}, DType::Int);
  auto* marks = static_cast<int32_t*>(fine_table.mutable_data_ptr());
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const auto at_level = static_cast<scalar_t>(level);
    CellBricks cells;
    if (by_bound) {
      const Reach<scalar_t> bound(reach.data());
      cells = {coarse, {}, {}, children_by_bound(p, in, known, at_level, bound)};
    } else {
      const uint64_t* kept = keep ? words_of(*keep) : nullptr;
      cells = cells_to_refine(p, in, known, at_level, kept, dilation);
    }
    const ChosenCells chosen(p, cells.bricks, cells.words.data(), by_bound);
    mark_nodes(p, chosen, marks);
    const BandBricks bricks = fine_bricks(p, chosen, known, marks);

    Tensor fine_values = empty_on(values, {bricks.count(), kBrickSize, kBrickSize, kBrickSize},
                                  values.scalar_type());
    Tensor fine_coordinates = empty_on(values, {bricks.count(), 3}, DType::Int);
    Tensor fine_asked = empty_on(values, {bricks.count(), kBrickSize}, DType::Long);
    Tensor ids = empty_on(values, {bricks.ids()}, DType::Long);
    auto* out = static_cast<value_t*>(fine_values.mutable_data_ptr());
    store_bricks(bricks, p.fine_tiles,
                 {marks, static_cast<int32_t*>(fine_coordinates.mutable_data_ptr()),
                  mutable_words_of(fine_asked), static_cast<int64_t*>(ids.mutable_data_ptr())},
                 [&](const BandBrick& brick, int64_t index) {
                   value_t* mine = out + kBrickNodes * index;
                   fill_absent(mine);
                   for (int x = 0; x < kBrickSize; ++x) {
                     uint64_t bits = brick.wanted[x] & ~brick.asked[x];
                     for (; bits != 0; bits &= bits - 1) {
                       const int bit = lowest_bit(bits);
                       mine[64 * x + bit] = in[coarse_offset(p, known, brick.tile.data(), x, bit)];
                     }
                   }
                 });
    return std::tuple{fine_values, fine_table, fine_coordinates, fine_asked, ids};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("narrow_band_refine", TORCH_BOX(&narrow_band_refine));
}

}  // namespace diffiso
