// SPDX-License-Identifier: Apache-2.0
// The way back through a batch norm in training, on tensors of torch that were checked.
#pragma once

#include "rows.h"

namespace omniconv {

// Numbers of each channel, one line after the other.
struct Lines {
  int64_t channels;
  Workspace memory;
  Lines(int64_t count, int64_t channels) : channels(channels), memory(count * channels) {}
  float* line(int64_t number) const { return memory.data + number * channels; }
};

// It adds up what the gradient of the norm's input depends on; `call` then tells kernels all but where that is to lie.
struct NormBack {
  Rows lie;
  Tensor grad, middle, spread;
  Lines own;
  Normed call;
  Tensor of_weight, of_bias;

  NormBack(const Tensor& grad, const Tensor& input, const MaybeTensor& weight, const MaybeTensor& bias,
           const Tensor& mean, const Tensor& variance, double epsilon, int64_t activation);

  // The gradient of its input.
  Tensor of_input();
};

}  // namespace omniconv
