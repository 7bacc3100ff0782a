// SPDX-License-Identifier: Apache-2.0
// Tensors that are gone through number by number.
#pragma once

#include "tensors.h"

namespace omniconv {

// A tensor of samples and channels whose numbers lie without gaps, as rows.
struct Rows {
  Seen seen;
  bool by_rows;
  int64_t channels, length, rows;

  Rows(const char* name, const Tensor& tensor) : seen(tensor), by_rows(!seen.contiguous()) {
    STD_TORCH_CHECK(seen.dim >= 2, "`", name, "` must have samples and channels");
    check(name, tensor, seen.dim);
    channels = seen.sizes[1];
    int64_t step = by_rows ? channels : 1;
    for (int64_t axis = seen.dim - 1; axis >= 0; --axis) {
      const bool inner = by_rows && axis == 1;
      STD_TORCH_CHECK(!by_rows || seen.sizes[axis] == 1 || seen.strides[axis] == (inner ? 1 : step), "`", name,
                      "` must lie in order, or in channels last without gaps");
      if (!inner) step *= seen.sizes[axis];
    }
    const int64_t elements = seen.elements();
    length = elements == 0 ? 0 : by_rows ? channels : elements / (seen.sizes[0] * channels);
    rows = elements == 0 ? 0 : elements / length;
  }

  // Another tensor of the same sizes: itself if it lies alike, else a copy that does.
  Tensor alike(const Tensor& other) const {
    const Seen beside(other);
    bool same = true;
    for (int64_t axis = 0; axis < seen.dim; ++axis)
      same = same && (seen.sizes[axis] == 1 || beside.strides[axis] == seen.strides[axis]);
    if (same) return other;
    Tensor copy = empty(seen.sizes, seen.dim, seen, by_rows);
    torch::stable::copy_(copy, other);
    return copy;
  }
};

}  // namespace omniconv
