// SPDX-License-Identifier: Apache-2.0
// omniconv::follow_: what follows a convolution that another library computed, in place and in one pass.
#include "pointwise.h"

namespace omniconv {
namespace {

void follow(Tensor output, Tensors norm, double epsilon, MaybeTensor addend, int64_t number) {
  const Seen seen(output);
  STD_TORCH_CHECK(seen.dim >= 2, "`output` must have samples and channels");
  check("output", output, seen.dim);
  const bool by_rows = !seen.contiguous();
  const int64_t channels = seen.sizes[1];
  int64_t step = by_rows ? channels : 1;
  for (int64_t axis = seen.dim - 1; axis >= 0; --axis) {
    const bool inner = by_rows && axis == 1;
    STD_TORCH_CHECK(!by_rows || seen.sizes[axis] == 1 || seen.strides[axis] == (inner ? 1 : step),
                    "`output` must lie in order, or in channels last without gaps");
    if (!inner) step *= seen.sizes[axis];
  }
  const Norm after("norm", norm, epsilon, channels);
  if (addend) check("addend", *addend, seen, seen.sizes, seen.dim);
  Followed call{output.data_ptr(), nullptr, seen.type(), 0, 0, channels, by_rows, after.affine(), activation(number)};
  const int64_t elements = seen.elements();
  if (elements == 0) return;
  MaybeTensor added;
  if (addend) {
    const Seen beside(*addend);
    bool alike = true;
    for (int64_t axis = 0; axis < seen.dim; ++axis)
      alike = alike && (seen.sizes[axis] == 1 || beside.strides[axis] == seen.strides[axis]);
    added = *addend;
    if (!alike) {
      Tensor copy = empty(seen.sizes, seen.dim, seen, by_rows);
      torch::stable::copy_(copy, *addend);
      added = copy;
    }
    call.addend = added->data_ptr();
  }
  call.length = by_rows ? channels : elements / (seen.sizes[0] * channels);
  call.rows = elements / call.length;
  kernels().follow(call, host());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def("follow_(Tensor(a!) output, Tensor[] norm, float epsilon, Tensor? addend, int activation) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CPU, library) { library.impl("follow_", TORCH_BOX(&follow)); }

}  // namespace omniconv
