// SPDX-License-Identifier: Apache-2.0
// A pointwise convolution on tensors of torch that were checked.
#pragma once

#include "convolve.h"
#include "norm.h"

namespace omniconv {

// Whether a convolution meets every channel at one position, all of which lie inside the input.
bool is_pointwise(const Problem& problem);

// Whether tiles take positions of such an input for rows: channels lie side by side.
bool by_rows(const Seen& input);
// A tensor as tiles read it beside such an input: itself if it lies so, else a copy.
Tensor laid(const Tensor& tensor, bool by_rows);
// An activation by its number among the words of core/follow.py.
Activation activation(int64_t number);
// Weights packed ahead: a tensor of no elements where tiles read them as they lie.
Tensor pack(const Pointwise& call, bool watched);
// Makes such a tensor one of no weights, since they are no longer those of the call.
void forget_packed(Pointwise& call);
// Tells a call those of such a tensor, unless it is absent or of another layout or size. The kernel says CHANGED where
// they are no longer those that were packed; with `taps` they are taken to be.
void use_packed(Pointwise& call, const MaybeTensor& packed);

using Tensors = std::vector<Tensor>;

// An affine map of channels: none; a factor and a shift of each; or a batch norm that has ended its training, by its
// mean, variance, factor and shift.
struct Norm {
  Norm(const char* name, const Tensors& given, double epsilon, int64_t channels);
  Affine affine() const { return {scale, shift}; }

 private:
  Workspace memory;
  float *scale = nullptr, *shift = nullptr;
};

// What follows the sums.
struct Follow {
  MaybeTensor addend, packed;
  Affine affine{};
  Activation activation = Activation::none;
};

Tensor pointwise(const Call& call, const Tensor& input, const MaybeTensor& bias, const Follow& follow = {});
// Any convolution as a product of matrices; the channels of its output lie side by side.
Tensor implicit(const Call& call, const Tensor& input, const MaybeTensor& bias, const Follow& follow = {});
// Its weights, packed ahead.
Tensor pack_implicit(const Call& call);
Gradients pointwise_gradients(const Call& call, const Tensor& grad, const Tensor& input, int64_t wanted);
// Those of input and weight through a norm behind the convolution, in one; none where each by itself is less work.
std::optional<Gradients> pointwise_gradients(const Call& call, const NormBack& norm, const Tensor& input,
                                             int64_t wanted);

}  // namespace omniconv
