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
  // From its upper end on: where two edges lie on each other, the same, whatever way they run.
  DIFFISO_HD double x(double y) const {
    return at.y0 < at.y1 ? at.x0 + (y - at.y0) * slope : at.x1 + (y - at.y1) * slope;
  }
  DIFFISO_HD bool is_right(double x_at, double y_at) const { return x(y_at) < x_at; }
  // What it adds to the number of faces over a point.
  DIFFISO_HD int64_t step_before(double x_at, double y_at) const {
    const int64_t to_the_right = step(y_at);
    return to_the_right != 0 && is_right(x_at, y_at) ? to_the_right : 0;
  }
  DIFFISO_HD double left() const { return at.x0 < at.x1 ? at.x0 : at.x1; }
  DIFFISO_HD double right() const { return at.x0 < at.x1 ? at.x1 : at.x0; }
};

// Whether a coordinate stays on a border between pixels.
DIFFISO_HD bool on_border(double p, double q) {
  return p == q && p == std::floor(p);
}

// The rows of a picture that a line reaches: first to last, none if last < first. A line on the
// border of two rows belongs to both. Lines to the left of the picture count, since they say what
// lies to their right.
struct RowSpan {
  int64_t first, last;

  DIFFISO_HD RowSpan(const Segment& s, int64_t height, int64_t width) : first(0), last(-1) {
    const double low = s.y0 < s.y1 ? s.y0 : s.y1, high = s.y0 < s.y1 ? s.y1 : s.y0;
    const double left = s.x0 < s.x1 ? s.x0 : s.x1, rows = static_cast<double>(height);
    if (!(low <= rows && high >= 0 && left < static_cast<double>(width + 1))) return;
    const int64_t above = on_border(s.y0, s.y1) ? 1 : 0;
    if (low == rows && above == 0) return;
    first = low > 0 ? static_cast<int64_t>(low) - above : 0;
    last = high < rows ? static_cast<int64_t>(high) : height - 1;
  }
  DIFFISO_HD int64_t count() const { return last - first + 1; }
};

// A part of a line, cut where something changes: between two cuts all is the same. If there are
// more cuts than there is room for, the part ends earlier.
struct LineCuts {
  static constexpr int kMost = 32;
  double at[kMost + 1];  // shares of the line, rising
  double apart;          // by less they are one
  int pieces;            // the k-th from at[k] to at[k + 1]

  // Lines that pass close to the camera are millions of pixels long: cuts are one by their distance
  // in the picture.
  DIFFISO_HD LineCuts(double begin, double end, double length)
      : apart(1e-9 / (length > 1 ? length : 1)), pieces(1) {
    at[0] = begin;
    at[1] = end;
  }
  DIFFISO_HD double end() const { return at[pieces]; }
  DIFFISO_HD double middle(int k) const { return (at[k] + at[k + 1]) / 2; }

  DIFFISO_HD void add(double share) {
    if (!(share > at[0] + apart && share < at[pieces])) return;
    int k = pieces;
    while (at[k - 1] > share) --k;
    if (share <= at[k - 1] + apart) return;
    if (pieces < kMost) ++pieces;
    for (int after = pieces; after > k; --after) at[after] = at[after - 1];
    at[k] = share;
  }
};

// Points a little to the left (sign 1) or to the right (-1) of the middles of a line's pieces, and
// how many faces lie over each.
struct PointsAside {
  double x, y, dx, dy;  // at share 0, and from there to share 1
  const LineCuts* cuts;
  int begin, end;  // those in the row at hand
  int64_t all;     // faces over all of these points
  int64_t faces[LineCuts::kMost];

  DIFFISO_HD PointsAside(const Segment& s, double length, int sign, const LineCuts& its)
      : dx(s.x1 - s.x0), dy(s.y1 - s.y0), cuts(&its), begin(0), end(0), all(0) {
    x = s.x0 - sign * kAside * (dy / length);
    y = s.y0 + sign * kAside * (dx / length);
    for (int k = 0; k < cuts->pieces; ++k) faces[k] = 0;
  }
  DIFFISO_HD double x_of(int k) const { return x + cuts->middle(k) * dx; }
  DIFFISO_HD double y_of(int k) const { return y + cuts->middle(k) * dy; }

  // Turns to the points in a row; rows beyond the picture's count to its first and last.
  DIFFISO_HD void enter(int64_t row, int64_t height) {
    begin = 0;
    while (begin < cuts->pieces && row_of(y_of(begin), height) != row) ++begin;
    end = begin;
    while (end < cuts->pieces && row_of(y_of(end), height) == row) ++end;
    all = 0;
  }
  DIFFISO_HD double most() const { return begin == end ? -1 : x_of(dx > 0 ? end - 1 : begin); }

  // Counts what a line adds. The points lie on a straight line, and so do those that it adds to.
  DIFFISO_HD void add(const ContourLine& line) {
    if (begin == end || line.at.y0 == line.at.y1) return;
    const double x0 = x_of(begin), y0 = y_of(begin);
    if (end == begin + 1) {
      all += line.step_before(x0, y0);
      return;
    }
    const double x1 = x_of(end - 1), y1 = y_of(end - 1);
    const bool right0 = line.is_right(x0, y0), right1 = line.is_right(x1, y1);
    if (!right0 && !right1) return;
    const int64_t step = line.step(y0);
    if (step == line.step(y1)) {
      const bool beside = step == 0 && (line.at.y0 <= y0) == (line.at.y0 <= y1);
      if (beside) return;
      if (step != 0 && right0 && right1) {
        all += step;
        return;
      }
    }
    for (int k = begin; k < end; ++k) faces[k] += line.step_before(x_of(k), y_of(k));
  }
  DIFFISO_HD void leave() {
    for (int k = begin; k < end; ++k) faces[k] += all;
  }

  static constexpr double kAside = 1.0 / 8192;  // pixels: beyond what rounding moves

  DIFFISO_HD static int64_t row_of(double y, int64_t height) {
    const double last = static_cast<double>(height - 1);
    return static_cast<int64_t>(y < 0 ? 0 : y > last ? last : y);
  }
};

// The lines that each row of a picture's pixels holds; a line stands in all its rows.
struct LineRows {
  int64_t height;
  const int64_t* __restrict__ begins;     // (H + 1,)
  const ContourLine* __restrict__ lines;  // of row r: begins[r] to begins[r + 1]
  bool sorted;                            // by their left ends, within each row

  // Cuts a part of a line where other lines meet it in a row: cross it, or begin or end on it.
  DIFFISO_HD void cut(const ContourLine& line, int64_t row, double length, LineCuts& cuts) const {
    const double dx = line.at.x1 - line.at.x0, dy = line.at.y1 - line.at.y0;
    const double square = length * length, on_it = PointsAside::kAside * length;
    const double x_from = line.at.x0 + cuts.at[0] * dx, x_end = line.at.x0 + cuts.end() * dx;
    const double least = (dx < 0 ? x_end : x_from) - PointsAside::kAside;
    const double most = (dx < 0 ? x_from : x_end) + PointsAside::kAside;
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
      if (on0) cuts.add((x0 * dx + y0 * dy) / square);
      if (on1) cuts.add((x1 * dx + y1 * dy) / square);
      if ((aside0 < 0) == (aside1 < 0) || (on0 && on1)) continue;
      const double across = aside0 / (aside0 - aside1);
      cuts.add(((x0 + across * (x1 - x0)) * dx + (y0 + across * (y1 - y0)) * dy) / square);
    }
  }

  // Counts the faces on both sides of a line that lies in a row.
  DIFFISO_HD void count(int64_t row, PointsAside (&sides)[2]) const {
    const int64_t first = row > 0 ? row - 1 : 0, last = row + 1 < height ? row + 1 : row;
    for (int64_t r = first; r <= last; ++r) {
      double most = -1;
      for (PointsAside& side : sides) {
        side.enter(r, height);
        most = side.most() > most ? side.most() : most;
      }
      if (most <= -1) continue;  // none is: points lie right of the picture's left border, or on it
      for (int64_t n = begins[r]; n < begins[r + 1]; ++n) {
        if (lines[n].left() > most) {
          if (sorted) break;
          continue;
        }
        for (PointsAside& side : sides) side.add(lines[n]);
      }
      for (PointsAside& side : sides) side.leave();
    }
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

// The part of a line in one row of pixels. Where it stays on a border between pixels, or on that of
// the picture, both sides have half of it.
struct LineInRow {
  double begin, end;              // as shares of the line
  int64_t first_column, columns;  // those it goes through; the one to the right of a border
  int64_t width;
  double share;         // that the row has of it
  bool on_left_border;  // of its column

  DIFFISO_HD LineInRow(const ContourLine& line, int64_t row, int64_t pixels)
      : begin(0),
        end(1),
        first_column(0),
        columns(0),
        width(pixels),
        share(on_border(line.at.y0, line.at.y1) ? 0.5 : 1),
        on_left_border(on_border(line.at.x0, line.at.x1)) {
    const Segment& s = line.at;
    keep(s.y0, s.y1, static_cast<double>(row), static_cast<double>(row + 1));
    keep(s.x0, s.x1, 0, static_cast<double>(width));
    if (!(begin < end)) return;
    if (on_left_border) {
      first_column = static_cast<int64_t>(s.x0);
      columns = 1;
      return;
    }
    const double from = s.x0 + begin * (s.x1 - s.x0), to = s.x0 + end * (s.x1 - s.x0);
    first_column = column(from < to ? from : to);
    columns = column(from < to ? to : from) - first_column + 1;
  }

  // Sums along the part; grad: of the row's pixels.
  template <typename scalar_t>
  DIFFISO_HD LineSums sums(const LineRows& rows, const ContourLine& line, int64_t row,
                           const scalar_t* grad) const {
    LineSums sums{0, 0};
    const Segment& s = line.at;
    const double length = s.length(), dx = s.x1 - s.x0;
    bool pulls = false;
    for (int64_t k = 0; k < columns; ++k) pulls = pulls || weight(grad, first_column + k) != 0;
    if (!(pulls && begin < end && length > 0)) return sums;
    for (double from = begin; from < end;) {
      LineCuts cuts(from, end, length);
      for (int64_t k = 1; k < columns; ++k) {
        cuts.add((static_cast<double>(first_column + k) - s.x0) / dx);
      }
      rows.cut(line, row, length, cuts);
      PointsAside sides[] = {{s, length, 1, cuts}, {s, length, -1, cuts}};  // left and right
      rows.count(row, sides);
      for (int k = 0; k < cuts.pieces; ++k) {
        const int64_t over = sides[0].faces[k], other = sides[1].faces[k];
        if ((over > 0) == (other > 0)) continue;
        // From none to some, or back; shared with lines that lie on this one.
        const int way = (over > 0) - (other > 0);
        const double step =
            way * static_cast<double>(line.count) / static_cast<double>(over - other);
        const double middle = cuts.middle(k);
        const int64_t c = on_left_border ? first_column : column(s.x0 + middle * dx);
        const double sum = weight(grad, c) * step * (cuts.at[k + 1] - cuts.at[k]) * length;
        sums.first += sum * (1 - middle);
        sums.last += sum * middle;
      }
      from = cuts.end();
    }
    return sums;
  }

 private:
  template <typename scalar_t>
  DIFFISO_HD double weight(const scalar_t* grad, int64_t c) const {
    if (!on_left_border) return share * static_cast<double>(grad[c]);
    const double before = c > 0 ? static_cast<double>(grad[c - 1]) : 0;
    const double after = c < width ? static_cast<double>(grad[c]) : 0;
    return share * (before + after) / 2;
  }
  DIFFISO_HD int64_t column(double x) const {
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
