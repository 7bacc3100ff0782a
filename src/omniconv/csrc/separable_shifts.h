// SPDX-License-Identifier: Apache-2.0
// The pass along the rows of a separable convolution where lanes are neighbouring columns, and the gradient of its
// weights.
//
// Each tap reads at another place of the same row, and a vector of 64 bytes that crosses a cache line costs a core both
// loads that it can start in a cycle, in which it could finish two multiply-adds. So each is used twice: the taps are
// cut into a near and a far half of `apart` taps, and a vector of inputs meets one tap of each.
#pragma once

#include "separable_columns.h"

namespace omniconv {
namespace {

// out[p] = start + Σ over taps of weight · input[hop * tap + p], for several rows.
struct Shifts {
  const float* input;
  int64_t pitch;
  const float* weights;  // V lanes for each tap
  int64_t taps, hop;
  float start;
};

constexpr int SHIFT_VECTORS = V == 16 ? 4 : 2, SHIFT_ROWS = V == 16 ? 2 : 4;
// Fewer taps are not worth the shifting of their far sums.
constexpr int64_t LEAST_HALVED = V == 16 ? 5 : INT64_MAX;

// NV vectors of R rows, the last with `last` lanes.
template <int R, int NV>
__attribute__((noinline)) void shift_tile(const Shifts& shifts, int64_t at, float* out, int64_t pitch, int64_t last) {
  vec sum[R][NV];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[r][v] = splat(shifts.start);
  const float *input = shifts.input + at, *weights = shifts.weights;
  for (int64_t tap = 0; tap < shifts.taps; ++tap, input += shifts.hop, weights += V) {
    const vec weight = load(weights);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[r][v] += weight * load(input + r * shifts.pitch + v * V);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) put(out + r * pitch + v * V, sum[r][v], v + 1 < NV ? V : last);
}

// The same by halves: out[p] = near[p] + far[p + apart * hop], of which far sums may be needed of NF = NV + 1 vectors.
template <int R, int NV, int NF>
__attribute__((noinline)) void halved_tile(const Shifts& shifts, int64_t apart, int64_t at, float* out, int64_t pitch,
                                           int64_t last) {
  vec near[R][NV], far[R][NF];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NF; ++v) {
      if (v < NV) near[r][v] = splat(shifts.start);
      far[r][v] = vec{};
    }
  for (int64_t done = 0; done < shifts.taps; done += 2 * apart) {
    const float *input = shifts.input + at + done * shifts.hop, *weights = shifts.weights + done * V;
    const int64_t both = least(most(shifts.taps - done - apart, 0), apart);
    const int64_t alone = least(shifts.taps - done, apart) - both;
    for (int64_t tap = 0; tap < both; ++tap, input += shifts.hop, weights += V) {
      const vec weight = load(weights), other = load(weights + apart * V);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NF; ++v) {
          vec value = load(input + r * shifts.pitch + v * V);
          keep(value);
          if (v < NV) near[r][v] += weight * value;
          far[r][v] += other * value;
        }
    }
    for (int64_t tap = 0; tap < alone; ++tap, input += shifts.hop, weights += V) {
      const vec weight = load(weights);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) near[r][v] += weight * load(input + r * shifts.pitch + v * V);
    }
  }
  ivec lanes;
  for (int lane = 0; lane < V; ++lane) lanes[lane] = lane + int32_t(apart * shifts.hop);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const vec behind = v + 1 < NF ? far[r][v + 1 < NF ? v + 1 : 0] : vec{};
      put(out + r * pitch + v * V, near[r][v] + __builtin_shuffle(far[r][v], behind, lanes), v + 1 < NV ? V : last);
    }
}

template <int R, int NV = SHIFT_VECTORS>
inline void shift_some(int64_t vectors, const Shifts& shifts, int64_t apart, int64_t at, float* out, int64_t pitch,
                       int64_t last) {
  if constexpr (NV > 1) {
    if (vectors < NV) return shift_some<R, NV - 1>(vectors, shifts, apart, at, out, pitch, last);
  }
  if constexpr (LEAST_HALVED < INT64_MAX) {
    if (apart && last + apart * shifts.hop <= V) return halved_tile<R, NV, NV>(shifts, apart, at, out, pitch, last);
    if (apart) return halved_tile<R, NV, NV + 1>(shifts, apart, at, out, pitch, last);
  }
  shift_tile<R, NV>(shifts, at, out, pitch, last);
}

template <int R = SHIFT_ROWS>
inline void shift_up_to(int64_t rows, const Shifts& shifts, int64_t apart, int64_t first, float* out, int64_t pitch,
                        int64_t columns) {
  if constexpr (R > 1) {
    if (rows < R) return shift_up_to<R - 1>(rows, shifts, apart, first, out, pitch, columns);
  }
  for (int64_t at = 0; at < columns; at += SHIFT_VECTORS * V) {
    const int64_t left = columns - at, vectors = ceil_div(left, V);
    shift_some<R>(vectors, shifts, apart, first + at, out + at, pitch,
                  vectors > SHIFT_VECTORS ? V : left - (vectors - 1) * V);
  }
}

// How far apart the halves stand: within a vector, or 0 for none.
inline int64_t half_of(int64_t taps, int64_t hop) {
  if (taps < LEAST_HALVED || hop >= V) return 0;
  const int64_t most_apart = hop == 1 ? V - 1 : (V - 1) / hop;
  return least((taps + 1) / 2, most_apart);
}

// Nothing behind `columns` is written.
inline void shift_rows(int64_t rows, const Shifts& shifts, int64_t apart, float* out, int64_t pitch, int64_t columns) {
  for (int64_t row = 0; row < rows; row += SHIFT_ROWS)
    shift_up_to(least(rows - row, SHIFT_ROWS), shifts, apart, row * shifts.pitch, out + row * pitch, pitch, columns);
}

// sums[tap] += Σ over rows and p < count of narrow[p] · wide[p + tap * hop], by halves too: each vector of the wide
// rows meets one of a narrow row and one `apart` taps before it. There, and behind both rows, stand zeros.
struct Correlation {
  const float *narrow, *wide;
  int64_t narrow_pitch, wide_pitch, rows, hop, count;
};

template <int TAPS>
__attribute__((noinline)) void correlate_shifted(const Correlation& of, int64_t first, float* sums) {
  constexpr int NEAR = (TAPS + 1) / 2;
  vec sum[TAPS];
#pragma GCC unroll 32
  for (int tap = 0; tap < TAPS; ++tap) sum[tap] = load(sums + tap * V);
  const int64_t apart = TAPS > 1 ? NEAR * of.hop : 0, vectors = ceil_div(of.count + apart, V), hop = of.hop;
  const float *narrow = of.narrow, *wide = of.wide + first * hop;
  for (int64_t row = 0; row < of.rows; ++row, narrow += of.narrow_pitch, wide += of.wide_pitch) {
    for (int64_t p = 0; p < vectors * V; p += V) {
      const vec near = load(narrow + p), far = load(narrow + p - apart);
      const float* from = wide + p;
#pragma GCC unroll 16
      for (int tap = 0; tap < NEAR; ++tap, from += hop) {
        vec value = load(from);
        keep(value);
        sum[tap] += near * value;
        if (NEAR + tap < TAPS) sum[NEAR + tap < TAPS ? NEAR + tap : 0] += far * value;
      }
    }
  }
#pragma GCC unroll 32
  for (int tap = 0; tap < TAPS; ++tap) store(sums + tap * V, sum[tap]);
}

constexpr int MOST_SHIFTED = V == 16 ? 24 : 8;

template <int TAPS = MOST_SHIFTED>
inline void correlate_some_shifts(int64_t taps, const Correlation& of, int64_t first, float* sums) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return correlate_some_shifts<TAPS - 1>(taps, of, first, sums);
  }
  correlate_shifted<TAPS>(of, first, sums);
}

inline void correlate_shifts(int64_t taps, const Correlation& of, float* sums) {
  const int64_t parts = ceil_div(taps, MOST_SHIFTED);
  for (int64_t part = 0, done = 0; part < parts; ++part) {
    const int64_t some = even_part(taps - done, parts - part);
    correlate_some_shifts(some, of, done, sums + done * V);
    done += some;
  }
}

}  // namespace
}  // namespace omniconv
