// SPDX-License-Identifier: Apache-2.0
// The pass along the columns of a separable convolution, and the gradient of its weights, on packed rows.
//
// Neighbouring rows of outputs meet nearly the same rows of inputs, which together are larger than the L1 cache. A tile
// sums several rows at once: each input comes from the L2 cache once for all of them.
#pragma once

#include "separable_window.h"

namespace omniconv {
namespace {

constexpr int ROWS_AT_ONCE = 4;

OMNICONV_INLINE void put(float* to, vec value, int64_t lanes) {
  lanes == V ? store(to, value) : store_first(to, value, lanes);
}

// What is left, in so many nearly equal parts: the next of them. Divisions take longer than a short tile.
inline int64_t even_part(int64_t left, int64_t parts) {
  return parts == 1 ? left : uint32_t(left + parts - 1) / uint32_t(parts);
}

// Positions of a tile of so many rows: its sums, an input for each position and a weight fit the registers.
constexpr int tile_width(int rows) {
  constexpr int WIDE[] = {14, 8, 5, 4}, OTHER[] = {10, 4, 3, 2};
  return (V == 16 ? WIDE : OTHER)[rows - 1];
}

// Output row r meets input row i with tap i - stride * r. Input rows begin … end - 1 lie inside the tensor.
struct ColumnPass {
  const float* const* inputs;  // from row `begin` on
  int64_t begin, end;
  int64_t column;  // floats between vectors of an input row
  const float* weights;
  int64_t weights_step, taps, stride;
};

template <int R, int T>
__attribute__((noinline)) void column_tile(const ColumnPass& columns, int64_t at, float* out, int64_t out_step,
                                           int64_t pitch, int64_t last) {
  vec sum[R][T];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[r][t] = vec{};
  const int64_t step = columns.weights_step, back = columns.stride * step, column = columns.column;
  const auto border = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t i = begin; i < end; ++i) {
      const float* input = columns.inputs[i - columns.begin] + at;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const int64_t tap = i - r * columns.stride;
        if (tap < 0 || tap >= columns.taps) continue;
        const vec weight = load(columns.weights + tap * step);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sum[r][t] += weight * load(input + t * column);
      }
    }
  };
  // Input row i, met by rows first … last - 1.
  const auto meet = [&](const float* input, const float* weights, int first, int last) __attribute__((always_inline)) {
    vec value[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) value[t] = load(input + t * column);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (r < first || r >= last) continue;
      const vec weight = load(weights - r * back);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[r][t] += weight * value[t];
    }
  };
  const float* const* inputs = columns.inputs;
  const float* weights = columns.weights + columns.begin * step;
  if (columns.stride == 1 && columns.begin == 0 && columns.end == columns.taps + R - 1 && columns.taps >= R) {
#pragma GCC unroll 4
    for (int i = 0; i < R - 1; ++i, weights += step) meet(*inputs++ + at, weights, 0, i + 1);
    for (int64_t i = R - 1; i < columns.taps; ++i, weights += step) meet(*inputs++ + at, weights, 0, R);
#pragma GCC unroll 4
    for (int i = 1; i < R; ++i, weights += step) meet(*inputs++ + at, weights, i, R);
  } else {
    const int64_t middle = most(columns.begin, (R - 1) * columns.stride), end = least(columns.end, columns.taps);
    border(columns.begin, least(middle, columns.end));
    for (int64_t i = middle; i < end; ++i) meet(inputs[i - columns.begin] + at, columns.weights + i * step, 0, R);
    border(most(middle, end), columns.end);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) put(out + r * pitch + t * out_step, sum[r][t], t + 1 < T ? V : last);
}

template <int R, int T = tile_width(R)>
inline void column_tile_of(int64_t width, const ColumnPass& columns, int64_t at, float* out, int64_t out_step,
                           int64_t pitch, int64_t last) {
  if constexpr (T > 1) {
    if (width < T) return column_tile_of<R, T - 1>(width, columns, at, out, out_step, pitch, last);
  }
  column_tile<R, T>(columns, at, out, out_step, pitch, last);
}

// Rows 0 … R - 1 at `count` vectors from place `at` of the inputs on; of the last vector `last` lanes are written.
template <int R>
inline void column_rows(const ColumnPass& columns, int64_t at, float* out, int64_t out_step, int64_t pitch,
                        int64_t count, int64_t last) {
  const int64_t tiles = ceil_div(count, tile_width(R));
  for (int64_t tile = 0, done = 0; tile < tiles; ++tile) {
    const int64_t width = even_part(count - done, tiles - tile);
    column_tile_of<R>(width, columns, at + done * columns.column, out + done * out_step, out_step, pitch,
                      tile + 1 < tiles ? V : last);
    done += width;
  }
}

template <int R>
__attribute__((noinline)) void column_window(const ColumnPass& columns, int64_t at, float* out, int64_t out_step,
                                             int64_t pitch, int64_t count, int64_t last) {
  const uint64_t inside = columns.end - columns.begin;
  for (int64_t v = 0; v < count; ++v, at += columns.column, out += out_step) {
    vec sum[R] = {};
    slide<R>(sum, Listed{columns.inputs, at, -columns.begin, inside}, columns.weights, columns.weights_step,
             columns.taps);
    const int64_t lanes = v + 1 < count ? V : last;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) put(out + r * pitch, sum[r], lanes);
  }
}

template <int R = MOST_WINDOW>
inline void column_sums(int64_t rows, const ColumnPass& columns, int64_t at, float* out, int64_t out_step,
                        int64_t pitch, int64_t count, int64_t last = V) {
  if constexpr (R > 1) {
    if (rows < R) return column_sums<R - 1>(rows, columns, at, out, out_step, pitch, count, last);
  }
  if constexpr (R > ROWS_AT_ONCE) {
    column_window<R>(columns, at, out, out_step, pitch, count, last);
  } else {
    column_rows<R>(columns, at, out, out_step, pitch, count, last);
  }
}

// sums[tap] += Σ over p < count and rows r < R of narrow[r][p] · wide[r + tap][p], of whose last vector `last` lanes
// count: behind them may stand anything, and zero times infinity is not zero. U sums for each tap, since a multiplier
// finishes one after four cycles and has R of them to do in turn.
template <int R, int TAPS, int U>
__attribute__((noinline)) void correlate_columns(float* sums, const float* const* narrow, const float* const* wide,
                                                 int64_t at, int64_t column, int64_t count, int64_t last) {
  vec sum[U][TAPS];
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 16
    for (int tap = 0; tap < TAPS; ++tap) sum[u][tap] = u ? vec{} : load(sums + tap * V);
  ivec counted;
  for (int lane = 0; lane < V; ++lane) counted[lane] = -int32_t(lane < last);
  const auto meet = [&](int64_t p, auto& sum, bool whole) __attribute__((always_inline)) {
    constexpr int some = sizeof(sum) / sizeof(sum[0]);
    vec factor[some][R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int u = 0; u < some; ++u) factor[u][r] = load(narrow[r] + (p + u) * V);
#pragma GCC unroll 16
    for (int i = 0; i < R + TAPS - 1; ++i) {
#pragma GCC unroll 4
      for (int u = 0; u < some; ++u) {
        vec value = load(wide[i] + at + (p + u) * column);
        if (!whole) value = (vec)((ivec)value & counted);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          if (i - r >= 0 && i - r < TAPS) sum[u][i - r] += factor[u][r] * value;
      }
    }
  };
  auto& alone = reinterpret_cast<vec(&)[1][TAPS]>(sum[0]);
  const int64_t whole = count - (last < V);
  int64_t p = 0;
  for (; p + U <= whole; p += U) meet(p, sum, true);
  for (; p < whole; ++p) meet(p, alone, true);
  if (p < count) meet(p, alone, false);
#pragma GCC unroll 16
  for (int tap = 0; tap < TAPS; ++tap) {
    vec whole = sum[0][tap];
#pragma GCC unroll 4
    for (int u = 1; u < U; ++u) whole += sum[u][tap];
    store(sums + tap * V, whole);
  }
}

constexpr int MOST_COLUMN_TAPS = V == 16 ? 12 : 8;

template <int R, int TAPS = MOST_COLUMN_TAPS>
inline void correlate_some(int64_t taps, float* sums, const float* const* narrow, const float* const* wide,
                           int64_t at, int64_t column, int64_t count, int64_t last) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return correlate_some<R, TAPS - 1>(taps, sums, narrow, wide, at, column, count, last);
  }
  constexpr int FITS = V == 16 ? 28 / (R + TAPS) : 14 / (R + TAPS);
  constexpr int U = TAPS >= 8 || FITS < 2 ? 1 : TAPS >= 4 || FITS < 4 ? 2 : 4;
  correlate_columns<R, TAPS, U>(sums, narrow, wide, at, column, count, last);
}

template <int R>
inline void correlate_all(int64_t taps, float* sums, const float* const* narrow, const float* const* wide,
                          int64_t at, int64_t column, int64_t count, int64_t last) {
  const int64_t parts = ceil_div(taps, MOST_COLUMN_TAPS);
  for (int64_t part = 0, done = 0; part < parts; ++part) {
    const int64_t some = even_part(taps - done, parts - part);
    correlate_some<R>(some, sums + done * V, narrow, wide + done, at, column, count, last);
    done += some;
  }
}

}  // namespace
}  // namespace omniconv
