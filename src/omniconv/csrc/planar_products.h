// SPDX-License-Identifier: Apache-2.0
// The gradient of the weights of planar_squares.h: rows of inputs times rows of gradients, read where they stand.
//
// A vector of each of a tile's rows of gradients stays in a register, and each row of inputs, at each tap of the
// columns, is loaded once for all of them. Lanes outside are masked out of the multiply-adds. Sums of whole vectors
// are kept over all tiles, depths and samples; their lanes are added at the end.
#pragma once

#include "lone_taps.h"
#include "planar_squares.h"
#include "planar_taps.h"

namespace omniconv {
namespace {
namespace planar {

// Column taps at once, so that the sums of all their rows' taps fit the registers beside the rows of gradients.
constexpr int most_broad(int taps) { return taps == 7 ? 2 : 3; }

struct Products {
  const float* wide;    // what the tile's first gradient meets at its first tap
  const float* narrow;  // of the tile
  int64_t wide_pitch, narrow_pitch;
};

// sums[m * K + k] += Σ over R rows j of narrow[j] · wide[j + m] at tap k ≥ TAP, without the first LOW and the last HIGH
// rows of the wide tensor.
template <int R, int K, int LOW, int HIGH, int TAP = 0>
OMNICONV_INLINE void product_taps(const vec (&factor)[R], const Ladder& rows, const Inside* inside, float* sums) {
  constexpr int B = K - TAP < most_broad(K) ? K - TAP : most_broad(K);
  if constexpr (B > 0) {
    vec sum[K][B];
#pragma GCC unroll 8
    for (int m = 0; m < K; ++m)
#pragma GCC unroll 8
      for (int k = 0; k < B; ++k) sum[m][k] = load(sums + (m * K + TAP + k) * V);
#pragma GCC unroll 32
    for (int i = LOW; i < R + K - 1 - HIGH; ++i)
#pragma GCC unroll 8
      for (int k = 0; k < B; ++k) {
        const vec loaded = held(load(rows.row(i) + TAP + k));
#pragma GCC unroll 8
        for (int m = 0; m < K; ++m)
          if (i - m >= 0 && i - m < R) add_product(sum[m][k], factor[i - m], loaded, inside[TAP + k]);
      }
#pragma GCC unroll 8
    for (int m = 0; m < K; ++m)
#pragma GCC unroll 8
      for (int k = 0; k < B; ++k) store(sums + (m * K + TAP + k) * V, sum[m][k]);
    product_taps<R, K, LOW, HIGH, TAP + B>(factor, rows, inside, sums);
  }
}

template <int R, int K, int LOW, int HIGH>
__attribute__((noinline)) void product_tile(const Products& products, const Inside* inside, float* sums) {
  vec factor[R];
  Ladder ladder(products.narrow_pitch);
  ladder.stand(products.narrow);
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j) factor[j] = held(load(ladder.row(j)));
  Ladder rows(products.wide_pitch);
  rows.stand(products.wide);
  product_taps<R, K, LOW, HIGH>(factor, rows, inside, sums);
}

using ProductTile = void (*)(const Products&, const Inside* inside, float* sums);

template <int R, int K>
inline ProductTile product_tile_of(bool first, bool last) {
  return first ? (last ? product_tile<R, K, K / 2, K / 2> : product_tile<R, K, K / 2, 0>)
               : (last ? product_tile<R, K, 0, K / 2> : product_tile<R, K, 0, 0>);
}

// Groups of which there are as many as tasks: each is summed by itself.
struct SquareGradient : GradientCall<float> {
  int64_t taps, lines, height, width, strips;
  Bounds wide_bounds, narrow_bounds;

  static bool suits(const Problem& problem, const View& wide, const View& narrow) {
    const int64_t pairs = problem.wide * problem.narrow;
    const int64_t vectors = problem.batch * problem.axis[0].narrow * problem.axis[1].narrow *
                            ceil_div(problem.axis[2].narrow, V);
    return SquareSums<Way::GATHER>::fits(problem, wide, narrow) && narrow.batch >= 0 && narrow.channel >= 0 &&
           narrow.axis[0] >= 0 && narrow.axis[1] >= 0 && problem.groups >= LEAST_GROUPS &&
           pairs * problem.axis[0].taps <= MOST_SQUARE_PLANES && (pairs == 1 || vectors >= LEAST_PAIR_VECTORS);
  }

  explicit SquareGradient(const GradientCall<float>& call)
      : GradientCall<float>(call),
        taps(problem.axis[2].taps),
        lines(SquareSums<Way::GATHER>::lines_for(problem.axis[1].wide)),
        height(problem.axis[1].wide),
        width(problem.axis[2].wide),
        strips(ceil_div(width, V)),
        wide_bounds(wide, problem.batch, problem.groups * problem.wide, problem.axis[0].wide, height, width),
        narrow_bounds(narrow, problem.batch, problem.groups * problem.narrow, problem.axis[0].narrow, height, width) {}

  static constexpr int64_t LEAST_GROUPS = 32;
  static constexpr int64_t LEAST_PAIR_VECTORS = 28;  // of a channel of a group, to pay for adding the lanes of its sums

  int64_t square() const { return taps * taps; }
  int64_t sums() const { return problem.narrow * problem.wide * problem.axis[0].taps * square(); }
  int64_t rows() const { return lines + taps - 1; }

  int64_t floats() const { return 0; }  // that run() needs

  void run(float*) const {
    const int64_t positions = problem.batch * problem.axis[0].narrow * height * strips;
    const int64_t work = positions * (sums() + problem.narrow) + 4 * sums();
    const int64_t block = most(least(ceil_div(PlaneSplit::TASK_WORK, work), problem.groups / LEAST_GROUPS), 1);
    const int64_t threads = threads_for(host, work * problem.groups);
    const Split split = Split::of_units(threads, ceil_div(problem.groups, block), 1, false);
    run_tasks(host, split, [&](Dealer& dealer) {
      Worker worker(*this);
      Task task;
      while (dealer.deal(task))
        for (int64_t group = task.block * block; group < least((task.block + 1) * block, problem.groups); ++group)
          worker.sum(group);
    });
  }

  int64_t scratch_bytes() const {
    return whole_lines(strips * int64_t(sizeof(SquareStrip))) + whole_lines(padded_sums() * V * 4) +
           whole_lines(padded_sums() * 4) + whole_lines(lines * V * 4) +
           whole_lines(rows() * SQUARE_COPY * 4);
  }
  // And the bias'.
  int64_t padded_sums() const { return ceil_div(sums() + problem.narrow, V) * V; }

  ProductTile tile_of(bool first, bool last) const {
    if constexpr (HAS_SQUARES) {
      const bool tall = lines == 14;
      if (taps == 3) return tall ? product_tile_of<14, 3>(first, last) : product_tile_of<8, 3>(first, last);
      if (taps == 5) return tall ? product_tile_of<14, 5>(first, last) : product_tile_of<8, 5>(first, last);
      return tall ? product_tile_of<14, 7>(first, last) : product_tile_of<8, 7>(first, last);
    }
    return nullptr;
  }

  struct Worker {
    const SquareGradient& whole;
    const Problem& problem;
    SquareStrip* strips;
    float* sums;    // a vector of each
    float* totals;  // of their lanes
    float* narrow_copy;
    float* wide_copy;

    explicit Worker(const SquareGradient& whole) : whole(whole), problem(whole.problem) {
      Arena arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))};
      strips = arena.take<SquareStrip>(whole.strips);
      sums = arena.take<float>(whole.padded_sums() * V);
      totals = arena.take<float>(whole.padded_sums());
      narrow_copy = arena.take<float>(whole.lines * V);
      wide_copy = arena.take<float>(whole.rows() * SQUARE_COPY);
      list_square_strips(strips, whole.width, whole.taps);
    }

    void sum(int64_t group) {
      std::memset(sums, 0, whole.padded_sums() * V * sizeof(float));
      for (int64_t sample = 0; sample < problem.batch; ++sample)
        for (int64_t depth = 0; depth < problem.axis[0].narrow; ++depth)
          for (int64_t output = 0; output < problem.narrow; ++output) {
            const float* narrow = static_cast<const float*>(whole.narrow.data) + sample * whole.narrow.batch +
                                  (group * problem.narrow + output) * whole.narrow.channel +
                                  depth * whole.narrow.axis[0];
            const float* wide = static_cast<const float*>(whole.wide.data) + sample * whole.wide.batch +
                                group * problem.wide * whole.wide.channel;
            for (int64_t row = 0; row < whole.height; row += whole.lines)
              for (int64_t i = 0; i < whole.strips; ++i) sum_tile(strips[i], row, narrow, wide, depth, output);
          }
      give(group);
    }

    // The tile of the gradients of one plane, with all planes that it meets.
    void sum_tile(const SquareStrip& strip, int64_t begin, const float* narrow, const float* wide, int64_t depth,
                  int64_t output) {
      const Axis& outer = problem.axis[0];
      const int64_t reach = whole.taps / 2, row = square_row(begin, whole.lines, whole.height, reach);
      const int64_t done =
          begin ? square_row(begin - whole.lines, whole.lines, whole.height, reach) + whole.lines : 0;
      const bool at_first = row == 0, at_last = row + whole.lines == whole.height;
      const int64_t low = row - (at_first ? 0 : reach), high = row + whole.lines + (at_last ? 0 : reach);
      const ProductTile tile = whole.tile_of(at_first, at_last);
      const float* from = narrow + row * whole.narrow.axis[1] + strip.output;
      Products products{nullptr, from, whole.wide.axis[1], whole.narrow.axis[1]};
      const float* narrow_end = from + (whole.lines - 1) * whole.narrow.axis[1] + V;
      if (row < done || !whole.narrow_bounds.hold(from, narrow_end)) {
        for (int64_t j = 0; j < whole.lines; ++j) {
          const bool again = row + j < done;
          store(narrow_copy + j * V, again ? vec{} : load_inside(from + j * products.narrow_pitch, strip.wanted));
        }
        products.narrow = narrow_copy;
        products.narrow_pitch = V;
      }
      if (whole.bias_gradient) add_bias(products, strip, sums + (whole.sums() + output) * V);
      for (int64_t input = 0; input < problem.wide; ++input)
        for (int64_t tap = 0; tap < outer.taps; ++tap) {
          const int64_t met = outer.stride * depth + outer.dilation * tap - outer.before;
          if (met < 0 || met >= outer.wide) continue;
          float* to = sums + ((output * problem.wide + input) * outer.taps + tap) * whole.square() * V;
          const float* plane = wide + input * whole.wide.channel + met * whole.wide.axis[0] + strip.input;
          const int64_t line = whole.wide.axis[1];
          Products own = products;
          own.wide = plane + (row - reach) * line;
          if (!whole.wide_bounds.hold(plane + low * line, plane + (high - 1) * line + whole.taps - 1 + V)) {
            copy_square_rows(wide_copy, plane, line, row - reach, low, high, strip.input, whole.width);
            own.wide = wide_copy;
            own.wide_pitch = SQUARE_COPY;
          }
          tile(own, strip.inside, to);
        }
    }

    void add_bias(const Products& products, const SquareStrip& strip, float* to) const {
      vec whole_sum = load(to);
      for (int64_t j = 0; j < whole.lines; ++j)
        whole_sum += load_inside(products.narrow + j * products.narrow_pitch, strip.wanted);
      store(to, whole_sum);
    }

    void give(int64_t group) {
      for (int64_t i = 0; i < whole.padded_sums(); ++i) {
        const kept some = fold(load(sums + i * V));
        std::memcpy(sums + i * KEPT, &some, sizeof some);
      }
      add_lanes(totals, sums, whole.padded_sums());
      const Weights& gradient = whole.gradient;
      const int64_t first = gradient.head(group) * gradient.group, count = problem.axis[0].taps * whole.square();
      const LoneTaps<float> taps{problem, whole.wide, whole.narrow};
      const float* from = totals;
      for (int64_t output = 0; output < problem.narrow; ++output)
        for (int64_t input = 0; input < problem.wide; ++input, from += count)
          for (int64_t tap = 0; tap < count; ++tap)
            gradient.set(first + output * gradient.narrow + input * gradient.wide + tap,
                         taps.checked(from[tap], group, output, input, tap));
      for (int64_t output = 0; whole.bias_gradient && output < problem.narrow; ++output)
        whole.bias_gradient[group * problem.narrow + output] = from[output];
    }
  };
};

}  // namespace planar

using planar::SquareGradient;

}  // namespace
}  // namespace omniconv
