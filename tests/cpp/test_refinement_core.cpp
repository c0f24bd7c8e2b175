// SPDX-License-Identifier: Apache-2.0
// Refinement of a lattice against loops over single nodes, cells and their children.
#include <array>
#include <limits>
#include <vector>

#include "core/refinement.h"
#include "expect.h"

using namespace diffiso;

namespace {

using Place = std::array<int64_t, 3>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Sizes of fine lattices, in nodes; axes of an odd and of an even number of cells.
constexpr Place kFine[] = {{3, 3, 3}, {4, 16, 17}, {33, 15, 18}, {16, 34, 48}};

// A coarse lattice, all of its bricks in the table's order but the one in the middle.
struct Coarse {
  std::vector<int32_t> table, coordinates;
  BrickShape shape{};

  explicit Coarse(const Place& fine) {
    int64_t places = 1;
    for (int axis = 0; axis < 3; ++axis) {
      shape.nodes[axis] = fine[axis] / 2 + 1;
      shape.tiles[axis] = (shape.nodes[axis] + 7) / 8;
      places *= shape.tiles[axis];
    }
    for (int64_t n = 0; n < places; ++n) {
      const bool absent = places > 1 && n == places / 2;
      table.push_back(absent ? -1 : static_cast<int32_t>(shape.count++));
      if (absent) continue;
      const int64_t row = n / shape.tiles[2];
      for (const int64_t at : {row / shape.tiles[1], row % shape.tiles[1], n % shape.tiles[2]}) {
        coordinates.push_back(static_cast<int32_t>(at));
      }
    }
    shape.table = table.data();
    shape.coordinates = coordinates.data();
  }

  std::vector<uint64_t> random_masks(int64_t words, Random& random) const {
    std::vector<uint64_t> out(words * shape.count);
    for (uint64_t& word : out) {
      word = static_cast<uint64_t>(random.below(int64_t{1} << 32)) << 32 |
             static_cast<uint64_t>(random.below(int64_t{1} << 32));
    }
    return out;
  }
};

// Calls f(tile) for every place of the fine table.
template <typename F>
void for_each_tile(const Refinement& p, const F& f) {
  for (int64_t x = 0; x < p.fine_tiles[0]; ++x) {
    for (int64_t y = 0; y < p.fine_tiles[1]; ++y) {
      for (int64_t z = 0; z < p.fine_tiles[2]; ++z) f(Place{x, y, z});
    }
  }
}

Place node_of(const Place& tile, int local) {
  return {8 * tile[0] + local / 64, 8 * tile[1] + local / 8 % 8, 8 * tile[2] + local % 8};
}

bool is_below(const Place& place, const int64_t size[3]) {
  bool out = true;
  for (int axis = 0; axis < 3; ++axis) out = out && place[axis] >= 0 && place[axis] < size[axis];
  return out;
}

void test_nodes_of_both_lattices() {
  for (int64_t fine_nodes = 3; fine_nodes < 40; ++fine_nodes) {
    const int64_t coarse_nodes = fine_nodes / 2 + 1;
    int64_t next = 0;
    for (int64_t fine = 0; fine < fine_nodes; ++fine) {
      // Coarse node i is fine node min(2 * i, last).
      const bool shared = fine == std::min(2 * next, fine_nodes - 1);
      expect(coarse_node(fine, fine_nodes, coarse_nodes) == (shared ? next : -1));
      next += shared;
    }
    expect(next == coarse_nodes);
  }
}

void test_values_that_the_coarse_lattice_holds() {
  Random random(1);
  for (const Place& fine : kFine) {
    const Coarse coarse(fine);
    const Refinement p(coarse.shape, fine.data());
    const std::vector<uint64_t> asked = coarse.random_masks(8, random);
    int64_t held = 0;
    for_each_tile(p, [&](const Place& tile) {
      for (int local = 0; local < kBrickNodes; ++local) {
        const Place node = node_of(tile, local);
        if (!is_below(node, p.fine_nodes)) continue;
        int64_t at[3];
        bool shared = true;
        for (int axis = 0; axis < 3; ++axis) {
          at[axis] = coarse_node(node[axis], fine[axis], coarse.shape.nodes[axis]);
          shared = shared && at[axis] >= 0;
        }
        int64_t expected = shared ? coarse.shape.offset(at[0], at[1], at[2]) : -1;
        if (expected >= 0 && (asked[expected / 64] >> expected % 64 & 1) == 0) expected = -1;
        const int x = local / 64, bit = local % 64;
        expect(coarse_offset(p, asked.data(), tile.data(), x, bit) == expected);
        expect((coarse_nodes_of_plane(p, tile.data(), x) >> bit & 1) == shared);
        const uint64_t of_all = held_by_coarse(p, asked.data(), tile.data(), x, ~uint64_t{0}),
                       mine = uint64_t{1} << bit;
        expect((of_all >> bit & 1) == (expected >= 0));
        expect(held_by_coarse(p, asked.data(), tile.data(), x, mine) == (of_all & mine));
        held += expected >= 0;
      }
    });
    expect(held > 0);
  }
}

void test_full_cells() {
  Random random(2);
  const int64_t cells[3] = {9, 12, 7}, tile[3] = {1, 1, 0};
  std::vector<uint64_t> words(4 * 16);  // planes 0 to 15 of four rows of bricks
  for (uint64_t& word : words) {
    word = ~uint64_t{0};
    for (int n = 0; n < 9; ++n) word &= ~(uint64_t{1} << random.below(64));
  }
  const auto around = [&](int plane, int by, int bz) { return words[4 * plane + 2 * by + bz]; };
  for (int local = 0; local < kBrickNodes; ++local) {
    const int x = local / 64, y = local / 8 % 8, z = local % 8;
    bool full = 8 + x < cells[0] && 8 + y < cells[1] && z < cells[2];
    for (int c = 0; c < 8; ++c) {
      const int j = y + (c >> 1 & 1), k = z + (c & 1);
      full = full && (around(x + (c >> 2), j >> 3, k >> 3) >> (8 * (j & 7) + (k & 7)) & 1) != 0;
    }
    expect((full_cells(around, cells, tile, x) >> local % 64 & 1) == full);
  }
}

// Distances to planes, and the cell of the unit cube: a child that a plane meets is never cleared.
void test_children_that_a_surface_meets() {
  Random random(3);
  double numbers[8];
  for (int n = 0; n < 8; ++n) {
    numbers[n] = std::sqrt((n & 4 ? 1 : 0.25) + (n & 2 ? 1 : 0.25) + (n & 1 ? 1 : 0.25));
  }
  const Reach<double> reach(numbers);
  int64_t met = 0, cleared = 0;
  for (int round = 0; round < 2000; ++round) {
    Vec3<double> normal{random.uniform(-1, 1), random.uniform(-1, 1), random.uniform(-1, 1)};
    normal = normal / length(normal);
    const double offset = random.uniform(-2, 2), level = 0.5;
    const auto field = [&](double x, double y, double z) {
      return dot(normal, Vec3<double>{x, y, z}) + offset + level;
    };
    double corners[8];
    for (int c = 0; c < 8; ++c) corners[c] = field(c >> 2, c >> 1 & 1, c & 1);
    // What is absent clears nothing, so less corners never clear more.
    const unsigned all = children_to_refine(corners, level, reach, false);
    corners[random.below(8)] = kNaN;
    expect((children_to_refine(corners, level, reach, false) & all) == all);
    for (int o = 0; o < 8; ++o) {
      bool below = false, above = false;
      for (int c = 0; c < 8; ++c) {
        const double value = field(((o >> 2) + (c >> 2)) / 2.0, ((o >> 1 & 1) + (c >> 1 & 1)) / 2.0,
                                   ((o & 1) + (c & 1)) / 2.0);
        below = below || value < level;
        above = above || value >= level;
      }
      const bool kept = (all >> o & 1) != 0;
      expect(kept || !(below && above));
      met += below && above;
      cleared += !kept;
    }
  }
  expect(met > 1000 && cleared > 1000);
}

void test_a_child_is_cleared_from_just_beyond_its_reach() {
  const double numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const Reach<float> reach(numbers);
  for (int c = 0; c < 8; ++c) {
    for (int o = 0; o < 8; ++o) {
      float corners[8];
      for (float& corner : corners) corner = std::numeric_limits<float>::quiet_NaN();
      const float far = reach.of[c ^ o];
      corners[c] = 10 - far;
      expect((children_to_refine(corners, 10.0f, reach, false) >> o & 1) == 1);
      corners[c] = 10 - std::nextafter(far, 100.0f);
      expect(corners[c] == 10 - far ||
             (children_to_refine(corners, 10.0f, reach, false) >> o & 1) == 0);
      corners[c] = 10.5f + far;
      expect((children_to_refine(corners, 10.0f, reach, false) >> o & 1) == 0);
    }
  }
  float absent[8];
  for (float& corner : absent) corner = std::numeric_limits<float>::quiet_NaN();
  expect(children_to_refine(absent, 10.0f, reach, false) == 0);
}

// Where a solid may end, what is inside or beyond the box clears nothing.
void test_only_corners_outside_clear_where_a_solid_may_end() {
  const double numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const Reach<float> reach(numbers);
  float corners[8];
  for (float& corner : corners) corner = -100;
  expect(children_to_refine(corners, 0.0f, reach, false) == 0);
  expect(children_to_refine(corners, 0.0f, reach, true) == 0xff);
  corners[3] = std::numeric_limits<float>::infinity();
  expect(children_to_refine(corners, 0.0f, reach, true) == 0xff);
  expect(children_to_refine(corners, 0.0f, reach, false) == 0);  // by its finite corners
  corners[5] = 1.5f;                                             // reaches its own child only
  expect(children_to_refine(corners, 0.0f, reach, true) == (0xffu & ~(1u << 5)));
}

// A corner that is infinite clears nothing; eight on one side are empty, on both sides crossed.
void test_infinite_corners_clear_nothing() {
  const double numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const Reach<float> reach(numbers);
  const float infinity = std::numeric_limits<float>::infinity();
  float corners[8];
  for (float& corner : corners) corner = infinity;
  expect(children_to_refine(corners, 0.0f, reach, false) == 0);
  expect(children_to_refine(corners, 0.0f, reach, true) == 0xff);
  corners[2] = -infinity;
  expect(children_to_refine(corners, 0.0f, reach, false) == 0xff);
  corners[2] = infinity;
  corners[6] = 1.5f;
  expect(children_to_refine(corners, 0.0f, reach, false) == (0xffu & ~(1u << 6)));
}

// The outermost cells of a closed lattice, of 9 x 5 x 3 nodes.
void test_cells_in_which_a_solid_may_end() {
  BrickShape coarse{};
  const int64_t nodes[3] = {9, 5, 3}, fine[3] = {17, 9, 5};
  for (int axis = 0; axis < 3; ++axis) coarse.nodes[axis] = nodes[axis];
  for (const bool closed : {false, true}) {
    const Refinement p(coarse, fine, closed);
    for (int x = 0; x < 8; ++x) {
      for (int y = 0; y < 4; ++y) {
        for (int z = 0; z < 2; ++z) {
          const int64_t tile[3] = {0, 0, 0};
          const bool outermost = x == 0 || x == 7 || y == 0 || y == 3 || z == 0 || z == 1;
          expect(ends_in_cell(p, tile, x, 8 * y + z) == (closed && outermost));
        }
      }
    }
    const int64_t inner[3] = {0, 0, 0};
    expect(!ends_in_cell(Refinement(coarse, fine, false), inner, 0, 0));
  }
}

// Both ways to name chosen cells, and their nodes.
void test_chosen_cells() {
  Random random(4);
  for (const Place& fine : kFine) {
    const Coarse coarse(fine);
    const Refinement p(coarse.shape, fine.data());
    // Which children each coarse cell has, eight masks a brick: have[8 * (8 * brick + x) + o].
    std::vector<uint64_t> have = coarse.random_masks(64, random);
    for (uint64_t& word : have) word &= word >> 1 & word >> 3;
    const std::vector<uint64_t> cells = coarse.random_masks(8, random);
    std::vector<uint64_t> children(64 * coarse.shape.count);
    for (int64_t brick = 0; brick < coarse.shape.count; ++brick) {
      const int32_t* at = coarse.shape.coordinates + 3 * brick;
      const int64_t tile[3] = {at[0], at[1], at[2]};
      for (int x = 0; x < 8; ++x) {
        for (int n = 0; n < 8; ++n) {
          children[64 * brick + child_word(x, n)] = children_of_plane(
              have.data() + 8 * (8 * brick + x) + (n & 4), p.fine_cells, tile, x, n);
        }
      }
    }
    const auto has_child = [&](const Place& cell, bool by_child) {
      if (!is_below(cell, p.fine_cells)) return false;
      const int64_t parent = coarse.shape.offset(cell[0] / 2, cell[1] / 2, cell[2] / 2);
      if (parent < 0) return false;
      if (!by_child) return (cells[parent / 64] >> parent % 64 & 1) != 0;
      const int64_t o = cell[0] % 2 * 4 + cell[1] % 2 * 2 + cell[2] % 2;
      return (have[8 * (parent / 64) + o] >> parent % 64 & 1) != 0;
    };
    for (const bool by_child : {false, true}) {
      const ChosenCells chosen(p, coarse.shape, by_child ? children.data() : cells.data(),
                               by_child);
      for_each_tile(p, [&](const Place& tile) {
        const auto around = [&](int plane, int by, int bz) {
          const int64_t at[3] = {tile[0] + (plane >> 3), tile[1] + by, tile[2] + bz};
          return chosen.word(chosen.parent_of(at), at, plane & 7);
        };
        for (int local = 0; local < kBrickNodes; ++local) {
          const Place node = node_of(tile, local);
          const int x = local / 64, bit = local % 64;
          expect((around(x, 0, 0) >> bit & 1) == has_child(node, by_child));
          bool wanted = false;
          for (int c = 0; c < 8; ++c) {
            const Place cell = {node[0] - (c >> 2), node[1] - (c >> 1 & 1), node[2] - (c & 1)};
            wanted = wanted || has_child(cell, by_child);
          }
          expect((nodes_of_cell_mask(around, x) >> bit & 1) == wanted);
        }
      });
    }
  }
}

void test_pairs_of_corners() {
  // Every direction once, but for its sign: 26 / 2 of them.
  bool seen[27] = {};
  for (int n = 0; n < kCornerPairs; ++n) {
    const CornerPair pair = corner_pair(n);
    int code[2] = {};
    for (int axis = 0; axis < 3; ++axis) {
      const int step = (pair.second >> (2 - axis) & 1) - (pair.first >> (2 - axis) & 1);
      code[0] = 3 * code[0] + step + 1;
      code[1] = 3 * code[1] - step + 1;
    }
    expect(!seen[code[0]] && !seen[code[1]] && code[0] != code[1]);
    seen[code[0]] = seen[code[1]] = true;
  }
  for (int local : {0, 7, 63, 64, 511}) {
    const int x = local / 64, y = local / 8 % 8, z = local % 8;
    for (int c = 0; c < 8; ++c) {
      const int i = x + (c >> 2), j = y + (c >> 1 & 1), k = z + (c & 1);
      expect(cell_node(local) + corner_step(c) == (i * 9 + j) * 9 + k);
    }
  }
  expect(cell_node(511) + corner_step(7) == kCellNodes - 1);
}

void test_rises() {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  expect(rise_between(1.0, -2.5) == 3.5 && rise_between(-2.5, 1.0) == 3.5);
  for (const double number : {kNaN, kInfinity, -kInfinity}) expect(rise_between(1.0, number) == 0);
  expect(rise_between(kInfinity, kInfinity) == 0);
  expect(slope_of(3.0f, 2.0) == 1.5);
}

void test_the_steepest_pair() {
  SteepestPair steep{2.0, 7}, later{2.0, 8}, flat{1.0, 0}, none;
  expect(steep.exceeds(later) && !later.exceeds(steep) && later.exceeds(flat));
  expect(flat.exceeds(none) && !none.exceeds(none));
  const int32_t coordinates[6] = {9, 9, 9, 4, 0, 2};
  BrickShape bricks{};
  bricks.coordinates = coordinates;
  double facts[7];
  none.write(bricks, facts);
  for (const double fact : facts) expect(fact == 0);
  // The second brick, corners 4 and 2 of cell (1, 2, 3).
  steep.rank = 512 * (13 + 4) + 64 + 16 + 3;
  steep.write(bricks, facts);
  const double expected[7] = {2, 34, 2, 19, 33, 3, 19};
  for (int n = 0; n < 7; ++n) expect(facts[n] == expected[n]);
}

}  // namespace

int main() {
  test_nodes_of_both_lattices();
  test_values_that_the_coarse_lattice_holds();
  test_full_cells();
  test_children_that_a_surface_meets();
  test_only_corners_outside_clear_where_a_solid_may_end();
  test_infinite_corners_clear_nothing();
  test_cells_in_which_a_solid_may_end();
  test_a_child_is_cleared_from_just_beyond_its_reach();
  test_chosen_cells();
  test_pairs_of_corners();
  test_rises();
  test_the_steepest_pair();
  return report();
}
