// SPDX-License-Identifier: Apache-2.0
// Planes under kernels of 3 × 3 taps, at strides of 1 and 2: the convolutions that networks have most of.
//
// Their nine weights fit the registers beside a tile's sums, so that an input is loaded once for all taps of its
// columns and is shifted in registers. That leaves so few loads that rows are read where they stand, in the tensor's
// own type: masks cut them off at the borders, and rows outside are read from a vector of zeros.
#pragma once

#include "arena.h"
#include "planar_pack.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

#if defined(OMNICONV_AVX512)
constexpr bool HAS_THREE = true;
#else
constexpr bool HAS_THREE = false;  // sixteen registers do not hold nine weights and a tile
#endif

constexpr int THREE_MASKS = 5;

// The depths that a row of outputs meets.
struct Depth {
  int64_t input, weights;  // elements
};

template <class T>
struct ThreePlanes {
  const T* input;    // of the first channel, at depth 0
  const Weights* weights;
  int64_t first_weight;  // of the first channel, at depth 0; depth taps × 3 × 3
  const Depth* depths;
  int64_t depth_count, variants;
  int64_t input_variant, weight_variant;
  int64_t pitch, height;  // elements from row to row, rows
  bool backwards;         // whether the last weight meets the first input
};

// NV vectors of a row of outputs: where they begin, and which inputs of theirs lie inside.
struct Strip {
  int64_t output, input;
  int64_t vectors, last;
  bool inner;
  Inside inside[THREE_MASKS];
  uint32_t pairs[3], wanted;  // the same for pairs of bf16: at, before and behind the middle tap, and of the outputs
};

template <class T, int NV>
OMNICONV_INLINE void put_row(T* to, const vec (&sums)[NV], int64_t last) {
#pragma GCC unroll 2
  for (int v = 0; v + 1 < NV; ++v) store_lanes(to + v * V, sums[v]);
  store_some(to + (NV - 1) * V, sums[NV - 1], last);
}

#if defined(OMNICONV_AVX512)
// Two vectors of bf16 are one of pairs, and widened to the even ones and the odd ones: that takes no shuffles, neither
// of the inputs nor of the outputs.
OMNICONV_INLINE void three_columns_of_pairs(vec (&columns)[3][2], const bf16* at, const uint32_t* inside) {
  const uvec upper = uvec{} + 0xffff0000;
  const uvec own = (uvec)_mm512_maskz_loadu_epi16(inside[0], at);
  columns[0][0] = (vec)((uvec)_mm512_maskz_loadu_epi16(inside[1], at - 2) & upper);
  columns[1][0] = columns[0][1] = (vec)(own << 16);
  columns[2][0] = columns[1][1] = (vec)(own & upper);
  columns[2][1] = (vec)((uvec)_mm512_maskz_loadu_epi16(inside[2], at + 2) << 16);
}

OMNICONV_INLINE void put_pairs(bf16* to, const vec (&sums)[2], uint32_t wanted) {
  const uvec both = (round_lanes(sums[0]) >> 16) | (round_lanes(sums[1]) & 0xffff0000);
  _mm512_mask_storeu_epi16(to, wanted, (__m512i)both);
}
#else
OMNICONV_INLINE void three_columns_of_pairs(vec (&)[3][2], const bf16*, const uint32_t*) {}
OMNICONV_INLINE void put_pairs(bf16*, const vec (&)[2], uint32_t) {}
#endif

// A masked load takes a multiplier's time. INNER: no lane lies outside; else, at a stride of 1, the first of two
// vectors has none.
template <class T, bool INNER>
OMNICONV_INLINE vec load_three(const T* from, Inside inside) {
  return held(INNER ? load_lanes(from) : load_inside(from, inside));
}

// The inputs of NV vectors at each tap of the columns.
template <class T, int S, int NV, bool INNER>
OMNICONV_INLINE void three_columns(vec (&columns)[3][NV], const T* at, const Inside* inside) {
  if (S == 1) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v)
      columns[1][v] = v + 1 < NV ? load_three<T, true>(at, inside[0]) : load_three<T, INNER>(at + v * V, inside[v]);
    columns[0][0] = load_three<T, INNER>(at - 1, inside[2]);
    columns[2][NV - 1] = load_three<T, INNER>(at + (NV - 1) * V + 1, inside[3]);
    if (NV > 1) {
      ivec before, behind;
      for (int lane = 0; lane < V; ++lane) {
        before[lane] = lane + V - 1;
        behind[lane] = lane + 1;
      }
#pragma GCC unroll 2
      for (int v = 1; v < NV; ++v) {
        columns[0][v] = __builtin_shuffle(columns[1][v - 1], columns[1][v], before);
        columns[2][v - 1] = __builtin_shuffle(columns[1][v - 1], columns[1][v], behind);
      }
    }
    return;
  }
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    const vec low = load_inside(at + 2 * v * V, inside[2 * v]);
    const vec high = load_inside(at + (2 * v + 1) * V, inside[2 * v + 1]);
    columns[0][v] = __builtin_shuffle(low, high, every_other(0));
    columns[1][v] = __builtin_shuffle(low, high, every_other(1));
  }
  ivec behind;
  for (int lane = 0; lane < V; ++lane) behind[lane] = lane + 1;
  const vec next = load_inside(at + 2 * NV * V, inside[4]);
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v)
    columns[2][v] = __builtin_shuffle(columns[0][v], v + 1 < NV ? columns[0][v + 1 < NV ? v + 1 : 0] : next, behind);
}

// The weights of a bf16 tensor may be float: those of a softmax are.
template <class T>
OMNICONV_INLINE float weight_at(const Weights& weights, int64_t offset) {
  return sizeof(T) == sizeof(float) ? static_cast<const float*>(weights.data)[offset] : weights.at(offset);
}

// R rows of NV vectors; `row` is the first row of inputs.
template <class T, int S, int R, int NV, bool INNER = false>
__attribute__((noinline)) void three_tile(const ThreePlanes<T>& planes, const Strip& strip, int64_t row, float start,
                                          T* to, int64_t line, int64_t lines) {
  constexpr bool PAIRS = sizeof(T) == 2 && S == 1 && NV == 2;
  static const T zeros[(2 * S * 2 + 2) * V] = {};
  vec sum[R][NV];
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sum[j][v] = everywhere(start);
  for (const Depth *depth = planes.depths, *end = depth + planes.depth_count; depth < end; ++depth) {
    const T* input = planes.input + depth->input + strip.input;
    int64_t first = planes.first_weight + depth->weights;
    for (int64_t variant = 0; variant < planes.variants; ++variant) {
      vec weight[3][3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i)
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k) {
          const int64_t at = planes.backwards ? 8 - 3 * i - k : 3 * i + k;
          weight[i][k] = held(everywhere(weight_at<T>(*planes.weights, first + at)));
        }
#pragma GCC unroll 32
      for (int i = 0; i < S * (R - 1) + 3; ++i) {
        const int64_t at = row + i;
        const T* own = uint64_t(at) < uint64_t(planes.height) ? input + at * planes.pitch : zeros + V;
        vec columns[3][NV];
        if constexpr (PAIRS) {
          three_columns_of_pairs(columns, own, strip.pairs);
        } else {
          three_columns<T, S, NV, INNER>(columns, own, strip.inside);
        }
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k)
#pragma GCC unroll 16
          for (int j = 0; j < R; ++j)
#pragma GCC unroll 2
            for (int v = 0; v < NV; ++v)
              if (i - S * j >= 0 && i - S * j < 3) sum[j][v] += weight[i - S * j][k] * columns[k][v];
      }
      input += planes.input_variant;
      first += planes.weight_variant;
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j, to += line) {
    if (j >= lines) break;
    if constexpr (PAIRS) {
      put_pairs(to, sum[j], strip.wanted);
    } else {
      put_row(to, sum[j], strip.last);
    }
  }
}

template <class T, Way WAY>
struct ThreeSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::weights, Call::bias, Call::host;

  int64_t outputs, variants, step;  // channels of a group, and the stride
  int64_t height, width, strip_count;
  int64_t lines;  // of a tile
  PlaneSplit cut;

  static bool suits(const Problem& problem, const View& input, const View& output) {
    const Axis &rows = problem.axis[1], &columns = problem.axis[2];
    return HAS_THREE && input.axis[2] == 1 && output.axis[2] == 1 && rows.taps == 3 && columns.taps == 3 &&
           rows.dilation == 1 && columns.dilation == 1 && rows.stride == columns.stride &&
           columns.stride <= (WAY == Way::GATHER ? 2 : 1) && outputs_of<WAY>(rows) > 1 && reaches(columns);
  }

  // The input of the first output that its middle tap meets.
  static int64_t middle(const Axis& columns) { return WAY == Way::GATHER ? 1 - columns.before : columns.before - 1; }

  // Whether the first of every two vectors lies inside, as is usual.
  static bool reaches(const Axis& columns) {
    const int64_t outputs = outputs_of<WAY>(columns);
    if (columns.stride > 1 || outputs <= V) return true;
    const int64_t last = (outputs - V - 1) / (2 * V) * 2 * V;
    return middle(columns) >= 0 && middle(columns) + last + V <= inputs_of<WAY>(columns);
  }

  explicit ThreeSums(const Call& call)
      : Call(call),
        outputs(WAY == Way::GATHER ? problem.narrow : problem.wide),
        variants(WAY == Way::GATHER ? problem.wide : problem.narrow),
        step(problem.axis[2].stride),
        height(outputs_of<WAY>(problem.axis[1])),
        width(outputs_of<WAY>(problem.axis[2])),
        strip_count(ceil_div(width, 2 * V)),
        lines(lines_of_tile()),
        cut(host, problem, outputs_of<WAY>(problem.axis[0]), height, lines, height,
            ceil_div(width, V) * (9 * problem.axis[0].taps * variants + 6) * outputs) {}

  int64_t lines_of_tile() const {
    if (step == 2) return 4;
    return width > V ? 7 : height > 8 && height <= 14 ? 14 : height <= 4 ? 4 : 8;
  }

  int64_t scratch_bytes() const {
    return whole_lines(strip_count * int64_t(sizeof(Strip))) +
           whole_lines(problem.axis[0].taps * int64_t(sizeof(Depth)));
  }

  void run() {
    run_tasks(host, cut.split, [this](Dealer& dealer) { work(dealer); });
  }

  void list_strips(Strip* strips) const {
    const int64_t inside = inputs_of<WAY>(problem.axis[2]);
    // Rows are read by the middle tap, and at a stride of 2 by the first one.
    const int64_t first = middle(problem.axis[2]) - (step == 2);
    for (int64_t i = 0; i < strip_count; ++i) {
      Strip& strip = strips[i];
      strip.output = i * 2 * V;
      strip.vectors = least(ceil_div(width - strip.output, V), 2);
      strip.last = least(width - strip.output - (strip.vectors - 1) * V, V);
      strip.input = step * strip.output + first;
      strip.inner = strip.input > 0 && strip.input + strip.vectors * V < inside;
      const auto mask = [&](int64_t from) { return inside_of(from, inside); };
      const auto pairs = [&](int64_t from) {
        const int64_t begin = least(most(-from, 0), 2 * V), end = most(least(inside - from, 2 * V), begin);
        return uint32_t((uint64_t(1) << end) - (uint64_t(1) << begin));
      };
      strip.pairs[0] = pairs(strip.input);
      strip.pairs[1] = pairs(strip.input - 2);
      strip.pairs[2] = pairs(strip.input + 2);
      strip.wanted = uint32_t((uint64_t(1) << least(width - strip.output, 2 * V)) - 1);
      if (step == 1) {
        for (int64_t v = 0; v < strip.vectors; ++v) strip.inside[v] = mask(strip.input + v * V);
        strip.inside[2] = mask(strip.input - 1);
        strip.inside[3] = mask(strip.input + (strip.vectors - 1) * V + 1);
      } else {
        for (int64_t v = 0; v < 2 * strip.vectors; ++v) strip.inside[v] = mask(strip.input + v * V);
        strip.inside[4] = mask(strip.input + 2 * strip.vectors * V);
      }
    }
  }

  void work(Dealer& dealer) const {
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    Strip* strips = arena.take<Strip>(strip_count);
    Depth* depths = arena.take<Depth>(problem.axis[0].taps);
    list_strips(strips);
    ThreePlanes<T> planes;
    planes.depths = depths;
    planes.weights = &weights;
    planes.variants = variants;
    planes.input_variant = input.channel;
    planes.weight_variant = WAY == Way::GATHER ? weights.wide : weights.narrow;
    planes.pitch = input.axis[1];
    planes.height = inputs_of<WAY>(problem.axis[1]);
    planes.backwards = WAY == Way::SCATTER;
    const int64_t own_weight = WAY == Way::GATHER ? weights.narrow : weights.wide;
    const int64_t before = problem.axis[1].before;
    Task task;
    while (dealer.deal(task)) {
      const int64_t depth = task.first_row / cut.bands, first = task.first_row % cut.bands * cut.band;
      const int64_t end = least(first + cut.band, height);
      const Steps steps = steps_of<WAY>(problem.axis[0], depth);
      planes.depth_count = 0;
      for (int64_t i = 0; i < steps.taps; ++i) {
        const int64_t at = steps.at + steps.hop * i;
        if (at >= 0 && at < inputs_of<WAY>(problem.axis[0]))
          depths[planes.depth_count++] = {at * input.axis[0], (steps.first + steps.step * i) * 9};
      }
      const int64_t end_group = least((task.block + 1) * cut.block, problem.groups);
      for (int64_t group = task.block * cut.block; group < end_group; ++group) {
        planes.input = static_cast<const T*>(input.data) + task.sample * input.batch + group * variants * input.channel;
        for (int64_t row = first; row < end; row += lines) {
          const int64_t from = WAY == Way::GATHER ? step * row - before : row + before - 2;
          for (int64_t channel = 0; channel < outputs; ++channel) {
            const int64_t whole = group * outputs + channel;
            planes.first_weight = weights.head(group) * weights.group + channel * own_weight;
            T* to = static_cast<T*>(output.data) + task.sample * output.batch + whole * output.channel +
                    depth * output.axis[0] + row * output.axis[1];
            const float start = bias ? widen(bias[whole]) : 0;
            for (int64_t i = 0; i < strip_count; ++i)
              sum_tile(planes, strips[i], from, start, to + strips[i].output, least(lines, end - row));
          }
        }
      }
    }
  }

  // Pairs of bf16 are always masked.
  void sum_tile(const ThreePlanes<T>& planes, const Strip& strip, int64_t row, float start, T* to, int64_t some) const {
    if constexpr (HAS_THREE) {
      constexpr bool INNER = sizeof(T) == sizeof(float);
      const bool two = strip.vectors == 2;
      const auto tile = step == 2                   ? (two ? three_tile<T, 2, 4, 2> : three_tile<T, 2, 4, 1>)
                        : two && INNER && strip.inner ? three_tile<T, 1, 7, 2, INNER>
                        : two                         ? three_tile<T, 1, 7, 2>
                        : lines == 14                 ? three_tile<T, 1, 14, 1>
                        : lines == 8                  ? three_tile<T, 1, 8, 1>
                        : lines == 7                  ? three_tile<T, 1, 7, 1>
                                                      : three_tile<T, 1, 4, 1>;
      tile(planes, strip, row, start, to, output.axis[1], some);
    }
  }
};

}  // namespace planar
}  // namespace
}  // namespace omniconv
