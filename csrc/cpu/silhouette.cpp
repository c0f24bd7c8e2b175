// SPDX-License-Identifier: Apache-2.0
// Silhouettes on the CPU. Pictures one after the other; contour edges are sorted into the rows of
// pixels that they reach, and rows are tasks. The backward sums along each edge row by row, and adds
// to vertices in the order of the edges.
#include "core/silhouette.h"

#include "cpu/contours.h"

namespace diffiso {
namespace {

// Contour edges sorted into the rows of pixels that they reach.
class SortedLines {
 public:
  // by_place: rows have their lines from left to right
  SortedLines(const ContourEdge* edges, const std::vector<Segment>& segments, int64_t height,
              int64_t width, bool by_place)
      : height_(height), by_place_(by_place), begins_(height + 1, 0), slots_{0} {
    const auto count = static_cast<int64_t>(segments.size());
    for (int64_t e = 0; e < count; ++e) {
      spans_.emplace_back(segments[e], height, width);
      slots_.push_back(slots_.back() + spans_[e].count());
      for (int64_t row = spans_[e].first; row <= spans_[e].last; ++row) ++begins_[row + 1];
    }
    for (int64_t row = 0; row < height; ++row) begins_[row + 1] += begins_[row];
    lines_.resize(begins_[height], ContourLine({0, 0, 0, 0}, 0));
    edges_.resize(begins_[height]);
    std::vector<int64_t> next(begins_.begin(), begins_.end() - 1);
    std::vector<std::pair<double, int64_t>> order(count);
    for (int64_t e = 0; e < count; ++e) order[e] = {std::min(segments[e].x0, segments[e].x1), e};
    if (by_place) std::sort(order.begin(), order.end());
    for (const auto& [left, e] : order) {
      const ContourLine line(segments[e], edges[e].count);
      for (int64_t row = spans_[e].first; row <= spans_[e].last; ++row) {
        lines_[next[row]] = line;
        edges_[next[row]++] = e;
      }
    }
  }

  LineRows rows() const { return {height_, begins_.data(), lines_.data(), by_place_}; }
  int64_t edge(int64_t line) const { return edges_[line]; }
  // Where what an edge has in a row is kept: the rows of an edge lie one after the other.
  int64_t slot(int64_t edge, int64_t row) const { return slots_[edge] + row - spans_[edge].first; }
  int64_t first_slot(int64_t edge) const { return slots_[edge]; }

 private:
  int64_t height_;
  bool by_place_;
  std::vector<RowSpan> spans_;
  std::vector<int64_t> begins_, edges_, slots_;
  std::vector<ContourLine> lines_;
};

// One row of pixels. `steps`, all zero before and after: (W + 1, S), what the edges add from a
// column on, for each row of samples.
template <int kSamples, typename scalar_t>
void cover_row(const LineRows& lines, int64_t row, int64_t width, int32_t* steps, scalar_t* out) {
  const int64_t begin = lines.begins[row], end = lines.begins[row + 1];
  if (begin == end) {
    std::fill(out, out + width, scalar_t{0});
    return;
  }
  const PixelSamples samples(kSamples);
  for (int64_t n = begin; n < end; ++n) {
    const ContourLine& line = lines.lines[n];
    for (int s = 0; s < kSamples; ++s) {
      const double y = static_cast<double>(row) + samples.y(s);
      const int64_t step = line.step(y);
      if (step == 0) continue;
      steps[column_after(line.x(y), samples.x(s), width) * kSamples + s] +=
          static_cast<int32_t>(step);
    }
  }
  int32_t faces[kSamples] = {};
  for (int64_t column = 0; column < width; ++column) {
    int covered = 0;
    for (int s = 0; s < kSamples; ++s) {
      faces[s] += steps[column * kSamples + s];
      steps[column * kSamples + s] = 0;
      covered += faces[s] > 0;
    }
    out[column] = static_cast<scalar_t>(covered) / kSamples;
  }
  std::fill(steps + width * kSamples, steps + (width + 1) * kSamples, 0);
}

constexpr int64_t kRowsPerTask = 8;

template <typename scalar_t>
std::vector<Segment> segments_of(const ContourEdge* edges, int64_t count,
                                 const Sight<scalar_t>& sight) {
  std::vector<Segment> segments(count);
  parallel_pieces(count, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      segments[e] = ContourEnds(edges[e], sight, sight.near).segment();
    }
  });
  return segments;
}

std::tuple<Tensor, Tensor, Tensor> silhouette(Tensor vertices, Tensor faces, Tensor projections,
                                              Tensor vertex_offsets, Tensor face_offsets,
                                              std::vector<int64_t> size, double near,
                                              int64_t samples) {
  const SeenMeshes in{vertices, faces, projections, vertex_offsets, face_offsets};
  const PictureLayout layout = check_silhouette("silhouette", in, size, near);
  check_samples(samples);
  const std::vector<MeshRuns> runs = mesh_runs(in, layout);
  Tensor coverage =
      empty_on(vertices, {layout.pictures, layout.height, layout.width}, vertices.scalar_type());
  Tensor contour_offsets = zeros_on(vertices, {layout.pictures + 1}, DType::Long);
  auto* offsets = static_cast<int64_t*>(contour_offsets.mutable_data_ptr());
  std::vector<ContourEdge> edges;
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    const auto* points = static_cast<const scalar_t*>(vertices.const_data_ptr());
    const auto* matrices = static_cast<const scalar_t*>(projections.const_data_ptr());
    auto* out = static_cast<scalar_t*>(coverage.mutable_data_ptr());
    const auto cover =
        dispatch_samples(samples, [&]<int kSamples>() { return &cover_row<kSamples, scalar_t>; });
    for (int64_t n = 0; n < layout.pictures; ++n) {
      const MeshRuns& mesh = runs[layout.mesh(n)];
      const scalar_t* matrix = matrices + 12 * n;
      dispatch_index(faces, [&]<typename index_t>(const index_t* rows) {
        find_contours(points, rows, mesh, matrix, near, edges);
      });
      offsets[n + 1] = static_cast<int64_t>(edges.size());
      const ContourEdge* mine = edges.data() + offsets[n];
      const Sight<scalar_t> sight{points, matrix, near};
      const SortedLines sorted(mine, segments_of(mine, offsets[n + 1] - offsets[n], sight),
                               layout.height, layout.width, false);
      const LineRows lines = sorted.rows();
      scalar_t* picture = out + n * layout.height * layout.width;
      parallel_pieces(layout.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
        std::vector<int32_t> steps((layout.width + 1) * samples, 0);
        for (int64_t row = begin; row < end; ++row) {
          cover(lines, row, layout.width, steps.data(), picture + row * layout.width);
        }
      });
    }
  });
  Tensor contours = empty_on(vertices, {static_cast<int64_t>(edges.size()), 4}, DType::Long);
  std::copy(edges.begin(), edges.end(), static_cast<ContourEdge*>(contours.mutable_data_ptr()));
  return {coverage, contours, contour_offsets};
}

// Adds what one picture passes back to vertices, and returns what its camera's matrix receives.
template <typename scalar_t>
void pull_picture(const ContourEdge* edges, int64_t count, const Sight<scalar_t>& sight,
                  const PictureLayout& layout, const scalar_t* grad, double* grad_vertices,
                  scalar_t* grad_matrix) {
  const std::vector<Segment> segments = segments_of(edges, count, sight);
  const SortedLines lines(edges, segments, layout.height, layout.width, true);
  const LineRows rows = lines.rows();
  std::vector<LineSums> sums(lines.first_slot(count), LineSums{0, 0});
  parallel_pieces(layout.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t n = rows.begins[row]; n < rows.begins[row + 1]; ++n) {
        const ContourLine& line = rows.lines[n];
        sums[lines.slot(lines.edge(n), row)] =
            LineInRow(line, row, layout.width).sums(rows, line, row, grad + row * layout.width);
      }
    }
  });
  PictureGradient<scalar_t> back(sight.vertices, sight.matrix, grad_vertices);
  for (int64_t e = 0; e < count; ++e) {
    LineSums sum{0, 0};
    for (int64_t slot = lines.first_slot(e); slot < lines.first_slot(e + 1); ++slot) {
      sum.first += sums[slot].first;
      sum.last += sums[slot].last;
    }
    if (sum.first == 0 && sum.last == 0) continue;
    const LineGradient pull(segments[e], sum);
    const ContourEnds ends(edges[e], sight, sight.near);
    const auto pull_end = [&](const ContourEnd& end, double x, double y) {
      const SeenPoint self = sight(end.self), other = sight(end.other < 0 ? end.self : end.other);
      const EndGradient g(end, self, other, sight.near, x, y);
      back.add(end.self, g.self);
      if (end.other >= 0) back.add(end.other, g.other);
    };
    pull_end(ends.first, pull.x0, pull.y0);
    pull_end(ends.last, pull.x1, pull.y1);
  }
  back.store(grad_matrix);
}

std::tuple<Tensor, Tensor> silhouette_backward(Tensor grad_coverage, Tensor vertices,
                                               Tensor projections, Tensor vertex_offsets,
                                               Tensor contours, Tensor contour_offsets,
                                               std::vector<int64_t> size, double near, bool) {
  const char* op = "silhouette_backward";
  const PictureLayout layout =
      check_pictures(op, vertices, projections, vertex_offsets, size, near);
  check_contours(op, vertices, contours, contour_offsets, layout);
  check_picture(op, "grad_coverage", vertices, grad_coverage, vertices.scalar_type(), layout);
  const auto* edges = static_cast<const ContourEdge*>(contours.const_data_ptr());
  const auto* offsets = static_cast<const int64_t*>(contour_offsets.const_data_ptr());
  check_offsets(op, offsets, layout.pictures, contours.size(0), "contour_offsets", "contours");
  check_contour_vertices(edges, contours.size(0), vertices.size(0));
  Tensor grad_vertices = empty_on(vertices, {vertices.size(0), 3}, vertices.scalar_type());
  Tensor grad_projections =
      zeros_on(projections, {layout.pictures, 3, 4}, projections.scalar_type());
  std::vector<double> sums(3 * vertices.size(0), 0);
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    const auto* points = static_cast<const scalar_t*>(vertices.const_data_ptr());
    const auto* matrices = static_cast<const scalar_t*>(projections.const_data_ptr());
    const auto* grad = static_cast<const scalar_t*>(grad_coverage.const_data_ptr());
    auto* out = static_cast<scalar_t*>(grad_projections.mutable_data_ptr());
    for (int64_t n = 0; n < layout.pictures; ++n) {
      pull_picture(edges + offsets[n], offsets[n + 1] - offsets[n],
                   Sight<scalar_t>{points, matrices + 12 * n, near}, layout,
                   grad + n * layout.height * layout.width, sums.data(), out + 12 * n);
    }
    std::transform(sums.begin(), sums.end(),
                   static_cast<scalar_t*>(grad_vertices.mutable_data_ptr()),
                   [](double sum) { return static_cast<scalar_t>(sum); });
  });
  return {grad_vertices, grad_projections};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("silhouette", TORCH_BOX(&silhouette));
  m.impl("silhouette_backward", TORCH_BOX(&silhouette_backward));
}

}  // namespace diffiso
