// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, OMNICONV_ISA. Compiled once for each, with the compiler's flags for it.
#include "kernels.h"

#include "blocked_gradient.h"
#include "blocked_sums.h"
#include "direct_sums.h"

namespace omniconv {
namespace {

template <Way WAY>
bool directly(const Problem& problem, const View& input, const View& output, const Weights& weights, const void* bias,
              const Host& host) {
  if (!DirectSums<WAY>::suits(problem, input, output)) return false;
  DirectSums<WAY>(problem, input, output, weights, static_cast<const float*>(bias), host).run();
  return true;
}

template <class T>
void sums_of(const Problem& problem, bool scatter, const View& input, const View& output, const Weights& weights,
             const void* bias, const Host& host) {
  const T* added = static_cast<const T*>(bias);
  if (scatter) {
    BlockedSums<T, Way::SCATTER>(problem, input, output, weights, added, host).run();
  } else {
    BlockedSums<T, Way::GATHER>(problem, input, output, weights, added, host).run();
  }
}

void sums(const Problem& problem, bool scatter, const View& input, const View& output, const Weights& weights,
          const void* bias, const Host& host) {
  const auto direct = scatter ? directly<Way::SCATTER> : directly<Way::GATHER>;
  if (direct(problem, input, output, weights, bias, host)) return;
  const auto run = input.type == Type::float32 ? sums_of<float> : sums_of<bf16>;
  run(problem, scatter, input, output, weights, bias, host);
}

int64_t gradient_floats(const Problem& problem, const View& wide, const View& narrow, const Host& host) {
  return BlockedGradient<float>(problem, wide, narrow, Weights{}, nullptr, host).sums();
}

template <class T>
void gradient_of(const Problem& problem, const View& wide, const View& narrow, const Weights& weights, void* bias,
                 float* workspace, const Host& host) {
  BlockedGradient<T>(problem, wide, narrow, weights, static_cast<T*>(bias), host).run(workspace);
}

void gradient(const Problem& problem, const View& wide, const View& narrow, const Weights& weights, void* bias,
              float* workspace, const Host& host) {
  const auto run = wide.type == Type::float32 ? gradient_of<float> : gradient_of<bf16>;
  run(problem, wide, narrow, weights, bias, workspace, host);
}

}  // namespace

#define OMNICONV_NAME(isa) OMNICONV_NAME_(isa)
#define OMNICONV_NAME_(isa) kernels_##isa
#define OMNICONV_TEXT(isa) OMNICONV_TEXT_(isa)
#define OMNICONV_TEXT_(isa) #isa

extern const Kernels OMNICONV_NAME(OMNICONV_ISA);
const Kernels OMNICONV_NAME(OMNICONV_ISA) = {OMNICONV_TEXT(OMNICONV_ISA), V, sums, gradient_floats, gradient};

}  // namespace omniconv
