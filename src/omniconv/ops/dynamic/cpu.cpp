// SPDX-License-Identifier: Apache-2.0
// omniconv::dynamic_native and dynamic_native_backward: each position's kernels normalised and used while they are in
// the cache, tile by tile.
#include "convolve.h"

namespace omniconv {
namespace {

struct DynamicCall {
  Seen input, weight;
  Dynamic dynamic{};
  Tensor from;        // the input as kernels read it
  int64_t output[5];  // its sizes

  DynamicCall(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers)
      : input(check("input", input_, weight_.dim() / 2 + 1)),
        weight(check("weight", weight_, 2 * input.dim - 2)),
        from(input_) {
    STD_TORCH_CHECK(axes() >= 1 && axes() <= 3, "`input` must have one to three spatial axes");
    STD_TORCH_CHECK(weight.dtype == input.dtype, "`weight` has another type than the input");
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    const int64_t softmax = reader.number(), renorm = reader.number();
    STD_TORCH_CHECK((softmax == 0 || softmax == 1) && (renorm == 0 || renorm == 1), "`softmax` and `renorm` are flags");
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    const int64_t heads = weight.sizes[1], channels = input.sizes[1];
    STD_TORCH_CHECK(heads >= 1 && channels >= 1 && channels % heads == 0, "the heads must divide the channels");
    STD_TORCH_CHECK(weight.sizes[0] == input.sizes[0], "`weight` has another batch than the input");
    if (bias) check("bias", *bias, input, &channels, 1);
    dynamic.problem = {input.sizes[0], heads, channels / heads, channels / heads, {NO_AXIS, NO_AXIS, NO_AXIS}};
    dynamic.softmax = softmax;
    dynamic.renorm = softmax && renorm;
    output[0] = input.sizes[0];
    output[1] = channels;
    bool one = true, each = true;
    for (int64_t number = 0; number < axes(); ++number) {
      const Axis axis = axis_of(input.sizes[2 + number], weight.sizes[2 + number], stride[number], dilation[number],
                                padding[2 * number], padding[2 * number + 1]);
      dynamic.problem.axis[3 - axes() + number] = axis;
      output[2 + number] = axis.narrow;
      each = each && weight.sizes[2 + axes() + number] == axis.narrow;
      one = one && weight.sizes[2 + axes() + number] == 1;
    }
    STD_TORCH_CHECK(each || one, "`weight` must have the output's positions, or one");
    dynamic.everywhere = one && !each;
    dynamic.weights = predicted(weight_);
    from = readable(input_);
    dynamic.input = view(from);
  }

  int64_t axes() const { return input.axes(); }

  Predicted predicted(const Tensor& tensor) const {
    const Seen seen(tensor);
    Predicted shown{tensor.data_ptr(), seen.type(), seen.strides[0], seen.strides[1], {0, 0, 0}, {0, 0, 0}};
    for (int64_t number = 0; number < axes(); ++number) {
      shown.tap[3 - axes() + number] = seen.strides[2 + number];
      shown.position[3 - axes() + number] = dynamic.everywhere ? 0 : seen.strides[2 + axes() + number];
    }
    return shown;
  }
};

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  const DynamicCall call(input, weight, bias, numbers);
  Tensor output = empty(call.output, call.input.dim, call.input, call.input.channels_inner());
  MaybeTensor added;
  if (bias) added = in_order(*bias);
  kernels().dynamic(call.dynamic, view(output), added ? added->data_ptr() : nullptr, host());
  return output;
}

// Of the input, the weight and the bias; bit i of `wanted` asks for one of them.
Gradients backward(Tensor grad_, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers, int64_t wanted) {
  const DynamicCall call(input, weight, bias, numbers);
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  check("grad", grad_, call.input, call.output, call.input.dim);
  const Tensor grad = readable(grad_);
  Gradients gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  DynamicGradients found{};
  if (wanted & 1) {
    of_input = empty(call.input.sizes, call.input.dim, call.input, call.input.channels_inner());
    found.input = view(of_input);
  }
  if (wanted & 2) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    found.weights = call.predicted(of_weight);
  }
  if (wanted & 3) {
    const View from = view(grad);
    const Host threads = host();
    const auto run = [&](float* workspace) {
      return kernels().dynamic_gradient(call.dynamic, from, found, workspace, threads);
    };
    const Workspace workspace(run(nullptr));
    run(workspace.data);
  }
  if (wanted & 4) of_bias = channel_totals(grad, call.input);
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("dynamic_native", TORCH_BOX(&forward));
  library.impl("dynamic_native_raw", TORCH_BOX(&forward));
  library.impl("dynamic_native_backward", TORCH_BOX(&backward));
  library.impl("dynamic_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
