// SPDX-License-Identifier: Apache-2.0
// The convolution as its definition says it, over integers in a plain loop.
#pragma once

#include "kernels.h"
#include "laid_tensors.h"

namespace omniconv {

// In order: the narrow tensor, the wide tensor, and the weights of each group, narrow channel, wide channel and tap.
struct Plain {
  std::vector<double> narrow, wide, weights, totals;
};

// From all three at once: the narrow tensor that gathers, the wide one that scatters, the gradient of the weights, and
// the totals of the narrow channels.
Plain plain(const Problem& problem, const Values& narrow, const Values& wide, const Values& weights);

// Of a separable convolution, each pass by itself: its output, and the gradients of what it is computed from.
struct PlainSeparable {
  std::vector<double> output, input, column, row, bias;
};

PlainSeparable plain_separable(const Problem& problem, const Values& input, const Values& grad, const Values& column,
                               const Values& row);

// Of a deformable convolution: its output, and the gradients of what it is computed from. No mask is one of ones.
struct PlainDeformable {
  std::vector<double> output, input, offset, mask, weights;
};

PlainDeformable plain_deformable(const Problem& problem, int64_t axes, int64_t offset_groups, const Values& input,
                                 const Values& grad, const std::vector<double>& offset, const Values& mask,
                                 const Values& weights);

// A number, and how far from it float32 may come: not at all where all that it is made of is whole.
struct Near {
  double value, error;
};

// What follows a convolution; a list is empty where there is no such part.
struct Following {
  Values bias, scale, shift, addend;
  Activation activation;
};

// The way back through an activation, from what it was computed from or (ReLU, ReLU6) from its result.
std::vector<Near> plain_back(Activation, const Values& grad, const Values& kept);

// bias + input of each channel through the affine map, the addend and the activation.
void plain_follow(std::vector<Near>& numbers, int64_t channels, int64_t positions, const Following&);

// A pointwise convolution of (batch, inputs, positions); weights of (outputs, inputs).
std::vector<Near> plain_pointwise(const std::vector<Near>& input, int64_t batch, int64_t inputs, int64_t outputs,
                                  int64_t positions, const Values& weights);

// The gradient of its weights.
std::vector<double> plain_pointwise_gradient(const Values& input, const Values& grad, int64_t batch, int64_t inputs,
                                             int64_t outputs, int64_t positions);

// Of a dynamic convolution: its output, and the gradients of its input and of the numbers that its kernels are made from.
struct PlainDynamic {
  std::vector<double> output, input, weights;
};

PlainDynamic plain_dynamic(const Problem& problem, const Values& input, const Values& grad, const Values& weights,
                           bool everywhere, bool softmax, bool renorm);

}  // namespace omniconv
