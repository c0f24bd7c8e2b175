// SPDX-License-Identifier: Apache-2.0
// What silhouettes ask of their tensors, as checks.h, and how pictures and meshes go together.
#pragma once

#include "common/checks.h"
#include "core/soft_silhouette.h"

namespace diffiso {

constexpr int64_t kMostFacesPerPixel = 128;

// Calls f with the indices of faces, int64 or int32.
template <typename F>
void dispatch_index(const Tensor& faces, F&& f) {
  if (faces.scalar_type() == DType::Int) {
    f(static_cast<const int32_t*>(faces.const_data_ptr()));
  } else {
    f(static_cast<const int64_t*>(faces.const_data_ptr()));
  }
}

// Calls f with the number of samples, which check_samples has passed, as a constant.
template <typename F>
auto dispatch_samples(int64_t samples, F&& f) {
  switch (samples) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 4:
      return f.template operator()<4>();
    case 8:
      return f.template operator()<8>();
    case 16:
      return f.template operator()<16>();
    case 32:
      return f.template operator()<32>();
    default:
      return f.template operator()<64>();
  }
}

// Meshes packed one after the other, and the cameras that see them: N / B in a row each mesh.
struct SeenMeshes {
  const Tensor &vertices, &faces, &projections, &vertex_offsets, &face_offsets;
};

struct PictureLayout {
  int64_t meshes, pictures, height, width;

  int64_t mesh(int64_t picture) const { return picture / (pictures / meshes); }
};

inline void check_offsets_tensor(const char* op, const char* name, const Tensor& vertices,
                                 const Tensor& offsets) {
  check_same_device(op, vertices, name, offsets, "vertices");
  check_dtype(op, name, offsets, DType::Long);
  check(offsets.dim() == 1 && offsets.size(0) > 0 && offsets.is_contiguous(), op, ": ", name,
        " must be contiguous (B + 1,), got ", shape_of(offsets));
}

inline void check_rows(const char* op, const char* name, const Tensor& tensor, int64_t columns) {
  check(tensor.dim() == 2 && tensor.size(1) == columns && tensor.is_contiguous(), op, ": ", name,
        " must be contiguous (", name[0] == 'v' ? "V" : "F", ", ", columns, "), got ",
        shape_of(tensor));
}

inline PictureLayout check_pictures(const char* op, const Tensor& vertices,
                                    const Tensor& projections, const Tensor& vertex_offsets,
                                    const std::vector<int64_t>& size, double near) {
  check(is_floating(vertices.scalar_type()), op,
        ": vertices must be torch.float32 or torch.float64, got ",
        dtype_name(vertices.scalar_type()));
  check_rows(op, "vertices", vertices, 3);
  check_same_device(op, vertices, "cameras", projections, "vertices");
  check_dtype(op, "cameras", projections, vertices.scalar_type());
  check(projections.dim() == 3 && projections.size(1) == 3 && projections.size(2) == 4 &&
            projections.is_contiguous(),
        op, ": cameras' matrices must be contiguous (N, 3, 4), got ", shape_of(projections));
  check_offsets_tensor(op, "vertex_offsets", vertices, vertex_offsets);
  check(size.size() == 2 && size[0] > 0 && size[1] > 0, op, ": size must be a height and a width");
  check(std::isfinite(near) && near > 0, op, ": near must be positive, got ", near);
  const PictureLayout out{vertex_offsets.size(0) - 1, projections.size(0), size[0], size[1]};
  check(out.meshes > 0 ? out.pictures % out.meshes == 0 : out.pictures == 0, op,
        ": cameras must be a multiple of the meshes, got ", out.pictures, " for ", out.meshes);
  return out;
}

inline PictureLayout check_silhouette(const char* op, const SeenMeshes& in,
                                      const std::vector<int64_t>& size, double near) {
  const PictureLayout out =
      check_pictures(op, in.vertices, in.projections, in.vertex_offsets, size, near);
  check_same_device(op, in.vertices, "faces", in.faces, "vertices");
  const DType index = in.faces.scalar_type();
  check(index == DType::Long || index == DType::Int, op,
        ": faces must be torch.int64 or torch.int32, got ", dtype_name(index));
  check_rows(op, "faces", in.faces, 3);
  check_offsets_tensor(op, "face_offsets", in.vertices, in.face_offsets);
  check(in.face_offsets.size(0) == in.vertex_offsets.size(0), op,
        ": face_offsets must be of as many meshes as vertex_offsets, got ",
        shape_of(in.face_offsets), " beside ", shape_of(in.vertex_offsets));
  return out;
}

inline void check_samples(int64_t samples) {
  bool fits = false;
  for (const int64_t power : {1, 2, 4, 8, 16, 32, 64}) fits = fits || samples == power;
  check(fits, "silhouette: samples must be a power of two up to 64, got ", samples);
}

inline void check_contours(const char* op, const Tensor& vertices, const Tensor& contours,
                           const Tensor& contour_offsets, const PictureLayout& layout) {
  check_same_device(op, vertices, "contours", contours, "vertices");
  check_dtype(op, "contours", contours, DType::Long);
  check(contours.dim() == 2 && contours.size(1) == 4 && contours.is_contiguous(), op,
        ": contours must be contiguous (E, 4), got ", shape_of(contours));
  check_offsets_tensor(op, "contour_offsets", vertices, contour_offsets);
  check(contour_offsets.size(0) == layout.pictures + 1, op,
        ": contour_offsets must be one more than the cameras, got ", shape_of(contour_offsets));
}

inline void check_contour_vertices(const ContourEdge* edges, int64_t count, int64_t vertices) {
  for (int64_t e = 0; e < count; ++e) {
    const ContourEdge& edge = edges[e];
    check(edge.a >= 0 && edge.a < vertices && edge.b >= 0 && edge.b < vertices && edge.c >= -1 &&
              edge.c < vertices,
          "silhouette_backward: contours must be what the forward gave, got vertices ", edge.a,
          ", ", edge.b, " and ", edge.c, " in row ", e);
  }
}

inline void check_picture(const char* op, const char* name, const Tensor& vertices,
                          const Tensor& picture, DType dtype, const PictureLayout& layout) {
  check_same_device(op, vertices, name, picture, "vertices");
  check_dtype(op, name, picture, dtype);
  check(picture.dim() == 3 && picture.size(0) == layout.pictures &&
            picture.size(1) == layout.height && picture.size(2) == layout.width &&
            picture.is_contiguous(),
        op, ": ", name, " must be contiguous and match the output, got ", shape_of(picture));
}

inline SoftRule check_soft(const PictureLayout& layout, double near, double sigma,
                           double blur_radius, int64_t faces_per_pixel) {
  const char* op = "soft_silhouette";
  check(std::isfinite(sigma) && sigma > 0, op, ": sigma must be positive, got ", sigma);
  check(std::isfinite(blur_radius) && blur_radius >= 0, op,
        ": blur_radius must not be negative, got ", blur_radius);
  check(faces_per_pixel > 0 && faces_per_pixel <= kMostFacesPerPixel, op,
        ": faces_per_pixel must be 1 to ", kMostFacesPerPixel, ", got ", faces_per_pixel);
  const double scale = 2.0 / static_cast<double>(std::min(layout.height, layout.width));
  return {near, sigma, blur_radius, scale, layout.height, layout.width, faces_per_pixel};
}

inline void check_soft_output(const char* op, const Tensor& vertices, const PictureLayout& layout,
                              const Tensor& grad_clear, const Tensor& clear,
                              const Tensor& cut_depth, const Tensor& cut_face) {
  check_picture(op, "grad_clear", vertices, grad_clear, vertices.scalar_type(), layout);
  check_picture(op, "clear", vertices, clear, vertices.scalar_type(), layout);
  check_picture(op, "cut_depth", vertices, cut_depth, DType::Double, layout);
  check_picture(op, "cut_face", vertices, cut_face, DType::Long, layout);
}

// Messages that need a vertex or a face, wherever it was found.
[[noreturn]] inline void refuse_vertex(int64_t vertex) {
  check(false, "silhouette: vertices and cameras must be finite, got vertex ", vertex,
        " that is not, or not as a camera sees it");
  throw;
}

[[noreturn]] inline void refuse_face(int64_t face) {
  check(false, "silhouette: faces must be indices of the vertices of their own mesh, got face ",
        face, " with others");
  throw;
}

}  // namespace diffiso
