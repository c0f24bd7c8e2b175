// SPDX-License-Identifier: Apache-2.0
// Sign words, vertex numbering and vertex positions, against loops over single nodes and cells.
#include <array>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "core/marching_cubes.h"
#include "expect.h"

using namespace diffiso;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A small lattice node by node, and the same as words.
struct Signs {
  GridShape grid;
  Lattice lattice;
  std::vector<uint8_t> is_inside, is_present;
  std::vector<uint64_t> inside, nodes, cells;

  Signs(std::array<int64_t, 4> shape, bool close_boundary, bool absent, uint32_t seed)
      : grid{shape[0], {shape[1], shape[2], shape[3]}, {-1, 2, 0.5}, {0.5, 0.25, 2}},
        lattice(make_lattice(grid, close_boundary)),
        is_inside(lattice.rows() * lattice.size[2]),
        is_present(is_inside.size(), 1),
        inside(lattice.rows() * lattice.words),
        nodes(inside.size()),
        cells(inside.size()) {
    Random random(seed);
    for (int64_t r = 0; r < lattice.rows(); ++r) {
      const Row row = row_at(lattice, r);
      for (int64_t k = 0; k < lattice.size[2]; ++k) {
        const int64_t at[3] = {row.i - lattice.pad, row.j - lattice.pad, k - lattice.pad};
        bool padding = false;
        for (int axis = 0; axis < 3; ++axis) {
          padding = padding || at[axis] < 0 || at[axis] >= grid.size[axis];
        }
        const int64_t node = r * lattice.size[2] + k;
        if (absent && !padding) is_present[node] = random.below(20) != 0;
        if (!padding && is_present[node]) is_inside[node] = random.below(2);
        const uint64_t bit = uint64_t{1} << (k % 64);
        if (is_inside[node]) inside[r * lattice.words + k / 64] |= bit;
        if (is_present[node]) nodes[r * lattice.words + k / 64] |= bit;
      }
    }
    for (int64_t r = 0; r < lattice.rows(); ++r) {
      for (int64_t w = 0; w < lattice.words; ++w) {
        cells[r * lattice.words + w] = present_cells(nodes.data(), lattice, row_at(lattice, r), w);
      }
    }
  }

  SignWords words(bool absent) const { return {inside.data(), absent ? cells.data() : nullptr}; }

  int64_t node(Row row, int64_t k) const { return row.index * lattice.size[2] + k; }

  Row moved(Row row, int64_t di, int64_t dj) const {
    return {row.index + di * lattice.size[1] + dj, row.b, row.i + di, row.j + dj};
  }

  bool is_cell(Row row, int64_t k) const {
    if (row.i < 0 || row.j < 0 || k < 0 || row.i + 1 >= lattice.size[0] ||
        row.j + 1 >= lattice.size[1] || k + 1 >= lattice.size[2]) {
      return false;
    }
    for (int c = 0; c < 8; ++c) {
      if (!is_present[node(moved(row, c >> 2, c >> 1 & 1), k + (c & 1))]) return false;
    }
    return true;
  }

  int case_at(Row row, int64_t k) const {
    int out = 0;
    for (int c = 0; c < 8; ++c) {
      out |= is_inside[node(moved(row, c >> 2, c >> 1 & 1), k + (c & 1))] << c;
    }
    return out;
  }

  // Whether some present cell uses the edge, and its ends differ.
  bool is_vertex(Row row, int64_t k, int axis) const {
    const int64_t at[3] = {row.i, row.j, k};
    if (at[axis] + 1 >= lattice.size[axis]) return false;
    const Row end = moved(row, axis == 0, axis == 1);
    if (is_inside[node(row, k)] == is_inside[node(end, k + (axis == 2))]) return false;
    for (int back = 0; back < 4; ++back) {
      int64_t step[3] = {0, 0, 0};
      step[(axis + 1) % 3] = back & 1;
      step[(axis + 2) % 3] = back >> 1;
      if (is_cell(moved(row, -step[0], -step[1]), k - step[2])) return true;
    }
    return false;
  }
};

template <typename F>
void for_each_lattice(F&& f) {
  uint32_t seed = 0;
  for (int64_t z : {2, 3, 31, 62, 63, 64, 65, 66, 128, 130}) {
    for (bool close_boundary : {false, true}) {
      for (bool absent : {false, true}) {
        f(Signs({2, 3, 4, z}, close_boundary, absent, seed++), absent);
      }
    }
  }
}

void test_present_cells_and_cases() {
  for_each_lattice([](const Signs& signs, bool absent) {
    for (int64_t r = 0; r < signs.lattice.rows(); ++r) {
      const Row row = row_at(signs.lattice, r);
      expect(row.index == r);
      const Row next = next_row(signs.lattice, row), there = row_at(signs.lattice, r + 1);
      expect(next.index == there.index && next.b == there.b && next.i == there.i &&
             next.j == there.j);
      for (int64_t k = 0; k < 64 * signs.lattice.words; ++k) {
        const bool listed = signs.cells[r * signs.lattice.words + k / 64] >> (k % 64) & 1;
        expect(listed == signs.is_cell(row, k));
      }
      expect(has_cells(signs.lattice, row) ==
             (row.i + 1 < signs.lattice.size[0] && row.j + 1 < signs.lattice.size[1]));
      if (!has_cells(signs.lattice, row)) continue;
      for (int64_t w = 0; w < signs.lattice.words; ++w) {
        const CellWord cells = load_cells(signs.words(absent), signs.lattice, row, w);
        for (int bit = 0; bit < 64; ++bit) {
          const int64_t k = 64 * w + bit;
          const bool cell = signs.is_cell(row, k);
          const int expected = cell ? signs.case_at(row, k) : 0;
          expect((cells.active >> bit & 1) == (expected != 0 && expected != 255));
          if (cell) expect(case_of(cells, bit) == expected);
        }
      }
    }
  });
}

void test_crossed_edges() {
  for_each_lattice([](const Signs& signs, bool absent) {
    for (int64_t r = 0; r < signs.lattice.rows(); ++r) {
      const Row row = row_at(signs.lattice, r);
      for (int64_t k = 0; k < 64 * signs.lattice.words; ++k) {
        for (int axis = 0; axis < 3; ++axis) {
          const CellWord cells = load_cells(signs.words(absent), signs.lattice, row, k / 64);
          const uint64_t word =
              own_edges(signs.words(absent), signs.lattice, row, k / 64, cells, axis);
          const bool expected = k < signs.lattice.size[2] && signs.is_vertex(row, k, axis);
          expect((word >> (k % 64) & 1) == expected);
        }
      }
    }
  });
}

// Where the first vertex of each row and axis stands, by the row counts of the core.
std::vector<RowCounts> row_begins(const Signs& signs, bool absent, OutputTotals& total) {
  std::vector<RowCounts> begins;
  for (int64_t r = 0; r < signs.lattice.rows(); ++r) {
    const Row row = row_at(signs.lattice, r);
    RowCounts counts{};
    for (int64_t w = 0; w < signs.lattice.words; ++w) {
      const CellWord cells = load_cells(signs.words(absent), signs.lattice, row, w);
      for (int axis = 0; axis < 3; ++axis) {
        counts.edges[axis] +=
            popcount(own_edges(signs.words(absent), signs.lattice, row, w, cells, axis));
      }
    }
    for (int64_t k = 0; k < signs.lattice.size[2]; ++k) {
      if (!signs.is_cell(row, k)) continue;
      counts.faces += marching_cubes_tables().triangle_count[signs.case_at(row, k)];
    }
    begins.push_back(advance(total, counts));
  }
  return begins;
}

// Every cell finds the ids of its faces' vertices from prefix sums and bits; they must be the ranks
// of the crossed edges in the documented order.
void test_faces_name_the_ranks_of_their_edges() {
  for_each_lattice([](const Signs& signs, bool absent) {
    std::map<int64_t, int64_t> rank;  // by edge id
    for (int64_t r = 0; r < signs.lattice.rows(); ++r) {
      const Row row = row_at(signs.lattice, r);
      for (int axis = 0; axis < 3; ++axis) {
        for (int64_t k = 0; k < signs.lattice.size[2]; ++k) {
          if (!signs.is_vertex(row, k, axis)) continue;
          const int64_t next = static_cast<int64_t>(rank.size());
          rank[edge_id(signs.lattice, row, k, axis)] = next;
        }
      }
    }
    OutputTotals total{};
    const std::vector<RowCounts> begins = row_begins(signs, absent, total);
    expect(total.vertices == static_cast<int64_t>(rank.size()));

    for (int64_t r = 0; r < signs.lattice.rows(); ++r) {
      const Row row = row_at(signs.lattice, r);
      if (!has_cells(signs.lattice, row)) continue;
      uint64_t crossed[8];
      int64_t begin[8];
      for (int g = 0; g < 8; ++g) {
        const EdgeGroup group = edge_group(g);
        begin[g] = begins[group_row(signs.lattice, row, group).index].edges[group.axis];
      }
      for (int64_t w = 0; w < signs.lattice.words; ++w) {
        const CellWord cells = load_cells(signs.words(absent), signs.lattice, row, w);
        for (int g = 0; g < 8; ++g) {
          crossed[g] = crossed_edges(signs.words(absent), signs.lattice, row, w, cells, g);
        }
        std::vector<int32_t> faces(3 * count_triangles(cells));
        const WordEdgeIds<int32_t> ids_of{crossed, begin};
        expect(write_faces(cells, ids_of, faces.data()) == faces.data() + faces.size());
        size_t next = 0;
        for (int bit = 0; bit < 64; ++bit) {
          const int64_t k = 64 * w + bit;
          if (!signs.is_cell(row, k)) continue;
          const int which = signs.case_at(row, k);
          const int corners = 3 * marching_cubes_tables().triangle_count[which];
          for (int n = 0; n < corners; ++n) {
            const int edge = marching_cubes_tables().triangle_edges[which][n];
            const int8_t* e = marching_cubes_tables().edge[edge];
            const int64_t id = edge_id(signs.lattice, signs.moved(row, e[1], e[2]), k + e[3], e[0]);
            expect(rank.count(id) == 1 && next < faces.size() && rank[id] == faces[next++]);
          }
        }
        expect(next == faces.size());
        for (int g = 0; g < 8; ++g) begin[g] += popcount(crossed[g]);
      }
    }
  });
}

void test_crossing() {
  expect(crossing(-1, 3, 0) == 0.25);
  expect(crossing(3, -1, 0) == 0.75);
  expect(crossing(-1, 0, 0) == 1);
  expect(crossing(0, -1, 0) == 0);
  expect(crossing(-1, kInfinity, 0) == 0);
  expect(crossing(kInfinity, -1, 0) == 1);
  expect(crossing(-kInfinity, 1, 0) == 1);
  expect(crossing(1, -kInfinity, 0) == 0);
  expect(crossing(-kInfinity, kInfinity, 0) == 0.5);
  expect(crossing(kInfinity, -kInfinity, 0) == 0.5);
  expect(crossing(-1.7e308, 1.7e308, 0) == 0.5);
  expect(crossing(-5e-324, 5e-324, 0) == 0.5);
  expect(crossing(1, kInfinity, kInfinity) == 0);
  expect(crossing(-kInfinity, 1, -1e308) == 1);
  Random random(3);
  for (int n = 0; n < 10000; ++n) {
    const double level = random.uniform(-1, 1);
    const double a = level - random.uniform(1e-300, 1e-3), b = level + random.uniform(0, 1);
    const double t = crossing(a, b, level);
    expect(t >= 0 && t <= 1);
    expect_near(crossing(b, a, level), 1 - t, 1e-15);
  }
}

void test_crossing_gradient() {
  Random random(5);
  const double step = 1e-6;
  for (int n = 0; n < 1000; ++n) {
    const double level = random.uniform(-1, 1);
    double a = level - random.uniform(0.2, 1), b = level + random.uniform(0.2, 1);
    if (n % 2) std::swap(a, b);
    const CrossingGradient found = crossing_gradient(a, b, level);
    const auto slope = [&](double da, double db, double dlevel) {
      return (crossing(a + da * step, b + db * step, level + dlevel * step) -
              crossing(a - da * step, b - db * step, level - dlevel * step)) /
             (2 * step);
    };
    expect_near(found.a, slope(1, 0, 0), 1e-8);
    expect_near(found.b, slope(0, 1, 0), 1e-8);
    expect_near(found.level, slope(0, 0, 1), 1e-8);
  }
  for (const auto& [a, b] : {std::pair{-1.0, kInfinity},
                             {kInfinity, -1.0},
                             {-kInfinity, 1.0},
                             {-kInfinity, kInfinity}}) {
    const CrossingGradient none = crossing_gradient(a, b, 0);
    expect(none.a == 0 && none.b == 0 && none.level == 0);
  }
}

void test_edge_numbers_past_two_to_the_31() {
  const GridShape grid{3, {1500, 1400, 1300}, {0, 0, 0}, {1, 1, 1}};
  for (bool close_boundary : {false, true}) {
    const Lattice lattice = make_lattice(grid, close_boundary);
    Random random(11);
    for (int n = 0; n < 1000; ++n) {
      const int64_t index = random.below(lattice.rows());
      const int64_t k = random.below(lattice.size[2]);
      const int axis = n % 3;
      const LatticeEdge edge =
          edge_from_id(lattice, edge_id(lattice, row_at(lattice, index), k, axis));
      expect(edge.row.index == index && edge.k == k && edge.axis == axis);
      expect((edge.row.b * lattice.size[0] + edge.row.i) * lattice.size[1] + edge.row.j == index);
    }
  }
}

void test_vertex_positions() {
  const GridShape grid{1, {2, 2, 2}, {-1, 2, 0.5}, {0.5, 0.25, 2}};
  const float values[8] = {-1, 3, 1, 1, 1, 1, 1, 1};
  const Lattice open = make_lattice(grid, false), padded = make_lattice(grid, true);
  const auto vertex = [&](const Lattice& lattice, int64_t i, int64_t j, int64_t k, int axis) {
    const Row row = row_at(lattice, i * lattice.size[1] + j);
    return edge_vertex(grid, grid_edge(grid, lattice, row, k, axis), axis, values, 0.0f);
  };
  const Vec3<float> along_z = vertex(open, 0, 0, 0, 2), along_x = vertex(open, 0, 0, 0, 0);
  expect(along_z.x == -1 && along_z.y == 2 && along_z.z == 1);
  expect(along_x.x == -0.75f && along_x.y == 2 && along_x.z == 0.5f);
  // The same edge of the padded lattice, and the edges from padding nodes to the inside node.
  const Vec3<float> shifted = vertex(padded, 1, 1, 1, 2);
  expect(shifted.x == along_z.x && shifted.y == along_z.y && shifted.z == along_z.z);
  for (int axis = 0; axis < 3; ++axis) {
    const Vec3<float> cap = vertex(padded, axis != 0, axis != 1, axis != 2, axis);
    expect(cap.x == -1 && cap.y == 2 && cap.z == 0.5f);
  }
  const Row last = row_at(padded, 2 * padded.size[1] + 2);
  expect(grid_edge(grid, padded, last, 2, 0).node[0] == 7);
  expect(grid_edge(grid, padded, last, 2, 0).node[1] == -1);
}

}  // namespace

int main() {
  test_present_cells_and_cases();
  test_crossed_edges();
  test_faces_name_the_ranks_of_their_edges();
  test_crossing();
  test_crossing_gradient();
  test_edge_numbers_past_two_to_the_31();
  test_vertex_positions();
  return report();
}
