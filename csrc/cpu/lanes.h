// SPDX-License-Identifier: Apache-2.0
// Numbers side by side, as core/lanes.h asks: `count` vectors of an instruction set, so that while one
// waits another is worked on. `Isa` names its types and operations.
#pragma once

#include "core/lanes.h"

namespace diffiso {

template <typename Isa, int count>
struct Masks {
  typename Isa::Mask v[count];

  Masks() = default;
  DIFFISO_HD explicit Masks(bool same) {
    for (auto& one : v) one = Isa::all(same);
  }
  DIFFISO_HD friend Masks operator&&(const Masks& a, const Masks& b) {
    Masks out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::both(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Masks operator||(const Masks& a, const Masks& b) {
    Masks out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::either(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Masks operator!=(const Masks& a, const Masks& b) {
    Masks out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::differ(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD Masks operator!() const { return *this != Masks(true); }
  DIFFISO_HD friend Masks operator==(const Masks& a, const Masks& b) { return !(a != b); }
};

template <typename Isa, int count>
struct Wholes {
  using Mask = Masks<Isa, count>;
  typename Isa::Whole v[count];

  Wholes() = default;
  DIFFISO_HD Wholes(int32_t same) {
    for (auto& one : v) one = Isa::all(same);
  }
  DIFFISO_HD friend Wholes operator+(const Wholes& a, const Wholes& b) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::sum(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Wholes operator-(const Wholes& a, const Wholes& b) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::difference(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Wholes operator*(const Wholes& a, const Wholes& b) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::product(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Wholes operator&(const Wholes& a, const Wholes& b) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::common_bits(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Wholes operator<<(const Wholes& a, int32_t by) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::up(a.v[k], by);
    return out;
  }
  DIFFISO_HD friend Wholes operator>>(const Wholes& a, int32_t by) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::down(a.v[k], by);
    return out;
  }
  DIFFISO_HD friend Wholes operator>>(const Wholes& a, const Wholes& by) {
    Wholes out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::down_each(a.v[k], by.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator==(const Wholes& a, const Wholes& b) {
    Mask out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::same(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator<(const Wholes& a, const Wholes& b) {
    Mask out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::less(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator>=(const Wholes& a, const Wholes& b) { return !(a < b); }
};

template <typename Isa, int count>
struct Reals {
  using Mask = Masks<Isa, count>;
  typename Isa::Real v[count];

  Reals() = default;
  DIFFISO_HD Reals(float same) {
    for (auto& one : v) one = Isa::all(same);
  }
  DIFFISO_HD friend Reals operator+(const Reals& a, const Reals& b) {
    Reals out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::sum(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Reals operator-(const Reals& a, const Reals& b) {
    Reals out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::difference(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Reals operator*(const Reals& a, const Reals& b) {
    Reals out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::product(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Reals operator/(const Reals& a, const Reals& b) {
    Reals out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::quotient(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator<(const Reals& a, const Reals& b) {
    Mask out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::less(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator>(const Reals& a, const Reals& b) { return b < a; }
  DIFFISO_HD friend Mask operator>=(const Reals& a, const Reals& b) {
    Mask out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::not_less(a.v[k], b.v[k]);
    return out;
  }
  DIFFISO_HD friend Mask operator==(const Reals& a, const Reals& b) {
    Mask out;
    for (int k = 0; k < count; ++k) out.v[k] = Isa::same(a.v[k], b.v[k]);
    return out;
  }
};

template <typename Isa, int count>
struct LaneTypes<Reals<Isa, count>> {
  using Scalar = float;
  using Whole = Wholes<Isa, count>;
  using Mask = Masks<Isa, count>;
};

template <typename Isa, int count>
DIFFISO_HD bool any(const Masks<Isa, count>& mask) {
  typename Isa::Mask some = mask.v[0];
  for (int k = 1; k < count; ++k) some = Isa::either(some, mask.v[k]);
  return Isa::any(some);
}

template <template <typename, int> typename Numbers, typename Isa, int count>
DIFFISO_HD Numbers<Isa, count> select(const Masks<Isa, count>& mask, const Numbers<Isa, count>& yes,
                                      const Numbers<Isa, count>& no) {
  Numbers<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::select(mask.v[k], yes.v[k], no.v[k]);
  return out;
}

template <template <typename, int> typename Numbers, typename Isa, int count>
DIFFISO_HD Numbers<Isa, count> larger(const Numbers<Isa, count>& a, const Numbers<Isa, count>& b) {
  Numbers<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::larger(a.v[k], b.v[k]);
  return out;
}
template <template <typename, int> typename Numbers, typename Isa, int count>
DIFFISO_HD Numbers<Isa, count> smaller(const Numbers<Isa, count>& a, const Numbers<Isa, count>& b) {
  Numbers<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::smaller(a.v[k], b.v[k]);
  return out;
}

template <typename Isa, int count>
DIFFISO_HD Reals<Isa, count> square_root(const Reals<Isa, count>& x) {
  Reals<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::square_root(x.v[k]);
  return out;
}
template <typename Isa, int count>
DIFFISO_HD Wholes<Isa, count> truncated(const Reals<Isa, count>& x) {
  Wholes<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::truncated(x.v[k]);
  return out;
}
template <typename real, typename Isa, int count>
DIFFISO_HD real real_of(const Wholes<Isa, count>& whole) {
  real out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::real_of(whole.v[k]);
  return out;
}

template <typename Isa, int count>
DIFFISO_HD Reals<Isa, count> gather(const float* from, const Wholes<Isa, count>& at) {
  Reals<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::gather(from, at.v[k]);
  return out;
}
template <typename Isa, int count>
DIFFISO_HD Wholes<Isa, count> gather(const uint32_t* from, const Wholes<Isa, count>& at) {
  Wholes<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::gather(from, at.v[k]);
  return out;
}
template <typename Isa, int count>
DIFFISO_HD Wholes<Isa, count> gather(const uint8_t* from, const Wholes<Isa, count>& at) {
  Wholes<Isa, count> out;
  for (int k = 0; k < count; ++k) out.v[k] = Isa::gather(from, at.v[k]);
  return out;
}

}  // namespace diffiso
