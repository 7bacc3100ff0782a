// SPDX-License-Identifier: Apache-2.0
// omniconv::conv_native and conv_native_backward: depthwise and grouped convolutions on kernels of our own.
#include "convolve.h"

namespace omniconv {
namespace {

struct ConvCall : Call {
  ConvCall(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : Call(input_, weight_, 2) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    const int64_t groups = reader.number();
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    const int64_t channels = weight.sizes[0];
    STD_TORCH_CHECK(groups >= 1 && channels >= 1 && channels % groups == 0 && input.sizes[1] >= 1 &&
                        input.sizes[1] % groups == 0 && input.sizes[1] / groups == weight.sizes[1],
                    "`groups` must divide the channels, and the weight must have those of one group");
    begin(groups, weight.sizes[1], channels / groups, channels, bias);
    convolve(2, stride, padding, dilation);
    weigh();
  }
};

}  // namespace

Tensor conv(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers) {
  const ConvCall call(input, weight, bias, numbers);
  return sums(call.bound, false, readable(input), call.output, call.input, bias);
}

Gradients conv_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                         const Numbers& numbers, int64_t wanted) {
  return gradients_of(ConvCall(input, weight, bias, numbers), false, grad, input, wanted);
}

namespace {

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  return conv(input, weight, bias, numbers);
}

Gradients backward(Tensor grad, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers, int64_t wanted) {
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  return conv_gradients(grad, input, weight, bias, numbers, wanted);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("conv_native", TORCH_BOX(&forward));
  library.impl("conv_native_raw", TORCH_BOX(&forward));
  library.impl("conv_native_backward", TORCH_BOX(&backward));
  library.impl("conv_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
