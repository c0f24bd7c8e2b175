// SPDX-License-Identifier: Apache-2.0
// Every op's schema: the table of contents of the C++ side. Shapes: B grids of (X, Y, Z) nodes, R
// bricks of a sparse grid, V vertices, F faces, P points. Dtypes: `values` is floating, all other floats have the dtype that
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

  // values (R, 8, 8, 8), table (TX, TY, TZ) int32, coordinates (R, 3) int32, level (1,)
  //   -> vertices (V, 3), faces (F, 3), edges (V,) or (0,)
  m.def(
      "marching_cubes_bricks(Tensor values, Tensor table, Tensor coordinates, Tensor level, "
      "int[] nodes, float[] lower, float[] spacing, bool int32_faces, bool with_edges) "
      "-> (Tensor, Tensor, Tensor)");
  // grad_vertices (V, 3), and what the forward had and gave
  //   -> grad_values (R, 8, 8, 8), grad_level (1,)
  m.def(
      "marching_cubes_bricks_backward(Tensor grad_vertices, Tensor values, Tensor table, "
      "Tensor coordinates, Tensor level, Tensor edges, int[] nodes, float[] spacing) "
      "-> (Tensor, Tensor)");

  // values (B, X, Y, Z), points (B, P, 3) -> sdf (B, P), gradient (B, P, 3)
  m.def(
      "sample_grid(Tensor values, Tensor points, float[] lower, float[] spacing) "
      "-> (Tensor, Tensor)");
  // grad_sdf (B, P), grad_gradient (B, P, 3) -> grad_values (B, X, Y, Z), grad_points (B, P, 3)
  m.def(
      "sample_grid_backward(Tensor? grad_sdf, Tensor? grad_gradient, Tensor values, Tensor points, "
      "float[] lower, float[] spacing, bool deterministic) -> (Tensor, Tensor)");

  // values (R, 8, 8, 8), table, coordinates as above, points (P, 3) -> sdf (P,), gradient (P, 3)
  m.def(
      "sample_bricks(Tensor values, Tensor table, Tensor coordinates, Tensor points, int[] nodes, "
      "float[] lower, float[] spacing) -> (Tensor, Tensor)");
  // grad_sdf (P,), grad_gradient (P, 3) -> grad_values (R, 8, 8, 8), grad_points (P, 3)
  m.def(
      "sample_bricks_backward(Tensor? grad_sdf, Tensor? grad_gradient, Tensor values, "
      "Tensor table, Tensor coordinates, Tensor points, int[] nodes, float[] lower, "
      "float[] spacing, bool deterministic) -> (Tensor, Tensor)");

  // values (B, X, Y, Z), vertices (V, 3) of all grids, vertex_offsets (B + 1,) -> vertices (V, 3)
  m.def(
      "mesh_sdf(Tensor values, Tensor vertices, Tensor vertex_offsets, float[] lower, "
      "float[] spacing, bool implicit) -> Tensor");
  // grad_vertices (V, 3) -> grad_values (B, X, Y, Z)
  m.def(
      "mesh_sdf_backward(Tensor grad_vertices, Tensor values, Tensor vertices, "
      "Tensor vertex_offsets, float[] lower, float[] spacing, bool implicit, bool deterministic) "
      "-> Tensor");

  // Tracing. R rays in all: `size` empty: origins, directions (B, P, 3); size [H, W]: of N pictures,
  // N a multiple of B, origins (N, 3) and directions (N, 3, 3), by which (x, y, 1) of a pixel's centre
  // is multiplied. `sphere` is empty, or tolerance, footprint, steps, Lipschitz bound (0: measured)
  // and whether to refine. near_footprint: (0,), or (1,) or (N,): with it the closest approach is
  // looked for.
  //   -> t (R,), status (R,) uint8, cell (R,), fraction (R, 3) or (0, 3), samples (R, 8) or (0, 8),
  //      and of the closest approach, (R,) or (0,): t, cell, kind uint8
  m.def(
      "trace(Tensor values, Tensor origins, Tensor directions, Tensor footprint, int[] size, "
      "float[] lower, float[] spacing, float level, float near, float far, int inside, "
      "float[] sphere, bool sdfdiff_law, float min_cosine, bool capture) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  //   -> grad_values (B, X, Y, Z), grad_origins, grad_directions; the last two zero unless with_rays
  m.def(
      "trace_backward(Tensor? grad_t, Tensor? grad_samples, Tensor? grad_closest_t, Tensor values, "
      "Tensor origins, Tensor directions, Tensor t, Tensor status, Tensor cell, Tensor closest_t, "
      "Tensor closest_cell, Tensor closest_kind, int[] size, float[] lower, float[] spacing, "
      "bool sdfdiff_law, float min_cosine, bool with_rays, bool deterministic) "
      "-> (Tensor, Tensor, Tensor)");
  // Normals and diffuse light at hits; light (0, 3): at the rays' origins, (1, 3), or one a grid or
  // picture -> intensity (R,), normals (R, 3)
  m.def(
      "shade(Tensor values, Tensor origins, Tensor directions, Tensor t, Tensor status, Tensor "
      "cell, "
      "Tensor light, int[] size, float[] lower, float[] spacing, float strength, bool falloff, "
      "bool central) -> (Tensor, Tensor)");
  //   -> grad_values, grad_origins, grad_directions, grad_t (R,), grad_light
  m.def(
      "shade_backward(Tensor? grad_intensity, Tensor? grad_normals, Tensor values, Tensor origins, "
      "Tensor directions, Tensor t, Tensor status, Tensor cell, Tensor light, int[] size, "
      "float[] lower, float[] spacing, float strength, bool falloff, bool central, bool with_rays, "
      "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // -> coverage (R,)
  m.def(
      "coverage(Tensor values, Tensor origins, Tensor directions, Tensor closest_t, "
      "Tensor closest_cell, Tensor footprint, int[] size, float[] lower, float[] spacing, "
      "float level, float min_slope) -> Tensor");
  //   -> grad_values, grad_origins, grad_directions, grad_closest_t (R,), grad_footprint
  m.def(
      "coverage_backward(Tensor grad_coverage, Tensor values, Tensor origins, Tensor directions, "
      "Tensor closest_t, Tensor closest_cell, Tensor footprint, int[] size, float[] lower, "
      "float[] spacing, float level, float min_slope, bool with_rays, bool deterministic) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // Silhouettes of B meshes by N pictures, N a multiple of B. projections (N, 3, 4), by which
  // (point, 1) becomes pixel times depth; size [H, W]
  //   -> coverage (N, H, W), contours (E, 4) int64: two vertices, -1 or the third of a face that the
  //      near plane cuts, and how many faces more lie to the left; contour_offsets (N + 1,)
  m.def(
      "silhouette(Tensor vertices, Tensor faces, Tensor projections, Tensor vertex_offsets, "
      "Tensor face_offsets, int[] size, float near, int samples) -> (Tensor, Tensor, Tensor)");
  // grad_coverage (N, H, W) -> grad_vertices (V, 3), grad_projections (N, 3, 4)
  m.def(
      "silhouette_backward(Tensor grad_coverage, Tensor vertices, Tensor projections, "
      "Tensor vertex_offsets, Tensor contours, Tensor contour_offsets, int[] size, float near, "
      "bool deterministic) -> (Tensor, Tensor)");

  // The same as Soft Rasterizer has it, of the nearest faces over each pixel
  //   -> clear (N, H, W): 1 - coverage, and the last face that counts: cut_depth float64, cut_face
  m.def(
      "soft_silhouette(Tensor vertices, Tensor faces, Tensor projections, Tensor vertex_offsets, "
      "Tensor face_offsets, int[] size, float near, float sigma, float blur_radius, "
      "int faces_per_pixel) -> (Tensor, Tensor, Tensor)");
  //   -> grad_vertices (V, 3), grad_projections (N, 3, 4)
  m.def(
      "soft_silhouette_backward(Tensor grad_clear, Tensor clear, Tensor cut_depth, "
      "Tensor cut_face, Tensor vertices, Tensor faces, Tensor projections, Tensor vertex_offsets, "
      "Tensor face_offsets, int[] size, float near, float sigma, float blur_radius, "
      "int faces_per_pixel, bool deterministic) -> (Tensor, Tensor)");

  // The steps of a narrow band, on values (R, 8, 8, 8), table, coordinates as above. Masks are
  // (R, 8) int64, a bit per node; `asked`: nodes that have been evaluated. None is differentiable.
  //
  // Masks of cells to keep or none, reach (8,), level
  //   -> fine values, table, coordinates, asked, and the nodes (M,) still to be evaluated
  m.def(
      "narrow_band_refine(Tensor values, Tensor table, Tensor coordinates, Tensor asked, "
      "Tensor? keep, int[] nodes, int[] fine_nodes, float[] reach, float level, bool by_bound, "
      "int dilation, bool closed) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // -> masks of the nodes to evaluate anew, of those on a side, and of those inside
  m.def(
      "narrow_band_reuse(Tensor values, Tensor table, Tensor coordinates, Tensor asked, "
      "int[] nodes, float level, float threshold) -> (Tensor, Tensor, Tensor)");
  // -> values, table, coordinates, asked, remembered, before, and the nodes (M,) still to be
  //    evaluated; all empty but the table if there is none
  m.def(
      "narrow_band_grow(Tensor values, Tensor table, Tensor coordinates, Tensor asked, "
      "Tensor remembered, Tensor before, int[] nodes, float level) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // lengths (8,) between corners of a cell, by the axes in which they differ
  //   -> the steepest pair: its slope, and both nodes (7,) float64
  m.def(
      "narrow_band_slope(Tensor values, Tensor table, Tensor coordinates, Tensor asked, "
      "int[] nodes, float[] lengths) -> Tensor");
}
