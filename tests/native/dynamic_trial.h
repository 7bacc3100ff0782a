// SPDX-License-Identifier: Apache-2.0
// One dynamic convolution, and some of its gradients.
#pragma once

#include "drawn_dynamic.h"
#include "plain_loops.h"
#include "trial.h"

namespace omniconv {
namespace {

struct DynamicTrial : Trial {
  DynamicCase drawn;
  Laid input, grad;
  int64_t strides[8];  // of the kernels' tensor
  Memory weights, bias;
  PlainDynamic want;

  DynamicTrial(const Kernels& kernels, uint64_t seed) : DynamicTrial(kernels, seed, drawn_dynamic(seed)) {}

  DynamicTrial(const Kernels& kernels, uint64_t seed, DynamicCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, drawn.axes, draw),
        grad(drawn.grad_sizes(), drawn.type, drawn.grad_layout, drawn.axes, draw),
        weights(drawn.type, drawn.weights.size()),
        bias(drawn.type, drawn.bias.size()) {
    input.fill(drawn.input);
    grad.fill(drawn.grad);
    fill(bias, drawn.bias);
    int64_t step = 1;
    for (int axis : drawn.order) {
      strides[axis] = step;
      step *= std::max<int64_t>(drawn.size(axis), 1);
    }
    each_number([&](int64_t number, int64_t at) { write(weights.data, drawn.type, at, drawn.weights[number]); });
    want = plain_dynamic(drawn.problem, drawn.input, drawn.grad, drawn.weights, drawn.everywhere, drawn.softmax,
                         drawn.renorm);
  }

  // visit(number in order, place in memory)
  template <class Visit>
  void each_number(const Visit& visit) const {
    for (int64_t number = 0; number < drawn.count(); ++number) {
      int64_t left = number, at = 0;
      for (int axis = 7; axis >= 0; left /= drawn.size(axis--)) at += left % drawn.size(axis) * strides[axis];
      visit(number, at);
    }
  }

  Predicted predicted(void* data) const {
    Predicted shown{data, drawn.type, strides[0], strides[1], {}, {}};
    for (int i = 0; i < 3; ++i) {
      const bool there = i >= 3 - drawn.axes;
      shown.tap[i] = there ? strides[2 + i] : 0;
      shown.position[i] = there && !drawn.everywhere ? strides[5 + i] : 0;
    }
    return shown;
  }

  Dynamic call() const {
    return {drawn.problem, input.view(), predicted(weights.data), drawn.everywhere, drawn.softmax, drawn.renorm};
  }

  void sums() {
    const Laid output = made(drawn.grad_sizes(), drawn.type, drawn.axes);
    kernels.dynamic(call(), output.view(), drawn.biased ? bias.data : nullptr, host);
    answers_in("output", output, want.output, drawn.biased ? drawn.bias.data() : nullptr);
  }

  void gradient() {
    const Laid of_input = made(drawn.input_sizes(), drawn.type, drawn.axes);
    const Memory of_weights(drawn.type, weights.count);
    DynamicGradients wanted{};
    if (drawn.of_input) wanted.input = of_input.view();
    if (drawn.of_weights) wanted.weights = predicted(of_weights.data);
    const auto run = [&](float* workspace) {
      return kernels.dynamic_gradient(call(), grad.view(), wanted, workspace, host);
    };
    const Owned workspace = aligned(run(nullptr) * 4);
    run(static_cast<float*>(workspace.get()));
    if (drawn.of_input) answers_in("input gradient", of_input, want.input, nullptr);
    if (drawn.of_weights)
      each_number([&](int64_t number, int64_t at) {
        answer("weight gradient", number, of_weights.at(at), kept(drawn.type, want.weights[number]));
      });
  }

  static constexpr Entry<DynamicTrial> entries[2] = {{"dynamic", &DynamicTrial::sums},
                                                     {"dynamic gradient", &DynamicTrial::gradient}};
};

}  // namespace
}  // namespace omniconv
