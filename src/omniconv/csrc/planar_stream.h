// SPDX-License-Identifier: Apache-2.0
// planar_comb.h for the kernels that one-dimensional networks have: one row of up to MOST_STREAMED taps.
//
// The number of taps is known to the compiler, so that a vector of outputs needs nothing but its loads, shifts and
// multiply-adds, and the inputs that are shifted for one vector are those that the vector before meets 16 taps further.
#pragma once

#include "planar_comb.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int MOST_STREAMED = V == 16 ? 32 : 0;
constexpr int KEPT_TAPS = 8;  // weights that stay in registers

// Runs of taps, and taps of a run, as in planar_comb.h.
constexpr int runs_of(int taps) { return taps > 12 ? 4 : taps > 8 ? 3 : taps > 2 ? 2 : 1; }
constexpr int run_of(int taps) {
  return taps > V ? V / runs_of(taps) : (taps + runs_of(taps) - 1) / runs_of(taps);
}

// Lanes count … count + V - 1 of two vectors.
template <int COUNT>
OMNICONV_INLINE vec shifted(vec low, vec high) {
  if (COUNT == 0) return low;
  ivec places;
  for (int lane = 0; lane < V; ++lane) places[lane] = lane + COUNT;
  return __builtin_shuffle(low, high, places);
}

template <int B, int PLACE = 1>
OMNICONV_INLINE void shift_all(vec (&places)[B], vec low, vec high) {
  if constexpr (PLACE < B) {
    places[PLACE] = shifted<PLACE>(low, high);
    shift_all<B, PLACE + 1>(places, low, high);
  } else {
    places[0] = low;
  }
}

template <int A, int B, int RUN = 1>
OMNICONV_INLINE vec complete(vec whole, const vec (&before)[A], const vec (&parts)[A]) {
  if constexpr (RUN < A) {
    return complete<A, B, RUN + 1>(whole + shifted<RUN * B>(before[RUN], parts[RUN]), before, parts);
  } else {
    return whole;
  }
}

// out[p] = start + Σ over k < K of weights[k] · input[p + k]. Up to two vectors behind the last input are read.
template <int K>
OMNICONV_INLINE void stream(const float* input, const float* weights, float start, float* out, int64_t vectors,
                                      int64_t last) {
  constexpr int A = runs_of(K), B = run_of(K), F = (K + V - 1) / V;
  vec places[F][B];  // inputs of the vectors at hand, shifted
  vec before[A] = {};
  vec own = load(input);
#pragma GCC unroll 2
  for (int f = 0; f < F - 1; ++f) {
    const vec next = load(input + (f + 1) * V);
    shift_all<B>(places[f], own, next);
    own = next;
  }
  const vec begin = everywhere(start);
#pragma GCC unroll 2
  for (int64_t v = 0; v <= vectors; ++v) {
    if (K > KEPT_TAPS) __asm__("" : "+r"(weights));
    const vec next = load(input + (v + F) * V);
    shift_all<B>(places[F - 1], own, next);
    own = next;
    vec parts[A];
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) {
      parts[a] = a ? vec{} : begin;
#pragma GCC unroll 2
      for (int f = 0; f < F; ++f)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b)
          if (f * V + a * B + b < K) parts[a] += everywhere(weights[f * V + a * B + b]) * places[f][b];
    }
    const vec whole = complete<A, B>(before[0], before, parts);
    if (v > 0 && v < vectors) store(out + (v - 1) * V, whole);
    if (v == vectors) store_first(out + (v - 1) * V, whole, last);
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) before[a] = parts[a];
#pragma GCC unroll 2
    for (int f = 0; f < F - 1; ++f)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) places[f][b] = places[f + 1][b];
  }
}

// A row that meets one row of inputs of one channel, or none.
template <int K>
__attribute__((noinline)) void stream_row(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                                          const float* weights, const float* start, float* sums) {
  if (tile.count != 1) return comb_row<1>(plan, tile, piece, input, weights, start, sums);
  stream<K>(plan.first(input, *tile.strands) + piece.offsets[0], piece.first(weights, *tile.strands), *start, sums,
            piece.vectors, piece.last);
}

template <int K = MOST_STREAMED>
inline TileFunction stream_row_of(int64_t taps) {
  if constexpr (K > 1) {
    if (taps < K) return stream_row_of<K - 1>(taps);
  }
  if constexpr (K > 0) return stream_row<K>;
  return nullptr;
}

}  // namespace planar
}  // namespace
}  // namespace omniconv
