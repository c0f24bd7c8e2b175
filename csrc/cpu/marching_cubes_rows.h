// SPDX-License-Identifier: Apache-2.0
// The loops of marching cubes over rows, built once for each instruction set. The arithmetic is the
// same in all of them and so is their output; they differ in how they pack signs and find cases.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

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
  RowCounts* rows;     // (rows + 1): beginnings, at first from the run's own
  bool with_edges;     // whether edge ids are asked for
  void* vertices;      // (V, 3) in the compute dtype
  int64_t* edges;      // (V,), or null without
  void* faces;         // (F, 3)
  bool int32_faces;
};

// Where the surface crosses the edges of one row, and how many faces the row's cells have. Scratch of
// a thread, with room for all of a row's edges.
struct RowCrossings {
  std::unique_ptr<int64_t[]> nodes[3];  // k of the edges along each axis
  int64_t count[3];
  int64_t faces;

  explicit RowCrossings(const MarchingCubesRows& p);
  ~RowCrossings();
};

// Rows [begin, end) that one thread sweeps. Their vertices wait here until it is known how many come
// before them, and until then `rows` counts from the run's beginning. Nothing here is inline: loops
// built for one instruction set must not lend the others theirs.
class RowRun {
 public:
  struct Room {
    void* vertices;  // (count, 3) in the compute dtype
    int64_t* edges;  // (count,), or null
  };

  int64_t begin, end;
  Row next;  // the first row that has not been swept
  OutputTotals total;

  RowRun();
  RowRun(const MarchingCubesRows& p, int64_t first, int64_t last);
  RowRun(RowRun&&) noexcept;
  RowRun& operator=(RowRun&&) noexcept;
  ~RowRun();
  // Where the next vertices go, which are one row's.
  Room take(const MarchingCubesRows& p, int64_t count);
  // Moves all vertices to the outputs, and the rows' counts to where they belong.
  void settle(const MarchingCubesRows& p, OutputTotals before);

 private:
  struct Block {
    std::unique_ptr<std::byte[]> vertices;
    std::unique_ptr<int64_t[]> edges;
    int64_t used, capacity;
  };
  std::vector<Block> blocks_;
};

// Each works on rows of the lattice, one after the other.
struct RowLoops {
  const char* name;
  // Writes the sign words from row `next` up to `end`, and moves it there; returns whether a NaN was
  // among the samples.
  bool (*pack)(const MarchingCubesRows&, Row& next, int64_t end);
  // Sweeps the run's next rows, up to `end`: counts what they own and writes the vertices on their
  // edges and the edges' ids. Where the caches have lost the samples, asks for them ahead.
  void (*sweep)(const MarchingCubesRows&, RowRun& run, RowCrossings& scratch, int64_t end,
                bool lost);
  // Writes the faces of the rows' cells.
  void (*emit_faces)(const MarchingCubesRows&, int64_t begin, int64_t end);
};

const RowLoops& row_loops_generic();
const RowLoops& row_loops_avx2();
const RowLoops& row_loops_avx512();

// The fastest of them that this processor runs, or the one that DIFFISO_SIMD asks for.
const RowLoops& row_loops();

}  // namespace diffiso
