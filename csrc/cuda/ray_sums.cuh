// SPDX-License-Identifier: Apache-2.0
// What rays receive in a backward: each its own, or sums over a picture, the same in every run. A
// block adds up a piece of a picture, a fixed share of it, by a fixed tree, in double; then a block
// for each picture adds up its pieces in a fixed order. What groups share beyond their rays, such as
// a light, is summed along.
#pragma once

#include "common/scan.cuh"
#include "cuda/rays.cuh"

namespace diffiso {

constexpr int kOwnSums = 12;  // origin (3), direction (3, 3)

// `Source` is a params struct:
//   kShared               how many numbers the rays of a group share
//   backward(n, shared)   -> RayGradient; adds its part to `shared`, writes what is its own
template <typename Source, typename scalar_t>
struct RayGradientParams {
  static constexpr int kSums = kOwnSums + Source::kShared;

  Source source;
  RayThreads threads;
  RayBundle<scalar_t> rays;
  int64_t pieces;             // of a group
  scalar_t* grad_origins;     // (R, 3) of rays one by one, or null, as the next
  scalar_t* grad_directions;  // (R, 3)
  double* partial;            // (groups, pieces, kSums), or null: nobody asks

  DIFFISO_HD void add(int64_t n, double* sums) const {
    const RayGradient<scalar_t> grad = source.backward(n, sums + kOwnSums);
    if (rays.is_picture()) {
      const Vec3<scalar_t> pixel = rays.pixel(n);
      for (int a = 0; a < 3; ++a) sums[a] += double{grad.origin[a]};
      for (int k = 0; k < 9; ++k) sums[3 + k] += double{grad.direction[k / 3]} * pixel[k % 3];
    } else if (grad_origins != nullptr) {
      store_vec3(grad_origins, n, grad.origin);
      store_vec3(grad_directions, n, grad.direction);
    }
  }
};

constexpr int kRaysPerThread = 2;  // of a piece

template <typename Source, typename scalar_t>
__global__ void __launch_bounds__(kRayBlock)
    ray_gradient_kernel(RayGradientParams<Source, scalar_t> p) {
  constexpr int kSums = RayGradientParams<Source, scalar_t>::kSums;
  const int64_t group = quotient(blockIdx.x, p.pieces), piece = blockIdx.x - group * p.pieces;
  double sums[kSums] = {};
  for (int k = 0; k < kRaysPerThread; ++k) {
    const int64_t i = (piece * kRaysPerThread + k) * kRayBlock + threadIdx.x;
    const int64_t n = i < p.threads.per_group ? p.threads.ray(group, i) : -1;
    if (n >= 0) p.add(n, sums);
  }
  if (p.partial == nullptr) return;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    const double sum = block_sum<kRayBlock>(sums[s]);
    if (threadIdx.x == 0) p.partial[int64_t{blockIdx.x} * kSums + s] = sum;
  }
}

struct PieceSumParams {
  int64_t pieces;
  int sums;               // at most kColumns
  const double* partial;  // (groups, pieces, sums)
  double* total;          // (groups, sums)
};

// One block a group.
template <int kRows, int kColumns>
__global__ void __launch_bounds__(kRows* kColumns) sum_pieces_kernel(PieceSumParams p) {
  __shared__ double row_sums[kRows][kColumns];
  const int column = static_cast<int>(threadIdx.x) % kColumns;
  const int row = static_cast<int>(threadIdx.x) / kColumns;
  const double* partial = p.partial + int64_t{blockIdx.x} * p.pieces * p.sums;
  double sum = 0;
  for (int64_t n = row; n < p.pieces && column < p.sums; n += kRows) {
    sum += partial[n * p.sums + column];
  }
  row_sums[row][column] = sum;
  __syncthreads();
  if (row != 0 || column >= p.sums) return;
  for (int r = 1; r < kRows; ++r) sum += row_sums[r][column];
  p.total[int64_t{blockIdx.x} * p.sums + column] = sum;
}

template <typename scalar_t>
struct WriteSumsParams {
  int64_t groups, shared_rows;  // of grad_shared: 0, 1 or groups
  int sums;
  const double* total;         // (groups, sums)
  const double* shared_total;  // (shared_rows, sums)
  scalar_t* grad_origins;      // (groups, 3) or null, as the next
  scalar_t* grad_directions;   // (groups, 3, 3)
  scalar_t* grad_shared;       // (shared_rows, sums - 12)
};

template <typename scalar_t>
__global__ void __launch_bounds__(kRayBlock) write_sums_kernel(WriteSumsParams<scalar_t> p) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x, first = blockIdx.x * int64_t{kRayBlock};
  const int shared = p.sums - kOwnSums;
  for (int64_t g = first + threadIdx.x; g < p.groups; g += step) {
    if (p.grad_origins != nullptr) {
      const double* total = p.total + g * p.sums;
      for (int a = 0; a < 3; ++a) p.grad_origins[3 * g + a] = static_cast<scalar_t>(total[a]);
      for (int k = 0; k < 9; ++k) {
        p.grad_directions[9 * g + k] = static_cast<scalar_t>(total[3 + k]);
      }
    }
    if (g >= p.shared_rows) continue;
    for (int k = 0; k < shared; ++k) {
      const double total = p.shared_total[p.sums * g + kOwnSums + k];
      p.grad_shared[shared * g + k] = static_cast<scalar_t>(total);
    }
  }
}

// Where gradients go; null where nobody asks, and where there are no rows.
struct RayGradientTensors {
  const Tensor *origins, *directions;
  const Tensor* shared;  // (rows, kShared): one row, or one a group

  template <typename scalar_t>
  static scalar_t* pointer(const Tensor* tensor) {
    return tensor ? static_cast<scalar_t*>(tensor->mutable_data_ptr()) : nullptr;
  }
};

template <typename Source, typename scalar_t>
void sum_ray_gradients(const CudaContext& cuda, const Source& source,
                       const RayBundle<scalar_t>& rays, int64_t grids,
                       const RayGradientTensors& out) {
  using Params = RayGradientParams<Source, scalar_t>;
  const bool own_sums = out.origins && rays.is_picture();
  Params p{source, ray_threads(rays, grids), rays, 0, nullptr, nullptr, nullptr};
  p.pieces = ceil_div(p.threads.per_group, kRaysPerThread * kRayBlock);
  if (!own_sums) {
    p.grad_origins = out.pointer<scalar_t>(out.origins);
    p.grad_directions = out.pointer<scalar_t>(out.directions);
  }
  const int64_t groups = p.threads.groups, blocks = groups * p.pieces;
  const auto doubles = [&](int64_t count) { return cuda.scratch(8 * count * Params::kSums); };
  const auto numbers = [](const Tensor& of) { return static_cast<double*>(of.mutable_data_ptr()); };
  const bool any_sums = own_sums || out.shared;
  Tensor partial = doubles(any_sums ? blocks : 0);
  if (any_sums) p.partial = numbers(partial);
  launch(ray_gradient_kernel<Source, scalar_t>, grid_for(blocks, 1), kRayBlock, 0, cuda.stream, p);
  if (!any_sums) return;

  Tensor total = doubles(groups), shared_total = total;
  const auto add_up = [&](int64_t rows, int64_t pieces, const Tensor& from, const Tensor& to) {
    launch(sum_pieces_kernel<16, 16>, grid_for(rows, 1), 256, 0, cuda.stream,
           PieceSumParams{pieces, Params::kSums, numbers(from), numbers(to)});
  };
  add_up(groups, p.pieces, partial, total);
  const int64_t rows = out.shared ? out.shared->size(0) : 0;
  if (rows == 1 && groups > 1) {
    shared_total = doubles(1);
    add_up(1, groups, total, shared_total);
  }
  launch(
      write_sums_kernel<scalar_t>, grid_for(groups, kRayBlock), kRayBlock, 0, cuda.stream,
      WriteSumsParams<scalar_t>{groups, rows, Params::kSums, numbers(total), numbers(shared_total),
                                own_sums ? out.pointer<scalar_t>(out.origins) : nullptr,
                                own_sums ? out.pointer<scalar_t>(out.directions) : nullptr,
                                out.pointer<scalar_t>(out.shared)});
}

}  // namespace diffiso
