// SPDX-License-Identifier: Apache-2.0
// What follows the sums of a pointwise convolution, or of one that is computed as such: in a tile while its sums are in
// registers, or row by row of a tile that was stored.
#pragma once

#include "activation.h"
#include "kernels.h"
#include "pointwise_tile.h"

namespace omniconv {
namespace {

// T: of the output, of what is added to it and of the biases.
template <class T>
struct Following {
  const Pointwise& call;

  int64_t outputs() const { return call.taps ? call.taps->groups * call.outputs : call.outputs; }
  int64_t bias_floats() const { return whole_vectors(outputs()) + TILE_WIDTH; }

  // Whether a tile can do it all, and its results are those of the tensor.
  bool near() const { return sizeof(T) == sizeof(float) && call.activation <= Activation::relu6 && beside(); }

  // Whether what is added lies as the output does, everywhere as far from it.
  bool beside() const {
    const View &one = call.addend, &other = call.output;
    if (!one.data) return true;
    if (addend_bytes() % int64_t(sizeof(float))) return false;
    if (one.batch != other.batch || one.channel != other.channel) return false;
    for (int axis = 0; axis < 3; ++axis)
      if (one.axis[axis] != other.axis[axis]) return false;
    return true;
  }
  int64_t addend_bytes() const {
    const auto at = [](const View& view) { return reinterpret_cast<int64_t>(view.data); };
    return call.addend.data ? at(call.addend) - at(call.output) : 0;
  }

  // The biases through the affine map, and its factors behind them.
  void shift(float* bias) const {
    const Affine& affine = call.affine;
    for (int64_t o = 0; o < bias_floats(); ++o) {
      const bool is = o < outputs();
      bias[o] = call.bias && is ? widen(static_cast<const T*>(call.bias)[o]) : 0;
      if (!affine.scale) continue;
      bias[o] = is ? bias[o] * affine.scale[o] + affine.shift[o] : 0;
      bias[bias_floats() + o] = is ? affine.scale[o] : 0;
    }
  }

  TileCall tile_call(bool near, bool by_rows, int64_t a_row, int64_t b_row, int64_t length, int64_t out_row) const {
    constexpr float INFINITE = __builtin_inff();
    const bool clamps = near && call.activation != Activation::none;
    return {a_row,
            b_row,
            length,
            out_row,
            !by_rows,
            call.affine.scale ? bias_floats() : 0,
            false,
            near ? addend_bytes() / int64_t(sizeof(float)) : 0,
            clamps ? 0 : -INFINITE,
            near && call.activation == Activation::relu6 ? 6 : INFINITE};
  }

  void activate(float* row, int64_t lanes) const {
    with_activation(call.activation, [&](auto activation) {
      for (int64_t n = 0; n < lanes; n += V) store(row + n, activation.of(load(row + n)));
    });
  }

  // The addend, the activation, and the way to the output, whose row m begins at at(m, false), and the addend's at
  // at(m, true).
  template <class At>
  void finish(const float* sums, int64_t count, int64_t lanes, const At& at) const {
    with_activation(call.activation, [&](auto activation) {
      for (int64_t m = 0; m < count; ++m) {
        T* out = static_cast<T*>(call.output.data) + at(m, false);
        const T* addend = static_cast<const T*>(call.addend.data);
        if (addend) addend += at(m, true);
        each_vector(lanes, [&](int64_t n, int64_t some) {
          vec value = load(sums + m * TILE_WIDTH + n);
          if (addend) value += load_count(addend + n, some);
          store_count(out + n, activation.of(value), some);
        });
      }
    });
  }
};

}  // namespace
}  // namespace omniconv
