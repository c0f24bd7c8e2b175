// SPDX-License-Identifier: Apache-2.0
// The contour edges of a mesh before a camera, on the CPU: points and facings in parallel, then one
// pass that adds up fingerprints at vertices, and one over the few edges that may be left.
#pragma once

#include <memory>
#include <vector>

#include "common/silhouette_tensors.h"
#include "core/contours.h"
#include "cpu/parallel.h"

namespace diffiso {

// One mesh of a batch: the runs of vertices and faces that it owns.
struct MeshRuns {
  int64_t first_vertex, vertices, first_face, faces;
};

inline std::vector<MeshRuns> mesh_runs(const SeenMeshes& in, const PictureLayout& layout) {
  const auto* vertices = static_cast<const int64_t*>(in.vertex_offsets.const_data_ptr());
  const auto* faces = static_cast<const int64_t*>(in.face_offsets.const_data_ptr());
  check_offsets("silhouette", vertices, layout.meshes, in.vertices.size(0));
  check_offsets("silhouette", faces, layout.meshes, in.faces.size(0), "face_offsets", "faces");
  std::vector<MeshRuns> runs;
  for (int64_t b = 0; b < layout.meshes; ++b) {
    runs.push_back({vertices[b], vertices[b + 1] - vertices[b], faces[b], faces[b + 1] - faces[b]});
  }
  return runs;
}

// Edges by their two vertices, in the order in which they first come.
class EdgeCounts {
 public:
  explicit EdgeCounts(size_t edges) {
    size_t slots = 16;
    while (slots < 2 * edges) slots *= 2;
    slots_.assign(slots, -1);
  }
  // Counts the directed edge from a to b so many times, from b to a as often the other way.
  void add(int64_t a, int64_t b, int64_t count) {
    if (a > b) {
      std::swap(a, b);
      count = -count;
    }
    size_t slot = fingerprint(a) * 31 + fingerprint(b);
    for (;; ++slot) {
      int64_t& edge = slots_[slot &= slots_.size() - 1];
      if (edge < 0) {
        edge = static_cast<int64_t>(edges_.size());
        edges_.push_back({a, b, -1, count});
        return;
      }
      ContourEdge& found = edges_[edge];
      if (found.a == a && found.b == b) {
        found.count += count;
        return;
      }
    }
  }
  // Adds one that no other is like.
  void add(const ContourEdge& edge) { edges_.push_back(edge); }
  const std::vector<ContourEdge>& edges() const { return edges_; }

 private:
  std::vector<int64_t> slots_;
  std::vector<ContourEdge> edges_;
};

// Where a picture's gradients go: sums of all vertices, and of its camera's matrix.
template <typename scalar_t>
class PictureGradient {
 public:
  PictureGradient(const scalar_t* vertices, const scalar_t* matrix, double* grad_vertices)
      : vertices_(vertices), matrix_(matrix), grad_vertices_(grad_vertices) {}

  // grad: what (x, y, depth) of a vertex receives
  void add(int64_t vertex, Vec3<double> grad) {
    const Vec3<scalar_t> at = load_vec3(vertices_, vertex);
    for (int row = 0; row < 3; ++row) {
      for (int a = 0; a < 3; ++a) grad_matrix_[4 * row + a] += grad[row] * double{at[a]};
      grad_matrix_[4 * row + 3] += grad[row];
    }
    for (int a = 0; a < 3; ++a) grad_vertices_[3 * vertex + a] += pull_back(matrix_, grad, a);
  }
  void store(scalar_t* grad_matrix) const {
    for (int k = 0; k < 12; ++k) grad_matrix[k] = static_cast<scalar_t>(grad_matrix_[k]);
  }

 private:
  const scalar_t* vertices_;
  const scalar_t* matrix_;
  double* grad_vertices_;
  double grad_matrix_[12] = {};
};

template <typename scalar_t>
std::vector<SeenPoint> see_vertices(const scalar_t* vertices, const MeshRuns& mesh,
                                    const scalar_t* matrix, double near) {
  constexpr int64_t kVerticesPerTask = 4096;
  std::vector<SeenPoint> seen(mesh.vertices);
  std::atomic<int64_t> bad{-1};
  parallel_pieces(mesh.vertices, kVerticesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      seen[v] = see(matrix, load_vec3(vertices, mesh.first_vertex + v), near);
      if (!is_finite(seen[v])) bad = mesh.first_vertex + v;
    }
  });
  if (bad >= 0) refuse_vertex(bad);
  return seen;
}

// Adds the contour edges of a mesh to `out`.
template <typename scalar_t, typename index_t>
void find_contours(const scalar_t* vertices, const index_t* faces, const MeshRuns& mesh,
                   const scalar_t* matrix, double near, std::vector<ContourEdge>& out) {
  constexpr int64_t kFacesPerTask = 8192;
  const std::vector<SeenPoint> seen = see_vertices(vertices, mesh, matrix, near);
  const index_t* rows = faces + 3 * mesh.first_face;
  const auto corners_of = [&](int64_t f, int64_t* corners) {
    for (int k = 0; k < 3; ++k) corners[k] = int64_t{rows[3 * f + k]} - mesh.first_vertex;
  };
  std::vector<int8_t> facings(mesh.faces);
  std::atomic<int64_t> bad{-1};
  parallel_pieces(mesh.faces, kFacesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) {
      int64_t c[3];
      corners_of(f, c);
      const auto count = static_cast<uint64_t>(mesh.vertices);
      if (static_cast<uint64_t>(c[0]) >= count || static_cast<uint64_t>(c[1]) >= count ||
          static_cast<uint64_t>(c[2]) >= count) {
        bad = mesh.first_face + f;
        continue;
      }
      if (is_collapsed(c)) continue;
      facings[f] = static_cast<int8_t>(facing(seen[c[0]], seen[c[1]], seen[c[2]], near));
    }
  });
  if (bad >= 0) refuse_face(bad);

  std::vector<uint64_t> sums(mesh.vertices, 0);
  for (int64_t f = 0; f < mesh.faces; ++f) {
    if (facings[f] == 0) continue;
    int64_t c[3];
    corners_of(f, c);
    for (int k = 0; k < 3; ++k) sums[c[k]] += edge_sum(c, k, facings[f]);
  }
  // What may be left, as 4 * face + k: the edge from its k-th corner, or if k is 3 its cut.
  std::vector<int64_t> left;
  for (int64_t f = 0; f < mesh.faces; ++f) {
    if (facings[f] == 0) continue;
    int64_t c[3];
    corners_of(f, c);
    const bool open[3] = {sums[c[0]] != 0, sums[c[1]] != 0, sums[c[2]] != 0};
    for (int k = 0; k < 3; ++k) {
      if (open[k] && open[(k + 1) % 3]) left.push_back(4 * f + k);
    }
    if (lone_corner(seen[c[0]], seen[c[1]], seen[c[2]], near) >= 0) left.push_back(4 * f + 3);
  }
  EdgeCounts counts(left.size());
  for (const int64_t item : left) {
    int64_t c[3];
    corners_of(item / 4, c);
    const int k = static_cast<int>(item % 4), facing = facings[item / 4];
    if (k < 3) {
      counts.add(c[k], c[(k + 1) % 3], facing);
    } else {
      counts.add(cut_of_face(c, seen[c[0]], seen[c[1]], seen[c[2]], facing, near));
    }
  }
  for (ContourEdge edge : counts.edges()) {
    if (edge.count == 0 || (seen[edge.a].depth < near && seen[edge.b].depth < near)) continue;
    edge.a += mesh.first_vertex;
    edge.b += mesh.first_vertex;
    if (edge.c >= 0) edge.c += mesh.first_vertex;
    out.push_back(edge);
  }
}

}  // namespace diffiso
