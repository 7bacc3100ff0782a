// SPDX-License-Identifier: Apache-2.0
// omniconv::deformable_native and deformable_native_backward: sampled and multiplied stretch by stretch.
#include <limits>
#include <tuple>

#include "convolve.h"

namespace omniconv {
namespace {

struct DeformableCall : Call {
  Deformable deformable;
  MaybeTensor from, moved, masked;  // input, offset and mask as kernels read them
  int64_t offset_sizes[5], mask_sizes[5];

  DeformableCall(const Tensor& input_, const Tensor& offset, const Tensor& weight_, const MaybeTensor& bias,
                 const MaybeTensor& mask, const Numbers& numbers)
      : Call(input_, weight_, 2) {
    Reader reader{numbers};
    const int64_t *stride = reader.list(axes()), *padding = reader.list(2 * axes()), *dilation = reader.list(axes());
    const int64_t groups = reader.number(), shared = reader.number(), channels = weight.sizes[0];
    STD_TORCH_CHECK(reader.number() == 0, "`padding_mode` must be zeros");
    reader.end();
    STD_TORCH_CHECK(groups >= 1 && channels >= 1 && channels % groups == 0 && input.sizes[1] >= 1 &&
                        input.sizes[1] % groups == 0 && input.sizes[1] / groups == weight.sizes[1],
                    "`groups` must divide the channels, and the weight must have those of one group");
    STD_TORCH_CHECK(shared >= 1 && input.sizes[1] % shared == 0, "`offset_groups` must divide the channels");
    begin(groups, weight.sizes[1], channels / groups, channels, bias);
    convolve(2, stride, padding, dilation);
    weigh();
    const int64_t taps = shared * taps_of(bound.problem);
    STD_TORCH_CHECK(taps <= std::numeric_limits<int32_t>::max(), "the taps are too many");
    for (int64_t number = 0; number < axes(); ++number) {
      STD_TORCH_CHECK(input.sizes[2 + number] < std::numeric_limits<int32_t>::max() / 2, "an axis is past 2^30");
      offset_sizes[2 + number] = mask_sizes[2 + number] = output[2 + number];
    }
    offset_sizes[0] = mask_sizes[0] = output[0];
    offset_sizes[1] = axes() * taps;
    mask_sizes[1] = taps;
    expect("offset", offset, offset_sizes);
    if (mask) expect("mask", *mask, mask_sizes);
    from = even(input_);
    moved = even(offset);
    deformable = {bound.problem, axes(), shared, planes(*from), planes(*moved), {}, bound.weights};
    if (mask) deformable.mask = planes(*(masked = even(*mask)));
  }

  // Of the input's type, or float32: beside an input of bfloat16 positions may be exact.
  void expect(const char* name, const Tensor& tensor, const int64_t* sizes) const {
    const Seen seen = check(name, tensor, input.dim);
    STD_TORCH_CHECK(seen.dtype == input.dtype || seen.type() == Type::float32, "`", name,
                    "` must have the input's type or float32");
    check(name, tensor, seen, sizes, input.dim);
  }
};

Tensor forward(Tensor input, Tensor offset, Tensor weight, MaybeTensor bias, MaybeTensor mask, Numbers numbers) {
  const DeformableCall call(input, offset, weight, bias, mask, numbers);
  Tensor output = empty(call.output, call.input.dim, call.input, call.input.channels_inner());
  MaybeTensor added;
  if (bias) added = in_order(*bias);
  const Planes to = planes(output);
  const Host threads = host();
  const auto run = [&](float* workspace) {
    return kernels().deformable(call.deformable, to, added ? added->data_ptr() : nullptr, workspace, threads);
  };
  const Workspace workspace(run(nullptr));
  run(workspace.data);
  return output;
}

// Of the input, the offset, the weight, the bias and the mask; bit i of `wanted` asks for one of them.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(Tensor grad_, Tensor input, Tensor offset, Tensor weight,
                                                            MaybeTensor bias, MaybeTensor mask, Numbers numbers,
                                                            int64_t wanted) {
  const DeformableCall call(input, offset, weight, bias, mask, numbers);
  STD_TORCH_CHECK(bias || !(wanted & 8), "`wanted` asks for the gradient of a bias that is not there");
  STD_TORCH_CHECK(mask || !(wanted & 16), "`wanted` asks for the gradient of a mask that is not there");
  check("grad", grad_, call.input, call.output, call.input.dim);
  const Tensor grad = even(grad_);
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gradients(nothing(call.input), nothing(call.input),
                                                               nothing(call.input), nothing(call.input),
                                                               nothing(call.input));
  auto& [of_input, of_offset, of_weight, of_bias, of_mask] = gradients;
  DeformableGradients found{};
  const auto like = [](const Tensor& tensor, bool inner, Tensor& made, Planes& shown) {
    const Seen seen(tensor);
    made = empty(seen.sizes, seen.dim, seen, inner);
    shown = planes(made);
  };
  if (wanted & 1) like(input, call.input.channels_inner(), of_input, found.input);
  if (wanted & 2) like(offset, false, of_offset, found.offset);
  if (wanted & 16) like(*mask, false, of_mask, found.mask);
  found.weights = call.bound.weights;
  found.weights.data = nullptr;
  if (wanted & 4) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    found.weights.data = of_weight.data_ptr();
  }
  if (wanted & ~8) {
    const Planes from = planes(grad);
    const Host threads = host();
    const auto run = [&](float* workspace) {
      return kernels().deformable_gradient(call.deformable, from, found, workspace, threads);
    };
    const Workspace workspace(run(nullptr));
    run(workspace.data);
  }
  if (wanted & 8) of_bias = channel_totals(grad, call.input);
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("deformable_native", TORCH_BOX(&forward));
  library.impl("deformable_native_raw", TORCH_BOX(&forward));
  library.impl("deformable_native_backward", TORCH_BOX(&backward));
  library.impl("deformable_native_backward_raw", TORCH_BOX(&backward));
}

}  // namespace omniconv
