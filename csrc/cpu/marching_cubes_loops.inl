// SPDX-License-Identifier: Apache-2.0
// Included by one file for each instruction set, which defines in an anonymous namespace before it
//   template <value_t, scalar_t>
//   uint64_t pack_word(const value_t* values, scalar_t level, bool& nan)
// the signs of 64 samples, and WordCases, the cases of one word's cells.

// Asks for a word's samples kAhead bytes before their turn, into the second level of the caches:
// hardware stops at the end of each page. Past the end of the grid nothing happens.
template <int kAhead, typename value_t>
__attribute__((always_inline)) inline void prefetch_word(const value_t* values) {
  constexpr int kLine = 64;
  const auto* at = reinterpret_cast<const char*>(values) + kAhead;
  for (int line = 0; line < 64 * static_cast<int>(sizeof(value_t)); line += kLine) {
    __builtin_prefetch(at + line, 0, 2);
  }
}

template <typename value_t, typename scalar_t>
bool pack_typed(const MarchingCubesRows& p, Row& row, int64_t end) {
  const auto* values = static_cast<const value_t*>(p.values);
  const int64_t nodes = p.grid.size[2], words = p.lattice.words, pad = p.lattice.pad;
  bool nan = false;
  for (; row.index < end; row = next_row(p.lattice, row)) {
    uint64_t* out = p.inside + row.index * words;
    const int64_t i = row.i - pad, j = row.j - pad;
    if (i < 0 || j < 0 || i >= p.grid.size[0] || j >= p.grid.size[1]) {
      std::memset(out, 0, words * sizeof(uint64_t));
      continue;
    }
    const value_t* in = values + p.grid.node(row.b, i, j, 0);
    const scalar_t level = static_cast<const scalar_t*>(p.level)[row.b];
    int64_t w = 0;
    for (; 64 * (w + 1) <= nodes; ++w) {
      prefetch_word<65536>(in + 64 * w);  // they come in while rows are swept
      out[w] = pack_word<value_t, scalar_t>(in + 64 * w, level, nan);
    }
    for (; w < words; ++w) {
      // A short word is packed from a copy: nothing past the row's end is read.
      const int64_t rest = nodes - 64 * w;
      out[w] = 0;
      if (rest <= 0) continue;
      value_t tail[64];
      std::fill(tail + rest, tail + 64, value_t(0));
      std::copy(in + 64 * w, in + 64 * w + rest, tail);
      out[w] = pack_word<value_t, scalar_t>(tail, level, nan) & low_bits(rest);
    }
    if (pad == 0) continue;
    for (w = words - 1; w > 0; --w) out[w] = out[w] << 1 | out[w - 1] >> 63;
    out[0] <<= 1;
  }
  return nan;
}

bool pack(const MarchingCubesRows& p, Row& next, int64_t end) {
  return dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    return pack_typed<value_t, scalar_t>(p, next, end);
  });
}

// True where word w of four rows, and the node after it, have one sign. Two tests decide it for
// nearly every word; comparing eight words at a time in one register was slower.
inline bool one_sign(const uint64_t* const rows[4], int64_t w, int64_t words) {
  const bool last = w + 1 == words;
  const uint64_t any = rows[0][w] | rows[1][w] | rows[2][w] | rows[3][w];
  if (any == 0) {
    return last || ((rows[0][w + 1] | rows[1][w + 1] | rows[2][w + 1] | rows[3][w + 1]) & 1) == 0;
  }
  const uint64_t all = rows[0][w] & rows[1][w] & rows[2][w] & rows[3][w];
  return ~all == 0 &&
         (last || (rows[0][w + 1] & rows[1][w + 1] & rows[2][w + 1] & rows[3][w + 1] & 1) != 0);
}

// Calls f(w) for the words of a row where a sign changes among it and its neighbours in x, y and z.
template <typename F>
__attribute__((always_inline)) inline void for_mixed_words(const MarchingCubesRows& p, Row at,
                                                           const F& f) {
  const int64_t words = p.lattice.words;
  const int64_t dx = at.i + 1 < p.lattice.size[0] ? p.lattice.size[1] : 0;
  const int64_t dy = at.j + 1 < p.lattice.size[1] ? 1 : 0;
  const uint64_t* row = p.inside + at.index * words;
  const uint64_t* const rows[4] = {row, row + dy * words, row + dx * words,
                                   row + (dx + dy) * words};
  for (int64_t w = 0; w < words; ++w) {
    if (!one_sign(rows, w, words)) f(w);
  }
}

// The signs as the loops below see them: without absent cells that is plain to the compiler.
template <bool kAbsentCells>
SignWords signs_of(const MarchingCubesRows& p) {
  return {p.inside, kAbsentCells ? p.signs.cells : nullptr};
}

template <bool kAbsentCells>
void find_crossings(const MarchingCubesRows& p, const SignWords& signs, Row row,
                    RowCrossings& out) {
  int64_t count[3] = {0, 0, 0}, faces = 0;
  for_mixed_words(p, row, [&](int64_t w) {
    const CellWord cells = load_cells(signs, p.lattice, row, w);
    for (int axis = 0; axis < 3; ++axis) {
      uint64_t crossed = own_edges(signs, p.lattice, row, w, cells, axis);
      for (; crossed != 0; crossed &= crossed - 1) {
        out.nodes[axis][count[axis]++] = 64 * w + lowest_bit(crossed);
      }
    }
    if (cells.active != 0) faces += count_triangles(cells.active, WordCases(cells));
  });
  std::copy(count, count + 3, out.count);
  out.faces = faces;
}

// Writes the vertices of a row's crossed edges along one axis, from vertex `first` of the row on.
template <int kAxis, typename value_t, typename scalar_t>
void write_vertices(const MarchingCubesRows& p, Row row, const RowCrossings& found,
                    const RowRun::Room& room, int64_t first) {
  const int64_t count = found.count[kAxis];
  const int64_t* crossings = found.nodes[kAxis].get();
  auto* vertices = static_cast<scalar_t*>(room.vertices) + 3 * first;
  const scalar_t level = static_cast<const scalar_t*>(p.level)[row.b];
  const auto* values = static_cast<const value_t*>(p.values);
  if (room.edges != nullptr) {
    for (int64_t n = 0; n < count; ++n) {
      room.edges[first + n] = edge_id(p.lattice, row, crossings[n], kAxis);
    }
  }
  if (p.lattice.pad != 0) {
    for (int64_t n = 0; n < count; ++n) {
      const GridEdge edge = grid_edge(p.grid, p.lattice, row, crossings[n], kAxis);
      store_vec3(vertices, n, edge_vertex<scalar_t, value_t>(p.grid, edge, kAxis, values, level));
    }
    return;
  }
  // The same as edge_vertex, with what the row's edges share taken out of the loop.
  const double base[2] = {static_cast<double>(row.i), static_cast<double>(row.j)};
  const Vec3<scalar_t> corner = {static_cast<scalar_t>(coordinate(p.grid, 0, base[0])),
                                 static_cast<scalar_t>(coordinate(p.grid, 1, base[1])), 0};
  const int64_t step = kAxis == 0   ? p.grid.size[1] * p.grid.size[2]
                       : kAxis == 1 ? p.grid.size[2]
                                    : 1;
  const value_t* lower = values + p.grid.node(row.b, row.i, row.j, 0);
  for (int64_t n = 0; n < count; ++n) {
    const int64_t k = crossings[n];
    const double t =
        crossing(static_cast<scalar_t>(lower[k]), static_cast<scalar_t>(lower[k + step]), level);
    Vec3<scalar_t> vertex = corner;
    if (kAxis < 2) {
      vertex[kAxis] = static_cast<scalar_t>(coordinate(p.grid, kAxis, base[kAxis] + t));
    }
    const double z = static_cast<double>(k);
    vertex.z = static_cast<scalar_t>(coordinate(p.grid, 2, kAxis == 2 ? z + t : z));
    store_vec3(vertices, n, vertex);
  }
}

// Starts loading the samples that a row's vertices need. Crossings are scattered over a grid that
// has long left the caches, so without this the loop waits for memory at nearly every vertex.
// Inlined by force: GCC finds a function that only prefetches to have no effect, and drops the
// call.
template <typename value_t>
__attribute__((always_inline)) inline void prefetch_row(const MarchingCubesRows& p,
                                                        const SignWords& signs, Row row) {
  const int64_t r = row.index;
  if (p.lattice.pad != 0) return;
  const value_t* here = static_cast<const value_t*>(p.values) + r * p.grid.size[2];
  const int64_t steps[3] = {p.grid.size[1] * p.grid.size[2], p.grid.size[2], 1};
  for_mixed_words(p, row, [&](int64_t w) __attribute__((always_inline)) {
    const CellWord cells = load_cells(signs, p.lattice, row, w);
    for (int axis = 0; axis < 3; ++axis) {
      uint64_t crossed = own_edges(signs, p.lattice, row, w, cells, axis);
      for (; crossed != 0; crossed &= crossed - 1) {
        const value_t* lower = here + 64 * w + lowest_bit(crossed);
        __builtin_prefetch(lower);
        if (axis < 2) __builtin_prefetch(lower + steps[axis]);
      }
    }
  });
}

template <bool kAbsentCells, typename value_t, typename scalar_t>
void sweep_typed(const MarchingCubesRows& p, RowRun& run, RowCrossings& found, int64_t end,
                 bool lost) {
  const SignWords signs = signs_of<kAbsentCells>(p);
  constexpr int64_t kAhead = 8;  // rows: a few hundred nanoseconds of work
  Row ahead{};
  if (lost) ahead = row_at(p.lattice, std::min(run.next.index + kAhead, p.lattice.rows() - 1));
  for (Row& row = run.next; row.index < end; row = next_row(p.lattice, row)) {
    if (lost && ahead.index < end) {
      prefetch_row<value_t>(p, signs, ahead);
      ahead = next_row(p.lattice, ahead);
    }
    find_crossings<kAbsentCells>(p, signs, row, found);
    const int64_t* count = found.count;
    p.rows[row.index] = advance(run.total, {{count[0], count[1], count[2]}, found.faces});
    const int64_t flat = count[0] + count[1], all = flat + count[2];
    if (all == 0) continue;
    const RowRun::Room room = run.take(p, all);
    write_vertices<0, value_t, scalar_t>(p, row, found, room, 0);
    write_vertices<1, value_t, scalar_t>(p, row, found, room, count[0]);
    write_vertices<2, value_t, scalar_t>(p, row, found, room, flat);
  }
}

void sweep(const MarchingCubesRows& p, RowRun& run, RowCrossings& found, int64_t end, bool lost) {
  dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    if (p.signs.cells == nullptr) {
      sweep_typed<false, value_t, scalar_t>(p, run, found, end, lost);
    } else {
      sweep_typed<true, value_t, scalar_t>(p, run, found, end, lost);
    }
  });
}

// Faces of a row. `next_id` runs along with the words: the id of the first vertex of each group.
template <typename index_t>
struct FaceWriter {
  const MarchingCubesRows& p;
  Row row;
  index_t* out;
  int64_t next_id[8];

  FaceWriter(const MarchingCubesRows& params, Row at) : p(params), row(at) {
    out = static_cast<index_t*>(p.faces) + 3 * p.rows[row.index].faces;
    for (int g = 0; g < 8; ++g) {
      next_id[g] = p.rows[group_row(p.lattice, row, edge_group(g)).index].edges[edge_group(g).axis];
    }
  }

  void write(const SignWords& signs, int64_t w, const CellWord& cells) {
    uint64_t crossed[8];
    for (int g = 0; g < 8; ++g) crossed[g] = crossed_edges(signs, p.lattice, row, w, cells, g);
    if (cells.active != 0) {
      const WordEdgeIds<index_t> ids{crossed, next_id};
      out = write_faces(cells.active, WordCases(cells), ids, out);
    }
    for (int g = 0; g < 8; ++g) next_id[g] += popcount(crossed[g]);
  }
};

template <bool kAbsentCells, typename index_t>
void emit_faces_typed(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  const SignWords signs = signs_of<kAbsentCells>(p);
  for (Row row = row_at(p.lattice, begin); row.index < end; row = next_row(p.lattice, row)) {
    const int64_t r = row.index;
    if (p.rows[r].faces == p.rows[r + 1].faces) continue;
    FaceWriter<index_t> writer(p, row);
    for_mixed_words(
        p, row, [&](int64_t w) { writer.write(signs, w, load_cells(signs, p.lattice, row, w)); });
  }
}

template <bool kAbsentCells>
void emit_faces_indexed(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  if (p.int32_faces) {
    emit_faces_typed<kAbsentCells, int32_t>(p, begin, end);
  } else {
    emit_faces_typed<kAbsentCells, int64_t>(p, begin, end);
  }
}

void emit_faces(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  if (p.signs.cells == nullptr) {
    emit_faces_indexed<false>(p, begin, end);
  } else {
    emit_faces_indexed<true>(p, begin, end);
  }
}
