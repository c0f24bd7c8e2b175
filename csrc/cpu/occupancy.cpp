// SPDX-License-Identifier: Apache-2.0
// Which cells a ray must look at. One pass packs the samples' signs into words, the only one that
// reads the grid; then whole words are combined, and distances spread along one axis after the other.
#include "cpu/occupancy.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/marching_cubes_rows.h"
#include "cpu/parallel.h"

namespace diffiso {
namespace {

// Zero bytes where bits are set, kFarthestBlock elsewhere.
void spread_bits(uint64_t word, uint8_t* bytes) {
  constexpr uint64_t kOnes = 0x0101010101010101, kBits = 0x8040201008040201;
  for (int k = 0; k < 8; ++k) {
    // A byte for each bit: its own bit of a copy of the eight, carried up to the byte's highest.
    const uint64_t copies = (word >> (8 * k) & 255) * kOnes & kBits;
    const uint64_t set = ((copies + ~uint64_t{0} / 255 * 127) | copies) >> 7 & kOnes;
    const uint64_t eight = (kOnes - set) * kFarthestBlock;
    std::memcpy(bytes + 8 * k, &eight, 8);
  }
}

// Marks the cells of the rows of nodes whose cells lie in a layer of blocks, and the layer's blocks.
void mark_layer(const MarchingCubesRows& rows, const Occupancy& grid, bool below, int64_t b,
                int32_t layer, uint64_t* words, uint8_t* distance) {
  const Lattice& lattice = rows.lattice;
  const int32_t size = 1 << grid.shift;
  const int64_t last = layer + 1 == grid.blocks[0] ? lattice.size[0] : (layer + 1) * int64_t{size};
  for (int64_t x = int64_t{layer} << grid.shift; x < last; ++x) {
    for (int64_t y = 0; y < lattice.size[1]; ++y) {
      const Row row{(b * lattice.size[0] + x) * lattice.size[1] + y, b, x, y};
      for (int64_t w = 0; w < lattice.words; ++w) {
        words[row.index * lattice.words + w] = marked_cells(rows.inside, lattice, row, w, below);
      }
    }
  }
  // A word of the rows through a block, and of it one bit a block, gathered below.
  std::vector<uint8_t> bytes(64 * lattice.words);
  const int64_t first = (b * lattice.size[0] + (int64_t{layer} << grid.shift)) * lattice.size[1];
  for (int32_t y = 0; y < grid.blocks[1]; ++y) {
    for (int64_t w = 0; w < lattice.words; ++w) {
      uint64_t any = 0;
      for (int64_t i = 0; i < size && (int64_t{layer} << grid.shift) + i < grid.cells[0]; ++i) {
        for (int64_t j = 0; j < size && (int64_t{y} << grid.shift) + j < grid.cells[1]; ++j) {
          const int64_t index = first + i * lattice.size[1] + (int64_t{y} << grid.shift) + j;
          any |= words[index * lattice.words + w];
        }
      }
      spread_bits(any, bytes.data() + 64 * w);
    }
    uint8_t* out = distance + b * grid.blocks_per_grid() + (int64_t{layer} << grid.step[0]) +
                   (int64_t{y} << grid.step[1]);
    if (size == 1) {
      std::memcpy(out, bytes.data(), grid.blocks[2]);
      continue;
    }
    for (int32_t z = 0; z < grid.blocks[2]; ++z) {
      uint8_t nearest = kFarthestBlock;
      for (int32_t k = 0; k < size; ++k) nearest = std::min(nearest, bytes[(z << grid.shift) + k]);
      out[z] = nearest;
    }
  }
}

// out = the least of out and, from d blocks away, what lies there or d.
void take_nearer(const uint8_t* there, int d, int32_t count, uint8_t* out) {
  const uint8_t far = static_cast<uint8_t>(d);
  for (int32_t z = 0; z < count; ++z) {
    const uint8_t reached = there[z] > far ? there[z] : far;
    out[z] = out[z] < reached ? out[z] : reached;
  }
}

// Distances along one axis, of the blocks of a layer, from one array to another.
void spread_along(const Occupancy& grid, int axis, const uint8_t* from, uint8_t* to, int64_t b,
                  int32_t layer) {
  const int32_t count = grid.blocks[2];
  const int64_t first = b * grid.blocks_per_grid() + (int64_t{layer} << grid.step[0]);
  std::vector<uint8_t> padded(count + 2 * kFarthestBlock, kFarthestBlock);
  for (int32_t y = 0; y < grid.blocks[1]; ++y) {
    const int64_t row = first + (int64_t{y} << grid.step[1]);
    std::memcpy(to + row, from + row, count);
    std::memcpy(padded.data() + kFarthestBlock, from + row, count);
    for (int d = 1; d < kFarthestBlock; ++d) {
      for (const int side : {-d, d}) {
        if (axis == 2) {
          take_nearer(padded.data() + kFarthestBlock + side, d, count, to + row);
          continue;
        }
        const int32_t other = (axis == 0 ? layer : y) + side;
        if (other < 0 || other >= grid.blocks[axis]) continue;
        const int64_t step = int64_t{1} << grid.step[axis];
        take_nearer(from + row + side * step, d, count, to + row);
      }
    }
  }
}

// The greatest finite change from one row of samples to another; so many maxima side by side, for the
// compiler to vectorise.
template <typename scalar_t>
scalar_t steepest_between(const scalar_t* from, const scalar_t* to, int64_t count) {
  constexpr int kMaxima = 64 / sizeof(scalar_t);
  scalar_t most[kMaxima] = {};
  const auto take = [&](int64_t k, int lane) {
    const scalar_t change = std::abs(to[k + lane] - from[k + lane]);
    const scalar_t finite = change < std::numeric_limits<scalar_t>::infinity() ? change : 0;
    most[lane] = finite > most[lane] ? finite : most[lane];
  };
  int64_t k = 0;
  for (; k + kMaxima <= count; k += kMaxima) {
    for (int lane = 0; lane < kMaxima; ++lane) take(k, lane);
  }
  for (; k < count; ++k) take(k, 0);
  return *std::max_element(most, most + kMaxima);
}

// All axes in one pass over the samples: the next plane, the next row, the next sample.
template <typename scalar_t>
double steepest(const scalar_t* values, const GridShape& grid) {
  const int64_t y = grid.size[2], x = y * grid.size[1], planes = grid.batch * grid.size[0];
  std::vector<Vec3<double>> most(planes, {0, 0, 0});
  parallel_tasks(planes, [&](int64_t plane) {
    const bool has_next = (plane + 1) % grid.size[0] != 0;
    for (int64_t row = 0; row < grid.size[1]; ++row) {
      const scalar_t* at = values + plane * x + row * y;
      const bool has_row = row + 1 < grid.size[1];
      const scalar_t steps[3] = {has_next ? steepest_between(at, at + x, y) : 0,
                                 has_row ? steepest_between(at, at + y, y) : 0,
                                 steepest_between(at, at + 1, y - 1)};
      for (int a = 0; a < 3; ++a) most[plane][a] = std::max<double>(most[plane][a], steps[a]);
    }
  });
  Vec3<double> all{0, 0, 0};
  for (const Vec3<double>& one : most) {
    for (int a = 0; a < 3; ++a) all[a] = std::max(all[a], one[a] / grid.spacing[a]);
  }
  return std::sqrt(dot(all, all));
}

}  // namespace

GridOccupancy find_occupancy(const Tensor& values, const GridShape& grid, double level, bool below,
                             int64_t rays) {
  MarchingCubesRows rows{};
  rows.grid = grid;
  rows.lattice = make_lattice(grid, false);
  rows.dtype = values.scalar_type();
  rows.values = values.const_data_ptr();
  const Occupancy o = make_occupancy(grid, rays);
  const int64_t words = rows.lattice.rows() * rows.lattice.words;
  const int64_t blocks = o.batch * o.blocks_per_grid();
  // Words of signs, of cells, a level for each grid, distances twice, and what may be read past.
  const int64_t bytes = 16 * words + 8 * grid.batch + 2 * blocks + 8;
  GridOccupancy out{empty_on(values, {bytes}, DType::Byte), o};
  rows.inside = static_cast<uint64_t*>(out.memory.mutable_data_ptr());
  uint64_t* const cells = rows.inside + words;
  uint64_t* const levels = cells + words;
  dispatch_floating(rows.dtype, [&]<typename scalar_t>() {
    std::fill_n(reinterpret_cast<scalar_t*>(levels), grid.batch, static_cast<scalar_t>(level));
  });
  rows.level = levels;
  auto* const first = reinterpret_cast<uint8_t*>(levels + grid.batch);
  uint8_t* const second = first + blocks;
  const RowLoops& loops = row_loops();
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 18) / (64 * rows.lattice.words));
  parallel_pieces(rows.lattice.rows(), grain, [&](int64_t begin, int64_t end) {
    Row row = row_at(rows.lattice, begin);
    loops.pack(rows, row, end);
  });
  const auto for_layers = [&](const auto& f) {
    parallel_tasks(o.batch * o.blocks[0], [&](int64_t task) {
      f(task / o.blocks[0], static_cast<int32_t>(task % o.blocks[0]));
    });
  };
  for_layers([&](int64_t b, int32_t layer) {
    mark_layer(rows, o, below, b, layer, cells, first);
    spread_along(o, 2, first, second, b, layer);
    spread_along(o, 1, second, first, b, layer);
  });
  for_layers([&](int64_t b, int32_t layer) { spread_along(o, 0, first, second, b, layer); });
  out.occupancy.words = reinterpret_cast<const uint32_t*>(cells);
  out.occupancy.distance = second;
  return out;
}

double steepest_slope(const Tensor& values, const GridShape& grid) {
  return dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    return steepest(static_cast<const scalar_t*>(values.const_data_ptr()), grid);
  });
}

}  // namespace diffiso
