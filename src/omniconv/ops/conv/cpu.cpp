// SPDX-License-Identifier: Apache-2.0
// omniconv::conv_native and conv_native_backward: depthwise and grouped convolutions on kernels of our own.
#include "convolve.h"

namespace omniconv {
namespace {

struct Call {
  Seen input, weight;
  Tensor filters;  // the weight, in order
  Bound bound;
  int64_t output[5];  // its sizes

  Call(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : input(check("input", input_, weight_.dim())),
        weight(check("weight", weight_, input.dim)),
        filters(in_order(weight_)) {
    const int64_t axes = input.axes();
    STD_TORCH_CHECK(axes >= 1 && axes <= 3, "`input` must have one to three spatial axes");
    STD_TORCH_CHECK(weight.dtype == input.dtype, "`weight` has another type than the input");
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes), *padding = reader.list(2 * axes), *dilation = reader.list(axes);
    const int64_t groups = reader.number();
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    const int64_t channels = weight.sizes[0];
    STD_TORCH_CHECK(groups >= 1 && channels >= 1 && channels % groups == 0 && input.sizes[1] >= 1 &&
                        input.sizes[1] % groups == 0 && input.sizes[1] / groups == weight.sizes[1],
                    "`groups` must divide the channels, and the weight must have those of one group");
    if (bias) check("bias", *bias, input, &channels, 1);
    Problem& problem = bound.problem;
    problem = {input.sizes[0], groups, weight.sizes[1], channels / groups, {NO_AXIS, NO_AXIS, NO_AXIS}};
    output[0] = input.sizes[0];
    output[1] = channels;
    for (int64_t axis = 0; axis < axes; ++axis) {
      Axis& own = problem.axis[3 - axes + axis];
      own = axis_of(input.sizes[2 + axis], weight.sizes[2 + axis], stride[axis], dilation[axis], padding[2 * axis],
                    padding[2 * axis + 1]);
      output[2 + axis] = own.narrow;
    }
    const int64_t taps = taps_of(problem), filter = problem.wide * taps;
    bound.weights = {filters.data_ptr(), input.type(), problem.narrow * filter, filter, taps, 1, 0};
  }
};

}  // namespace

Tensor conv(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers) {
  const Call call(input, weight, bias, numbers);
  return sums(call.bound, false, input, call.output, call.input, bias);
}

Gradients conv_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                         const Numbers& numbers, int64_t wanted) {
  const Call call(input, weight, bias, numbers);
  check("grad", grad, call.input, call.output, call.input.dim);
  Gradients gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  if (wanted & 1) of_input = sums(call.bound, true, grad, call.input.sizes, call.input, {});
  if (wanted & 2) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    if (wanted & 4) of_bias = empty(call.output + 1, 1, call.input, false);
    Weights weights = call.bound.weights;
    weights.data = of_weight.data_ptr();
    weight_gradient(call.bound, input, grad, weights, wanted & 4 ? of_bias.data_ptr() : nullptr);
  } else if (wanted & 4) {
    of_bias = channel_totals(grad, call.input);
  }
  return gradients;
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
