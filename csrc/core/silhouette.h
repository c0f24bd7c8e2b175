// SPDX-License-Identifier: Apache-2.0
// Coverage of pixels by contour edges, and what they pass back.
//
// The number of faces over a point is the sum of what the contour edges to its left add where they
// cross its height. Coverage is the share of a pixel's samples with faces over them. Its derivative
// is an integral along contour edges: of the picture's gradient, times how far the edge moves, where
// one side of it is covered and the other is not. What lies on either side is counted in the same
// way, so that hidden edges, folds finer than a pixel and edges that coincide come out right: those
// that share the step from none to some share its weight.
#pragma once

#include "core/contours.h"

namespace diffiso {

// Samples of a pixel, a power of two: one on each of as many equal rows and columns (n rooks), by
// bit reversal, in order of their rows.
struct PixelSamples {
  int count, bits;

  DIFFISO_HD explicit PixelSamples(int samples) : count(samples), bits(0) {
    while ((1 << bits) < samples) ++bits;
  }
  DIFFISO_HD double y(int s) const { return (s + 0.5) / count; }
  DIFFISO_HD double x(int s) const {
    int reversed = 0;
    for (int bit = 0; bit < bits; ++bit) reversed |= ((s >> bit) & 1) << (bits - 1 - bit);
    return (reversed + 0.5) / count;
  }
};

// A contour edge as rows of pixels see it.
struct ContourLine {
  Segment at;
  double slope;   // dx / dy
  int64_t count;  // as in ContourEdge

  DIFFISO_HD ContourLine(Segment segment, int64_t faces)
      : at(segment),
        slope(segment.y0 == segment.y1 ? 0 : (segment.x1 - segment.x0) / (segment.y1 - segment.y0)),
        count(faces) {}

  // How many more faces lie to its right than to its left at height y; 0 where it does not reach.
  DIFFISO_HD int64_t step(double y) const {
    const bool above = at.y0 <= y, below = at.y1 <= y;
    return above == below ? 0 : below ? count : -count;
  }
  DIFFISO_HD double x(double y) const { return at.x0 + (y - at.y0) * slope; }
  // What it adds to the number of faces over a point.
  DIFFISO_HD int64_t step_before(double x_at, double y_at) const {
    const int64_t to_the_right = step(y_at);
    return to_the_right != 0 && x(y_at) < x_at ? to_the_right : 0;
  }
  DIFFISO_HD double left() const { return at.x0 < at.x1 ? at.x0 : at.x1; }
  DIFFISO_HD double right() const { return at.x0 < at.x1 ? at.x1 : at.x0; }
};

// The rows of a picture that a line reaches: first to last, none if last < first. Lines to the
// left of the picture count, since they say what lies to their right.
struct RowSpan {
  int64_t first, last;

  DIFFISO_HD RowSpan(const Segment& s, int64_t height, int64_t width) : first(0), last(-1) {
    const double low = s.y0 < s.y1 ? s.y0 : s.y1, high = s.y0 < s.y1 ? s.y1 : s.y0;
    const double left = s.x0 < s.x1 ? s.x0 : s.x1, rows = static_cast<double>(height);
    if (!(low < rows && high >= 0 && left < static_cast<double>(width + 1))) return;
    first = low > 0 ? static_cast<int64_t>(low) : 0;
    last = high < rows ? static_cast<int64_t>(high) : height - 1;
  }
  DIFFISO_HD int64_t count() const { return last - first + 1; }
};

// The lines that each row of a picture's pixels holds; a line stands in all its rows.
struct LineRows {
  int64_t height;
  const int64_t* __restrict__ begins;     // (H + 1,)
  const ContourLine* __restrict__ lines;  // of row r: begins[r] to begins[r + 1]
  bool sorted;                            // by their left ends, within each row

  // How much more the left of a line is covered than its right, at a share of its length: 1, -1 or
  // 0, or a part of it where it shares the step with lines that lie on it.
  DIFFISO_HD double step_in_coverage(const ContourLine& line, double share, double length) const {
    const double dx = line.at.x1 - line.at.x0, dy = line.at.y1 - line.at.y0;
    const double aside_x = -dy / length * kAside, aside_y = dx / length * kAside;
    const double x = line.at.x0 + share * dx, y = line.at.y0 + share * dy;
    int64_t left = 0, right = 0;  // faces over a point on either side
    const int64_t row = row_of(y + aside_y), other = row_of(y - aside_y);
    const double most = x + (aside_x < 0 ? -aside_x : aside_x);
    for (int64_t n = begins[row]; n < begins[row + 1]; ++n) {
      if (sorted && lines[n].left() > most) break;
      left += lines[n].step_before(x + aside_x, y + aside_y);
      if (other == row) right += lines[n].step_before(x - aside_x, y - aside_y);
    }
    for (int64_t n = begins[other]; other != row && n < begins[other + 1]; ++n) {
      right += lines[n].step_before(x - aside_x, y - aside_y);
    }
    if ((left > 0) == (right > 0)) return 0;
    const int way = (left > 0) - (right > 0);
    return way * static_cast<double>(line.count) / static_cast<double>(left - right);
  }

  // The next share of a line, after `from` and before `end`, where another line meets it in a row:
  // crosses it, or begins or ends on it. `end` if none does.
  DIFFISO_HD double next_meeting(const ContourLine& line, int64_t row, double from, double end,
                                 double length) const {
    const double dx = line.at.x1 - line.at.x0, dy = line.at.y1 - line.at.y0;
    const double square = length * length, on_it = kAside * length;
    const double x_from = line.at.x0 + from * dx, x_end = line.at.x0 + end * dx;
    const double least = (dx < 0 ? x_end : x_from) - kAside;
    const double most = (dx < 0 ? x_from : x_end) + kAside;
    double next = end;
    const auto meet = [&](double share) {
      constexpr double kApart = 1e-9;
      if (share > from + kApart && share < next) next = share;
    };
    for (int64_t n = begins[row]; n < begins[row + 1]; ++n) {
      if (lines[n].left() > most) {
        if (sorted) break;
        continue;
      }
      if (lines[n].right() < least) continue;
      const Segment& other = lines[n].at;
      const double x0 = other.x0 - line.at.x0, y0 = other.y0 - line.at.y0;
      const double x1 = other.x1 - line.at.x0, y1 = other.y1 - line.at.y0;
      // How far to the right of the line both ends lie, times its length.
      const double aside0 = x0 * dy - y0 * dx, aside1 = x1 * dy - y1 * dx;
      const bool on0 = aside0 <= on_it && aside0 >= -on_it;
      const bool on1 = aside1 <= on_it && aside1 >= -on_it;
      if (on0) meet((x0 * dx + y0 * dy) / square);
      if (on1) meet((x1 * dx + y1 * dy) / square);
      if ((aside0 < 0) == (aside1 < 0) || (on0 && on1)) continue;
      const double across = aside0 / (aside0 - aside1);
      meet(((x0 + across * (x1 - x0)) * dx + (y0 + across * (y1 - y0)) * dy) / square);
    }
    return next;
  }

 private:
  static constexpr double kAside = 1.0 / 8192;  // pixels: beyond what rounding moves

  DIFFISO_HD int64_t row_of(double y) const {
    const double last = static_cast<double>(height - 1);
    return static_cast<int64_t>(y < 0 ? 0 : y > last ? last : y);
  }
};

// The first column whose sample, `offset` into the pixel, lies right of x; `width` if none does.
DIFFISO_HD int64_t column_after(double x, double offset, int64_t width) {
  const double from = x - offset;
  if (from < 0) return 0;
  return from < static_cast<double>(width) ? static_cast<int64_t>(from) + 1 : width;
}

// Sums along a part of a line, weighted by how near its ends are; times its normal, what the ends
// receive.
struct LineSums {
  double first, last;
};

// The part of a line in one row of pixels.
struct LineInRow {
  double begin, end;              // as shares of the line
  int64_t first_column, columns;  // those it goes through

  DIFFISO_HD LineInRow(const ContourLine& line, int64_t row, int64_t width)
      : begin(0), end(1), first_column(0), columns(0) {
    const Segment& s = line.at;
    keep(s.y0, s.y1, static_cast<double>(row), static_cast<double>(row + 1));
    keep(s.x0, s.x1, 0, static_cast<double>(width));
    if (!(begin < end)) return;
    const double from = s.x0 + begin * (s.x1 - s.x0), to = s.x0 + end * (s.x1 - s.x0);
    first_column = column(from < to ? from : to, width);
    columns = column(from < to ? to : from, width) - first_column + 1;
  }

  // Sums along the whole part; grad: of the row's pixels.
  template <typename scalar_t>
  DIFFISO_HD LineSums sums(const LineRows& rows, const ContourLine& line, int64_t row,
                           const scalar_t* grad) const {
    LineSums total{0, 0};
    for (int64_t k = 0; k < columns; ++k) {
      const LineSums more = column_sums(rows, line, row, k, grad);
      total.first += more.first;
      total.last += more.last;
    }
    return total;
  }

  // Sums along the part in the k-th of its columns.
  template <typename scalar_t>
  DIFFISO_HD LineSums column_sums(const LineRows& rows, const ContourLine& line, int64_t row,
                                  int64_t k, const scalar_t* grad) const {
    LineSums sums{0, 0};
    const double weight = static_cast<double>(grad[first_column + k]);
    LineInRow part = *this;
    part.keep(line.at.x0, line.at.x1, static_cast<double>(first_column + k),
              static_cast<double>(first_column + k + 1));
    const double length = line.at.length();
    if (!(part.begin < part.end && length > 0) || weight == 0) return sums;
    for (double from = part.begin; from < part.end;) {
      const double to = rows.next_meeting(line, row, from, part.end, length);
      const double middle = (from + to) / 2;
      const double step = rows.step_in_coverage(line, middle, length);
      const double sum = weight * step * (to - from) * length;
      sums.first += sum * (1 - middle);
      sums.last += sum * middle;
      from = to;
    }
    return sums;
  }

 private:
  DIFFISO_HD static int64_t column(double x, int64_t width) {
    const int64_t c = static_cast<int64_t>(x);
    return c < 0 ? 0 : c < width ? c : width - 1;
  }
  // Keeps what lies between two values of a coordinate that goes from p to q.
  DIFFISO_HD void keep(double p, double q, double low, double high) {
    if (p == q) {
      if (!(p >= low && p <= high)) end = begin;
      return;
    }
    const double at_low = (low - p) / (q - p), at_high = (high - p) / (q - p);
    const double in = at_low < at_high ? at_low : at_high;
    const double out = at_low < at_high ? at_high : at_low;
    begin = in > begin ? in : begin;
    end = out < end ? out : end;
  }
};

// What both ends of a line receive in the picture: they push the step in coverage along its normal.
struct LineGradient {
  double x0, y0, x1, y1;

  DIFFISO_HD LineGradient(const Segment& s, LineSums sums) : x0(0), y0(0), x1(0), y1(0) {
    const double length = s.length();
    if (!(length > 0)) return;
    const double normal_x = -(s.y1 - s.y0) / length, normal_y = (s.x1 - s.x0) / length;
    x0 = -sums.first * normal_x;
    y0 = -sums.first * normal_y;
    x1 = -sums.last * normal_x;
    y1 = -sums.last * normal_y;
  }
};

}  // namespace diffiso
