// SPDX-License-Identifier: Apache-2.0
// One deformable convolution, and some of its gradients.
#pragma once

#include "drawn_deformable.h"
#include "plain_loops.h"
#include "trial.h"

namespace omniconv {
namespace {

struct DeformableTrial : Trial {
  DeformableCase drawn;
  Laid input, grad, offset, mask;
  Memory weights, bias;
  PlainDeformable want;

  DeformableTrial(const Kernels& kernels, uint64_t seed) : DeformableTrial(kernels, seed, drawn_deformable(seed)) {}

  DeformableTrial(const Kernels& kernels, uint64_t seed, DeformableCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, drawn.axes, draw),
        grad(drawn.grad_sizes(), drawn.type, drawn.grad_layout, drawn.axes, draw),
        offset(drawn.offset_sizes(), drawn.places_type, drawn.places_layout, drawn.axes, draw),
        mask(drawn.mask_sizes(), drawn.places_type, drawn.places_layout, drawn.axes, draw),
        weights(drawn.type, drawn.weights.size()),
        bias(drawn.type, drawn.bias.size()) {
    input.fill(drawn.input);
    grad.fill(drawn.grad);
    mask.fill(drawn.mask);
    offset.each([&](int64_t number, int64_t at) {
      write(offset.memory.data, offset.memory.type, at, drawn.offset[number]);
    });
    offset.each([&](int64_t number, int64_t at) { drawn.offset[number] = offset.memory.at(at); });
    fill(weights, drawn.weights);
    fill(bias, drawn.bias);
    want = plain_deformable(drawn.problem, drawn.axes, drawn.offset_groups, drawn.input, drawn.grad, drawn.offset,
                            drawn.masked ? drawn.mask : Values(), drawn.weights);
  }

  static Planes planes(const Laid& laid) {
    const View view = laid.view();
    return {view.data, view.type, view.batch, laid.sizes.of[1] == 1 ? 1 : view.channel, view.axis[2]};
  }

  Weights filters(void* data) const {
    const Problem& problem = drawn.problem;
    const int64_t taps = drawn.taps(), filter = problem.wide * taps;
    return {data, drawn.type, problem.narrow * filter, filter, taps, 1, 0};
  }

  Deformable call() const {
    Deformable made{drawn.problem, drawn.axes, drawn.offset_groups, planes(input), planes(offset), {},
                    filters(weights.data)};
    if (drawn.masked) made.mask = planes(mask);
    return made;
  }

  void sums() {
    const Laid output = made(drawn.grad_sizes(), drawn.type, drawn.axes);
    const auto run = [&](float* workspace) {
      return kernels.deformable(call(), planes(output), drawn.biased ? bias.data : nullptr, workspace, host);
    };
    const Owned workspace = aligned(run(nullptr) * 4);
    run(static_cast<float*>(workspace.get()));
    answers_in("output", output, want.output, drawn.biased ? drawn.bias.data() : nullptr);
  }

  void gradient() {
    const Laid of_input = made(drawn.input_sizes(), drawn.type, drawn.axes);
    const Laid of_offset = made(drawn.offset_sizes(), drawn.places_type, drawn.axes);
    const Laid of_mask = made(drawn.mask_sizes(), drawn.places_type, drawn.axes);
    const Memory of_weights(drawn.type, weights.count);
    DeformableGradients wanted{};
    if (drawn.of_input) wanted.input = planes(of_input);
    if (drawn.of_offset) wanted.offset = planes(of_offset);
    if (drawn.of_mask) wanted.mask = planes(of_mask);
    wanted.weights = filters(drawn.of_weights ? of_weights.data : nullptr);
    const auto run = [&](float* workspace) {
      return kernels.deformable_gradient(call(), planes(grad), wanted, workspace, host);
    };
    const Owned workspace = aligned(run(nullptr) * 4);
    run(static_cast<float*>(workspace.get()));
    if (drawn.of_input) answers_in("input gradient", of_input, want.input, nullptr);
    if (drawn.of_offset) answers_in("offset gradient", of_offset, want.offset, nullptr);
    if (drawn.of_mask) answers_in("mask gradient", of_mask, want.mask, nullptr);
    if (drawn.of_weights) answers_in("weight gradient", of_weights, want.weights);
  }

  static constexpr Entry<DeformableTrial> entries[2] = {{"deformable", &DeformableTrial::sums},
                                                        {"deformable gradient", &DeformableTrial::gradient}};
};

}  // namespace
}  // namespace omniconv
