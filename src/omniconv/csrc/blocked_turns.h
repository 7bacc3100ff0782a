// SPDX-License-Identifier: Apache-2.0
// One row of positions whose lanes meet several channels by turns (blocked_channels.h): the products of a convolution,
// and those of its weight gradient.
#pragma once

#include "blocked_rows.h"

namespace omniconv {
namespace {

struct Turns {
  int64_t count;
  int64_t weights_step;  // in floats
  ivec from;             // the lane that a lane takes its sum from
};

// Adds the products of a row of packed inputs to the sums of a tile.
template <int T, int STEP>
OMNICONV_INLINE void add_row(vec (&sum)[T], const Walk& walk, const float* input, const float* weights) {
  const int64_t step = STEP ? STEP : walk.step;
  for (int64_t tap = 0; tap < walk.taps; ++tap, input += walk.hop, weights += V) {
    const vec weight = load(weights);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] += weight * load(input + t * step);
  }
}

// Adds the products of a row whose TAPS taps slide over packed inputs: each input is loaded once for all taps.
template <int T, int TAPS, int STRIDE>
OMNICONV_INLINE void add_packed(vec (&sum)[T], const float* input, const float* weights, int64_t tap_step) {
  // Or the compiler would keep a register, or what replaces one, for each of the distances that follow.
  asm("" : "+r"(input), "+r"(weights));
  vec weight[TAPS];
#pragma GCC unroll 8
  for (int tap = 0; tap < TAPS; ++tap) weight[tap] = load(weights + tap * tap_step);
#pragma GCC unroll 40
  for (int j = 0; j < STRIDE * (T - 1) + TAPS; ++j) {
    vec value = load(input + j * V);
    keep(value);
#pragma GCC unroll 8
    for (int tap = 0; tap < TAPS; ++tap) {
      const int t = (j - tap) / STRIDE;
      if (j >= tap && (j - tap) % STRIDE == 0 && t < T) sum[t] += weight[tap] * value;
    }
  }
}

// As sum_tile, for one block. TAPS: of a row, if they slide, or 0.
template <int T, int TAPS, int STRIDE>
void turn_tile(const Walk& walk, const Turns& turns, int64_t at, float* out) {
  vec sum[T] = {};
  const bool flipped = TAPS && walk.hop < 0;
  const int64_t tap_step = flipped ? -V : V, turned = flipped ? TAPS - 1 : 0;
  int64_t weights_at = turned * V;
  at += turned * walk.hop;
  for (int64_t turn = 0; turn < turns.count; ++turn, weights_at += turns.weights_step) {
    if (turn > 0) {
      const ivec from = turns.from;
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sum[t] = __builtin_shuffle(sum[t], from);
    }
    for (const TapRow *row = walk.rows, *end = row + walk.count; row < end; ++row) {
      const float *input = row->input + at, *weights = row->weights + weights_at;
      if constexpr (TAPS) {
        add_packed<T, TAPS, STRIDE>(sum, input, weights, tap_step);
      } else {
        add_row<T, STRIDE * V>(sum, walk, input, weights);
      }
    }
  }
  const vec bias = load(walk.bias);
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) store(out + t * walk.out_step, sum[t] + bias);
}

using TurnedSum = void (*)(const Walk&, const Turns&, int64_t at, float* out);
struct TurnedSums {
  TurnedSum of[MAX_TILE + 1];
};

template <int TAPS, int STRIDE, int T = MAX_TILE>
constexpr void fill_turned(TurnedSums& tiles) {
  tiles.of[T] = turn_tile<T, TAPS, STRIDE>;
  if constexpr (T > 1) fill_turned<TAPS, STRIDE, T - 1>(tiles);
}

template <int TAPS, int STRIDE>
constexpr TurnedSums turned() {
  TurnedSums tiles{};
  fill_turned<TAPS, STRIDE>(tiles);
  return tiles;
}

// By the taps of a row, where they slide.
constexpr TurnedSums TURNED[] = {turned<0, 1>(), turned<2, 1>(), turned<3, 1>(), turned<5, 1>()};
constexpr TurnedSums TURNED_STRIDED = turned<3, 2>(), TURNED_ANY = turned<0, 0>();

inline const TurnedSums& turned_for(const Walk& walk) {
  const int64_t taps = walk.slides() ? walk.taps : 0;
  if (walk.step == V) return TURNED[taps == 5 ? 3 : taps == 3 ? 2 : taps == 2 ? 1 : 0];
  return walk.step == 2 * V && taps == 3 ? TURNED_STRIDED : TURNED_ANY;
}

inline void turn_row(const Walk& walk, const Turns& turns, int64_t at, float* out, int64_t outputs) {
  const TurnedSums& tiles = turned_for(walk);
  each_tile(outputs, [&](int64_t own) {
    tiles.of[own](walk, turns, at, out);
    at += own * walk.step;
    out += own * walk.out_step;
  });
}

// As sum_tile: of inputs where they lie, at the edges of a row too.
template <int TILE, bool EDGE, int TAPS, int STRIDE>
void turn_where_it_lies(const Walk& walk, const Turns& turns, int64_t at, float* out) {
  for (int64_t block = 0; block < walk.blocks; ++block) {
    const int64_t lane = walk.lane(block);
    int64_t weights_at = block * walk.weights_step;
    vec sum[TILE] = {};
    for (int64_t turn = 0; turn < turns.count; ++turn, weights_at += turns.weights_step) {
      if (turn > 0) {
        const ivec from = turns.from;
#pragma GCC unroll 16
        for (int t = 0; t < TILE; ++t) sum[t] = __builtin_shuffle(sum[t], from);
      }
      add_rows<float, TILE, EDGE, TAPS, STRIDE>(sum, walk, lane, weights_at, at);
    }
    const vec bias = load(walk.bias + lane * walk.bias_step);
#pragma GCC unroll 16
    for (int t = 0; t < TILE; ++t) store(out + lane + t * walk.out_step, sum[t] + bias);
  }
}

struct LyingSums {
  TurnedSum inside[MAX_TILE + 1], edge[MAX_TILE + 1];
};

template <int TAPS, int STRIDE, int TILE = MAX_TILE>
constexpr void fill_lying(LyingSums& tiles) {
  tiles.inside[TILE] = turn_where_it_lies<TILE, false, TAPS, STRIDE>;
  tiles.edge[TILE] = turn_where_it_lies<TILE, true, TAPS, STRIDE>;
  if constexpr (TILE > 1) fill_lying<TAPS, STRIDE, TILE - 1>(tiles);
}

template <int TAPS, int STRIDE>
constexpr LyingSums lying() {
  LyingSums tiles{};
  fill_lying<TAPS, STRIDE>(tiles);
  return tiles;
}

constexpr LyingSums LYING_ANY = lying<0, 0>(), LYING_THREE = lying<3, 1>(), LYING_FIVE = lying<5, 1>(),
                    LYING_STRIDED = lying<3, 2>();

inline const LyingSums& lying_for(const Walk& walk) {
  if (!walk.slides() || walk.taps < 3) return LYING_ANY;
  if (walk.step == walk.column) return walk.taps % 5 == 0 || walk.taps > 6 ? LYING_FIVE : LYING_THREE;
  return walk.step == 2 * walk.column ? LYING_STRIDED : LYING_ANY;
}

inline void turn_lying_row(const Walk& walk, const Turns& turns, int64_t at, float* out, int64_t outputs) {
  const LyingSums& tiles = lying_for(walk);
  each_tile(outputs, [&](int64_t own) {
    (walk.inside(at, own) ? tiles.inside : tiles.edge)[own](walk, turns, at, out);
    at += own * walk.step;
    out += own * walk.out_step;
  });
}

// A row of the narrow tensor, and the packed rows of the wide one that it meets.
struct TurnedRow {
  float** sums;       // of the first turn; they move on
  int64_t turn_step;  // to those of the next
  const float* narrow;
  int64_t narrow_step;
  const float* const* wide;
  int64_t rows, taps, wide_step, hop, count;
};

// For TURNS turns at a time, so that each input is loaded once for them.
template <int ROWS, int TAPS, int TURNS, int STRIDE>
OMNICONV_INLINE void correlate_some(const TurnedRow& row, int64_t first_row, int64_t first_turn, const ivec* lanes) {
  const int64_t wide_step = STRIDE ? STRIDE * V : row.wide_step, hop = STRIDE ? V : row.hop;
  float* const* at = row.sums + first_row;
  vec sum[TURNS][ROWS][TAPS];
#pragma GCC unroll 8
  for (int turn = 0; turn < TURNS; ++turn)
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap)
        sum[turn][r][tap] = load(at[r] + (first_turn + turn) * row.turn_step + tap * V);
  ivec from[TURNS];
#pragma GCC unroll 8
  for (int turn = 0; turn < TURNS; ++turn) from[turn] = lanes[first_turn + turn];
  const float* narrow = row.narrow;
  const float* wide[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) wide[r] = row.wide[first_row + r];
  for (int64_t p = 0; p < row.count; ++p, narrow += row.narrow_step) {
    const vec factor = load(narrow);
    vec turned[TURNS];
#pragma GCC unroll 8
    for (int turn = 0; turn < TURNS; ++turn) turned[turn] = __builtin_shuffle(factor, from[turn]);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap) {
        vec value = load(wide[r] + tap * hop);
        keep(value);
#pragma GCC unroll 8
        for (int turn = 0; turn < TURNS; ++turn) sum[turn][r][tap] += turned[turn] * value;
      }
      wide[r] += wide_step;
    }
  }
#pragma GCC unroll 8
  for (int turn = 0; turn < TURNS; ++turn)
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap)
        store(at[r] + (first_turn + turn) * row.turn_step + tap * V, sum[turn][r][tap]);
}

template <int ROWS, int TURNS>
void correlate_three(const TurnedRow& row, int64_t first_row, int64_t turns, const ivec* lanes) {
  for (int64_t turn = 0; turn < turns; turn += TURNS) {
    if (row.hop == V && row.wide_step == V) {
      correlate_some<ROWS, 3, TURNS, 1>(row, first_row, turn, lanes);
    } else {
      correlate_some<ROWS, 3, TURNS, 0>(row, first_row, turn, lanes);
    }
  }
}

// sums[row][tap], turn by turn, += Σ over p < count of narrow[p], turned, · wide[row][p * wide_step + tap * hop].
// lanes: where each turn takes the lanes of the narrow tensor from. turned: room for a row.
void correlate_turns(const TurnedRow& row, int64_t turns, const ivec* lanes, float* turned) {
  constexpr int ROWS = V == 16 ? 3 : 1;
  int64_t done = 0;
  if (turns > 1 && row.taps == 3) {
    for (; done + ROWS <= row.rows; done += ROWS) correlate_three<ROWS, 2>(row, done, turns, lanes);
    for (; done < row.rows; ++done) correlate_three<1, 2>(row, done, turns, lanes);
    return;
  }
  correlate_rows(row.sums, row.narrow, row.narrow_step, row.wide, row.rows, row.taps, row.wide_step, row.hop,
                 row.count);
  for (int64_t turn = 1; turn < turns; ++turn) {
    for (int64_t p = 0; p < row.count; ++p)
      store(turned + p * V, __builtin_shuffle(load(row.narrow + p * row.narrow_step), lanes[turn]));
    for (int64_t i = 0; i < row.rows; ++i) row.sums[i] += row.turn_step;
    correlate_rows(row.sums, turned, V, row.wide, row.rows, row.taps, row.wide_step, row.hop, row.count);
  }
}

}  // namespace
}  // namespace omniconv
