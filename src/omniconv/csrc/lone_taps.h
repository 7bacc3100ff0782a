// SPDX-License-Identifier: Apache-2.0
// The gradient of one tap alone.
//
// Planar kernels, which sum many taps at once, let zeros stand for gradients that are not there, and zero times infinity
// is not zero. A sum of theirs that is not finite is taken again here, over the positions that its tap meets.
#pragma once

#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {

template <class T>
struct LoneTaps {
  const Problem& problem;
  const View& wide;
  const View& narrow;

  // `sum` if it is finite, else what it should be: of the weight between two channels of a group, at a tap.
  float checked(float sum, int64_t group, int64_t output, int64_t input, int64_t tap) const {
    if (__builtin_isfinite(sum)) return sum;
    const Axis* axis = problem.axis;
    const int64_t taps[3] = {tap / axis[2].taps / axis[1].taps, tap / axis[2].taps % axis[1].taps, tap % axis[2].taps};
    const T* from = static_cast<const T*>(narrow.data) + (group * problem.narrow + output) * narrow.channel;
    const T* met = static_cast<const T*>(wide.data) + (group * problem.wide + input) * wide.channel;
    float own = 0;
    for (int64_t sample = 0; sample < problem.batch; ++sample, from += narrow.batch, met += wide.batch)
      add_axis<0>(own, from, met, taps);
    return own;
  }

  template <int AXIS>
  void add_axis(float& sum, const T* from, const T* met, const int64_t (&taps)[3]) const {
    if constexpr (AXIS == 3) {
      sum += widen(*from) * widen(*met);
    } else {
      const Axis& axis = problem.axis[AXIS];
      for (int64_t p = 0; p < axis.narrow; ++p) {
        const int64_t at = axis.stride * p + axis.dilation * taps[AXIS] - axis.before;
        if (at >= 0 && at < axis.wide)
          add_axis<AXIS + 1>(sum, from + p * narrow.axis[AXIS], met + at * wide.axis[AXIS], taps);
      }
    }
  }
};

}  // namespace
}  // namespace omniconv
