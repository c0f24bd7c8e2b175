// SPDX-License-Identifier: Apache-2.0
// The loops of marching cubes over rows, built once for each instruction set. The arithmetic is the
// same in all of them and so is their output; they differ in how they pack signs and count bits.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/torch.h"
#include "core/marching_cubes.h"

namespace diffiso {

struct MarchingCubesRows {
  GridShape grid;
  Lattice lattice;
  DType dtype;         // of values
  const void* values;  // (B, X, Y, Z)
  const void* level;   // (B,) in the compute dtype
  uint64_t* inside;    // (rows, words) of the lattice
  SignWords signs;     // the same, and the present cells where a NaN was seen
  RowCounts* rows;     // (rows + 1): counts, then beginnings
  void* vertices;      // (V, 3) in the compute dtype
  int64_t* edges;      // (V,), or null while nobody asks for edge ids
  void* faces;         // (F, 3)
  bool int32_faces;
};

// Each works on rows [begin, end) of the lattice.
struct RowLoops {
  const char* name;
  // Writes the sign words; returns whether a NaN was among the samples.
  bool (*pack)(const MarchingCubesRows&, int64_t begin, int64_t end);
  // Writes what each row owns; returns the sum.
  OutputTotals (*count)(const MarchingCubesRows&, int64_t begin, int64_t end);
  // Writes the vertices on the rows' edges, and the edges' ids.
  void (*emit_vertices)(const MarchingCubesRows&, int64_t begin, int64_t end);
  // Writes the faces of the rows' cells.
  void (*emit_faces)(const MarchingCubesRows&, int64_t begin, int64_t end);
};

const RowLoops& row_loops_generic();
const RowLoops& row_loops_avx2();

// The fastest of them that this processor runs; DIFFISO_SIMD=generic asks for the plain one.
const RowLoops& row_loops();

}  // namespace diffiso
