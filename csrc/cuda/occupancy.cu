// SPDX-License-Identifier: Apache-2.0
// Which cells a ray must look at, the same steps as on the CPU and the same answer:
//   slope: a warp a row finds how much neighbours differ; the largest of all, by blocks, then one
//   pack:  a warp a row, two ballots a word of 64 samples, as in marching cubes
//   mark:  a thread a word of cells
//   block: a thread a block of cells; then distances spread along one axis after the other
// Scratch: 1/4 byte a sample, 2 bytes a block.
#include "cuda/occupancy.cuh"

#include "cuda/marching_cubes.cuh"

namespace diffiso {
namespace {

template <typename scalar_t>
struct OccupancyParams {
  GridShape grid;
  Lattice lattice;
  Occupancy occupancy;
  const scalar_t* __restrict__ values;  // (B, X, Y, Z)
  double level;
  const double* above;  // (1,) or null
  bool below;           // mark all cells with a node inside
  uint64_t* inside;     // (rows, words) signs
  uint64_t* cells;      // (rows, words) marked cells
  const uint8_t* from;  // (B, blocks) distances, as the next
  uint8_t* to;
  int axis;  // along which they spread
};

template <typename scalar_t>
__global__ void __launch_bounds__(kBlockSize) occupancy_pack_kernel(OccupancyParams<scalar_t> p) {
  const double above = p.above != nullptr ? *p.above : 0;
  const scalar_t level = static_cast<scalar_t>(p.level + above);
  const int64_t step = int64_t{gridDim.x} * kWarpsPerBlock;
  for (int64_t r = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarpSize;
       r < p.lattice.rows(); r += step) {
    pack_row(p, r, false, p.inside, [&](scalar_t value, int64_t) { return value < level; });
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kBlockSize) occupancy_mark_kernel(OccupancyParams<scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t words = p.lattice.rows() * p.lattice.words;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < words; n += step) {
    const int64_t r = quotient(n, p.lattice.words);
    const Row row = row_at(p.lattice, r);
    p.cells[n] = marked_cells(p.inside, p.lattice, row, n - r * p.lattice.words, p.below);
  }
}

// A block by its number within a batch.
struct Block {
  int64_t b;
  int32_t at[3];
  bool exists;  // numbers are rounded up to powers of two

  __device__ Block(const Occupancy& grid, int64_t number)
      : b(quotient(number, grid.blocks_per_grid())) {
    const auto n = number - b * grid.blocks_per_grid();
    at[0] = static_cast<int32_t>(n >> grid.step[0]);
    at[1] = static_cast<int32_t>((n >> grid.step[1]) & ((1 << (grid.step[0] - grid.step[1])) - 1));
    at[2] = static_cast<int32_t>(n & ((1 << grid.step[1]) - 1));
    exists = at[1] < grid.blocks[1] && at[2] < grid.blocks[2];
  }
};

// Whether a block has a marked cell. Its cells of one row are within one 32-bit word.
__device__ bool has_marked(const Occupancy& grid, const Block& block) {
  const int32_t size = 1 << grid.shift;
  const int32_t x = block.at[0] << grid.shift, y = block.at[1] << grid.shift,
                z = block.at[2] << grid.shift;
  const uint32_t bits = ((1u << size) - 1) << (z & 31);
  const uint32_t* words = grid.words + block.b * grid.words_per_grid() + (z >> 5);
  uint32_t any = 0;
  for (int32_t i = x; i < x + size && i < grid.cells[0]; ++i) {
    for (int32_t j = y; j < y + size && j < grid.cells[1]; ++j) {
      any |= words[i * grid.word_step[0] + j * grid.word_step[1]];
    }
  }
  return (any & bits) != 0;
}

template <typename Params>
__global__ void __launch_bounds__(kBlockSize) occupancy_blocks_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t count = p.occupancy.batch * p.occupancy.blocks_per_grid();
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < count; n += step) {
    const Block block(p.occupancy, n);
    if (block.exists) p.to[n] = has_marked(p.occupancy, block) ? 0 : kFarthestBlock;
  }
}

// Of the blocks in line with a block, the least of their distance and how far they are.
template <typename Params>
__global__ void __launch_bounds__(kBlockSize) occupancy_spread_kernel(Params p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t count = p.occupancy.batch * p.occupancy.blocks_per_grid();
  const int64_t next = p.axis == 2 ? 1 : int64_t{1} << p.occupancy.step[p.axis];
  const int32_t last = p.occupancy.blocks[p.axis] - 1;
  for (int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; n < count; n += step) {
    const Block block(p.occupancy, n);
    if (!block.exists) continue;
    const int32_t at = p.axis == 0 ? block.at[0] : p.axis == 1 ? block.at[1] : block.at[2];
    int nearest = p.from[n];
    for (int d = 1; d < nearest; ++d) {
      const int before = at >= d ? p.from[n - d * next] : kFarthestBlock;
      const int behind = at + d <= last ? p.from[n + d * next] : kFarthestBlock;
      const int least = min(before, behind);
      nearest = min(nearest, max(least, d));
    }
    p.to[n] = static_cast<uint8_t>(nearest);
  }
}

template <typename scalar_t>
struct SlopeParams {
  GridShape grid;
  const scalar_t* __restrict__ values;  // (B, X, Y, Z)
  int64_t blocks;
  double* most;   // (3, blocks)
  double* slope;  // (1,)
};

template <typename scalar_t>
__device__ void take_larger(scalar_t change, scalar_t& most) {
  const scalar_t size = std::abs(change);
  if (size > most && size < std::numeric_limits<scalar_t>::infinity()) most = size;
}

// The most that neighbours along each axis differ.
template <typename scalar_t>
__global__ void __launch_bounds__(kLargestBlock) slope_rows_kernel(SlopeParams<scalar_t> p) {
  constexpr int kWarps = kLargestBlock / kWarpSize;
  const GridShape& grid = p.grid;
  const Lattice rows{grid.batch, {grid.size[0], grid.size[1], grid.size[2]}, 0, 0};
  const int64_t y = grid.size[2], x = grid.size[1] * y, step = int64_t{gridDim.x} * kWarps;
  scalar_t most[3] = {};
  for (int64_t r = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize; r < rows.rows();
       r += step) {
    const Row row = row_at(rows, r);
    const bool has_x = row.i + 1 < grid.size[0], has_y = row.j + 1 < grid.size[1];
    const scalar_t* at = p.values + r * y;
    for (int64_t k = threadIdx.x % kWarpSize; k < y; k += kWarpSize) {
      if (has_x) take_larger(at[k + x] - at[k], most[0]);
      if (has_y) take_larger(at[k + y] - at[k], most[1]);
      if (k + 1 < y) take_larger(at[k + 1] - at[k], most[2]);
    }
  }
#pragma unroll
  for (int a = 0; a < 3; ++a) {
    const double of_block = block_largest(most[a]);
    if (threadIdx.x == 0) p.most[p.blocks * a + blockIdx.x] = of_block;
  }
}

// The largest of some numbers, given to thread 0.
__device__ double largest_of(const double* numbers, int64_t count) {
  double most = 0;
  for (int64_t n = threadIdx.x; n < count; n += kLargestBlock) {
    most = numbers[n] > most ? numbers[n] : most;
  }
  return block_largest(most);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kLargestBlock) slope_last_kernel(SlopeParams<scalar_t> p) {
  double squares = 0;
  for (int a = 0; a < 3; ++a) {
    const double slope = largest_of(p.most + p.blocks * a, p.blocks) / p.grid.spacing[a];
    squares += slope * slope;
  }
  if (threadIdx.x == 0) *p.slope = std::sqrt(squares);
}

struct LargestParams {
  int64_t count;
  const double* numbers;  // (count,)
  double* largest;        // (1,)
};

__global__ void __launch_bounds__(kLargestBlock) largest_kernel(LargestParams p) {
  const double most = largest_of(p.numbers, p.count);
  if (threadIdx.x == 0) *p.largest = most;
}

double* numbers_of(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

template <typename scalar_t>
void run_occupancy(const CudaContext& cuda, OccupancyParams<scalar_t> p, uint8_t* first,
                   uint8_t* second) {
  using Params = OccupancyParams<scalar_t>;
  const int64_t rows = p.lattice.rows(), words = rows * p.lattice.words;
  const dim3 by_block = grid_for(p.occupancy.batch * p.occupancy.blocks_per_grid(), kBlockSize);
  launch(occupancy_pack_kernel<scalar_t>, grid_for(rows * kWarpSize, kBlockSize), kBlockSize, 0,
         cuda.stream, p);
  launch(occupancy_mark_kernel<scalar_t>, grid_for(words, kBlockSize), kBlockSize, 0, cuda.stream,
         p);
  p.to = second;
  launch(occupancy_blocks_kernel<Params>, by_block, kBlockSize, 0, cuda.stream, p);
  for (p.axis = 2; p.axis >= 0; --p.axis) {
    p.from = p.to;
    p.to = p.to == second ? first : second;
    launch(occupancy_spread_kernel<Params>, by_block, kBlockSize, 0, cuda.stream, p);
  }
}

}  // namespace

GridOccupancy find_occupancy(const CudaContext& cuda, const Tensor& values, const GridShape& grid,
                             double level, const double* above, bool below, int64_t rays) {
  const Lattice lattice = make_lattice(grid, false);
  Occupancy o = make_occupancy(grid, rays);
  const int64_t words = lattice.rows() * lattice.words;
  const int64_t blocks = o.batch * o.blocks_per_grid();
  Tensor memory = cuda.scratch(16 * words + 2 * blocks);
  char* next = static_cast<char*>(memory.mutable_data_ptr());
  auto* const inside = part_of<uint64_t>(next, words);
  auto* const cells = part_of<uint64_t>(next, words);
  auto* const first = part_of<uint8_t>(next, blocks);
  auto* const second = part_of<uint8_t>(next, blocks);
  o.words = reinterpret_cast<const uint32_t*>(cells);
  o.distance = first;
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const auto* at = static_cast<const scalar_t*>(values.const_data_ptr());
    const OccupancyParams<scalar_t> p{grid,  lattice, o,     at,      level,   above,
                                      below, inside,  cells, nullptr, nullptr, 0};
    run_occupancy(cuda, p, first, second);
  });
  return {memory, o};
}

Tensor steepest_slope(const CudaContext& cuda, const Tensor& values, const GridShape& grid) {
  const int64_t rows = grid.batch * grid.size[0] * grid.size[1];
  const dim3 blocks = striding_grid(rows * kWarpSize, kLargestBlock);
  Tensor most = empty_on(values, {3, blocks.x}, DType::Double);
  Tensor slope = empty_on(values, {1}, DType::Double);
  dispatch_floating(values.scalar_type(), [&]<typename scalar_t>() {
    const SlopeParams<scalar_t> p{grid, static_cast<const scalar_t*>(values.const_data_ptr()),
                                  blocks.x, numbers_of(most), numbers_of(slope)};
    launch(slope_rows_kernel<scalar_t>, blocks, kLargestBlock, 0, cuda.stream, p);
    launch(slope_last_kernel<scalar_t>, dim3(1), kLargestBlock, 0, cuda.stream, p);
  });
  return slope;
}

Tensor largest(const CudaContext& cuda, const Tensor& numbers) {
  Tensor out = empty_on(numbers, {1}, DType::Double);
  const LargestParams p{numbers.numel(), numbers_of(numbers), numbers_of(out)};
  launch(largest_kernel, dim3(1), kLargestBlock, 0, cuda.stream, p);
  return out;
}

}  // namespace diffiso
