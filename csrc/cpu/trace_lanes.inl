// SPDX-License-Identifier: Apache-2.0
// Included by one file for each instruction set, which defines before it
//   struct Isa, its types and operations, and kCount, how many of its vectors go side by side.
// Traces many rays together: they walk until each stands in a cell to look at, and then look.

constexpr int kLanes = Isa::kLanes * kCount;
using Real = Reals<Isa, kCount>;
using Whole = Wholes<Isa, kCount>;

// Rays as they are put in and taken out, one by one.
struct Side {
  alignas(64) float origin[3][kLanes], direction[3][kLanes];
  alignas(64) float length[kLanes], entry[3][kLanes], way[3][kLanes], inverse[3][kLanes],
      never[3][kLanes], touched[kLanes];
  alignas(64) int32_t meets[kLanes];
  alignas(64) int32_t valid[kLanes], begin_axis[kLanes], end_axis[kLanes];
  double begin[kLanes], scale[kLanes];
};

DIFFISO_HD Real load(const float* from) {
  Real out;
  for (int k = 0; k < kCount; ++k) out.v[k] = Isa::load(from + k * Isa::kLanes);
  return out;
}
DIFFISO_HD Whole load(const int32_t* from) {
  Whole out;
  for (int k = 0; k < kCount; ++k) out.v[k] = Isa::load(from + k * Isa::kLanes);
  return out;
}
template <typename Numbers, typename scalar_t>
DIFFISO_HD void store(const Numbers& numbers, scalar_t* to) {
  for (int k = 0; k < kCount; ++k) Isa::store(numbers.v[k], to + k * Isa::kLanes);
}

// Loops over lanes without branches, for the compiler to vectorise.
DIFFISO_HD void put_in(const TraceRays<float>& p, const int64_t* rays, int lanes, Side& side) {
  const bool picture = p.rays.is_picture();
  const int64_t view = p.rays.source(rays[0]), pixels = p.rays.height * p.rays.width;
  for (int lane = 0; lane < lanes; ++lane) {
    const int64_t n = rays[lane];
    const Ray<float> ray = picture ? p.rays.of_picture(view, n - view * pixels) : p.rays[n];
    for (int a = 0; a < 3; ++a) {
      side.origin[a][lane] = ray.origin[a];
      side.direction[a][lane] = ray.direction[a];
    }
  }
  const GridShape shape = p.shape;
  const double near = p.near, far = p.far;
  for (int lane = 0; lane < kLanes; ++lane) {
    const Ray<float> given{
        {side.origin[0][lane], side.origin[1][lane], side.origin[2][lane]},
        {side.direction[0][lane], side.direction[1][lane], side.direction[2][lane]}};
    const GridRay<float> ray(shape, given, near, far);
    side.valid[lane] = ray.valid;
    side.meets[lane] = ray.inside;
    side.begin[lane] = ray.begin;
    side.scale[lane] = ray.scale;
    side.length[lane] = ray.length;
    side.begin_axis[lane] = ray.begin_axis;
    side.end_axis[lane] = ray.end_axis;
    for (int a = 0; a < 3; ++a) {
      side.entry[a][lane] = ray.entry[a];
      side.way[a][lane] = ray.way[a];
      side.inverse[a][lane] = ray.inverse[a];
      side.never[a][lane] = ray.never[a];
    }
  }
  for (int lane = lanes; lane < kLanes; ++lane) side.meets[lane] = 0;
  if (!p.footprint) return;
  for (int lane = 0; lane < lanes; ++lane) {
    const double end = side.begin[lane] + side.length[lane] / side.scale[lane];
    side.touched[lane] = side.meets[lane] ? p.touched(rays[lane], static_cast<float>(end)) : 0;
  }
}

DIFFISO_HD RayPath<Real> paths(const Side& side) {
  RayPath<Real> out;
  out.length = load(side.length);
  out.begin_axis = load(side.begin_axis);
  out.end_axis = load(side.end_axis);
  for (int a = 0; a < 3; ++a) {
    out.entry[a] = load(side.entry[a]);
    out.way[a] = load(side.way[a]);
    out.inverse[a] = load(side.inverse[a]);
    out.never[a] = load(side.never[a]);
  }
  return out;
}

// The hit of every lane.
struct Hits {
  alignas(64) int32_t status[kLanes], cell[3][kLanes];
  alignas(64) float along[kLanes], fraction[3][kLanes];

  DIFFISO_HD explicit Hits(const Hit<Real>& hit) {
    store(hit.status, status);
    store(hit.along, along);
    for (int a = 0; a < 3; ++a) {
      store(hit.cell[a], cell[a]);
      store(hit.fraction[a], fraction[a]);
    }
  }
  DIFFISO_HD Hit<float> operator[](int lane) const {
    Hit<float> out;
    out.status = status[lane];
    out.along = along[lane];
    for (int a = 0; a < 3; ++a) {
      out.cell[a] = cell[a][lane];
      out.fraction[a] = fraction[a][lane];
    }
    return out;
  }
};

struct Approaches {
  alignas(64) int32_t kind[kLanes], cell[3][kLanes];
  alignas(64) float along[kLanes];

  DIFFISO_HD explicit Approaches(const Approach<Real>& approach) {
    store(approach.kind, kind);
    store(approach.along, along);
    for (int a = 0; a < 3; ++a) store(approach.cell[a], cell[a]);
  }
  DIFFISO_HD Approach<float> operator[](int lane) const {
    Approach<float> out(0);
    out.kind = kind[lane];
    out.along = along[lane];
    for (int a = 0; a < 3; ++a) out.cell[a] = cell[a][lane];
    return out;
  }
};

template <bool kNear>
void trace_rays(const TraceRays<float>& p, const int64_t* rays, int64_t count) {
  const TracedGrid<float> grid = p.grid(p.rays.grid(rays[0]));
  Side side{};
  for (int64_t first = 0; first < count; first += kLanes) {
    const int lanes = static_cast<int>(count - first < kLanes ? count - first : kLanes);
    put_in(p, rays + first, lanes, side);
    const Real touched = load(side.touched);
    Approach<Real> approach(touched);
    const Walk<Real> walk(paths(side), grid.cells, load(side.meets) == Whole(1));
    const Hits hits(trace_voxels<kNear>(grid, walk, Real(0) - touched, approach));
    const Approaches approaches(approach);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t n = rays[first + lane];
      if (hits.status[lane] == 0) {
        p.write_miss(n, side.valid[lane] ? RayStatus::kMiss : RayStatus::kInvalid);
      } else {
        p.write_hit(n, side.begin[lane], side.scale[lane], grid, hits[lane]);
      }
      if (!kNear) continue;
      p.write_approach(n, side.begin[lane], side.scale[lane], grid, approaches[lane]);
    }
  }
}
