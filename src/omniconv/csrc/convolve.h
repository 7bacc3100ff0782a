// SPDX-License-Identifier: Apache-2.0
// The three sums of a convolution between a wide and a narrow tensor, on tensors of torch that were checked.
#pragma once

#include <tuple>

#include "tensors.h"

namespace omniconv {

// What bounds a call: the numbers of the problem, and the weights that it reads.
struct Bound {
  Problem problem;
  Weights weights;
};

// A call of one input and one weight, whose numbers each family reads in its own way.
struct Call {
  Seen input, weight;
  Tensor filters;  // the weight, in order
  Bound bound;
  int64_t output[5];  // its sizes

  // Raises unless both have kernels' types and one to three spatial axes, behind `outer` others of the weight.
  Call(const Tensor& input, const Tensor& weight, int64_t outer);

  int64_t axes() const { return input.axes(); }
  Axis& axis(int64_t number) { return bound.problem.axis[3 - axes() + number]; }

  // Begins the problem, of so many channels of the output, as many as the bias must have.
  void begin(int64_t groups, int64_t wide, int64_t narrow, int64_t channels, const MaybeTensor& bias);
  // The axes of a convolution, whose input is the wide tensor; `outer` axes of the weight stand before its taps.
  void convolve(int64_t outer, const int64_t* stride, const int64_t* padding, const int64_t* dilation);
  // The weights of an ordinary or transposed convolution: those of each group, channel by channel of the narrow tensor.
  void weigh();
};

// A new tensor of these sizes, laid out as `like`: from a wide tensor the narrow one (gather), or (scatter) the other
// way round. Here and below, tensors but the bias are `readable`.
Tensor sums(const Bound& bound, bool scatter, const Tensor& from, const int64_t* sizes, const Seen& like,
            const MaybeTensor& bias);

// Fills the gradient of the weights from both tensors, and of a bias of the narrow one where one is asked for.
void weight_gradient(const Bound& bound, const Tensor& wide, const Tensor& narrow, const Weights& gradient,
                     void* bias_gradient);

// The sums over samples and positions of each channel: the gradient of a bias.
Tensor channel_totals(const Tensor& tensor, const Seen& like);

// Of the input, the weight and the bias; bit i of `wanted` asks for one of them.
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Those of a call whose input is the wide tensor, or (turned) the narrow one. The weight's is put into `own` where that
// is given, and else into the tensor that stands for it.
Gradients gradients_of(const Call& call, bool turned, const Tensor& grad, const Tensor& input, int64_t wanted,
                       const Weights* own = nullptr);

// The families that torch's autograd has formulas for, as ops/*/cpu.cpp compute them.
Tensor conv(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers);
Gradients conv_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                         const Numbers& numbers, int64_t wanted);
Tensor transposed(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers);
Gradients transposed_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                               const Numbers& numbers, int64_t wanted);

}  // namespace omniconv
