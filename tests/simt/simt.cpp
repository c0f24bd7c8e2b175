// SPDX-License-Identifier: Apache-2.0
// Runs the warps of a block in turn, each as far as it gets by itself, and lets threads go on when
// all that their call asks for have come.
#include "simt.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace simt {
namespace {

struct Thread {
  Fiber fiber;
  uint3 index;
  bool waiting = false;
  Call call;       // where it waits
  uint64_t value;  // what it brought,
  int source;      // the lane whose value it wants, or -1 for the word of all
  uint64_t result;
};

std::deque<Thread> threads;  // the first `thread_count` make up the block; a warp is 32 in a row
int thread_count = 0;
int running = 0;
std::exception_ptr failure;

std::string text(const Call& call, int warp) {
  std::ostringstream out;
  out << call.name << " (" << call.where.file_name() << ":" << call.where.line() << ")";
  if (call.lanes != 0)
    out << " for lanes 0x" << std::hex << call.lanes << std::dec << " of warp " << warp;
  return out.str();
}

std::runtime_error fault(const std::string& what) {
  std::ostringstream out;
  out << "simt: block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << "): " << what;
  return std::runtime_error(out.str());
}

// No thread can go on: says where each of them is.
std::runtime_error stuck() {
  std::map<std::string, std::pair<int, int>> places;  // first thread, how many
  for (int n = 0; n < thread_count; ++n) {
    const Thread& t = threads[n];
    const std::string place = t.waiting ? "at " + text(t.call, n / kWarpSize) : "past the end";
    ++places.try_emplace(place, n, 0).first->second.second;
  }
  std::string what = "threads wait for others that never come:";
  for (const auto& [place, who] : places) {
    what += " " + std::to_string(who.second) + " (first: thread " + std::to_string(who.first) +
            ") " + place + ";";
  }
  what.pop_back();
  return fault(what);
}

// Lets the threads of a warp that a call names go on, if all of them wait there.
bool release_warp(int first, const Call& call) {
  uint64_t word = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(call.lanes >> lane & 1)) continue;
    if (first + lane >= thread_count) return false;
    const Thread& t = threads[first + lane];
    if (!t.waiting || !t.call.same_as(call)) return false;
    word |= uint64_t{t.value != 0} << lane;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(call.lanes >> lane & 1)) continue;
    Thread& t = threads[first + lane];
    t.result = t.source < 0 ? word : threads[first + t.source].value;
    t.waiting = false;
  }
  return true;
}

bool release_block() {
  for (int n = 0; n < thread_count; ++n) {
    if (!threads[n].waiting || !threads[n].call.same_as(threads[0].call)) return false;
  }
  if (threads[0].call.lanes != 0) return false;
  for (int n = 0; n < thread_count; ++n) threads[n].waiting = false;
  return true;
}

// Runs a warp until each of its threads has ended or waits for the block.
void run_warp(int first, bool backwards) {
  const int lanes = std::min(kWarpSize, thread_count - first);
  bool released = true;
  while (released) {
    for (int n = 0; n < lanes; ++n) {
      running = first + (backwards ? lanes - 1 - n : n);
      Thread& t = threads[running];
      if (t.waiting || t.fiber.finished()) continue;
      threadIdx = t.index;
      t.fiber.resume();
      if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    }
    released = false;
    for (int n = first; n < first + lanes; ++n) {
      const Thread& t = threads[n];
      if (t.waiting && t.call.lanes != 0) released |= release_warp(first, t.call);
    }
  }
}

void run_block(const std::function<void()>& body, bool backwards) {
  for (int n = 0; n < thread_count; ++n) {
    threads[n].waiting = false;
    threads[n].fiber.start(&body);
  }
  const int warps = (thread_count + kWarpSize - 1) / kWarpSize;
  while (true) {
    for (int n = 0; n < warps; ++n) {
      run_warp(kWarpSize * (backwards ? warps - 1 - n : n), backwards);
    }
    const auto ended = [](const Thread& t) { return t.fiber.finished(); };
    if (std::all_of(threads.begin(), threads.begin() + thread_count, ended)) return;
    if (!release_block()) throw stuck();
  }
}

void set_block(dim3 block) {
  blockDim = block;
  thread_count = static_cast<int>(block.x * block.y * block.z);
  while (threads.size() < static_cast<size_t>(thread_count)) threads.emplace_back();
  int n = 0;
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) threads[n++].index = {x, y, z};
    }
  }
}

// Waits at a call and returns what the thread then gets.
uint64_t meet(const Call& call, uint64_t value, int source) {
  Thread& t = threads[running];
  if (call.lanes != 0 && !(call.lanes >> lane() & 1)) {
    throw fault(text(call, running / kWarpSize) + " leaves out its own lane " +
                std::to_string(lane()));
  }
  if (source >= 0 && !(call.lanes >> source & 1)) {
    throw fault(text(call, running / kWarpSize) + " reads lane " + std::to_string(source));
  }
  t.waiting = true;
  t.call = call;
  t.value = value;
  t.source = source;
  t.fiber.suspend();
  return t.result;
}

}  // namespace

bool Call::same_as(const Call& other) const {
  return lanes == other.lanes && where.line() == other.where.line() &&
         where.column() == other.where.column() && std::strcmp(name, other.name) == 0 &&
         std::strcmp(where.file_name(), other.where.file_name()) == 0;
}

int lane() {
  return running % kWarpSize;
}

void wait_for_block(const Call& call) {
  meet(call, 0, -1);
}

uint64_t ballot(const Call& call, uint64_t value) {
  return meet(call, value, -1);
}

uint64_t exchange(const Call& call, uint64_t value, int source) {
  return meet(call, value, source);
}

void run_grid(dim3 grid, dim3 block, const std::function<void()>& thread) {
  static std::mutex one_grid;  // shared memory and the variables above serve one block at a time
  static uint64_t launches = 0;
  const std::lock_guard lock(one_grid);
  diffiso::check(uint64_t{block.x} * block.y * block.z - 1 < 1024 && block.z <= 64 &&
                     grid.x <= INT32_MAX && grid.y <= 65535 && grid.z <= 65535,
                 "simt: no such launch: grid (", grid.x, ", ", grid.y, ", ", grid.z, "), block (",
                 block.x, ", ", block.y, ", ", block.z, ")");
  const std::function<void()> body = [&] {
    try {
      thread();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  gridDim = grid;
  set_block(block);
  uint64_t count = launches++;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(body, count++ % 2 == 1);
      }
    }
  }
}

}  // namespace simt
