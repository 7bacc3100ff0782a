// SPDX-License-Identifier: Apache-2.0
// The convolution as its definition says it, over integers in a plain loop.
#pragma once

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

}  // namespace omniconv
