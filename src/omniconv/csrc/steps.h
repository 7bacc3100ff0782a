// SPDX-License-Identifier: Apache-2.0
// Which taps an output meets, and where: the arithmetic of strides and dilations, one axis at a time.
#pragma once

#include "geometry.h"

namespace omniconv {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

inline int64_t power_of_two(int64_t least) {
  int64_t power = 1;
  while (power < least) power *= 2;
  return power;
}

inline int64_t common_divisor(int64_t a, int64_t b) {
  while (b) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// The taps that one output meets: tap first + step * j meets the input at + hop * j, for j < taps.
struct Steps {
  int64_t taps, first, step;
  int64_t at, hop;
};

// GATHER: outputs are narrow positions and inputs wide ones. SCATTER: the other way, as in the gradient of the input.
enum class Way { GATHER, SCATTER };

template <Way WAY>
inline int64_t outputs_of(const Axis& axis) {
  return WAY == Way::GATHER ? axis.narrow : axis.wide;
}

template <Way WAY>
inline int64_t inputs_of(const Axis& axis) {
  return WAY == Way::GATHER ? axis.wide : axis.narrow;
}

// Outputs that are so far apart meet the same taps, at inputs that are `input_step` apart.
template <Way WAY>
inline int64_t period_of(const Axis& axis) {
  return WAY == Way::GATHER ? 1 : axis.stride;
}

template <Way WAY>
inline int64_t input_step_of(const Axis& axis) {
  return WAY == Way::GATHER ? axis.stride : 1;
}

template <Way WAY>
inline Steps steps_of(const Axis& axis, int64_t output) {
  if (WAY == Way::GATHER) return {axis.taps, 0, 1, axis.stride * output - axis.before, axis.dilation};
  const int64_t shifted = output + axis.before;
  const int64_t step = axis.stride / common_divisor(axis.stride, axis.dilation);
  for (int64_t tap = 0; tap < least(step, axis.taps); ++tap) {
    const int64_t place = shifted - axis.dilation * tap;
    if (place % axis.stride == 0) {
      return {ceil_div(axis.taps - tap, step), tap, step, place / axis.stride, -(axis.dilation * step / axis.stride)};
    }
  }
  return {0, 0, 1, 0, 0};
}

// Calls each(depth, height, row of taps) for the rows of inputs, inside the tensor, that a row of outputs meets.
template <Way WAY, class Each>
inline __attribute__((always_inline)) void each_row_met(const Problem& problem, const int64_t (&place)[2],
                                                        const Each& each) {
  const Axis* axis = problem.axis;
  const Steps outer = steps_of<WAY>(axis[0], place[0]), inner = steps_of<WAY>(axis[1], place[1]);
  for (int64_t i = 0; i < outer.taps; ++i) {
    const int64_t depth = outer.at + outer.hop * i;
    if (depth < 0 || depth >= inputs_of<WAY>(axis[0])) continue;
    for (int64_t j = 0; j < inner.taps; ++j) {
      const int64_t height = inner.at + inner.hop * j;
      if (height < 0 || height >= inputs_of<WAY>(axis[1])) continue;
      each(depth, height, (outer.first + outer.step * i) * axis[1].taps + inner.first + inner.step * j);
    }
  }
}

// Positions that the taps of one output span.
inline int64_t span_of(const Axis& axis) { return axis.dilation * (axis.taps - 1) + 1; }

// More rows of inputs than one row of outputs can meet.
template <Way WAY>
inline int64_t window_of(const Axis& axis) {
  const int64_t reach = WAY == Way::GATHER ? span_of(axis) : (span_of(axis) - 1) / axis.stride + 1;
  return least(reach, inputs_of<WAY>(axis));
}

}  // namespace
}  // namespace omniconv
