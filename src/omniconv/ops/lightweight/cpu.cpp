// SPDX-License-Identifier: Apache-2.0
// omniconv::lightweight_native and lightweight_native_backward: a depthwise convolution whose kernels belong to heads.
// The kernels of a head are normalised here, and read by each of its channels where they stand.
#include <cmath>

#include "convolve.h"

namespace omniconv {
namespace {

struct Call {
  Seen input, weight;
  Tensor filters;  // the weight, in order
  int64_t heads, taps;
  bool softmax;
  Workspace normalized;  // of the softmax, in float32
  Bound bound;
  int64_t output[5];  // its sizes

  Call(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : input(check("input", input_, weight_.dim() + 1)),
        weight(check("weight", weight_, input.dim - 1)),
        filters(in_order(weight_)),
        heads(weight.sizes[0]),
        taps(heads ? weight.elements() / heads : 0),
        normalized(heads * taps) {
    const int64_t axes = input.axes(), channels = input.sizes[1];
    STD_TORCH_CHECK(axes >= 1 && axes <= 3, "`input` must have one to three spatial axes");
    STD_TORCH_CHECK(weight.dtype == input.dtype, "`weight` has another type than the input");
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes), *padding = reader.list(2 * axes), *dilation = reader.list(axes);
    softmax = reader.number();
    const int64_t layout = reader.number();
    STD_TORCH_CHECK(layout == 1 || layout == 2, "`head_layout` must be block or interleaved");
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    STD_TORCH_CHECK(heads >= 1 && channels >= 1 && channels % heads == 0, "the heads must divide the channels");
    if (bias) check("bias", *bias, input, &channels, 1);
    Problem& problem = bound.problem;
    problem = {input.sizes[0], channels, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
    output[0] = input.sizes[0];
    output[1] = channels;
    for (int64_t axis = 0; axis < axes; ++axis) {
      Axis& own = problem.axis[3 - axes + axis];
      own = axis_of(input.sizes[2 + axis], weight.sizes[1 + axis], stride[axis], dilation[axis], padding[2 * axis],
                    padding[2 * axis + 1]);
      output[2 + axis] = own.narrow;
    }
    Weights& weights = bound.weights;
    weights = {filters.data_ptr(), input.type(), taps, 0, 0, layout == 1 ? channels / heads : 0, heads};
    if (softmax) normalize(weights);
  }

  void normalize(Weights& weights) const {
    for (int64_t head = 0; head < heads; ++head) {
      float* share = normalized.data + head * taps;
      float highest = -INFINITY, total = 0;
      for (int64_t tap = 0; tap < taps; ++tap) highest = std::fmax(highest, weights.at(head * taps + tap));
      for (int64_t tap = 0; tap < taps; ++tap) total += share[tap] = std::exp(weights.at(head * taps + tap) - highest);
      for (int64_t tap = 0; tap < taps; ++tap) share[tap] /= total;
    }
    weights.data = normalized.data;
    weights.type = Type::float32;
  }
};

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  const Call call(input, weight, bias, numbers);
  return sums(call.bound, false, input, call.output, call.input, bias);
}

// From the gradients of each channel's kernel to those of its head's, and through the softmax: w · (g − Σ w g).
void to_heads(const Call& call, const float* of_channels, const Weights& gradient) {
  const Weights& shared = call.bound.weights;
  const int64_t channels = call.bound.problem.groups, taps = call.taps;
  Workspace of_heads(call.heads * taps);
  for (int64_t i = 0; i < call.heads * taps; ++i) of_heads.data[i] = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t tap = 0; tap < taps; ++tap)
      of_heads.data[shared.head(channel) * taps + tap] += of_channels[channel * taps + tap];
  for (int64_t head = 0; head < call.heads; ++head) {
    const float *own = of_heads.data + head * taps, *share = call.normalized.data + head * taps;
    float mean = 0;
    for (int64_t tap = 0; call.softmax && tap < taps; ++tap) mean += share[tap] * own[tap];
    for (int64_t tap = 0; tap < taps; ++tap)
      gradient.set(head * taps + tap, call.softmax ? share[tap] * (own[tap] - mean) : own[tap]);
  }
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers,
                                            int64_t wanted) {
  const Call call(input, weight, bias, numbers);
  check("grad", grad, call.input, call.output, call.input.dim);
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  std::tuple<Tensor, Tensor, Tensor> gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  if (wanted & 1) of_input = sums(call.bound, true, grad, call.input.sizes, call.input, {});
  if (wanted & 2) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    if (wanted & 4) of_bias = empty(call.output + 1, 1, call.input, false);
    Workspace of_channels(call.bound.problem.groups * call.taps);
    weight_gradient(call.bound, input, grad, {of_channels.data, Type::float32, call.taps, 0, 0, 1, 0},
                    wanted & 4 ? of_bias.data_ptr() : nullptr);
    to_heads(call, of_channels.data, {of_weight.data_ptr(), call.input.type(), call.taps, 0, 0, 1, 0});
  } else if (wanted & 4) {
    of_bias = channel_totals(grad, call.input);
  }
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("lightweight_native", TORCH_BOX(&forward));
  library.impl("lightweight_native_raw", TORCH_BOX(&forward));
  library.impl("lightweight_native_backward", TORCH_BOX(&backward));
  library.impl("lightweight_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
