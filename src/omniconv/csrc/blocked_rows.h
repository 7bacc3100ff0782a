// SPDX-License-Identifier: Apache-2.0
// One row of positions, each a vector over V channels: the products of a convolution, and those of its weight gradient.
//
// Every factor is read from the L1 cache as the memory operand of a multiply-add. A core that loads two vectors a cycle
// keeps its two multipliers at 90 % that way whatever the kernel size, stride and dilation, so there is one loop for
// all of them; taps that meet only padding are left out by the caller, who lists the rows.
#pragma once

#include "simd.h"

namespace omniconv {
namespace {

// A row of inputs and the weights of its taps: taps * V floats.
struct TapRow {
  const float* input;
  const float* weights;
};

// How a tile of outputs is summed; distances in floats.
struct Walk {
  const TapRow* rows;
  int64_t count;
  int64_t taps;
  int64_t column, step, hop;  // between inputs side by side, those of two outputs, and those of two taps
  int64_t out_step;           // between two outputs
  // The same for several blocks of channels, V apart but for the last, which begins at last_lane.
  int64_t blocks, last_lane, weights_step;
  const float* bias;
  int64_t bias_step;  // 0 where all blocks have the same

  int64_t lane(int64_t block) const { return block + 1 < blocks ? block * V : last_lane; }
  bool slides() const { return hop == column || hop == -column; }
};

// at, weights_at: of the tile's first output, added to every row.
template <int T, int STEP>
OMNICONV_INLINE void gather_tile(const Walk& walk, int64_t at, int64_t weights_at, float* out) {
  const int64_t step = STEP ? STEP : walk.step;
  for (int64_t block = 0; block < walk.blocks; ++block) {
    const int64_t lane = walk.lane(block);
    vec sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = load(walk.bias + lane * walk.bias_step);
    for (int64_t row = 0; row < walk.count; ++row) {
      const float* input = walk.rows[row].input + at + lane;
      const float* weights = walk.rows[row].weights + weights_at + block * walk.weights_step;
      for (int64_t tap = 0; tap < walk.taps; ++tap, input += walk.hop, weights += V) {
        const vec weight = load(weights);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sum[t] += weight * load(input + t * step);
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + lane + t * walk.out_step, sum[t]);
  }
}

// One output alone, as at the edge of an image: three sums by turns of rows, or it would wait for its own last one.
OMNICONV_INLINE void gather_one(const Walk& walk, int64_t at, int64_t weights_at, float* out) {
  constexpr int TURNS = 3;
  for (int64_t block = 0; block < walk.blocks; ++block) {
    const int64_t lane = walk.lane(block);
    vec sum[TURNS] = {load(walk.bias + lane * walk.bias_step)};
    int64_t row = 0;
    const auto add = [&](int turn) {
      const float* input = walk.rows[row + turn].input + at + lane;
      const float* weights = walk.rows[row + turn].weights + weights_at + block * walk.weights_step;
      for (int64_t tap = 0; tap < walk.taps; ++tap) sum[turn] += load(weights + tap * V) * load(input + tap * walk.hop);
    };
    for (; row + TURNS <= walk.count; row += TURNS) {
#pragma GCC unroll 3
      for (int turn = 0; turn < TURNS; ++turn) add(turn);
    }
    for (; row < walk.count; ++row) add(0);
    store(out + lane, sum[0] + sum[1] + sum[2]);
  }
}

// The same for taps side by side (or, flipped, from the last to the first), TAPS at a time, with each input loaded once for
// all of these that it meets, and their weights in registers. What is left of a row is summed tap by tap.
template <int T, int TAPS, int STRIDE>
OMNICONV_INLINE void slide_tile(const Walk& walk, int64_t at, int64_t weights_at, float* out) {
  const bool flipped = walk.hop < 0;
  const int64_t column = walk.column, tap_step = flipped ? -V : V;
  const int64_t turn = flipped ? TAPS - 1 : 0;
  for (int64_t block = 0; block < walk.blocks; ++block) {
    const int64_t lane = walk.lane(block);
    vec sum[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sum[t] = load(walk.bias + lane * walk.bias_step);
    for (int64_t row = 0; row < walk.count; ++row) {
      const float* input = walk.rows[row].input + at + lane;
      const float* weights = walk.rows[row].weights + weights_at + block * walk.weights_step;
      int64_t done = 0;
      for (; done + TAPS <= walk.taps; done += TAPS) {
        const float* from = input + (done + turn) * walk.hop;
        vec weight[TAPS];
#pragma GCC unroll 8
        for (int tap = 0; tap < TAPS; ++tap) weight[tap] = load(weights + (done + turn) * V + tap * tap_step);
#pragma GCC unroll 40
        for (int j = 0; j < STRIDE * (T - 1) + TAPS; ++j, from += column) {
          vec value = load(from);
          keep(value);
#pragma GCC unroll 8
          for (int tap = 0; tap < TAPS; ++tap) {
            const int t = (j - tap) / STRIDE;
            if (j >= tap && (j - tap) % STRIDE == 0 && t < T) sum[t] += weight[tap] * value;
          }
        }
      }
      for (; done < walk.taps; ++done) {
        const float* from = input + done * walk.hop;
        const vec weight = load(weights + done * V);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t, from += STRIDE * column) sum[t] += weight * load(from);
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + lane + t * walk.out_step, sum[t]);
  }
}

// A function for tiles of every size up to MAX_TILE.
using TileSum = void (*)(const Walk&, int64_t at, int64_t weights_at, float* out);
struct TileSums {
  TileSum of[MAX_TILE + 1];
};

template <int T, int STEP>
void gather(const Walk& walk, int64_t at, int64_t weights_at, float* out) {
  gather_tile<T, STEP>(walk, at, weights_at, out);
}

template <int T, int TAPS, int STRIDE>
void slide(const Walk& walk, int64_t at, int64_t weights_at, float* out) {
  slide_tile<T, TAPS, STRIDE>(walk, at, weights_at, out);
}

template <int STEP, int T = MAX_TILE>
constexpr void fill_gather(TileSums& tiles) {
  tiles.of[T] = gather<T, STEP>;
  if constexpr (T > 1) fill_gather<STEP, T - 1>(tiles);
}

template <int TAPS, int STRIDE, int T = MAX_TILE>
constexpr void fill_slide(TileSums& tiles) {
  tiles.of[T] = slide<T, TAPS, STRIDE>;
  if constexpr (T > 1) fill_slide<TAPS, STRIDE, T - 1>(tiles);
}

template <int STEP>
constexpr TileSums gathering() {
  TileSums tiles{};
  fill_gather<STEP>(tiles);
  return tiles;
}

template <int TAPS, int STRIDE>
constexpr TileSums sliding() {
  TileSums tiles{};
  fill_slide<TAPS, STRIDE>(tiles);
  return tiles;
}

constexpr TileSums GATHER_PACKED = gathering<V>(), GATHER_ANY = gathering<0>();
constexpr TileSums SLIDE[] = {sliding<2, 1>(), sliding<3, 1>(), sliding<4, 1>(), sliding<5, 1>(),
                           sliding<7, 1>(), sliding<3, 2>(), sliding<5, 2>(), sliding<7, 2>()};

// The tiles for one way to walk.
inline const TileSums& tiles_for(const Walk& walk) {
  const int64_t taps = walk.taps;
  const int stride = !walk.slides() ? 0 : walk.step == walk.column ? 1 : walk.step == 2 * walk.column ? 2 : 0;
  if (stride == 1 && taps >= 2) return SLIDE[taps >= 7 ? 4 : taps >= 5 ? 3 : taps - 2];
  if (stride == 2 && taps >= 3) return SLIDE[taps >= 7 ? 7 : taps >= 5 ? 6 : 5];
  return walk.step == V ? GATHER_PACKED : GATHER_ANY;
}

// out[t] = bias + Σ over rows and taps of weight · input[t * step + tap * hop], for t < outputs.
inline void gather_row(const Walk& walk, const TileSums& tiles, int64_t at, float* out, int64_t outputs) {
  if (outputs <= 0) return;
  // TileSums of nearly equal size: a rest of one or two outputs would wait for its own sums.
  const uint32_t count = uint32_t(outputs + MAX_TILE - 1) / MAX_TILE, size = uint32_t(outputs) / count;
  const uint32_t larger = uint32_t(outputs) - size * count;
  int64_t done = 0;
  for (uint32_t tile = 0; tile < count; ++tile) {
    const int64_t own = size + (tile < larger);
    tiles.of[own](walk, at + done * walk.step, 0, out + done * walk.out_step);
    done += own;
  }
}

// A multiplier finishes a sum after four cycles: fewer than eight sums at a time leave it waiting, so short kernels keep
// several sums for each tap, over every U-th position, and add them at the end.
template <int ROWS, int TAPS, int U>
OMNICONV_INLINE void correlate_taps(float* const* sums, const float* narrow, int64_t narrow_step,
                                    const float* const* wide, int64_t wide_step, int64_t hop, int64_t count) {
  vec sum[U][ROWS][TAPS];
#pragma GCC unroll 16
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 16
      for (int tap = 0; tap < TAPS; ++tap) sum[u][row][tap] = u ? vec{} : load(sums[row] + tap * V);
  int64_t p = 0;
  for (; p + U <= count; p += U) {
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) {
      const vec factor = load(narrow + (p + u) * narrow_step);
#pragma GCC unroll 16
      for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 16
        for (int tap = 0; tap < TAPS; ++tap)
          sum[u][row][tap] += factor * load(wide[row] + (p + u) * wide_step + tap * hop);
    }
  }
  for (; p < count; ++p) {
    const vec factor = load(narrow + p * narrow_step);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 16
      for (int tap = 0; tap < TAPS; ++tap) sum[0][row][tap] += factor * load(wide[row] + p * wide_step + tap * hop);
  }
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 16
    for (int tap = 0; tap < TAPS; ++tap) {
      vec whole = sum[0][row][tap];
#pragma GCC unroll 16
      for (int u = 1; u < U; ++u) whole += sum[u][row][tap];
      store(sums[row] + tap * V, whole);
    }
}

template <int TAPS>
OMNICONV_INLINE void correlate_one(float* sums, const float* narrow, int64_t narrow_step, const float* wide,
                                   int64_t wide_step, int64_t hop, int64_t count) {
  constexpr int U = TAPS >= 5 ? (V == 16 ? 2 : 1) : TAPS >= 3 ? (V == 16 ? 4 : 2) : TAPS == 2 ? 4 : 8;
  if (hop == V && wide_step == V) {
    correlate_taps<1, TAPS, U>(&sums, narrow, narrow_step, &wide, V, V, count);
  } else {
    correlate_taps<1, TAPS, U>(&sums, narrow, narrow_step, &wide, wide_step, hop, count);
  }
}

constexpr int MOST_TAPS = 8;

template <int TAPS = MOST_TAPS>
OMNICONV_INLINE void correlate_up_to(int64_t taps, float* sums, const float* narrow, int64_t narrow_step,
                                     const float* wide, int64_t wide_step, int64_t hop, int64_t count) {
  if constexpr (TAPS > 1) {
    if (taps < TAPS) return correlate_up_to<TAPS - 1>(taps, sums, narrow, narrow_step, wide, wide_step, hop, count);
  }
  correlate_one<TAPS>(sums, narrow, narrow_step, wide, wide_step, hop, count);
}

// sums[row][tap] += Σ over p < count of narrow[p] · wide[row][p * wide_step + tap * hop].
void correlate_rows(float* const* sums, const float* narrow, int64_t narrow_step, const float* const* wide,
                    int64_t rows, int64_t taps, int64_t wide_step, int64_t hop, int64_t count) {
  int64_t row = 0;
  if (taps == 3) {
    for (; row + 3 <= rows; row += 3) {
      if (hop == V && wide_step == V) {
        correlate_taps<3, 3, 1>(sums + row, narrow, narrow_step, wide + row, V, V, count);
      } else {
        correlate_taps<3, 3, 1>(sums + row, narrow, narrow_step, wide + row, wide_step, hop, count);
      }
    }
  }
  for (; row < rows; ++row) {
    for (int64_t tap = 0; tap < taps; tap += MOST_TAPS) {
      const int64_t some = taps - tap < MOST_TAPS ? taps - tap : MOST_TAPS;
      correlate_up_to(some, sums[row] + tap * V, narrow, narrow_step, wide[row] + tap * hop, wide_step, hop, count);
    }
  }
}

}  // namespace
}  // namespace omniconv
