// SPDX-License-Identifier: Apache-2.0
// Bits, vectors, grids, the trilinear stencil of both kinds of grid and the MeshSDF pull-back,
// against plain formulas.
#include <limits>
#include <vector>

#include "core/mesh_sdf.h"
#include "core/trilinear.h"
#include "expect.h"

using namespace diffiso;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void test_bits() {
  expect(popcount(0) == 0);
  expect(popcount(~uint64_t{0}) == 64);
  expect(popcount(0x8000000000000001) == 2);
  for (int bit = 0; bit < 64; ++bit) {
    expect(lowest_bit(uint64_t{1} << bit) == bit);
    expect(lowest_bit(~uint64_t{0} << bit) == bit);
    expect(low_bits(bit) == (uint64_t{1} << bit) - 1);
  }
  expect(low_bits(64) == ~uint64_t{0});
  expect(low_bits(1000) == ~uint64_t{0});
  expect(low_bits(-5) == 0);
}

void test_vectors() {
  const Vec3<double> a{1, 2, 3}, b{-4, 0.5, 2};
  expect(dot(a + b, a - b) == dot(a, a) - dot(b, b));
  expect(length(Vec3<double>{2, 3, 6}) == 7);
  expect(((a * 2.0) / 4.0)[1] == 1);
  double rows[6] = {};
  store_vec3(rows, 1, a);
  expect(rows[2] == 0 && rows[3] == 1 && rows[5] == 3);
  const Vec3<double> again = load_vec3(rows, 1);
  for (int axis = 0; axis < 3; ++axis) expect(again[axis] == a[axis]);
}

GridShape make_grid(int64_t batch, int64_t x, int64_t y, int64_t z) {
  return {batch, {x, y, z}, {-1.5, 0.25, 2.0}, {0.5, 0.75, 0.125}};
}

void test_grid_counts_past_two_to_the_31() {
  const GridShape grid = make_grid(3, 2000, 1500, 1200);
  expect(grid.nodes_per_grid() == 3600000000);
  expect(grid.node(0, 0, 0, 1) == 1);
  expect(grid.node(2, 1999, 1499, 1199) == 3 * 3600000000 - 1);
}

struct Case {
  GridShape grid = make_grid(2, 4, 3, 5);
  std::vector<double> values = std::vector<double>(2 * 60);
  Random random{7};

  Case() {
    for (double& value : values) value = random.uniform(-1, 1);
  }

  // A point `margin` cells or more away from every plane of nodes; up to a cell outside the box.
  Vec3<double> point(double margin) {
    Vec3<double> out;
    for (int axis = 0; axis < 3; ++axis) {
      const double cell = static_cast<double>(random.below(grid.size[axis] + 1) - 1);
      const double place = cell + random.uniform(margin, 1 - margin);
      out[axis] = grid.lower[axis] + place * grid.spacing[axis];
    }
    return out;
  }
};

// The specification, written without the stencil.
double field(const Case& c, int64_t batch, Vec3<double> point) {
  int64_t cell[3];
  double fraction[3], beyond = 0;
  for (int axis = 0; axis < 3; ++axis) {
    const double place = (point[axis] - c.grid.lower[axis]) / c.grid.spacing[axis];
    const double last = static_cast<double>(c.grid.size[axis] - 1);
    const double nearest = std::fmin(std::fmax(place, 0), last);
    cell[axis] = static_cast<int64_t>(std::fmin(std::floor(nearest), last - 1));
    fraction[axis] = nearest - static_cast<double>(cell[axis]);
    beyond += std::pow((place - nearest) * c.grid.spacing[axis], 2);
  }
  double out = std::sqrt(beyond);
  for (int dx = 0; dx < 2; ++dx) {
    for (int dy = 0; dy < 2; ++dy) {
      for (int dz = 0; dz < 2; ++dz) {
        const int64_t node = c.grid.node(batch, cell[0] + dx, cell[1] + dy, cell[2] + dz);
        out += c.values[node] * (dx ? fraction[0] : 1 - fraction[0]) *
               (dy ? fraction[1] : 1 - fraction[1]) * (dz ? fraction[2] : 1 - fraction[2]);
      }
    }
  }
  return out;
}

FieldSample<double> sample(const Case& c, int64_t batch, Vec3<double> point) {
  return interpolate(GridStencil<double>(c.grid, batch, point), c.values.data());
}

void test_interpolation() {
  Case c;
  for (int n = 0; n < 2000; ++n) {
    const int64_t batch = n % 2;
    const Vec3<double> point = c.point(0.01);
    const FieldSample<double> found = sample(c, batch, point);
    expect_near(found.value, field(c, batch, point), 1e-13);
    for (int axis = 0; axis < 3; ++axis) {
      const double step = 1e-6;
      Vec3<double> above = point, below = point;
      above[axis] += step;
      below[axis] -= step;
      // Central differences: exact to rounding in a cell, to step^2 / distance^2 outside the box.
      const double slope = (field(c, batch, above) - field(c, batch, below)) / (2 * step);
      expect_near(found.gradient[axis], slope, 1e-6);
    }
  }
}

void test_weights_sum_to_one_and_their_gradients_to_zero() {
  Case c;
  for (int n = 0; n < 200; ++n) {
    const GridStencil<double> stencil(c.grid, 1, c.point(0.0));
    double sum = 0;
    Vec3<double> gradient{0, 0, 0};
    for (int corner = 0; corner < 8; ++corner) {
      expect(stencil.offset(corner) >= 60 && stencil.offset(corner) < 120);
      expect(stencil.weight(corner) >= 0);
      sum += stencil.weight(corner);
      gradient = gradient + stencil.weight_gradient(corner);
    }
    expect_near(sum, 1, 1e-15);
    expect_near(length(gradient), 0, 1e-14);
  }
}

void test_ownership() {
  const Case c;
  for (int axis = 0; axis < 3; ++axis) {
    for (int64_t node = 0; node < c.grid.size[axis]; ++node) {
      const double at = c.grid.lower[axis] + static_cast<double>(node) * c.grid.spacing[axis];
      const AxisPlace<double> place(c.grid.axis(axis), at);
      const bool last = node == c.grid.size[axis] - 1;
      expect(place.cell == (last ? node - 1 : node));
      expect(place.fraction == (last ? 1 : 0));
      expect(place.excess == 0);
    }
    const double above = c.grid.lower[axis] + 100, below = c.grid.lower[axis] - 100;
    expect(AxisPlace<double>(c.grid.axis(axis), above).excess > 0);
    expect(AxisPlace<double>(c.grid.axis(axis), above).cell == c.grid.size[axis] - 2);
    expect(AxisPlace<double>(c.grid.axis(axis), above).fraction == 1);
    expect(AxisPlace<double>(c.grid.axis(axis), below).excess == -100);
    expect(AxisPlace<double>(c.grid.axis(axis), below).cell == 0);
    expect(AxisPlace<double>(c.grid.axis(axis), below).fraction == 0);
  }
}

// Bounds that are no multiple of the spacing in floating point: the box still ends where it says.
void test_bounds_are_inside() {
  Random random(17);
  for (int n = 0; n < 1000; ++n) {
    GridShape grid = make_grid(1, 2 + random.below(300), 3, 3);
    const double lower = random.uniform(-1, 1), upper = lower + random.uniform(0.1, 3);
    grid.lower.x = lower;
    grid.spacing.x = (upper - lower) / static_cast<double>(grid.size[0] - 1);
    const AxisPlace<float> first(grid.axis(0), static_cast<float>(lower));
    const double high = lower + static_cast<double>(grid.size[0] - 1) * grid.spacing.x;
    const AxisPlace<float> last(grid.axis(0), static_cast<float>(high));
    expect(first.excess == 0 && first.cell == 0);
    expect(last.excess == 0 && last.cell == grid.size[0] - 2);
    expect_near(last.fraction, 1, 1e-3);
  }
}

void test_points_that_are_not_numbers_stay_in_memory() {
  const Case c;
  for (double strange : {kNaN, kInfinity, -kInfinity, 1e300, -1e300}) {
    for (int axis = 0; axis < 3; ++axis) {
      Vec3<double> point{0, 1, 2.25};
      point[axis] = strange;
      const FieldSample<double> found = sample(c, 1, point);
      expect(std::isnan(strange) ? std::isnan(found.value) : found.value > 1e150);
      expect(!std::isnan(strange) || std::isnan(found.gradient[axis]));
    }
  }
}

// d (u * value + w . gradient) / d (sample, point), against central differences.
void test_backward_of_interpolation() {
  Case c;
  for (int n = 0; n < 300; ++n) {
    const Vec3<double> point = c.point(0.05);
    const double u = c.random.uniform(-1, 1);
    const Vec3<double> w{c.random.uniform(-1, 1), c.random.uniform(-1, 1), c.random.uniform(-1, 1)};
    const auto loss = [&](Vec3<double> at) {
      const FieldSample<double> found = sample(c, 0, at);
      return u * found.value + dot(w, found.gradient);
    };
    const GridStencil<double> stencil(c.grid, 0, point);
    const InterpolateBackward<double> backward{u, w};
    const double step = 1e-5;
    for (int corner = 0; corner < 8; ++corner) {
      double& value = c.values[stencil.offset(corner)];
      const double kept = value;
      value = kept + 1;
      const double above = loss(point);
      value = kept - 1;
      const double below = loss(point);
      value = kept;
      // The loss is linear in a sample: a difference is the derivative.
      expect_near(backward.corner(stencil, corner), (above - below) / 2, 1e-12);
    }
    const Vec3<double> found = backward.point(stencil, c.values.data());
    for (int axis = 0; axis < 3; ++axis) {
      Vec3<double> above = point, below = point;
      above[axis] += step;
      below[axis] -= step;
      // Outside, the direction turns over distances of 0.05 cells: third derivatives reach 1e6.
      expect_near(found[axis], (loss(above) - loss(below)) / (2 * step), 1e-3);
    }
  }
}

// Some of the bricks of a lattice, in any order, some samples of theirs NaN; and the dense grid with
// NaN at all nodes that are not there.
struct BrickCase {
  GridShape grid = make_grid(1, 19, 10, 12);
  std::vector<double> dense = std::vector<double>(19 * 10 * 12, kNaN);
  std::vector<int32_t> table = {4, -1, 0, 5, 1, -1, 3, 2, -9, 7, 6, 8};  // 8 is one too many
  std::vector<int32_t> coordinates = std::vector<int32_t>(3 * 8);
  std::vector<double> values = std::vector<double>(8 * kBrickNodes);
  BrickShape bricks{8,          {19, 10, 12}, {3, 2, 2}, table.data(), coordinates.data(),
                    grid.lower, grid.spacing};
  Random random{11};

  BrickCase() {
    for (double& value : values) value = random.below(100) ? random.uniform(-1, 1) : kNaN;
    for (int64_t i = 0; i < 19; ++i) {
      for (int64_t j = 0; j < 10; ++j) {
        for (int64_t k = 0; k < 12; ++k) {
          const int32_t brick = table[((i / 8) * 2 + j / 8) * 2 + k / 8];
          if (brick < 0 || brick >= 8) continue;
          dense[grid.node(0, i, j, k)] =
              values[brick * kBrickNodes + (i % 8) * 64 + (j % 8) * 8 + k % 8];
        }
      }
    }
  }
};

bool same(double a, double b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

void test_bricks_are_the_grid_that_has_them() {
  BrickCase c;
  int absent = 0, across = 0;
  for (int n = 0; n < 3000; ++n) {
    Vec3<double> point;
    for (int axis = 0; axis < 3; ++axis) {
      const AxisNodes nodes = c.grid.axis(axis);
      const double place = c.random.uniform(-1, static_cast<double>(nodes.count));
      // Every third point lies on planes of nodes.
      point[axis] = nodes.lower + (n % 3 ? place : std::round(place)) * nodes.spacing;
    }
    const GridStencil<double> of_grid(c.grid, 0, point);
    const BrickStencil<double> of_bricks(c.bricks, point);
    expect(of_bricks.cell_id == of_grid.cell_id);
    for (int corner = 0; corner < 8; ++corner) {
      const double sample = of_bricks.sample(c.values.data(), corner);
      expect(same(sample, of_grid.sample(c.dense.data(), corner)));
      const int64_t target = of_bricks.target(c.values.data(), corner);
      expect(of_bricks.is_absent(target) == std::isnan(sample));
      expect(target < 0 || c.values[target] == sample);
      absent += target < 0;
    }
    across += of_bricks.offset(7) - of_bricks.offset(0) != 73;
    const FieldSample<double> found = interpolate(of_bricks, c.values.data());
    const FieldSample<double> expected = interpolate(of_grid, c.dense.data());
    expect(same(found.value, expected.value));
    for (int axis = 0; axis < 3; ++axis) {
      expect(same(found.gradient[axis], expected.gradient[axis]));
    }
  }
  expect(absent > 1000 && absent < 23000);
  expect(across > 100 && across < 2900);
}

void test_mesh_sdf_pull_back() {
  const Vec3<double> slope{0, 3, 4}, grad_vertex{1, 1, 2};
  expect_near(mesh_sdf_pull_back(grad_vertex, slope, false), -11.0 / 5, 1e-15);
  expect_near(mesh_sdf_pull_back(grad_vertex, slope, true), -11.0 / 25, 1e-15);
  expect(mesh_sdf_pull_back(grad_vertex, {0, 0, 0}, false) == 0);
  expect(mesh_sdf_pull_back(grad_vertex, {0, 0, 0}, true) == 0);
  expect(mesh_sdf_pull_back(grad_vertex, {kNaN, 0, 0}, true) == 0);
}

}  // namespace

int main() {
  test_bits();
  test_vectors();
  test_grid_counts_past_two_to_the_31();
  test_interpolation();
  test_weights_sum_to_one_and_their_gradients_to_zero();
  test_ownership();
  test_bounds_are_inside();
  test_points_that_are_not_numbers_stay_in_memory();
  test_backward_of_interpolation();
  test_bricks_are_the_grid_that_has_them();
  test_mesh_sdf_pull_back();
  return report();
}
