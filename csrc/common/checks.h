// SPDX-License-Identifier: Apache-2.0
// What every op asks of its tensors, in one function an op, shared by the backends. A message names
// the op, the argument, the rule and what came.
#pragma once

#include <sstream>
#include <stdexcept>

#include "common/torch.h"
#include "core/bricks.h"
#include "core/sign_words.h"

namespace diffiso {

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_of(const Tensor& tensor) {
  std::ostringstream out;
  out << "(";
  for (int64_t d = 0; d < tensor.dim(); ++d) out << (d ? ", " : "") << tensor.size(d);
  out << (tensor.dim() == 1 ? ",)" : ")");
  return out.str();
}

inline std::string dtype_name(DType dtype) {
  switch (dtype) {
    case DType::Half:
      return "torch.float16";
    case DType::BFloat16:
      return "torch.bfloat16";
    case DType::Float:
      return "torch.float32";
    case DType::Double:
      return "torch.float64";
    case DType::Int:
      return "torch.int32";
    case DType::Long:
      return "torch.int64";
    case DType::Bool:
      return "torch.bool";
    case DType::Byte:
      return "torch.uint8";
    default:
      return std::string("dtype ") + torch::headeronly::toString(dtype);
  }
}

inline bool is_floating(DType dtype) {
  return dtype == DType::Float || dtype == DType::Double;
}

// The dtype a grid is computed in.
inline DType compute_dtype(DType values) {
  return values == DType::Double ? DType::Double : DType::Float;
}

inline void check_same_device(const char* op, const Tensor& values, const char* name,
                              const Tensor& other, const char* of = "values") {
  check(values.is_cpu() == other.is_cpu() &&
            (values.is_cpu() || values.get_device_index() == other.get_device_index()),
        op, ": ", name, " must be on the device of ", of, ", got ", other.is_cpu() ? "cpu" : "cuda",
        " beside ", values.is_cpu() ? "cpu" : "cuda");
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, DType expected) {
  check(tensor.scalar_type() == expected, op, ": ", name, " must be ", dtype_name(expected),
        ", got ", dtype_name(tensor.scalar_type()));
}

// Checks the values of a batch of grids and where they lie.
inline GridShape check_grid(const char* op, const Tensor& values, const std::vector<double>& lower,
                            const std::vector<double>& spacing) {
  check(values.dim() == 4, op, ": values must be (X, Y, Z) or (B, X, Y, Z), got ",
        shape_of(values));
  check(values.is_contiguous(), op, ": values must be contiguous");
  check(lower.size() == 3 && spacing.size() == 3, op,
        ": lower and spacing must have 3 numbers, got ", lower.size(), " and ", spacing.size());
  GridShape grid{};
  grid.batch = values.size(0);
  for (int axis = 0; axis < 3; ++axis) {
    grid.size[axis] = values.size(axis + 1);
    grid.lower[axis] = lower[axis];
    grid.spacing[axis] = spacing[axis];
    check(grid.size[axis] >= 2, op, ": values must have at least 2 nodes along every axis, got ",
          shape_of(values));
    check(std::isfinite(lower[axis]), op, ": lower must be finite, got ", lower[axis]);
    check(std::isfinite(spacing[axis]) && spacing[axis] > 0, op,
          ": spacing must be positive and finite, got ", spacing[axis]);
  }
  return grid;
}

// Checks the bricks of a sparse grid and where they stand. What the table says is not read here: a
// lookup of a number that no brick has finds nothing.
inline BrickShape check_bricks(const char* op, const Tensor& values, const Tensor& table,
                               const Tensor& coordinates, const std::vector<int64_t>& nodes,
                               const std::vector<double>& lower,
                               const std::vector<double>& spacing) {
  check(values.dim() == 4 && values.size(1) == kBrickSize && values.size(2) == kBrickSize &&
            values.size(3) == kBrickSize && values.is_contiguous(),
        op, ": values must be contiguous (R, 8, 8, 8), got ", shape_of(values));
  check(nodes.size() == 3 && lower.size() == 3 && spacing.size() == 3, op,
        ": nodes, lower and spacing must have 3 numbers, got ", nodes.size(), ", ", lower.size(),
        " and ", spacing.size());
  check_same_device(op, values, "table", table);
  check_same_device(op, values, "coordinates", coordinates);
  check_dtype(op, "table", table, DType::Int);
  check_dtype(op, "coordinates", coordinates, DType::Int);
  check(coordinates.dim() == 2 && coordinates.size(0) == values.size(0) &&
            coordinates.size(1) == 3 && coordinates.is_contiguous(),
        op, ": coordinates must be contiguous (R, 3) as values, got ", shape_of(coordinates));
  check(table.dim() == 3 && table.is_contiguous(), op,
        ": table must be contiguous (TX, TY, TZ), got ", shape_of(table));
  BrickShape bricks{};
  bricks.count = values.size(0);
  bricks.table = static_cast<const int32_t*>(table.const_data_ptr());
  bricks.coordinates = static_cast<const int32_t*>(coordinates.const_data_ptr());
  for (int axis = 0; axis < 3; ++axis) {
    bricks.nodes[axis] = nodes[axis];
    bricks.tiles[axis] = table.size(axis);
    bricks.lower[axis] = lower[axis];
    bricks.spacing[axis] = spacing[axis];
    check(nodes[axis] >= 2, op, ": nodes must be at least 2 along every axis, got ", nodes[axis]);
    check(table.size(axis) == (nodes[axis] + kBrickSize - 1) / kBrickSize, op,
          ": table must cover the nodes with bricks of 8, got ", shape_of(table), " for ",
          nodes[axis], " nodes along axis ", axis);
    check(std::isfinite(lower[axis]), op, ": lower must be finite, got ", lower[axis]);
    check(std::isfinite(spacing[axis]) && spacing[axis] > 0, op,
          ": spacing must be positive and finite, got ", spacing[axis]);
  }
  return bricks;
}

inline void check_masks(const char* op, const Tensor& values, const char* name,
                        const Tensor& masks) {
  check_same_device(op, values, name, masks);
  check_dtype(op, name, masks, DType::Long);
  check(masks.dim() == 2 && masks.size(0) == values.size(0) && masks.size(1) == kBrickSize &&
            masks.is_contiguous(),
        op, ": ", name, " must be contiguous (R, 8) as values, got ", shape_of(masks));
}

inline BrickShape check_narrow_band(const char* op, const Tensor& values, const Tensor& table,
                                    const Tensor& coordinates, const std::vector<int64_t>& nodes,
                                    const Tensor& asked) {
  const BrickShape bricks =
      check_bricks(op, values, table, coordinates, nodes, {0, 0, 0}, {1, 1, 1});
  check_masks(op, values, "asked", asked);
  return bricks;
}

inline void check_refinement(const Tensor& values, const std::optional<Tensor>& keep,
                             const std::vector<int64_t>& nodes,
                             const std::vector<int64_t>& fine_nodes,
                             const std::vector<double>& reach, int64_t dilation) {
  const char* op = "narrow_band_refine";
  if (keep) check_masks(op, values, "keep", *keep);
  check(fine_nodes.size() == 3, op, ": fine_nodes must have 3 numbers, got ", fine_nodes.size());
  for (int axis = 0; axis < 3; ++axis) {
    check(fine_nodes[axis] / 2 + 1 == nodes[axis], op,
          ": fine_nodes must have two cells for each of nodes, the last may have one, got ",
          fine_nodes[axis], " beside ", nodes[axis]);
  }
  check(reach.size() == 8, op, ": reach must have 8 numbers, got ", reach.size());
  check(dilation >= 0, op, ": dilation must not be negative, got ", dilation);
}

inline void check_lengths(const std::vector<double>& lengths) {
  check(lengths.size() == 8, "narrow_band_slope: lengths must have 8 numbers, got ",
        lengths.size());
}

// Of both kinds of marching cubes.
inline void check_samples_and_level(const char* op, const Tensor& values, const Tensor& level) {
  const DType dtype = values.scalar_type();
  check(is_floating(dtype) || dtype == DType::Half || dtype == DType::BFloat16, op,
        ": values must be torch.float16, bfloat16, float32 or float64, got ", dtype_name(dtype));
  check_same_device(op, values, "level", level);
  check_dtype(op, "level", level, compute_dtype(dtype));
  check(level.is_contiguous(), op, ": level must be contiguous");
}

inline GridShape check_marching_cubes(const Tensor& values, const Tensor& level,
                                      const std::vector<double>& lower,
                                      const std::vector<double>& spacing) {
  const char* op = "marching_cubes";
  check_samples_and_level(op, values, level);
  const GridShape grid = check_grid(op, values, lower, spacing);
  check(level.dim() == 1 && level.size(0) == grid.batch, op, ": level must be a number or (B,) = (",
        grid.batch, ",), got ", shape_of(level));
  return grid;
}

inline BrickShape check_marching_cubes_bricks(const Tensor& values, const Tensor& table,
                                              const Tensor& coordinates, const Tensor& level,
                                              const std::vector<int64_t>& nodes,
                                              const std::vector<double>& lower,
                                              const std::vector<double>& spacing) {
  const char* op = "marching_cubes";
  check_samples_and_level(op, values, level);
  const BrickShape bricks = check_bricks(op, values, table, coordinates, nodes, lower, spacing);
  check(level.dim() == 1 && level.size(0) == 1, op,
        ": level must be a number or (1,) for bricks, got ", shape_of(level));
  return bricks;
}

inline void check_level_is_number(bool nan) {
  check(!nan, "marching_cubes: level must be a number, got nan");
}

inline void check_index_range(int64_t vertices, bool int32_faces) {
  check(!int32_faces || vertices <= INT32_MAX,
        "marching_cubes: index_dtype torch.int32 holds at most 2147483647 vertices, got ", vertices,
        "; use torch.int64");
}

inline void check_vertices_and_edges(const char* op, const Tensor& values,
                                     const Tensor& grad_vertices, const Tensor& edges) {
  check_same_device(op, values, "grad_vertices", grad_vertices);
  check_dtype(op, "grad_vertices", grad_vertices, compute_dtype(values.scalar_type()));
  check(grad_vertices.dim() == 2 && grad_vertices.size(1) == 3 && grad_vertices.is_contiguous(), op,
        ": grad_vertices must be contiguous (V, 3), got ", shape_of(grad_vertices));
  check_same_device(op, values, "edges", edges);
  check_dtype(op, "edges", edges, DType::Long);
  check(edges.dim() == 1 && edges.size(0) == grad_vertices.size(0) && edges.is_contiguous(), op,
        ": edges must be contiguous (V,) as grad_vertices, got ", shape_of(edges));
}

inline GridShape check_marching_cubes_backward(const Tensor& grad_vertices, const Tensor& values,
                                               const Tensor& level, const Tensor& edges,
                                               const Tensor& vertex_offsets,
                                               const std::vector<double>& spacing) {
  const char* op = "marching_cubes_backward";
  const GridShape grid = check_marching_cubes(values, level, {0, 0, 0}, spacing);
  check_vertices_and_edges(op, values, grad_vertices, edges);
  check_same_device(op, values, "vertex_offsets", vertex_offsets);
  check_dtype(op, "vertex_offsets", vertex_offsets, DType::Long);
  check(vertex_offsets.dim() == 1 && vertex_offsets.size(0) == grid.batch + 1, op,
        ": vertex_offsets must be (B + 1,), got ", shape_of(vertex_offsets));
  check(vertex_offsets.is_contiguous(), op, ": vertex_offsets must be contiguous");
  return grid;
}

inline BrickShape check_marching_cubes_bricks_backward(const Tensor& grad_vertices,
                                                       const Tensor& values, const Tensor& table,
                                                       const Tensor& coordinates,
                                                       const Tensor& level, const Tensor& edges,
                                                       const std::vector<int64_t>& nodes,
                                                       const std::vector<double>& spacing) {
  const BrickShape bricks =
      check_marching_cubes_bricks(values, table, coordinates, level, nodes, {0, 0, 0}, spacing);
  check_vertices_and_edges("marching_cubes_bricks_backward", values, grad_vertices, edges);
  return bricks;
}

inline void check_sampled(const char* op, const Tensor& values, const Tensor& points) {
  check(is_floating(values.scalar_type()), op,
        ": values must be torch.float32 or torch.float64, got ", dtype_name(values.scalar_type()));
  check_same_device(op, values, "points", points);
  check_dtype(op, "points", points, values.scalar_type());
  check(points.is_contiguous(), op, ": points must be contiguous");
}

inline void check_sample_grid(const Tensor& values, const Tensor& points) {
  check_sampled("sample_grid", values, points);
  check(points.dim() == 3 && points.size(2) == 3 && points.size(0) == values.size(0),
        "sample_grid: points must be (P, 3), or (B, P, 3) with the batch of values, got ",
        shape_of(points));
}

inline void check_sample_bricks(const Tensor& values, const Tensor& points) {
  check_sampled("sample_bricks", values, points);
  check(points.dim() == 2 && points.size(1) == 3, "sample_bricks: points must be (P, 3), got ",
        shape_of(points));
}

inline void check_gradient(const char* op, const char* name, const Tensor& grad, const Tensor& of,
                           int64_t dims) {
  check_same_device(op, of, name, grad);
  check_dtype(op, name, grad, of.scalar_type());
  bool same = grad.dim() == dims && grad.is_contiguous();
  for (int64_t d = 0; same && d < dims; ++d) same = grad.size(d) == of.size(d);
  check(same, op, ": ", name, " must be contiguous and match the output, got ", shape_of(grad));
}

inline void check_sample_gradients(const char* op, const std::optional<Tensor>& grad_sdf,
                                   const std::optional<Tensor>& grad_gradient,
                                   const Tensor& points) {
  if (grad_sdf) check_gradient(op, "grad_sdf", *grad_sdf, points, points.dim() - 1);
  if (grad_gradient) check_gradient(op, "grad_gradient", *grad_gradient, points, points.dim());
}

inline void check_mesh_sdf(const Tensor& values, const Tensor& vertices,
                           const Tensor& vertex_offsets) {
  const char* op = "mesh_sdf";
  check(is_floating(values.scalar_type()), op,
        ": values must be torch.float32 or torch.float64, got ", dtype_name(values.scalar_type()));
  check_same_device(op, values, "vertices", vertices);
  check_same_device(op, values, "vertex_offsets", vertex_offsets);
  check_dtype(op, "vertices", vertices, values.scalar_type());
  check(values.size(0) > 0 || vertices.size(0) == 0, op,
        ": vertices must be empty for a batch without grids, got ", shape_of(vertices));
  check(vertices.dim() == 2 && vertices.size(1) == 3, op, ": vertices must be (V, 3), got ",
        shape_of(vertices));
  check(vertices.is_contiguous(), op, ": vertices must be contiguous");
  check_dtype(op, "vertex_offsets", vertex_offsets, DType::Long);
  check(vertex_offsets.dim() == 1 && vertex_offsets.size(0) == values.size(0) + 1, op,
        ": vertex_offsets must be (B + 1,), got ", shape_of(vertex_offsets));
  check(vertex_offsets.is_contiguous(), op, ": vertex_offsets must be contiguous");
}

// Offsets cut rows into one run for each of a batch. Where offsets lie on a GPU nobody waits to look.
inline void check_offsets(const char* op, const int64_t* offsets, int64_t batch, int64_t rows,
                          const char* name = "vertex_offsets", const char* of = "vertices") {
  bool sorted = offsets[0] == 0 && offsets[batch] == rows;
  for (int64_t b = 0; b < batch; ++b) sorted = sorted && offsets[b] <= offsets[b + 1];
  check(sorted, op, ": ", name, " must rise from 0 to the number of ", of, ", got ", offsets[0],
        " to ", offsets[batch], " for ", rows);
}

// Edge ids name edges of the lattice, in the order in which the forward gives them: by row.
inline void check_edges(const char* op, const int64_t* edges, int64_t count,
                        const Lattice& lattice) {
  const int64_t ids_per_row = 3 * lattice.size[2];
  const int64_t most = lattice.rows() * ids_per_row;
  int64_t row_begin = 0;
  for (int64_t v = 0; v < count; ++v) {
    check(edges[v] >= row_begin && edges[v] < most, op,
          ": edges must be ids that marching_cubes gave, in its order, got ", edges[v], " at ", v);
    if (edges[v] - row_begin >= ids_per_row) row_begin = edges[v] / ids_per_row * ids_per_row;
  }
}

}  // namespace diffiso
