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

// A new tensor of these sizes, laid out as `like`: from a wide tensor the narrow one (gather), or (scatter) the other
// way round.
Tensor sums(const Bound& bound, bool scatter, const Tensor& from, const int64_t* sizes, const Seen& like,
            const MaybeTensor& bias);

// Fills the gradient of the weights from both tensors, and of a bias of the narrow one where one is asked for.
void weight_gradient(const Bound& bound, const Tensor& wide, const Tensor& narrow, const Weights& gradient,
                     void* bias_gradient);

// The sums over samples and positions of each channel: the gradient of a bias.
Tensor channel_totals(const Tensor& tensor, const Seen& like);

// The families that torch's autograd has formulas for, as ops/*/cpu.cpp compute them; bit i of `wanted` asks for the
// gradient of the input, the weight and the bias.
using Gradients = std::tuple<Tensor, Tensor, Tensor>;
Tensor conv(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers);
Gradients conv_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                         const Numbers& numbers, int64_t wanted);
Tensor transposed(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers);
Gradients transposed_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                               const Numbers& numbers, int64_t wanted);

}  // namespace omniconv
