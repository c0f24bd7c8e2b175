// SPDX-License-Identifier: Apache-2.0
// Included by one file for each instruction set, which defines before it
//   struct Isa, its types and operations, and kCount, how many of its vectors go side by side.
// Traces many rays together: they walk until each stands in a cell to look at, and then look.

constexpr int kLanes = Isa::kLanes * kCount;
using Real = Reals<Isa, kCount>;
using Whole = Wholes<Isa, kCount>;

// Rays as they are put in and taken out, one by one.
struct Side {
  alignas(64) float length[kLanes], entry[3][kLanes], way[3][kLanes], inverse[3][kLanes],
      never[3][kLanes], touched[kLanes];
  alignas(64) int32_t meets[kLanes];
  RayStatus why[kLanes];
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

DIFFISO_HD void put_in(const TraceRays<float>& p, int64_t n, int lane, Side& side) {
  const GridRay<float> ray(p.shape, p.rays[n], p.near, p.far);
  side.why[lane] = ray.valid ? RayStatus::kMiss : RayStatus::kInvalid;
  side.meets[lane] = ray.inside;
  side.begin[lane] = ray.begin;
  side.scale[lane] = ray.inside ? ray.scale : 1;
  side.length[lane] = ray.inside ? ray.length : 0;
  side.touched[lane] = p.footprint && ray.inside ? p.touched(n, ray.t(ray.length)) : 0;
  for (int a = 0; a < 3; ++a) {
    side.entry[a][lane] = ray.inside ? ray.entry[a] : 0;
    side.way[a][lane] = ray.inside ? ray.way[a] : 0;
    side.inverse[a][lane] = ray.inside ? ray.inverse[a] : 0;
    side.never[a][lane] = ray.inside ? ray.never[a] : 0;
  }
}

DIFFISO_HD RayPath<Real> paths(const Side& side) {
  RayPath<Real> out;
  out.length = load(side.length);
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
    for (int lane = 0; lane < lanes; ++lane) put_in(p, rays[first + lane], lane, side);
    for (int lane = lanes; lane < kLanes; ++lane) side.meets[lane] = 0;
    const Real touched = load(side.touched);
    Approach<Real> approach(touched);
    const Walk<Real> walk(paths(side), grid.cells, load(side.meets) == Whole(1));
    const Hits hits(trace_voxels<kNear>(grid, walk, Real(0) - touched, approach));
    const Approaches approaches(approach);
    for (int lane = 0; lane < lanes; ++lane) {
      const int64_t n = rays[first + lane];
      if (hits.status[lane] == 0) {
        p.write_miss(n, side.why[lane]);
      } else {
        p.write_hit(n, side.begin[lane], side.scale[lane], grid, hits[lane]);
      }
      if (!kNear) continue;
      p.write_approach(n, side.begin[lane], side.scale[lane], grid, approaches[lane]);
    }
  }
}
