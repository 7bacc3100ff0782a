// SPDX-License-Identifier: Apache-2.0
// Tiles of rows and columns of an image whose channels lie side by side, under kernels of 3 × 3 taps that move by one:
// each input is loaded once a turn of the lanes (blocked_channels.h) for all nine taps.
#pragma once

#include "blocked_turns.h"

namespace omniconv {
namespace {

constexpr bool HAS_TILES = MAX_TILE > 10;  // sixteen registers do not hold nine weights and a tile
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 4;

template <class T>
struct TurnedTile {
  const T* input;               // of the first row of inputs, at column 0
  const float* weights;
  int64_t tap_step;             // from the weights of one input to those of the next, which lies before or behind
  int64_t row, column;          // between inputs
  int64_t first, height, last;  // the first row of inputs, and those that there are; the last column, times `column`
  int64_t out_row, out_column;
  int64_t blocks, last_lane, weights_step;
  const T* bias;
  int64_t bias_step;

  int64_t lane(int64_t block) const { return block + 1 < blocks ? block * V : last_lane; }
};

// R rows of C outputs, block by block of channels. EDGE: some taps lie outside their rows.
template <class T, int R, int C, bool EDGE>
void turn_square(const TurnedTile<T>& tile, const Turns& turns, int64_t at, T* out) {
  for (int64_t block = 0; block < tile.blocks; ++block) {
    const int64_t lane = tile.lane(block);
    const float* weights = tile.weights + block * tile.weights_step;
    vec sum[R][C] = {};
    for (int64_t turn = 0; turn < turns.count; ++turn, weights += turns.weights_step) {
      if (turn > 0) {
        const ivec from = turns.from;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int c = 0; c < C; ++c) sum[r][c] = __builtin_shuffle(sum[r][c], from);
      }
      vec weight[9];
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; ++tap) {
        weight[tap] = load(weights + tap * tile.tap_step);
        keep(weight[tap]);
      }
      const T* input = tile.input + lane;
#pragma GCC unroll 8
      for (int i = 0; i < R + 2; ++i, input += tile.row) {
        if (uint64_t(tile.first + i) >= uint64_t(tile.height)) continue;
        int64_t place = at;
#pragma GCC unroll 16
        for (int j = 0; j < C + 2; ++j, place += tile.column) {
          keep(place);
          if (EDGE && uint64_t(place) > uint64_t(tile.last)) continue;
          vec value = load_lanes(input + place);
          keep(value);
#pragma GCC unroll 3
          for (int m = 0; m < 3; ++m)
#pragma GCC unroll 3
            for (int k = 0; k < 3; ++k)
              if (i >= m && i - m < R && j >= k && j - k < C) sum[i - m][j - k] += weight[3 * m + k] * value;
        }
      }
    }
    const vec bias = load_lanes(tile.bias + lane * tile.bias_step);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        store_lanes(out + lane + r * tile.out_row + c * tile.out_column, sum[r][c] + bias);
  }
}

template <class T>
struct TurnedSquares {
  using Square = void (*)(const TurnedTile<T>&, const Turns&, int64_t at, T* out);
  Square of[TILE_ROWS + 1][TILE_COLUMNS + 1][2];  // by rows, columns, and whether at an edge
};

template <class T, int R = TILE_ROWS, int C = TILE_COLUMNS>
constexpr void fill_squares(TurnedSquares<T>& tiles) {
  tiles.of[R][C][0] = turn_square<T, R, C, false>;
  tiles.of[R][C][1] = turn_square<T, R, C, true>;
  if constexpr (C > 1) {
    fill_squares<T, R, C - 1>(tiles);
  } else if constexpr (R > 1) {
    fill_squares<T, R - 1, TILE_COLUMNS>(tiles);
  }
}

template <class T>
constexpr TurnedSquares<T> turned_squares() {
  TurnedSquares<T> tiles{};
  if constexpr (HAS_TILES) fill_squares(tiles);
  return tiles;
}

template <class T>
constexpr TurnedSquares<T> TURNED_SQUARES = turned_squares<T>();

}  // namespace
}  // namespace omniconv
