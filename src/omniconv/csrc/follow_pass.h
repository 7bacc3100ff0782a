// SPDX-License-Identifier: Apache-2.0
// What follows a convolution that another library computed: one pass over its output, in place or not.
#pragma once

#include "activation.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t FOLLOWED_AT_ONCE = 1 << 13;  // numbers of a task, at least

template <class T>
struct FollowPass {
  const Followed& call;
  int64_t rows, length;  // of numbers side by side

  // Without an affine map all numbers are alike.
  explicit FollowPass(const Followed& of) : call(of), rows(of.rows), length(of.length) {
    if (call.affine.scale) return;
    length = FOLLOWED_AT_ONCE;
    rows = ceil_div(call.rows * call.length, length);
  }

  void run(const Host& host) const {
    const int64_t together = most(FOLLOWED_AT_ONCE / most(length, 1), 1), units = ceil_div(rows, together);
    const int64_t threads = threads_for(host, call.rows * call.length / V);
    run_tasks(host, Split::of_units(least(threads, most(units, 1)), 1, units, true), [&](Dealer& dealer) {
      with_activation(call.activation, [&](auto activation) {
        Task task;
        while (dealer.deal(task)) {
          const int64_t first = task.first_row * together;
          for (int64_t row = first; row < least(first + together, rows); ++row) follow(row, activation);
        }
      });
    });
  }

  template <class Function>
  void follow(int64_t row, Function) const {
    const int64_t begin = row * length, end = least(begin + length, call.rows * call.length);
    T* numbers = static_cast<T*>(call.data) + begin;
    const T* from = static_cast<const T*>(call.from) + begin;
    const T* addend = call.addend ? static_cast<const T*>(call.addend) + begin : nullptr;
    const float *scale = call.affine.scale, *shift = call.affine.shift;
    const int64_t channel = row % call.channels;
    each_vector(end - begin, [&](int64_t n, int64_t some) {
      vec value = load_count(from + n, some);
      if (scale && call.by_rows) {
        value = value * load_count(scale + n, some) + load_count(shift + n, some);
      } else if (scale) {
        value = value * scale[channel] + shift[channel];
      }
      if (addend) value += load_count(addend + n, some);
      store_count(numbers + n, Function::of(value), some);
    });
  }
};

}  // namespace
}  // namespace omniconv
