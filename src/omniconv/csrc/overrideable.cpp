// SPDX-License-Identifier: Apache-2.0
// aten::convolution_overrideable on a CPU. It is the convolution that torch's own autograd differentiates and that a
// backend fills in; no kernel of torch's does so on a CPU. An autograd function in Python costs 13 µs a step more.
#include "convolve.h"

namespace omniconv {
namespace {

// As core/flat.py writes the numbers of either family.
Numbers numbers_of(const Numbers& stride, const Numbers& padding, const Numbers& dilation, bool turned,
                   const Numbers& appended, int64_t groups) {
  Numbers numbers;
  const auto list = [&](const Numbers& values, int64_t copies) {
    numbers.push_back(values.size() * copies);
    for (int64_t value : values) numbers.insert(numbers.end(), copies, value);
  };
  numbers.reserve(24);
  list(stride, 1);
  list(padding, 2);
  if (turned) list(appended, 1);
  list(dilation, 1);
  numbers.push_back(groups);
  if (!turned) numbers.push_back(0);  // zeros
  return numbers;
}

Tensor forward(Tensor input, Tensor weight, MaybeTensor bias, Numbers stride, Numbers padding, Numbers dilation,
               bool turned, Numbers appended, int64_t groups) {
  const Numbers numbers = numbers_of(stride, padding, dilation, turned, appended, groups);
  return (turned ? transposed : conv)(input, weight, bias, numbers);
}

Gradients backward(Tensor grad, Tensor input, Tensor weight, Numbers stride, Numbers padding, Numbers dilation,
                   bool turned, Numbers appended, int64_t groups, std::vector<bool> wanted) {
  const Numbers numbers = numbers_of(stride, padding, dilation, turned, appended, groups);
  int64_t bits = 0;
  for (size_t at = 0; at < wanted.size(); ++at) bits |= int64_t(wanted[at]) << at;
  return (turned ? transposed_gradients : conv_gradients)(grad, input, weight, {}, numbers, bits);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(aten, CPU, library) {
  library.impl("convolution_overrideable", TORCH_BOX(&forward));
  library.impl("convolution_backward_overrideable", TORCH_BOX(&backward));
}

}  // namespace omniconv
