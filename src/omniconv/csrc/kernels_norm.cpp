// SPDX-License-Identifier: Apache-2.0
// Batch norms in training for one instruction set.
#include "isa_entries.h"
#include "norm_passes.h"

namespace omniconv {
namespace {

template <class T>
int64_t sums(const Normed& call, double* totals, float* workspace, const Host& host) {
  const NormPass<T> pass(call);
  if (workspace) pass.sums(totals, workspace, host);
  return pass.floats();
}

}  // namespace

namespace OMNICONV_ISA {

int64_t norm_sums(const Normed& call, double* totals, float* workspace, const Host& host) {
  const auto run = call.type == Type::float32 ? omniconv::sums<float> : omniconv::sums<bf16>;
  return run(call, totals, workspace, host);
}

void normalize(const Normed& call, const Host& host) {
  call.type == Type::float32 ? NormPass<float>(call).normalize(host) : NormPass<bf16>(call).normalize(host);
}

}  // namespace OMNICONV_ISA
}  // namespace omniconv
