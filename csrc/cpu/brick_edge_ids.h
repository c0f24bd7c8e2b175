// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/marching_cubes_bricks.h"

namespace diffiso {

// The vertex ids of all edges that a brick's cells use, by place: its own, and those of the bricks
// above it on their first plane, row or column. A cell then finds an id in one read, where
// BrickEdgeIds looks up brick, word and bits each time.
template <typename index_t>
struct LocalEdgeIds {
  static constexpr int kSide = kBrickSize + 1;
  index_t id[3 * kSide * kSide * kSide] = {};  // an edge that is not crossed keeps what it had
  int16_t steps[12];                           // from a cell's place to its edges'

  LocalEdgeIds() {
    for (int e = 0; e < 12; ++e) {
      const int8_t* edge = marching_cubes_tables().edge[e];
      steps[e] = static_cast<int16_t>(place(edge[0], edge[1], edge[2], edge[3]));
    }
  }

  DIFFISO_HD static int place(int axis, int x, int y, int z) {
    return ((axis * kSide + x) * kSide + y) * kSide + z;
  }

  DIFFISO_HD void fill(const BrickVertices& vertices, const BrickOctant<1>& above) {
    constexpr uint64_t kAll = ~uint64_t{0}, kFirstInY = 0xff;
    for (int x = 0; x < kBrickSize; ++x) {
      for (int axis = 0; axis < 3; ++axis) {
        fill_word(vertices, above.brick[0], axis, x, kAll, 0, 0, 0);
        if (axis != 1) fill_word(vertices, above.brick[2], axis, x, kFirstInY, 0, 1, 0);
        if (axis != 2) fill_word(vertices, above.brick[1], axis, x, kFirstInZ, 0, 0, 1);
      }
      fill_word(vertices, above.brick[3], 0, x, 1, 0, 1, 1);
    }
    fill_word(vertices, above.brick[4], 1, 0, kAll, 1, 0, 0);
    fill_word(vertices, above.brick[4], 2, 0, kAll, 1, 0, 0);
    fill_word(vertices, above.brick[5], 1, 0, kFirstInZ, 1, 0, 1);
    fill_word(vertices, above.brick[6], 2, 0, kFirstInY, 1, 1, 0);
  }

  // The crossed edges in `which` of word x of a brick that is (bx, by, bz) away.
  DIFFISO_HD void fill_word(const BrickVertices& vertices, int64_t brick, int axis, int x,
                            uint64_t which, int bx, int by, int bz) {
    if (brick < 0) return;
    const int64_t w = (3 * brick + axis) * kBrickSize + x;
    const uint64_t crossed = vertices.crossed[w];
    const int64_t first = vertices.begins[brick] + vertices.before[w];
    index_t* out = id + place(axis, x + kBrickSize * bx, kBrickSize * by, kBrickSize * bz);
    for (uint64_t edges = crossed & which; edges != 0; edges &= edges - 1) {
      const int bit = lowest_bit(edges);
      out[place(0, 0, bit >> 3, bit & 7)] =
          static_cast<index_t>(first + popcount(crossed & low_bits(bit)));
    }
  }

  struct Cell {
    const index_t* at;
    const int16_t* steps;

    DIFFISO_HD index_t operator[](int edge) const { return at[steps[edge]]; }
  };

  // The cells of one word, as write_faces asks for them.
  struct Word {
    const LocalEdgeIds& ids;
    int x;

    DIFFISO_HD Cell operator()(int bit) const {
      return {ids.id + place(0, x, bit >> 3, bit & 7), ids.steps};
    }
  };
};

}  // namespace diffiso
