// SPDX-License-Identifier: Apache-2.0
// Between tensors and blocks: a block holds V channels of a row of positions, position by position, in float32.
#pragma once

#include "geometry.h"
#include "simd.h"

namespace omniconv {
namespace {

// Which channel of a tensor each lane of a block holds. Lanes from `count` on hold zeros.
struct Lanes {
  int64_t count;
  int64_t lowest, span;  // all channels lie in lowest … lowest + span - 1
  int64_t channel[V];
  bool dense;  // lane l holds channel lowest + l

  // Lane l of the block that begins at `first` of all lanes: channel (first + l) / share * times + extra + l % turns,
  // a power of two.
  static Lanes of(int64_t first, int64_t all, int64_t share, int64_t times, int64_t extra, int64_t turns = 1) {
    Lanes lanes;
    lanes.count = all - first < V ? all - first : V;
    lanes.dense = true;
    const bool straight = share == 1 && times == 1;  // divisions cost more than the rest
    for (int64_t lane = 0; lane < V; ++lane) {
      const int64_t held = lane < lanes.count ? lane : 0;
      lanes.channel[lane] = (straight ? first + held : (first + held) / share * times) + extra + (held & (turns - 1));
      if (lanes.channel[lane] != lanes.channel[0] + held) lanes.dense = false;
    }
    lanes.lowest = lanes.channel[0];
    lanes.span = lanes.channel[lanes.count - 1] - lanes.lowest + 1;
    return lanes;
  }
};

// Channels that lie within two vectors of each other, side by side in memory, are loaded at once and shuffled.
template <class T>
OMNICONV_INLINE void pack_shuffled(float* block, const T* from, int64_t step, int64_t count, const Lanes& lanes) {
  ivec index;
  for (int lane = 0; lane < V; ++lane) index[lane] = int32_t(lanes.channel[lane] - lanes.lowest);
  from += lanes.lowest;
  if (lanes.span == V) {
    for (int64_t p = 0; p < count; ++p) store(block + p * V, __builtin_shuffle(load(from + p * step), index));
  } else if (lanes.span < V) {
    for (int64_t p = 0; p < count; ++p)
      store(block + p * V, __builtin_shuffle(load_first(from + p * step, lanes.span), index));
  } else {
    const int64_t rest = lanes.span - V;
    for (int64_t p = 0; p < count; ++p) {
      const T* at = from + p * step;
      const vec high = rest == V ? load(at + V) : load_first(at + V, rest);
      store(block + p * V, __builtin_shuffle(load(at), high, index));
    }
  }
  for (int64_t lane = lanes.count; lane < V; ++lane)
    for (int64_t p = 0; p < count; ++p) block[p * V + lane] = 0;
}

// block[p * pitch + lane] = from[at[lane] + p], zeros in lanes from `lanes` on: V positions of V lanes are loaded and
// transposed.
template <class U, class T>
OMNICONV_INLINE void pack_transposed(U* block, const T* from, const int64_t (&at)[V], int64_t count, int64_t lanes,
                                     int64_t pitch = V) {
  for (int64_t p = 0; p < count; p += V) {
    const int64_t some = count - p < V ? count - p : V;
    vec rows[V];
#pragma GCC unroll 16
    for (int lane = 0; lane < V; ++lane)
      rows[lane] = lane >= lanes ? vec{} : load_count(from + at[lane] + p, some);
    transpose(rows);
    if (some == V) {
#pragma GCC unroll 16
      for (int i = 0; i < V; ++i) store_lanes(block + (p + i) * pitch, rows[i]);
    } else {
      for (int64_t i = 0; i < some; ++i) store_lanes(block + (p + i) * pitch, rows[i]);
    }
  }
}

// block[p * V + lane] = from[lane's channel * channel + p * step], for p < count.
template <class T>
void pack_row(float* block, const T* from, int64_t channel, int64_t step, int64_t count, const Lanes& lanes) {
  if (channel == 1 && lanes.dense && lanes.count == V) {
    from += lanes.lowest;
    for (int64_t p = 0; p < count; ++p) store(block + p * V, load(from + p * step));
  } else if (channel == 1 && lanes.dense) {
    from += lanes.lowest;
    for (int64_t p = 0; p < count; ++p) store(block + p * V, load_first(from + p * step, lanes.count));
  } else if (channel == 1 && lanes.span <= 2 * V) {
    pack_shuffled(block, from, step, count, lanes);
  } else if (step == 1) {
    int64_t at[V];
    for (int lane = 0; lane < V; ++lane) at[lane] = lanes.channel[lane] * channel;
    pack_transposed(block, from, at, count, lanes.count);
  } else {
    for (int64_t p = 0; p < count; ++p)
      for (int64_t lane = 0; lane < V; ++lane)
        block[p * V + lane] = lane < lanes.count ? widen(from[lanes.channel[lane] * channel + p * step]) : 0;
  }
}

// Several blocks of V channels side by side at once, so that a position is read from end to end: block number b, of the
// channels from first[b] on, goes to block + b * apart.
template <int BLOCKS, class T>
void pack_blocks(float* block, int64_t apart, const T* from, int64_t step, int64_t count, const int64_t* first,
                 int64_t blocks) {
  if constexpr (BLOCKS > 1) {
    if (blocks < BLOCKS) return pack_blocks<BLOCKS - 1>(block, apart, from, step, count, first, blocks);
  }
  // Unrolled, so that each load has a stride of its own for the processor to see.
  for (int64_t p = 0; p < count; ++p)
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) store(block + b * apart + p * V, load(from + p * step + first[b]));
}

// to[at[lane] + p] = block[p * pitch + lane], for p < count and lane < lanes.
template <class T>
OMNICONV_INLINE void unpack_transposed(T* to, const int64_t (&at)[V], const float* block, int64_t count, int64_t lanes,
                                       int64_t pitch = V) {
  for (int64_t p = 0; p < count; p += V) {
    const int64_t some = count - p < V ? count - p : V;
    vec rows[V];
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i) rows[i] = load(block + (p + (i < some ? i : 0)) * pitch);
    transpose(rows);
#pragma GCC unroll 16
    for (int lane = 0; lane < V; ++lane) {
      if (lane >= lanes) break;
      store_count(to + at[lane] + p, rows[lane], some);
    }
  }
}

// The way back, for `lanes` channels that lie side by side: to[lane * channel + p * step] = block[p * V + lane].
template <class T>
void unpack_row(T* to, int64_t channel, int64_t step, const float* block, int64_t count, int64_t lanes) {
  if (channel == 1 && lanes == V) {
    for (int64_t p = 0; p < count; ++p) store(to + p * step, load(block + p * V));
  } else if (channel == 1) {
    for (int64_t p = 0; p < count; ++p) store_first(to + p * step, load(block + p * V), lanes);
  } else if (step == 1) {
    int64_t at[V];
    for (int lane = 0; lane < V; ++lane) at[lane] = lane * channel;
    unpack_transposed(to, at, block, count, lanes);
  } else {
    for (int64_t p = 0; p < count; ++p)
      for (int64_t lane = 0; lane < lanes; ++lane) narrow(to + lane * channel + p * step, block[p * V + lane]);
  }
}

}  // namespace
}  // namespace omniconv
