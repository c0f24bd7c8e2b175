// SPDX-License-Identifier: Apache-2.0
// Soft Rasterizer's silhouette (Liu et al. 2019, equations 1 and 3), with PyTorch3D's parameters: a
// face covers a pixel by the sigmoid of its signed squared distance in the picture, and a pixel is
// clear where none of the nearest faces over it covers it. Distances are between pixel centres and
// faces, in units in which the shorter side of the picture is 2 long.
#pragma once

#include "core/contours.h"

namespace diffiso {

struct SoftRule {
  double near, sigma, blur_radius;  // blur_radius: of squared distances
  double scale;                     // units per pixel
  int64_t height, width, faces_per_pixel;
};

// What a pixel and a face are to each other.
struct SoftCover {
  bool any;
  double distance;  // signed and squared, negative inside
  double depth;     // of the face there
  int edge;         // from which corner the nearest edge begins
  double share;     // how far along it the nearest point lies
};

// Which pixels a face may reach, and its corners in units from the picture's upper left corner.
struct SoftFace {
  double x[3], y[3], depth[3], area;
  int64_t first_row, last_row, first_column, last_column;  // none if last_row < first_row

  DIFFISO_HD SoftFace(const SoftRule& rule, SeenPoint a, SeenPoint b, SeenPoint c)
      : first_row(0), last_row(-1), first_column(0), last_column(-1) {
    constexpr double kLeastArea = 1e-8;
    const SeenPoint corners[3] = {a, b, c};
    bool in_front = true;
    for (int k = 0; k < 3; ++k) {
      x[k] = corners[k].x * rule.scale;
      y[k] = corners[k].y * rule.scale;
      depth[k] = corners[k].depth;
      in_front = in_front && corners[k].depth >= rule.near;
    }
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0]);
    const double size = area < 0 ? -area : area;
    if (!in_front || !(size > kLeastArea)) return;
    const double margin = std::sqrt(rule.blur_radius);
    const auto least = [](const double* v) { return min_of(v[0], min_of(v[1], v[2])); };
    const auto most = [](const double* v) { return -min_of(-v[0], min_of(-v[1], -v[2])); };
    span(least(y) - margin, most(y) + margin, rule.scale, rule.height, first_row, last_row);
    span(least(x) - margin, most(x) + margin, rule.scale, rule.width, first_column, last_column);
    if (last_column < first_column) last_row = first_row - 1;
  }

  DIFFISO_HD SoftCover cover(const SoftRule& rule, int64_t row, int64_t column) const {
    const double px = (static_cast<double>(column) + 0.5) * rule.scale;
    const double py = (static_cast<double>(row) + 0.5) * rule.scale;
    SoftCover out{false, 0, 0, 0, 0};
    double weight[3];
    bool inside = true;
    for (int k = 0; k < 3; ++k) {
      const int i = (k + 1) % 3, j = (k + 2) % 3;
      weight[k] = ((x[i] - px) * (y[j] - py) - (y[i] - py) * (x[j] - px)) / area;
      inside = inside && weight[k] > 0;
    }
    double nearest = -1;
    for (int k = 0; k < 3; ++k) {
      const int j = (k + 1) % 3;
      const double ex = x[j] - x[k], ey = y[j] - y[k], square = ex * ex + ey * ey;
      double t = square > 0 ? ((px - x[k]) * ex + (py - y[k]) * ey) / square : 0;
      t = t < 0 ? 0 : t > 1 ? 1 : t;
      const double dx = px - (x[k] + t * ex), dy = py - (y[k] + t * ey);
      const double distance = dx * dx + dy * dy;
      if (nearest >= 0 && !(distance < nearest)) continue;
      nearest = distance;
      out.edge = k;
      out.share = t;
    }
    out.any = inside || nearest < rule.blur_radius;
    out.distance = inside ? -nearest : nearest;
    out.depth = depth_at(weight);
    return out;
  }

  // Which way the two ends of the nearest edge move the squared distance, of which `cover` has
  // the sign.
  DIFFISO_HD void gradient(const SoftRule& rule, int64_t row, int64_t column,
                           const SoftCover& cover, double grad, double* grad_x,
                           double* grad_y) const {
    const double px = (static_cast<double>(column) + 0.5) * rule.scale;
    const double py = (static_cast<double>(row) + 0.5) * rule.scale;
    const int k = cover.edge, j = (k + 1) % 3;
    const double t = cover.share, way = cover.distance < 0 ? 2 : -2;
    const double gx = grad * way * (px - (x[k] + t * (x[j] - x[k])));
    const double gy = grad * way * (py - (y[k] + t * (y[j] - y[k])));
    grad_x[k] += gx * (1 - t);
    grad_y[k] += gy * (1 - t);
    grad_x[j] += gx * t;
    grad_y[j] += gy * t;
  }

 private:
  DIFFISO_HD static double min_of(double a, double b) { return a < b ? a : b; }
  // The pixels of which centres lie between two coordinates.
  DIFFISO_HD static void span(double low, double high, double scale, int64_t count, int64_t& first,
                              int64_t& last) {
    const double most = static_cast<double>(count - 1);
    const double from = std::ceil(low / scale - 0.5), to = std::floor(high / scale - 0.5);
    if (!(from <= most && to >= 0)) return;
    first = from > 0 ? static_cast<int64_t>(from) : 0;
    last = to < most ? static_cast<int64_t>(to) : count - 1;
  }
  // Perspective weights, those of the face's nearest part where the pixel lies beside it.
  DIFFISO_HD double depth_at(const double* weight) const {
    double sum = 0, part[3];
    for (int k = 0; k < 3; ++k) sum += part[k] = weight[k] / depth[k];
    double total = 0, at = 0;
    for (int k = 0; k < 3; ++k) {
      double share = part[k] / sum;
      share = share > 0 ? share < 1 ? share : 1 : 0;
      total += share;
      at += share * depth[k];
    }
    return total > 0 ? at / total : depth[0];
  }
};

// How much of a pixel a face leaves clear: 1 - sigmoid(-distance / sigma).
DIFFISO_HD double clear_share(double distance, double sigma) {
  return 1 / (1 + std::exp(-distance / sigma));
}

// Faces over a pixel by depth, then by number: the last that still counts.
struct SoftCut {
  double depth;
  int64_t face;

  DIFFISO_HD bool keeps(double at, int64_t of) const {
    return at < depth || (at == depth && of <= face);
  }
};

// A picture as the forward left it, and what it receives.
template <typename scalar_t>
struct SoftPicture {
  const scalar_t* __restrict__ grad;  // (H, W), as the next three
  const scalar_t* __restrict__ clear;
  const double* __restrict__ cut_depth;
  const int64_t* __restrict__ cut_face;
};

// What a face's corners receive, in units of the face; number: of the face within its mesh.
template <typename scalar_t>
DIFFISO_HD void pull_soft_face(const SoftRule& rule, const SoftFace& face, int64_t number,
                               const SoftPicture<scalar_t>& picture, double* grad_x,
                               double* grad_y) {
  for (int64_t row = face.first_row; row <= face.last_row; ++row) {
    for (int64_t column = face.first_column; column <= face.last_column; ++column) {
      const int64_t pixel = row * rule.width + column;
      const double g = double{picture.grad[pixel]} * double{picture.clear[pixel]};
      if (g == 0) continue;
      const SoftCover cover = face.cover(rule, row, column);
      const SoftCut cut{picture.cut_depth[pixel], picture.cut_face[pixel]};
      if (!cover.any || !cut.keeps(cover.depth, number)) continue;
      // d log(clear) / d distance = (1 - clear) / sigma of this face.
      const double covered = 1 - clear_share(cover.distance, rule.sigma);
      face.gradient(rule, row, column, cover, g * covered / rule.sigma, grad_x, grad_y);
    }
  }
}

}  // namespace diffiso
