// SPDX-License-Identifier: Apache-2.0
// Convolutions as products of matrices, for one instruction set.
#include "implicit_sums.h"
#include "isa_entries.h"

namespace omniconv {
namespace OMNICONV_ISA {

int64_t implicit(const Pointwise& call, float* workspace, const Host& host) {
  const auto run = call.input.type == Type::float32 ? implicit_sums<float> : implicit_sums<bf16>;
  return run(call, workspace, host);
}

int64_t pack_implicit(const Pointwise& call, float* to, const Host& host) {
  const auto run = call.weights.type == Type::float32 ? omniconv::pack_implicit<float> : omniconv::pack_implicit<bf16>;
  return run(call, to, host);
}

}  // namespace OMNICONV_ISA
}  // namespace omniconv
