// SPDX-License-Identifier: Apache-2.0
// omniconv::follow_: what follows a convolution that was computed before, in place and in one pass; activate: the same of
// an activation alone, beside what it is computed from; activation_backward: the way back through it, with the gradient of
// a bias before it.
#include "pointwise.h"
#include "rows.h"

namespace omniconv {
namespace {

Followed begun(const Rows& lie, const Tensor& to, const Tensor& from, int64_t number) {
  return {to.data_ptr(), from.data_ptr(), nullptr, lie.seen.type(), lie.rows, lie.length, lie.channels, lie.by_rows, {},
          activation(number)};
}

void follow(Tensor output, Tensors norm, double epsilon, MaybeTensor addend, int64_t number) {
  const Rows lie("output", output);
  const Norm after("norm", norm, epsilon, lie.channels);
  if (addend) check("addend", *addend, lie.seen, lie.seen.sizes, lie.seen.dim);
  Followed call = begun(lie, output, output, number);
  call.affine = after.affine();
  if (lie.rows == 0) return;
  MaybeTensor added;
  if (addend) call.addend = (added = lie.alike(*addend))->data_ptr();
  kernels().follow(call, host());
}

Tensor activate(Tensor input, int64_t number) {
  const Rows lie("input", input);
  Tensor output = empty(lie.seen.sizes, lie.seen.dim, lie.seen, lie.by_rows);
  if (lie.rows > 0) kernels().follow(begun(lie, output, input, number), host());
  return output;
}

std::tuple<Tensor, Tensor> activation_backward(Tensor grad, Tensor kept, int64_t number, bool totals) {
  const Rows lie("kept", kept);
  check("grad", grad, lie.seen, lie.seen.sizes, lie.seen.dim);
  std::tuple<Tensor, Tensor> found(empty(lie.seen.sizes, lie.seen.dim, lie.seen, lie.by_rows), nothing(lie.seen));
  auto& [of_input, of_bias] = found;
  if (totals) of_bias = empty(&lie.channels, 1, lie.seen, false);
  const Tensor from = lie.alike(grad);
  const ActivationGradient call{from.data_ptr(),      kept.data_ptr(), of_input.data_ptr(),
                                totals ? of_bias.data_ptr() : nullptr, lie.seen.type(), lie.rows, lie.length,
                                lie.channels,         lie.by_rows,     activation(number)};
  const Host threads = host();
  const Workspace workspace(kernels().activation_gradient(call, nullptr, threads));
  kernels().activation_gradient(call, workspace.data, threads);
  return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def("activate(Tensor input, int activation) -> Tensor");
  library.def("activation_backward(Tensor grad, Tensor kept, int activation, bool totals) -> (Tensor, Tensor)");
  library.def("follow_(Tensor(a!) output, Tensor[] norm, float epsilon, Tensor? addend, int activation) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) {
  library.impl("follow_", TORCH_BOX(&follow));
  library.impl("activate", TORCH_BOX(&activate));
  library.impl("activation_backward", TORCH_BOX(&activation_backward));
}

}  // namespace omniconv
