// SPDX-License-Identifier: Apache-2.0
#include "pointwise.h"

#include <atomic>
#include <cmath>

#include "witness.h"

namespace omniconv {
namespace {

// The positions of the wide tensor that the narrow one meets.
View stepped(const Tensor& tensor, const Problem& problem) {
  View shown = view(tensor);
  for (int axis = 0; axis < 3; ++axis) shown.axis[axis] *= problem.axis[axis].stride;
  return shown;
}

Pointwise begun(const Call& call) {
  const Problem& problem = call.bound.problem;
  Pointwise found{};
  found.batch = problem.batch;
  found.inputs = problem.wide;
  found.outputs = problem.narrow;
  for (int axis = 0; axis < 3; ++axis) found.size[axis] = problem.axis[axis].narrow;
  found.by_rows = by_rows(call.input);
  found.weights = {call.bound.weights.data, call.input.type(), problem.wide, 1};
  return found;
}

void run(Pointwise& call) {
  const Host threads = host();
  const auto once = [&] {
    const Workspace workspace(kernels().pointwise(call, nullptr, threads));
    return kernels().pointwise(call, workspace.data, threads);
  };
  if (once() != CHANGED) return;
  forget_packed(call);
  once();
}

Tensor input_gradient(const Call& call, const Pointwise& forward, const Tensor& grad) {
  const Problem& problem = call.bound.problem;
  Tensor found = empty(call.input.sizes, call.input.dim, call.input, call.input.channels_inner());
  bool all = true;
  for (const Axis& axis : problem.axis) all = all && axis.wide == axis.narrow;
  if (!all) torch::stable::zero_(found);
  Pointwise back = forward;
  back.inputs = problem.narrow;
  back.outputs = problem.wide;
  back.input = view(grad);
  back.output = stepped(found, problem);
  back.weights.row = 1;
  back.weights.column = problem.wide;
  run(back);
  return found;
}

// Before packed weights stand a line, which says for what layout and inputs they are, and those that are looked at.
constexpr int64_t HEADER = 16;

// Threads may share packed weights, and one of them forget them.
std::atomic<int32_t>* layout_of(float* memory) { return reinterpret_cast<std::atomic<int32_t>*>(memory); }

struct Packed {
  int64_t samples, weights, all;  // floats of each, and of the tensor
  int32_t layout;  // 0 where they are forgotten

  explicit Packed(const Pointwise& call) {
    samples = call.taps ? 0 : witnesses(call);
    weights = kernels().pack(call, nullptr, host());
    all = HEADER + (samples + HEADER - 1) / HEADER * HEADER + weights;
    layout = call.taps ? 3 : call.by_rows ? 1 : 2;
  }

  void fill(const Pointwise& call, bool watched, float* memory) const {
    *layout_of(memory) = layout;
    memory[2] = watched;
    memory[1] = float(call.inputs);  // else those of the turned weights, of as many samples, would fit
    for (int64_t at = 0; at < samples; ++at) memory[HEADER + at] = witness(call, at);
    kernels().pack(call, memory + all - weights, host());
  }
};

}  // namespace

bool by_rows(const Seen& seen) {
  int64_t positions = 1;
  for (int64_t axis = 2; axis < seen.dim; ++axis) positions *= seen.sizes[axis];
  return seen.channels_inner() || (positions == 1 && seen.strides[1] == 1);
}

Tensor laid(const Tensor& tensor, bool by_rows) {
  const Seen seen(tensor);
  if (!by_rows) return seen.strides[seen.dim - 1] == 1 || seen.sizes[seen.dim - 1] == 1 ? tensor : in_order(tensor);
  if (seen.strides[1] == 1) return tensor;
  Tensor copy = empty(seen.sizes, seen.dim, seen, true);
  torch::stable::copy_(copy, tensor);
  return copy;
}

Tensor pack(const Pointwise& call, bool watched) {
  const Packed packed(call);
  const int64_t floats = packed.weights ? packed.all : 0;
  AtenTensorHandle made;
  const int64_t step = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &floats, &step, aoti_torch_dtype_float32(),
                                                         aoti_torch_device_type_cpu(), 0, &made));
  Tensor found(made);
  if (floats) packed.fill(call, watched, static_cast<float*>(found.data_ptr()));
  return found;
}

void forget_packed(Pointwise& call) {
  if (call.kept) *layout_of(const_cast<float*>(call.kept) - HEADER) = 0;
  call.packed = call.kept = nullptr;
}

void use_packed(Pointwise& call, const MaybeTensor& given) {
  if (!given) return;
  const Seen seen(*given);
  const Packed packed(call);
  if (!given->is_cpu() || seen.dim != 1 || seen.dtype != aoti_torch_dtype_float32() || !packed.weights ||
      seen.sizes[0] != packed.all || seen.strides[0] != 1)
    return;
  float* memory = static_cast<float*>(given->data_ptr());
  if (*layout_of(memory) != packed.layout || memory[1] != float(call.inputs)) return;
  // Not every change is counted by torch: `.data` and storage that is shared write past it.
  if (memory[2] != 0) call.kept = memory + HEADER;
  call.packed = memory + packed.all - packed.weights;
}

Activation activation(int64_t number) {
  STD_TORCH_CHECK(0 <= number && number <= int64_t(Activation::hardswish), "there is no activation number ", number);
  return Activation(number);
}

Norm::Norm(const char* name, const Tensors& given, double epsilon, int64_t channels)
    : memory(given.empty() ? 0 : 2 * channels) {
  STD_TORCH_CHECK(given.empty() || given.size() == 2 || given.size() == 4, "`", name,
                  "` must be of no tensors, of two, or of four");
  if (given.empty()) return;
  scale = memory.data;
  shift = scale + channels;
  const auto column = [&](size_t at) {
    const Tensor own = in_order(given[at]);
    const Seen seen = check(name, own, 1);
    STD_TORCH_CHECK(seen.sizes[0] == channels, "`", name, "` has tensors of ", seen.sizes[0],
                    " elements, and they must have ", channels);
    const bool wide = seen.type() == Type::float32;
    std::vector<float> found(channels);
    for (int64_t c = 0; c < channels; ++c)
      found[c] = wide ? static_cast<const float*>(own.data_ptr())[c]
                      : widened(static_cast<const bf16*>(own.data_ptr())[c]);
    return found;
  };
  const bool batch = given.size() == 4;
  const std::vector<float> factor = column(batch ? 2 : 0), added = column(batch ? 3 : 1);
  const std::vector<float> mean = batch ? column(0) : std::vector<float>(channels, 0);
  const std::vector<float> variance = batch ? column(1) : std::vector<float>();
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = batch ? factor[c] / std::sqrt(variance[c] + float(epsilon)) : factor[c];
    shift[c] = added[c] - mean[c] * scale[c];
  }
}

bool is_pointwise(const Problem& problem) {
  for (const Axis& axis : problem.axis)
    if (axis.taps != 1 || axis.before != 0 || axis.stride * (axis.narrow - 1) >= axis.wide) return false;
  return problem.groups == 1;
}

namespace {

// What a call makes of an input that lies at `from`, and what follows, in a new tensor.
Tensor computed(Pointwise forward, const Call& call, const View& from, bool channels_inner, const MaybeTensor& bias,
                const Follow& follow) {
  Tensor output = empty(call.output, call.input.dim, call.input, channels_inner);
  MaybeTensor shift, addend;
  if (bias) forward.bias = (shift = in_order(*bias))->data_ptr();
  if (follow.addend) forward.addend = view(*(addend = laid(*follow.addend, forward.by_rows)));
  forward.input = from;
  forward.output = view(output);
  forward.affine = follow.affine;
  forward.activation = follow.activation;
  use_packed(forward, follow.packed);
  run(forward);
  return output;
}

Pointwise begun_implicit(const Call& call) {
  Pointwise found = begun(call);
  found.taps = &call.bound.problem;
  found.by_rows = true;
  return found;
}

}  // namespace

Tensor pointwise(const Call& call, const Tensor& input, const MaybeTensor& bias, const Follow& follow) {
  const Pointwise forward = begun(call);
  const Tensor from = laid(input, forward.by_rows);
  return computed(forward, call, stepped(from, call.bound.problem), call.input.channels_inner(), bias, follow);
}

Tensor implicit(const Call& call, const Tensor& input, const MaybeTensor& bias, const Follow& follow) {
  const Tensor from = readable(input);
  return computed(begun_implicit(call), call, view(from), true, bias, follow);
}

Tensor pack_implicit(const Call& call) { return pack(begun_implicit(call), false); }

Gradients pointwise_gradients(const Call& call, const Tensor& grad_, const Tensor& input, int64_t wanted) {
  check("grad", grad_, call.input, call.output, call.input.dim);
  const Pointwise forward = begun(call);
  const Tensor grad = laid(grad_, forward.by_rows);
  Gradients gradients(nothing(call.input), nothing(call.input), nothing(call.input));
  auto& [of_input, of_weight, of_bias] = gradients;
  if (wanted & 1) of_input = input_gradient(call, forward, grad);
  if (wanted & 2) {
    of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
    Pointwise sides = forward;
    const Tensor from = laid(input, forward.by_rows);
    sides.input = stepped(from, call.bound.problem);
    sides.output = view(grad);
    const Matrix gradient{of_weight.data_ptr(), call.input.type(), forward.inputs, 1};
    const Host threads = host();
    const Workspace workspace(kernels().pointwise_gradient(sides, gradient, nullptr, threads));
    kernels().pointwise_gradient(sides, gradient, workspace.data, threads);
  }
  if (wanted & 4) of_bias = channel_totals(grad, call.input);
  return gradients;
}

std::optional<Gradients> pointwise_gradients(const Call& call, const NormBack& norm, const Tensor& input,
                                             int64_t wanted) {
  Pointwise forward = begun(call);
  bool at_once = (wanted & 2) && norm.lie.by_rows && forward.by_rows && call.input.type() == Type::float32;
  for (const Axis& axis : call.bound.problem.axis) at_once = at_once && axis.stride == 1;
  if (!at_once) return std::nullopt;
  const Tensor from = laid(input, true);
  forward.input = view(from);
  const bool asks = wanted & 1;
  Tensor of_input = asks ? empty(call.input.sizes, call.input.dim, call.input, true) : nothing(call.input);
  Tensor of_weight = empty(call.weight.sizes, call.weight.dim, call.weight, false);
  Pointwise back = forward;
  back.inputs = forward.outputs;
  back.outputs = forward.inputs;
  back.weights.row = 1;
  back.weights.column = forward.inputs;
  if (asks) back.output = view(of_input);
  const Matrix gradient{of_weight.data_ptr(), Type::float32, forward.inputs, 1};
  const Host threads = host();
  const auto run = [&](float* workspace) {
    return kernels().normed_gradient(norm.call, forward, asks ? &back : nullptr, gradient, workspace, threads);
  };
  const int64_t floats = run(nullptr);
  if (!floats) return std::nullopt;
  const Workspace workspace(floats);
  run(workspace.data);
  return Gradients(of_input, of_weight, nothing(call.input));
}

}  // namespace omniconv
