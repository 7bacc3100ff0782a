// SPDX-License-Identifier: Apache-2.0
#include "convolve.h"

namespace omniconv {

Tensor sums(const Bound& bound, bool scatter, const Tensor& from, const int64_t* sizes, const Seen& like,
            const MaybeTensor& bias) {
  const Tensor read = readable(from);
  Tensor output = empty(sizes, like.dim, like, like.channels_inner());
  MaybeTensor added;
  if (bias) added = in_order(*bias);
  kernels().sums(bound.problem, scatter, view(read), view(output), bound.weights, added ? added->data_ptr() : nullptr,
                 host());
  return output;
}

void weight_gradient(const Bound& bound, const Tensor& wide, const Tensor& narrow, const Weights& gradient,
                     void* bias_gradient) {
  const Tensor first = readable(wide), second = readable(narrow);
  const Host threads = host();
  const View from = view(first), by = view(second);
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

}  // namespace omniconv
