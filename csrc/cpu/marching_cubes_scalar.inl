// SPDX-License-Identifier: Apache-2.0
// Plain versions of what an instruction set may do better, see marching_cubes_loops.inl.

template <typename value_t, typename scalar_t>
uint64_t pack_word_scalar(const value_t* values, scalar_t level, bool& nan) {
  // Bytes first, in a loop that compilers vectorise; then eight bytes to eight bits by one product.
  uint8_t inside[64], absent = 0;
  for (int k = 0; k < 64; ++k) {
    const scalar_t value = static_cast<scalar_t>(values[k]);
    inside[k] = value < level;
    absent |= value != value;
  }
  nan |= absent != 0;
  uint64_t word = 0;
  for (int byte = 0; byte < 8; ++byte) {
    uint64_t eight = 0;
    for (int k = 0; k < 8; ++k) eight |= uint64_t{inside[8 * byte + k]} << (8 * k);
    word |= (eight * 0x0102040810204080u >> 56) << (8 * byte);
  }
  return word;
}

int count_triangles_scalar(const CellWord& cells) {
  const MarchingCubesTables& tables = marching_cubes_tables();
  int count = 0;
  for (uint64_t active = cells.active; active != 0; active &= active - 1) {
    count += tables.triangle_count[case_of(cells, lowest_bit(active))];
  }
  return count;
}

// Faces of a row. `next_id` runs along with the words: the id of the first vertex of each group.
template <typename index_t>
struct ScalarFaceWriter {
  const MarchingCubesRows& p;
  Row row;
  index_t* out;
  int64_t next_id[8];

  ScalarFaceWriter(const MarchingCubesRows& params, Row at, index_t* begin, index_t*)
      : p(params), row(at), out(begin) {
    for (int g = 0; g < 8; ++g) {
      next_id[g] = p.rows[group_row(p.lattice, row, edge_group(g)).index].edges[edge_group(g).axis];
    }
  }

  void write(int64_t w, const CellWord& cells) {
    const MarchingCubesTables& tables = marching_cubes_tables();
    uint64_t crossed[8];
    for (int g = 0; g < 8; ++g) crossed[g] = crossed_edges(p.signs, p.lattice, row, w, cells, g);
    for (uint64_t active = cells.active; active != 0; active &= active - 1) {
      const int k = lowest_bit(active);
      const int which = case_of(cells, k);
      const CellEdgeIds<index_t> ids(crossed, next_id, k);
      const int corners = 3 * tables.triangle_count[which];
      for (int c = 0; c < corners; ++c) *out++ = ids.id[tables.triangle_edges[which][c]];
    }
    for (int g = 0; g < 8; ++g) next_id[g] += popcount(crossed[g]);
  }
};
