// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, OMNICONV_ISA. Compiled once for each, with the compiler's flags for it.
#include "kernels.h"

#include "blocked_gradient.h"
#include "blocked_sums.h"
#include "deformable_gradient.h"
#include "deformable_sums.h"
#include "direct_gradient.h"
#include "direct_sums.h"
#include "isa_entries.h"
#include "planar_gradient.h"
#include "planar_products.h"
#include "planar_sums.h"
#include "separable_gradient.h"
#include "separable_sums.h"

namespace omniconv {
namespace {

// Channels side by side and by themselves: straight from the tensor. Positions side by side: plane by plane. Else, and
// where rows are shorter than vectors are worth, packed blocks of channels.
template <class T, Way WAY>
void sums_by(const Problem& problem, const View& input, const View& output, const Weights& weights, const void* bias,
             const Host& host) {
  const SumsCall<T> call{problem, input, output, weights, static_cast<const T*>(bias), host};
  if (DirectSums<T, WAY>::suits(problem, input, output)) {
    DirectSums<T, WAY>(call).run();
  } else if (PlanarSums<T, WAY>::suits(problem, input, output)) {
    PlanarSums<T, WAY>(call).run();
  } else {
    BlockedSums<T, WAY>(call).run();
  }
}

}  // namespace

void OMNICONV_ISA::sums(const Problem& problem, bool scatter, const View& input, const View& output,
                        const Weights& weights, const void* bias, const Host& host) {
  const bool wide = input.type == Type::float32;
  const auto run = scatter ? (wide ? sums_by<float, Way::SCATTER> : sums_by<bf16, Way::SCATTER>)
                           : (wide ? sums_by<float, Way::GATHER> : sums_by<bf16, Way::GATHER>);
  run(problem, input, output, weights, bias, host);
}

namespace {

template <class T>
int64_t gradient_by(const Problem& problem, const View& wide, const View& narrow, const Weights& weights, void* bias,
                    float* workspace, const Host& host) {
  const GradientCall<T> call{problem, wide, narrow, weights, static_cast<T*>(bias), host};
  const auto run = [&](const auto& gradient) {
    if (workspace) gradient.run(workspace);
    return gradient.floats();
  };
  if constexpr (sizeof(T) == sizeof(float)) {
    if (SquareGradient::suits(problem, wide, narrow)) return run(SquareGradient(call));
  }
  if (DirectGradient<T>::suits(problem, wide, narrow)) return run(DirectGradient<T>(call));
  if (PlanarGradient<T>::suits(problem, wide, narrow)) return run(PlanarGradient<T>(call));
  return run(BlockedGradient<T>(call));
}

int64_t gradient(const Problem& problem, const View& wide, const View& narrow, const Weights& weights, void* bias,
                 float* workspace, const Host& host) {
  const auto run = wide.type == Type::float32 ? gradient_by<float> : gradient_by<bf16>;
  return run(problem, wide, narrow, weights, bias, workspace, host);
}

void separable(const Problem& problem, const View& input, const View& output, const Weights& column, const Weights& row,
               const void* bias, const Host& host) {
  const auto run = input.type == Type::float32 ? separable_sums<float> : separable_sums<bf16>;
  run(problem, input, output, column, row, bias, host);
}

int64_t separable_gradient(const Problem& problem, const View& input, const View& grad, const Weights& column,
                           const Weights& row, const SeparableGradients& wanted, float* workspace, const Host& host) {
  const auto run = input.type == Type::float32 ? separable_gradient<float> : separable_gradient<bf16>;
  return run(problem, input, grad, column, row, wanted, workspace, host);
}

int64_t deformable(const Deformable& call, const Planes& output, const void* bias, float* workspace,
                   const Host& host) {
  const auto run = call.input.type == Type::float32 ? deformable_sums<float> : deformable_sums<bf16>;
  return run(call, output, bias, workspace, host);
}

int64_t deformable_gradient(const Deformable& call, const Planes& grad, const DeformableGradients& wanted,
                            float* workspace, const Host& host) {
  const auto run = call.input.type == Type::float32 ? deformable_gradient<float> : deformable_gradient<bf16>;
  return run(call, grad, wanted, workspace, host);
}

}  // namespace

#define OMNICONV_NAME(isa) OMNICONV_NAME_(isa)
#define OMNICONV_NAME_(isa) kernels_##isa
#define OMNICONV_TEXT(isa) OMNICONV_TEXT_(isa)
#define OMNICONV_TEXT_(isa) #isa

extern const Kernels OMNICONV_NAME(OMNICONV_ISA);
const Kernels OMNICONV_NAME(OMNICONV_ISA) = {OMNICONV_TEXT(OMNICONV_ISA), OMNICONV_ISA::sums, gradient, separable,
                                              separable_gradient, deformable, deformable_gradient,
                                              OMNICONV_ISA::pointwise, OMNICONV_ISA::pack,
                                              OMNICONV_ISA::pointwise_gradient, OMNICONV_ISA::normed_gradient,
                                              OMNICONV_ISA::fused, OMNICONV_ISA::follow,
                                              OMNICONV_ISA::activation_gradient,
                                              OMNICONV_ISA::norm_sums, OMNICONV_ISA::normalize,
                                              OMNICONV_ISA::dynamic, OMNICONV_ISA::dynamic_gradient};

}  // namespace omniconv
