// SPDX-License-Identifier: Apache-2.0
// One spatially separable convolution, and some of its gradients.
#pragma once

#include "drawn_cases.h"
#include "plain_loops.h"
#include "trial.h"

namespace omniconv {
namespace {

struct SeparableTrial : Trial {
  SeparableCase drawn;
  Laid input, grad;
  Memory column, row, bias;
  PlainSeparable want;

  SeparableTrial(const Kernels& kernels, uint64_t seed) : SeparableTrial(kernels, seed, drawn_separable(seed)) {}

  SeparableTrial(const Kernels& kernels, uint64_t seed, SeparableCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, 2, draw),
        grad(drawn.grad_sizes(), drawn.type, drawn.grad_layout, 2, draw),
        column(drawn.type, drawn.column.size()),
        row(drawn.type, drawn.row.size()),
        bias(drawn.type, drawn.bias.size()) {
    input.fill(drawn.input);
    grad.fill(drawn.grad);
    fill(column, drawn.column);
    fill(row, drawn.row);
    fill(bias, drawn.bias);
    want = plain_separable(drawn.problem, drawn.input, drawn.grad, drawn.column, drawn.row);
  }

  // A filter of each channel.
  Weights filters(const Memory& memory) const {
    const int64_t taps = memory.count / drawn.problem.groups;
    return {memory.data, memory.type, taps, taps, taps, 1, 0};
  }

  void sums() {
    const Laid output = made(drawn.grad_sizes(), drawn.type, 2);
    kernels.separable(drawn.problem, input.view(), output.view(), filters(column), filters(row),
                      drawn.biased ? bias.data : nullptr, host);
    answers_in("output", output, want.output, drawn.biased ? drawn.bias.data() : nullptr);
  }

  void gradient() {
    const Laid of_input = made(drawn.input_sizes(), drawn.type, 2);
    const Memory of_column(drawn.type, column.count), of_row(drawn.type, row.count), of_bias(drawn.type, bias.count);
    SeparableGradients wanted{};
    if (drawn.of_input) wanted.input = of_input.view();
    if (drawn.of_column) wanted.column = filters(of_column);
    if (drawn.of_row) wanted.row = filters(of_row);
    if (drawn.of_bias) wanted.bias = filters(of_bias);
    const auto run = [&](float* workspace) {
      return kernels.separable_gradient(drawn.problem, input.view(), grad.view(), filters(column), filters(row), wanted,
                                        workspace, host);
    };
    const Owned workspace = aligned(run(nullptr) * 4);
    run(static_cast<float*>(workspace.get()));
    if (drawn.of_input) answers_in("input gradient", of_input, want.input, nullptr);
    if (drawn.of_column) answers_in("column gradient", of_column, want.column);
    if (drawn.of_row) answers_in("row gradient", of_row, want.row);
    if (drawn.of_bias) answers_in("bias gradient", of_bias, want.bias);
  }

  static constexpr Entry<SeparableTrial> entries[2] = {{"separable", &SeparableTrial::sums},
                                                       {"separable gradient", &SeparableTrial::gradient}};
};

}  // namespace
}  // namespace omniconv
