// SPDX-License-Identifier: Apache-2.0
// omniconv::spatial_separable_native and spatial_separable_native_backward: both passes of a depthwise convolution in
// one.
#include <tuple>

#include "tensors.h"

namespace omniconv {
namespace {

struct Call {
  Seen input, column_weight, row_weight;
  Tensor column_filters, row_filters;  // the weights, in order
  Problem problem;
  Weights column, row;
  int64_t output[4];  // its sizes

  Call(const Tensor& input_, const MaybeTensor& depth_weight, const Tensor& column_weight_, const Tensor& row_weight_,
       const MaybeTensor& bias, const Numbers& numbers)
      : input(check("input", input_, 4)),
        column_weight(check("column_weight", column_weight_, 4)),
        row_weight(check("row_weight", row_weight_, 4)),
        column_filters(in_order(column_weight_)),
        row_filters(in_order(row_weight_)) {
    STD_TORCH_CHECK(!depth_weight, "`depth_weight` belongs to three axes, and there are two");
    Reader reader{numbers};
    const int64_t *stride = reader.list(2), *padding = reader.list(4), *dilation = reader.list(2);
    const int64_t groups = reader.number(), channels = input.sizes[1];
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    STD_TORCH_CHECK(channels >= 1 && groups == channels, "`groups` must be the channels: each is convolved by itself");
    const int64_t down = column_weight.sizes[2], along = row_weight.sizes[3];
    const int64_t columns[] = {channels, 1, down, 1}, rows[] = {channels, 1, 1, along};
    check("column_weight", column_weight_, input, columns, 4);
    check("row_weight", row_weight_, input, rows, 4);
    if (bias) check("bias", *bias, input, &channels, 1);
    problem = {input.sizes[0], channels, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
    problem.axis[1] = axis_of(input.sizes[2], down, stride[0], dilation[0], padding[0], padding[1]);
    problem.axis[2] = axis_of(input.sizes[3], along, stride[1], dilation[1], padding[2], padding[3]);
    output[0] = input.sizes[0];
    output[1] = channels;
    output[2] = problem.axis[1].narrow;
    output[3] = problem.axis[2].narrow;
    column = {column_filters.data_ptr(), input.type(), down, down, down, 1, 0};
    row = {row_filters.data_ptr(), input.type(), along, along, along, 1, 0};
  }
};

Tensor forward(Tensor input, MaybeTensor depth_weight, Tensor column_weight, Tensor row_weight, MaybeTensor bias,
               Numbers numbers) {
  const Call call(input, depth_weight, column_weight, row_weight, bias, numbers);
  const Tensor from = readable(input);
  Tensor output = empty(call.output, 4, call.input, call.input.channels_inner());
  MaybeTensor added;
  if (bias) added = in_order(*bias);
  kernels().separable(call.problem, view(from), view(output), call.column, call.row,
                      added ? added->data_ptr() : nullptr, host());
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor input, MaybeTensor depth_weight,
                                                            Tensor column_weight, Tensor row_weight, MaybeTensor bias,
                                                            Numbers numbers, int64_t wanted) {
  const Call call(input, depth_weight, column_weight, row_weight, bias, numbers);
  check("grad", grad, call.input, call.output, 4);
  STD_TORCH_CHECK(!(wanted & 2), "`wanted` asks for the gradient of a depth weight that is not there");
  STD_TORCH_CHECK(bias || !(wanted & 16), "`wanted` asks for the gradient of a bias that is not there");
  const auto none = [&] { return nothing(call.input); };
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gradients(none(), none(), none(), none(), none());
  auto& [of_input, of_depth, of_column, of_row, of_bias] = gradients;
  SeparableGradients to{};
  if (wanted & 1) {
    of_input = empty(call.input.sizes, 4, call.input, call.input.channels_inner());
    to.input = view(of_input);
  }
  const auto fill = [&](int64_t bit, Tensor& gradient, const Seen& like, Weights& weights, const Weights& read) {
    if (!(wanted & bit)) return;
    gradient = empty(like.sizes, 4, like, false);
    weights = read;
    weights.data = gradient.data_ptr();
  };
  fill(4, of_column, call.column_weight, to.column, call.column);
  fill(8, of_row, call.row_weight, to.row, call.row);
  if (wanted & 16) {
    of_bias = empty(call.output + 1, 1, call.input, false);
    to.bias = {of_bias.data_ptr(), call.input.type(), 1, 1, 1, 1, 0};
  }
  if (wanted) {
    const Tensor from = readable(input), by = readable(grad);
    const View wide = view(from), narrow = view(by);
    const Host threads = host();
    const auto run = [&](float* workspace) {
      return kernels().separable_gradient(call.problem, wide, narrow, call.column, call.row, to, workspace, threads);
    };
    const Workspace workspace(run(nullptr));
    run(workspace.data);
  }
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("spatial_separable_native", TORCH_BOX(&forward));
  library.impl("spatial_separable_native_raw", TORCH_BOX(&forward));
  library.impl("spatial_separable_native_backward", TORCH_BOX(&backward));
  library.impl("spatial_separable_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
