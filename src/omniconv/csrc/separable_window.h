// SPDX-License-Identifier: Apache-2.0
// Sums of a pass whose taps lie side by side: a window of inputs slides over the outputs of a tile.
//
// As many inputs as a tile has outputs stand in registers. For each tap one weight is loaded, all outputs of the tile
// are served, and one input makes place for the next: two loads for up to 14 multiply-adds, whatever the taps.
#pragma once

#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {

// A sum and an input for each output, and a weight, fit the registers.
constexpr int MOST_WINDOW = MAX_TILE == 14 ? 14 : 6;
static_assert(MOST_WINDOW % 2 == 0);
// Fewer taps are not worth filling a window for.
constexpr int64_t LEAST_SLID = 5;

// `count` in nearly equal parts of at most MOST_WINDOW: where part number i begins.
struct EvenParts {
  int64_t count, parts;

  explicit EvenParts(int64_t count) : count(count), parts(ceil_div(count, MOST_WINDOW)) {}
  int64_t begin(int64_t i) const { return count * i / parts; }
};

// What stands for inputs outside the tensor.
template <class T>
constexpr T NO_INPUT[V] = {};

// Inputs `step` apart, from the one at `from` on; those at 0 … inside - 1 lie in the tensor, the first at `place`.
template <class T>
struct Spaced {
  const T* from;
  int64_t step, place;
  uint64_t inside;

  OMNICONV_INLINE vec next() {
    const T* at = uint64_t(place++) < inside ? from : NO_INPUT<T>;
    from += step;
    return load_lanes(at);
  }
};

// Inputs at one place of several rows, of which those at 0 … inside - 1 are listed.
struct Listed {
  const float* const* rows;
  int64_t at, place;
  uint64_t inside;

  OMNICONV_INLINE vec next() {
    const float* from = uint64_t(place) < inside ? rows[place] + at : NO_INPUT<float>;
    ++place;
    return load(from);
  }
};

// The same of which only some lanes count: behind them may stand anything, and zero times infinity is not zero.
struct Counted {
  Listed listed;
  ivec lanes;

  OMNICONV_INLINE vec next() { return (vec)((ivec)listed.next() & lanes); }
};

// The next taps until each input has made place for another, or until the last: whether that was met.
template <int N, int TURN, class Inputs>
OMNICONV_INLINE bool slide_round(vec (&sum)[N], vec (&value)[N], Inputs& inputs, const float*& weights,
                                 int64_t weights_step, int64_t& taps) {
  const vec weight = load(weights);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) sum[i] += weight * value[(TURN + i) % N];
  if (--taps == 0) return true;
  weights += weights_step;
  value[TURN] = inputs.next();
  keep(value[TURN]);
  if constexpr (TURN + 1 < N) return slide_round<N, TURN + 1>(sum, value, inputs, weights, weights_step, taps);
  return false;
}

// sum[i] += Σ over taps of weight · input[i + tap].
template <int N, class Inputs>
OMNICONV_INLINE void slide(vec (&sum)[N], Inputs inputs, const float* weights, int64_t weights_step, int64_t taps) {
  vec value[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    value[i] = inputs.next();
    keep(value[i]);
  }
  while (!slide_round<N, 0>(sum, value, inputs, weights, weights_step, taps)) {
  }
}

// The gradient of weights is a sum of the same form: outputs are the taps, and what stands in the place of weights are
// the narrow tensor's positions. Enough taps at a time that no multiplier waits for the sum before.
constexpr int64_t LEAST_CORRELATED = MOST_WINDOW >= 8 ? 8 : INT64_MAX;

// sums[tap] += Σ over rows and p < count of narrow[p] · wide[p + tap].
struct Rowwise {
  const float *narrow, *wide;
  int64_t narrow_pitch, wide_pitch, rows;
  int64_t narrow_step, wide_step, count;
};

template <int TAPS>
__attribute__((noinline)) void correlate_rowwise(const Rowwise& of, int64_t first, float* sums) {
  vec sum[TAPS];
#pragma GCC unroll 16
  for (int tap = 0; tap < TAPS; ++tap) sum[tap] = load(sums + tap * V);
  const float *narrow = of.narrow, *wide = of.wide + first * of.wide_step;
  for (int64_t row = 0; row < of.rows; ++row, narrow += of.narrow_pitch, wide += of.wide_pitch)
    slide<TAPS>(sum, Spaced<float>{wide, of.wide_step, 0, UINT64_MAX}, narrow, of.narrow_step, of.count);
#pragma GCC unroll 16
  for (int tap = 0; tap < TAPS; ++tap) store(sums + tap * V, sum[tap]);
}

// sums[tap] += Σ over rows and p < count of narrow[row][p] · wide[row + tap][p], of whose last vector `last` lanes
// count. The narrow rows are `pitch` apart; the wide ones inside the tensor are listed from the row of number `begin`
// on.
struct Columnwise {
  const float* narrow;
  const float* const* wide;
  int64_t pitch, rows, begin, end;
  int64_t at, column, count, last;
};

template <int TAPS>
__attribute__((noinline)) void correlate_columnwise(const Columnwise& of, int64_t first, float* sums) {
  vec sum[TAPS];
#pragma GCC unroll 16
  for (int tap = 0; tap < TAPS; ++tap) sum[tap] = load(sums + tap * V);
  ivec counted;
  for (int lane = 0; lane < V; ++lane) counted[lane] = -int32_t(lane < of.last);
  const int64_t whole = of.count - (of.last < V);
  Listed wide{of.wide, of.at, first - of.begin, uint64_t(of.end - of.begin)};
  const float* narrow = of.narrow;
  for (int64_t p = 0; p < whole; ++p, wide.at += of.column, narrow += V)
    slide<TAPS>(sum, wide, narrow, of.pitch, of.rows);
  if (whole < of.count) slide<TAPS>(sum, Counted{wide, counted}, narrow, of.pitch, of.rows);
#pragma GCC unroll 16
  for (int tap = 0; tap < TAPS; ++tap) store(sums + tap * V, sum[tap]);
}

template <int TAPS = MOST_WINDOW>
inline void correlate_part(int64_t taps, const Rowwise& of, int64_t first, float* sums) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return correlate_part<TAPS - 1>(taps, of, first, sums);
  }
  correlate_rowwise<TAPS>(of, first, sums);
}

template <int TAPS = MOST_WINDOW>
inline void correlate_part(int64_t taps, const Columnwise& of, int64_t first, float* sums) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return correlate_part<TAPS - 1>(taps, of, first, sums);
  }
  correlate_columnwise<TAPS>(of, first, sums);
}

template <class Pass>
inline void correlate_window(int64_t taps, const Pass& of, float* sums) {
  const EvenParts parts(taps);
  for (int64_t part = 0; part < parts.parts; ++part) {
    const int64_t first = parts.begin(part);
    correlate_part(parts.begin(part + 1) - first, of, first, sums + first * V);
  }
}

}  // namespace
}  // namespace omniconv
