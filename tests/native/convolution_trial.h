// SPDX-License-Identifier: Apache-2.0
// One convolution of any kind: its sums both ways, and the gradients of weights and bias.
#pragma once

#include "drawn_cases.h"
#include "plain_loops.h"
#include "trial.h"

namespace omniconv {
namespace {

struct ConvolutionTrial : Trial {
  Case drawn;
  Laid narrow, wide;
  Memory weights;
  Plain want;

  ConvolutionTrial(const Kernels& kernels, uint64_t seed) : ConvolutionTrial(kernels, seed, drawn_case(seed)) {}

  ConvolutionTrial(const Kernels& kernels, uint64_t seed, Case of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        narrow(drawn.narrow_sizes(), drawn.type, drawn.narrow_layout, drawn.axes, draw),
        wide(drawn.wide_sizes(), drawn.type, drawn.wide_layout, drawn.axes, draw),
        weights(drawn.weights_type, drawn.heads * drawn.filter()) {
    narrow.fill(drawn.narrow);
    wide.fill(drawn.wide);
    const Weights shown = read_weights();
    for (size_t at = 0; at < drawn.weights.size(); ++at)
      write(weights.data, weights.type, shown.head(at / drawn.filter()) * drawn.filter() + at % drawn.filter(),
            drawn.weights[at]);
    want = plain(drawn.problem, drawn.narrow, drawn.wide, drawn.weights);
  }

  Weights read_weights() { return drawn.shown(weights.data, weights.type, drawn.share, drawn.heads); }

  void sums(bool scatter) {
    const Sizes sizes = scatter ? drawn.wide_sizes() : drawn.narrow_sizes();
    const Laid output = made(sizes, drawn.type, drawn.axes);
    const Memory bias(drawn.type, sizes.of[1]);
    fill(bias, drawn.bias);
    kernels.sums(drawn.problem, scatter, (scatter ? narrow : wide).view(), output.view(), read_weights(),
                 drawn.biased ? bias.data : nullptr, host);
    answers_in("output", output, scatter ? want.wide : want.narrow, drawn.biased ? drawn.bias.data() : nullptr);
  }

  void gather() { sums(false); }
  void scatter() { sums(true); }

  void gradient() {
    const Memory of_weights(drawn.weights_type, drawn.problem.groups * drawn.filter());
    const Memory of_bias(drawn.type, drawn.problem.groups * drawn.problem.narrow);
    const View from = wide.view(), grad = narrow.view();
    const auto run = [&](void* workspace) {
      return kernels.gradient(drawn.problem, from, grad, drawn.shown(of_weights.data, of_weights.type, 1, 0),
                              drawn.biased ? of_bias.data : nullptr, static_cast<float*>(workspace), host);
    };
    run(aligned(run(nullptr) * 4).get());
    answers_in("weight gradient", of_weights, want.weights);
    if (drawn.biased) answers_in("bias gradient", of_bias, want.totals);
  }

  static constexpr Entry<ConvolutionTrial> entries[3] = {{"sums, gathered", &ConvolutionTrial::gather},
                                                         {"sums, scattered", &ConvolutionTrial::scatter},
                                                         {"gradient", &ConvolutionTrial::gradient}};
};

}  // namespace
}  // namespace omniconv
