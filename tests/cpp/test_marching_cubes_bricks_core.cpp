// SPDX-License-Identifier: Apache-2.0
// Marching cubes on bricks, against loops over the single nodes and cells of a box.
#include <map>
#include <set>

#include "cpu/brick_edge_ids.h"
#include "random_bricks.h"

using namespace diffiso;

namespace {

// Random bricks, and what follows from their masks word by word.
struct Bricks : RandomBricks {
  std::vector<uint64_t> cells, crossed;
  std::vector<uint16_t> before;
  std::vector<int64_t> begins, face_begins;

  using RandomBricks::RandomBricks;

  // The steps of the op.
  void extract() {
    const int64_t count = shape.count;
    cells.resize(8 * count);
    crossed.resize(24 * count);
    before.resize(24 * count);
    for (int64_t w = 0; w < 8 * count; ++w) {
      present[w] &= countable_nodes(shape, w / 8, static_cast<int>(w % 8));
      inside[w] &= present[w];
    }
    for (int64_t w = 0; w < 8 * count; ++w) {
      const BrickOctant<1> above(shape, w / 8);
      const int x = static_cast<int>(w % 8);
      cells[w] = present_cells(plane(present, above, x), plane(present, above, x + 1));
    }
    for (int64_t brick = 0; brick < count; ++brick) count_brick(brick);
    begins = sums(begins);
    face_begins = sums(face_begins);
  }

  void count_brick(int64_t brick) {
    const BrickOctant<-1> below(shape, brick);
    int64_t faces = 0, vertices = 0;
    for (int x = 0; x < 8; ++x) {
      faces += count_triangles(cell_word(brick, x));
      for (int axis = 0; axis < 3; ++axis) {
        crossed[24 * brick + 8 * axis + x] =
            crossed_edges(cell_word(brick, x), plane(cells, below, x), plane(cells, below, x - 1),
                          axis) &
            present[8 * brick + x];
      }
    }
    for (int64_t w = 24 * brick; w < 24 * brick + 24; ++w) {
      before[w] = static_cast<uint16_t>(vertices);
      vertices += popcount(crossed[w]);
    }
    begins.push_back(vertices);
    face_begins.push_back(faces);
  }

  template <int kStep>
  static MovedPlane plane(const std::vector<uint64_t>& masks, const BrickOctant<kStep>& octant,
                          int x) {
    return moved_plane(masks.data(), octant, x);
  }

  CellWord cell_word(int64_t brick, int x) const {
    const BrickOctant<1> above(shape, brick);
    return load_cells(plane(inside, above, x), plane(inside, above, x + 1), cells[8 * brick + x]);
  }

  static std::vector<int64_t> sums(const std::vector<int64_t>& counts) {
    std::vector<int64_t> out = {0};
    for (const int64_t n : counts) out.push_back(out.back() + n);
    return out;
  }

  BrickVertices vertices() const { return {crossed.data(), before.data(), begins.data()}; }

  template <typename F>
  void for_each_node(const F& f) const {
    for (int64_t i = -1; i <= shape.nodes[0]; ++i) {
      for (int64_t j = -1; j <= shape.nodes[1]; ++j) {
        for (int64_t k = -1; k <= shape.nodes[2]; ++k) f({i, j, k});
      }
    }
  }
};

bool is_cell(const Nodes& present, Place p) {
  for (int c = 0; c < 8; ++c) {
    if (!present(moved(p, c >> 2, c >> 1 & 1, c & 1))) return false;
  }
  return true;
}

// Whether some present cell uses the edge, and its ends differ.
bool is_vertex(const Nodes& inside, const Nodes& present, Place p, int axis) {
  if (inside(p) == inside(moved(p, axis == 0, axis == 1, axis == 2))) return false;
  for (int back = 0; back < 4; ++back) {
    Place cell = p;
    cell[(axis + 1) % 3] -= back & 1;
    cell[(axis + 2) % 3] -= back >> 1;
    if (is_cell(present, cell)) return true;
  }
  return false;
}

// Edges in the documented order, and every cell's faces by edge.
void test_vertices_and_faces() {
  Random random(5);
  for (int round = 0; round < 12; ++round) {
    Bricks bricks(kShapes[round % 6], random);
    bricks.extract();
    const BrickShape& shape = bricks.shape;
    const Nodes inside{bricks, bricks.inside}, present{bricks, bricks.present};
    bricks.for_each_node([&](Place p) {
      bool within = true;
      for (int a = 0; a < 3; ++a) within = within && p[a] >= 0 && p[a] < shape.nodes[a];
      expect(within || !present(p));
    });
    std::map<int64_t, int64_t> rank;  // by edge id
    for (int64_t n = 0; n < 3 * 512 * shape.count; ++n) {
      const int64_t brick = n / 1536, axis = n / 512 % 3, x = n / 64 % 8, y = n / 8 % 8, z = n % 8;
      const Place p = {shape.origin(brick, 0) + x, shape.origin(brick, 1) + y,
                       shape.origin(brick, 2) + z};
      const uint64_t word = bricks.crossed[24 * brick + 8 * axis + x];
      const bool vertex = is_vertex(inside, present, p, static_cast<int>(axis));
      expect((word >> (8 * y + z) & 1) == vertex);
      if (!vertex) continue;
      const int64_t id = static_cast<int64_t>(rank.size());
      expect(bricks.vertices().id(brick, static_cast<int>(axis), static_cast<int>(x),
                                  static_cast<int>(8 * y + z)) == id);
      rank[edge_id(shape, p.data(), static_cast<int>(axis))] = id;
    }
    expect(bricks.begins.back() == static_cast<int64_t>(rank.size()));

    LocalEdgeIds<int32_t> local;
    for (int64_t brick = 0; brick < shape.count; ++brick) {
      const BrickOctant<1> above(shape, brick);
      const BrickVertices vertices = bricks.vertices();
      local.fill(vertices, above);
      int64_t faces = 0;
      for (int x = 0; x < 8; ++x) {
        const CellWord cells = bricks.cell_word(brick, x);
        std::vector<int64_t> found(3 * count_triangles(cells));
        std::vector<int32_t> again(found.size());
        faces += static_cast<int64_t>(found.size()) / 3;
        write_faces(cells, BrickEdgeIds<int64_t>{vertices, above, x, 0}, found.data());
        write_faces(cells, LocalEdgeIds<int32_t>::Word{local, x}, again.data());
        size_t next = 0;
        for (int bit = 0; bit < 64; ++bit) {
          const Place p = {shape.origin(brick, 0) + x, shape.origin(brick, 1) + bit / 8,
                           shape.origin(brick, 2) + bit % 8};
          if (!is_cell(present, p)) continue;
          int which = 0;
          for (int c = 0; c < 8; ++c) which |= inside(moved(p, c >> 2, c >> 1 & 1, c & 1)) << c;
          const MarchingCubesTables& tables = marching_cubes_tables();
          for (int n = 0; n < 3 * tables.triangle_count[which]; ++n, ++next) {
            const int8_t* e = tables.edge[tables.triangle_edges[which][n]];
            const Place lower = moved(p, e[1], e[2], e[3]);
            const auto at = rank.find(edge_id(shape, lower.data(), e[0]));
            expect(at != rank.end() && next < found.size() && found[next] == at->second &&
                   again[next] == at->second);
          }
        }
        expect(next == found.size());
      }
      expect(bricks.face_begins[brick + 1] - bricks.face_begins[brick] == faces);
    }
  }
}

// A vertex, and what goes back through its edge, are those of the dense grid with these samples.
void test_positions_and_gradients() {
  Random random(6);
  for (const auto& nodes : kShapes) {
    Bricks bricks(nodes, random);
    bricks.extract();
    const BrickShape& shape = bricks.shape;
    const GridShape grid{1, {nodes[0], nodes[1], nodes[2]}, shape.lower, shape.spacing};
    const Lattice lattice = make_lattice(grid, false);
    std::vector<float> stored(512 * shape.count), dense(grid.nodes_per_grid());
    for (float& value : stored) value = static_cast<float>(random.uniform(-1, 1));
    for (int64_t n = 0; n < grid.nodes_per_grid(); ++n) {
      const int64_t row = n / nodes[2];
      const int64_t at = shape.offset(row / nodes[1], row % nodes[1], n % nodes[2]);
      if (at >= 0) dense[n] = stored[at];
    }
    const float level = 0.125f;
    for (int64_t n = 0; n < 1536 * shape.count; ++n) {
      const int64_t brick = n / 1536;
      const int axis = static_cast<int>(n / 512 % 3), x = static_cast<int>(n / 64 % 8),
                bit = static_cast<int>(n % 64);
      if ((bricks.crossed[24 * brick + 8 * axis + x] >> bit & 1) == 0) continue;
      const BrickEdge edge = brick_edge(shape, BrickOctant<1>(shape, brick), x, bit, axis);
      const int64_t id = edge_id(shape, edge.position, axis);
      const LatticeEdge place = edge_from_id(lattice, id);
      const GridEdge same = grid_edge(grid, lattice, place.row, place.k, place.axis);
      const Vec3<float> found = edge_vertex(shape, edge, axis, stored.data(), level);
      const Vec3<float> expected = edge_vertex(grid, same, axis, dense.data(), level);
      expect(found.x == expected.x && found.y == expected.y && found.z == expected.z);

      const Vec3<float> grad{1.5f, -2.0f, 0.75f};
      const auto back = pull_back_vertex<float>(shape, id, stored.data(), level, grad);
      const auto other = pull_back_vertex<float>(grid, lattice, id, dense.data(), &level, grad);
      expect(back.axis == axis && back.level == other.level);
      for (int end = 0; end < 2; ++end) {
        expect(back.node[end] == edge.node[end] && back.value[end] == other.value[end]);
      }
    }
  }
}

void test_ids_that_pass_nothing_on() {
  Random random(7);
  const Bricks bricks({17, 25, 9}, random);
  const BrickShape& shape = bricks.shape;
  const std::vector<double> stored(512 * shape.count, 1.0);
  const int64_t count = 17 * 25 * 9;
  std::set<std::pair<int64_t, int64_t>> seen;  // round and node: no two vertices meet
  int64_t passed = 0;
  for (int64_t id = -10; id < 3 * count + 10; ++id) {
    const auto back = pull_back_vertex<double>(shape, id, stored.data(), 0.0, {1, 1, 1});
    const int64_t node = id < 0 ? -1 : id / 3, axis = id - 3 * node;
    bool exists = id >= 0 && node < count;
    if (exists) {
      const int64_t i = node / 225, j = node / 9 % 25, k = node % 9;
      const int64_t u = i + (axis == 0), v = j + (axis == 1), w = k + (axis == 2);
      exists =
          u < 17 && v < 25 && w < 9 && shape.offset(i, j, k) >= 0 && shape.offset(u, v, w) >= 0;
      expect(!exists ||
             (back.node[0] == shape.offset(i, j, k) && back.node[1] == shape.offset(u, v, w)));
    }
    expect(exists || (back.node[0] < 0 && back.node[1] < 0 && back.level == 0));
    for (int end = 0; exists && end < 2; ++end) {
      expect(seen.insert({2 * back.axis + end, back.node[end]}).second);
    }
    passed += exists;
  }
  expect(passed > count);
  for (const int64_t id : {INT64_MIN, INT64_MIN + 1, INT64_MAX, INT64_MAX - 1}) {
    expect(pull_back_vertex<double>(shape, id, stored.data(), 0.0, {1, 1, 1}).node[0] < 0);
  }
}

// Numbers that no brick has, places that disagree, bricks that stand twice or nowhere: what agrees
// is extracted as if the rest were not there, and nothing is read out of bounds: the sanitizer
// watches.
void test_tables_that_are_wrong() {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    Random random(100 + seed), copy(100 + seed);
    Bricks bricks({24, 17, 25}, random), plain({24, 17, 25}, copy);
    const int64_t places = static_cast<int64_t>(bricks.table.size()), count = bricks.shape.count;
    const int32_t garbage[] = {-1, -5, INT32_MIN, INT32_MAX, static_cast<int32_t>(count), 0, 1, 2};
    for (int n = 0; n < 6; ++n) {
      bricks.table[random.below(places)] = garbage[random.below(8)];
      bricks.coordinates[random.below(3 * count)] = garbage[random.below(8)];
    }
    for (int64_t place = 0; place < places; ++place) {
      const int64_t row = place / bricks.shape.tiles[2];
      const int64_t at[3] = {row / bricks.shape.tiles[1], row % bricks.shape.tiles[1],
                             place % bricks.shape.tiles[2]};
      const int64_t brick = bricks.table[place];
      bool agree = brick >= 0 && brick < count;
      for (int a = 0; agree && a < 3; ++a) agree = bricks.coordinates[3 * brick + a] == at[a];
      plain.table[place] = agree ? static_cast<int32_t>(brick) : kNone;
    }
    plain.coordinates = bricks.coordinates;
    plain.shape.coordinates = plain.coordinates.data();
    bricks.extract();
    plain.extract();
    expect(bricks.crossed == plain.crossed && bricks.begins == plain.begins);
    expect(bricks.face_begins == plain.face_begins);
    const BrickVertices vertices = bricks.vertices();
    for (int64_t brick = 0; brick < count; ++brick) {
      const BrickOctant<1> above(bricks.shape, brick);
      for (int x = 0; x < 8; ++x) {
        const CellWord cells = bricks.cell_word(brick, x);
        std::vector<int64_t> found(3 * count_triangles(cells));
        write_faces(cells, BrickEdgeIds<int64_t>{vertices, above, x, 0}, found.data());
        for (const int64_t id : found) expect(id >= 0 && id < bricks.begins.back());
      }
    }
  }
}

}  // namespace

int main() {
  test_vertices_and_faces();
  test_positions_and_gradients();
  test_ids_that_pass_nothing_on();
  test_tables_that_are_wrong();
  return report();
}
