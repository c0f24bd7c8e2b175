// SPDX-License-Identifier: Apache-2.0
// The contour edges of meshes before cameras, on the GPU. Faces add fingerprints at their corners
// with integer atomics, which leaves the few edges that may be left; those meet in a table of hashes,
// where counts are added and the first of each edge is found, again with integers. What stands in
// which slot of the table varies from run to run, what comes out does not.
#pragma once

#include "cuda/pictures.cuh"

namespace diffiso {

// One of the edges of the faces of all pictures: 4 * face + k, from its k-th corner; k is 3: its cut.
struct ContourParams {
  int8_t* facings;           // of all pictures' faces
  unsigned long long* sums;  // of all pictures' vertices
  int64_t* left;             // (faces + 1,) how many items of each are left, then what comes before
  int64_t items;             // left in all
  int64_t* item;             // (items,)
  int64_t slots;             // a power of two
  unsigned long long* slot_item;   // (slots,) one more than the place of an item, 0 if free
  int32_t* slot_count;             // (slots,)
  unsigned long long* slot_first;  // (slots,) items less the first place of one there
  int64_t* slot_of;                // (items,) -1 for cuts
  int64_t* before;  // (items + 1,) whether an item is a contour edge, then how many before it
  ContourEdge* edges;
  int64_t* offsets;  // (N + 1,)
};

template <typename scalar_t>
struct FindContours {
  PictureParams<scalar_t> p;
  ContourParams c;

  // The edge of an item, by rows of all meshes' vertices.
  DIFFISO_HD ContourEdge edge(int64_t item) const {
    const int64_t n = item / 4, k = item % 4;
    const Shown face = p.faces[n];
    int64_t rows[3], at[3];
    p.corners_of(face.row, rows);
    if (k == 3) {
      p.seen_corners(face, at);
      return cut_of_face(rows, p.seen[at[0]], p.seen[at[1]], p.seen[at[2]], c.facings[n], p.near);
    }
    const int64_t a = rows[k], b = rows[(k + 1) % 3];
    return a < b ? ContourEdge{a, b, -1, c.facings[n]} : ContourEdge{b, a, -1, -c.facings[n]};
  }
  DIFFISO_HD bool in_front(const ContourEdge& edge, int64_t item) const {
    const Shown face = p.faces[item / 4];
    const int64_t shift = p.vertices.begin(face.picture) - p.vertices.offsets[face.mesh];
    return p.seen[edge.a + shift].depth >= p.near || p.seen[edge.b + shift].depth >= p.near;
  }
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) facing_kernel(FindContours<scalar_t> f) {
  if (f.p.faults->of_offsets()) return;
  for_each_by_thread(f.p.faces.count, [&](int64_t n) {
    const Shown face = f.p.faces[n];
    int64_t at[3];
    f.c.facings[n] = 0;
    if (!f.p.seen_corners(face, at)) {
      atomicMax(&f.p.faults->face, static_cast<unsigned long long>(face.row + 1));
      return;
    }
    if (is_collapsed(at)) return;
    const int side = facing(f.p.seen[at[0]], f.p.seen[at[1]], f.p.seen[at[2]], f.p.near);
    f.c.facings[n] = static_cast<int8_t>(side);
    if (side == 0) return;
    for (int k = 0; k < 3; ++k) atomicAdd(f.c.sums + at[k], edge_sum(at, k, side));
  });
}

// Calls f(k) for the items that are left of a face.
template <typename scalar_t, typename F>
__device__ void for_each_left(const FindContours<scalar_t>& c, int64_t n, const F& f) {
  if (c.c.facings[n] == 0) return;
  int64_t at[3];
  c.p.seen_corners(c.p.faces[n], at);
  for (int k = 0; k < 3; ++k) {
    if (c.c.sums[at[k]] != 0 && c.c.sums[at[(k + 1) % 3]] != 0) f(k);
  }
  if (lone_corner(c.p.seen[at[0]], c.p.seen[at[1]], c.p.seen[at[2]], c.p.near) >= 0) f(3);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) left_count_kernel(FindContours<scalar_t> f) {
  for_each_by_thread(f.p.faces.count + 1, [&](int64_t n) {
    int64_t count = 0;
    if (n < f.p.faces.count && !f.p.faults->of_offsets()) {
      for_each_left(f, n, [&](int) { ++count; });
    }
    f.c.left[n] = count;
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) left_list_kernel(FindContours<scalar_t> f) {
  for_each_by_thread(f.p.faces.count, [&](int64_t n) {
    int64_t next = f.c.left[n];
    for_each_left(f, n, [&](int k) { f.c.item[next++] = 4 * n + k; });
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) hash_kernel(FindContours<scalar_t> f) {
  const ContourParams& c = f.c;
  for_each_by_thread(c.items, [&](int64_t i) {
    const int64_t item = c.item[i];
    c.slot_of[i] = -1;
    if (item % 4 == 3) return;
    const ContourEdge edge = f.edge(item);
    const int64_t picture = f.p.faces[item / 4].picture;
    uint64_t slot = fingerprint(edge.a) * 31 + fingerprint(edge.b) + fingerprint(picture) * 961;
    for (;; ++slot) {
      slot &= static_cast<uint64_t>(c.slots - 1);
      const auto mine = static_cast<unsigned long long>(i + 1);
      const unsigned long long found = atomicCAS(c.slot_item + slot, 0ull, mine);
      if (found != 0 && found != mine) {
        const int64_t other = c.item[found - 1];
        const ContourEdge there = f.edge(other);
        if (there.a != edge.a || there.b != edge.b || f.p.faces[other / 4].picture != picture) {
          continue;
        }
      }
      atomicAdd(c.slot_count + slot, static_cast<int32_t>(edge.count));
      atomicMax(c.slot_first + slot, static_cast<unsigned long long>(c.items - i));
      c.slot_of[i] = static_cast<int64_t>(slot);
      return;
    }
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) contour_count_kernel(FindContours<scalar_t> f) {
  const ContourParams& c = f.c;
  for_each_by_thread(c.items + 1, [&](int64_t i) {
    bool counts = false;
    if (i < c.items) {
      const int64_t slot = c.slot_of[i];
      counts = slot < 0 || (c.slot_first[slot] == static_cast<unsigned long long>(c.items - i) &&
                            c.slot_count[slot] != 0 && f.in_front(f.edge(c.item[i]), c.item[i]));
    }
    c.before[i] = counts;
  });
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) contour_list_kernel(FindContours<scalar_t> f) {
  const ContourParams& c = f.c;
  for_each_by_thread(c.items, [&](int64_t i) {
    if (c.before[i + 1] == c.before[i]) return;
    ContourEdge edge = f.edge(c.item[i]);
    if (c.slot_of[i] >= 0) edge.count = c.slot_count[c.slot_of[i]];
    c.edges[c.before[i]] = edge;
  });
}

template <typename scalar_t>
struct OffsetParams {
  FindContours<scalar_t> f;
  int64_t pictures;
};

template <typename scalar_t>
__global__ void __launch_bounds__(kThreadBlock) contour_offset_kernel(OffsetParams<scalar_t> o) {
  const ContourParams& c = o.f.c;
  for_each_by_thread(o.pictures + 1, [&](int64_t n) {
    const int64_t face = n < o.pictures ? o.f.p.faces.begin(n) : o.f.p.faces.count;
    c.offsets[n] = c.before[c.left[face]];
  });
}

// The contour edges (E, 4) of all pictures, and where each picture's begin, in `offsets`. Waits for
// the stream three times: for faults, for how many edges may be left, and how many are.
template <typename scalar_t>
Tensor find_contours(const CudaContext& cuda, Scratch& scratch, const SeenMeshes& in,
                     const PictureLayout& layout, double near, int64_t* offsets) {
  FindContours<scalar_t> f{picture_params<scalar_t>(layout, in, near, scratch), {}};
  const int64_t faces = f.p.faces.count;
  f.c.facings = scratch.take<int8_t>(faces);
  f.c.sums = scratch.take_zeros<unsigned long long>(f.p.vertices.count);
  f.c.left = scratch.take<int64_t>(faces + 1);
  f.c.offsets = offsets;
  see_vertices(cuda, f.p);
  launch_by_thread(facing_kernel<scalar_t>, faces, cuda, f);
  launch_by_thread(left_count_kernel<scalar_t>, faces + 1, cuda, f);
  exclusive_sum(cuda, f.c.left, f.c.left, faces + 1);
  SeenFaults faults{};
  copy_to_host(&faults, f.p.faults, 1, cuda.stream);
  faults.refuse();
  copy_to_host(&f.c.items, f.c.left + faces, 1, cuda.stream);

  f.c.item = scratch.take<int64_t>(f.c.items);
  f.c.slot_of = scratch.take<int64_t>(f.c.items);
  f.c.before = scratch.take<int64_t>(f.c.items + 1);
  for (f.c.slots = 16; f.c.slots < 2 * f.c.items;) f.c.slots *= 2;
  f.c.slot_item = scratch.take_zeros<unsigned long long>(f.c.slots);
  f.c.slot_count = scratch.take_zeros<int32_t>(f.c.slots);
  f.c.slot_first = scratch.take_zeros<unsigned long long>(f.c.slots);
  launch_by_thread(left_list_kernel<scalar_t>, faces, cuda, f);
  launch_by_thread(hash_kernel<scalar_t>, f.c.items, cuda, f);
  launch_by_thread(contour_count_kernel<scalar_t>, f.c.items + 1, cuda, f);
  exclusive_sum(cuda, f.c.before, f.c.before, f.c.items + 1);
  launch_by_thread(contour_offset_kernel<scalar_t>, layout.pictures + 1, cuda,
                   OffsetParams<scalar_t>{f, layout.pictures});
  int64_t count = 0;
  copy_to_host(&count, f.c.before + f.c.items, 1, cuda.stream);
  Tensor contours = empty_on(in.vertices, {count, 4}, DType::Long);
  f.c.edges = static_cast<ContourEdge*>(contours.mutable_data_ptr());
  launch_by_thread(contour_list_kernel<scalar_t>, f.c.items, cuda, f);
  return contours;
}

}  // namespace diffiso
