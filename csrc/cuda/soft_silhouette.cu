// SPDX-License-Identifier: Apache-2.0
// Soft silhouettes on the GPU, the same output as on the CPU. Faces are listed by tiles of pixels, in
// any order; a thread for a pixel takes them nearest first, by going through its tile's list for the
// next one each time: lists are short, and nothing has to be kept. The backward takes a thread for
// a face.
#include "core/soft_silhouette.h"

#include "cuda/pictures.cuh"

namespace diffiso {
namespace {

constexpr int64_t kTile = 16;
constexpr int kTileBlock = static_cast<int>(kTile * kTile);

template <typename scalar_t>
struct SoftParams {
  PictureParams<scalar_t> p;
  SoftRule rule;
  int64_t pictures;
  int64_t down, across;  // tiles of a picture
  int64_t* begins;       // (N * tiles + 1,) faces of each tile, then those before it
  int64_t* next;         // (N * tiles,) how many are listed
  int64_t* entries;      // faces of all pictures by tile
  scalar_t* clear;       // (N, H, W), as the next two
  double* cut_depth;
  int64_t* cut_face;

  DIFFISO_HD SoftFace face(int64_t n, int64_t* at) const {
    p.seen_corners(p.faces[n], at);
    return {rule, p.seen[at[0]], p.seen[at[1]], p.seen[at[2]]};
  }
  DIFFISO_HD int64_t tile(int64_t picture, int64_t row, int64_t column) const {
    return (picture * down + row) * across + column;
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) soft_check_kernel(SoftParams<scalar_t> p) {
  if (p.p.faults->of_offsets()) return;
  for_each_by_thread(p.p.faces.count, [&](int64_t n) {
    int64_t at[3];
    const Shown face = p.p.faces[n];
    if (!p.p.seen_corners(face, at)) {
      atomicMax(&p.p.faults->face, static_cast<unsigned long long>(face.row + 1));
    }
  });
}

// Calls f(tile) for the tiles that a face reaches.
template <typename scalar_t, typename F>
__device__ void for_each_tile(const SoftParams<scalar_t>& p, int64_t n, const F& f) {
  int64_t at[3];
  const SoftFace face = p.face(n, at);
  if (face.last_row < face.first_row) return;
  const int64_t picture = p.p.faces[n].picture;
  for (int64_t row = face.first_row / kTile; row <= face.last_row / kTile; ++row) {
    for (int64_t column = face.first_column / kTile; column <= face.last_column / kTile; ++column) {
      f(p.tile(picture, row, column));
    }
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) soft_count_kernel(SoftParams<scalar_t> p) {
  for_each_by_thread(p.p.faces.count, [&](int64_t n) {
    for_each_tile(p, n, [&](int64_t tile) {
      atomicAdd(reinterpret_cast<unsigned long long*>(p.begins) + tile, 1ull);
    });
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) soft_list_kernel(SoftParams<scalar_t> p) {
  for_each_by_thread(p.p.faces.count, [&](int64_t n) {
    for_each_tile(p, n, [&](int64_t tile) {
      const auto place = atomicAdd(reinterpret_cast<unsigned long long*>(p.next) + tile, 1ull);
      p.entries[p.begins[tile] + static_cast<int64_t>(place)] = n;
    });
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kTileBlock) soft_cover_kernel(SoftParams<scalar_t> p) {
  const int64_t tiles = p.down * p.across, picture = quotient(blockIdx.x, tiles);
  const int64_t within = blockIdx.x - picture * tiles, down = quotient(within, p.across);
  const int64_t row = down * kTile + threadIdx.x / kTile;
  const int64_t column = (within - down * p.across) * kTile + threadIdx.x % kTile;
  if (row >= p.rule.height || column >= p.rule.width) return;
  const int64_t begin = p.begins[blockIdx.x], end = p.begins[blockIdx.x + 1];
  const int64_t first = p.p.faces.begin(picture);
  SoftCut last{-1, -1};  // of what was taken; depths are positive
  double share = 1;
  int64_t taken = 0;
  for (bool more = true; more && taken < p.rule.faces_per_pixel;) {
    more = false;
    SoftCut nearest{0, 0};
    double distance = 0;
    for (int64_t n = begin; n < end; ++n) {
      int64_t at[3];
      const int64_t number = p.entries[n] - first;
      const SoftFace face = p.face(p.entries[n], at);
      if (row < face.first_row || row > face.last_row || column < face.first_column ||
          column > face.last_column) {
        continue;
      }
      const SoftCover cover = face.cover(p.rule, row, column);
      if (!cover.any || last.keeps(cover.depth, number)) continue;
      if (more && !nearest.keeps(cover.depth, number)) continue;
      nearest = {cover.depth, number};
      distance = cover.distance;
      more = true;
    }
    if (!more) break;
    share *= clear_share(distance, p.rule.sigma);
    last = nearest;
    ++taken;
  }
  const bool full = taken == p.rule.faces_per_pixel;
  const int64_t pixel = (picture * p.rule.height + row) * p.rule.width + column;
  p.clear[pixel] = static_cast<scalar_t>(share);
  p.cut_depth[pixel] = full ? last.depth : std::numeric_limits<double>::infinity();
  p.cut_face[pixel] = full ? last.face : -1;
}

template <typename scalar_t>
SoftParams<scalar_t> soft_params(const CudaContext& cuda, Scratch& scratch, const SeenMeshes& in,
                                 const PictureLayout& layout, const SoftRule& rule) {
  SoftParams<scalar_t> p{};
  p.p = picture_params<scalar_t>(layout, in, rule.near, scratch);
  p.rule = rule;
  p.pictures = layout.pictures;
  p.down = ceil_div(layout.height, kTile);
  p.across = ceil_div(layout.width, kTile);
  see_vertices(cuda, p.p);
  return p;
}

std::tuple<Tensor, Tensor, Tensor> soft_silhouette(Tensor vertices, Tensor faces,
                                                   Tensor projections, Tensor vertex_offsets,
                                                   Tensor face_offsets, std::vector<int64_t> size,
                                                   double near, double sigma, double blur_radius,
                                                   int64_t faces_per_pixel) {
  const CudaContext cuda(vertices);
  const SeenMeshes in{vertices, faces, projections, vertex_offsets, face_offsets};
  const PictureLayout layout = check_silhouette("soft_silhouette", in, size, near);
  const SoftRule rule = check_soft(layout, near, sigma, blur_radius, faces_per_pixel);
  const std::vector<int64_t> shape{layout.pictures, layout.height, layout.width};
  Tensor clear = empty_on(vertices, shape, vertices.scalar_type());
  Tensor cut_depth = empty_on(vertices, shape, DType::Double);
  Tensor cut_face = empty_on(vertices, shape, DType::Long);
  if (layout.pictures == 0) return {clear, cut_depth, cut_face};
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    Scratch scratch(cuda);
    auto p = soft_params<scalar_t>(cuda, scratch, in, layout, rule);
    const int64_t tiles = layout.pictures * p.down * p.across;
    p.clear = static_cast<scalar_t*>(clear.mutable_data_ptr());
    p.cut_depth = static_cast<double*>(cut_depth.mutable_data_ptr());
    p.cut_face = static_cast<int64_t*>(cut_face.mutable_data_ptr());
    p.begins = scratch.take_zeros<int64_t>(tiles + 1);
    p.next = scratch.take_zeros<int64_t>(tiles);
    launch_by_thread(soft_check_kernel<scalar_t>, p.p.faces.count, cuda, p);
    SeenFaults faults{};
    copy_to_host(&faults, p.p.faults, 1, cuda.stream);
    faults.refuse();
    launch_by_thread(soft_count_kernel<scalar_t>, p.p.faces.count, cuda, p);
    exclusive_sum(cuda, p.begins, p.begins, tiles + 1);
    int64_t total = 0;
    copy_to_host(&total, p.begins + tiles, 1, cuda.stream);
    p.entries = scratch.take<int64_t>(total);
    launch_by_thread(soft_list_kernel<scalar_t>, p.p.faces.count, cuda, p);
    launch(soft_cover_kernel<scalar_t>, grid_for(tiles, 1), kTileBlock, 0, cuda.stream, p);
  });
  return {clear, cut_depth, cut_face};
}

template <typename scalar_t>
struct SoftPullParams {
  SoftParams<scalar_t> soft;
  const scalar_t* __restrict__ grad;  // (N, H, W), as the next three
  const scalar_t* __restrict__ clear;
  const double* __restrict__ cut_depth;
  const int64_t* __restrict__ cut_face;
  int64_t* begins;      // (N + 1,) of pulls
  int64_t* vertex;      // three a face
  Vec3<double>* pulls;  // as `vertex`
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) soft_pull_kernel(SoftPullParams<scalar_t> p) {
  const SoftRule& rule = p.soft.rule;
  for_each_by_thread(p.soft.p.faces.count, [&](int64_t n) {
    int64_t at[3], rows[3];
    const Shown shown = p.soft.p.faces[n];
    const SoftFace face = p.soft.face(n, at);
    const int64_t number = n - p.soft.p.faces.begin(shown.picture);
    double grad_x[3] = {}, grad_y[3] = {};
    const int64_t first = shown.picture * rule.height * rule.width;
    const SoftPicture<scalar_t> picture{p.grad + first, p.clear + first, p.cut_depth + first,
                                        p.cut_face + first};
    pull_soft_face(rule, face, number, picture, grad_x, grad_y);
    p.soft.p.corners_of(shown.row, rows);
    for (int k = 0; k < 3; ++k) {
      const double x = grad_x[k] * rule.scale, y = grad_y[k] * rule.scale;
      p.vertex[3 * n + k] = x == 0 && y == 0 ? -1 : rows[k];
      p.pulls[3 * n + k] = pull_back(p.soft.p.seen[at[k]], x, y);
    }
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) soft_begin_kernel(SoftPullParams<scalar_t> p) {
  for_each_by_thread(p.soft.pictures + 1, [&](int64_t n) {
    const PackedRows& faces = p.soft.p.faces;
    p.begins[n] = 3 * (n < p.soft.pictures ? faces.begin(n) : faces.count);
  });
}

std::tuple<Tensor, Tensor> soft_silhouette_backward(Tensor grad_clear, Tensor clear,
                                                    Tensor cut_depth, Tensor cut_face,
                                                    Tensor vertices, Tensor faces,
                                                    Tensor projections, Tensor vertex_offsets,
                                                    Tensor face_offsets, std::vector<int64_t> size,
                                                    double near, double sigma, double blur_radius,
                                                    int64_t faces_per_pixel, bool deterministic) {
  const CudaContext cuda(vertices);
  const char* op = "soft_silhouette_backward";
  const SeenMeshes in{vertices, faces, projections, vertex_offsets, face_offsets};
  const PictureLayout layout = check_silhouette(op, in, size, near);
  const SoftRule rule = check_soft(layout, near, sigma, blur_radius, faces_per_pixel);
  check_soft_output(op, vertices, layout, grad_clear, clear, cut_depth, cut_face);
  Tensor grad_vertices = empty_on(vertices, {vertices.size(0), 3}, vertices.scalar_type());
  Tensor grad_projections =
      empty_on(projections, {layout.pictures, 3, 4}, projections.scalar_type());
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    Scratch scratch(cuda);
    SoftPullParams<scalar_t> p{};
    p.soft = soft_params<scalar_t>(cuda, scratch, in, layout, rule);
    const int64_t count = p.soft.p.faces.count;
    p.grad = static_cast<const scalar_t*>(grad_clear.const_data_ptr());
    p.clear = static_cast<const scalar_t*>(clear.const_data_ptr());
    p.cut_depth = static_cast<const double*>(cut_depth.const_data_ptr());
    p.cut_face = static_cast<const int64_t*>(cut_face.const_data_ptr());
    p.begins = scratch.take<int64_t>(layout.pictures + 1);
    p.vertex = scratch.take<int64_t>(3 * count);
    p.pulls = scratch.take<Vec3<double>>(3 * count);
    launch_by_thread(soft_pull_kernel<scalar_t>, count, cuda, p);
    launch_by_thread(soft_begin_kernel<scalar_t>, layout.pictures + 1, cuda, p);
    const PulledBack found{vertices,  projections, grad_vertices, grad_projections,
                           3 * count, p.begins,    p.vertex,      p.pulls};
    sum_pulls<scalar_t>(cuda, scratch, found, deterministic);
  });
  return {grad_vertices, grad_projections};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("soft_silhouette", TORCH_BOX(&soft_silhouette));
  m.impl("soft_silhouette_backward", TORCH_BOX(&soft_silhouette_backward));
}

}  // namespace diffiso
