// SPDX-License-Identifier: Apache-2.0
// Included by one file for each instruction set, after marching_cubes_loops.inl. Beside pack_word
// that file defines
//   template <value_t, scalar_t>
//   uint64_t present_word(const value_t* values)
// which of 64 samples are no NaN.

template <typename value_t, typename scalar_t>
void pack_bricks_typed(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  const scalar_t level = *static_cast<const scalar_t*>(p.level);
  for (int64_t brick = begin; brick < end; ++brick) {
    const value_t* in = static_cast<const value_t*>(p.values) + kBrickNodes * brick;
    bool whole = stands(p.bricks, brick);  // all its nodes count
    for (int axis = 0; axis < 3; ++axis) {
      whole = whole && p.bricks.origin(brick, axis) + kBrickSize <= p.bricks.nodes[axis];
    }
    for (int x = 0; x < kBrickSize; ++x) {
      bool nan = false;
      prefetch_word<8192>(in + 64 * x);
      const uint64_t inside = pack_word<value_t, scalar_t>(in + 64 * x, level, nan);
      uint64_t present = nan ? present_word<value_t, scalar_t>(in + 64 * x) : ~uint64_t{0};
      if (!whole) present &= countable_nodes(p.bricks, brick, x);
      p.inside[kBrickSize * brick + x] = inside & present;
      p.present[kBrickSize * brick + x] = present;
    }
  }
}

void pack_bricks(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    pack_bricks_typed<value_t, scalar_t>(p, begin, end);
  });
}

void find_brick_cells(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  for (int64_t brick = begin; brick < end; ++brick) {
    const BrickOctant<1> above(p.bricks, brick);
    MovedPlane lower = moved_plane(p.present, above, 0);
    for (int x = 0; x < kBrickSize; ++x) {
      const MovedPlane upper = moved_plane(p.present, above, x + 1);
      p.cells[kBrickSize * brick + x] = present_cells(lower, upper);
      lower = upper;
    }
  }
}

// Counts a brick's vertices and faces, and keeps its crossed edges.
void count_brick(const MarchingCubesBricks& p, int64_t brick) {
  const BrickOctant<1> above(p.bricks, brick);
  CellWord cells[kBrickSize];
  MovedPlane lower = moved_plane(p.inside, above, 0);
  uint64_t changes = 0;
  int64_t faces = 0;
  for (int x = 0; x < kBrickSize; ++x) {
    const MovedPlane upper = moved_plane(p.inside, above, x + 1);
    cells[x] = load_cells(lower, upper, p.cells[kBrickSize * brick + x]);
    for (int axis = 0; axis < 3; ++axis) changes |= cells[x].corner[0] ^ cells[x].corner[4 >> axis];
    if (cells[x].active != 0) faces += count_triangles(cells[x]);
    lower = upper;
  }
  uint64_t* crossed = p.crossed + 3 * kBrickSize * brick;
  uint16_t* before = p.before + 3 * kBrickSize * brick;
  int vertices = 0;
  if (changes == 0) {
    std::memset(crossed, 0, 3 * kBrickSize * sizeof(uint64_t));
    std::memset(before, 0, 3 * kBrickSize * sizeof(uint16_t));
  } else {
    const BrickOctant<-1> below(p.bricks, brick);
    MovedPlane back = moved_plane(p.cells, below, -1);
    for (int x = 0; x < kBrickSize; ++x) {
      const MovedPlane here = moved_plane(p.cells, below, x);
      for (int axis = 0; axis < 3; ++axis) {
        // A brick that stands nowhere has no present node, and so no edge.
        crossed[kBrickSize * axis + x] =
            crossed_edges(cells[x], here, back, axis) & p.present[kBrickSize * brick + x];
      }
      back = here;
    }
    for (int w = 0; w < 3 * kBrickSize; ++w) {
      before[w] = static_cast<uint16_t>(vertices);
      vertices += popcount(crossed[w]);
    }
  }
  p.vertex_begins[brick] = vertices;
  p.face_begins[brick] = faces;
}

void count_bricks(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  for (int64_t brick = begin; brick < end; ++brick) count_brick(p, brick);
}

// Writes the vertices of a brick. The same as edge_vertex, with what edges share taken out of the
// loops.
template <typename value_t, typename scalar_t>
struct BrickVertexWriter {
  const MarchingCubesBricks& p;
  int64_t brick, next;            // id of the next vertex
  int64_t origin[3];              // the brick's first node
  scalar_t fixed[3][kBrickSize];  // world coordinates of its nodes
  scalar_t level;

  BrickVertexWriter(const MarchingCubesBricks& params, int64_t of)
      : p(params), brick(of), next(p.vertex_begins[of]) {
    level = *static_cast<const scalar_t*>(p.level);
    for (int axis = 0; axis < 3; ++axis) {
      origin[axis] = p.bricks.origin(brick, axis);
      for (int n = 0; n < kBrickSize; ++n) {
        const double place = static_cast<double>(origin[axis] + n);
        fixed[axis][n] = static_cast<scalar_t>(coordinate(p.bricks, axis, place));
      }
    }
  }

  // Those on the edges along one axis.
  template <int kAxis>
  void write() {
    constexpr int kStep = 64 >> 3 * kAxis, kLast = kBrickSize - 1;
    auto* vertices = static_cast<scalar_t*>(p.vertices);
    const auto* values = static_cast<const value_t*>(p.values);
    const int32_t* at = p.bricks.coordinates + 3 * brick;
    const int64_t above =
        standing_brick(p.bricks, int64_t{at[0]} + (kAxis == 0), int64_t{at[1]} + (kAxis == 1),
                       int64_t{at[2]} + (kAxis == 2));
    const int64_t here = kBrickNodes * brick;
    const int64_t to_next = kBrickNodes * (above - brick) - kLast * kStep;
    const uint64_t* crossed = p.crossed + (3 * brick + kAxis) * kBrickSize;
    for (int x = 0; x < kBrickSize; ++x) {
      for (uint64_t edges = crossed[x]; edges != 0; edges &= edges - 1, ++next) {
        const int bit = lowest_bit(edges), local[3] = {x, bit >> 3, bit & 7};
        const int64_t node = here + 64 * x + bit;
        const int64_t other = node + (local[kAxis] == kLast ? to_next : kStep);
        const double t = crossing(static_cast<scalar_t>(values[node]),
                                  static_cast<scalar_t>(values[other]), level);
        Vec3<scalar_t> vertex = {fixed[0][x], fixed[1][local[1]], fixed[2][local[2]]};
        const double place = static_cast<double>(origin[kAxis] + local[kAxis]) + t;
        vertex[kAxis] = static_cast<scalar_t>(coordinate(p.bricks, kAxis, place));
        store_vec3(vertices, next, vertex);
        if (p.edges == nullptr) continue;
        const int64_t position[3] = {origin[0] + x, origin[1] + local[1], origin[2] + local[2]};
        p.edges[next] = edge_id(p.bricks, position, kAxis);
      }
    }
  }
};

template <typename value_t, typename scalar_t>
void emit_brick_vertices_typed(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  for (int64_t brick = begin; brick < end; ++brick) {
    if (p.vertex_begins[brick] == p.vertex_begins[brick + 1]) continue;
    const value_t* values = static_cast<const value_t*>(p.values) + kBrickNodes * brick;
    for (int x = 0; x < kBrickSize; ++x) prefetch_word<8192>(values + 64 * x);
    BrickVertexWriter<value_t, scalar_t> writer(p, brick);
    writer.template write<0>();
    writer.template write<1>();
    writer.template write<2>();
  }
}

void emit_brick_vertices(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    emit_brick_vertices_typed<value_t, scalar_t>(p, begin, end);
  });
}

template <typename index_t>
void emit_brick_faces_typed(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  const BrickVertices vertices{p.crossed, p.before, p.vertex_begins};
  LocalEdgeIds<index_t> ids;
  for (int64_t brick = begin; brick < end; ++brick) {
    if (p.face_begins[brick] == p.face_begins[brick + 1]) continue;
    const BrickOctant<1> above(p.bricks, brick);
    ids.fill(vertices, above);
    index_t* out = static_cast<index_t*>(p.faces) + 3 * p.face_begins[brick];
    MovedPlane lower = moved_plane(p.inside, above, 0);
    for (int x = 0; x < kBrickSize; ++x) {
      const MovedPlane upper = moved_plane(p.inside, above, x + 1);
      const CellWord cells = load_cells(lower, upper, p.cells[kBrickSize * brick + x]);
      out = write_faces(cells, typename LocalEdgeIds<index_t>::Word{ids, x}, out);
      lower = upper;
    }
  }
}

void emit_brick_faces(const MarchingCubesBricks& p, int64_t begin, int64_t end) {
  if (p.int32_faces) {
    emit_brick_faces_typed<int32_t>(p, begin, end);
  } else {
    emit_brick_faces_typed<int64_t>(p, begin, end);
  }
}
