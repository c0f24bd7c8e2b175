// SPDX-License-Identifier: Apache-2.0
// A band that follows a surface, on the GPU, the same output as on the CPU, in order. A warp a
// brick everywhere.
//   state:  four masks of what is known of each brick's nodes; the only kernel that reads values
//   reuse:  the nodes of crossed cells. Or, with a threshold, one kernel does it all
//   mark:   the places of the table where a grown band may have bricks, and a list of them
//   count:  whether there is a brick, and which of its nodes lack a value
//   store:  after the read-back, the same once more, now written
// Scratch: 256 bytes a brick, and what narrow_band_places.cu takes for 27 places a brick or all
// there are.
#include "cuda/narrow_band.cuh"

namespace diffiso {
namespace {

template <typename value_t, typename scalar_t>
struct ReuseParams {
  BrickShape bricks;
  const value_t* values;   // (R, 8, 8, 8)
  const uint64_t* asked;   // (R, 8)
  const BandWords* state;  // (R, 8) or null with a threshold
  scalar_t level, threshold;
  uint64_t* wanted;      // (R, 8)
  uint64_t* remembered;  // (R, 8)
  uint64_t* before;      // (R, 8)
};

// What a warp sees around a brick: planes -1 to 8 of the nine rows of bricks.
struct Surroundings {
  static constexpr int kPlanes = kBrickSize + 2;
  BandWords words[9 * kPlanes];
  int32_t hood[27];

  __device__ void find(const BrickShape& bricks, const Tile& tile) {
    const int n = lane_of_warp();
    if (n < 27) {
      hood[n] = static_cast<int32_t>(
          bricks.find(tile.at[0] + n / 9 - 1, tile.at[1] + n / 3 % 3 - 1, tile.at[2] + n % 3 - 1));
    }
    __syncwarp();
  }

  __device__ int64_t brick(int plane, int by, int bz) const {
    return hood[9 * ((plane >> 3) + 1) + 3 * (by + 1) + bz + 1];
  }

  __device__ void load(const BrickShape& bricks, const Tile& tile, const BandWords* state) {
    for (int n = lane_of_warp(); n < 9 * kPlanes; n += kWarpSize) {
      const int plane = n % kPlanes - 1, by = n / kPlanes / 3 - 1, bz = n / kPlanes % 3 - 1;
      const int64_t at = brick(plane, by, bz);
      words[n] = at < 0 ? unknown_words(bricks.nodes, tile.at, plane, by, bz)
                        : state[kBrickSize * at + (plane & 7)];
    }
    __syncwarp();
  }

  __device__ const BandWords& operator()(int plane, int by, int bz) const {
    return words[kPlanes * (3 * (by + 1) + bz + 1) + plane + 1];
  }
};

// The nodes of cells that a rule wants: lanes 4*x to 4*x + 3 get those in plane x.
template <typename Rule>
__device__ uint64_t wanted_nodes(const BrickShape& bricks, const Tile& tile, const BandWords* state,
                                 const Rule& rule, Surroundings& around) {
  __syncwarp();  // the last brick's may still be read
  around.find(bricks, tile);
  around.load(bricks, tile, state);
  const int x = lane_of_warp() >> 2, n = lane_of_warp() & 3;
  uint64_t wanted = nodes_of_cells(around, bricks.nodes, tile.at, rule, x, n);
  wanted |= __shfl_xor_sync(kWholeWarp, wanted, 1);
  return wanted | __shfl_xor_sync(kWholeWarp, wanted, 2);
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBandBlock)
    reuse_crossed_kernel(ReuseParams<value_t, scalar_t> p) {
  __shared__ Surroundings of_warp[kBandWarps];
  Surroundings& around = of_warp[threadIdx.x / kWarpSize];
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const Tile tile(p.bricks.coordinates, brick);
    const uint64_t wanted = wanted_nodes(p.bricks, tile, p.state, CrossingCells{}, around);
    if (lane_of_warp() % 4 != 0) return;
    const int64_t w = kBrickSize * brick + lane_of_warp() / 4;
    p.wanted[w] = wanted & p.asked[w];
    p.remembered[w] = p.state[w].inside | p.state[w].outside;
    p.before[w] = p.state[w].inside;
  });
}

template <typename value_t, typename scalar_t>
__global__ void __launch_bounds__(kBandBlock) reuse_near_kernel(ReuseParams<value_t, scalar_t> p) {
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const BrickValues<scalar_t> values(p.values, brick);
    const uint64_t below = values.pack([&](scalar_t value) { return value < p.level; });
    const uint64_t above = values.pack([&](scalar_t value) { return value >= p.level; });
    const uint64_t near =
        values.pack([&](scalar_t value) { return std::abs(value - p.level) <= p.threshold; });
    const int x = lane_of_warp();
    if (x >= kBrickSize) return;
    const int64_t w = kBrickSize * brick + x;
    const Tile tile(p.bricks.coordinates, brick);
    const BandWords words =
        band_words(box_plane(p.bricks.nodes, tile.at, x), p.asked[w], below, above, {0, 0});
    p.wanted[w] = near & p.asked[w];
    p.remembered[w] = words.inside | words.outside;
    p.before[w] = words.inside;
  });
}

std::tuple<Tensor, Tensor, Tensor> narrow_band_reuse(Tensor values, Tensor table,
                                                     Tensor coordinates, Tensor asked,
                                                     std::vector<int64_t> nodes, double level,
                                                     double threshold) {
  const CudaContext cuda(values);
  const BrickShape bricks =
      check_narrow_band("narrow_band_reuse", values, table, coordinates, nodes, asked);
  Scratch scratch(cuda);
  Tensor wanted = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  Tensor remembered = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  Tensor before = empty_on(values, {bricks.count, kBrickSize}, DType::Long);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    ReuseParams<value_t, scalar_t> p{bricks,
                                     in,
                                     words_of(asked),
                                     nullptr,
                                     static_cast<scalar_t>(level),
                                     static_cast<scalar_t>(threshold),
                                     mutable_words_of(wanted),
                                     mutable_words_of(remembered),
                                     mutable_words_of(before)};
    if (threshold > 0) {
      launch_by_warp(reuse_near_kernel<value_t, scalar_t>, bricks.count, cuda, p);
      return;
    }
    auto* state = scratch.take<BandWords>(kBrickSize * bricks.count);
    launch_by_warp(
        band_state_kernel<value_t, scalar_t>, bricks.count, cuda,
        BandStateParams<value_t, scalar_t>{bricks, in, p.asked, nullptr, nullptr, p.level, state});
    p.state = state;
    launch_by_warp(reuse_crossed_kernel<value_t, scalar_t>, bricks.count, cuda, p);
  });
  return {wanted, remembered, before};
}

template <typename value_t>
struct GrowParams {
  BrickShape bricks;
  const value_t* values;       // (R, 8, 8, 8)
  const uint64_t* asked;       // (R, 8)
  const uint64_t* remembered;  // (R, 8)
  const uint64_t* before;      // (R, 8)
  const BandWords* state;      // (R, 8)
  value_t absent;
  PlaceList places;
  PlaceCounts counts;
  value_t* new_values = nullptr;       // (R', 8, 8, 8)
  int32_t* coordinates = nullptr;      // (R', 3)
  uint64_t* new_asked = nullptr;       // (R', 8)
  uint64_t* new_remembered = nullptr;  // (R', 8)
  uint64_t* new_before = nullptr;      // (R', 8)
  int64_t* ids = nullptr;              // (M,)

  __device__ BandMemory memory(int64_t brick, int x) const {
    if (brick < 0) return {0, 0};
    return {remembered[kBrickSize * brick + x], before[kBrickSize * brick + x]};
  }
};

// Each lane looks at one of the places around, and at the brick's own.
template <typename Params>
__global__ void __launch_bounds__(kBandBlock) grow_mark_kernel(Params p) {
  const int n = lane_of_warp();
  for_each_by_warp(p.bricks.count, [&](int64_t brick) {
    const Tile tile(p.bricks.coordinates, brick);
    const BrickFaces known([&](int x) {
      return box_plane(p.bricks.nodes, tile.at, x) & ~p.state[kBrickSize * brick + x].unknown;
    });
    if (n >= 27) return;
    const int dx = n / 9 - 1, dy = n / 3 % 3 - 1, dz = n % 3 - 1;
    if (n == 13 || known.touch(dx, dy, dz)) {
      p.places.mark(tile.at[0] + dx, tile.at[1] + dy, tile.at[2] + dz);
    }
  });
}

// Nodes of a brick of the grown band: lanes 4*x to 4*x + 3 have those of plane x.
struct GrownNodes {
  int64_t old;     // the brick at this place before, or -1
  uint64_t had;    // nodes that it had been asked for
  uint64_t asked;  // those that join

  template <typename Params>
  __device__ GrownNodes(const Params& p, const Tile& tile, Surroundings& around) {
    const uint64_t wanted = wanted_nodes(p.bricks, tile, p.state, GrowingCells{}, around);
    old = around.brick(0, 0, 0);
    had = old < 0 ? 0 : p.asked[kBrickSize * old + lane_of_warp() / 4];
    asked = wanted & ~had;
  }
};

template <typename Params>
__global__ void __launch_bounds__(kBandBlock) grow_count_kernel(Params p) {
  __shared__ Surroundings of_warp[kBandWarps];
  Surroundings& around = of_warp[threadIdx.x / kWarpSize];
  for_each_by_warp(p.places.most + 1, [&](int64_t n) {
    int64_t count = 0;
    bool needed = false;
    if (n < p.places.count()) {
      const GrownNodes nodes(p, Tile(p.places.coordinates, n), around);
      count = count_bits(nodes.asked);
      needed = nodes.old >= 0 || count > 0;
    }
    if (lane_of_warp() != 0) return;
    p.counts.bricks[n] = needed ? 1 : 0;
    p.counts.ids[n] = count;
  });
}

// What is remembered of a plane x: lanes 4*x and 4*x + 1 look for the two sides around new nodes.
template <typename Params>
__device__ BandMemory inherited(const Params& p, const GrownNodes& nodes,
                                const Surroundings& around) {
  const int x = lane_of_warp() / 4, part = lane_of_warp() % 4;
  const BandMemory had = p.memory(nodes.old, x);
  uint64_t mine = 0;
  if (part < 2 && (nodes.asked & ~had.remembered) != 0) {
    const auto side = [&](int plane, int by, int bz) {
      const BandMemory memory = p.memory(around.brick(plane, by, bz), plane & 7);
      return part == 0 ? memory.was_inside() : memory.was_outside();
    };
    mine = dilated_word(side, x);
  }
  const uint64_t inside = __shfl_sync(kWholeWarp, mine, 0, 4);
  const uint64_t outside = __shfl_sync(kWholeWarp, mine, 1, 4);
  return inherit(had, nodes.asked, inside, outside);
}

// All of the new bricks but the table.
template <typename value_t>
__global__ void __launch_bounds__(kBandBlock) grow_store_kernel(GrowParams<value_t> p) {
  __shared__ Surroundings of_warp[kBandWarps];
  Surroundings& around = of_warp[threadIdx.x / kWarpSize];
  const int lane = lane_of_warp();
  for_each_by_warp(p.places.count(), [&](int64_t n) {
    const int64_t brick = p.counts.bricks[n];
    if (p.counts.bricks[n + 1] == brick) return;
    const Tile tile(p.places.coordinates, n);
    const GrownNodes nodes(p, tile, around);
    write_ids(nodes.asked, brick, p.counts.ids[n], p.ids);
    const BandMemory memory = inherited(p, nodes, around);
    if (lane < 3) p.coordinates[3 * brick + lane] = p.places.coordinates[3 * n + lane];
    if (lane % 4 == 0) {
      const int64_t w = kBrickSize * brick + lane / 4;
      p.new_asked[w] = nodes.had | nodes.asked;
      p.new_remembered[w] = memory.remembered;
      p.new_before[w] = memory.before;
    }
    for (int node = lane; node < kBrickNodes; node += kWarpSize) {
      p.new_values[kBrickNodes * brick + node] =
          nodes.old < 0 ? p.absent : p.values[kBrickNodes * nodes.old + node];
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> narrow_band_grow(
    Tensor values, Tensor table, Tensor coordinates, Tensor asked, Tensor remembered, Tensor before,
    std::vector<int64_t> nodes, double level) {
  const char* op = "narrow_band_grow";
  const CudaContext cuda(values);
  const BrickShape old = check_narrow_band(op, values, table, coordinates, nodes, asked);
  check_masks(op, values, "remembered", remembered);
  check_masks(op, values, "before", before);
  Scratch scratch(cuda);
  Tensor new_table = empty_on(values, {old.tiles[0], old.tiles[1], old.tiles[2]}, DType::Int);
  return dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    const auto* in = static_cast<const value_t*>(values.const_data_ptr());
    auto* state = scratch.take<BandWords>(kBrickSize * old.count);
    const PlaceList places = make_place_list(cuda, scratch, old.tiles, 27 * old.count);
    GrowParams<value_t> p{old,
                          in,
                          words_of(asked),
                          words_of(remembered),
                          words_of(before),
                          state,
                          absent_value<value_t>(),
                          places,
                          make_place_counts(scratch, places, false)};
    launch_by_warp(band_state_kernel<value_t, scalar_t>, old.count, cuda,
                   BandStateParams<value_t, scalar_t>{old, in, p.asked, p.remembered, p.before,
                                                      static_cast<scalar_t>(level), state});
    launch_by_warp(grow_mark_kernel<GrowParams<value_t>>, old.count, cuda, p);
    list_places(cuda, places);
    launch_by_warp(grow_count_kernel<GrowParams<value_t>>, places.most + 1, cuda, p);
    BandTotals total = sum_counts(cuda, scratch, places, p.counts);
    if (total.ids == 0) total.bricks = 0;  // nothing is lacking: the band stays as it is

    Tensor new_values =
        empty_on(values, {total.bricks, kBrickSize, kBrickSize, kBrickSize}, values.scalar_type());
    Tensor new_coordinates = empty_on(values, {total.bricks, 3}, DType::Int);
    Tensor new_asked = empty_on(values, {total.bricks, kBrickSize}, DType::Long);
    Tensor new_remembered = empty_on(values, {total.bricks, kBrickSize}, DType::Long);
    Tensor new_before = empty_on(values, {total.bricks, kBrickSize}, DType::Long);
    Tensor ids = empty_on(values, {total.ids}, DType::Long);
    p.new_values = static_cast<value_t*>(new_values.mutable_data_ptr());
    p.coordinates = static_cast<int32_t*>(new_coordinates.mutable_data_ptr());
    p.new_asked = mutable_words_of(new_asked);
    p.new_remembered = mutable_words_of(new_remembered);
    p.new_before = mutable_words_of(new_before);
    p.ids = static_cast<int64_t*>(ids.mutable_data_ptr());
    if (total.bricks > 0) launch_by_warp(grow_store_kernel<value_t>, places.most, cuda, p);
    write_table(cuda, places, p.counts, total.bricks,
                static_cast<int32_t*>(new_table.mutable_data_ptr()));
    return std::tuple{new_values, new_table, new_coordinates, new_asked, new_remembered,
                      new_before, ids};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(diffiso, CUDA, m) {
  m.impl("narrow_band_reuse", TORCH_BOX(&narrow_band_reuse));
  m.impl("narrow_band_grow", TORCH_BOX(&narrow_band_grow));
}

}  // namespace diffiso
