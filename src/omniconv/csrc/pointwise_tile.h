// SPDX-License-Identifier: Apache-2.0
// Tiles of the product of two matrices, whose sums stay in registers.
#pragma once

#include <initializer_list>

#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {

// Rows of a tile, of two vectors each: with two vectors of the second factor and a number of the first, that is all
// registers but a few.
constexpr int TILE_HEIGHT = MAX_TILE == 14 ? 14 : 6;
constexpr int64_t TILE_WIDTH = 2 * V;
// Steps between asking for a row of the second factor and reading it, where no tile before asked. Each is two lines, too
// many for what the processor fetches by itself once they lie past its second cache, or begin a page.
constexpr int64_t FETCHED_AHEAD = 32;

// What later tiles read: so many vectors, of which one is asked for at each step.
struct Ahead {
  const float* from;
  int64_t lines;
};

// out[m][n] = clamped(scale · Σ_k a[m][k] · b[k][n] + bias + addend)
struct TileCall {
  int64_t a_row;  // number k of row m at a + m * a_row + k, or (ACROSS) a + k * a_row + m
  int64_t b_row;  // row k at b + k * b_row
  int64_t length;
  int64_t out_row;
  bool bias_by_row;  // one bias, and scale, for each row, or one for each column
  int64_t scale;     // stand so far behind the biases; 0: there are none
  bool add;          // to what stands in the output, instead of a bias
  int64_t addend;    // stands so many floats behind each output; 0: there is none
  float low, high;
};

// What is read after so many tiles: up to three stretches of vectors, handed out in equal shares.
struct Later {
  Ahead of[3];
  int64_t share;

  Later(std::initializer_list<Ahead> stretches, int64_t tiles) : of{}, share(0) {
    int at = 0;
    for (const Ahead& one : stretches) {
      of[at++] = one;
      share += one.lines;
    }
    share = ceil_div(share, most(tiles, 1));
  }

  Ahead next() {
    for (Ahead& one : of) {
      if (one.lines == 0) continue;
      const Ahead found{one.from, least(one.lines, share)};
      one.from += found.lines * V;
      one.lines -= found.lines;
      return found;
    }
    return {};
  }
};

// What the sums of a tile begin with. The last vector of each row has `last` lanes.
template <int M, int N>
OMNICONV_INLINE void begin_tile(const TileCall& call, const float* bias, const float* out, int64_t last,
                                vec (&sum)[M][N]) {
  if (!call.add) {  // where the sums and what is added to them lie, meanwhile
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        __builtin_prefetch(out + m * call.out_row + n * V, 1, 3);
        if (call.addend) __builtin_prefetch(out + m * call.out_row + n * V + call.addend, 0, 3);
      }
  }
  if (call.add) {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sum[m][n] = load_count(out + m * call.out_row + n * V, n + 1 < N ? V : last);
  } else if (call.bias_by_row) {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sum[m][n] = splat(call.scale ? 0 : bias[m]);
  } else {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      const vec start = call.scale ? vec{} : load(bias + n * V);
#pragma GCC unroll 14
      for (int m = 0; m < M; ++m) sum[m][n] = start;
    }
  }
}

// What becomes of them.
template <int M, int N>
OMNICONV_INLINE void end_tile(const TileCall& call, const float* bias, float* out, int64_t last, vec (&sum)[M][N]) {
  const vec low = splat(call.low), high = splat(call.high);
  const int64_t out_row = call.out_row, addend = call.addend;
  if (call.scale) {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        const float* own = bias + (call.bias_by_row ? m : n * V);
        sum[m][n] = call.bias_by_row ? sum[m][n] * splat(own[call.scale]) + splat(own[0])
                                     : sum[m][n] * load(own + call.scale) + load(own);
      }
  }
  if (addend) {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sum[m][n] += load_count(out + m * out_row + n * V + addend, n + 1 < N ? V : last);
  }
  const auto clamped = [&](int m, int n) {
    const vec value = low > sum[m][n] ? low : sum[m][n];
    return high < value ? high : value;
  };
  if (last == V) {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) store(out + m * out_row + n * V, clamped(m, n));
  } else {
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) store_count(out + m * out_row + n * V, clamped(m, n), n + 1 < N ? V : last);
  }
}

// FIRST: no tile before read these rows of the second factor, and those of the first that follow are the next tile's.
template <bool ACROSS, int M, int N, bool FIRST>
void sum_tile(const TileCall& call, const float* a, const float* b, const float* bias, float* out, int64_t last,
              const Ahead& ahead) {
  vec sum[M][N];
  begin_tile(call, bias, out, last, sum);
  // Three rows share an address: the processor adds once or twice a register to another.
  const float* base[(M + 2) / 3];
#pragma GCC unroll 5
  for (int third = 0; third < (M + 2) / 3; ++third) base[third] = a + 3 * third * call.a_row;
  const int64_t row = call.a_row;
  for (int64_t k = 0; k < call.length; ++k, b += call.b_row) {
    vec factor[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      factor[n] = load(b + n * V);
      if (FIRST) __builtin_prefetch(b + FETCHED_AHEAD * call.b_row + n * V, 0, 3);
    }
    if (FIRST) __builtin_prefetch(a + M * row + k * V, 0, 2);  // a line for each step, which is all of the next rows
    if (k < ahead.lines) __builtin_prefetch(ahead.from + k * V, 0, 2);
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m) {
      vec value = splat(ACROSS ? a[m] : base[m / 3][m % 3 * row]);
      keep(value);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sum[m][n] += value * factor[n];
    }
    if (ACROSS) {
      a += row;
    } else {
#pragma GCC unroll 5
      for (int third = 0; third < (M + 2) / 3; ++third) ++base[third];
    }
  }
  end_tile(call, bias, out, last, sum);
}

// Calls each(first, count) for pieces of at most TILE_HEIGHT, all as long as that allows.
template <class Each>
OMNICONV_INLINE void each_tile(int64_t begin, int64_t end, const Each& each) {
  for (int64_t left = ceil_div(end - begin, TILE_HEIGHT); left > 0; --left) {
    const int64_t count = ceil_div(end - begin, left);
    each(begin, count);
    begin += count;
  }
}

using SumTile = void (*)(const TileCall&, const float* a, const float* b, const float* bias, float* out, int64_t last,
                         const Ahead&);
struct SumTiles {
  SumTile of[TILE_HEIGHT + 1][3];  // by rows and vectors
};

template <bool ACROSS, bool FIRST, int M = TILE_HEIGHT>
constexpr void fill_tiles(SumTiles& tiles) {
  tiles.of[M][1] = sum_tile<ACROSS, M, 1, FIRST>;
  tiles.of[M][2] = sum_tile<ACROSS, M, 2, FIRST>;
  if constexpr (M > 1) fill_tiles<ACROSS, FIRST, M - 1>(tiles);
}

template <bool ACROSS, bool FIRST = false>
constexpr SumTiles sum_tiles() {
  SumTiles tiles{};
  fill_tiles<ACROSS, FIRST>(tiles);
  return tiles;
}

template <bool ACROSS>
constexpr SumTiles SUM_TILES = sum_tiles<ACROSS>();
constexpr SumTiles FIRST_TILES = sum_tiles<false, true>();

}  // namespace
}  // namespace omniconv
