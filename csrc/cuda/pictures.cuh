// SPDX-License-Identifier: Apache-2.0
// Meshes before cameras on the GPU: which picture shows which vertices and faces, and what pictures
// pass back. Meshes are packed, each is seen by as many pictures, and what a mesh has comes once a
// picture, picture after picture: so much is known without reading offsets back.
#pragma once

#include "common/scan.cuh"
#include "common/silhouette_tensors.h"
#include "common/threads.cuh"

namespace diffiso {

// The n-th vertex or face of all pictures: which picture shows it, and its row among all meshes'.
struct Shown {
  int64_t mesh, picture, row;
};

struct PackedRows {
  int64_t meshes, per_mesh;             // pictures of a mesh
  int64_t rows, count;                  // of all meshes, of all pictures
  const int64_t* __restrict__ offsets;  // (B + 1,)

  DIFFISO_HD Shown operator[](int64_t n) const {
    const int64_t mesh = run_of(offsets, meshes, quotient(n, per_mesh));
    // Empty meshes begin where the next does: the last of those is the one that has rows.
    const int64_t rows = offsets[mesh + 1] - offsets[mesh], within = n - per_mesh * offsets[mesh];
    const int64_t turn = quotient(within, rows);
    return {mesh, mesh * per_mesh + turn, offsets[mesh] + within - turn * rows};
  }
  // Whether the offsets from b on are those of `rows` rows.
  DIFFISO_HD bool rises(int64_t b) const {
    return (b > 0 || offsets[b] == 0) &&
           (b < meshes ? offsets[b] <= offsets[b + 1] : offsets[b] == rows);
  }
  // Where a picture's first is.
  DIFFISO_HD int64_t begin(int64_t picture) const {
    const int64_t mesh = quotient(picture, per_mesh);
    return per_mesh * offsets[mesh] +
           (picture - mesh * per_mesh) * (offsets[mesh + 1] - offsets[mesh]);
  }
};

inline PackedRows packed_rows(const PictureLayout& layout, const Tensor& rows,
                              const Tensor& offsets) {
  const int64_t per_mesh = layout.meshes > 0 ? layout.pictures / layout.meshes : 0;
  return {layout.meshes, per_mesh, rows.size(0), per_mesh * rows.size(0),
          static_cast<const int64_t*>(offsets.const_data_ptr())};
}

// What was found wrong; 0 is nothing. Vertices and faces as one more than the last such row.
struct SeenFaults {
  unsigned long long vertex, face, vertex_offsets, face_offsets;

  DIFFISO_HD bool of_offsets() const { return vertex_offsets > 0 || face_offsets > 0; }
  void refuse() const {
    check(vertex_offsets == 0,
          "silhouette: vertex_offsets must rise from 0 to the number of vertices");
    check(face_offsets == 0, "silhouette: face_offsets must rise from 0 to the number of faces");
    if (vertex > 0) refuse_vertex(static_cast<int64_t>(vertex) - 1);
    if (face > 0) refuse_face(static_cast<int64_t>(face) - 1);
  }
};

template <typename scalar_t>
struct PictureParams {
  PackedRows vertices, faces;
  double near;
  const scalar_t* __restrict__ points;    // (V, 3)
  const scalar_t* __restrict__ matrices;  // (N, 3, 4)
  const void* __restrict__ corners;       // (F, 3) int64 or int32
  bool int32_faces;
  SeenPoint* seen;     // of all pictures' vertices
  SeenFaults* faults;  // (1,)

  DIFFISO_HD Sight<scalar_t> sight(int64_t picture) const {
    return {points, matrices + 12 * picture, near};
  }
  DIFFISO_HD void corners_of(int64_t face, int64_t* out) const {
    for (int k = 0; k < 3; ++k) {
      out[k] = int32_faces ? static_cast<const int32_t*>(corners)[3 * face + k]
                           : static_cast<const int64_t*>(corners)[3 * face + k];
    }
  }
  // Corners of a face as rows of `seen`; false if one is no vertex of its mesh.
  DIFFISO_HD bool seen_corners(const Shown& face, int64_t* out) const {
    corners_of(face.row, out);
    const int64_t first = vertices.offsets[face.mesh], end = vertices.offsets[face.mesh + 1];
    bool all = true;
    for (int k = 0; k < 3; ++k) {
      all = all && out[k] >= first && out[k] < end;
      out[k] += vertices.begin(face.picture) - first;
    }
    return all;
  }
};

template <typename scalar_t>
PictureParams<scalar_t> picture_params(const PictureLayout& layout, const SeenMeshes& in,
                                       double near, Scratch& scratch) {
  PictureParams<scalar_t> p{};
  p.vertices = packed_rows(layout, in.vertices, in.vertex_offsets);
  p.faces = packed_rows(layout, in.faces, in.face_offsets);
  p.near = near;
  p.points = static_cast<const scalar_t*>(in.vertices.const_data_ptr());
  p.matrices = static_cast<const scalar_t*>(in.projections.const_data_ptr());
  p.corners = in.faces.const_data_ptr();
  p.int32_faces = in.faces.scalar_type() == DType::Int;
  p.seen = scratch.take<SeenPoint>(p.vertices.count);
  p.faults = scratch.take_zeros<SeenFaults>(1);
  return p;
}

// Comes before all that use offsets, which leave out what they cannot trust.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) offset_kernel(PictureParams<scalar_t> p) {
  for_each_by_thread(p.vertices.meshes + 1, [&](int64_t b) {
    if (!p.vertices.rises(b)) atomicMax(&p.faults->vertex_offsets, 1ull);
    if (!p.faces.rises(b)) atomicMax(&p.faults->face_offsets, 1ull);
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) see_kernel(PictureParams<scalar_t> p) {
  if (p.faults->of_offsets()) return;
  for_each_by_thread(p.vertices.count, [&](int64_t n) {
    const Shown at = p.vertices[n];
    p.seen[n] = p.sight(at.picture)(at.row);
    if (!is_finite(p.seen[n])) {
      atomicMax(&p.faults->vertex, static_cast<unsigned long long>(at.row + 1));
    }
  });
}

template <typename scalar_t>
void see_vertices(const CudaContext& cuda, const PictureParams<scalar_t>& p) {
  launch_by_thread(offset_kernel<scalar_t>, p.vertices.meshes + 1, cuda, p);
  launch_by_thread(see_kernel<scalar_t>, p.vertices.count, cuda, p);
}

// What pictures pass back, as (x, y, depth) of a vertex; those of a picture lie together.
template <typename scalar_t>
struct PullParams {
  int64_t count, pictures, vertex_count;
  const scalar_t* __restrict__ points;    // (V, 3)
  const scalar_t* __restrict__ matrices;  // (N, 3, 4)
  const int64_t* __restrict__ begins;     // (N + 1,) of each picture
  int64_t* vertex;                        // (count,), or -1 for none
  Vec3<double>* grad;                     // (count,)
  int64_t* order;                         // (count,) by vertex, with `vertex` sorted likewise
  double* sums;                           // (V, 3)
  scalar_t* grad_vertices;                // (V, 3)
  scalar_t* grad_matrices;                // (N, 3, 4)

  DIFFISO_HD double of_vertex(int64_t n, int axis) const {
    return pull_back(matrices + 12 * run_of(begins, pictures, n), grad[n], axis);
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_atomic_kernel(PullParams<scalar_t> p) {
  for_each_by_thread(p.count, [&](int64_t n) {
    if (p.vertex[n] < 0) return;
    for (int a = 0; a < 3; ++a) atomicAdd(p.sums + 3 * p.vertex[n] + a, p.of_vertex(n, a));
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_count_kernel(PullParams<scalar_t> p) {
  for_each_by_thread(p.count, [&](int64_t n) { p.order[n] = n; });
}

// The first pull of each vertex adds up all of them.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_ordered_kernel(PullParams<scalar_t> p) {
  for_each_by_thread(p.count, [&](int64_t s) {
    const int64_t vertex = p.vertex[s];
    if (vertex < 0 || (s > 0 && p.vertex[s - 1] == vertex)) return;
    double sums[3] = {};
    for (int64_t same = s; same < p.count && p.vertex[same] == vertex; ++same) {
      for (int a = 0; a < 3; ++a) sums[a] += p.of_vertex(p.order[same], a);
    }
    for (int a = 0; a < 3; ++a) p.sums[3 * vertex + a] = sums[a];
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_store_kernel(PullParams<scalar_t> p) {
  for_each_by_thread(3 * p.vertex_count,
                     [&](int64_t n) { p.grad_vertices[n] = static_cast<scalar_t>(p.sums[n]); });
}

// A block a picture, its pulls in a fixed order.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) pull_matrix_kernel(PullParams<scalar_t> p) {
  const int64_t picture = blockIdx.x;
  double sums[12] = {};
  for (int64_t n = p.begins[picture] + threadIdx.x; n < p.begins[picture + 1]; n += kThreadBlock) {
    if (p.vertex[n] < 0) continue;
    const Vec3<scalar_t> at = load_vec3(p.points, p.vertex[n]);
    for (int row = 0; row < 3; ++row) {
      for (int a = 0; a < 3; ++a) sums[4 * row + a] += p.grad[n][row] * double{at[a]};
      sums[4 * row + 3] += p.grad[n][row];
    }
  }
  for (int k = 0; k < 12; ++k) {
    const double sum = block_sum<kThreadBlock>(sums[k]);
    if (threadIdx.x == 0) p.grad_matrices[12 * picture + k] = static_cast<scalar_t>(sum);
  }
}

// What an op's kernels found, and where it goes: outputs that are not set.
struct PulledBack {
  const Tensor &vertices, &projections;
  const Tensor &grad_vertices, &grad_projections;
  int64_t count;
  const int64_t* begins;  // as in PullParams, and the next two
  int64_t* vertex;
  Vec3<double>* grad;
};

template <typename scalar_t>
void sum_pulls(const CudaContext& cuda, Scratch& scratch, const PulledBack& found,
               bool deterministic) {
  PullParams<scalar_t> p{};
  p.count = found.count;
  p.pictures = found.projections.size(0);
  p.vertex_count = found.vertices.size(0);
  p.points = static_cast<const scalar_t*>(found.vertices.const_data_ptr());
  p.matrices = static_cast<const scalar_t*>(found.projections.const_data_ptr());
  p.begins = found.begins;
  p.vertex = found.vertex;
  p.grad = found.grad;
  p.grad_vertices = static_cast<scalar_t*>(found.grad_vertices.mutable_data_ptr());
  p.grad_matrices = static_cast<scalar_t*>(found.grad_projections.mutable_data_ptr());
  launch(pull_matrix_kernel<scalar_t>, grid_for(p.pictures, 1), kThreadBlock, 0, cuda.stream, p);
  p.sums = scratch.take_zeros<double>(3 * p.vertex_count);
  if (!deterministic) {
    launch_by_thread(pull_atomic_kernel<scalar_t>, p.count, cuda, p);
  } else if (p.count > 0) {
    p.order = scratch.take<int64_t>(p.count);
    launch_by_thread(pull_count_kernel<scalar_t>, p.count, cuda, p);
    auto* vertex = scratch.take<int64_t>(p.count);
    auto* order = scratch.take<int64_t>(p.count);
    sort_pairs(cuda, p.vertex, vertex, p.order, order, p.count, 64);
    p.vertex = vertex;
    p.order = order;
    launch_by_thread(pull_ordered_kernel<scalar_t>, p.count, cuda, p);
  }
  launch_by_thread(pull_store_kernel<scalar_t>, 3 * p.vertex_count, cuda, p);
}

}  // namespace diffiso
