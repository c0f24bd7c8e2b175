// SPDX-License-Identifier: Apache-2.0
// Meshes as cameras see them, and their contour edges.
//
// Every face, taken counter-clockwise in the picture, is bounded by three directed edges. Where two
// faces lie side by side theirs are opposite and cancel; what remains, with how often it remains,
// are the contour edges. The number of faces over a point of the picture changes only across them,
// so that the few thousand contour edges of a mesh say where all its faces are. This holds for any
// faces: open, of either winding, more than two on an edge.
#pragma once

#include "core/vec3.h"

namespace diffiso {

// A vertex before a camera: where it appears, in pixels, and its depth. Of one that is nearer than
// the near plane x and y are still to be divided by depth.
struct SeenPoint {
  double x, y, depth;
};

// The part of the picture's plane that an edge goes along.
struct Segment {
  double x0, y0, x1, y1;

  DIFFISO_HD double length() const {
    return std::sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0));
  }
};

// A camera: (x, y, depth) = matrix * (point, 1), with x and y in pixels times depth.
template <typename scalar_t>
DIFFISO_HD SeenPoint see(const scalar_t* matrix, Vec3<scalar_t> point, double near) {
  double at[3];
  for (int row = 0; row < 3; ++row) {
    const scalar_t* m = matrix + 4 * row;
    at[row] = double{m[0]} * double{point.x} + double{m[1]} * double{point.y} +
              double{m[2]} * double{point.z} + double{m[3]};
  }
  if (!(at[2] >= near)) return {at[0], at[1], at[2]};
  return {at[0] / at[2], at[1] / at[2], at[2]};
}

// Vertices before a camera, one by one.
template <typename scalar_t>
struct Sight {
  const scalar_t* vertices;
  const scalar_t* matrix;
  double near;

  DIFFISO_HD SeenPoint operator()(int64_t vertex) const {
    return see(matrix, load_vec3(vertices, vertex), near);
  }
};

DIFFISO_HD bool is_finite(SeenPoint p) {
  return p.x * 0 + p.y * 0 + p.depth * 0 == 0;
}

DIFFISO_HD Vec3<double> undivided(SeenPoint p, double near) {
  return p.depth >= near ? Vec3<double>{p.x * p.depth, p.y * p.depth, p.depth}
                         : Vec3<double>{p.x, p.y, p.depth};
}

// 1 or -1 by the side from which a face is seen, 0 if it covers nothing.
DIFFISO_HD int facing(SeenPoint a, SeenPoint b, SeenPoint c, double near) {
  const int in_front = (a.depth >= near) + (b.depth >= near) + (c.depth >= near);
  if (in_front == 0) return 0;
  double area;
  if (in_front == 3) {
    area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
  } else {
    const Vec3<double> u = undivided(a, near), v = undivided(b, near), w = undivided(c, near);
    area = u.x * (v.y * w.z - v.z * w.y) + u.y * (v.z * w.x - v.x * w.z) +
           u.z * (v.x * w.y - v.y * w.x);
  }
  return (area > 0) - (area < 0);
}

// Whether a face has fewer than three corners: rounding must not make it cover anything.
DIFFISO_HD bool is_collapsed(const int64_t* corners) {
  return corners[0] == corners[1] || corners[1] == corners[2] || corners[2] == corners[0];
}

// Which corner of a face lies alone on its side of the near plane, or -1 if all lie on one side.
DIFFISO_HD int lone_corner(SeenPoint a, SeenPoint b, SeenPoint c, double near) {
  const bool first = a.depth >= near, second = b.depth >= near, third = c.depth >= near;
  if (first == second && second == third) return -1;
  return second == third ? 0 : first == third ? 1 : 2;
}

// A vertex's number in sums over the edges around it: those of a vertex whose edges all cancel
// come to zero, and no others but once in 2^64.
DIFFISO_HD uint64_t fingerprint(int64_t vertex) {
  uint64_t n = static_cast<uint64_t>(vertex) + 0x9e3779b97f4a7c15u;
  n = (n ^ (n >> 30)) * 0xbf58476d1ce4e5b9u;
  n = (n ^ (n >> 27)) * 0x94d049bb133111ebu;
  return n ^ (n >> 31);
}

// What a face adds to the sum at its k-th corner.
DIFFISO_HD uint64_t edge_sum(const int64_t* corners, int k, int facing) {
  const uint64_t sum = fingerprint(corners[(k + 1) % 3]) - fingerprint(corners[(k + 2) % 3]);
  return facing > 0 ? sum : 0 - sum;
}

// Where the edge from one vertex in front of the near plane to one behind it is cut, as a share of
// the way back.
DIFFISO_HD double share_of_cut(SeenPoint front, SeenPoint behind, double near) {
  return (near - behind.depth) / (front.depth - behind.depth);
}

// A contour edge: from vertex a to b; or, if c is not negative, the cut that the near plane makes
// through the face of a, b and c, from the edge between a and b to that between a and c. So many
// more faces lie to its left than to its right, in a picture whose y points up.
struct ContourEdge {
  int64_t a, b, c, count;
};

// The cut of a face that has corners on both sides of the near plane.
DIFFISO_HD ContourEdge cut_of_face(const int64_t* corners, SeenPoint a, SeenPoint b, SeenPoint c,
                                   int facing, double near) {
  const int lone = lone_corner(a, b, c, near);
  const SeenPoint apex = lone == 0 ? a : lone == 1 ? b : c;
  return {corners[lone], corners[(lone + 1) % 3], corners[(lone + 2) % 3],
          apex.depth >= near ? facing : -facing};
}

// One end of a contour edge, and what moves it: the vertex `self`, or both where it is a cut.
struct ContourEnd {
  int64_t self, other;  // other: -1 unless it is a cut, then the vertex behind the near plane
  double x, y;
};

DIFFISO_HD ContourEnd contour_end(int64_t p, int64_t q, SeenPoint at_p, SeenPoint at_q,
                                  double near) {
  const bool p_in_front = at_p.depth >= near;
  const SeenPoint front = p_in_front ? at_p : at_q, behind = p_in_front ? at_q : at_p;
  const double t = share_of_cut(front, behind, near);
  const Vec3<double> f = undivided(front, near), b = undivided(behind, near);
  return {p_in_front ? p : q, p_in_front ? q : p, (b.x + t * (f.x - b.x)) / near,
          (b.y + t * (f.y - b.y)) / near};
}

// Both ends of a contour edge, by seen(vertex). Of an edge behind the near plane there are none.
struct ContourEnds {
  ContourEnd first, last;
  bool any;

  template <typename Seen>
  DIFFISO_HD ContourEnds(const ContourEdge& edge, const Seen& seen, double near) : any(true) {
    const SeenPoint a = seen(edge.a), b = seen(edge.b);
    if (edge.c >= 0) {
      first = contour_end(edge.a, edge.b, a, b, near);
      last = contour_end(edge.a, edge.c, a, seen(edge.c), near);
      return;
    }
    const bool a_in_front = a.depth >= near, b_in_front = b.depth >= near;
    any = a_in_front || b_in_front;
    first = last = {edge.a, -1, a.x, a.y};
    if (!any) return;
    if (b_in_front) last = {edge.b, -1, b.x, b.y};
    if (a_in_front != b_in_front) {
      (a_in_front ? last : first) = contour_end(edge.a, edge.b, a, b, near);
    }
  }

  DIFFISO_HD Segment segment() const { return {first.x, first.y, last.x, last.y}; }
};

// What a vertex in front of the near plane receives, as (x, y, depth) of the camera's matrix, when
// its place in the picture receives (x, y).
DIFFISO_HD Vec3<double> pull_back(SeenPoint at, double grad_x, double grad_y) {
  return {grad_x / at.depth, grad_y / at.depth, -(grad_x * at.x + grad_y * at.y) / at.depth};
}

// What a coordinate of a point receives when (x, y, depth) of a camera's matrix do.
template <typename scalar_t>
DIFFISO_HD double pull_back(const scalar_t* matrix, Vec3<double> grad, int axis) {
  double sum = 0;
  for (int row = 0; row < 3; ++row) sum += grad[row] * double{matrix[4 * row + axis]};
  return sum;
}

// The same of both vertices of an end, before the matrix.
struct EndGradient {
  Vec3<double> self, other;

  DIFFISO_HD EndGradient(const ContourEnd& end, SeenPoint self_at, SeenPoint other_at, double near,
                         double grad_x, double grad_y) {
    other = {0, 0, 0};
    if (end.other < 0) {
      self = pull_back(self_at, grad_x, grad_y);
      return;
    }
    const double t = share_of_cut(self_at, other_at, near);
    const Vec3<double> f = undivided(self_at, near), b = undivided(other_at, near);
    const double along = (grad_x * (f.x - b.x) + grad_y * (f.y - b.y)) / near;
    const double per_depth = along / (f.z - b.z);
    self = {t * grad_x / near, t * grad_y / near, -t * per_depth};
    other = {(1 - t) * grad_x / near, (1 - t) * grad_y / near, -(1 - t) * per_depth};
  }
};

}  // namespace diffiso
