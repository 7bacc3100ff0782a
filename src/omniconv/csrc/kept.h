// SPDX-License-Identifier: Apache-2.0
// Memory of large results, kept for those that come after them: fresh pages cost more than the numbers written to them.
#pragma once

#include "tensors.h"

namespace omniconv {

// A new tensor in such memory; none where nothing is kept, the tensor is small, or torch is older than 2.11.
std::optional<Tensor> in_kept_memory(const int64_t* sizes, const int64_t* strides, int64_t dim, int32_t dtype,
                                     int64_t bytes);

}  // namespace omniconv
