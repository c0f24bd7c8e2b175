// SPDX-License-Identifier: Apache-2.0
// Included by one file for each instruction set, which defines in an anonymous namespace before it
//   template <value_t, scalar_t> uint64_t pack_word(const value_t* values, scalar_t level, bool&
//   nan)
//     signs of 64 samples, and
//   int count_triangles(const CellWord&), template <index_t> index_t* emit_cells(...) as below.

template <typename value_t, typename scalar_t>
bool pack_typed(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  const auto* values = static_cast<const value_t*>(p.values);
  const int64_t nodes = p.grid.size[2], words = p.lattice.words, pad = p.lattice.pad;
  bool nan = false;
  for (int64_t r = begin; r < end; ++r) {
    uint64_t* out = p.inside + r * words;
    const Row row = row_at(p.lattice, r);
    const int64_t i = row.i - pad, j = row.j - pad;
    if (i < 0 || j < 0 || i >= p.grid.size[0] || j >= p.grid.size[1]) {
      std::memset(out, 0, words * sizeof(uint64_t));
      continue;
    }
    const value_t* in = values + p.grid.node(row.b, i, j, 0);
    const scalar_t level = static_cast<const scalar_t*>(p.level)[row.b];
    int64_t w = 0;
    for (; 64 * (w + 1) <= nodes; ++w)
      out[w] = pack_word<value_t, scalar_t>(in + 64 * w, level, nan);
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

bool pack(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  return dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    return pack_typed<value_t, scalar_t>(p, begin, end);
  });
}

// The four rows of a row of cells; a walk over their words that stops only where a sign changes.
struct CellRowWalk {
  const uint64_t* row[4];
  int64_t words;

  CellRowWalk(const MarchingCubesRows& p, Row at) : words(p.lattice.words) {
    const bool has_x = at.i + 1 < p.lattice.size[0], has_y = at.j + 1 < p.lattice.size[1];
    const int64_t dx = has_x ? p.lattice.size[1] : 0, dy = has_y ? 1 : 0;
    const int64_t steps[4] = {0, dy, dx, dx + dy};
    for (int r = 0; r < 4; ++r) row[r] = p.inside + (at.index + steps[r]) * words;
  }

  // True where word w of all four rows, and the node after it, have one sign.
  bool uniform(int64_t w) const {
    const uint64_t any = row[0][w] | row[1][w] | row[2][w] | row[3][w];
    if (any == 0) {
      return w + 1 == words ||
             ((row[0][w + 1] | row[1][w + 1] | row[2][w + 1] | row[3][w + 1]) & 1) == 0;
    }
    const uint64_t all = row[0][w] & row[1][w] & row[2][w] & row[3][w];
    return ~all == 0 && (w + 1 == words ||
                         (row[0][w + 1] & row[1][w + 1] & row[2][w + 1] & row[3][w + 1] & 1) == 1);
  }
};

OutputTotals count(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  OutputTotals total{0, 0};
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(p.lattice, r);
    const CellRowWalk walk(p, row);
    RowCounts counts{{0, 0, 0}, 0};
    for (int64_t w = 0; w < p.lattice.words; ++w) {
      if (walk.uniform(w)) continue;
      for (int axis = 0; axis < 3; ++axis) {
        counts.edges[axis] += popcount(crossed_edges(p.signs, p.lattice, row, w, axis));
      }
      if (!has_cells(p.lattice, row)) continue;
      const CellWord cells = load_cells(p.signs, p.lattice, row, w);
      if (cells.active != 0) counts.faces += count_triangles(cells);
    }
    p.rows[r] = counts;
    total.vertices += counts.edges[0] + counts.edges[1] + counts.edges[2];
    total.faces += counts.faces;
  }
  return total;
}

// Writes the vertices of a row's crossed edges along one axis, a word at a time.
template <int kAxis, typename value_t, typename scalar_t>
struct VertexWriter {
  const MarchingCubesRows& p;
  Row row;
  scalar_t level;
  int64_t next;            // id of the next vertex
  const value_t* ends[2];  // values at the lower and upper ends of the row's edges, by k
  double base[3];          // the row's place in nodes, and its world coordinates but for z
  scalar_t fixed[2];

  VertexWriter(const MarchingCubesRows& params, Row at) : p(params), row(at) {
    level = static_cast<const scalar_t*>(p.level)[row.b];
    next = p.rows[row.index].edges[kAxis];
    const int64_t i = row.i - p.lattice.pad, j = row.j - p.lattice.pad;
    base[0] = static_cast<double>(i);
    base[1] = static_cast<double>(j);
    for (int axis = 0; axis < 2; ++axis) {
      fixed[axis] = static_cast<scalar_t>(coordinate(p.grid, axis, base[axis]));
    }
    const auto* values = static_cast<const value_t*>(p.values);
    const int64_t step = kAxis == 0   ? p.grid.size[1] * p.grid.size[2]
                         : kAxis == 1 ? p.grid.size[2]
                                      : 1;
    ends[0] = values + p.grid.node(row.b, i, j, 0);
    ends[1] = ends[0] + step;
  }

  void write(int64_t w, uint64_t crossed) {
    auto* vertices = static_cast<scalar_t*>(p.vertices);
    for (; crossed != 0; crossed &= crossed - 1, ++next) {
      const int64_t k = 64 * w + lowest_bit(crossed);
      if (p.edges != nullptr) p.edges[next] = edge_id(p.lattice, row, k, kAxis);
      if (p.lattice.pad != 0) {
        const GridEdge edge = grid_edge(p.grid, p.lattice, row, k, kAxis);
        const auto* values = static_cast<const value_t*>(p.values);
        store_vec3(vertices, next,
                   edge_vertex<scalar_t, value_t>(p.grid, edge, kAxis, values, level));
        continue;
      }
      // The same as edge_vertex, with what the row's edges share taken out of the loop.
      const double t =
          crossing(static_cast<scalar_t>(ends[0][k]), static_cast<scalar_t>(ends[1][k]), level);
      Vec3<scalar_t> vertex = {fixed[0], fixed[1], 0};
      if (kAxis < 2) {
        vertex[kAxis] = static_cast<scalar_t>(coordinate(p.grid, kAxis, base[kAxis] + t));
      }
      const double z = static_cast<double>(k);
      vertex.z = static_cast<scalar_t>(coordinate(p.grid, 2, kAxis == 2 ? z + t : z));
      store_vec3(vertices, next, vertex);
    }
  }
};

// Starts loading the samples that a row's vertices need. Crossings are scattered over a grid that
// has long left the caches, so without this the loop waits for memory at nearly every vertex.
// Inlined by force: GCC finds a function that only prefetches to have no effect, and drops the
// call.
template <typename value_t>
__attribute__((always_inline)) inline void prefetch_row(const MarchingCubesRows& p, int64_t r) {
  if (p.rows[r].edges[0] == p.rows[r + 1].edges[0] || p.lattice.pad != 0) return;
  const Row row = row_at(p.lattice, r);
  const CellRowWalk walk(p, row);
  const value_t* here = static_cast<const value_t*>(p.values) + r * p.grid.size[2];
  const int64_t steps[3] = {p.grid.size[1] * p.grid.size[2], p.grid.size[2], 1};
  for (int64_t w = 0; w < p.lattice.words; ++w) {
    if (walk.uniform(w)) continue;
    for (int axis = 0; axis < 3; ++axis) {
      uint64_t crossed = crossed_edges(p.signs, p.lattice, row, w, axis);
      for (; crossed != 0; crossed &= crossed - 1) {
        const value_t* lower = here + 64 * w + lowest_bit(crossed);
        __builtin_prefetch(lower);
        if (axis < 2) __builtin_prefetch(lower + steps[axis]);
      }
    }
  }
}

template <typename value_t, typename scalar_t>
void emit_vertices_typed(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  constexpr int64_t kAhead = 8;  // rows: a few hundred nanoseconds of work
  for (int64_t r = begin; r < end; ++r) {
    if (r + kAhead < end) prefetch_row<value_t>(p, r + kAhead);
    if (p.rows[r].edges[0] == p.rows[r + 1].edges[0]) continue;
    const Row row = row_at(p.lattice, r);
    const CellRowWalk walk(p, row);
    VertexWriter<0, value_t, scalar_t> x(p, row);
    VertexWriter<1, value_t, scalar_t> y(p, row);
    VertexWriter<2, value_t, scalar_t> z(p, row);
    for (int64_t w = 0; w < p.lattice.words; ++w) {
      if (walk.uniform(w)) continue;
      x.write(w, crossed_edges(p.signs, p.lattice, row, w, 0));
      y.write(w, crossed_edges(p.signs, p.lattice, row, w, 1));
      z.write(w, crossed_edges(p.signs, p.lattice, row, w, 2));
    }
  }
}

void emit_vertices(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    emit_vertices_typed<value_t, scalar_t>(p, begin, end);
  });
}

template <typename index_t>
void emit_faces_typed(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    if (p.rows[r].faces == p.rows[r + 1].faces) continue;
    const Row row = row_at(p.lattice, r);
    const CellRowWalk walk(p, row);
    Row rows[8];
    int64_t next_id[8];
    for (int g = 0; g < 8; ++g) {
      rows[g] = group_row(p.lattice, row, edge_group(g));
      next_id[g] = p.rows[rows[g].index].edges[edge_group(g).axis];
    }
    index_t* out = static_cast<index_t*>(p.faces) + 3 * p.rows[r].faces;
    index_t* const row_end = static_cast<index_t*>(p.faces) + 3 * p.rows[r + 1].faces;
    for (int64_t w = 0; w < p.lattice.words && out < row_end; ++w) {
      if (walk.uniform(w)) continue;
      uint64_t crossed[8];
      for (int g = 0; g < 8; ++g) {
        crossed[g] = crossed_edges(p.signs, p.lattice, rows[g], w, edge_group(g).axis);
      }
      const CellWord cells = load_cells(p.signs, p.lattice, row, w);
      if (cells.active != 0) out = emit_cells<index_t>(cells, crossed, next_id, out, row_end);
      for (int g = 0; g < 8; ++g) next_id[g] += popcount(crossed[g]);
    }
  }
}

void emit_faces(const MarchingCubesRows& p, int64_t begin, int64_t end) {
  if (p.int32_faces) {
    emit_faces_typed<int32_t>(p, begin, end);
  } else {
    emit_faces_typed<int64_t>(p, begin, end);
  }
}
