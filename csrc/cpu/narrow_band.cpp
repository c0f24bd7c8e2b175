// SPDX-License-Identifier: Apache-2.0
// The steps of a narrow band on the CPU: refine a coarse lattice, reuse and grow a band, look for
// the steepest pair of samples. Each makes masks brick by brick, marks the places of the table that
// they reach into, and collects the bricks there in the table's order: a sweep over the marks, each
// task a run of rows whose bricks it keeps, then a prefix sum over tasks. Nothing but the table is as
// large as the volume, and that is 1/512 of it. Output order does not depend on the number of
// threads.
#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "common/checks.h"
#include "core/narrow_band.h"
#include "cpu/parallel.h"

namespace diffiso {
namespace {

constexpr int64_t kBricksPerTask = 64;

const uint64_t* words_of(const Tensor& masks) {
  return static_cast<const uint64_t*>(masks.const_data_ptr());
}

// A brick of a band being made.
struct BandBrick {
  int64_t tile[3];
  uint64_t wanted[8];  // nodes with a value, now or when `asked` ones are evaluated
  uint64_t asked[8];   // those without one yet
};

// The bricks of a new table in its order, in runs, and where each run begins.
struct BandBricks {
  std::vector<std::vector<BandBrick>> runs;
  std::vector<int64_t> first_brick, first_id;  // one more than runs: totals last
};

void mark(int32_t* marks, const int64_t tiles[3], int64_t x, int64_t y, int64_t z) {
  if (x < 0 || y < 0 || z < 0 || x >= tiles[0] || y >= tiles[1] || z >= tiles[2]) return;
  std::atomic_ref<int32_t>(marks[(x * tiles[1] + y) * tiles[2] + z])
      .store(1, std::memory_order_relaxed);
}

// Calls look(brick) at every marked tile; it fills the masks in and says whether a brick is needed.
template <typename Look>
BandBricks collect_bricks(const int64_t tiles[3], const int32_t* marks, const Look& look) {
  constexpr int64_t kRows = 16;
  const int64_t rows = tiles[0] * tiles[1];
  BandBricks out;
  out.runs.resize((rows + kRows - 1) / kRows);
  parallel_pieces(rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t z = 0; z < tiles[2]; ++z) {
        if (marks[row * tiles[2] + z] == 0) continue;
        BandBrick brick{{row / tiles[1], row % tiles[1], z}, {}, {}};
        if (look(brick)) out.runs[begin / kRows].push_back(brick);
      }
    }
  });
  out.first_brick.push_back(0);
  out.first_id.push_back(0);
  for (const std::vector<BandBrick>& run : out.runs) {
    int64_t ids = 0;
    for (const BandBrick& brick : run) {
      for (uint64_t word : brick.asked) ids += popcount(word);
    }
    out.first_brick.push_back(out.first_brick.back() + static_cast<int64_t>(run.size()));
    out.first_id.push_back(out.first_id.back() + ids);
  }
  return out;
}

// Turns marks into the table of the bricks, and writes what says where they stand, which nodes have
// values and which are to be evaluated. Calls each(brick, index) for the rest.
template <typename Each>
void store_bricks(const BandBricks& bricks, const int64_t tiles[3], int32_t* table,
                  int32_t* coordinates, uint64_t* asked, int64_t* ids, const Each& each) {
  parallel_pieces(tiles[0] * tiles[1] * tiles[2], int64_t{1} << 16,
                  [&](int64_t begin, int64_t end) { std::fill(table + begin, table + end, -1); });
  parallel_tasks(static_cast<int64_t>(bricks.runs.size()), [&](int64_t run) {
    int64_t index = bricks.first_brick[run], id = bricks.first_id[run];
    for (const BandBrick& brick : bricks.runs[run]) {
      const int64_t* at = brick.tile;
      table[(at[0] * tiles[1] + at[1]) * tiles[2] + at[2]] = static_cast<int32_t>(index);
      for (int axis = 0; axis < 3; ++axis) {
        coordinates[3 * index + axis] = static_cast<int32_t>(at[axis]);
      }
      for (int x = 0; x < kBrickSize; ++x) {
        asked[kBrickSize * index + x] = brick.wanted[x];
        for (uint64_t bits = brick.asked[x]; bits != 0; bits &= bits - 1) {
          ids[id++] = kBrickNodes * index + 64 * x + lowest_bit(bits);
        }
      }
      each(brick, index);
      ++index;
    }
  });
}

// A brick's nodes and those of the next bricks that its cells touch; NaN where there is no value.
template <typename scalar_t>
struct CellValues {
  static constexpr int kSide = kBrickSize + 1;
  scalar_t value[kSide * kSide * kSide];

  template <typename value_t>
  CellValues(const value_t* values, const BrickHood& hood) {
    scalar_t* out = value;
    for (int x = 0; x < kSide; ++x) {
      for (int y = 0; y < kSide; ++y) {
        const int64_t row = 64 * (x & 7) + 8 * (y & 7);
        for (int beyond = 0; beyond < 2; ++beyond) {
          const int64_t brick = hood.at(x >> 3, y >> 3, beyond);
          for (int z = 0; z < (beyond ? 1 : kBrickSize); ++z) {
            *out++ = brick < 0 ? std::numeric_limits<scalar_t>::quiet_NaN()
                               : static_cast<scalar_t>(values[kBrickNodes * brick + row + z]);
          }
        }
      }
    }
  }

  static int step(int corner) {
    return (corner >> 2) * kSide * kSide + (corner >> 1 & 1) * kSide + (corner & 1);
  }
};

// The cells of each brick whose eight nodes are all known.
uint64_t full_cells(const uint64_t* asked, const BrickHood& hood, const int64_t cells[3],
                    const int64_t tile[3], int x) {
  uint64_t all =
      box_word(cells, kBrickSize * tile[0] + x, kBrickSize * tile[1], kBrickSize * tile[2]);
  for (int c = 0; c < 8 && all != 0; ++c) {
    all &= shifted_word(asked, hood, x, c >> 2, c >> 1 & 1, c & 1);
  }
  return all;
}

// Masks of cells on a lattice, and how to find a brick's: the cells to refine, or the eight bricks of
// their children, each in a slot of its own.
struct CellMasks {
  BrickShape bricks;
  std::vector<int32_t> table, coordinates;  // where they are not those of the coarse lattice
  std::vector<uint64_t> words;

  void own(std::vector<int32_t> new_table, std::vector<int32_t> new_coordinates) {
    table = std::move(new_table);
    coordinates = std::move(new_coordinates);
    bricks.count = static_cast<int64_t>(coordinates.size()) / 3;
    bricks.table = table.data();
    bricks.coordinates = coordinates.data();
  }
};

struct Refinement {
  BrickShape coarse;
  int64_t coarse_cells[3], fine_nodes[3], fine_cells[3], fine_tiles[3];
};

void tile_of(const BrickShape& bricks, int64_t brick, int64_t tile[3]) {
  for (int axis = 0; axis < 3; ++axis) tile[axis] = bricks.coordinates[3 * brick + axis];
}

BrickHood hood_of(const BrickShape& bricks, int64_t brick) {
  const int32_t* at = bricks.coordinates + 3 * brick;
  return BrickHood(bricks, at[0], at[1], at[2]);
}

// Sets the bits of a cell's children, in the eight child bricks of its own.
void set_children(uint64_t* of_brick, const Refinement& p, const int64_t tile[3], int x, int bit,
                  unsigned children) {
  for (; children != 0; children &= children - 1) {
    const int o = lowest_bit(children);
    const int at[3] = {2 * x + (o >> 2), 2 * (bit >> 3) + (o >> 1 & 1), 2 * (bit & 7) + (o & 1)};
    bool exists = true;
    for (int axis = 0; axis < 3; ++axis) {
      exists = exists && 2 * kBrickSize * tile[axis] + at[axis] < p.fine_cells[axis];
    }
    const int octant = (at[0] >> 3) * 4 + (at[1] >> 3) * 2 + (at[2] >> 3);
    const uint64_t mine = uint64_t{1} << (8 * (at[1] & 7) + (at[2] & 7));
    if (exists) of_brick[kBrickSize * octant + (at[0] & 7)] |= mine;
  }
}

template <typename value_t, typename scalar_t>
CellMasks children_by_bound(const Refinement& p, const value_t* values, const uint64_t* asked,
                            scalar_t level, const Reach<scalar_t>& reach) {
  CellMasks out{p.coarse, {}, {}, std::vector<uint64_t>(64 * p.coarse.count)};
  parallel_pieces(p.coarse.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t brick = begin; brick < end; ++brick) {
      int64_t tile[3];
      tile_of(p.coarse, brick, tile);
      const BrickHood hood = hood_of(p.coarse, brick);
      const CellValues<scalar_t> local(values, hood);
      for (int x = 0; x < kBrickSize; ++x) {
        uint64_t cells = full_cells(asked, hood, p.coarse_cells, tile, x);
        for (; cells != 0; cells &= cells - 1) {
          const int bit = lowest_bit(cells);
          const scalar_t* first =
              local.value + (x * local.kSide + (bit >> 3)) * local.kSide + (bit & 7);
          scalar_t corners[8];
          for (int c = 0; c < 8; ++c) corners[c] = first[local.step(c)];
          set_children(out.words.data() + 64 * brick, p, tile, x, bit,
                       children_to_refine(corners, level, reach));
        }
      }
    }
  });
  return out;
}

template <typename value_t, typename scalar_t>
std::vector<uint64_t> pack_nodes(int64_t bricks, const value_t* values, scalar_t level,
                                 bool outside) {
  std::vector<uint64_t> masks(kBrickSize * bricks);
  parallel_pieces(kBrickSize * bricks, kBrickSize * kBricksPerTask,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t w = begin; w < end; ++w) {
                      for (int bit = 0; bit < 64; ++bit) {
                        const scalar_t value = static_cast<scalar_t>(values[64 * w + bit]);
                        const bool in = outside ? value >= level : value < level;
                        masks[w] |= uint64_t{in} << bit;
                      }
                    }
                  });
  return masks;
}

// One cell more on every side, also into places without a brick.
CellMasks dilate(const CellMasks& masks, const int64_t cells[3]) {
  const BrickShape& from = masks.bricks;
  std::vector<int32_t> table(from.tiles[0] * from.tiles[1] * from.tiles[2]);
  parallel_pieces(from.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t brick = begin; brick < end; ++brick) {
      const uint64_t* words = masks.words.data() + kBrickSize * brick;
      const int32_t* at = from.coordinates + 3 * brick;
      for (int n = 0; n < 27; ++n) {
        const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
        if (touches(words, dx, dy, dz)) {
          mark(table.data(), from.tiles, at[0] + dx, at[1] + dy, at[2] + dz);
        }
      }
    }
  });
  const BandBricks bricks = collect_bricks(from.tiles, table.data(), [&](BandBrick& brick) {
    const BrickHood hood(from, brick.tile[0], brick.tile[1], brick.tile[2]);
    uint64_t any = 0;
    for (int x = 0; x < kBrickSize; ++x) {
      brick.wanted[x] = dilated_word(masks.words.data(), hood, x) &
                        box_word(cells, kBrickSize * brick.tile[0] + x, kBrickSize * brick.tile[1],
                                 kBrickSize * brick.tile[2]);
      any |= brick.wanted[x];
    }
    return any != 0;
  });
  CellMasks out{from, {}, {}, std::vector<uint64_t>(kBrickSize * bricks.first_brick.back())};
  std::vector<int32_t> coordinates(3 * bricks.first_brick.back());
  store_bricks(bricks, from.tiles, table.data(), coordinates.data(), out.words.data(), nullptr,
               [](const BandBrick&, int64_t) {});
  out.own(std::move(table), std::move(coordinates));
  return out;
}

// All children of the cells that are crossed, or in `keep`, and of those around them.
template <typename value_t, typename scalar_t>
CellMasks children_by_cell(const Refinement& p, const value_t* values, const uint64_t* asked,
                           scalar_t level, const uint64_t* keep, int64_t dilation) {
  CellMasks cells{p.coarse, {}, {}, std::vector<uint64_t>(kBrickSize * p.coarse.count)};
  std::vector<uint64_t> inside, outside;
  if (keep == nullptr) {
    inside = pack_nodes(p.coarse.count, values, level, false);
    outside = pack_nodes(p.coarse.count, values, level, true);
  }
  parallel_pieces(p.coarse.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t brick = begin; brick < end; ++brick) {
      int64_t tile[3];
      tile_of(p.coarse, brick, tile);
      const BrickHood hood = hood_of(p.coarse, brick);
      for (int x = 0; x < kBrickSize; ++x) {
        uint64_t any_inside = 0, any_outside = 0;
        for (int c = 0; c < 8 && keep == nullptr; ++c) {
          const int dx = c >> 2, dy = c >> 1 & 1, dz = c & 1;
          any_inside |= shifted_word(inside.data(), hood, x, dx, dy, dz);
          any_outside |= shifted_word(outside.data(), hood, x, dx, dy, dz);
        }
        const int64_t w = kBrickSize * brick + x;
        const uint64_t chosen = keep != nullptr ? keep[w] : any_inside & any_outside;
        cells.words[w] = chosen & full_cells(asked, hood, p.coarse_cells, tile, x);
      }
    }
  });
  for (int64_t n = 0; n < dilation; ++n) cells = dilate(cells, p.coarse_cells);
  CellMasks out{cells.bricks, {}, {}, std::vector<uint64_t>(64 * cells.bricks.count)};
  out.own(std::move(cells.table), std::move(cells.coordinates));
  if (dilation == 0) out.bricks = p.coarse;
  parallel_pieces(out.bricks.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t brick = begin; brick < end; ++brick) {
      int64_t tile[3];
      tile_of(out.bricks, brick, tile);
      for (int x = 0; x < kBrickSize; ++x) {
        for (uint64_t bits = cells.words[kBrickSize * brick + x]; bits != 0; bits &= bits - 1) {
          set_children(out.words.data() + 64 * brick, p, tile, x, lowest_bit(bits), 0xff);
        }
      }
    }
  });
  return out;
}

// The slot of a fine brick's cells among the children.
int64_t child_slot(const CellMasks& children, int64_t x, int64_t y, int64_t z) {
  if (x < 0 || y < 0 || z < 0) return -1;
  const int64_t brick = children.bricks.find(x >> 1, y >> 1, z >> 1);
  return brick < 0 ? -1 : 8 * brick + (x & 1) * 4 + (y & 1) * 2 + (z & 1);
}

void mark_children(const Refinement& p, const CellMasks& children, int32_t* marks) {
  parallel_pieces(8 * children.bricks.count, 8 * kBricksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      const uint64_t* words = children.words.data() + kBrickSize * slot;
      const int32_t* at = children.bricks.coordinates + slot / 8 * 3;
      const int64_t octant = slot % 8;
      for (int n = 0; n < 8; ++n) {  // the cells' upper nodes may be in the next bricks
        const int dx = n >> 2, dy = n >> 1 & 1, dz = n & 1;
        if (touches(words, dx, dy, dz)) {
          mark(marks, p.fine_tiles, 2 * at[0] + (octant >> 2) + dx,
               2 * at[1] + (octant >> 1 & 1) + dy, 2 * at[2] + (octant & 1) + dz);
        }
      }
    }
  });
}

// Where the coarse lattice holds the value of a fine node, or -1.
int64_t coarse_offset(const Refinement& p, const uint64_t* asked, const BandBrick& brick, int x,
                      int bit) {
  const int local[3] = {x, bit >> 3, bit & 7};
  int64_t node[3];
  for (int axis = 0; axis < 3; ++axis) {
    node[axis] = coarse_node(kBrickSize * brick.tile[axis] + local[axis], p.fine_nodes[axis],
                             p.coarse.nodes[axis]);
    if (node[axis] < 0) return -1;
  }
  const int64_t at = p.coarse.offset(node[0], node[1], node[2]);
  return at >= 0 && (asked[at >> 6] >> (at & 63) & 1) != 0 ? at : -1;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_refine(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, std::optional<Tensor> keep,
    std::vector<int64_t> nodes, std::vector<int64_t> fine_nodes, std::vector<double> reach,
    double level, bool by_bound, int64_t dilation) {
  const BrickShape coarse =
      check_narrow_band("narrow_band_refine", values, table, coordinates, nodes, asked);
  check_refinement(values, keep, nodes, fine_nodes, reach, dilation);
  Refinement p{};
  p.coarse = coarse;
  for (int axis = 0; axis < 3; ++axis) {
    p.coarse_cells[axis] = nodes[axis] - 1;
    p.fine_nodes[axis] = fine_nodes[axis];
    p.fine_cells[axis] = fine_nodes[axis] - 1;
    p.fine_tiles[axis] = (fine_nodes[axis] + kBrickSize - 1) / kBrickSize;
  }
  const uint64_t* known = words_of(asked);
  Tensor fine_table =
      zeros_on(values, {p.fine_tiles[0], p.fine_tiles[1], p.fine_tiles[2]}, DType::Int);
  auto* marks = static_cast<int32_t*>(fine_table.mutable_data_ptr());
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const auto at_level = static_cast<scalar_t>(level);
    Reach<scalar_t> bound{};
    for (int n = 0; n < 8; ++n) bound.of[n] = static_cast<scalar_t>(reach[n]);
    const CellMasks children =
        by_bound
            ? children_by_bound(p, in, known, at_level, bound)
            : children_by_cell(p, in, known, at_level, keep ? words_of(*keep) : nullptr, dilation);
    mark_children(p, children, marks);
    const BandBricks bricks = collect_bricks(p.fine_tiles, marks, [&](BandBrick& brick) {
      const int64_t* t = brick.tile;
      const BrickHood hood([&](int dx, int dy, int dz) {
        return child_slot(children, t[0] + dx, t[1] + dy, t[2] + dz);
      });
      for (int x = 0; x < kBrickSize; ++x) {
        brick.wanted[x] = brick.asked[x] = nodes_of_cell_mask(children.words.data(), hood, x);
        for (uint64_t bits = brick.wanted[x]; bits != 0; bits &= bits - 1) {
          const int bit = lowest_bit(bits);
          if (coarse_offset(p, known, brick, x, bit) >= 0) brick.asked[x] ^= uint64_t{1} << bit;
        }
      }
      return true;
    });
    const int64_t count = bricks.first_brick.back();
    Tensor fine_values =
        empty_on(values, {count, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
    Tensor fine_coordinates = empty_on(values, {count, 3}, DType::Int);
    Tensor fine_asked = empty_on(values, {count, kBrickSize}, DType::Long);
    Tensor ids = empty_on(values, {bricks.first_id.back()}, DType::Long);
    auto* out = static_cast<value_t*>(fine_values.mutable_data_ptr());
    store_bricks(
        bricks, p.fine_tiles, marks, static_cast<int32_t*>(fine_coordinates.mutable_data_ptr()),
        static_cast<uint64_t*>(fine_asked.mutable_data_ptr()),
        static_cast<int64_t*>(ids.mutable_data_ptr()), [&](const BandBrick& brick, int64_t index) {
          value_t* mine = out + kBrickNodes * index;
          std::fill(mine, mine + kBrickNodes,
                    static_cast<value_t>(std::numeric_limits<float>::quiet_NaN()));
          for (int x = 0; x < kBrickSize; ++x) {
            uint64_t bits = brick.wanted[x] & ~brick.asked[x];
            for (; bits != 0; bits &= bits - 1) {
              const int bit = lowest_bit(bits);
              mine[64 * x + bit] = in[coarse_offset(p, known, brick, x, bit)];
            }
          }
        });
    return std::tuple{fine_values, fine_table, fine_coordinates, fine_asked, ids};
  });
}

// The four masks of BandMasks, in one array: a brick's words of each follow the other bricks'.
struct BandState {
  std::vector<uint64_t> words;
  BandMasks masks;

  template <typename value_t, typename scalar_t>
  BandState(int64_t bricks, const value_t* values, scalar_t level, const uint64_t* asked,
            const uint64_t* remembered, const uint64_t* before)
      : words(4 * kBrickSize * bricks) {
    const int64_t count = kBrickSize * bricks;
    uint64_t* parts[4];
    for (int n = 0; n < 4; ++n) parts[n] = words.data() + n * count;
    const std::vector<uint64_t> below = pack_nodes(bricks, values, level, false);
    const std::vector<uint64_t> above = pack_nodes(bricks, values, level, true);
    for (int64_t w = 0; w < count; ++w) {
      const uint64_t now_inside = below[w] & asked[w], now_outside = above[w] & asked[w];
      const uint64_t memory = remembered == nullptr ? 0 : remembered[w];
      const uint64_t then = before == nullptr ? 0 : before[w];
      const uint64_t stale = memory & ~asked[w];
      parts[0][w] = now_inside | (stale & then);
      parts[1][w] = now_outside | (stale & ~then);
      parts[2][w] = memory & ((now_inside & ~then) | (now_outside & then));
      parts[3][w] = asked[w] | memory;
    }
    masks = {parts[0], parts[1], parts[2], parts[3]};
  }
};

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
    const auto at_level = static_cast<scalar_t>(level);
    const BandState state(bricks.count, in, at_level, words_of(asked), nullptr, nullptr);
    auto* out = static_cast<uint64_t*>(wanted.mutable_data_ptr());
    auto* memory = static_cast<uint64_t*>(remembered.mutable_data_ptr());
    auto* then = static_cast<uint64_t*>(before.mutable_data_ptr());
    parallel_pieces(bricks.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t brick = begin; brick < end; ++brick) {
        int64_t tile[3];
        tile_of(bricks, brick, tile);
        uint64_t* mine = out + kBrickSize * brick;
        if (threshold <= 0) {
          nodes_of_cells(state.masks, hood_of(bricks, brick), bricks.nodes, tile, CrossingCells{},
                         mine);
        }
        for (int x = 0; x < kBrickSize; ++x) {
          const int64_t w = kBrickSize * brick + x;
          if (threshold > 0) mine[x] = 0;
          for (int bit = 0; bit < 64 && threshold > 0; ++bit) {
            const scalar_t value = static_cast<scalar_t>(in[64 * w + bit]);
            const bool near = std::abs(value - at_level) <= static_cast<scalar_t>(threshold);
            mine[x] |= uint64_t{near} << bit;
          }
          mine[x] &= words_of(asked)[w];
          memory[w] = state.masks.inside[w] | state.masks.outside[w];
          then[w] = state.masks.inside[w];
        }
      }
    });
  });
  return {wanted, remembered, before};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_grow(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, Tensor remembered, Tensor before,
    std::vector<int64_t> nodes, double level) {
  const char* op = "narrow_band_grow";
  const BrickShape old = check_narrow_band(op, values, table, coordinates, nodes, asked);
  check_masks(op, values, "remembered", remembered);
  check_masks(op, values, "before", before);
  Tensor new_table = zeros_on(values, {old.tiles[0], old.tiles[1], old.tiles[2]}, DType::Int);
  auto* marks = static_cast<int32_t*>(new_table.mutable_data_ptr());
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    const uint64_t* known = words_of(asked);
    const BandState state(old.count, in, static_cast<scalar_t>(level), known, words_of(remembered),
                          words_of(before));
    parallel_pieces(old.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t brick = begin; brick < end; ++brick) {
        int64_t tile[3];
        tile_of(old, brick, tile);
        for (int n = 0; n < 27; ++n) {
          const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
          if (n == 13 || touches(state.masks.known + kBrickSize * brick, dx, dy, dz)) {
            mark(marks, old.tiles, tile[0] + dx, tile[1] + dy, tile[2] + dz);
          }
        }
      }
    });
    const BandBricks bricks = collect_bricks(old.tiles, marks, [&](BandBrick& brick) {
      const int64_t* t = brick.tile;
      const BrickHood hood(old, t[0], t[1], t[2]);
      nodes_of_cells(state.masks, hood, old.nodes, t, GrowingCells{}, brick.wanted);
      const int64_t here = hood.at(0, 0, 0);
      uint64_t any = 0;
      for (int x = 0; x < kBrickSize; ++x) {
        const uint64_t had = here < 0 ? 0 : known[kBrickSize * here + x];
        brick.asked[x] = brick.wanted[x] & ~had;
        brick.wanted[x] |= had;
        any |= brick.wanted[x];
      }
      return any != 0 || here >= 0;
    });
    const int64_t ids_count = bricks.first_id.back();
    const int64_t count = ids_count == 0 ? 0 : bricks.first_brick.back();
    Tensor new_values =
        empty_on(values, {count, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
    Tensor new_coordinates = empty_on(values, {count, 3}, DType::Int);
    std::array<Tensor, 3> masks{empty_on(values, {count, kBrickSize}, DType::Long),
                                empty_on(values, {count, kBrickSize}, DType::Long),
                                empty_on(values, {count, kBrickSize}, DType::Long)};
    Tensor ids = empty_on(values, {ids_count}, DType::Long);
    if (count > 0) {
      auto* out = static_cast<value_t*>(new_values.mutable_data_ptr());
      auto* memory = static_cast<uint64_t*>(masks[1].mutable_data_ptr());
      auto* then = static_cast<uint64_t*>(masks[2].mutable_data_ptr());
      std::vector<uint64_t> was_inside(kBrickSize * old.count), was_outside(kBrickSize * old.count);
      for (int64_t w = 0; w < kBrickSize * old.count; ++w) {
        was_inside[w] = words_of(remembered)[w] & words_of(before)[w];
        was_outside[w] = words_of(remembered)[w] & ~words_of(before)[w];
      }
      store_bricks(
          bricks, old.tiles, marks, static_cast<int32_t*>(new_coordinates.mutable_data_ptr()),
          static_cast<uint64_t*>(masks[0].mutable_data_ptr()),
          static_cast<int64_t*>(ids.mutable_data_ptr()),
          [&](const BandBrick& brick, int64_t index) {
            const int64_t* t = brick.tile;
            const BrickHood hood(old, t[0], t[1], t[2]);
            const int64_t here = hood.at(0, 0, 0);
            value_t* mine = out + kBrickNodes * index;
            if (here >= 0) {
              std::copy_n(in + kBrickNodes * here, kBrickNodes, mine);
            } else {
              std::fill(mine, mine + kBrickNodes,
                        static_cast<value_t>(std::numeric_limits<float>::quiet_NaN()));
            }
            for (int x = 0; x < kBrickSize; ++x) {
              const uint64_t had = here < 0 ? 0 : words_of(remembered)[8 * here + x];
              const uint64_t fresh = brick.asked[x] & ~had;
              uint64_t around_inside = 0, around_outside = 0;
              if (fresh != 0) {
                around_inside = dilated_word(was_inside.data(), hood, x);
                around_outside = dilated_word(was_outside.data(), hood, x);
              }
              memory[kBrickSize * index + x] = had | (fresh & (around_inside ^ around_outside));
              then[kBrickSize * index + x] =
                  (here < 0 ? 0 : had & words_of(before)[kBrickSize * here + x]) |
                  (fresh & around_inside & ~around_outside);
            }
          });
    }
    return std::tuple{new_values, new_table, new_coordinates, masks[0], masks[1], masks[2], ids};
  });
}

// Two neighbouring samples and how much the field rises between them, per length.
struct SteepestPair {
  double slope = 0;
  int64_t cell = 0;  // local: 64*x + 8*y + z
  CornerPair corners{0, 0};
};

template <typename scalar_t>
SteepestPair steepest_pair(const CellValues<scalar_t>& local, const std::vector<double>& lengths) {
  SteepestPair out;
  for (int n = 0; n < kCornerPairs; ++n) {
    const CornerPair pair = corner_pair(n);
    const scalar_t* first = local.value + local.step(pair.first);
    const scalar_t* second = local.value + local.step(pair.second);
    const double length = lengths[pair.first ^ pair.second];
    for (int row = 0; row < 64; ++row) {
      const int begin = ((row >> 3) * local.kSide + (row & 7)) * local.kSide;
      scalar_t most = 0;
      for (int z = 0; z < kBrickSize; ++z) {
        const scalar_t rise = rise_between(first[begin + z], second[begin + z]);
        most = rise > most ? rise : most;
      }
      if (!(static_cast<double>(most) / length > out.slope)) continue;
      int z = 0;
      while (rise_between(first[begin + z], second[begin + z]) != most) ++z;
      out = {static_cast<double>(most) / length, 8 * row + z, pair};
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
    parallel_pieces(bricks.count, kBricksPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t brick = begin; brick < end; ++brick) {
        of_brick[brick] = steepest_pair(CellValues<scalar_t>(in, hood_of(bricks, brick)), lengths);
      }
    });
  });
  Tensor out = zeros_on(values, {7}, DType::Double);
  auto* facts = static_cast<double*>(out.mutable_data_ptr());
  for (int64_t brick = 0; brick < bricks.count; ++brick) {
    const SteepestPair& pair = of_brick[brick];
    if (!(pair.slope > facts[0])) continue;
    facts[0] = pair.slope;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t node = bricks.origin(brick, axis) + (pair.cell >> (6 - 3 * axis) & 7);
      facts[1 + axis] = static_cast<double>(node + (pair.corners.first >> (2 - axis) & 1));
      facts[4 + axis] = static_cast<double>(node + (pair.corners.second >> (2 - axis) & 1));
    }
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("narrow_band_refine", TORCH_BOX(&narrow_band_refine));
  m.impl("narrow_band_reuse", TORCH_BOX(&narrow_band_reuse));
  m.impl("narrow_band_grow", TORCH_BOX(&narrow_band_grow));
  m.impl("narrow_band_slope", TORCH_BOX(&narrow_band_slope));
}

}  // namespace diffiso
