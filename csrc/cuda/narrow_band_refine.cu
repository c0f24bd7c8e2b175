// SPDX-License-Identifier: Apache-2.0
// Refinement of a coarse lattice on the GPU, the same output as on the CPU, in order.
//   cells:  the children to refine of each brick's cells, by the bound; or the cells whose children
//           all are, by sign or mask, then dilated in rounds
//   mark:   the places of the fine table that hold their nodes, and a list of them
//   count:  the nodes of each fine brick, and which of them the coarse lattice lacks
//   store:  after the read-back, the same once more, now written
// Scratch, beside that of narrow_band_places.cu for 27 fine places a coarse brick or all there are:
// 512 bytes a brick by bound (masks of children), 320 by sign, 64 by mask. Dilation by up to four
// cells makes that 125 fine places, and takes 140 bytes for each of 27 coarse places a brick, and a
// coarse table.
#include "core/refinement.h"
#include "cuda/cell_values.cuh"
#include "cuda/narrow_band.cuh"

namespace diffiso {
namespace {

template <typename value_t, typename scalar_t>
struct ChildrenParams {
  Refinement grid;
  const value_t* values;  // (R, 8, 8, 8)
  const uint64_t* asked;  // (R, 8)
  scalar_t level;
  Reach<scalar_t> reach;
  uint64_t* children;  // (R, 8, 8)
};

// A warp a brick: 32 cells at a time, half a plane, whose children fill four whole words.
template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBandBlock)
    refine_children_kernel(ChildrenParams<value_t, scalar_t> p) {
  __shared__ scalar_t corners_of_warp[kBandWarps][kCellNodes];
  scalar_t* local = corners_of_warp[threadIdx.x / kWarpSize];
  const int lane = lane_of_warp();
  for_each_by_warp(p.grid.coarse.count, [&](int64_t brick) {
    const Tile tile(p.grid.coarse.coordinates, brick);
    const int64_t upper = find_upper(p.grid.coarse, tile);
    load_cell_values(p.values, upper, local);
    const auto known = [&](int plane, int by, int bz) {
      const int64_t at = __shfl_sync(kWholeWarp, upper, 4 * (plane >> 3) + 2 * by + bz);
      return at < 0 ? uint64_t{0} : p.asked[kBrickSize * at + (plane & 7)];
    };
    for (int x = 0; x < kBrickSize; ++x) {
      const uint64_t cells = full_cells(known, p.grid.coarse_cells, tile.at, x);
      for (int half = 0; half < 2; ++half) {
        const int bit = kWarpSize * half + lane;
        unsigned children = 0;
        if ((cells >> bit & 1) != 0) {
          const scalar_t* first = local + cell_node(64 * x + bit);
          scalar_t corners[8];
          for (int c = 0; c < 8; ++c) corners[c] = first[corner_step(c)];
          const bool end = ends_in_cell(p.grid, tile.at, x, bit);
          children = children_to_refine(corners, p.level, p.reach, end);
        }
        const int dx = lane >> 1 & 1;
        uint64_t have[4] = {};  // of the children with the lane's own dx
        for (int o = 0; o < 8; ++o) {
          const uint64_t cells_with = __ballot_sync(kWholeWarp, children >> o & 1);
          if (o >> 2 == dx) have[o & 3] = cells_with << (kWarpSize * half);
        }
        const int n = 4 * dx + 2 * half + (lane & 1);
        if (lane < 4) {
          p.children[64 * brick + child_word(x, n)] =
              children_of_plane(have, p.grid.fine_cells, tile.at, x, n);
        }
      }
    }
    __syncwarp();  // the values of the next brick take their place
  });
}

struct CellsParams {
  Refinement grid;
  const uint64_t* asked;   // (R, 8)
  const uint64_t* keep;    // (R, 8) or null:
  const BandWords* state;  // (R, 8)
  uint64_t* cells;         // (R, 8)
};

// Plane x of the cells to refine in a coarse brick: those that are crossed, or in `keep`.
__device__ uint64_t cells_of_word(const CellsParams& p, int64_t brick, int x) {
  const BrickShape& bricks = p.grid.coarse;
  const Tile tile(bricks.coordinates, brick);
  const auto brick_at = [&](int plane, int by, int bz) {
    return bricks.find(tile.at[0] + (plane >> 3), tile.at[1] + by, tile.at[2] + bz);
  };
  if (p.keep != nullptr) {
    const auto known = [&](int plane, int by, int bz) {
      const int64_t at = brick_at(plane, by, bz);
      return at < 0 ? uint64_t{0} : p.asked[kBrickSize * at + (plane & 7)];
    };
    return p.keep[kBrickSize * brick + x] & full_cells(known, p.grid.coarse_cells, tile.at, x);
  }
  const auto around = [&](int plane, int by, int bz) {
    const int64_t at = brick_at(plane, by, bz);
    if (at >= 0) return p.state[kBrickSize * at + (plane & 7)];
    return unknown_words(bricks.nodes, tile.at, plane, by, bz);
  };
  return cells_of_plane(around, p.grid.coarse_cells, tile.at, CrossingCells{}, x);
}

__global__ void __launch_bounds__(kBandBlock) refine_cells_kernel(CellsParams p) {
  for_each_by_thread(kBrickSize * p.grid.coarse.count, [&](int64_t w) {
    p.cells[w] = cells_of_word(p, w / kBrickSize, static_cast<int>(w % kBrickSize));
  });
}

struct DilateParams {
  BrickShape bricks;      // of `masks`
  const uint64_t* masks;  // (R, 8)
  int64_t cells[3];       // of the lattice
  int64_t reach;          // bricks over which all rounds lead
  PlaceList places;       // where cells may then be
  uint64_t* dilated;      // (places, 8)
};

// A warp a brick: marks the places around it unless it has no cells.
__global__ void __launch_bounds__(kBandBlock) refine_mark_around_kernel(DilateParams p) {
  const int lane = lane_of_warp();
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const bool some = lane < kBrickSize && p.masks[kBrickSize * brick + lane] != 0;
    if (!__any_sync(kWholeWarp, some)) return;
    const Tile tile(p.bricks.coordinates, brick);
    const int64_t side = 2 * p.reach + 1;
    for (int64_t n = lane; n < side * side * side; n += kWarpSize) {
      p.places.mark(tile.at[0] + n / (side * side) - p.reach,
                    tile.at[1] + n / side % side - p.reach, tile.at[2] + n % side - p.reach);
    }
  });
}

// A thread a word: one cell more on every side.
__global__ void __launch_bounds__(kBandBlock) refine_dilate_kernel(DilateParams p) {
  for_each_by_thread(kBrickSize * p.places.count(), [&](int64_t w) {
    const Tile tile(p.places.coordinates, w / kBrickSize);
    const int x = static_cast<int>(w % kBrickSize);
    const auto around = [&](int plane, int by, int bz) {
      const int64_t brick =
          p.bricks.find(tile.at[0] + (plane >> 3), tile.at[1] + by, tile.at[2] + bz);
      return brick < 0 ? uint64_t{0} : p.masks[kBrickSize * brick + (plane & 7)];
    };
    p.dilated[w] = dilated_word(around, x) & box_plane(p.cells, tile.at, x);
  });
}

template <typename value_t>
struct FineParams {
  Refinement grid;
  ChosenCells chosen;
  const int32_t* parents;  // (1,) number of bricks of parents; null: as many as `chosen` says
  const uint64_t* asked;   // (R, 8) nodes that the coarse lattice has
  const value_t* values;   // (R, 8, 8, 8) their values
  value_t absent;
  PlaceList places;                // of the fine table
  PlaceCounts counts;              // of the fine bricks' ids
  int64_t bricks = 0;              // R'
  value_t* fine_values = nullptr;  // (R', 8, 8, 8)
  int32_t* coordinates = nullptr;  // (R', 3)
  uint64_t* fine_asked = nullptr;  // (R', 8)
  int64_t* ids = nullptr;          // (M,)
};

// A thread an octant of the parents' bricks: marks the bricks that hold a node of its cells.
template <typename Params>
__global__ void __launch_bounds__(kBandBlock) refine_mark_kernel(Params p) {
  const int64_t parents = p.parents != nullptr ? *p.parents : p.chosen.parents.count;
  for_each_by_thread(8 * parents, [&](int64_t slot) {
    const Tile parent(p.chosen.parents.coordinates, slot / 8);
    const int64_t tile[3] = {2 * parent.at[0] + (slot >> 2 & 1), 2 * parent.at[1] + (slot >> 1 & 1),
                             2 * parent.at[2] + (slot & 1)};
    const BrickFaces faces([&](int x) { return p.chosen.word(slot / 8, tile, x); });
    for (int n = 0; n < 8; ++n) {  // the cells' upper nodes may be in the next bricks
      const int dx = n >> 2, dy = n >> 1 & 1, dz = n & 1;
      if (faces.touch(dx, dy, dz)) {
        p.places.mark(tile[0] + dx, tile[1] + dy, tile[2] + dz);
      }
    }
  });
}

// Nodes of a fine brick: lanes 4*x to 4*x + 3 have those of plane x.
struct FineNodes {
  uint64_t wanted;
  uint64_t held;  // those of them whose values the coarse lattice has

  // Each of the four lanes looks at one of the rows of bricks that the plane's cells are in, then
  // at two of its rows of nodes.
  template <typename Params>
  __device__ FineNodes(const Params& p, const Tile& tile) {
    const int x = lane_of_warp() >> 2, part = lane_of_warp() & 3;
    const int64_t here[3] = {tile.at[0], tile.at[1] - (part >> 1), tile.at[2] - (part & 1)};
    const int64_t before[3] = {here[0] - (x == 0), here[1], here[2]};
    const uint64_t mine = p.chosen.word(p.chosen.parent_of(here), here, x) |
                          p.chosen.word(p.chosen.parent_of(before), before, (x + 7) & 7);
    uint64_t of[4];
    for (int n = 0; n < 4; ++n) of[n] = __shfl_sync(kWholeWarp, mine, n, 4);
    wanted = fold_square([&](int by, int bz) { return of[-2 * by - bz]; }, -1, -1, AnyOf{});
    held = held_by_coarse(p.grid, p.asked, tile.at, x, wanted & uint64_t{0xffff} << 16 * part);
    held |= __shfl_xor_sync(kWholeWarp, held, 1);
    held |= __shfl_xor_sync(kWholeWarp, held, 2);
  }
};

// A warp a fine brick: how many nodes are to be evaluated.
template <typename Params>
__global__ void __launch_bounds__(kBandBlock) refine_count_kernel(Params p) {
  for_each_by_warp(p.places.most + 1, [&](int64_t n) {
    int64_t count = 0;
    if (n < p.places.count()) {
      const FineNodes nodes(p, Tile(p.places.coordinates, n));
      count = count_bits(nodes.wanted & ~nodes.held);
    }
    if (lane_of_warp() == 0) p.counts.ids[n] = count;
  });
}

// A warp a fine brick: all of it but the table.
template <typename value_t>
__global__ void __launch_bounds__(kBandBlock) refine_store_kernel(FineParams<value_t> p) {
  const int lane = lane_of_warp();
  for_each_by_warp(p.bricks, [&](int64_t brick) {
    const Tile tile(p.places.coordinates, brick);
    const FineNodes nodes(p, tile);
    write_ids(nodes.wanted & ~nodes.held, brick, p.counts.ids[brick], p.ids);
    if (lane < 3) p.coordinates[3 * brick + lane] = p.places.coordinates[3 * brick + lane];
    if (lane % 4 == 0) p.fine_asked[kBrickSize * brick + lane / 4] = nodes.wanted;
    for (int x = 0; x < kBrickSize; ++x) {
      const uint64_t held = __shfl_sync(kWholeWarp, nodes.held, 4 * x);
      for (int bit = lane; bit < 64; bit += kWarpSize) {
        value_t value = p.absent;
        if ((held >> bit & 1) != 0) {
          value = p.values[coarse_offset(p.grid, p.asked, tile.at, x, bit)];
        }
        p.fine_values[kBrickNodes * brick + 64 * x + bit] = value;
      }
    }
  });
}

// How many places of a table can be marked by bricks of so many others, each in a box of `side`
// places along every axis.
int64_t most_places(const int64_t tiles[3], int64_t bricks, int64_t side) {
  int64_t most = bricks;
  for (int axis = 0; axis < 3; ++axis) most *= std::min(side, tiles[axis]);
  return most;
}

// Dilates cells by rounds of one cell, at listed places of their own: where bricks were reached.
// Then the cells' bricks are at these places, and `parents` points at their number.
void dilate(const CudaContext& cuda, Scratch& scratch, const Refinement& p, int64_t rounds,
            BrickShape& bricks, const uint64_t*& cells, const int32_t*& parents) {
  DilateParams d{bricks, cells, {}, ceil_div(rounds, kBrickSize), {}, nullptr};
  for (int axis = 0; axis < 3; ++axis) d.cells[axis] = p.coarse_cells[axis];
  d.places = make_place_list(cuda, scratch, bricks.tiles,
                             most_places(bricks.tiles, bricks.count, 2 * d.reach + 1));
  launch_by_warp(refine_mark_around_kernel, bricks.count, cuda, d);
  list_places(cuda, d.places);
  auto* table = scratch.take<int32_t>(bricks.tiles[0] * bricks.tiles[1] * bricks.tiles[2]);
  write_table(cuda, d.places, {}, d.places.most, table);
  uint64_t* masks[2] = {scratch.take<uint64_t>(kBrickSize * d.places.most),
                        scratch.take<uint64_t>(kBrickSize * d.places.most)};
  bricks.count = d.places.most;
  bricks.table = table;
  bricks.coordinates = d.places.coordinates;
  for (int64_t round = 0; round < rounds; ++round) {
    d.dilated = masks[round % 2];
    launch_by_thread(refine_dilate_kernel, kBrickSize * d.places.most, cuda, d);
    d.masks = d.dilated;
    d.bricks = bricks;
  }
  cells = d.masks;
  parents = d.places.ranks + d.places.words;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_refine(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, std::optional<Tensor> keep,
    std::vector<int64_t> nodes, std::vector<int64_t> fine_nodes, std::vector<double> reach,
    double level, bool by_bound, int64_t dilation, bool closed) {
  const CudaContext cuda(values);
  const BrickShape coarse =
      check_narrow_band("narrow_band_refine", values, table, coordinates, nodes, asked);
  check_refinement(values, keep, nodes, fine_nodes, reach, dilation);
  const Refinement grid(coarse, fine_nodes.data(), closed);
  // A cell reaches all others of a row in that many rounds.
  const int64_t rounds =
      by_bound ? 0 : std::min(dilation, *std::max_element(nodes.begin(), nodes.end()));
  Scratch scratch(cuda);
  Tensor fine_table =
      empty_on(values, {grid.fine_tiles[0], grid.fine_tiles[1], grid.fine_tiles[2]}, DType::Int);
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const auto at_level = static_cast<scalar_t>(level);
    BrickShape bricks = coarse;
    const uint64_t* masks = nullptr;
    const int32_t* parents = nullptr;
    if (by_bound) {
      ChildrenParams<value_t, scalar_t> p{grid,
                                          in,
                                          words_of(asked),
                                          at_level,
                                          Reach<scalar_t>(reach.data()),
                                          scratch.take<uint64_t>(64 * coarse.count)};
      launch_by_warp(refine_children_kernel<value_t, scalar_t>, coarse.count, cuda, p);
      masks = p.children;
    } else {
      CellsParams p{grid, words_of(asked), keep ? words_of(*keep) : nullptr, nullptr,
                    scratch.take<uint64_t>(kBrickSize * coarse.count)};
      if (!keep) {
        auto* state = scratch.take<BandWords>(kBrickSize * coarse.count);
        launch_by_warp(band_state_kernel<value_t, scalar_t>, coarse.count, cuda,
                       BandStateParams<value_t, scalar_t>{coarse, in, p.asked, nullptr, nullptr,
                                                          at_level, state});
        p.state = state;
      }
      launch_by_thread(refine_cells_kernel, kBrickSize * coarse.count, cuda, p);
      masks = p.cells;
      if (rounds > 0) dilate(cuda, scratch, grid, rounds, bricks, masks, parents);
    }
    // Two fine bricks along an axis, one more for upper nodes, and what dilation reaches.
    const int64_t side = 3 + rounds / 4 + ceil_div(rounds, 4);
    const PlaceList places = make_place_list(cuda, scratch, grid.fine_tiles,
                                             most_places(grid.fine_tiles, coarse.count, side));
    FineParams<value_t> p{grid,    ChosenCells(grid, bricks, masks, by_bound),
                          parents, words_of(asked),
                          in,      absent_value<value_t>(),
                          places,  make_place_counts(scratch, places, true)};
    launch_by_thread(refine_mark_kernel<FineParams<value_t>>, 8 * bricks.count, cuda, p);
    list_places(cuda, places);
    launch_by_warp(refine_count_kernel<FineParams<value_t>>, places.most + 1, cuda, p);
    const BandTotals total = sum_counts(cuda, scratch, places, p.counts);

    Tensor fine_values =
        empty_on(values, {total.bricks, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
    Tensor fine_coordinates = empty_on(values, {total.bricks, 3}, DType::Int);
    Tensor fine_asked = empty_on(values, {total.bricks, kBrickSize}, DType::Long);
    Tensor ids = empty_on(values, {total.ids}, DType::Long);
    p.bricks = total.bricks;
    p.fine_values = static_cast<value_t*>(fine_values.mutable_data_ptr());
    p.coordinates = static_cast<int32_t*>(fine_coordinates.mutable_data_ptr());
    p.fine_asked = mutable_words_of(fine_asked);
    p.ids = static_cast<int64_t*>(ids.mutable_data_ptr());
    launch_by_warp(refine_store_kernel<value_t>, total.bricks, cuda, p);
    write_table(cuda, places, p.counts, total.bricks,
                static_cast<int32_t*>(fine_table.mutable_data_ptr()));
    return std::tuple{fine_values, fine_table, fine_coordinates, fine_asked, ids};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("narrow_band_refine", TORCH_BOX(&narrow_band_refine));
}

}  // namespace diffiso
