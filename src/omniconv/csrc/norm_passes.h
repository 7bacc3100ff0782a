// SPDX-License-Identifier: Apache-2.0
// A batch norm in training with an activation: one pass for the sums of each channel, one for the numbers, either way.
#pragma once

#include <type_traits>

#include "passes.h"

namespace omniconv {
namespace {

constexpr int64_t FEW = 32;  // rows, or vectors, that are added up by themselves

// Sums of a task are added in float, those of tasks in double and in their order.
template <class T>
struct NormPass : Passes {
  const Normed& call;

  explicit NormPass(const Normed& of) : Passes(of.rows, of.length, of.by_rows), call(of) {}

  int64_t floats() const { return 2 * (call.by_rows ? units * call.channels : call.rows * pieces); }

  OMNICONV_INLINE vec input(int64_t at, int64_t some) const {
    return load_count(static_cast<const T*>(call.input) + at, some);
  }
  // The share of the gradient at a number whose channel has this factor and shift.
  template <class Function>
  OMNICONV_INLINE vec share(int64_t at, int64_t some, vec x, vec scale, vec shift, Function) const {
    return Function::back(load_count(static_cast<const T*>(call.grad) + at, some), scale * x + shift);
  }

  void sums(double* totals, float* parts, const Host& host) const {
    each_unit(call.activation, host, [&](int64_t unit, int64_t first, int64_t end, auto activation) {
      if (call.by_rows) {
        sum_positions(first, end, parts + 2 * unit * call.channels, activation);
      } else {
        for (int64_t row = first; row < end; ++row) sum_channel(row, unit % pieces, parts, activation);
      }
    });
    add_up(totals, parts);
  }

  // Calls each(first row, end, channel, lanes, vectors) for a few rows at a time, of one vector of channels or two: what
  // belongs to channels stays in registers.
  template <class Each>
  OMNICONV_INLINE void each_few(int64_t first, int64_t end, const Each& each) const {
    for (int64_t begin = first; begin < end; begin += FEW) {
      const int64_t last = least(begin + FEW, end);
      int64_t c = 0;
      for (; c + 2 * V <= call.length; c += 2 * V) each(begin, last, c, V, two());
      for (; c < call.length; c += V) each(begin, last, c, least(V, call.length - c), one());
    }
  }
  using one = std::integral_constant<int, 1>;
  using two = std::integral_constant<int, 2>;

  // Of a few rows, then of all: an addition rounds by the size of what was added up before.
  template <class Function>
  void sum_positions(int64_t first, int64_t end, float* parts, Function activation) const {
    std::memset(parts, 0, sizeof(float) * 2 * call.channels);
    each_few(first, end, [&](int64_t begin, int64_t last, int64_t c, int64_t some, auto vectors) {
      constexpr int N = decltype(vectors)::value;
      vec pilot[N], scale[N], shift[N], total[N] = {}, product[N] = {};
      for (int n = 0; n < N; ++n) {
        pilot[n] = load_count(call.pilot + c + n * V, some);
        if (!call.grad) continue;
        scale[n] = load_count(call.affine.scale + c + n * V, some);
        shift[n] = load_count(call.affine.shift + c + n * V, some);
      }
      const auto add = [&](auto backward) {
        for (int64_t row = begin; row < last; ++row)
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) {
            const int64_t at = row * call.length + c + n * V;
            const vec x = input(at, some), d = x - pilot[n];
            const vec own = backward.value ? share(at, some, x, scale[n], shift[n], activation) : d;
            total[n] += own;
            product[n] += own * d;
          }
      };
      call.grad ? add(std::true_type()) : add(std::false_type());
      for (int n = 0; n < N; ++n) {
        float *sum = parts + c + n * V, *products = sum + call.channels;
        store_count(sum, load_count(sum, some) + total[n], some);
        store_count(products, load_count(products, some) + product[n], some);
      }
    });
  }

  template <class Function>
  void sum_channel(int64_t row, int64_t number, float* parts, Function activation) const {
    const int64_t first = number * piece, end = least(first + piece, call.length), c = row % call.channels;
    const vec pilot = splat(call.pilot[c]);
    const vec scale = splat(call.grad ? call.affine.scale[c] : 0), shift = splat(call.grad ? call.affine.shift[c] : 0);
    ivec lanes;
    for (int lane = 0; lane < V; ++lane) lanes[lane] = lane;
    vec total = {}, product = {};
    for (int64_t begin = first; begin < end; begin += FEW * V) {
      vec few = {}, few_products = {};
      each_vector(least(FEW * V, end - begin), [&](int64_t p, int64_t some) {
        const int64_t at = row * call.length + begin + p;
        const vec x = input(at, some), all = x - pilot, d = some == V ? all : choose(lanes < int32_t(some), all, vec{});
        const vec one = call.grad ? share(at, some, x, scale, shift, activation) : d;
        few += one;
        few_products += one * d;
      });
      total += few;
      product += few_products;
    }
    float* to = parts + 2 * (row * pieces + number);
    to[0] = total_of(total);
    to[1] = total_of(product);
  }

  void add_up(double* totals, const float* parts) const {
    const int64_t samples = call.by_rows ? units : call.rows / most(call.channels, 1);
    const int64_t numbers = call.by_rows ? 1 : pieces;
    for (int64_t c = 0; c < call.channels; ++c)
      for (int64_t which = 0; which < 2; ++which) {
        double sum = 0;
        for (int64_t n = 0; n < samples; ++n)
          for (int64_t i = 0; i < numbers; ++i)
            sum += call.by_rows ? parts[(2 * n + which) * call.channels + c]
                                : parts[2 * ((n * call.channels + c) * numbers + i) + which];
        totals[which * call.channels + c] = sum;
      }
  }

  void normalize(const Host& host) const {
    each_unit(call.activation, host, [&](int64_t unit, int64_t first, int64_t end, auto activation) {
      if (call.by_rows) {
        normalize_positions(first, end, activation);
        return;
      }
      const int64_t begin = unit % pieces * piece, count = least(call.length - begin, piece);
      for (int64_t row = first; row < end; ++row) {
        const int64_t c = row % call.channels;
        const Own own(call, [&](const float* of) { return splat(of[c]); });
        each_vector(count, [&](int64_t p, int64_t some) {
          write(row * call.length + begin + p, some, own, activation);
        });
      }
    });
  }

  // What belongs to a channel.
  struct Own {
    vec scale, shift, of_grad, of_input, rest;

    template <class Read>
    OMNICONV_INLINE Own(const Normed& call, const Read& read)
        : scale(read(call.affine.scale)), shift(read(call.affine.shift)) {
      if (!call.grad) return;
      of_grad = read(call.of_grad);
      of_input = read(call.of_input);
      rest = read(call.rest);
    }
  };

  template <class Function>
  void normalize_positions(int64_t first, int64_t end, Function activation) const {
    each_few(first, end, [&](int64_t begin, int64_t last, int64_t c, int64_t some, auto vectors) {
      for (int n = 0; n < decltype(vectors)::value; ++n) {
        const Own own(call, [&](const float* of) { return load_count(of + c + n * V, some); });
        for (int64_t row = begin; row < last; ++row) write(row * call.length + c + n * V, some, own, activation);
      }
    });
  }

  template <class Function>
  OMNICONV_INLINE void write(int64_t at, int64_t some, const Own& own, Function activation) const {
    store_count(static_cast<T*>(call.to) + at, result(at, some, own, activation), some);
  }

  template <class Function>
  OMNICONV_INLINE vec result(int64_t at, int64_t some, const Own& own, Function activation) const {
    const vec x = input(at, some);
    if (!call.grad) return Function::of(own.scale * x + own.shift);
    return own.of_grad * share(at, some, x, own.scale, own.shift, activation) + (own.of_input * x + own.rest);
  }
};

}  // namespace
}  // namespace omniconv
