// SPDX-License-Identifier: Apache-2.0
// The way back through an activation: the gradient of what it was computed from, and its total over each channel, which
// is the gradient of a bias, in one pass.
#pragma once

#include "passes.h"

namespace omniconv {
namespace {

// Totals are added in the order of tasks, whoever computes them.
template <class T>
struct GradientPass : Passes {
  const ActivationGradient& call;

  explicit GradientPass(const ActivationGradient& of) : Passes(of.rows, of.length, of.by_rows), call(of) {}

  int64_t floats() const {
    if (!call.totals) return 0;
    return call.by_rows ? units * call.channels : call.rows * pieces;
  }

  void run(float* totals, const Host& host) const {
    each_unit(call.activation, host, [&](int64_t unit, int64_t first, int64_t end, auto activation) {
      if (call.by_rows) {
        pass_positions(first, end, call.totals ? totals + unit * call.channels : nullptr, activation);
      } else {
        for (int64_t row = first; row < end; ++row) pass_channel(row, unit % pieces, totals, activation);
      }
    });
    if (call.totals) add_up(totals);
  }

  template <class Function>
  OMNICONV_INLINE vec pass(int64_t at, int64_t some, Function) const {
    const T *grad = static_cast<const T*>(call.grad) + at, *kept = static_cast<const T*>(call.kept) + at;
    const vec found = Function::back(load_count(grad, some), load_count(kept, some));
    store_count(static_cast<T*>(call.to) + at, found, some);
    return found;
  }

  template <class Function>
  void pass_positions(int64_t first, int64_t end, float* totals, Function activation) const {
    if (totals) std::memset(totals, 0, sizeof(float) * call.channels);
    for (int64_t row = first; row < end; ++row)
      each_vector(call.length, [&](int64_t c, int64_t some) {
        const vec found = pass(row * call.length + c, some, activation);
        if (totals) store_count(totals + c, load_count(totals + c, some) + found, some);
      });
  }

  template <class Function>
  void pass_channel(int64_t row, int64_t number, float* totals, Function activation) const {
    const int64_t begin = number * piece, count = least(call.length - begin, piece);
    vec total = {};
    each_vector(count, [&](int64_t p, int64_t some) {
      total += pass(row * call.length + begin + p, some, activation);  // lanes behind the last number are zeros
    });
    if (call.totals) totals[row * pieces + number] = total_of(total);
  }

  void add_up(const float* totals) const {
    T* to = static_cast<T*>(call.totals);
    const int64_t samples = call.by_rows ? units : call.rows / most(call.channels, 1);
    const int64_t numbers = call.by_rows ? 1 : pieces;
    for (int64_t c = 0; c < call.channels; ++c) {
      float sum = 0;
      for (int64_t n = 0; n < samples; ++n)
        for (int64_t i = 0; i < numbers; ++i) sum += totals[(n * call.channels + c) * numbers + i];
      narrow(to + c, sum);
    }
  }
};

}  // namespace
}  // namespace omniconv
