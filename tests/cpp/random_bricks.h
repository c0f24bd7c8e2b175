// SPDX-License-Identifier: Apache-2.0
// Random bricks for tests, and their nodes one by one.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "core/bricks.h"
#include "expect.h"

constexpr int kNone = -1;

// A lattice of which some bricks are stored, in any order, with random masks.
struct RandomBricks {
  std::vector<int32_t> table, coordinates;
  diffiso::BrickShape shape{};
  std::vector<uint64_t> inside, present;

  RandomBricks(std::array<int64_t, 3> nodes, Random& random) {
    int64_t places = 1;
    for (int axis = 0; axis < 3; ++axis) {
      shape.nodes[axis] = nodes[axis];
      shape.tiles[axis] = (nodes[axis] + 7) / 8;
      shape.lower[axis] = axis - 1.5;
      shape.spacing[axis] = 0.25 * (axis + 1);
      places *= shape.tiles[axis];
    }
    table.assign(places, kNone);
    std::vector<int64_t> order(places);
    for (int64_t n = 0; n < places; ++n) order[n] = n;
    for (int64_t n = places; n > 1; --n) std::swap(order[n - 1], order[random.below(n)]);
    for (const int64_t place : order) {
      if (random.below(5) == 0) continue;
      table[place] = static_cast<int32_t>(shape.count++);
      const int64_t row = place / shape.tiles[2];
      coordinates.push_back(static_cast<int32_t>(row / shape.tiles[1]));
      coordinates.push_back(static_cast<int32_t>(row % shape.tiles[1]));
      coordinates.push_back(static_cast<int32_t>(place % shape.tiles[2]));
    }
    shape.table = table.data();
    shape.coordinates = coordinates.data();
    inside.resize(8 * shape.count);
    present.resize(8 * shape.count);
    for (uint64_t& word : present) {
      word = ~uint64_t{0};
      for (int64_t n = random.below(6); n > 0; --n) word &= ~(uint64_t{1} << random.below(64));
    }
    // Beyond the lattice too, and in bricks that stand nowhere: what does not count must go.
    for (uint64_t& word : inside) {
      word = static_cast<uint64_t>(random.below(int64_t{1} << 32)) << 32 |
             static_cast<uint64_t>(random.below(int64_t{1} << 32));
    }
  }
};

using Place = std::array<int64_t, 3>;

// A mask node by node, looked up in the table as it stands.
struct Nodes {
  const RandomBricks& bricks;
  const std::vector<uint64_t>& words;

  int operator()(Place p) const {
    int64_t at = 0;
    for (int axis = 0; axis < 3; ++axis) {
      if (p[axis] < 0 || p[axis] >= 8 * bricks.shape.tiles[axis]) return 0;
      at = at * bricks.shape.tiles[axis] + p[axis] / 8;
    }
    const int32_t brick = bricks.table[at];
    if (brick < 0) return 0;
    return words[8 * brick + p[0] % 8] >> (p[1] % 8 * 8 + p[2] % 8) & 1;
  }
};

inline Place moved(Place p, int dx, int dy, int dz) {
  return {p[0] + dx, p[1] + dy, p[2] + dz};
}

constexpr std::array<int64_t, 3> kShapes[] = {{2, 2, 2},   {8, 8, 8},   {9, 8, 7},
                                              {16, 3, 24}, {17, 25, 9}, {24, 24, 24}};
