// SPDX-License-Identifier: Apache-2.0
// Soft silhouettes on the CPU. Faces are listed by the rows of tiles that they reach; a task is a row
// of tiles, which keeps the nearest faces of each of its pixels. The backward goes by faces: what
// the forward kept is known from the last face that counts.
#include "core/soft_silhouette.h"

#include <array>
#include <limits>

#include "cpu/contours.h"

namespace diffiso {
namespace {

constexpr int64_t kTile = 8;

struct SoftInput {
  Tensor vertices, faces, projections, vertex_offsets, face_offsets;
  std::vector<int64_t> size;
  double near, sigma, blur_radius;
  int64_t faces_per_pixel;

  SeenMeshes meshes() const { return {vertices, faces, projections, vertex_offsets, face_offsets}; }
};

template <typename scalar_t>
std::vector<SoftFace> soft_faces(const SoftInput& in, const MeshRuns& mesh, const scalar_t* matrix,
                                 const SoftRule& rule) {
  const std::vector<SeenPoint> seen = see_vertices(
      static_cast<const scalar_t*>(in.vertices.const_data_ptr()), mesh, matrix, in.near);
  std::vector<SoftFace> out;
  out.reserve(mesh.faces);
  dispatch_index(in.faces, [&]<typename index_t>(const index_t* faces) {
    for (int64_t f = mesh.first_face; f < mesh.first_face + mesh.faces; ++f) {
      int64_t c[3];
      for (int k = 0; k < 3; ++k) c[k] = int64_t{faces[3 * f + k]} - mesh.first_vertex;
      for (const int64_t corner : c) {
        if (corner < 0 || corner >= mesh.vertices) refuse_face(f);
      }
      out.emplace_back(rule, seen[c[0]], seen[c[1]], seen[c[2]]);
    }
  });
  return out;
}

// Faces by the rows of tiles that they reach.
std::vector<std::vector<int64_t>> tile_rows(const std::vector<SoftFace>& faces, int64_t height) {
  std::vector<std::vector<int64_t>> rows((height + kTile - 1) / kTile);
  for (size_t f = 0; f < faces.size(); ++f) {
    if (faces[f].last_row < faces[f].first_row) continue;
    for (int64_t row = faces[f].first_row / kTile; row <= faces[f].last_row / kTile; ++row) {
      rows[row].push_back(static_cast<int64_t>(f));
    }
  }
  return rows;
}

// A face that counts in a pixel.
struct KeptFace {
  SoftCut place;
  double clear;

  bool operator<(const KeptFace& other) const {
    return place.depth < other.place.depth ||
           (place.depth == other.place.depth && place.face < other.place.face);
  }
};

std::tuple<Tensor, Tensor, Tensor> soft_silhouette(Tensor vertices, Tensor faces,
                                                   Tensor projections, Tensor vertex_offsets,
                                                   Tensor face_offsets, std::vector<int64_t> size,
                                                   double near, double sigma, double blur_radius,
                                                   int64_t faces_per_pixel) {
  const SoftInput in{vertices, faces, projections, vertex_offsets, face_offsets,
                     size,     near,  sigma,       blur_radius,    faces_per_pixel};
  const PictureLayout layout = check_silhouette("soft_silhouette", in.meshes(), size, near);
  const SoftRule rule = check_soft(layout, near, sigma, blur_radius, faces_per_pixel);
  const std::vector<MeshRuns> runs = mesh_runs(in.meshes(), layout);
  const std::vector<int64_t> shape{layout.pictures, layout.height, layout.width};
  Tensor clear = empty_on(vertices, shape, vertices.scalar_type());
  Tensor cut_depth = empty_on(vertices, shape, DType::Double);
  Tensor cut_face = empty_on(vertices, shape, DType::Long);
  auto* depths = static_cast<double*>(cut_depth.mutable_data_ptr());
  auto* last_faces = static_cast<int64_t*>(cut_face.mutable_data_ptr());
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    const auto* matrices = static_cast<const scalar_t*>(projections.const_data_ptr());
    auto* out = static_cast<scalar_t*>(clear.mutable_data_ptr());
    for (int64_t n = 0; n < layout.pictures; ++n) {
      const std::vector<SoftFace> soft =
          soft_faces(in, runs[layout.mesh(n)], matrices + 12 * n, rule);
      const auto rows = tile_rows(soft, layout.height);
      parallel_tasks(static_cast<int64_t>(rows.size()), [&](int64_t tile) {
        const int64_t begin = tile * kTile, end = std::min(begin + kTile, layout.height);
        std::vector<std::vector<KeptFace>> kept((end - begin) * layout.width);
        for (const int64_t f : rows[tile]) {
          const SoftFace& face = soft[f];
          for (int64_t row = std::max(begin, face.first_row);
               row < std::min(end, face.last_row + 1); ++row) {
            for (int64_t column = face.first_column; column <= face.last_column; ++column) {
              const SoftCover cover = face.cover(rule, row, column);
              if (!cover.any) continue;
              auto& heap = kept[(row - begin) * layout.width + column];
              const KeptFace more{{cover.depth, f}, clear_share(cover.distance, sigma)};
              if (static_cast<int64_t>(heap.size()) == faces_per_pixel) {
                if (!(more < heap.front())) continue;
                std::pop_heap(heap.begin(), heap.end());
                heap.back() = more;
              } else {
                heap.push_back(more);
              }
              std::push_heap(heap.begin(), heap.end());
            }
          }
        }
        for (int64_t k = 0; k < static_cast<int64_t>(kept.size()); ++k) {
          auto& heap = kept[k];
          const int64_t pixel = (n * layout.height + begin) * layout.width + k;
          const bool full = static_cast<int64_t>(heap.size()) == faces_per_pixel;
          depths[pixel] = full ? heap.front().place.depth : std::numeric_limits<double>::infinity();
          last_faces[pixel] = full ? heap.front().place.face : -1;
          std::sort(heap.begin(), heap.end());
          double share = 1;
          for (const KeptFace& face : heap) share *= face.clear;
          out[pixel] = static_cast<scalar_t>(share);
        }
      });
    }
  });
  return {clear, cut_depth, cut_face};
}

std::tuple<Tensor, Tensor> soft_silhouette_backward(Tensor grad_clear, Tensor clear,
                                                    Tensor cut_depth, Tensor cut_face,
                                                    Tensor vertices, Tensor faces,
                                                    Tensor projections, Tensor vertex_offsets,
                                                    Tensor face_offsets, std::vector<int64_t> size,
                                                    double near, double sigma, double blur_radius,
                                                    int64_t faces_per_pixel, bool) {
  const char* op = "soft_silhouette_backward";
  const SoftInput in{vertices, faces, projections, vertex_offsets, face_offsets,
                     size,     near,  sigma,       blur_radius,    faces_per_pixel};
  const PictureLayout layout = check_silhouette(op, in.meshes(), size, near);
  const SoftRule rule = check_soft(layout, near, sigma, blur_radius, faces_per_pixel);
  check_soft_output(op, vertices, layout, grad_clear, clear, cut_depth, cut_face);
  const std::vector<MeshRuns> runs = mesh_runs(in.meshes(), layout);
  Tensor grad_vertices = empty_on(vertices, {vertices.size(0), 3}, vertices.scalar_type());
  Tensor grad_projections =
      zeros_on(projections, {layout.pictures, 3, 4}, projections.scalar_type());
  const auto* depths = static_cast<const double*>(cut_depth.const_data_ptr());
  const auto* last_faces = static_cast<const int64_t*>(cut_face.const_data_ptr());
  std::vector<double> sums(3 * vertices.size(0), 0);
  dispatch_floating(vertices.scalar_type(), [&]<typename scalar_t>() {
    const auto* points = static_cast<const scalar_t*>(vertices.const_data_ptr());
    const auto* matrices = static_cast<const scalar_t*>(projections.const_data_ptr());
    const auto* grad = static_cast<const scalar_t*>(grad_clear.const_data_ptr());
    const auto* share = static_cast<const scalar_t*>(clear.const_data_ptr());
    auto* out = static_cast<scalar_t*>(grad_projections.mutable_data_ptr());
    for (int64_t n = 0; n < layout.pictures; ++n) {
      const MeshRuns& mesh = runs[layout.mesh(n)];
      const scalar_t* matrix = matrices + 12 * n;
      const std::vector<SoftFace> soft = soft_faces(in, mesh, matrix, rule);
      const int64_t first = n * layout.height * layout.width;
      const SoftPicture<scalar_t> picture{grad + first, share + first, depths + first,
                                          last_faces + first};
      std::vector<std::array<double, 6>> pulls(soft.size());
      parallel_pieces(mesh.faces, 256, [&](int64_t begin, int64_t end) {
        for (int64_t f = begin; f < end; ++f) {
          pulls[f].fill(0);
          pull_soft_face(rule, soft[f], f, picture, pulls[f].data(), pulls[f].data() + 3);
        }
      });
      PictureGradient<scalar_t> back(points, matrix, sums.data());
      const Sight<scalar_t> sight{points, matrix, near};
      dispatch_index(faces, [&]<typename index_t>(const index_t* rows) {
        for (int64_t f = 0; f < mesh.faces; ++f) {
          for (int k = 0; k < 3; ++k) {
            const double x = pulls[f][k] * rule.scale, y = pulls[f][3 + k] * rule.scale;
            if (x == 0 && y == 0) continue;
            const int64_t vertex = rows[3 * (mesh.first_face + f) + k];
            back.add(vertex, pull_back(sight(vertex), x, y));
          }
        }
      });
      back.store(out + 12 * n);
    }
    std::transform(sums.begin(), sums.end(),
                   static_cast<scalar_t*>(grad_vertices.mutable_data_ptr()),
                   [](double sum) { return static_cast<scalar_t>(sum); });
  });
  return {grad_vertices, grad_projections};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("soft_silhouette", TORCH_BOX(&soft_silhouette));
  m.impl("soft_silhouette_backward", TORCH_BOX(&soft_silhouette_backward));
}

}  // namespace diffiso
