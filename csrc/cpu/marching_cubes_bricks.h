// SPDX-License-Identifier: Apache-2.0
// The loops of marching cubes over bricks, built once for each instruction set, as those over rows.
#pragma once

#include "common/torch.h"
#include "cpu/brick_edge_ids.h"

namespace diffiso {

struct MarchingCubesBricks {
  BrickShape bricks;
  DType dtype;             // of values
  const void* values;      // (R, 8, 8, 8)
  const void* level;       // (1,) in the compute dtype
  uint64_t* inside;        // (R, 8)
  uint64_t* present;       // (R, 8) nodes that are no NaN
  uint64_t* cells;         // (R, 8) cells without an absent node
  uint64_t* crossed;       // (R, 3, 8) crossed edges by axis
  uint16_t* before;        // (R, 3, 8) as in BrickVertices
  int64_t* vertex_begins;  // (R + 1,) counts, then prefix sums
  int64_t* face_begins;    // (R + 1,) likewise
  void* vertices;          // (V, 3) in the compute dtype
  int64_t* edges;          // (V,), or null while nobody asks for edge ids
  void* faces;             // (F, 3)
  bool int32_faces;
};

// Each works on bricks [begin, end), and needs all before it to be done for every brick.
struct BrickLoops {
  void (*pack)(const MarchingCubesBricks&, int64_t begin, int64_t end);
  void (*find_cells)(const MarchingCubesBricks&, int64_t begin, int64_t end);
  void (*count)(const MarchingCubesBricks&, int64_t begin, int64_t end);
  void (*emit_vertices)(const MarchingCubesBricks&, int64_t begin, int64_t end);
  void (*emit_faces)(const MarchingCubesBricks&, int64_t begin, int64_t end);
};

const BrickLoops& brick_loops_generic();
const BrickLoops& brick_loops_avx2();

// The fastest of them that this processor runs, as row_loops.
const BrickLoops& brick_loops();

}  // namespace diffiso
