// SPDX-License-Identifier: Apache-2.0
// Dynamic convolutions for one instruction set.
#include "dynamic_gradient.h"
#include "dynamic_sums.h"
#include "isa_entries.h"

namespace omniconv {
namespace OMNICONV_ISA {

void dynamic(const Dynamic& call, const View& output, const void* bias, const Host& host) {
  const auto run = call.input.type == Type::float32 ? dynamic_sums<float> : dynamic_sums<bf16>;
  run(call, output, bias, host);
}

int64_t dynamic_gradient(const Dynamic& call, const View& grad, const DynamicGradients& wanted, float* workspace,
                         const Host& host) {
  const auto run = call.input.type == Type::float32 ? omniconv::dynamic_gradient<float>
                                                    : omniconv::dynamic_gradient<bf16>;
  return run(call, grad, wanted, workspace, host);
}

}  // namespace OMNICONV_ISA
}  // namespace omniconv
