// SPDX-License-Identifier: Apache-2.0
// Tiles of a convolution as a product of matrices whose first factor is never made (implicit GEMM): rows of a tile are
// outputs side by side, what they meet at a tap lies in a copy of the inputs, equally far apart, and runs of taps lie
// side by side.
#pragma once

#include "pointwise_tile.h"

namespace omniconv {
namespace {

// Steps through the taps that lie side by side: where they begin in the copy, and which of all such runs they are.
struct Run {
  int64_t at, number;
};

struct ImplicitCall {
  TileCall tile;    // its a_row: between outputs, in the copy; its length: of a run
  const Run* runs;  // which meet inputs
  int64_t count;
  int64_t second;   // from a row of outputs to the next, in the copy
};

// M outputs, of one row or (ROWS) half of them of the next.
template <int ROWS, int M, int N>
void implicit_tile(const ImplicitCall& call, const float* a, const float* b, const float* bias, float* out,
                   int64_t last, const Ahead& ahead) {
  constexpr int COLUMNS = M / ROWS, THIRDS = (COLUMNS + 2) / 3;
  vec sum[M][N];
  begin_tile(call.tile, bias, out, last, sum);
  const int64_t row = call.tile.a_row, width = call.tile.b_row;
  Ahead asked = ahead;
  for (const Run* run = call.runs; run < call.runs + call.count; ++run) {
    const float* base[ROWS * THIRDS];  // three outputs share an address, as in sum_tile
#pragma GCC unroll 10
    for (int part = 0; part < ROWS * THIRDS; ++part)
      base[part] = a + run->at + part / THIRDS * call.second + part % THIRDS * 3 * row;
    const float* right = b + run->number * call.tile.length * width;
    for (int64_t k = 0; k < call.tile.length; ++k, right += width) {
      vec factor[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) factor[n] = load(right + n * V);
      if (asked.lines > 0) {
        __builtin_prefetch(asked.from, 0, 2);
        asked.from += V;
        --asked.lines;
      }
#pragma GCC unroll 14
      for (int m = 0; m < M; ++m) {
        const int column = m % COLUMNS;
        const float* at = base[m / COLUMNS * THIRDS + column / 3] + column % 3 * row;
        vec value = splat(*at);
        keep(value);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sum[m][n] += value * factor[n];
      }
#pragma GCC unroll 10
      for (int part = 0; part < ROWS * THIRDS; ++part) ++base[part];
    }
  }
  end_tile(call.tile, bias, out, last, sum);
}

using ImplicitTile = void (*)(const ImplicitCall&, const float* a, const float* b, const float* bias, float* out,
                              int64_t last, const Ahead&);
struct ImplicitTiles {
  ImplicitTile of[TILE_HEIGHT + 1][3];  // by outputs and vectors
};

template <int ROWS, int M = TILE_HEIGHT / ROWS * ROWS>
constexpr void fill_implicit(ImplicitTiles& tiles) {
  tiles.of[M][1] = implicit_tile<ROWS, M, 1>;
  tiles.of[M][2] = implicit_tile<ROWS, M, 2>;
  if constexpr (M > ROWS) fill_implicit<ROWS, M - ROWS>(tiles);
}

template <int ROWS>
constexpr ImplicitTiles implicit_tiles() {
  ImplicitTiles tiles{};
  fill_implicit<ROWS>(tiles);
  return tiles;
}

template <int ROWS>
constexpr ImplicitTiles IMPLICIT_TILES = implicit_tiles<ROWS>();

}  // namespace
}  // namespace omniconv
