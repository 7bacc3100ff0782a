// SPDX-License-Identifier: Apache-2.0
// The sources of a tile packed in float32, zeros where there is padding: for each channel place by place, or for each
// place channel by channel, whichever way the tensor lies.
#pragma once

#include "blocked_pack.h"
#include "dynamic_plan.h"

namespace omniconv {
namespace {

OMNICONV_INLINE void clear(float* to, int64_t count) {
  each_vector(count, [&](int64_t i, int64_t some) { store_count(to + i, vec{}, some); });
}

// Into the second cache.
template <class T>
OMNICONV_INLINE void fetch(const T* from) {
  __builtin_prefetch(from, 0, 2);
}

// While channels are packed those behind them, which come next, are fetched: their places lie too far apart, or too few
// side by side, for the processor to see what follows.
template <class T, Way WAY>
struct DynamicPack {
  const View& from;
  const DynamicTile<WAY>& tile;

  // Calls each(packed place, count, offset in the tensor, distance) for stretches of sources along the last axis, and
  // empty(packed place, count) for those of padding, in the order of places.
  template <class Each, class Empty>
  void each_stretch(const Each& each, const Empty& empty) const {
    const auto& axis = tile.axis;
    const int64_t width = axis[2].packed(), length = axis[2].length, step = axis[2].step;
    for (int64_t z = 0, place = 0; z < axis[0].packed(); ++z)
      for (int64_t y = 0; y < axis[1].packed(); ++y) {
        const int64_t depth = axis[0].source_at(z), height = axis[1].source_at(y);
        if (depth < 0 || depth >= axis[0].sources() || height < 0 || height >= axis[1].sources()) {
          empty(place, width);
          place += width;
          continue;
        }
        const int64_t row = depth * from.axis[0] + height * from.axis[1];
        for (int64_t run = 0; run < axis[2].runs; ++run, place += length) {
          const int64_t first = axis[2].start + axis[2].hop * run, left = axis[2].sources() - first;
          const int64_t begin = first < 0 ? least(ceil_div(-first, step), length) : 0;
          const int64_t end = left > 0 ? most(least(ceil_div(left, step), length), begin) : begin;
          if (begin > 0) empty(place, begin);
          if (end > begin) each(place + begin, end - begin, row + (first + step * begin) * from.axis[2], step);
          if (end < length) empty(place + end, length - end);
        }
      }
  }

  const T* begin_of(int64_t channel) const {
    return static_cast<const T*>(from.data) + tile.sample * from.batch + channel * from.channel;
  }

  static void fetch_channels(const T* at, int64_t count) {
    for (int64_t c = 0; c < count; c += LINE / int64_t(sizeof(T))) fetch(at + c);
  }

  // to[channel * pitch + place] for some channels; up to V floats behind a channel are written too.
  void by_places(float* to, int64_t pitch, int64_t first, int64_t channels) const {
    if (from.channel == 1 && channels > 1 && from.axis[2] != 1) return by_places_turned(to, pitch, first, channels);
    for (int64_t c = 0; c < channels; ++c, to += pitch) {
      const T* row = begin_of(first + c);
      const int64_t ahead = channels * from.channel;
      each_stretch(
          [&](int64_t place, int64_t count, int64_t offset, int64_t step) {
            const T* source = row + offset;
            step *= from.axis[2];
            if (step == 1) {
              each_vector(count, [&](int64_t p, int64_t some) {
                fetch(source + p + ahead);
                store(to + place + p, load_count(source + p, some));
              });
            } else {
              for (int64_t p = 0; p < count; ++p) to[place + p] = widen(source[p * step]);
            }
          },
          [&](int64_t place, int64_t count) { clear(to + place, count); });
    }
  }

  void by_places_turned(float* to, int64_t pitch, int64_t first, int64_t channels) const {
    const T* begin = begin_of(first);
    each_stretch(
        [&](int64_t place, int64_t count, int64_t offset, int64_t step) {
          step *= from.axis[2];
          int64_t lanes[V];
          for (int64_t lane = 0; lane < V; ++lane) lanes[lane] = lane * step;
          each_vector(count, [&](int64_t p, int64_t some) {
            const T* source = begin + offset + p * step;
            for (int64_t lane = 0; lane < some; ++lane) fetch_channels(source + lanes[lane] + channels, channels);
            pack_transposed(to + place + p, source, lanes, channels, some, pitch);
          });
        },
        [&](int64_t place, int64_t count) {
          for (int64_t c = 0; c < channels; ++c) clear(to + c * pitch + place, count);
        });
  }

  // to[place * lanes + channel], zeros behind the channels up to `lanes`, whole vectors.
  void by_channels(float* to, int64_t lanes, int64_t first, int64_t channels) const {
    const T* begin = begin_of(first);
    each_stretch(
        [&](int64_t place, int64_t count, int64_t offset, int64_t step) {
          const T* source = begin + offset;
          float* own = to + place * lanes;
          step *= from.axis[2];
          if (from.channel == 1 && channels == V && lanes == V) {
            for (int64_t p = 0; p < count; ++p) {
              fetch(source + p * step + V);
              store(own + p * V, load(source + p * step));
            }
            return;
          }
          if (from.channel == 1) {
            for (int64_t p = 0; p < count; ++p, source += step, own += lanes)
              for (int64_t v = 0; v < lanes; v += V) {
                fetch(source + v + channels);
                store(own + v, load_count(source + v, least(channels - v, V)));
              }
            return;
          }
          for (int64_t v = 0; v < lanes; v += V) {
            const int64_t some = least(channels - v, V);
            if (step == 1) {
              int64_t at[V];
              for (int64_t lane = 0; lane < V; ++lane) at[lane] = (v + lane) * from.channel;
              for (int64_t lane = 0; lane < some; ++lane)
                for (int64_t p = 0; p < count; p += LINE / int64_t(sizeof(T)))
                  fetch(source + at[lane] + p + channels * from.channel);
              pack_transposed(own + v, source, at, count, some, lanes);
            } else {
              for (int64_t p = 0; p < count; ++p)
                for (int64_t lane = 0; lane < V; ++lane)
                  own[p * lanes + v + lane] = lane < some ? widen(source[p * step + (v + lane) * from.channel]) : 0;
            }
          }
        },
        [&](int64_t place, int64_t count) { clear(to + place * lanes, count * lanes); });
  }
};

}  // namespace
}  // namespace omniconv
