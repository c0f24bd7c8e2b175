// SPDX-License-Identifier: Apache-2.0
// Where bricks stand, and the words of their masks, against loops over single nodes.
#include "core/marching_cubes_bricks.h"
#include "random_bricks.h"

using namespace diffiso;

namespace {

void test_find_at_borders() {
  Random random(1);
  const RandomBricks bricks({17, 25, 9}, random);
  const BrickShape& shape = bricks.shape;
  for (int64_t x : {-9, -1, 0, 2, 3, 100}) {
    for (int64_t y : {-1, 0, 3, 4}) {
      for (int64_t z : {-1, 0, 1, 2}) {
        const bool within = x >= 0 && x < 3 && y >= 0 && y < 4 && z >= 0 && z < 2;
        const int64_t expected = within ? bricks.table[(x * 4 + y) * 2 + z] : kNone;
        expect(shape.find(x, y, z) == expected);
        expect(standing_brick(shape, x, y, z) == expected);
        const BrickHood hood(shape, x, y, z);
        expect(hood.at(0, 0, 0) == expected && hood.at(-1, 1, 0) == shape.find(x - 1, y + 1, z));
      }
    }
  }
  expect(shape.offset(-1, 0, 0) == kNone && shape.offset(0, 0, 16) == kNone);
  for (int64_t brick = 0; brick < shape.count; ++brick) {
    const int64_t i = shape.origin(brick, 0), j = shape.origin(brick, 1),
                  k = shape.origin(brick, 2);
    expect(shape.offset(i + 1, j + 2, k + 3) == 512 * brick + 64 + 16 + 3);
    expect(shape.node(i, j, k) == (i * 25 + j) * 9 + k);
    expect(stands(shape, brick));
  }
}

void test_tables_that_name_no_brick() {
  Random random(2);
  RandomBricks bricks({24, 24, 24}, random);
  const int32_t count = static_cast<int32_t>(bricks.shape.count);
  for (const int32_t wrong : {count, count + 1000, INT32_MAX, -7, INT32_MIN}) {
    bricks.table[13] = wrong;
    expect(bricks.shape.find(1, 1, 1) < 0 && bricks.shape.offset(8, 8, 8) == kNone);
  }
}

void test_moved_words() {
  Random random(3);
  for (const auto& nodes : kShapes) {
    const RandomBricks bricks(nodes, random);
    const Nodes node{bricks, bricks.inside};
    for (int64_t brick = 0; brick < bricks.shape.count; ++brick) {
      const int32_t* at = bricks.coordinates.data() + 3 * brick;
      const BrickHood hood(bricks.shape, at[0], at[1], at[2]);
      for (int n = 0; n < 27; ++n) {
        const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
        for (int x = -1; x <= 8; ++x) {
          const uint64_t word = shifted_word(bricks.inside.data(), hood, x, dx, dy, dz);
          for (int bit = 0; bit < 64; ++bit) {
            const Place p = {8 * at[0] + x + dx, 8 * at[1] + bit / 8 + dy,
                             8 * at[2] + bit % 8 + dz};
            expect(static_cast<int>(word >> bit & 1) == node(p));
          }
        }
      }
      const BrickOctant<1> above(bricks.shape, brick);
      const BrickOctant<-1> below(bricks.shape, brick);
      for (int x = 0; x <= 8; ++x) {
        for (int n = 0; n < 4; ++n) {
          const int dy = n >> 1, dz = n & 1;
          expect(moved_plane(bricks.inside.data(), above, x).at[n] ==
                 shifted_word(bricks.inside.data(), hood, x, 0, dy, dz));
          expect(moved_plane(bricks.inside.data(), below, x - 1).at[n] ==
                 shifted_word(bricks.inside.data(), hood, x, -1, -dy, -dz));
        }
      }
    }
  }
}

void test_words_of_the_lattice() {
  Random random(4);
  for (const auto& nodes : kShapes) {
    const RandomBricks bricks(nodes, random);
    const BrickShape& shape = bricks.shape;
    for (int64_t x = -1; x <= shape.tiles[0]; ++x) {
      for (int64_t y = -1; y <= shape.tiles[1]; ++y) {
        for (int64_t z = -1; z <= shape.tiles[2]; ++z) {
          for (int n = 0; n < 512; ++n) {
            const Place p = {8 * x + n / 64, 8 * y + n / 8 % 8, 8 * z + n % 8};
            bool within = true;
            for (int a = 0; a < 3; ++a) within = within && p[a] >= 0 && p[a] < nodes[a];
            expect((lattice_word(shape, x, y, z, n / 64) >> n % 64 & 1) == within);
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  test_find_at_borders();
  test_tables_that_name_no_brick();
  test_moved_words();
  test_words_of_the_lattice();
  return report();
}
