// SPDX-License-Identifier: Apache-2.0
// A batch norm in training with an activation: one pass for the sums of each channel, one for the numbers, either way.
#pragma once

#include "passes.h"

namespace omniconv {
namespace {

constexpr int64_t FEW = 32;  // rows, or vectors, that are added up by themselves

// Sums of a task are added in float, those of tasks in double and in their order.
template <class T>
struct NormPass : Passes {
  const Normed& call;

  explicit NormPass(const Normed& of) : Passes(of.rows, of.length, of.by_rows), call(of) {}

  int64_t floats() const { return call.by_rows ? 4 * units * call.channels : 2 * call.rows * pieces; }

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
        sum_positions(first, end, parts + 4 * unit * call.channels, activation);
      } else {
        for (int64_t row = first; row < end; ++row) sum_channel(row, unit % pieces, parts, activation);
      }
    });
    add_up(totals, parts);
  }

  // Of a few rows, then of all: an addition rounds by the size of what was added up before.
  template <class Function>
  void sum_positions(int64_t first, int64_t end, float* parts, Function activation) const {
    const int64_t width = 2 * call.channels;
    float *some_rows = parts + width, *products = some_rows + call.channels;
    std::memset(parts, 0, sizeof(float) * width);
    for (int64_t begin = first; begin < end; begin += FEW) {
      std::memset(some_rows, 0, sizeof(float) * width);
      for (int64_t row = begin; row < least(begin + FEW, end); ++row)
        each_vector(call.length, [&](int64_t c, int64_t some) {
          const vec x = input(row * call.length + c, some), d = x - load_count(call.pilot + c, some);
          vec one = d;
          if (call.grad) {
            const vec scale = load_count(call.affine.scale + c, some), shift = load_count(call.affine.shift + c, some);
            one = share(row * call.length + c, some, x, scale, shift, activation);
          }
          store_count(some_rows + c, load_count(some_rows + c, some) + one, some);
          store_count(products + c, load_count(products + c, some) + one * d, some);
        });
      each_vector(width, [&](int64_t i, int64_t some) {
        store_count(parts + i, load_count(parts + i, some) + load_count(some_rows + i, some), some);
      });
    }
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
            sum += call.by_rows ? parts[(4 * n + which) * call.channels + c]
                                : parts[2 * ((n * call.channels + c) * numbers + i) + which];
        totals[which * call.channels + c] = sum;
      }
  }

  void normalize(const Host& host) const {
    each_unit(call.activation, host, [&](int64_t unit, int64_t first, int64_t end, auto activation) {
      if (call.by_rows) {
        for (int64_t row = first; row < end; ++row)
          each_vector(call.length, [&](int64_t c, int64_t some) {
            write(row * call.length + c, some, [&](const float* of) { return load_count(of + c, some); }, activation);
          });
        return;
      }
      const int64_t begin = unit % pieces * piece, count = least(call.length - begin, piece);
      for (int64_t row = first; row < end; ++row) {
        const int64_t c = row % call.channels;
        each_vector(count, [&](int64_t p, int64_t some) {
          write(row * call.length + begin + p, some, [&](const float* of) { return splat(of[c]); }, activation);
        });
      }
    });
  }

  template <class Own, class Function>
  OMNICONV_INLINE void write(int64_t at, int64_t some, const Own& own, Function activation) const {
    store_count(static_cast<T*>(call.to) + at, result(at, some, own, activation), some);
  }

  template <class Own, class Function>
  OMNICONV_INLINE vec result(int64_t at, int64_t some, const Own& own, Function activation) const {
    const vec x = input(at, some), scale = own(call.affine.scale), shift = own(call.affine.shift);
    if (!call.grad) return Function::of(scale * x + shift);
    return own(call.of_grad) * share(at, some, x, scale, shift, activation) + (own(call.of_input) * x + own(call.rest));
  }
};

}  // namespace
}  // namespace omniconv
