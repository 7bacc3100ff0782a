// SPDX-License-Identifier: Apache-2.0
#include "convolve.h"

namespace omniconv {

Call::Call(const Tensor& input_, const Tensor& weight_, int64_t outer)
    : input(check("input", input_, weight_.dim() - outer + 2)),
      weight(check("weight", weight_, input.dim - 2 + outer)),
      filters(in_order(weight_)) {
  STD_TORCH_CHECK(axes() >= 1 && axes() <= 3, "`input` must have one to three spatial axes");
  STD_TORCH_CHECK(weight.dtype == input.dtype, "`weight` has another type than the input");
}

void Call::begin(int64_t groups, int64_t wide, int64_t narrow, int64_t channels, const MaybeTensor& bias) {
  if (bias) check("bias", *bias, input, &channels, 1);
  bound.problem = {input.sizes[0], groups, wide, narrow, {NO_AXIS, NO_AXIS, NO_AXIS}};
  output[0] = input.sizes[0];
  output[1] = channels;
}

void Call::convolve(int64_t outer, const int64_t* stride, const int64_t* padding, const int64_t* dilation) {
  for (int64_t number = 0; number < axes(); ++number) {
    axis(number) = axis_of(input.sizes[2 + number], weight.sizes[outer + number], stride[number], dilation[number],
                           padding[2 * number], padding[2 * number + 1]);
    output[2 + number] = axis(number).narrow;
  }
}

void Call::weigh() {
  const int64_t taps = taps_of(bound.problem), filter = bound.problem.wide * taps;
  bound.weights = {filters.data_ptr(), input.type(), bound.problem.narrow * filter, filter, taps, 1, 0};
}

Tensor sums(const Bound& bound, bool scatter, const Tensor& from, const int64_t* sizes, const Seen& like,
            const MaybeTensor& bias) {
  Tensor output = empty(sizes, like.dim, like, like.channels_inner());
  MaybeTensor added;
  if (bias) added = in_order(*bias);
  kernels().sums(bound.problem, scatter, view(from), view(output), bound.weights, added ? added->data_ptr() : nullptr,
                 host());
  return output;
}

void weight_gradient(const Bound& bound, const Tensor& wide, const Tensor& narrow, const Weights& gradient,
                     void* bias_gradient) {
  const View from = view(wide), by = view(narrow);
  const Host threads = host();
  const auto run = [&](float* workspace) {
    return kernels().gradient(bound.problem, from, by, gradient, bias_gradient, workspace, threads);
  };
  const Workspace workspace(run(nullptr));
  run(workspace.data);
}

Tensor channel_totals(const Tensor& tensor, const Seen& like) {
  const Seen seen(tensor);
  Tensor totals = empty(seen.sizes + 1, 1, like, false);
  // The bias of a convolution of one tap, whose own gradient is thrown away.
  Problem problem{seen.sizes[0], seen.sizes[1], 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  for (int64_t axis = 0; axis < seen.axes(); ++axis) {
    const int64_t size = seen.sizes[2 + axis];
    problem.axis[3 - seen.axes() + axis] = {size, size, 1, 1, 1, 0};
  }
  Workspace unused(seen.sizes[1]);
  weight_gradient({problem, {}}, tensor, tensor, {unused.data, Type::float32, 1, 0, 0, 1, 0}, totals.data_ptr());
  return totals;
}

Gradients gradients_of(const Call& call, bool turned, const Tensor& grad_, const Tensor& input, int64_t wanted,
                       const Weights* own) {
  check("grad", grad_, call.input, call.output, call.input.dim);
  const Tensor grad = readable(grad_);
  Gradients gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  if (wanted & 1) of_input = sums(call.bound, !turned, grad, call.input.sizes, call.input, {});
  const bool at_once = (wanted & 2) && (wanted & 4) && !turned;  // the bias of the narrow tensor
  if (wanted & 2) {
    const Tensor from = readable(input);
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    if (at_once) of_bias = empty(call.output + 1, 1, call.input, false);
    Weights weights = call.bound.weights;
    weights.data = of_weight.data_ptr();
    weight_gradient(call.bound, turned ? grad : from, turned ? from : grad, own ? *own : weights,
                    at_once ? of_bias.data_ptr() : nullptr);
  }
  if ((wanted & 4) && !at_once) of_bias = channel_totals(grad, call.input);
  return gradients;
}

}  // namespace omniconv
