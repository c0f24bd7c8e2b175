// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>

namespace simt {

// A function with a stack of its own, which can stop in the middle and go on later.
// Address sanitizer is told of every change of stacks.
class Fiber {
 public:
  Fiber();
  ~Fiber();

  void start(const std::function<void()>* body);  // gets ready; runs from the first resume() on
  void resume();                                  // until it suspends or ends
  void suspend();                                 // called from within
  bool finished() const { return finished_; }

 private:
  struct State;
  void enter();

  std::unique_ptr<char[]> memory_;
  std::unique_ptr<State> state_;
  const std::function<void()>* body_ = nullptr;
  bool finished_ = true;
};

}  // namespace simt
