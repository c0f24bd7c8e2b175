// SPDX-License-Identifier: Apache-2.0
// The masks of a band against loops over single nodes and cells.
#include <array>
#include <vector>

#include "core/narrow_band.h"
#include "expect.h"

using namespace diffiso;

namespace {

using Sizes = std::array<int64_t, 3>;

constexpr Sizes kLattices[] = {{2, 2, 2}, {8, 8, 8}, {9, 7, 16}, {17, 10, 3}, {20, 17, 25}};

// A lattice, some of whose bricks are there.
struct Bricks {
  std::vector<int32_t> table, coordinates;
  BrickShape shape{};

  Bricks(const Sizes& nodes, int64_t absent_of_ten, Random& random) {
    for (int axis = 0; axis < 3; ++axis) {
      shape.nodes[axis] = nodes[axis];
      shape.tiles[axis] = (nodes[axis] + 7) / 8;
    }
    for_each_tile([&](const int64_t tile[3]) {
      const bool here = random.below(10) >= absent_of_ten;
      table.push_back(here ? static_cast<int32_t>(shape.count++) : -1);
      for (int axis = 0; here && axis < 3; ++axis) {
        coordinates.push_back(static_cast<int32_t>(tile[axis]));
      }
    });
    shape.table = table.data();
    shape.coordinates = coordinates.data();
  }

  template <typename F>
  void for_each_tile(const F& f) const {
    for (int64_t x = 0; x < shape.tiles[0]; ++x) {
      for (int64_t y = 0; y < shape.tiles[1]; ++y) {
        for (int64_t z = 0; z < shape.tiles[2]; ++z) {
          const int64_t tile[3] = {x, y, z};
          f(tile);
        }
      }
    }
  }

  BrickHood hood(const int64_t tile[3]) const { return {shape, tile[0], tile[1], tile[2]}; }

  bool exists(int64_t i, int64_t j, int64_t k) const {
    return i >= 0 && j >= 0 && k >= 0 && i < shape.nodes[0] && j < shape.nodes[1] &&
           k < shape.nodes[2];
  }

  // Masks of nodes, each set with a chance of one in so many; also beyond the lattice.
  std::vector<uint64_t> mask(int64_t one_in, Random& random) const {
    std::vector<uint64_t> out(8 * shape.count);
    for (uint64_t& word : out) {
      for (int bit = 0; bit < 64; ++bit) word |= uint64_t{random.below(one_in) == 0} << bit;
    }
    return out;
  }

  bool has(const std::vector<uint64_t>& words, int64_t i, int64_t j, int64_t k) const {
    const int64_t at = shape.offset(i, j, k);
    return at >= 0 && (words[at >> 6] >> (at & 63) & 1) != 0;
  }
};

// Calls f(i, j, k, x, bit) for the nodes of the brick at a tile.
template <typename F>
void for_each_node(const int64_t tile[3], const F& f) {
  for (int n = 0; n < kBrickNodes; ++n) {
    f(8 * tile[0] + n / 64, 8 * tile[1] + n / 8 % 8, 8 * tile[2] + n % 8, n / 64, n % 64);
  }
}

void test_box_words() {
  const int64_t size[3] = {5, 12, 9};
  for (int64_t x = -2; x < 7; ++x) {
    for (int64_t y = -10; y < 14; ++y) {
      for (int64_t z = -10; z < 11; ++z) {
        uint64_t expected = 0;
        for (int bit = 0; bit < 64; ++bit) {
          const int64_t j = y + bit / 8, k = z + bit % 8;
          const bool inside = x >= 0 && x < 5 && j >= 0 && j < 12 && k >= 0 && k < 9;
          expected |= uint64_t{inside} << bit;
        }
        expect(box_word(size, x, y, z) == expected);
      }
    }
  }
  const int64_t tile[3] = {0, 1, 1};
  expect(box_plane(size, tile, 4) == 0x01010101u && box_plane(size, tile, 5) == 0);
}

void test_folds_and_dilation() {
  Random random(1);
  for (const Sizes& nodes : kLattices) {
    const Bricks bricks(nodes, 3, random);
    const std::vector<uint64_t> rare = bricks.mask(60, random), common = bricks.mask(2, random);
    bricks.for_each_tile([&](const int64_t tile[3]) {
      const BrickHood hood = bricks.hood(tile);
      const MaskAround around_rare{rare.data(), hood}, around_common{common.data(), hood};
      for_each_node(tile, [&](int64_t i, int64_t j, int64_t k, int x, int bit) {
        bool near = false;
        for (int n = 0; n < 27; ++n) {
          near = near || bricks.has(rare, i + n / 9 - 1, j + n / 3 % 3 - 1, k + n % 3 - 1);
        }
        expect((dilated_word(around_rare, x) >> bit & 1) == near);
        for (const int dy : {-1, 1}) {
          for (const int dz : {-1, 1}) {
            bool any = false, all = true;
            for (int n = 0; n < 4; ++n) {
              const bool set = bricks.has(common, i, j + (n >> 1) * dy, k + (n & 1) * dz);
              any = any || set;
              all = all && set;
            }
            const auto word = [&](int by, int bz) { return around_common(x, by, bz); };
            expect((fold_square(word, dy, dz, AnyOf{}) >> bit & 1) == any);
            expect((fold_square(word, dy, dz, AllOf{}) >> bit & 1) == all);
          }
        }
      });
    });
  }
}

void test_faces() {
  Random random(2);
  for (int round = 0; round < 200; ++round) {
    uint64_t words[8] = {};
    for (int64_t n = random.below(4); n > 0; --n) {
      words[random.below(8)] |= uint64_t{1} << random.below(64);
    }
    const BrickFaces faces([&](int x) { return words[x]; });
    for (int n = 0; n < 27; ++n) {
      const int step[3] = {n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1};
      bool expected = false;
      for (int node = 0; node < kBrickNodes; ++node) {
        const int at[3] = {node / 64, node / 8 % 8, node % 8};
        bool leads = (words[at[0]] >> node % 64 & 1) != 0;
        for (int axis = 0; axis < 3; ++axis) {
          leads = leads && (step[axis] == 0 || at[axis] == (step[axis] < 0 ? 0 : 7));
        }
        expected = expected || leads;
      }
      expect(faces.touch(step[0], step[1], step[2]) == expected);
    }
  }
}

// What one node is, by the words that speak of it in a sentence each.
void test_what_is_known_of_a_node() {
  for (unsigned bits = 0; bits < 128; ++bits) {
    const bool exists = bits & 1, asked = bits & 2, below = bits & 4, above = !below && (bits & 8),
               remembered = bits & 16, before = bits & 32;
    const BandWords words = band_words(exists, asked, below, above, {remembered, before});
    const bool evaluated = exists && asked, stale = exists && !asked && remembered;
    expect(words.inside == ((evaluated && below) || (stale && before)));
    expect(words.outside == ((evaluated && above) || (stale && !before)));
    expect(words.flipped == (evaluated && remembered && ((below && !before) || (above && before))));
    expect(words.unknown == (exists && !asked && !remembered));
  }
}

// A band of random knowledge: every node of a brick is inside, outside, absent or unknown.
struct RandomBand : Bricks {
  std::vector<BandWords> state;

  RandomBand(const Sizes& nodes, Random& random) : Bricks(nodes, 3, random) {
    const std::vector<uint64_t> asked = mask(1 + random.below(3), random), below = mask(2, random),
                                remembered = mask(3, random), before = mask(2, random),
                                absent = mask(9, random);
    for (int64_t w = 0; w < 8 * shape.count; ++w) {
      const int32_t* at = shape.coordinates + w / 8 * 3;
      const int64_t tile[3] = {at[0], at[1], at[2]};
      state.push_back(band_words(box_plane(shape.nodes, tile, static_cast<int>(w % 8)), asked[w],
                                 below[w] & ~absent[w], ~below[w] & ~absent[w],
                                 {remembered[w], before[w]}));
    }
  }

  // The word of a node, of which only bit 0 counts.
  BandWords at(int64_t i, int64_t j, int64_t k) const {
    if (!exists(i, j, k)) return {0, 0, 0, 0};
    const int64_t node = shape.offset(i, j, k);
    if (node < 0) return {0, 0, 0, 1};
    const BandWords& word = state[node >> 6];
    const auto bit = [&](uint64_t of) { return of >> (node & 63) & 1; };
    return {bit(word.inside), bit(word.outside), bit(word.flipped), bit(word.unknown)};
  }

  // Whether the lattice has a cell and a rule wants it.
  template <typename Rule>
  bool wants(const Rule& rule, int64_t i, int64_t j, int64_t k) const {
    if (!exists(i, j, k) || !exists(i + 1, j + 1, k + 1)) return false;
    BandWords any{0, 0, 0, 0};
    for (int c = 0; c < 8; ++c) any = any | at(i + (c >> 2), j + (c >> 1 & 1), k + (c & 1));
    return (rule(any) & 1) != 0;
  }
};

template <typename Rule>
int64_t count_wanted(const RandomBand& band, const Rule& rule) {
  const int64_t cells[3] = {band.shape.nodes[0] - 1, band.shape.nodes[1] - 1,
                            band.shape.nodes[2] - 1};
  int64_t count = 0;
  band.for_each_tile([&](const int64_t tile[3]) {
    const BrickHood hood = band.hood(tile);
    const BandAround around{band.state.data(), hood, band.shape.nodes, tile};
    uint64_t all[8];
    nodes_of_all_cells(around, band.shape.nodes, tile, rule, all);
    uint64_t by_cell[8] = {}, wanted_cells[8];
    for (int x = 0; x < 8; ++x) {
      for (int n = 0; n < 4; ++n) {
        by_cell[x] |= nodes_of_cells(around, band.shape.nodes, tile, rule, x, n);
      }
      wanted_cells[x] = cells_of_plane(around, cells, tile, rule, x);
    }
    for_each_node(tile, [&](int64_t i, int64_t j, int64_t k, int x, int bit) {
      bool wanted = false;
      for (int c = 0; c < 8; ++c) {
        wanted = wanted || band.wants(rule, i - (c >> 2), j - (c >> 1 & 1), k - (c & 1));
      }
      count += wanted;
      expect((all[x] >> bit & 1) == wanted);
      expect((by_cell[x] >> bit & 1) == wanted);
      expect((wanted_cells[x] >> bit & 1) == band.wants(rule, i, j, k));
    });
  });
  return count;
}

void test_nodes_of_cells() {
  Random random(3);
  int64_t crossing = 0, growing = 0;
  for (const Sizes& nodes : kLattices) {
    for (int round = 0; round < 3; ++round) {
      const RandomBand band(nodes, random);
      crossing += count_wanted(band, CrossingCells{});
      growing += count_wanted(band, GrowingCells{});
    }
  }
  expect(crossing > 0 && growing > crossing);
}

void test_rules() {
  const CrossingCells crossing;
  const GrowingCells growing;
  expect(crossing({1, 1, 0, 0}) == 1 && crossing({1, 1, 0, 1}) == 0);
  expect(crossing({1, 0, 1, 0}) == 0 && crossing({0, 1, 0, 0}) == 0);
  expect(growing({1, 1, 0, 1}) == 1 && growing({0, 0, 1, 1}) == 1);
  expect(growing({1, 0, 1, 0}) == 0 && growing({1, 0, 0, 1}) == 0);
}

void test_what_new_nodes_inherit() {
  for (unsigned bits = 0; bits < 32; ++bits) {
    const bool remembered = bits & 1, before = bits & 2, asked = bits & 4, around_inside = bits & 8,
               around_outside = bits & 16;
    const BandMemory now = inherit({remembered, before}, asked, around_inside, around_outside);
    if (remembered || !asked) {
      expect(now.remembered == remembered && now.before == (remembered && before));
    } else {
      expect(now.remembered == (around_inside != around_outside));
      expect(now.before == (around_inside && !around_outside));
    }
  }
}

}  // namespace

int main() {
  test_box_words();
  test_folds_and_dilation();
  test_faces();
  test_what_is_known_of_a_node();
  test_nodes_of_cells();
  test_rules();
  test_what_new_nodes_inherit();
  return report();
}
