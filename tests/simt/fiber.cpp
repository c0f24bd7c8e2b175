// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

#include <algorithm>

namespace simt {
namespace {

constexpr size_t kStackBytes = 64 * 1024;

Fiber* starting = nullptr;  // the one whose entry function runs next

}  // namespace

// Changing stacks: the registers that a call must keep go onto the old stack, its pointer is
// stored, and the same comes off the new one. The C library's swapcontext would do it too, but it
// clears what address sanitizer knows of the new stack, so that overruns after a wait go unseen.
extern "C" void simt_swap_stacks(void** save, void* load) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
// Six registers, where to go on, and where the entry function would return to.
constexpr int kSavedWords = 8;
constexpr int kEntryWord = 6;
asm(R"(
  .text
  .type simt_swap_stacks, %function
  .globl simt_swap_stacks
simt_swap_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#elif defined(__aarch64__)
// x19 to x28, the frame pointer, where to go on (x30), and d8 to d15.
constexpr int kSavedWords = 20;
constexpr int kEntryWord = 11;
asm(R"(
  .text
  .type simt_swap_stacks, %function
  .globl simt_swap_stacks
simt_swap_stacks:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "tests/simt changes stacks on x86-64 and aarch64 only"
#endif

struct Fiber::State {
  void* fiber = nullptr;  // where each of the two stacks goes on
  void* caller = nullptr;
  void* fiber_fake_stack = nullptr;
  void* caller_fake_stack = nullptr;
  const void* caller_bottom = nullptr;
  size_t caller_size = 0;
};

Fiber::Fiber() : memory_(new char[kStackBytes]), state_(new State) {}
Fiber::~Fiber() = default;

void Fiber::start(const std::function<void()>* body) {
  // What ran here before may have been left in the middle, its variables still guarded.
  ASAN_UNPOISON_MEMORY_REGION(memory_.get(), kStackBytes);
  body_ = body;
  finished_ = false;
  auto* top = reinterpret_cast<void**>(memory_.get() + kStackBytes);
  void** saved = top - kSavedWords;
  std::fill(saved, top, nullptr);
  saved[kEntryWord] = reinterpret_cast<void*>(+[] { starting->enter(); });
  state_->fiber = saved;
}

void Fiber::resume() {
  State& s = *state_;
  starting = this;
  __sanitizer_start_switch_fiber(&s.caller_fake_stack, memory_.get(), kStackBytes);
  simt_swap_stacks(&s.caller, s.fiber);
  __sanitizer_finish_switch_fiber(s.caller_fake_stack, nullptr, nullptr);
}

void Fiber::suspend() {
  State& s = *state_;
  __sanitizer_start_switch_fiber(finished_ ? nullptr : &s.fiber_fake_stack, s.caller_bottom,
                                 s.caller_size);
  simt_swap_stacks(&s.fiber, s.caller);
  __sanitizer_finish_switch_fiber(s.fiber_fake_stack, &s.caller_bottom, &s.caller_size);
}

void Fiber::enter() {
  __sanitizer_finish_switch_fiber(nullptr, &state_->caller_bottom, &state_->caller_size);
  (*body_)();
  finished_ = true;
  suspend();
}

}  // namespace simt
