// SPDX-License-Identifier: Apache-2.0
// omniconv::transposed_native and transposed_native_backward: transposed convolutions of few channels a group. The
// input is the narrow tensor here and the output the wide one: forward is what the gradient of an ordinary one's input
// is.
#include "convolve.h"

namespace omniconv {
namespace {

struct TransposedCall : Call {
  TransposedCall(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : Call(input_, weight_, 2) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *crop = reader.list(2 * axes()), *appended = reader.list(axes());
    const int64_t* dilation = reader.list(axes());
    const int64_t groups = reader.number();
    reader.end();
    STD_TORCH_CHECK(groups >= 1 && weight.sizes[0] == input.sizes[1] && input.sizes[1] >= 1 &&
                        input.sizes[1] % groups == 0 && weight.sizes[1] >= 1,
                    "`groups` must divide the channels, and the weight must have those of the input");
    begin(groups, weight.sizes[1], input.sizes[1] / groups, weight.sizes[1] * groups, bias);
    for (int64_t number = 0; number < axes(); ++number) {
      const int64_t size = input.sizes[2 + number], taps = weight.sizes[2 + number];
      const int64_t before = crop[2 * number], after = crop[2 * number + 1];
      STD_TORCH_CHECK(before >= 0 && after >= 0 && appended[number] >= 0, "crops must not be negative");
      const int64_t whole = span(size, stride[number], taps, dilation[number]) + appended[number];
      output[2 + number] = whole - before - after;
      STD_TORCH_CHECK(output[2 + number] >= 1, "the crop must leave something of the output");
      axis(number) = {output[2 + number], size, taps, stride[number], dilation[number], before};
    }
    weigh();
  }
};

}  // namespace

Tensor transposed(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers) {
  const TransposedCall call(input, weight, bias, numbers);
  return sums(call.bound, true, readable(input), call.output, call.input, bias);
}

Gradients transposed_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                               const Numbers& numbers, int64_t wanted) {
  return gradients_of(TransposedCall(input, weight, bias, numbers), true, grad, input, wanted);
}

namespace {

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  return transposed(input, weight, bias, numbers);
}

Gradients backward(Tensor grad, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers, int64_t wanted) {
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  return transposed_gradients(grad, input, weight, bias, numbers, wanted);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("transposed_native", TORCH_BOX(&forward));
  library.impl("transposed_native_raw", TORCH_BOX(&forward));
  library.impl("transposed_native_backward", TORCH_BOX(&backward));
  library.impl("transposed_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
