// SPDX-License-Identifier: Apache-2.0
// omniconv::depthwise_separable_native and its backward: what stands between the two convolutions is computed box by
// box, and computed anew for the gradients. And inverted_followed, before which stands a pointwise convolution.
#include "pointwise.h"

namespace omniconv {
namespace {

// A pointwise weight in order, of so many input channels; `name` says which.
Tensor across_weight(const char* name, const Tensor& given, const Seen& input, int64_t channels) {
  const Seen seen = check(name, given, input.dim);
  STD_TORCH_CHECK(seen.dtype == input.dtype, "`", name, "` has another type than the input");
  STD_TORCH_CHECK(seen.sizes[0] >= 1 && seen.sizes[1] == channels && seen.elements() == seen.sizes[0] * channels, "`",
                  name, "` must have one tap, and ", channels, " channels");
  return in_order(given);
}

struct SeparableCall : Call {
  MaybeTensor expanding;  // the weight of the pointwise convolution before these two
  Tensor across;          // the pointwise weight behind
  Activation before = Activation::none, between = Activation::none, follows = Activation::none;
  int64_t middle[5];  // sizes of what stands between

  SeparableCall(const Tensor& input_, const Tensor& weight_, const Tensor& across_, const MaybeTensor& bias,
                const MaybeTensor& depthwise_bias, const Numbers& numbers, bool followed = false,
                const MaybeTensor& expanding_ = {})
      : Call(input_, weight_, 2), across(across_) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    if (followed) {
      between = activation(reader.number());
      follows = activation(reader.number());
    }
    if (expanding_) before = activation(reader.number());
    reader.end();
    int64_t channels = input.sizes[1];
    if (expanding_) {
      expanding = across_weight("expansion_weight", *expanding_, input, channels);
      channels = Seen(*expanding).sizes[0];
    }
    const int64_t filters = weight.sizes[0];
    STD_TORCH_CHECK(channels >= 1 && filters >= 1 && filters % channels == 0 && weight.sizes[1] == 1,
                    "`depthwise_weight` must have filters of one channel, as many for each of the input");
    across = across_weight("pointwise_weight", across_, input, filters);
    begin(channels, 1, filters / channels, filters, depthwise_bias);
    convolve(2, stride, padding, dilation);
    weigh();
    for (int64_t axis = 0; axis < input.dim; ++axis) middle[axis] = output[axis];
    output[1] = Seen(across).sizes[0];
    if (bias) check("bias", *bias, input, output + 1, 1);
  }
};

struct Following {
  MaybeTensor addend, packed;
  Affine between{}, after{};
};

// The pointwise convolution before the depthwise one.
struct Expanding {
  MaybeTensor bias, packed;
  Affine after{};
};

Tensor forward_of(const SeparableCall& call, const Tensor& input_, const MaybeTensor& bias,
                  const MaybeTensor& depthwise_bias, const Following& following = {}, const Expanding& expanding = {}) {
  const Problem& problem = call.bound.problem;
  Fused fused{};
  Pointwise& across = fused.pointwise;
  across.batch = problem.batch;
  across.inputs = call.middle[1];
  across.outputs = call.output[1];
  for (int axis = 0; axis < 3; ++axis) across.size[axis] = problem.axis[axis].narrow;
  across.by_rows = call.input.channels_inner();
  across.weights = {call.across.data_ptr(), call.input.type(), across.inputs, 1};
  across.activation = call.follows;
  across.affine = following.after;
  use_packed(across, following.packed);
  const Tensor input = laid(input_, across.by_rows);
  Tensor output = empty(call.output, call.input.dim, call.input, across.by_rows);
  across.input = across.output = view(output);
  MaybeTensor shifts, shift, added, first;
  if (bias) across.bias = (shift = in_order(*bias))->data_ptr();
  if (depthwise_bias) fused.depthwise_bias = (shifts = in_order(*depthwise_bias))->data_ptr();
  if (following.addend) across.addend = view(*(added = laid(*following.addend, across.by_rows)));
  fused.depthwise = problem;
  fused.input = view(input);
  fused.taps = call.bound.weights;
  fused.affine = following.between;
  fused.between = call.between;
  Pointwise expansion{};
  if (call.expanding) {
    expansion.batch = problem.batch;
    expansion.inputs = call.input.sizes[1];
    expansion.outputs = problem.groups;
    for (int axis = 0; axis < 3; ++axis) expansion.size[axis] = problem.axis[axis].wide;
    expansion.by_rows = across.by_rows;
    expansion.weights = {call.expanding->data_ptr(), call.input.type(), expansion.inputs, 1};
    expansion.activation = call.before;
    expansion.affine = expanding.after;
    use_packed(expansion, expanding.packed);
    expansion.input = expansion.output = fused.input;
    if (expanding.bias) expansion.bias = (first = in_order(*expanding.bias))->data_ptr();
    fused.expansion = &expansion;
  }
  const Host threads = host();
  const auto once = [&] {
    const Workspace workspace(kernels().fused(fused, nullptr, threads));
    return kernels().fused(fused, workspace.data, threads);
  };
  if (once() != CHANGED) return output;
  forget_packed(across);
  forget_packed(expansion);
  once();
  return output;
}

Tensor forward(Tensor input, Tensor depthwise, Tensor across, MaybeTensor bias, MaybeTensor depthwise_bias,
               Numbers numbers) {
  const SeparableCall call(input, depthwise, across, bias, depthwise_bias, numbers);
  return forward_of(call, input, bias, depthwise_bias);
}

// The same with norms behind each part, an addend, and the activations whose numbers end the others.
Tensor followed(Tensor input, Tensor depthwise, MaybeTensor depthwise_bias, Tensors mid_norm, double mid_epsilon,
                Tensor across, MaybeTensor packed, MaybeTensor bias, Tensors norm, double epsilon, MaybeTensor addend,
                Numbers numbers) {
  const SeparableCall call(input, depthwise, across, bias, depthwise_bias, numbers, true);
  const Norm between("mid_norm", mid_norm, mid_epsilon, call.middle[1]), after("norm", norm, epsilon, call.output[1]);
  if (addend) check("addend", *addend, call.input, call.output, call.input.dim);
  return forward_of(call, input, bias, depthwise_bias, {addend, packed, between.affine(), after.affine()});
}

// The same behind a pointwise convolution with a norm and the activation whose number is the last.
Tensor inverted(Tensor input, Tensor expansion, MaybeTensor expansion_packed, MaybeTensor expansion_bias,
                Tensors expansion_norm, double expansion_epsilon, Tensor depthwise, MaybeTensor depthwise_bias,
                Tensors mid_norm, double mid_epsilon, Tensor across, MaybeTensor packed, MaybeTensor bias, Tensors norm,
                double epsilon, MaybeTensor addend, Numbers numbers) {
  const SeparableCall call(input, depthwise, across, bias, depthwise_bias, numbers, true, expansion);
  const int64_t expanded = call.bound.problem.groups;
  const Norm before("expansion_norm", expansion_norm, expansion_epsilon, expanded);
  const Norm between("mid_norm", mid_norm, mid_epsilon, call.middle[1]), after("norm", norm, epsilon, call.output[1]);
  if (expansion_bias) check("expansion_bias", *expansion_bias, call.input, &expanded, 1);
  if (addend) check("addend", *addend, call.input, call.output, call.input.dim);
  return forward_of(call, input, bias, depthwise_bias, {addend, packed, between.affine(), after.affine()},
                    {expansion_bias, expansion_packed, before.affine()});
}

// The pointwise convolution of what stands between.
struct AcrossCall : Call {
  AcrossCall(const Tensor& between, const Tensor& across) : Call(between, across, 2) {
    const int64_t ones[3] = {1, 1, 1}, none[6] = {0, 0, 0, 0, 0, 0};
    begin(1, weight.sizes[1], weight.sizes[0], weight.sizes[0], {});
    convolve(2, ones, none, ones);
    weigh();
  }
};

using All = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // of every tensor of the schema

All gradients(const SeparableCall& call, const Tensor& grad, const Tensor& input, const Tensor& across,
              const MaybeTensor& depthwise_bias, int64_t wanted) {
  const Tensor from = readable(input);
  const bool inner = wanted & (1 | 2 | 16);  // those of the depthwise convolution
  Tensor of_input = nothing(call.input), of_depthwise = of_input, of_depthwise_bias = of_input;
  const Tensor between = wanted & 4 ? sums(call.bound, false, from, call.middle, call.input, depthwise_bias)
                                    : empty(call.middle, call.input.dim, call.input, call.input.channels_inner());
  const int64_t outer = (inner ? 1 : 0) | (wanted & 4 ? 2 : 0) | (wanted & 8 ? 4 : 0);
  auto [of_between, of_across, of_bias] = pointwise_gradients(AcrossCall(between, across), grad, between, outer);
  if (inner) {
    Call first = call;
    first.output[1] = call.middle[1];
    const int64_t asked = (wanted & 3) | (wanted & 16 ? 4 : 0);
    std::tie(of_input, of_depthwise, of_depthwise_bias) = gradients_of(first, false, of_between, from, asked);
  }
  return {of_input, of_depthwise, of_across, of_bias, of_depthwise_bias};
}

Tensor in_type(const Tensor& tensor, int32_t dtype) {
  Seen like(tensor);
  if (like.dtype == dtype) return tensor;
  like.dtype = dtype;
  Tensor copy = empty(like.sizes, like.dim, like, like.dim > 2 && like.channels_inner());
  torch::stable::copy_(copy, tensor);
  return copy;
}

// What stands between the two, and its gradient, are not rounded: in bfloat16 all is computed in float32.
All backward(Tensor grad, Tensor input, Tensor depthwise, Tensor across, MaybeTensor bias, MaybeTensor depthwise_bias,
             Numbers numbers, int64_t wanted) {
  const SeparableCall call(input, depthwise, across, bias, depthwise_bias, numbers);
  STD_TORCH_CHECK(bias || !(wanted & 8), "`wanted` asks for the gradient of a bias that is not there");
  STD_TORCH_CHECK(depthwise_bias || !(wanted & 16), "`wanted` asks for the gradient of a bias that is not there");
  check("grad", grad, call.input, call.output, call.input.dim);
  if (call.input.type() == Type::float32) return gradients(call, grad, input, across, depthwise_bias, wanted);
  const int32_t exact = aoti_torch_dtype_float32(), given = call.input.dtype;
  const Tensor wide = in_type(input, exact), across_ = in_type(across, exact);
  MaybeTensor shift;
  if (depthwise_bias) shift = in_type(*depthwise_bias, exact);
  const SeparableCall twin(wide, in_type(depthwise, exact), across_, {}, shift, numbers);
  All found = gradients(twin, in_type(grad, exact), wide, across_, shift, wanted);
  return std::apply([&](const auto&... one) { return All(in_type(one, given)...); }, found);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def(
      "separable_followed(Tensor input, Tensor depthwise_weight, Tensor? depthwise_bias, Tensor[] mid_norm, "
      "float mid_epsilon, Tensor pointwise_weight, Tensor? packed, Tensor? bias, Tensor[] norm, float epsilon, "
      "Tensor? addend, SymInt[] numbers) -> Tensor");
  library.def(
      "inverted_followed(Tensor input, Tensor expansion_weight, Tensor? expansion_packed, Tensor? expansion_bias, "
      "Tensor[] expansion_norm, float expansion_epsilon, Tensor depthwise_weight, Tensor? depthwise_bias, "
      "Tensor[] mid_norm, float mid_epsilon, Tensor pointwise_weight, Tensor? packed, Tensor? bias, Tensor[] norm, "
      "float epsilon, Tensor? addend, SymInt[] numbers) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("depthwise_separable_native", TORCH_BOX(&forward));
  library.impl("depthwise_separable_native_raw", TORCH_BOX(&forward));
  library.impl("depthwise_separable_native_backward", TORCH_BOX(&backward));
  library.impl("depthwise_separable_native_backward_raw", TORCH_BOX(&backward));
  library.impl("separable_followed", TORCH_BOX(&followed));
  library.impl("inverted_followed", TORCH_BOX(&inverted));
}

}  // namespace omniconv
