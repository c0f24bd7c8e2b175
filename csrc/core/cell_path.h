// SPDX-License-Identifier: Apache-2.0
// The field along a straight path through one cell: a cubic, by its Bernstein coefficients. These are
// means of the field at corners of the box that the path spans, so that where all samples are on
// one side, so is the whole path, also after rounding; and two cells agree to the last bit on the
// value where a path crosses the face between them. So no ray slips through.
#pragma once

#include "core/lanes.h"
#include "core/vec3.h"

namespace diffiso {

template <typename real>
DIFFISO_HD real mix(real a, real b, real s) {
  return (real(1) - s) * a + s * b;  // exactly a at 0 and b at 1
}

template <typename real>
struct CellPath {
  using Scalar = ScalarOf<real>;
  using Mask = MaskOf<real>;

  real b[4];

  // Samples by corner 4*dx + 2*dy + dz; ends of the path as fractions of the cell.
  DIFFISO_HD CellPath(const real samples[8], const Vec3<real>& from, const Vec3<real>& to) {
    real x[2][4], y[2][2][2], z[2][2][2];  // folded along x, then y, then z; first end, last end
    for (int yz = 0; yz < 4; ++yz) {
      x[0][yz] = mix(samples[yz], samples[4 + yz], from.x);
      x[1][yz] = mix(samples[yz], samples[4 + yz], to.x);
    }
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < 2; ++k) {
        y[i][0][k] = mix(x[i][k], x[i][2 + k], from.y);
        y[i][1][k] = mix(x[i][k], x[i][2 + k], to.y);
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        z[i][j][0] = mix(y[i][j][0], y[i][j][1], from.z);
        z[i][j][1] = mix(y[i][j][0], y[i][j][1], to.z);
      }
    }
    const real third(Scalar(1) / 3);
    b[0] = z[0][0][0];
    b[1] = (z[0][0][1] + z[0][1][0] + z[1][0][0]) * third;
    b[2] = (z[0][1][1] + z[1][0][1] + z[1][1][0]) * third;
    b[3] = z[1][1][1];
  }

  DIFFISO_HD real least_coefficient() const {
    return smaller(smaller(b[0], b[1]), smaller(b[2], b[3]));
  }

  // Value and derivative at a share s of the way.
  DIFFISO_HD real value(real s, real& slope) const {
    const real p01 = mix(b[0], b[1], s), p12 = mix(b[1], b[2], s), p23 = mix(b[2], b[3], s);
    const real p = mix(p01, p12, s), q = mix(p12, p23, s);
    slope = real(3) * (q - p);
    return mix(p, q, s);
  }
  DIFFISO_HD real value(real s) const {
    real slope;
    return value(s, slope);
  }

  // Where the derivative is zero, between 0 and 1 in rising order; 1 where there is none.
  DIFFISO_HD void stationary(real& first, real& second) const {
    // The derivative over 3: c + 2 h s + a s^2.
    const real c = b[1] - b[0], h = b[2] - b[1] - c, a = b[3] - b[2] - c - real(2) * h;
    const real root = square_root(h * h - a * c);  // NaN without one
    // Without cancellation: one root is q / a, the other c / q.
    const real zero(0), one(1);
    const real q = zero - (h + select(h < zero, zero - root, root));
    const real u = q / a, v = c / q;
    const real in_u = select(u > zero && u < one, u, one);
    const real in_v = select(v > zero && v < one, v, one);
    first = smaller(in_u, in_v);
    second = larger(in_u, in_v);
  }

  // Where, from a share `from` on, the path first gets to the inner side (below zero), or where
  // that is false to the outer one; -1 if it does not. It must be on the other side at `from`.
  DIFFISO_HD real crossing(Mask to_inside, real from) const {
    const real zero(0), one(1);
    const Mask side0 = (b[0] < zero) == to_inside, side1 = (b[1] < zero) == to_inside;
    const Mask side2 = (b[2] < zero) == to_inside, side3 = (b[3] < zero) == to_inside;
    Mask some = side0 || side1 || side2 || side3;
    const Mask turn1 = side0 != side1, turn2 = side1 != side2, turn3 = side2 != side3;
    // As many crossings as turns, or fewer by an even number.
    const Mask single = ((turn1 != turn2) != turn3) && !(turn1 && turn2) && from == zero;
    real low = from, high = one;
    const Mask many = some && !single;
    if (any(many)) {  // then the turning points of the path tell
      real first, second;
      stationary(first, second);
      const Mask at_first = first > from && (value(first) < zero) == to_inside;
      const Mask at_second = second > from && (value(second) < zero) == to_inside;
      const real to_second = larger(first, from);
      const real to_end = select(second > from && second < one, second, to_second);
      const real begin = select(at_first, from, select(at_second, to_second, to_end));
      const real end = select(at_first, first, select(at_second, second, one));
      low = select(many, begin, low);
      high = select(many, end, high);
      some = some && (single || at_first || at_second || side3);
    }
    return any(some) ? root(low, high, to_inside, some) : real(-1);
  }

 private:
  // The one crossing between low, on this side, and high, beyond it: Newton's steps, kept between
  // the closest shares known to lie on either side. -1 where there is none to look for.
  DIFFISO_HD real root(real low, real high, Mask to_inside, Mask some) const {
    // A last step so small leaves less than the digits hold: each squares the error.
    constexpr Scalar kDigits = sizeof(Scalar) == 8 ? Scalar(1e-9) : Scalar(3e-5);
    const real zero(0), one(1), half(Scalar(0.5)), enough(kDigits);
    const real least(std::numeric_limits<Scalar>::epsilon());
    const real chord = b[0] / (b[0] - b[3]);
    real s = select(low == zero && high == one, chord, (low + high) * half);
    Mask open = some;
    for (int step = 0; step < 64 && any(open); ++step) {
      real slope;
      const real p = value(s, slope);
      const Mask beyond = (p < zero) == to_inside;
      high = select(open && beyond, s, high);
      low = select(open && !beyond, s, low);
      const real newton = s - p / slope;
      // Unless it runs the other way here: back to where it was before it turned.
      const Mask crosses = (slope < zero) == to_inside;
      const Mask there = crosses && larger(newton - s, s - newton) < enough;
      const Mask within = there || (newton > low && newton < high);
      const real next = select(within, smaller(larger(newton, low), high), (low + high) * half);
      s = select(open, next, s);
      open = open && !there && high - low > least;
    }
    return select(some, s, real(-1));
  }
};

}  // namespace diffiso
