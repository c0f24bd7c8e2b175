// SPDX-License-Identifier: Apache-2.0
// All that a test program needs: say what must hold, go on after a failure, and report at the end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <source_location>

inline int& failures() {
  static int count = 0;
  return count;
}

inline void expect(bool holds, const std::source_location& at = std::source_location::current()) {
  if (holds) return;
  ++failures();
  std::printf("%s:%u: failed in %s\n", at.file_name(), at.line(), at.function_name());
}

inline void expect_near(double actual, double expected, double tolerance,
                        const std::source_location& at = std::source_location::current()) {
  if (std::abs(actual - expected) <= tolerance) return;
  ++failures();
  std::printf("%s:%u: %.17g is not %.17g within %g, in %s\n", at.file_name(), at.line(), actual,
              expected, tolerance, at.function_name());
}

inline int report() {
  std::printf(failures() == 0 ? "all expectations hold\n" : "%d expectations failed\n", failures());
  return failures() == 0 ? 0 : 1;
}

// The same numbers on every platform, unlike the distributions of the standard library.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t below(int64_t bound) { return static_cast<int64_t>(engine_() % bound); }
  double uniform(double low, double high) {
    return low + (high - low) * (engine_() / 4294967296.0);
  }

 private:
  std::mt19937 engine_;
};
