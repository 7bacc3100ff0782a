// SPDX-License-Identifier: Apache-2.0
// One row of positions, each a vector over V channels: the products of a convolution, and those of its weight gradient.
//
// Taps side by side share the inputs that they slide over; other taps read theirs as the memory operand of a
// multiply-add, which a core that loads two vectors a cycle keeps up with. Rows that lie in padding are left out by the
// caller, who lists the rows, and columns that do by the tiles at the edge.
#pragma once

#include "simd.h"

namespace omniconv {
namespace {

// A row of inputs and the weights of its taps: taps * V floats.
template <class T>
struct TapRowOf {
  const T* input;
  const float* weights;
};
using TapRow = TapRowOf<float>;

// How a tile of outputs is summed; distances in elements.
template <class T>
struct WalkOf {
  const TapRowOf<T>* rows;
  int64_t count;
  int64_t taps;
  int64_t column, step, hop;  // between inputs side by side, those of two outputs, and those of two taps
  int64_t out_step;           // between two outputs
  // The same for several blocks of channels, V apart but for the last, which begins at last_lane.
  int64_t blocks, last_lane, weights_step;
  const T* bias;
  int64_t bias_step;                 // 0 where all blocks have the same
  uint64_t last = uint64_t(-1) / 2;  // inputs at 0 … last lie in the row; taps skip others

  int64_t lane(int64_t block) const { return block + 1 < blocks ? block * V : last_lane; }
  bool slides() const { return hop == column || hop == -column; }

  // Whether all taps of `outputs` outputs from the one at `at` on lie in the row.
  bool inside(int64_t at, int64_t outputs) const {
    const int64_t reach = hop * (taps - 1), end = at + step * (outputs - 1);
    return uint64_t(reach < 0 ? at + reach : at) <= last && uint64_t(reach < 0 ? end : end + reach) <= last;
  }
};
using Walk = WalkOf<float>;

// Adds the products of the rows to the sums of a tile. at: of its first output, added to every row, as weights_at is to
// the weights. EDGE: some taps lie outside the row.
template <class T, int TILE, bool EDGE, int STEP>
OMNICONV_INLINE void gather_rows(vec (&sum)[TILE], const WalkOf<T>& walk, int64_t lane, int64_t weights_at,
                                 int64_t at) {
  const int64_t step = STEP ? STEP : walk.step;
  for (int64_t row = 0; row < walk.count; ++row) {
    const T* input = walk.rows[row].input + at + lane;
    const float* weights = walk.rows[row].weights + weights_at;
    int64_t place = at;
    for (int64_t tap = 0; tap < walk.taps; ++tap, input += walk.hop, place += walk.hop, weights += V) {
      const vec weight = load(weights);
#pragma GCC unroll 16
      for (int t = 0; t < TILE; ++t)
        if (!EDGE || uint64_t(place + t * step) <= walk.last) sum[t] += weight * load_lanes(input + t * step);
    }
  }
}

// The same for taps side by side (or, flipped, from the last to the first), TAPS at a time, with each input loaded once
// for all of these that it meets, and their weights in registers. What is left of a row is summed tap by tap.
template <class T, int TILE, bool EDGE, int TAPS, int STRIDE>
OMNICONV_INLINE void slide_rows(vec (&sum)[TILE], const WalkOf<T>& walk, int64_t lane, int64_t weights_at,
                                int64_t at) {
  const bool flipped = walk.hop < 0;
  const int64_t column = walk.column, tap_step = flipped ? -V : V;
  const int64_t turn = flipped ? TAPS - 1 : 0;
  const uint64_t last = walk.last;
  for (int64_t row = 0; row < walk.count; ++row) {
    const T* input = walk.rows[row].input + lane;
    const float* weights = walk.rows[row].weights + weights_at;
    int64_t done = 0;
    for (; done + TAPS <= walk.taps; done += TAPS) {
      int64_t place = at + (done + turn) * walk.hop;
      vec weight[TAPS];
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap) weight[tap] = load(weights + (done + turn) * V + tap * tap_step);
#pragma GCC unroll 40
      for (int j = 0; j < STRIDE * (TILE - 1) + TAPS; ++j, place += column) {
        keep(place);
        if (EDGE && uint64_t(place) > last) continue;
        vec value = load_lanes(input + place);
        keep(value);
#pragma GCC unroll 8
        for (int tap = 0; tap < TAPS; ++tap) {
          const int t = (j - tap) / STRIDE;
          if (j >= tap && (j - tap) % STRIDE == 0 && t < TILE) sum[t] += weight[tap] * value;
        }
      }
    }
    for (; done < walk.taps; ++done) {
      int64_t place = at + done * walk.hop;
      const vec weight = load(weights + done * V);
#pragma GCC unroll 16
      for (int t = 0; t < TILE; ++t, place += STRIDE * column) {
        keep(place);
        if (!EDGE || uint64_t(place) <= last) sum[t] += weight * load_lanes(input + place);
      }
    }
  }
}

// TAPS: of those that slide together, or 0 where none do.
template <class T, int TILE, bool EDGE, int TAPS, int STRIDE>
OMNICONV_INLINE void add_rows(vec (&sum)[TILE], const WalkOf<T>& walk, int64_t lane, int64_t weights_at, int64_t at) {
  if constexpr (TAPS) {
    slide_rows<T, TILE, EDGE, TAPS, STRIDE>(sum, walk, lane, weights_at, at);
  } else {
    gather_rows<T, TILE, EDGE, STRIDE * V>(sum, walk, lane, weights_at, at);
  }
}

// The outputs of a tile, block by block of channels.
template <class T, int TILE, bool EDGE, int TAPS, int STRIDE>
void sum_tile(const WalkOf<T>& walk, int64_t at, T* out) {
  for (int64_t block = 0; block < walk.blocks; ++block) {
    const int64_t lane = walk.lane(block);
    vec sum[TILE];
#pragma GCC unroll 16
    for (int t = 0; t < TILE; ++t) sum[t] = load_lanes(walk.bias + lane * walk.bias_step);
    add_rows<T, TILE, EDGE, TAPS, STRIDE>(sum, walk, lane, block * walk.weights_step, at);
#pragma GCC unroll 16
    for (int t = 0; t < TILE; ++t) store_lanes(out + lane + t * walk.out_step, sum[t]);
  }
}

// A function for tiles of every size up to MAX_TILE, inside a row and at its edges.
template <class T>
struct TileSums {
  using Sum = void (*)(const WalkOf<T>&, int64_t at, T* out);
  Sum inside[MAX_TILE + 1], edge[MAX_TILE + 1];
};

template <class T, int TAPS, int STRIDE, int TILE = MAX_TILE>
constexpr void fill_sums(TileSums<T>& tiles) {
  tiles.inside[TILE] = sum_tile<T, TILE, false, TAPS, STRIDE>;
  tiles.edge[TILE] = sum_tile<T, TILE, true, TAPS, STRIDE>;
  if constexpr (TILE > 1) fill_sums<T, TAPS, STRIDE, TILE - 1>(tiles);
}

template <class T, int TAPS, int STRIDE>
constexpr TileSums<T> tile_sums() {
  TileSums<T> tiles{};
  fill_sums<T, TAPS, STRIDE>(tiles);
  return tiles;
}

template <class T>
constexpr TileSums<T> GATHER_PACKED = tile_sums<T, 0, 1>();
template <class T>
constexpr TileSums<T> GATHER_ANY = tile_sums<T, 0, 0>();
template <class T>
constexpr TileSums<T> SLIDE[] = {tile_sums<T, 2, 1>(), tile_sums<T, 3, 1>(), tile_sums<T, 4, 1>(), tile_sums<T, 5, 1>(),
                                 tile_sums<T, 7, 1>(), tile_sums<T, 3, 2>(), tile_sums<T, 5, 2>(),
                                 tile_sums<T, 7, 2>()};

// The tiles for one way to walk.
template <class T>
const TileSums<T>& tiles_for(const WalkOf<T>& walk) {
  const int64_t taps = walk.taps;
  const int stride = !walk.slides() ? 0 : walk.step == walk.column ? 1 : walk.step == 2 * walk.column ? 2 : 0;
  if (stride == 1 && taps >= 2) return SLIDE<T>[taps >= 7 ? 4 : taps >= 5 ? 3 : taps - 2];
  if (stride == 2 && taps >= 3) return SLIDE<T>[taps >= 7 ? 7 : taps >= 5 ? 6 : 5];
  return walk.step == V ? GATHER_PACKED<T> : GATHER_ANY<T>;
}

// Tiles of nearly equal size: a rest of one or two outputs would wait for its own sums.
template <class Each>
OMNICONV_INLINE void each_tile(int64_t outputs, const Each& each) {
  if (outputs <= 0) return;
  const uint32_t count = uint32_t(outputs + MAX_TILE - 1) / MAX_TILE, size = uint32_t(outputs) / count;
  const uint32_t larger = uint32_t(outputs) - size * count;
  for (uint32_t tile = 0; tile < count; ++tile) each(int64_t(size + (tile < larger)));
}

// out[t] = bias + Σ over rows and taps of weight · input[t * step + tap * hop], for t < outputs.
template <class T>
void gather_row(const WalkOf<T>& walk, const TileSums<T>& tiles, int64_t at, T* out, int64_t outputs) {
  each_tile(outputs, [&](int64_t own) {
    (walk.inside(at, own) ? tiles.inside : tiles.edge)[own](walk, at, out);
    at += own * walk.step;
    out += own * walk.out_step;
  });
}

// A multiplier finishes a sum after four cycles: fewer than eight sums at a time leave it waiting, so short kernels
// keep several sums for each tap, over every U-th position, and add them at the end.
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

constexpr int TAPS_IN_REGISTERS = 8;

template <int TAPS = TAPS_IN_REGISTERS>
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
    for (int64_t tap = 0; tap < taps; tap += TAPS_IN_REGISTERS) {
      const int64_t some = taps - tap < TAPS_IN_REGISTERS ? taps - tap : TAPS_IN_REGISTERS;
      correlate_up_to(some, sums[row] + tap * V, narrow, narrow_step, wide[row] + tap * hop, wide_step, hop, count);
    }
  }
}

}  // namespace
}  // namespace omniconv
