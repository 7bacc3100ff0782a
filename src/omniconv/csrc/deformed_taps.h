// SPDX-License-Identifier: Apache-2.0
// Where the taps of a deformable convolution stand: between which positions of the input, and how near to each.
#pragma once

#include "kernels.h"
#include "products.h"

namespace omniconv {
namespace {

// Output positions that are taken together, and room for them in whole vectors.
constexpr int64_t POSITIONS = PRODUCT_ROWS * (56 / PRODUCT_ROWS);
constexpr int64_t LANES = (POSITIONS + V - 1) / V * V;

// `count` numbers of a plane, `step` apart, in float32; zeros behind them up to the next whole vector.
template <class U>
void read_numbers(float* to, const U* from, int64_t step, int64_t count) {
  for (int64_t i = 0; i < count; i += V) {
    const int64_t some = least(count - i, V);
    if (step == 1) {
      store(to + i, some == V ? load(from + i) : load_first(from + i, some));
    } else {
      for (int64_t lane = 0; lane < V; ++lane) to[i + lane] = lane < some ? widen(from[(i + lane) * step]) : 0;
    }
  }
}

// The positions begin … begin + count - 1 of one sample.
struct Stretch {
  int64_t sample, begin, count;
};

inline void read_plane(float* to, const Planes& planes, const Stretch& stretch, int64_t channel) {
  const int64_t at = stretch.sample * planes.batch + channel * planes.channel + stretch.begin * planes.position;
  if (planes.type == Type::float32) {
    read_numbers(to, static_cast<const float*>(planes.data) + at, planes.position, stretch.count);
  } else {
    read_numbers(to, static_cast<const bf16*>(planes.data) + at, planes.position, stretch.count);
  }
}

// For each of some taps and of a stretch's positions, along D axes: the lower neighbours, the fractions of the way to
// the higher ones, which of the 2^D corners are inside the input, the mask, and each corner's weight with it. Corner j
// is the higher neighbour along axis a where bit a of j is set.
//
// Along one axis a position below -1, or at the size or beyond, is outside, and both its neighbours with it.
template <int D>
struct DeformedTaps {
  static constexpr int CORNERS = 1 << D;
  static constexpr int FIELDS = 2 * D + 2 + CORNERS;

  float* memory;  // FIELDS × taps × LANES
  int64_t taps;

  float* field(int number, int64_t tap) const { return memory + (number * taps + tap) * LANES; }
  float* low(int axis, int64_t tap) const { return field(axis, tap); }  // integers
  float* fraction(int axis, int64_t tap) const { return field(D + axis, tap); }
  float* inside(int64_t tap) const { return field(2 * D, tap); }  // bits of corners
  float* mask(int64_t tap) const { return field(2 * D + 1, tap); }
  float* weight(int corner, int64_t tap) const { return field(2 * D + 2 + corner, tap); }

  static int64_t floats_for(int64_t taps) { return FIELDS * taps * LANES; }
};

// The taps first … first + taps.taps - 1 of one group of offsets.
template <int D>
void place_taps(const DeformedTaps<D>& taps, const Deformable& call, const Stretch& stretch, int64_t group,
                int64_t first) {
  constexpr int CORNERS = DeformedTaps<D>::CORNERS;
  const Axis* axes = call.problem.axis + (3 - D);
  // Where each output begins, along each axis.
  alignas(64) float begin[D][LANES], moved[D][LANES];
  for (int64_t i = 0; i < LANES; ++i) {
    int64_t place = stretch.begin + least(i, stretch.count - 1);
    for (int a = D - 1; a >= 0; --a) {
      begin[a][i] = float(axes[a].stride * (place % axes[a].narrow) - axes[a].before);
      place /= axes[a].narrow;
    }
  }
  const int64_t all = taps_of(call.problem);
  for (int64_t tap = 0; tap < taps.taps; ++tap) {
    const int64_t number = group * all + first + tap;
    for (int a = 0; a < D; ++a) read_plane(moved[a], call.offset, stretch, number * D + a);
    if (call.mask.data) read_plane(taps.mask(tap), call.mask, stretch, number);
    int64_t step[D], rest = first + tap;
    for (int a = D - 1; a >= 0; --a) {
      step[a] = axes[a].dilation * (rest % axes[a].taps);
      rest /= axes[a].taps;
    }
    for (int64_t i = 0; i < stretch.count; i += V) {
      vec side[D][2];
      ivec met[D][2];
      for (int a = 0; a < D; ++a) {
        const vec at = load(begin[a] + i) + float(step[a]) + load(moved[a] + i);
        const ivec size = ivec{} + int32_t(axes[a].wide), nan = at != at;
        const ivec away = (at < -1.f) | (at >= float(axes[a].wide));
        const vec near = choose(away | nan, vec{}, at);
        ivec low = __builtin_convertvector(near, ivec);
        low += floats(low) > near;
        const vec fraction = choose(nan, at, near - floats(low));
        low = (low & ~(away | nan)) | (-2 & (away | nan));
        met[a][0] = low >= 0;
        met[a][1] = (low >= -1) & (low < size - 1);
        side[a][0] = 1.f - fraction;
        side[a][1] = fraction;
        store(taps.low(a, tap) + i, (vec)low);
        store(taps.fraction(a, tap) + i, fraction);
      }
      const vec mask = call.mask.data ? load(taps.mask(tap) + i) : splat(1);
      if (!call.mask.data) store(taps.mask(tap) + i, mask);
      ivec inside = {};
      for (int corner = 0; corner < CORNERS; ++corner) {
        vec weight = mask;
        ivec all_met = ivec{} - 1;
        for (int a = 0; a < D; ++a) {
          weight *= side[a][corner >> a & 1];
          all_met &= met[a][corner >> a & 1];
        }
        inside |= all_met & (1 << corner);
        store(taps.weight(corner, tap) + i, weight);
      }
      store(taps.inside(tap) + i, (vec)inside);
    }
  }
}

// Positions whose channels lie side by side: channel c of position p of a sample at data + batch · sample + pitch · p
// + c - first.
template <class T>
struct Rows {
  T* data;
  int64_t batch, pitch, first;
};

// The rows of the corners around one tap of one position, from `channel` on; `outside` in place of one that is not
// there.
template <int D, class T>
OMNICONV_INLINE void corner_rows(T* (&rows)[1 << D], const DeformedTaps<D>& taps, int64_t tap, int64_t lane,
                                 const Axis* axes, const Rows<T>& from, int64_t sample, int64_t channel, T* outside) {
  int64_t place = 0, jump[1 << D] = {0};
#pragma GCC unroll 4
  for (int a = 0; a < D; ++a) {
    int32_t low;
    std::memcpy(&low, taps.low(a, tap) + lane, sizeof low);
    place = place * axes[a].wide + low;
    int64_t apart = from.pitch;
#pragma GCC unroll 4
    for (int inner = a + 1; inner < D; ++inner) apart *= axes[inner].wide;
#pragma GCC unroll 8
    for (int corner = 0; corner < 1 << D; ++corner)
      if (corner >> a & 1) jump[corner] += apart;
  }
  int32_t inside;
  std::memcpy(&inside, taps.inside(tap) + lane, sizeof inside);
  const int64_t at = sample * from.batch + place * from.pitch + channel - from.first;
#pragma GCC unroll 8
  for (int corner = 0; corner < 1 << D; ++corner)
    rows[corner] = inside >> corner & 1 ? from.data + at + jump[corner] : outside;
}

}  // namespace
}  // namespace omniconv
