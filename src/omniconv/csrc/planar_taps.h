// SPDX-License-Identifier: Apache-2.0
// Products of rows of inputs with rows of gradients, position by position: the sums of a block of taps.
//
// A block has TY × XB taps: an input that is loaded at the place of one of XB taps meets TY gradients, which stand in
// registers. The gradients of neighbouring taps are rows apart, or columns where there is one row of taps, or channels.
#pragma once

#include "planar_pack.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int MOST_TALL = V == 16 ? 8 : 3, MOST_BROAD = 8;

// Sums in registers, beside the gradients of a position and one input.
constexpr bool fits(int64_t tall, int64_t broad) { return tall * broad + tall + 1 <= (MAX_TILE > 10 ? 32 : 16); }

// Of the lanes of a sum, so many are kept: added up that far in registers, kernels of many channels have sums that stay
// in the caches.
constexpr int KEPT = 4;
typedef float kept __attribute__((vector_size(KEPT * 4)));

OMNICONV_INLINE kept fold(vec value) {
  kept parts[V / KEPT];
  std::memcpy(parts, &value, sizeof value);
#pragma GCC unroll 4
  for (int part = 1; part < V / KEPT; ++part) parts[0] += parts[part];
  return parts[0];
}

OMNICONV_INLINE void add_folded(float* to, vec value) {
  kept sum;
  std::memcpy(&sum, to, sizeof sum);
  sum += fold(value);
  std::memcpy(to, &sum, sizeof sum);
}

// Rows of inputs and gradients that meet, one after the other.
struct Run {
  const float* wide;
  const float* narrow;
  int64_t rows;
};

struct Strides {
  int64_t wide, narrow;  // floats between rows of a run
  int64_t tall;          // between the gradients of neighbouring taps, backwards
  int64_t vectors;       // of a row
  const int64_t* offsets;
  int64_t sums;          // between the sums of neighbouring taps that meet one input
};

// sums[t * strides.sums + k * KEPT] += Σ over rows and positions of wide[offsets[k]] · narrow[-t * tall].
template <int TY, int XB, bool NEAR>
__attribute__((noinline)) void correlate(const Run* runs, int64_t count, const Strides& strides, float* sums) {
  vec sum[TY][XB] = {};
  int64_t offsets[XB];
#pragma GCC unroll 8
  for (int k = 0; k < XB; ++k) offsets[k] = NEAR ? k : strides.offsets[k];
  const int64_t end = strides.vectors * V, tall = strides.tall, apart = strides.sums;
  for (const Run* run = runs; run < runs + count; ++run) {
    const float* wide = run->wide + (NEAR ? strides.offsets[0] : 0);
    const float* narrow = run->narrow;
    for (int64_t row = 0; row < run->rows; ++row, wide += strides.wide, narrow += strides.narrow) {
      for (int64_t p = 0; p < end; p += V) {
        vec factor[TY];
        const float* from = narrow + p;
#pragma GCC unroll 8
        for (int t = 0; t < TY; ++t, from -= tall) factor[t] = held(load(from));
#pragma GCC unroll 8
        for (int k = 0; k < XB; ++k) {
          const vec loaded = TY > 1 ? held(load(wide + p + offsets[k])) : load(wide + p + offsets[k]);
#pragma GCC unroll 8
          for (int t = 0; t < TY; ++t) sum[t][k] += factor[t] * loaded;
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < TY; ++t)
#pragma GCC unroll 8
    for (int k = 0; k < XB; ++k) add_folded(sums + t * apart + k * KEPT, sum[t][k]);
}

using Correlate = void (*)(const Run* runs, int64_t count, const Strides& strides, float* sums);

template <bool NEAR, int TY, int XB = MOST_BROAD>
inline Correlate correlate_broad(int64_t broad) {
  if constexpr (XB > 1) {
    if (!fits(TY, XB) || broad < XB) return correlate_broad<NEAR, TY, XB - 1>(broad);
  }
  return correlate<TY, (fits(TY, XB) ? XB : 1), NEAR>;
}

template <bool NEAR, int TY = MOST_TALL>
inline Correlate correlate_of(int64_t tall, int64_t broad) {
  if constexpr (TY > 1) {
    if (tall < TY) return correlate_of<NEAR, TY - 1>(tall, broad);
  }
  return correlate_broad<NEAR, TY>(broad);
}

// How `tall` × `broad` taps are cut into blocks of nearly equal sizes, so that a position costs the fewest cycles: half
// a cycle for a multiply-add, and what measurement adds for the loads of inputs, which are at odd places, and of
// gradients. No block is faster than its sums can follow each other. `fixed`: cycles that a block costs once, spread
// over its positions.
struct Blocks {
  int64_t tall, broad;
  float cycles;
};

inline Blocks blocks_of(int64_t tall, int64_t broad, float fixed) {
  Blocks best{1, 1, 1e30f};
  for (int64_t ty = 1; ty <= least(tall, MOST_TALL); ++ty) {
    for (int64_t xb = 1; xb <= least(broad, MOST_BROAD) && fits(ty, xb); ++xb) {
      const int64_t tiers = ceil_div(tall, ty), blocks = ceil_div(broad, xb);
      const float height = float(tall) / float(tiers), width = float(broad) / float(blocks);
      const float sums = height * width * 0.5f + width * 0.45f + height * 0.2f, loads = width * 1.3f + height * 0.5f;
      const float once = sums > loads ? sums : loads;
      const float cycles = ((once > 4 ? once : 4) + fixed) * float(tiers * blocks);
      if (cycles < best.cycles) best = {ty, xb, cycles};
    }
  }
  return best;
}

// The same along one row of taps, where gradients are at odd places too. Only `dense` taps share inputs.
inline Blocks blocks_of_columns(int64_t taps, bool dense) {
  Blocks best{1, 1, 1e30f};
  for (int64_t ty = 1; ty <= (dense ? least(taps, MOST_TALL) : 1); ++ty) {
    for (int64_t xb = 1; xb <= MOST_BROAD && fits(ty, xb); ++xb) {
      const float sums = ty * xb * 0.5f, loads = (xb + (ty > 1 ? ty : 0)) * 1.3f;
      const float once = sums > loads ? sums : loads;
      const float cycles = (once > 4 ? once : 4) * float(ceil_div(taps, ty * xb));
      if (cycles < best.cycles) best = {ty, xb, cycles};
    }
  }
  return best;
}

// totals[i] = the kept lanes of sum i added, for `count` sums up to a multiple of V.
__attribute__((noinline)) void add_lanes(float* totals, const float* sums, int64_t count) {
  ivec low[2], high[2], order;
  for (int lane = 0; lane < V; ++lane) {
    for (int bit = 0; bit < 2; ++bit) {
      const int step = 1 << bit;
      low[bit][lane] = lane & step ? lane - step + V : lane;
      high[bit][lane] = lane & step ? lane + V : lane + step;
    }
    order[lane] = lane / (V / KEPT) + KEPT * (lane % (V / KEPT));
  }
  for (int64_t i = 0; i < count; i += V) {
    vec rows[KEPT];
#pragma GCC unroll 4
    for (int j = 0; j < KEPT; ++j) rows[j] = load(sums + i * KEPT + j * V);
    // Lane l of the sum of two vectors `step` apart holds two lanes of the one or of the other, as bit `step` of l
    // says.
#pragma GCC unroll 2
    for (int bit = 0; bit < 2; ++bit)
#pragma GCC unroll 4
      for (int j = 0; j < KEPT; j += 2 << bit) {
        const vec other = rows[j + (1 << bit)];
        rows[j] = __builtin_shuffle(rows[j], other, low[bit]) + __builtin_shuffle(rows[j], other, high[bit]);
      }
    store(totals + i, __builtin_shuffle(rows[0], order));
  }
}

}  // namespace planar
}  // namespace
}  // namespace omniconv
