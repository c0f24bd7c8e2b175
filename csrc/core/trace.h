// SPDX-License-Identifier: Apache-2.0
// Where a ray meets the surface of a trilinear field, and where it comes closest.
//
// A hit is the first point where the field turns from outside (>= level) to inside, or the other way
// for a ray that begins inside; zeros that only touch are none. Cells with a sample that is not
// finite are gaps: nothing is hit there.
//
// Rays go from one marked cell to the next, over empty blocks in single steps, and there the cubic
// along the ray is solved, so that hits are exact for any field. The side on which a ray is need not
// be carried along: it is the sign of the field where the ray enters the next marked cell, since
// between marked cells it cannot change. Walking and looking are separate, so that rays side by side
// do either together.
#pragma once

#include "core/cell_path.h"
#include "core/occupancy.h"
#include "core/rays.h"

namespace diffiso {

// What a ray that is inside from the beginning may hit: where it leaves, where it begins, or only
// what it enters later.
enum class InsideRule : int { kExit, kStart, kIgnore };

// What holds a ray at its closest approach: the field's own minimum, a face of the cell across x, y
// or z, or an end of the ray within the box.
enum class ApproachKind : uint8_t { kNone, kMinimum, kFaceX, kFaceY, kFaceZ, kEnd };

// One grid of a batch, and where its surface can be.
template <typename scalar_t>
struct TracedGrid {
  const scalar_t* __restrict__ values;  // (X, Y, Z)
  int64_t stride[2];                    // flat steps in x and y
  int32_t cells[3];
  int32_t shift, step[2];  // of blocks, see Occupancy
  int64_t word_step[2];
  const uint32_t* __restrict__ words;
  const uint8_t* __restrict__ distance;
  scalar_t level;
  InsideRule inside;

  DIFFISO_HD TracedGrid(const GridShape& shape, const Occupancy& occupancy, const scalar_t* all,
                        int64_t b, scalar_t level, InsideRule inside)
      : values(all + b * shape.nodes_per_grid()),
        stride{shape.size[1] * shape.size[2], shape.size[2]},
        shift(occupancy.shift),
        step{occupancy.step[0], occupancy.step[1]},
        word_step{occupancy.word_step[0], occupancy.word_step[1]},
        words(occupancy.words + b * occupancy.words_per_grid()),
        distance(occupancy.distance + b * occupancy.blocks_per_grid()),
        level(level),
        inside(inside) {
    for (int a = 0; a < 3; ++a) cells[a] = occupancy.cells[a];
  }

  DIFFISO_HD int64_t corner(int c) const {
    return (c >> 2) * stride[0] + (c >> 1 & 1) * stride[1] + (c & 1);
  }
};

// x * step[0] + y * step[1] + last: 64-bit for one ray, 32-bit for rays side by side, which only
// small enough grids are given to.
template <typename Whole>
DIFFISO_HD auto index_of(const Whole cell[3], const int64_t step[2], Whole last) {
  if constexpr (std::is_same_v<Whole, int32_t>) {
    return cell[0] * step[0] + cell[1] * step[1] + last;
  } else {
    return cell[0] * static_cast<int32_t>(step[0]) + cell[1] * static_cast<int32_t>(step[1]) + last;
  }
}

// Rays on their way: each in a cell that it entered by a face.
template <typename real>
struct Walk {
  using Whole = WholeOf<real>;
  using Mask = MaskOf<real>;

  RayPath<real> ray;
  Whole cell[3];
  real along;
  Whole axis;   // of that face; -1 where the ray begins within the box
  Mask active;  // not yet at its end

  DIFFISO_HD Walk(const RayPath<real>& path, const int32_t cells[3], Mask meets_box)
      : ray(path), along(0), axis(path.begin_axis), active(meets_box) {
    for (int a = 0; a < 3; ++a) {
      cell[a] = smaller(truncated(ray.entry[a]), Whole(cells[a] - 1));
    }
  }
};

// How rays leave boxes, given by the plane that each would leave by, were it along this axis.
template <typename real>
struct Leave {
  WholeOf<real> plane[3];
  WholeOf<real> axis;
  real along;
  MaskOf<real> last;  // the ray ends before that

  DIFFISO_HD void find(const Walk<real>& walk) {
    using Whole = WholeOf<real>;
    const real x = walk.ray.reach(0, plane[0]), y = walk.ray.reach(1, plane[1]),
               z = walk.ray.reach(2, plane[2]);
    const real nearer = smaller(x, y);
    axis = select(z < nearer, Whole(2), select(y < x, Whole(1), Whole(0)));
    along = larger(smaller(nearer, z), walk.along);  // rounding must not take it back
    last = !(along < walk.ray.length);
  }
};

template <typename real>
DIFFISO_HD Leave<real> leave_cell(const Walk<real>& walk) {
  using Whole = WholeOf<real>;
  Leave<real> out;
  for (int a = 0; a < 3; ++a) {
    out.plane[a] = walk.cell[a] + select(walk.ray.way[a] > real(0), Whole(1), Whole(0));
  }
  out.find(walk);
  return out;
}

// Steps into the next box; rays that end before, or leave the grid, are no longer active and stay.
template <typename real>
DIFFISO_HD void step(const int32_t cells[3], const Leave<real>& leave, MaskOf<real> steps,
                     Walk<real>& walk) {
  using Whole = WholeOf<real>;
  using Mask = MaskOf<real>;
  Whole next[3];
  Mask goes = !leave.last;
  const real along = select(leave.last, walk.along, leave.along);
  for (int a = 0; a < 3; ++a) {
    const Mask up = walk.ray.way[a] > real(0);
    // Along the other axes rounding must take it neither back nor out of the box.
    const Whole at = truncated(walk.ray.entry[a] + along * walk.ray.way[a]);
    const Whole behind = leave.plane[a] - Whole(1);
    const Whole least = select(up, walk.cell[a], leave.plane[a]);
    const Whole most = select(up, behind, walk.cell[a]);
    const Whole crossed = select(up, leave.plane[a], behind);
    next[a] = select(leave.axis == Whole(a), crossed, smaller(larger(at, least), most));
    goes = goes && next[a] >= Whole(0) && next[a] < Whole(cells[a]);
  }
  const Mask moves = steps && goes;
  for (int a = 0; a < 3; ++a) walk.cell[a] = select(moves, next[a], walk.cell[a]);
  walk.along = select(moves, leave.along, walk.along);
  walk.axis = select(moves, leave.axis, walk.axis);
  walk.active = walk.active && (goes || !steps);
}

// Walks on until every active ray stands in a marked cell. Rays of `look` stay where they are.
template <typename real, typename scalar_t>
DIFFISO_HD void find_marked(const TracedGrid<scalar_t>& grid, MaskOf<real> look, Walk<real>& walk) {
  using Whole = WholeOf<real>;
  using Mask = MaskOf<real>;
  const int32_t size = int32_t{1} << grid.shift;
  Mask walking = walk.active && !look;
  while (any(walking)) {
    const Whole id = ((walk.cell[0] >> grid.shift) << grid.step[0]) +
                     ((walk.cell[1] >> grid.shift) << grid.step[1]) + (walk.cell[2] >> grid.shift);
    const Whole empty = gather(grid.distance, id);
    const Mask in_block = empty == Whole(0);
    Mask marked = in_block;
    if (grid.shift > 0) {
      const auto word = index_of(walk.cell, grid.word_step, walk.cell[2] >> 5);
      const Whole bit = gather(grid.words, word) >> (walk.cell[2] & Whole(31));
      marked = marked && !((bit & Whole(1)) == Whole(0));
    }
    walking = walking && !marked;
    // Out of the cell, or of the cube of empty blocks around it.
    const Whole corner = select(in_block, Whole(-1), Whole(-size));
    const Whole forth = select(in_block, Whole(1), empty << grid.shift);
    const Whole back = select(in_block, Whole(0), Whole(size) - forth);
    Leave<real> leave;
    for (int a = 0; a < 3; ++a) {
      const Mask up = walk.ray.way[a] > real(0);
      leave.plane[a] = (walk.cell[a] & corner) + select(up, forth, back);
    }
    leave.find(walk);
    step(grid.cells, leave, walking, walk);
    walking = walking && walk.active;
  }
}

// Rays' ways through the cells they stand in.
template <typename real>
struct CellVisit {
  real from, to;           // along the ray
  WholeOf<real> to_axis;   // of the face they go out by; -1 where the ray ends within
  Vec3<real> first, last;  // fractions there
  real samples[8];         // less the level
  MaskOf<real> present;    // every sample is finite

  template <typename scalar_t>
  DIFFISO_HD CellVisit(const TracedGrid<scalar_t>& grid, const Walk<real>& walk,
                       const Leave<real>& leave) {
    using Whole = WholeOf<real>;
    const real zero(0), one(1);
    from = walk.along;
    to = select(leave.last, walk.ray.length, leave.along);
    to_axis = select(leave.last, walk.ray.end_axis, leave.axis);
    for (int a = 0; a < 3; ++a) {
      const MaskOf<real> up = walk.ray.way[a] > zero;
      const real corner = real_of<real>(walk.cell[a]);
      const real begin = walk.ray.entry[a] + from * walk.ray.way[a] - corner;
      const real end = walk.ray.entry[a] + to * walk.ray.way[a] - corner;
      first[a] =
          select(walk.axis == Whole(a), select(up, zero, one), smaller(larger(begin, zero), one));
      last[a] = select(to_axis == Whole(a), select(up, one, zero), smaller(larger(end, zero), one));
    }
    real none(0);
    const auto node = index_of(walk.cell, grid.stride, walk.cell[2]);
    for (int c = 0; c < 8; ++c) {
      samples[c] = gather(grid.values + grid.corner(c), node) - real(grid.level);
      none = none + samples[c] * zero;
    }
    present = none == zero;
  }
};

template <typename real>
struct Hit {
  WholeOf<real> status;  // RayStatus
  real along;
  WholeOf<real> cell[3];
  Vec3<real> fraction;

  DIFFISO_HD Hit() : status(0), along(0) {
    for (int a = 0; a < 3; ++a) {
      cell[a] = WholeOf<real>(0);
      fraction[a] = real(0);
    }
  }

  DIFFISO_HD MaskOf<real> found() const {
    using Whole = WholeOf<real>;
    return status >= Whole(static_cast<int>(RayStatus::kHit)) &&
           status < Whole(static_cast<int>(RayStatus::kUnfinished));
  }
};

// Looks for hits on the ways through cells. `look`: a start inside counts as one.
template <typename real>
DIFFISO_HD void find_hit(const CellPath<real>& path, const CellVisit<real>& visit,
                         const Walk<real>& walk, InsideRule rule, MaskOf<real> look,
                         MaskOf<real> wanted, Hit<real>& hit) {
  using Mask = MaskOf<real>;
  using Whole = WholeOf<real>;
  const real zero(0), none(-1);
  const Whole enters(static_cast<int>(RayStatus::kHit));
  const Mask starts_inside = path.b[0] < zero;
  Whole status = select(starts_inside, Whole(static_cast<int>(RayStatus::kExit)), enters);
  real share = path.crossing(!starts_inside, zero);
  if (rule == InsideRule::kStart) {
    const Mask at_start = starts_inside && look;
    status = select(at_start, Whole(static_cast<int>(RayStatus::kStart)), status);
    share = select(at_start, zero, share);
  } else if (rule == InsideRule::kIgnore) {
    const Mask left = starts_inside && share >= zero;
    status = enters;
    if (any(left)) {
      const real again = path.crossing(left, select(left, share, zero));
      share = select(left, again, select(starts_inside, none, share));
    } else {
      share = select(starts_inside, none, share);
    }
  }
  const Mask hits = wanted && share >= zero;
  hit.status = select(hits, status, hit.status);
  hit.along = select(hits, mix(visit.from, visit.to, share), hit.along);
  for (int a = 0; a < 3; ++a) {
    hit.cell[a] = select(hits, walk.cell[a], hit.cell[a]);
    hit.fraction[a] = select(hits, mix(visit.first[a], visit.last[a], share), hit.fraction[a]);
  }
}

template <typename real>
struct Approach {
  real value;          // what a lower one must be below
  WholeOf<real> kind;  // ApproachKind
  real along;
  WholeOf<real> cell[3];

  DIFFISO_HD explicit Approach(real least) : value(least), kind(0), along(0) {
    for (auto& one : cell) one = WholeOf<real>(0);
  }

  DIFFISO_HD void consider(real candidate, real where, WholeOf<real> what, const Walk<real>& walk,
                           MaskOf<real> wanted) {
    const MaskOf<real> lower = wanted && candidate < value;
    value = select(lower, candidate, value);
    kind = select(lower, what, kind);
    along = select(lower, where, along);
    for (int a = 0; a < 3; ++a) cell[a] = select(lower, walk.cell[a], cell[a]);
  }
};

// Lowers the closest approach to the least value on the way through a cell.
template <typename real>
DIFFISO_HD void find_approach(const CellPath<real>& path, const CellVisit<real>& visit,
                              const Walk<real>& walk, MaskOf<real> wanted,
                              Approach<real>& approach) {
  using Whole = WholeOf<real>;
  if (!any(wanted && path.least_coefficient() < approach.value)) return;
  const Whole end(static_cast<int>(ApproachKind::kEnd));
  const Whole face(static_cast<int>(ApproachKind::kFaceX));
  const Whole turn(static_cast<int>(ApproachKind::kMinimum));
  const Whole first = select(walk.axis >= Whole(0), walk.axis + face, end);
  const Whole last = select(visit.to_axis >= Whole(0), visit.to_axis + face, end);
  approach.consider(path.b[0], visit.from, first, walk, wanted);
  real turns[2];
  path.stationary(turns[0], turns[1]);
  for (const real& at : turns) {
    approach.consider(path.value(at), mix(visit.from, visit.to, at), turn, walk,
                      wanted && at < real(1));
  }
  approach.consider(path.b[3], visit.to, last, walk, wanted);
}

// Traces rays that all go through one grid. With kNear it also finds their closest approaches below
// `approach.value`, for which all cells with a sample below that must be marked; a ray then goes on
// behind its hit until the field is below `enough`. A solid that is ignored has none: a ray that
// begins inside looks for one once it is clear of that.
template <bool kNear, typename real, typename scalar_t>
DIFFISO_HD Hit<real> trace_voxels(const TracedGrid<scalar_t>& grid, Walk<real> walk, real enough,
                                  Approach<real>& approach) {
  using Mask = MaskOf<real>;
  Hit<real> hit;
  Mask look = walk.active && Mask(grid.inside == InsideRule::kStart);
  [[maybe_unused]] const real touched = approach.value;
  [[maybe_unused]] Mask known(false), clear(true);
  for (;;) {
    find_marked(grid, look, walk);
    if (!any(walk.active)) return hit;
    const Leave<real> leave = leave_cell(walk);
    const CellVisit<real> visit(grid, walk, leave);
    const CellPath<real> path(visit.samples, visit.first, visit.last);
    const Mask wanted = walk.active && visit.present;
    const Mask done_before = hit.found();
    find_hit(path, visit, walk, grid.inside, look, wanted && !done_before, hit);
    if constexpr (kNear) {
      if (grid.inside == InsideRule::kIgnore) {
        const Mask begins_clear = known || !wanted || path.b[0] >= real(0);
        clear = (clear && begins_clear) || (wanted && path.b[0] >= touched);
        known = visit.present;
      }
      find_approach(path, visit, walk, wanted && clear && !(approach.value < enough), approach);
      walk.active = walk.active && !(hit.found() && approach.value < enough);
    } else {
      walk.active = walk.active && !hit.found();
    }
    // Behind a gap the side is looked at anew.
    if (grid.inside == InsideRule::kStart) look = walk.active && !visit.present;
    step(grid.cells, leave, walk.active, walk);
    if (grid.inside == InsideRule::kStart) look = look && walk.active;
  }
}

}  // namespace diffiso
