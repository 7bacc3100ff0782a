// SPDX-License-Identifier: Apache-2.0
// omniconv::lightweight_native and lightweight_native_backward: a depthwise convolution whose kernels belong to heads.
// The kernels of a head are normalised here, and read by each of its channels where they stand.
#include <cmath>

#include "convolve.h"

namespace omniconv {
namespace {

struct LightweightCall : Call {
  int64_t heads, taps;
  std::optional<Workspace> normalized;  // of the softmax, where there is one, in float32

  LightweightCall(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : Call(input_, weight_, 1) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    const bool softmax = reader.number();
    const int64_t layout = reader.number(), channels = input.sizes[1];
    heads = weight.sizes[0];
    STD_TORCH_CHECK(layout == 1 || layout == 2, "`head_layout` must be block or interleaved");
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    STD_TORCH_CHECK(heads >= 1 && channels >= 1 && channels % heads == 0, "the heads must divide the channels");
    begin(channels, 1, 1, channels, bias);
    convolve(1, stride, padding, dilation);
    taps = taps_of(bound.problem);
    bound.weights = {filters.data_ptr(), input.type(), taps, 0, 0, layout == 1 ? channels / heads : 0, heads};
    if (softmax) normalize(bound.weights);
  }

  void normalize(Weights& weights) {
    normalized.emplace(heads * taps);
    for (int64_t head = 0; head < heads; ++head) {
      float* share = normalized->data + head * taps;
      float highest = -INFINITY, total = 0;
      for (int64_t tap = 0; tap < taps; ++tap) highest = std::fmax(highest, weights.at(head * taps + tap));
      for (int64_t tap = 0; tap < taps; ++tap) total += share[tap] = std::exp(weights.at(head * taps + tap) - highest);
      for (int64_t tap = 0; tap < taps; ++tap) share[tap] /= total;
    }
    weights.data = normalized->data;
    weights.type = Type::float32;
  }
};

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  const LightweightCall call(input, weight, bias, numbers);
  return sums(call.bound, false, readable(input), call.output, call.input, bias);
}

// From the gradients of each channel's kernel to those of its head's, and through the softmax: w · (g − Σ w g).
void to_heads(const LightweightCall& call, const float* of_channels, const Weights& gradient) {
  const Weights& shared = call.bound.weights;
  const int64_t channels = call.bound.problem.groups, taps = call.taps;
  Workspace of_heads(call.heads * taps);
  for (int64_t i = 0; i < call.heads * taps; ++i) of_heads.data[i] = 0;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t tap = 0; tap < taps; ++tap)
      of_heads.data[shared.head(channel) * taps + tap] += of_channels[channel * taps + tap];
  for (int64_t head = 0; head < call.heads; ++head) {
    const float* own = of_heads.data + head * taps;
    const float* share = call.normalized ? call.normalized->data + head * taps : nullptr;
    float mean = 0;
    for (int64_t tap = 0; share && tap < taps; ++tap) mean += share[tap] * own[tap];
    for (int64_t tap = 0; tap < taps; ++tap)
      gradient.set(head * taps + tap, share ? share[tap] * (own[tap] - mean) : own[tap]);
  }
}

Gradients backward(Tensor grad, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers, int64_t wanted) {
  const LightweightCall call(input, weight, bias, numbers);
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  const Workspace of_channels(wanted & 2 ? call.bound.problem.groups * call.taps : 0);
  const Weights own{of_channels.data, Type::float32, call.taps, 0, 0, 1, 0};
  Gradients gradients = gradients_of(call, false, grad, input, wanted, &own);
  Tensor& of_weight = std::get<1>(gradients);
  if (wanted & 2)
    to_heads(call, of_channels.data, {of_weight.data_ptr(), call.input.type(), call.taps, 0, 0, 1, 0});
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
