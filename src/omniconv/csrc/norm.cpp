// SPDX-License-Identifier: Apache-2.0
// omniconv::batch_norm: in training, with an activation behind it; and the way back through both.
#include <cmath>

#include "norm.h"
#include "pointwise.h"

namespace omniconv {
namespace {

void read(const char* name, const MaybeTensor& tensor, const Rows& lie, float* to, float otherwise) {
  MaybeTensor own;
  const void* data = nullptr;
  if (tensor) {
    check(name, *tensor, lie.seen, &lie.channels, 1);
    data = (own = in_order(*tensor))->data_ptr();
  }
  for (int64_t c = 0; c < lie.channels; ++c)
    to[c] = !data ? otherwise
            : lie.seen.type() == Type::float32 ? static_cast<const float*>(data)[c]
                                               : widened(static_cast<const bf16*>(data)[c]);
}

Tensor numbers(const Rows& lie) {
  Seen like = lie.seen;
  like.dtype = aoti_torch_dtype_float32();
  return empty(&lie.channels, 1, like, false);
}

Normed begun(const Rows& lie, const Tensor& input, Activation activation) {
  Normed call{};
  call.input = input.data_ptr();
  call.type = lie.seen.type();
  call.rows = lie.rows;
  call.length = lie.length;
  call.channels = lie.channels;
  call.by_rows = lie.by_rows;
  call.activation = activation;
  return call;
}

std::vector<double> sums(const Normed& call) {
  std::vector<double> totals(size_t(2 * call.channels));
  const Host threads = host();
  const Workspace workspace(kernels().norm_sums(call, nullptr, nullptr, threads));
  kernels().norm_sums(call, totals.data(), workspace.data, threads);
  return totals;
}

float wide(float value) { return value; }
float wide(bf16 value) { return widened(value); }

// Near the mean of each channel: that of a few of its numbers, which lie far apart. Squares of distances from one alone
// may be many times the variance, and as much less exact.
constexpr int64_t PILOTS = 16;

template <class T>
void begin(const Normed& call, float* pilot) {
  const T* input = static_cast<const T*>(call.input);
  const int64_t samples = call.rows * (call.by_rows ? 1 : call.length) / (call.by_rows ? 1 : call.channels);
  const int64_t taken = samples < PILOTS ? samples : PILOTS;
  for (int64_t c = 0; c < call.channels; ++c) pilot[c] = 0;
  for (int64_t one = 0; one < taken; ++one) {
    const int64_t sample = samples * one / taken;
    for (int64_t c = 0; c < call.channels; ++c) {
      const int64_t in_order = (sample / call.length * call.channels + c) * call.length + sample % call.length;
      pilot[c] += wide(input[call.by_rows ? sample * call.channels + c : in_order]) / float(taken);
    }
  }
}

using Normal = std::tuple<Tensor, Tensor, Tensor>;

// The result, and in float32 the mean and the variance (of all numbers, not one fewer) of each channel.
Normal batch_norm(Tensor input, MaybeTensor weight, MaybeTensor bias, double epsilon, int64_t number) {
  const Rows lie("input", input);
  STD_TORCH_CHECK(lie.rows > 0, "`input` must have numbers");
  const Activation after = activation(number);
  Normed call = begun(lie, input, after);
  const double count = double(lie.rows * lie.length / lie.channels);
  const Lines own(5, lie.channels);
  float *pilot = own.line(0), *scale = own.line(1), *shift = own.line(2), *factor = own.line(3), *added = own.line(4);
  lie.seen.type() == Type::float32 ? begin<float>(call, pilot) : begin<bf16>(call, pilot);
  call.pilot = pilot;
  call.activation = Activation::none;
  const std::vector<double> totals = sums(call);
  read("weight", weight, lie, factor, 1);
  read("bias", bias, lie, added, 0);
  Normal found(empty(lie.seen.sizes, lie.seen.dim, lie.seen, lie.by_rows), numbers(lie), numbers(lie));
  float* mean = static_cast<float*>(std::get<1>(found).data_ptr());
  float* variance = static_cast<float*>(std::get<2>(found).data_ptr());
  for (int64_t c = 0; c < lie.channels; ++c) {
    const double beside = totals[c] / count, spread = totals[lie.channels + c] / count - beside * beside;
    const double kept = spread > 0 || std::isnan(spread) ? spread : 0, middle = pilot[c] + beside;
    const double slope = factor[c] / std::sqrt(kept + epsilon);
    mean[c] = float(middle);
    variance[c] = float(kept);
    scale[c] = float(slope);
    shift[c] = float(added[c] - middle * slope);
  }
  call.affine = {scale, shift};
  call.activation = after;
  call.to = std::get<0>(found).data_ptr();
  kernels().normalize(call, host());
  return found;
}

Normed checked(const Rows& lie, const Tensor& input, int64_t number) {
  STD_TORCH_CHECK(lie.rows > 0, "`input` must have numbers");
  return begun(lie, input, activation(number));
}

Tensor alike(const Rows& lie, const char* name, const Tensor& tensor) {
  check(name, tensor, lie.seen, lie.seen.sizes, lie.seen.dim);
  return lie.alike(tensor);
}

Tensor line_of(const Rows& lie, const char* name, const Tensor& tensor) {
  Seen exact = lie.seen;
  exact.dtype = aoti_torch_dtype_float32();
  check(name, tensor, exact, &lie.channels, 1);
  return in_order(tensor);
}

}  // namespace

NormBack::NormBack(const Tensor& grad_, const Tensor& input, const MaybeTensor& weight, const MaybeTensor& bias,
                   const Tensor& mean, const Tensor& variance, double epsilon, int64_t number)
    : lie("input", input),
      grad(alike(lie, "grad", grad_)),
      middle(line_of(lie, "mean", mean)),
      spread(line_of(lie, "variance", variance)),
      own(7, lie.channels),
      call(checked(lie, input, number)),
      of_weight(numbers(lie)),
      of_bias(numbers(lie)) {
  const float *at = static_cast<const float*>(middle.data_ptr()), *wide = static_cast<const float*>(spread.data_ptr());
  call.grad = grad.data_ptr();
  const double count = double(lie.rows * lie.length / lie.channels);
  float *scale = own.line(0), *shift = own.line(1), *factor = own.line(2), *added = own.line(3);
  float *of_grad = own.line(4), *of_input = own.line(5), *rest = own.line(6);
  read("weight", weight, lie, factor, 1);
  read("bias", bias, lie, added, 0);
  for (int64_t c = 0; c < lie.channels; ++c) {
    const double slope = factor[c] / std::sqrt(double(wide[c]) + epsilon);
    scale[c] = float(slope);
    shift[c] = float(added[c] - at[c] * slope);
  }
  call.affine = {scale, shift};
  call.pilot = at;
  const std::vector<double> totals = sums(call);
  float *to_weight = static_cast<float*>(of_weight.data_ptr()), *to_bias = static_cast<float*>(of_bias.data_ptr());
  for (int64_t c = 0; c < lie.channels; ++c) {
    const double steep = 1 / std::sqrt(double(wide[c]) + epsilon), slope = factor[c] * steep;
    to_bias[c] = float(totals[c]);
    to_weight[c] = float(totals[lie.channels + c] * steep);
    const double curve = -slope * steep * steep * totals[lie.channels + c] / count;
    of_grad[c] = float(slope);
    of_input[c] = float(curve);
    rest[c] = float(-slope * totals[c] / count - curve * at[c]);
  }
  call.of_grad = of_grad;
  call.of_input = of_input;
  call.rest = rest;
}

Tensor NormBack::of_input() {
  Tensor found = empty(lie.seen.sizes, lie.seen.dim, lie.seen, lie.by_rows);
  call.to = found.data_ptr();
  kernels().normalize(call, host());
  return found;
}

namespace {

// The gradients of input, weight and bias.
Normal batch_norm_backward(Tensor grad, Tensor input, MaybeTensor weight, MaybeTensor bias, Tensor mean,
                           Tensor variance, double epsilon, int64_t number) {
  NormBack back(grad, input, weight, bias, mean, variance, epsilon, number);
  return {back.of_input(), back.of_weight, back.of_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def(
      "batch_norm(Tensor input, Tensor? weight, Tensor? bias, float epsilon, int activation) -> (Tensor, Tensor, Tensor)");
  library.def(
      "batch_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor variance, "
      "float epsilon, int activation) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("batch_norm", TORCH_BOX(&batch_norm));
  library.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace omniconv
