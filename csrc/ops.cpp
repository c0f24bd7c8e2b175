// SPDX-License-Identifier: Apache-2.0
// Every op's schema: the table of contents of the C++ side. Shapes: B grids of (X, Y, Z) nodes, V
// vertices, F faces, P points. Dtypes: `values` is floating, all other floats have the dtype that
// values are computed in (float32 below float64), and indices are int64 but for int32 faces.
#include "common/torch.h"

STABLE_TORCH_LIBRARY(diffiso, m) {
  // values (B, X, Y, Z), level (B,)
  //   -> vertices (V, 3), faces (F, 3), edges (V,) or (0,), vertex_offsets (B + 1,), face_offsets
  m.def(
      "marching_cubes(Tensor values, Tensor level, float[] lower, float[] spacing, "
      "bool close_boundary, bool int32_faces, bool with_edges) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // grad_vertices (V, 3), and what the forward had and gave
  //   -> grad_values (B, X, Y, Z), grad_level (B,)
  m.def(
      "marching_cubes_backward(Tensor grad_vertices, Tensor values, Tensor level, Tensor edges, "
      "Tensor vertex_offsets, float[] spacing, bool close_boundary) -> (Tensor, Tensor)");

  // values (B, X, Y, Z), points (B, P, 3) -> sdf (B, P), gradient (B, P, 3)
  m.def(
      "sample_grid(Tensor values, Tensor points, float[] lower, float[] spacing) "
      "-> (Tensor, Tensor)");
  // grad_sdf (B, P), grad_gradient (B, P, 3) -> grad_values (B, X, Y, Z), grad_points (B, P, 3)
  m.def(
      "sample_grid_backward(Tensor? grad_sdf, Tensor? grad_gradient, Tensor values, Tensor points, "
      "float[] lower, float[] spacing, bool deterministic) -> (Tensor, Tensor)");

  // values (B, X, Y, Z), vertices (V, 3) of all grids, vertex_offsets (B + 1,) -> vertices (V, 3)
  m.def(
      "mesh_sdf(Tensor values, Tensor vertices, Tensor vertex_offsets, float[] lower, "
      "float[] spacing, bool implicit) -> Tensor");
  // grad_vertices (V, 3) -> grad_values (B, X, Y, Z)
  m.def(
      "mesh_sdf_backward(Tensor grad_vertices, Tensor values, Tensor vertices, "
      "Tensor vertex_offsets, float[] lower, float[] spacing, bool implicit, bool deterministic) "
      "-> Tensor");
}
