// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>

#include "common/torch.h"

namespace diffiso {

// Calls f(task) for every task, on torch's threads. Threads draw tasks from a counter, so that
// uneven tasks and busy cores even out; results must not depend on who drew what.
template <typename F>
void parallel_tasks(int64_t tasks, const F& f) {
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), tasks);
  if (workers <= 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t task; (task = next.fetch_add(1)) < tasks;) f(task);
    }
  });
}

// Calls f(begin, end) for pieces of [0, count) of at most `grain`.
template <typename F>
void parallel_pieces(int64_t count, int64_t grain, const F& f) {
  parallel_tasks((count + grain - 1) / grain,
                 [&](int64_t task) { f(task * grain, std::min(count, (task + 1) * grain)); });
}

// Asks for large pages under memory that is about to be written for the first time. Page faults,
// not stores, are what new output costs: 2 MiB pages take 1/512 of them. A hint, without effect
// elsewhere.
inline void advise_large_pages(const Tensor& fresh) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(fresh.mutable_data_ptr());
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + fresh.numel() * fresh.element_size()) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)fresh;
#endif
}

}  // namespace diffiso
