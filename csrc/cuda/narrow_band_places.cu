// SPDX-License-Identifier: Apache-2.0
// From marked places of a table to the bricks there; narrow_band.cuh says how the steps follow each
// other. Scratch: two bits a place of the table, and 20 bytes (24 where bricks are counted) for
// each place that can be marked. The table itself, the one array as large as the volume, is written
// once and not read.
#include "cuda/narrow_band.cuh"

namespace diffiso {
namespace {

__global__ void __launch_bounds__(kBandBlock) place_count_kernel(PlaceList p) {
  for_each_by_thread(p.words + 1,
                     [&](int64_t w) { p.ranks[w] = w < p.words ? popcount(p.marks[w]) : 0; });
}

__global__ void __launch_bounds__(kBandBlock) place_list_kernel(PlaceList p) {
  for_each_by_thread(p.words, [&](int64_t w) {
    int32_t* out = p.coordinates + 3 * int64_t{p.ranks[w]};
    for (uint64_t bits = p.marks[w]; bits != 0; bits &= bits - 1, out += 3) {
      const int64_t place = 32 * w + lowest_bit(bits), row = quotient(place, p.tiles[2]);
      const int64_t x = quotient(row, p.tiles[1]);
      out[0] = static_cast<int32_t>(x);
      out[1] = static_cast<int32_t>(row - x * p.tiles[1]);
      out[2] = static_cast<int32_t>(place - row * p.tiles[2]);
    }
  });
}

struct TotalsParams {
  PlaceList places;
  PlaceCounts before;
  BandTotals* totals;  // (1,)
};

__global__ void __launch_bounds__(kBandBlock) place_totals_kernel(TotalsParams p) {
  if (threadIdx.x != 0) return;
  p.totals->bricks = p.before.bricks != nullptr ? p.before.bricks[p.places.most] : p.places.count();
  p.totals->ids = p.before.ids[p.places.most];
}

struct TableParams {
  PlaceList places;
  PlaceCounts before;
  bool empty;      // no place gets a brick
  int32_t* table;  // (TX, TY, TZ)
};

__global__ void __launch_bounds__(kBandBlock) place_table_kernel(TableParams p) {
  const int64_t count = p.places.tiles[0] * p.places.tiles[1] * p.places.tiles[2];
  for_each_by_thread(count, [&](int64_t place) {
    const uint64_t marks = p.places.marks[place >> 5];
    const int bit = static_cast<int>(place & 31);
    int32_t brick = -1;
    if (!p.empty && (marks >> bit & 1) != 0) {
      const int32_t n = p.places.ranks[place >> 5] + popcount(marks & low_bits(bit));
      if (p.before.bricks == nullptr) {
        brick = n;
      } else if (p.before.bricks[n] != p.before.bricks[n + 1]) {
        brick = p.before.bricks[n];
      }
    }
    p.table[place] = brick;
  });
}

}  // namespace

PlaceList make_place_list(const CudaContext& cuda, Scratch& scratch, const int64_t tiles[3],
                          int64_t most) {
  const int64_t places = tiles[0] * tiles[1] * tiles[2];
  PlaceList out{};
  for (int axis = 0; axis < 3; ++axis) out.tiles[axis] = tiles[axis];
  out.words = ceil_div(places, 32);
  out.most = std::min(most, places);
  out.marks = scratch.take<uint32_t>(out.words);
  out.ranks = scratch.take<int32_t>(out.words + 1);
  out.coordinates = scratch.take<int32_t>(3 * out.most);
  fill_zero(out.marks, out.words * static_cast<int64_t>(sizeof(uint32_t)), cuda.stream);
  return out;
}

void list_places(const CudaContext& cuda, const PlaceList& places) {
  launch_by_thread(place_count_kernel, places.words + 1, cuda, places);
  exclusive_sum(cuda, places.ranks, places.ranks, places.words + 1);
  launch_by_thread(place_list_kernel, places.words, cuda, places);
}

PlaceCounts make_place_counts(Scratch& scratch, const PlaceList& places, bool one_each) {
  return {one_each ? nullptr : scratch.take<int32_t>(places.most + 1),
          scratch.take<int64_t>(places.most + 1)};
}

BandTotals sum_counts(const CudaContext& cuda, Scratch& scratch, const PlaceList& places,
                      const PlaceCounts& counts) {
  if (counts.bricks != nullptr) {
    exclusive_sum(cuda, counts.bricks, counts.bricks, places.most + 1);
  }
  exclusive_sum(cuda, counts.ids, counts.ids, places.most + 1);
  auto* totals = scratch.take<BandTotals>(1);
  launch(place_totals_kernel, dim3(1), kBandBlock, 0, cuda.stream,
         TotalsParams{places, counts, totals});
  BandTotals out{};
  copy_to_host(&out, totals, 1, cuda.stream);
  return out;
}

void write_table(const CudaContext& cuda, const PlaceList& places, const PlaceCounts& counts,
                 int64_t bricks, int32_t* table) {
  const int64_t count = places.tiles[0] * places.tiles[1] * places.tiles[2];
  launch_by_thread(place_table_kernel, count, cuda,
                   TableParams{places, counts, bricks == 0, table});
}

}  // namespace diffiso
