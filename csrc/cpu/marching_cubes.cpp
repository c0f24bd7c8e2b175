// SPDX-License-Identifier: Apache-2.0
// Marching cubes on the CPU. One walk over the rows of nodes reads the grid: it packs the samples'
// signs into words and, one plane behind, while their samples are still in the caches, counts what
// rows own and writes their vertices down. Once it is known how many come before each, vertices
// move to their places and faces follow. Everything but the vertices works on bits.
//
// Memory: 1/8 byte a sample for the signs, 32 bytes a row for counts, the vertices and edge ids once
// more (rows share blocks that may be up to half empty), 24 bytes of scratch for a row's samples in
// each thread; where a NaN was seen, twice more the signs. Output order does not depend on the
// number of threads.
#include <vector>

#include "common/checks.h"
#include "cpu/marching_cubes_rows.h"
#include "cpu/parallel.h"

namespace diffiso {
namespace {

// Vertices of a block in which they wait: small enough to stay in the caches and to be used again by
// the next call.
constexpr int64_t kBlockVertices = 4096;

int64_t vertex_bytes(DType dtype) {
  return compute_dtype(dtype) == DType::Double ? 24 : 12;
}

// Rows of one task: enough that handing them out costs nothing beside them.
int64_t rows_per_task(const Lattice& lattice) {
  return std::max<int64_t>(1, (int64_t{1} << 16) / (64 * lattice.words));
}

template <typename value_t>
void pack_present(const MarchingCubesRows& p, uint64_t* nodes, int64_t begin, int64_t end) {
  const int64_t pad = p.lattice.pad;
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(p.lattice, r);
    uint64_t* out = nodes + r * p.lattice.words;
    for (int64_t w = 0; w < p.lattice.words; ++w) out[w] = low_bits(p.lattice.size[2] - 64 * w);
    const int64_t i = row.i - pad, j = row.j - pad;
    if (i < 0 || j < 0 || i >= p.grid.size[0] || j >= p.grid.size[1]) continue;
    const value_t* in = static_cast<const value_t*>(p.values) + p.grid.node(row.b, i, j, 0);
    for (int64_t k = 0; k < p.grid.size[2]; ++k) {
      const bool absent = std::isnan(static_cast<double>(in[k]));
      out[(k + pad) / 64] &= ~(uint64_t{absent} << (k + pad) % 64);
    }
  }
}

// The words of cells without an absent corner, and scratch for the words of present nodes.
Tensor find_present_cells(const MarchingCubesRows& p, const Tensor& values) {
  const int64_t words = p.lattice.rows() * p.lattice.words;
  Tensor nodes = empty_on(values, {words}, DType::Long);
  Tensor cells = empty_on(values, {words}, DType::Long);
  auto* node_words = static_cast<uint64_t*>(nodes.mutable_data_ptr());
  auto* cell_words = static_cast<uint64_t*>(cells.mutable_data_ptr());
  dispatch_grid(p.dtype, [&]<typename value_t, typename scalar_t>() {
    parallel_pieces(p.lattice.rows(), rows_per_task(p.lattice), [&](int64_t begin, int64_t end) {
      pack_present<value_t>(p, node_words, begin, end);
    });
  });
  parallel_pieces(p.lattice.rows(), rows_per_task(p.lattice), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Row row = row_at(p.lattice, r);
      for (int64_t w = 0; w < p.lattice.words; ++w) {
        cell_words[r * p.lattice.words + w] = present_cells(node_words, p.lattice, row, w);
      }
    }
  });
  return cells;
}

// Packs the rows, and sweeps every row as soon as its neighbours are packed, while their samples
// are in the caches. Returns two runs for each task: the second, whose neighbours are the next
// task's, is still to be swept. Stops sweeping at a NaN.
std::vector<RowRun> pack_and_sweep(const MarchingCubesRows& p, const RowLoops& loops, bool& nan) {
  const int64_t rows = p.lattice.rows(), neighbours = p.lattice.size[1] + 1;
  const int64_t step = std::max<int64_t>(1, (int64_t{1} << 8) / (64 * p.lattice.words));
  const int64_t tasks = 4 * torch::stable::get_num_threads();
  // A task leaves rows to the end whose neighbours are another's: not too many of them.
  const int64_t grain =
      std::max({(rows + tasks - 1) / tasks, rows_per_task(p.lattice), 8 * neighbours});
  std::vector<RowRun> runs(2 * ((rows + grain - 1) / grain));
  std::atomic<bool> nan_seen{false};
  parallel_pieces(rows, grain, [&](int64_t begin, int64_t end) {
    RowRun run(p, begin, end);
    RowCrossings scratch(p);
    for (Row row = run.next; row.index < end;) {
      if (loops.pack(p, row, std::min(row.index + step, end))) nan_seen = true;
      const int64_t ready = row.index == rows ? rows : row.index - neighbours;
      if (ready > run.next.index && !nan_seen) loops.sweep(p, run, scratch, ready, false);
    }
    run.end = run.next.index;
    runs[2 * (begin / grain)] = std::move(run);
    runs[2 * (begin / grain) + 1] = RowRun(p, runs[2 * (begin / grain)].end, end);
  });
  nan = nan_seen;
  return runs;
}

// Where the rows are cut so that tasks own about equally many faces.
std::vector<int64_t> balanced_cuts(const MarchingCubesRows& p, OutputTotals total) {
  const int64_t rows = p.lattice.rows();
  const auto work_before = [&](int64_t r) { return p.rows[r].faces + r / 16; };
  const int64_t all = total.faces + rows / 16;
  const int64_t tasks = std::clamp<int64_t>(all >> 14, 1, std::max<int64_t>(rows, 1));
  std::vector<int64_t> cuts = {0};
  for (int64_t task = 1; task < tasks; ++task) {
    int64_t low = cuts.back(), high = rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (work_before(middle) < all / tasks * task) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    cuts.push_back(low);
  }
  cuts.push_back(rows);
  return cuts;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> marching_cubes(
    Tensor values, Tensor level, std::vector<double> lower, std::vector<double> spacing,
    bool close_boundary, bool int32_faces, bool with_edges) {
  MarchingCubesRows p{};
  p.grid = check_marching_cubes(values, level, lower, spacing);
  dispatch_floating(level.scalar_type(), [&]<typename scalar_t>() {
    const auto* levels = static_cast<const scalar_t*>(level.const_data_ptr());
    for (int64_t b = 0; b < p.grid.batch; ++b) check_level_is_number(std::isnan(levels[b]));
  });
  p.lattice = make_lattice(p.grid, close_boundary);
  p.dtype = values.scalar_type();
  p.values = values.const_data_ptr();
  p.level = level.const_data_ptr();
  p.int32_faces = int32_faces;
  p.with_edges = with_edges;
  const int64_t rows = p.lattice.rows();
  const RowLoops& loops = row_loops();

  Tensor words = empty_on(values, {rows * p.lattice.words}, DType::Long);
  Tensor counts = empty_on(values, {rows + 1, 4}, DType::Long);
  advise_large_pages(words);
  advise_large_pages(counts);
  p.inside = static_cast<uint64_t*>(words.mutable_data_ptr());
  p.signs = {p.inside, nullptr};
  p.rows = static_cast<RowCounts*>(counts.mutable_data_ptr());

  bool nan = false;
  std::vector<RowRun> runs = pack_and_sweep(p, loops, nan);
  std::optional<Tensor> cells;
  if (nan) {
    cells = find_present_cells(p, values);
    p.signs.cells = static_cast<const uint64_t*>(cells->const_data_ptr());
    const int64_t grain = rows_per_task(p.lattice);
    runs.clear();
    for (int64_t r = 0; r < rows; r += grain) runs.emplace_back(p, r, std::min(r + grain, rows));
  }
  const auto count = static_cast<int64_t>(runs.size());
  parallel_tasks(count, [&](int64_t n) {
    if (runs[n].next.index == runs[n].end) return;
    RowCrossings scratch(p);
    loops.sweep(p, runs[n], scratch, runs[n].end, true);
  });
  std::vector<OutputTotals> before(runs.size());
  OutputTotals total{0, 0};
  for (size_t n = 0; n < runs.size(); ++n) {
    before[n] = total;
    total = {total.vertices + runs[n].total.vertices, total.faces + runs[n].total.faces};
  }
  p.rows[rows] = {{total.vertices, total.vertices, total.vertices}, total.faces};
  check_index_range(total.vertices, int32_faces);
  Tensor vertices = empty_on(values, {total.vertices, 3}, compute_dtype(p.dtype));
  Tensor faces = empty_on(values, {total.faces, 3}, int32_faces ? DType::Int : DType::Long);
  Tensor edges = empty_on(values, {with_edges ? total.vertices : 0}, DType::Long);
  Tensor vertex_offsets = empty_on(values, {p.grid.batch + 1}, DType::Long);
  Tensor face_offsets = empty_on(values, {p.grid.batch + 1}, DType::Long);
  for (const Tensor& output : {vertices, faces, edges}) advise_large_pages(output);
  p.faces = faces.mutable_data_ptr();
  p.vertices = vertices.mutable_data_ptr();
  p.edges = with_edges ? static_cast<int64_t*>(edges.mutable_data_ptr()) : nullptr;
  parallel_tasks(count, [&](int64_t n) { runs[n].settle(p, before[n]); });
  const std::vector<int64_t> cuts = balanced_cuts(p, total);
  parallel_tasks(static_cast<int64_t>(cuts.size()) - 1,
                 [&](int64_t task) { loops.emit_faces(p, cuts[task], cuts[task + 1]); });
  for (int64_t b = 0; b <= p.grid.batch; ++b) {
    const RowCounts& begin = p.rows[b * p.lattice.rows_per_grid()];
    static_cast<int64_t*>(vertex_offsets.mutable_data_ptr())[b] = begin.edges[0];
    static_cast<int64_t*>(face_offsets.mutable_data_ptr())[b] = begin.faces;
  }
  return {vertices, faces, edges, vertex_offsets, face_offsets};
}

// Adds up what the vertices of some x-planes pass back. Vertices come in row order, so the ones
// whose edges begin in rows [first, last) are a range of ids; their edges end at most one plane
// further on.
template <typename value_t, typename scalar_t>
double backward_rows(const GridShape& grid, const Lattice& lattice, const value_t* values,
                     const scalar_t* level, const scalar_t* grad_vertices, const int64_t* edges,
                     int64_t edge_count, int64_t first, int64_t last, scalar_t* grad_values) {
  const int64_t ids_per_row = 3 * lattice.size[2];
  const int64_t* begin = std::lower_bound(edges, edges + edge_count, first * ids_per_row,
                                          [&](int64_t id, int64_t bound) { return id < bound; });
  double grad_level = 0;
  for (int64_t v = begin - edges; v < edge_count && edges[v] < last * ids_per_row; ++v) {
    const auto back = pull_back_vertex<scalar_t, value_t>(grid, lattice, edges[v], values, level,
                                                          load_vec3(grad_vertices, v));
    grad_level += back.level;
    for (int end = 0; end < 2; ++end) {
      if (back.node[end] >= 0) grad_values[back.node[end]] += back.value[end];
    }
  }
  return grad_level;
}

// Without atomics and in one order: slabs of x-planes, first the even ones, then the odd ones. A
// slab touches its own planes and the next slab's first, so slabs of one parity never meet.
std::tuple<Tensor, Tensor> marching_cubes_backward(Tensor grad_vertices, Tensor values,
                                                   Tensor level, Tensor edges,
                                                   Tensor vertex_offsets,
                                                   std::vector<double> spacing,
                                                   bool close_boundary) {
  const GridShape grid =
      check_marching_cubes_backward(grad_vertices, values, level, edges, vertex_offsets, spacing);
  const Lattice lattice = make_lattice(grid, close_boundary);
  const DType dtype = compute_dtype(values.scalar_type());
  Tensor grad_values =
      zeros_on(values, {grid.batch, grid.size[0], grid.size[1], grid.size[2]}, dtype);
  Tensor grad_level = zeros_on(values, {grid.batch}, dtype);
  const char* op = "marching_cubes_backward";
  check_edges(op, static_cast<const int64_t*>(edges.const_data_ptr()), edges.numel(), lattice);
  check_offsets(op, static_cast<const int64_t*>(vertex_offsets.const_data_ptr()), grid.batch,
                edges.numel());
  const int64_t planes = 4;  // a slab; fixed, so that sums do not depend on the number of threads
  const int64_t slabs = (lattice.size[0] + planes - 1) / planes;
  std::vector<double> slab_level(grid.batch * slabs);
  dispatch_grid(values.scalar_type(), [&]<typename value_t, typename scalar_t>() {
    auto* out = static_cast<scalar_t*>(grad_values.mutable_data_ptr());
    for (int parity = 0; parity < 2; ++parity) {
      const int64_t half = (slabs + 1 - parity) / 2;
      parallel_tasks(grid.batch * half, [&](int64_t task) {
        const int64_t b = task / half, slab = 2 * (task % half) + parity;
        const int64_t first = (b * lattice.size[0] + slab * planes) * lattice.size[1];
        const int64_t last =
            (b * lattice.size[0] + std::min((slab + 1) * planes, lattice.size[0])) *
            lattice.size[1];
        slab_level[b * slabs + slab] = backward_rows<value_t, scalar_t>(
            grid, lattice, static_cast<const value_t*>(values.const_data_ptr()),
            static_cast<const scalar_t*>(level.const_data_ptr()),
            static_cast<const scalar_t*>(grad_vertices.const_data_ptr()),
            static_cast<const int64_t*>(edges.const_data_ptr()), edges.numel(), first, last, out);
      });
    }
    for (int64_t b = 0; b < grid.batch; ++b) {
      double sum = 0;
      for (int64_t slab = 0; slab < slabs; ++slab) sum += slab_level[b * slabs + slab];
      static_cast<scalar_t*>(grad_level.mutable_data_ptr())[b] = static_cast<scalar_t>(sum);
    }
  });
  return {grad_values, grad_level};
}

}  // namespace

RowCrossings::RowCrossings(const MarchingCubesRows& p) : count{0, 0, 0}, faces(0) {
  for (auto& along : nodes) along.reset(new int64_t[p.lattice.size[2]]);
}

RowCrossings::~RowCrossings() = default;

RowRun::RowRun() = default;

RowRun::RowRun(const MarchingCubesRows& p, int64_t first, int64_t last)
    : begin(first), end(last), next(row_at(p.lattice, first)), total{0, 0} {}

RowRun::RowRun(RowRun&&) noexcept = default;
RowRun& RowRun::operator=(RowRun&&) noexcept = default;
RowRun::~RowRun() = default;

RowRun::Room RowRun::take(const MarchingCubesRows& p, int64_t count) {
  const int64_t width = vertex_bytes(p.dtype);
  if (blocks_.empty() || blocks_.back().used + count > blocks_.back().capacity) {
    const int64_t capacity = std::max(kBlockVertices, count);
    blocks_.push_back({std::unique_ptr<std::byte[]>(new std::byte[capacity * width]),
                       std::unique_ptr<int64_t[]>(p.with_edges ? new int64_t[capacity] : nullptr),
                       0, capacity});
  }
  Block& block = blocks_.back();
  const int64_t at = block.used;
  block.used += count;
  return {block.vertices.get() + at * width, p.with_edges ? block.edges.get() + at : nullptr};
}

void RowRun::settle(const MarchingCubesRows& p, OutputTotals before) {
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t& edges : p.rows[r].edges) edges += before.vertices;
    p.rows[r].faces += before.faces;
  }
  const int64_t width = vertex_bytes(p.dtype);
  auto* vertices = static_cast<std::byte*>(p.vertices) + before.vertices * width;
  int64_t* edges = p.with_edges ? p.edges + before.vertices : nullptr;
  for (const Block& block : blocks_) {
    std::memcpy(vertices, block.vertices.get(), block.used * width);
    vertices += block.used * width;
    if (!p.with_edges) continue;
    std::memcpy(edges, block.edges.get(), block.used * sizeof(int64_t));
    edges += block.used;
  }
  blocks_.clear();
}

STABLE_TORCH_LIBRARY_IMPL(diffiso, CPU, m) {
  m.impl("marching_cubes", TORCH_BOX(&marching_cubes));
  m.impl("marching_cubes_backward", TORCH_BOX(&marching_cubes_backward));
}

}  // namespace diffiso
