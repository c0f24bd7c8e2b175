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

// Where a ray leaves the cell it stands in, and a hair beyond, so that it stands in the next one.
template <typename scalar_t>
DIFFISO_HD scalar_t beyond_cell(const TracedGrid<scalar_t>& grid, const RayPath<scalar_t>& ray,
                                const FieldAlong<scalar_t>& at, scalar_t along) {
  Walk<scalar_t> walk(ray, grid.cells, true);
  for (int a = 0; a < 3; ++a) walk.cell[a] = at.cell[a];
  walk.along = along;
  return leave_cell(walk).along + scalar_t(1e-3);
}

// `pace`: world units per unit of `along`.
template <typename scalar_t>
DIFFISO_HD Hit<scalar_t> trace_spheres(const TracedGrid<scalar_t>& grid,
                                       const GridRay<scalar_t>& ray, const SphereRule& rule,
                                       scalar_t pace) {
  Hit<scalar_t> hit;
  scalar_t along = 0, before = 0;
  bool known = false, inside = false;  // the side it is on
  bool ignores = false;                // until it is clear of the solid that it begins in
  for (int64_t n = 0; n < rule.steps; ++n) {
    const FieldAlong<scalar_t> at(grid, ray, along);
    const scalar_t reached = static_cast<scalar_t>(rule.reached(ray.begin + along / ray.scale));
    const auto stop = [&](const FieldAlong<scalar_t>& there, scalar_t where) {
      hit.along = where;
      hit.fraction = there.fraction;
      for (int a = 0; a < 3; ++a) hit.cell[a] = there.cell[a];
    };
    if (at.value != at.value) {  // a gap: beyond it to look anew
      known = false;
      along = beyond_cell(grid, ray, at, along);
    } else {
      if (!known) {
        known = true;
        inside = at.value < 0;
        ignores = inside && grid.inside == InsideRule::kIgnore;
        if (inside && grid.inside == InsideRule::kStart) {
          hit.status = static_cast<int>(RayStatus::kStart);
          stop(at, along);
          return hit;
        }
      }
      if (ignores && at.value > reached) ignores = inside = false;
      scalar_t distance = inside ? -at.value : at.value;
      if (distance <= reached && !ignores) {
        hit.status = static_cast<int>(inside ? RayStatus::kExit : RayStatus::kHit);
        stop(at, along);
        if (rule.refine) {
          const scalar_t from = distance < 0 ? before : along, to = along + 2;
          const Hit<scalar_t> exact = find_crossing(grid, ray, from, to, inside);
          return exact.found() ? exact : hit;
        }
        // One more step, as the paper's p = s + f(s) v takes it; the samples are those around p.
        const scalar_t last = larger(smaller(along + distance / pace, ray.length), scalar_t{0});
        const FieldAlong<scalar_t> there(grid, ray, last);
        if (there.value == there.value) stop(there, last);
        return hit;
      }
      before = along;
      if (ignores) {  // small steps across the surface that does not count
        const scalar_t least = scalar_t(0.01) * pace, size = distance < 0 ? -distance : distance;
        distance = size > least ? size : least;
      }
      along += distance / (static_cast<scalar_t>(rule.lipschitz) * pace);
    }
    if (!(along <= ray.length)) return hit;
  }
  hit.status = static_cast<int>(RayStatus::kUnfinished);
  return hit;
}

}  // namespace diffiso
