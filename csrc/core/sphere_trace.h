// SPDX-License-Identifier: Apache-2.0
// Sphere tracing (Hart 1996; SDFDiff, section 4): a ray steps as far as the field says that nothing is
// near, and stops where it says that something is.
#pragma once

#include "core/trace.h"

namespace diffiso {

struct SphereRule {
  double tolerance, footprint;  // a hit is where the field is at most tolerance + footprint * t
  int64_t steps;                // at most
  double lipschitz;             // the field changes at most so much per world unit
  bool refine;                  // look for the crossing from there

  DIFFISO_HD double reached(double t) const { return tolerance + footprint * t; }
};

// A ray stands somewhere in a grid.
template <typename scalar_t>
struct FieldAlong {
  int32_t cell[3];
  Vec3<scalar_t> fraction;
  scalar_t value;  // less the level; NaN in a gap

  DIFFISO_HD FieldAlong(const TracedGrid<scalar_t>& grid, const RayPath<scalar_t>& ray,
                        scalar_t along) {
    for (int a = 0; a < 3; ++a) {
      const scalar_t at = ray.entry[a] + along * ray.way[a];
      const scalar_t last = static_cast<scalar_t>(grid.cells[a]);
      const scalar_t inside = at > 0 ? (at < last ? at : last) : scalar_t{0};
      const int32_t floored = static_cast<int32_t>(inside);
      cell[a] = floored < grid.cells[a] ? floored : grid.cells[a] - 1;
      fraction[a] = inside - static_cast<scalar_t>(cell[a]);
    }
    const scalar_t* samples = grid.values + index_of(cell, grid.stride, cell[2]);
    scalar_t sum = 0;
    for (int c = 0; c < 8; ++c) {
      scalar_t weight = 1;
      for (int a = 0; a < 3; ++a) weight *= c >> (2 - a) & 1 ? fraction[a] : 1 - fraction[a];
      sum += weight * (samples[grid.corner(c)] - grid.level);
    }
    value = sum * 0 == 0 ? sum : static_cast<scalar_t>(NAN);
  }
};

// The first crossing to the given side within a few cells from a place on the ray, exactly.
template <typename scalar_t>
DIFFISO_HD Hit<scalar_t> find_crossing(const TracedGrid<scalar_t>& grid,
                                       const RayPath<scalar_t>& ray, scalar_t from, scalar_t to,
                                       bool leaves) {
  Walk<scalar_t> walk(ray, grid.cells, true);
  const FieldAlong<scalar_t> start(grid, ray, from);
  for (int a = 0; a < 3; ++a) walk.cell[a] = start.cell[a];
  walk.along = from;
  if (from > 0) walk.axis = -1;
  Hit<scalar_t> hit;
  while (walk.active && walk.along <= to && !hit.found()) {
    const Leave<scalar_t> leave = leave_cell(walk);
    const CellVisit<scalar_t> visit(grid, walk, leave);
    if (!visit.present) break;
    const CellPath<scalar_t> path(visit.samples, visit.first, visit.last);
    const bool beyond = (path.b[0] < 0) != leaves;
    const scalar_t share = beyond ? scalar_t{0} : path.crossing(!leaves, scalar_t{0});
    if (share >= 0) {
      hit.status = static_cast<int>(leaves ? RayStatus::kExit : RayStatus::kHit);
      hit.along = mix(visit.from, visit.to, share);
      for (int a = 0; a < 3; ++a) {
        hit.cell[a] = walk.cell[a];
        hit.fraction[a] = mix(visit.first[a], visit.last[a], share);
      }
    }
    step(grid.cells, leave, true, walk);
  }
  return hit;
}

// `pace`: world units per unit of `along`.
template <typename scalar_t>
DIFFISO_HD Hit<scalar_t> trace_spheres(const TracedGrid<scalar_t>& grid,
                                       const GridRay<scalar_t>& ray, const SphereRule& rule,
                                       scalar_t pace) {
  Hit<scalar_t> hit;
  scalar_t along = 0, before = 0;
  bool known = false, inside = false;  // the side it is on
  for (int64_t n = 0; n < rule.steps; ++n) {
    const FieldAlong<scalar_t> at(grid, ray, along);
    const scalar_t reached = static_cast<scalar_t>(rule.reached(ray.begin + along / ray.scale));
    const auto stop = [&](RayStatus status) {
      hit.status = static_cast<int>(status);
      hit.along = along;
      hit.fraction = at.fraction;
      for (int a = 0; a < 3; ++a) hit.cell[a] = at.cell[a];
    };
    scalar_t distance = 0;
    if (at.value != at.value) {  // a gap: on by a cell, to look anew
      known = false;
      along += 1;
    } else {
      if (!known) {
        known = true;
        inside = at.value < 0;
        if (inside && grid.inside == InsideRule::kStart) {
          stop(RayStatus::kStart);
          return hit;
        }
      }
      distance = inside ? -at.value : at.value;
      const bool leaving_ignored = inside && grid.inside == InsideRule::kIgnore;
      if (distance <= reached && !leaving_ignored) {
        stop(inside ? RayStatus::kExit : RayStatus::kHit);
        if (rule.refine) {
          const scalar_t from = distance < 0 ? before : along, to = along + 2;
          const Hit<scalar_t> exact = find_crossing(grid, ray, from, to, inside);
          return exact.found() ? exact : hit;
        }
        // One more step, as the paper's p = s + f(s) v takes it.
        hit.along += distance / pace;
        return hit;
      }
      before = along;
      if (leaving_ignored) {
        inside = distance > 0;
        // Small steps across the surface that does not count.
        const scalar_t least = scalar_t(0.01) * pace;
        distance = distance > least ? distance : least;
      }
      along += distance / (static_cast<scalar_t>(rule.lipschitz) * pace);
    }
    if (!(along <= ray.length)) return hit;
  }
  hit.status = static_cast<int>(RayStatus::kUnfinished);
  return hit;
}

}  // namespace diffiso
