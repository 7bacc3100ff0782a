// SPDX-License-Identifier: Apache-2.0
// omniconv::transposed_native and transposed_native_backward: transposed convolutions of few channels a group. The
// input is the narrow tensor here and the output the wide one: forward is what the gradient of an ordinary one's input
// is.
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
    const int64_t *stride = reader.list(axes), *crop = reader.list(2 * axes), *appended = reader.list(axes);
    const int64_t* dilation = reader.list(axes);
    const int64_t groups = reader.number();
    reader.end();
    STD_TORCH_CHECK(groups >= 1 && weight.sizes[0] == input.sizes[1] && input.sizes[1] >= 1 &&
                        input.sizes[1] % groups == 0 && weight.sizes[1] >= 1,
                    "`groups` must divide the channels, and the weight must have those of the input");
    const int64_t channels = weight.sizes[1] * groups;
    if (bias) check("bias", *bias, input, &channels, 1);
    Problem& problem = bound.problem;
    problem = {input.sizes[0], groups, weight.sizes[1], input.sizes[1] / groups, {NO_AXIS, NO_AXIS, NO_AXIS}};
    output[0] = input.sizes[0];
    output[1] = channels;
    for (int64_t axis = 0; axis < axes; ++axis) {
      const int64_t size = input.sizes[2 + axis], taps = weight.sizes[2 + axis];
      STD_TORCH_CHECK(crop[2 * axis] >= 0 && crop[2 * axis + 1] >= 0 && appended[axis] >= 0,
                      "crops must not be negative");
      const int64_t whole = span(size, stride[axis], taps, dilation[axis]) + appended[axis];
      output[2 + axis] = whole - crop[2 * axis] - crop[2 * axis + 1];
      STD_TORCH_CHECK(output[2 + axis] >= 1, "the crop must leave something of the output");
      problem.axis[3 - axes + axis] = {output[2 + axis], size, taps, stride[axis], dilation[axis], crop[2 * axis]};
    }
    const int64_t taps = taps_of(problem), filter = problem.wide * taps;
    bound.weights = {filters.data_ptr(), input.type(), problem.narrow * filter, filter, taps, 1, 0};
  }
};

}  // namespace

Tensor transposed(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, const Numbers& numbers) {
  const Call call(input, weight, bias, numbers);
  return sums(call.bound, true, input, call.output, call.input, bias);
}

Gradients transposed_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                               const Numbers& numbers, int64_t wanted) {
  const Call call(input, weight, bias, numbers);
  check("grad", grad, call.input, call.output, call.input.dim);
  Gradients gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  if (wanted & 1) of_input = sums(call.bound, false, grad, call.input.sizes, call.input, {});
  if (wanted & 2) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    Weights weights = call.bound.weights;
    weights.data = of_weight.data_ptr();
    weight_gradient(call.bound, grad, input, weights, nullptr);
  }
  if (wanted & 4) of_bias = channel_totals(grad, call.input);
  return gradients;
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
