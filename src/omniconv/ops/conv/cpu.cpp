// SPDX-License-Identifier: Apache-2.0
// omniconv::conv_native and conv_native_backward: depthwise, grouped and pointwise convolutions on kernels of our own;
// pointwise_pack and pointwise_followed: the last with packed weights, and with what follows it; implicit_pack and
// implicit_followed: any of them as a product of matrices, whose output lies in channels last.
#include "pointwise.h"

namespace omniconv {
namespace {

struct ConvCall : Call {
  Activation follows = Activation::none;

  ConvCall(const Tensor& input_, const Tensor& weight_, const MaybeTensor& bias, const Numbers& numbers,
           bool followed = false)
      : Call(input_, weight_, 2) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    const int64_t groups = reader.number();
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    if (followed) follows = activation(reader.number());
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
  if (is_pointwise(call.bound.problem)) return pointwise(call, input, bias);
  return sums(call.bound, false, readable(input), call.output, call.input, bias);
}

Gradients conv_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const MaybeTensor& bias,
                         const Numbers& numbers, int64_t wanted) {
  const ConvCall call(input, weight, bias, numbers);
  if (is_pointwise(call.bound.problem)) return pointwise_gradients(call, grad, input, wanted);
  return gradients_of(call, false, grad, input, wanted);
}

namespace {

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers) {
  return conv(input, weight, bias, numbers);
}

Gradients backward(Tensor grad, Tensor input, Tensor weight, MaybeTensor bias, Numbers numbers, int64_t wanted) {
  STD_TORCH_CHECK(bias || !(wanted & 4), "`wanted` asks for the gradient of a bias that is not there");
  return conv_gradients(grad, input, weight, bias, numbers, wanted);
}

// conv_native of a pointwise convolution, then a norm, an addend, and the activation whose number ends the others.
Tensor followed(Tensor input, Tensor weight, MaybeTensor packed, MaybeTensor bias, Tensors norm, double epsilon,
                MaybeTensor addend, Numbers numbers) {
  const ConvCall call(input, weight, bias, numbers, true);
  const Norm after("norm", norm, epsilon, call.output[1]);
  STD_TORCH_CHECK(is_pointwise(call.bound.problem), "the kernel must have one tap, and no padding");
  if (addend) check("addend", *addend, call.input, call.output, call.input.dim);
  return pointwise(call, input, bias, {addend, packed, after.affine(), call.follows});
}

// Any convolution and what follows it; packed weights are taken to be those.
Tensor implicit_followed(Tensor input, Tensor weight, MaybeTensor packed, MaybeTensor bias, Tensors norm,
                         double epsilon, MaybeTensor addend, Numbers numbers) {
  const ConvCall call(input, weight, bias, numbers, true);
  const Norm after("norm", norm, epsilon, call.output[1]);
  if (addend) check("addend", *addend, call.input, call.output, call.input.dim);
  return implicit(call, input, bias, {addend, packed, after.affine(), call.follows});
}

Tensor implicit_packed(Tensor input, Tensor weight, Numbers numbers) {
  return pack_implicit(ConvCall(input, weight, {}, numbers));
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The way back through conv_native without a bias, and batch_norm of its output: the gradients of input, weight, and
// the weight and bias of the norm.
FourTensors normed_backward(Tensor grad, Tensor output, Tensor input, Tensor weight, MaybeTensor norm_weight,
                            MaybeTensor norm_bias, Tensor mean, Tensor variance, double epsilon, int64_t activation,
                            Numbers numbers, int64_t wanted) {
  const ConvCall call(input, weight, {}, numbers);
  STD_TORCH_CHECK(is_pointwise(call.bound.problem), "the kernel must have one tap, and no padding");
  check("output", output, call.input, call.output, call.input.dim);
  NormBack norm(grad, output, norm_weight, norm_bias, mean, variance, epsilon, activation);
  std::optional<Gradients> found = pointwise_gradients(call, norm, input, wanted);
  if (!found) found = pointwise_gradients(call, wanted ? norm.of_input() : output, input, wanted);
  return {std::get<0>(*found), std::get<1>(*found), norm.of_weight, norm.of_bias};
}

// The weights of pointwise convolutions of such inputs; whether each call looks if some of them have changed.
Tensor packed(Tensor input, Tensor weight, bool watched) {
  const Seen seen = check("input", input, weight.dim()), filters = check("weight", weight, weight.dim());
  STD_TORCH_CHECK(filters.dim >= 3 && filters.dim <= 5 && filters.elements() == filters.sizes[0] * filters.sizes[1] &&
                      filters.elements() > 0,
                  "`weight` must have one tap, and one to three spatial axes");
  const Tensor own = in_order(weight);
  Pointwise call{};
  call.inputs = filters.sizes[1];
  call.outputs = filters.sizes[0];
  call.by_rows = by_rows(seen);
  call.weights = {own.data_ptr(), filters.type(), call.inputs, 1};
  return pack(call, watched);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def("pointwise_pack(Tensor input, Tensor weight, bool watched=True) -> Tensor");
  library.def(
      "pointwise_followed(Tensor input, Tensor weight, Tensor? packed, Tensor? bias, Tensor[] norm, float epsilon, "
      "Tensor? addend, SymInt[] numbers) -> Tensor");
  library.def("implicit_pack(Tensor input, Tensor weight, SymInt[] numbers) -> Tensor");
  library.def(
      "implicit_followed(Tensor input, Tensor weight, Tensor? packed, Tensor? bias, Tensor[] norm, float epsilon, "
      "Tensor? addend, SymInt[] numbers) -> Tensor");
  library.def(
      "pointwise_normed_backward(Tensor grad, Tensor output, Tensor input, Tensor weight, Tensor? norm_weight, "
      "Tensor? norm_bias, Tensor mean, Tensor variance, float epsilon, int activation, SymInt[] numbers, int wanted) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("pointwise_pack", TORCH_BOX(&packed));
  library.impl("pointwise_followed", TORCH_BOX(&followed));
  library.impl("implicit_pack", TORCH_BOX(&implicit_packed));
  library.impl("implicit_followed", TORCH_BOX(&implicit_followed));
  library.impl("pointwise_normed_backward", TORCH_BOX(&normed_backward));
  library.impl("conv_native", TORCH_BOX(&forward));
  library.impl("conv_native_raw", TORCH_BOX(&forward));
  library.impl("conv_native_backward", TORCH_BOX(&backward));
  library.impl("conv_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
