// SPDX-License-Identifier: Apache-2.0
// Pointwise convolutions, what is fused with them, and what follows others, for one instruction set.
#include "activation_gradient.h"
#include "follow_pass.h"
#include "fused_sums.h"
#include "isa_entries.h"
#include "normed_gradient.h"
#include "pointwise_gradient.h"
#include "pointwise_sums.h"

namespace omniconv {
namespace OMNICONV_ISA {

int64_t pointwise(const Pointwise& call, float* workspace, const Host& host) {
  if (call.taps) return implicit(call, workspace, host);
  const auto run = call.input.type == Type::float32 ? pointwise_sums<float> : pointwise_sums<bf16>;
  return run(call, workspace, host);
}

int64_t pack(const Pointwise& call, float* to, const Host& host) {
  if (call.taps) return pack_implicit(call, to, host);
  const auto run = call.weights.type == Type::float32 ? pack_pointwise<float> : pack_pointwise<bf16>;
  return run(call, to, host);
}

int64_t pointwise_gradient(const Pointwise& call, const Matrix& gradient, float* workspace, const Host& host) {
  const auto run = call.input.type == Type::float32 ? omniconv::pointwise_gradient<float>
                                                    : omniconv::pointwise_gradient<bf16>;
  return run(call, gradient, workspace, host);
}

int64_t normed_gradient(const Normed& norm, const Pointwise& call, const Pointwise* back, const Matrix& gradient,
                        float* workspace, const Host& host) {
  const NormedGradient sums(norm, call, back, gradient, host);
  if (!sums.pays()) return 0;
  if (workspace) sums.run(workspace);
  return sums.floats();
}

int64_t fused(const Fused& call, float* workspace, const Host& host) {
  const auto run = call.input.type == Type::float32 ? fused_sums<float> : fused_sums<bf16>;
  return run(call, workspace, host);
}

void follow(const Followed& call, const Host& host) {
  call.type == Type::float32 ? FollowPass<float>(call).run(host) : FollowPass<bf16>(call).run(host);
}

namespace {

template <class T>
int64_t pass(const ActivationGradient& call, float* workspace, const Host& host) {
  const GradientPass<T> pass(call);
  if (workspace) pass.run(workspace, host);
  return pass.floats();
}

}  // namespace

int64_t activation_gradient(const ActivationGradient& call, float* workspace, const Host& host) {
  return (call.type == Type::float32 ? pass<float> : pass<bf16>)(call, workspace, host);
}

}  // namespace OMNICONV_ISA
}  // namespace omniconv
