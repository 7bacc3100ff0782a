// SPDX-License-Identifier: Apache-2.0
// One long row of sums whose taps stand side by side.
//
// Nothing but taps shares the inputs of such a row, and a load at an odd place costs more than two multiply-adds: it
// crosses a cache line, and those that wait for it are issued twice. So inputs are shifted in registers, and as few of
// them as can be: with the taps cut into A runs of B,
//   out[p] = Σ over a of part_a[p + a B], where part_a[p] = Σ over b < B of weight[a B + b] · input[p + b],
// an input that is shifted to one of B places feeds A parts, and A - 1 more shifts complete an output.
#pragma once

#include "planar_tiles.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int MOST_PARTS = V == 16 ? 4 : 2;

// Vectors of a tile, so that A parts of each and their inputs fit the registers.
template <int A>
constexpr int comb_vectors() {
  return V < 16 ? (A == 1 ? 5 : 3) : A == 1 ? 12 : A == 2 ? 7 : A == 3 ? 5 : 4;
}

struct Comb {
  int64_t parts, apart;
};

// Shifts and additions of an output vector take time from its multiply-adds, and so do loads at odd places.
inline Comb comb_of(int64_t taps) {
  Comb best{1, 1};
  int64_t fewest = INT64_MAX;
  for (int64_t parts = 1; parts <= MOST_PARTS; ++parts) {
    for (int64_t apart = 1; apart < V && (parts - 1) * apart < V; ++apart) {
      const int64_t work = ceil_div(taps, parts * apart) * (2 * apart + 1) + 4 * parts;
      if (work < fewest) {
        fewest = work;
        best = {parts, apart};
      }
    }
  }
  return best;
}

template <int A, int NV, int SOME>
OMNICONV_INLINE void comb_taps(vec (&sum)[A][NV], const vec (&own)[NV + 1], ivec lanes, const float* weights,
                               int64_t pitch, int64_t apart, int64_t begin, int64_t end) {
  for (int64_t tap = begin; tap < end; ++tap) {
    vec weight[SOME];
    const ivec places = lanes + int32_t(tap);
#pragma GCC unroll 4
    for (int a = 0; a < SOME; ++a) weight[a] = everywhere(weights[(a * apart + tap) * pitch]);
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) {
      const vec shifted = __builtin_shuffle(own[v], own[v + 1], places);
#pragma GCC unroll 4
      for (int a = 0; a < SOME; ++a) sum[a][v] += weight[a] * shifted;
    }
  }
}

// The first taps of the runs, which need no shift.
template <int A, int NV>
OMNICONV_INLINE void comb_first(vec (&sum)[A][NV], const vec (&own)[NV + 1], const float* weights, int64_t step,
                                int64_t runs) {
#pragma GCC unroll 4
  for (int a = 0; a < A; ++a) {
    if (a >= runs) break;
    const vec weight = everywhere(weights[a * step]);
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) sum[a][v] += weight * own[v];
  }
}

template <int A, int NV, int SOME = A>
OMNICONV_INLINE void comb_some(int64_t some, vec (&sum)[A][NV], const vec (&own)[NV + 1], ivec lanes,
                               const float* weights, int64_t pitch, int64_t apart, int64_t begin, int64_t end) {
  if (begin >= end || some < 1) return;
  if constexpr (SOME > 1) {
    if (some < SOME) return comb_some<A, NV, SOME - 1>(some, sum, own, lanes, weights, pitch, apart, begin, end);
  }
  comb_taps<A, NV, SOME>(sum, own, lanes, weights, pitch, apart, begin, end);
}

// Parts of the vectors at … at + NV - 1. They complete the outputs at - 1 … at + NV - 2, for which `carry` has the
// parts of the vector before; with a single part, the outputs at … at + NV - 1.
template <int A, int NV>
OMNICONV_INLINE void comb_tile(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                               const float* weights, float start, float* sums, int64_t at, vec (&carry)[A]) {
  vec sum[A][NV];
#pragma GCC unroll 4
  for (int a = 0; a < A; ++a)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) sum[a][v] = a ? vec{} : everywhere(start);
  const int64_t apart = piece.apart, taps = piece.taps;
  ivec lanes;
  for (int lane = 0; lane < V; ++lane) lanes[lane] = lane;
  for (const Strand *strand = tile.strands, *end = strand + tile.count; strand < end; ++strand) {
    const float* from = plan.first(input, *strand) + at * V + (taps ? piece.offsets[0] : 0);
    const float* weight = piece.first(weights, *strand);
    const int64_t pitch = strand->pitch;
    for (int64_t variant = 0; variant < plan.variants; ++variant) {
      for (int64_t tap = 0; tap < taps; tap += A * apart) {
        vec own[NV + 1];
#pragma GCC unroll 16
        for (int v = 0; v < NV + 1; ++v) own[v] = held(load(from + tap + v * V));
        const int64_t some = least(taps - tap, A * apart);
        int64_t runs = 0, left = some;  // runs that have all their taps, and taps of the one behind them
        for (; left >= apart; left -= apart) ++runs;
        const float* own_weight = weight + tap * pitch;
        comb_first<A, NV>(sum, own, own_weight, apart * pitch, runs + (left > 0));
        comb_some<A, NV>(runs + 1, sum, own, lanes, own_weight, pitch, apart, 1, left);
        comb_some<A, NV>(runs, sum, own, lanes, own_weight, pitch, apart, most(left, 1), apart);
      }
      from += plan.input_variant;
      weight += piece.weight_variant;
    }
  }
  constexpr int BACK = A > 1 ? 1 : 0;
  float* to = sums + (at - BACK) * V;
  const int64_t rest = piece.vectors - (at - BACK);  // vectors to be written
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) {
    vec whole = BACK ? (v ? sum[0][v ? v - 1 : 0] : carry[0]) : sum[0][v];
#pragma GCC unroll 4
    for (int a = 1; a < A; ++a)
      whole += __builtin_shuffle(v ? sum[a][v ? v - 1 : 0] : carry[a], sum[a][v], lanes + int32_t(a * apart));
    if (BACK && v == 0 && at == 0) continue;
    if (v + 1 < NV || rest > NV || piece.last == V) {
      store(to + v * V, whole);
    } else {
      store_first(to + v * V, whole, piece.last);
    }
  }
#pragma GCC unroll 4
  for (int a = 0; a < A; ++a) carry[a] = sum[a][NV - 1];
}

template <int A, int NV>
__attribute__((noinline)) void comb_rest(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                                         const float* weights, float start, float* sums, int64_t at, vec (&carry)[A]) {
  comb_tile<A, NV>(plan, tile, piece, input, weights, start, sums, at, carry);
}

template <int A, int NV = comb_vectors<A>() - 1>
inline void comb_rest_of(int64_t vectors, const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                         const float* weights, float start, float* sums, int64_t at, vec (&carry)[A]) {
  if constexpr (NV > 1) {
    if (vectors < NV)
      return comb_rest_of<A, NV - 1>(vectors, plan, tile, piece, input, weights, start, sums, at, carry);
  }
  comb_rest<A, NV>(plan, tile, piece, input, weights, start, sums, at, carry);
}

// A whole row. One vector more than it has outputs is read.
template <int A>
__attribute__((noinline)) void comb_row(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                                        const float* weights, const float* start, float* sums) {
  constexpr int NV = comb_vectors<A>();
  vec carry[A] = {};
  const int64_t vectors = piece.vectors + (A > 1);
  int64_t at = 0;
  for (; at + NV <= vectors; at += NV) comb_tile<A, NV>(plan, tile, piece, input, weights, *start, sums, at, carry);
  if (at < vectors) comb_rest_of<A>(vectors - at, plan, tile, piece, input, weights, *start, sums, at, carry);
}

template <int A = MOST_PARTS>
inline TileFunction comb_row_of(int64_t parts) {
  if constexpr (A > 1) {
    if (parts < A) return comb_row_of<A - 1>(parts);
  }
  return comb_row<A>;
}

}  // namespace planar
}  // namespace
}  // namespace omniconv
