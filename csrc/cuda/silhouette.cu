// SPDX-License-Identifier: Apache-2.0
// Silhouettes on the GPU, the same output as on the CPU: contour edges (contours.cuh), sorted into
// the rows of pixels that they reach by counting, in any order within a row, since counts of faces
// are integers. Then a block for a piece of a row adds up their steps. The backward takes a thread
// for an edge in a row, then one for an edge; pictures.cuh adds up what vertices receive.
#include "core/silhouette.h"

#include "cuda/contours.cuh"

namespace diffiso {
namespace {

// Contour edges of all pictures as lines, and where rows of pixels find theirs.
template <typename scalar_t>
struct LineParams {
  PictureLayout layout;
  double near;
  int64_t count;  // E
  const ContourEdge* __restrict__ edges;
  const int64_t* __restrict__ offsets;    // (N + 1,)
  const scalar_t* __restrict__ points;    // (V, 3)
  const scalar_t* __restrict__ matrices;  // (N, 3, 4)
  ContourLine* lines;                     // (E,)
  int64_t* slots;                         // (E + 1,) rows that each reaches, then those before it
  int64_t* begins;                        // (N * H + 1,) lines in each row, then those before it
  int64_t* next;                          // (N * H,) how many lines of a row are listed
  ContourLine* by_row;                    // (rows reached,) lines by row

  DIFFISO_HD int64_t picture(int64_t edge) const { return run_of(offsets, layout.pictures, edge); }
  DIFFISO_HD Sight<scalar_t> sight(int64_t picture) const {
    return {points, matrices + 12 * picture, near};
  }
  DIFFISO_HD RowSpan span(int64_t edge) const {
    return {lines[edge].at, layout.height, layout.width};
  }
  DIFFISO_HD LineRows rows(int64_t picture) const {
    return {layout.height, begins + picture * layout.height, by_row, false};
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) line_kernel(LineParams<scalar_t> p) {
  for_each_by_thread(p.count + 1, [&](int64_t e) {
    p.slots[e] = 0;
    if (e == p.count) return;
    const int64_t picture = p.picture(e);
    const Sight<scalar_t> sight = p.sight(picture);
    p.lines[e] = ContourLine(ContourEnds(p.edges[e], sight, p.near).segment(), p.edges[e].count);
    const RowSpan span = p.span(e);
    p.slots[e] = span.count();
    for (int64_t row = span.first; row <= span.last; ++row) {
      atomicAdd(reinterpret_cast<unsigned long long*>(p.begins) + picture * p.layout.height + row,
                1ull);
    }
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) entry_kernel(LineParams<scalar_t> p) {
  for_each_by_thread(p.count, [&](int64_t e) {
    const int64_t first = p.picture(e) * p.layout.height;
    const RowSpan span = p.span(e);
    for (int64_t row = first + span.first; row <= first + span.last; ++row) {
      const auto place = atomicAdd(reinterpret_cast<unsigned long long*>(p.next) + row, 1ull);
      p.by_row[p.begins[row] + static_cast<int64_t>(place)] = p.lines[e];
    }
  });
}

// Waits for the stream once, for how many rows the lines reach. Returns that.
template <typename scalar_t>
int64_t sort_lines(const CudaContext& cuda, Scratch& scratch, LineParams<scalar_t>& p) {
  const int64_t rows = p.layout.pictures * p.layout.height;
  p.lines = scratch.take<ContourLine>(p.count);
  p.slots = scratch.take<int64_t>(p.count + 1);
  p.begins = scratch.take_zeros<int64_t>(rows + 1);
  p.next = scratch.take_zeros<int64_t>(rows);
  launch_by_thread(line_kernel<scalar_t>, p.count + 1, cuda, p);
  exclusive_sum(cuda, p.slots, p.slots, p.count + 1);
  exclusive_sum(cuda, p.begins, p.begins, rows + 1);
  int64_t total = 0;
  copy_to_host(&total, p.slots + p.count, 1, cuda.stream);
  p.by_row = scratch.take<ContourLine>(total);
  launch_by_thread(entry_kernel<scalar_t>, p.count, cuda, p);
  return total;
}

constexpr int kCoverBlock = 128;  // as many pixels of a row

template <typename scalar_t>
struct CoverParams {
  LineParams<scalar_t> lines;
  int64_t pieces;      // of a row
  scalar_t* coverage;  // (N, H, W)
};

template <int kSamples, typename scalar_t>
__global__ void __launch_bounds__(kCoverBlock) cover_kernel(CoverParams<scalar_t> p) {
  // What lines add from a pixel on, then how many faces lie over each sample.
  __shared__ int32_t steps[kSamples][kCoverBlock];
  const PictureLayout& layout = p.lines.layout;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t all = quotient(blockIdx.x, p.pieces), piece = blockIdx.x - all * p.pieces;
  const int64_t picture = quotient(all, layout.height), row = all - picture * layout.height;
  const int64_t first = piece * kCoverBlock, column = first + thread;
  const LineRows rows = p.lines.rows(picture);
  const int64_t begin = rows.begins[row], end = rows.begins[row + 1];
  for (auto& of_sample : steps) of_sample[thread] = 0;
  __syncthreads();
  const PixelSamples samples(kSamples);
  for (int64_t n = thread; n < (end - begin) * kSamples; n += kCoverBlock) {
    const ContourLine& line = rows.lines[begin + n / kSamples];
    const int s = static_cast<int>(n % kSamples);
    const double y = static_cast<double>(row) + samples.y(s);
    const int64_t step = line.step(y);
    if (step == 0) continue;
    const int64_t after = column_after(line.x(y), samples.x(s), layout.width) - first;
    if (after < kCoverBlock) {
      atomicAdd(&steps[s][after > 0 ? after : 0], static_cast<int32_t>(step));
    }
  }
  __syncthreads();
  if (thread < kSamples) {
    int32_t faces = 0;
    for (int32_t& at : steps[thread]) at = faces += at;
  }
  __syncthreads();
  if (column >= layout.width) return;
  int covered = 0;
  for (const auto& of_sample : steps) covered += of_sample[thread] > 0;
  p.coverage[(picture * layout.height + row) * layout.width + column] =
      static_cast<scalar_t>(covered) / kSamples;
}

template <typename scalar_t>
LineParams<scalar_t> line_params(const PictureLayout& layout, const Tensor& vertices,
                                 const Tensor& projections, const Tensor& contours,
                                 const Tensor& offsets, double near) {
  LineParams<scalar_t> p{};
  p.layout = layout;
  p.near = near;
  p.count = contours.size(0);
  p.edges = static_cast<const ContourEdge*>(contours.const_data_ptr());
  p.offsets = static_cast<const int64_t*>(offsets.const_data_ptr());
  p.points = static_cast<const scalar_t*>(vertices.const_data_ptr());
  p.matrices = static_cast<const scalar_t*>(projections.const_data_ptr());
  return p;
}

std::tuple<Tensor, Tensor, Tensor> silhouette(Tensor vertices, Tensor faces, Tensor projections,
                                              Tensor vertex_offsets, Tensor face_offsets,
                                              std::vector<int64_t> size, double near,
                                              int64_t samples) {
  const CudaContext cuda(vertices);
  const SeenMeshes in{vertices, faces, projections, vertex_offsets, face_offsets};
  const PictureLayout layout = check_silhouette("silhouette", in, size, near);
  check_samples(samples);
  const std::vector<int64_t> shape{layout.pictures, layout.height, layout.width};
  Tensor coverage = empty_on(vertices, shape, vertices.scalar_type());
  Tensor offsets = zeros_on(vertices, {layout.pictures + 1}, DType::Long);
  if (layout.pictures == 0) return {coverage, empty_on(vertices, {0, 4}, DType::Long), offsets};
  Tensor contours = dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    Scratch scratch(cuda);
    Tensor found = find_contours<scalar_t>(cuda, scratch, in, layout, near,
                                           static_cast<int64_t*>(offsets.mutable_data_ptr()));
    CoverParams<scalar_t> p{
        line_params<scalar_t>(layout, vertices, projections, found, offsets, near),
        ceil_div(layout.width, kCoverBlock), static_cast<scalar_t*>(coverage.mutable_data_ptr())};
    sort_lines(cuda, scratch, p.lines);
    launch(dispatch_samples(samples,
                            [&]<int kSamples>() { return &cover_kernel<kSamples, scalar_t>; }),
           grid_for(layout.pictures * layout.height * p.pieces, 1), kCoverBlock, 0, cuda.stream, p);
    return found;
  });
  return {coverage, contours, offsets};
}

template <typename scalar_t>
struct LinePullParams {
  LineParams<scalar_t> lines;
  const scalar_t* __restrict__ grad;  // (N, H, W)
  int64_t reached;                    // rows that lines reach
  LineSums* sums;                     // (reached,) by slot
  int64_t* begins;                    // (N + 1,) of pulls
  int64_t* vertex;                    // (4 E,)
  Vec3<double>* pulls;                // (4 E,)
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) line_sum_kernel(LinePullParams<scalar_t> p) {
  const PictureLayout& layout = p.lines.layout;
  for_each_by_thread(p.reached, [&](int64_t slot) {
    const int64_t e = run_of(p.lines.slots, p.lines.count, slot), picture = p.lines.picture(e);
    const int64_t row = p.lines.span(e).first + slot - p.lines.slots[e];
    const ContourLine& line = p.lines.lines[e];
    const LineRows rows = p.lines.rows(picture);
    const scalar_t* grad = p.grad + (picture * layout.height + row) * layout.width;
    p.sums[slot] = LineInRow(line, row, layout.width).sums(rows, line, row, grad);
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) line_pull_kernel(LinePullParams<scalar_t> p) {
  for_each_by_thread(p.lines.count, [&](int64_t e) {
    LineSums sum{0, 0};
    for (int64_t slot = p.lines.slots[e]; slot < p.lines.slots[e + 1]; ++slot) {
      sum.first += p.sums[slot].first;
      sum.last += p.sums[slot].last;
    }
    for (int k = 0; k < 4; ++k) p.vertex[4 * e + k] = -1;
    if (sum.first == 0 && sum.last == 0) return;
    const Sight<scalar_t> sight = p.lines.sight(p.lines.picture(e));
    const LineGradient pull(p.lines.lines[e].at, sum);
    const ContourEnds ends(p.lines.edges[e], sight, p.lines.near);
    const auto give = [&](const ContourEnd& end, double x, double y, int64_t to) {
      const SeenPoint self = sight(end.self), other = sight(end.other < 0 ? end.self : end.other);
      const EndGradient g(end, self, other, p.lines.near, x, y);
      p.vertex[to] = end.self;
      p.pulls[to] = g.self;
      p.vertex[to + 1] = end.other;
      p.pulls[to + 1] = g.other;
    };
    give(ends.first, pull.x0, pull.y0, 4 * e);
    give(ends.last, pull.x1, pull.y1, 4 * e + 2);
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_begin_kernel(LinePullParams<scalar_t> p) {
  for_each_by_thread(p.lines.layout.pictures + 1,
                     [&](int64_t n) { p.begins[n] = 4 * p.lines.offsets[n]; });
}

std::tuple<Tensor, Tensor> silhouette_backward(Tensor grad_coverage, Tensor vertices,
                                               Tensor projections, Tensor vertex_offsets,
                                               Tensor contours, Tensor contour_offsets,
                                               std::vector<int64_t> size, double near,
                                               bool deterministic) {
  const CudaContext cuda(vertices);
  const char* op = "silhouette_backward";
  const PictureLayout layout =
      check_pictures(op, vertices, projections, vertex_offsets, size, near);
  check_contours(op, vertices, contours, contour_offsets, layout);
  check_picture(op, "grad_coverage", vertices, grad_coverage, vertices.scalar_type(), layout);
  Tensor grad_vertices = empty_on(vertices, {vertices.size(0), 3}, vertices.scalar_type());
  Tensor grad_projections =
      empty_on(projections, {layout.pictures, 3, 4}, projections.scalar_type());
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    Scratch scratch(cuda);
    LinePullParams<scalar_t> p{};
    p.lines = line_params<scalar_t>(layout, vertices, projections, contours, contour_offsets, near);
    p.grad = static_cast<const scalar_t*>(grad_coverage.const_data_ptr());
    p.reached = sort_lines(cuda, scratch, p.lines);
    p.sums = scratch.take<LineSums>(p.reached);
    p.begins = scratch.take<int64_t>(layout.pictures + 1);
    p.vertex = scratch.take<int64_t>(4 * p.lines.count);
    p.pulls = scratch.take<Vec3<double>>(4 * p.lines.count);
    launch_by_thread(line_sum_kernel<scalar_t>, p.reached, cuda, p);
    launch_by_thread(line_pull_kernel<scalar_t>, p.lines.count, cuda, p);
    launch_by_thread(pull_begin_kernel<scalar_t>, layout.pictures + 1, cuda, p);
    const PulledBack found{vertices,          projections, grad_vertices, grad_projections,
                           4 * p.lines.count, p.begins,    p.vertex,      p.pulls};
    sum_pulls<scalar_t>(cuda, scratch, found, deterministic);
  });
  return {grad_vertices, grad_projections};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("silhouette", TORCH_BOX(&silhouette));
  m.impl("silhouette_backward", TORCH_BOX(&silhouette_backward));
}

}  // namespace diffiso
