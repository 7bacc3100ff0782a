// SPDX-License-Identifier: Apache-2.0
// One depthwise convolution and the pointwise one behind it, with what follows each.
#pragma once

#include "pointwise_trial.h"

namespace omniconv {
namespace {

struct FusedTrial : Trial {
  FusedCase drawn;
  Laid input, addend;
  Memory taps, weights;
  FollowingMemory between, after;
  std::vector<Near> want;

  FusedTrial(const Kernels& kernels, uint64_t seed) : FusedTrial(kernels, seed, drawn_fused(seed)) {}

  FusedTrial(const Kernels& kernels, uint64_t seed, FusedCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, drawn.axes, draw),
        addend(drawn.output_sizes(), drawn.type, drawn.addend_layout, drawn.axes, draw),
        taps(drawn.type, drawn.taps.size()),
        weights(drawn.type, drawn.weights.size()),
        between(drawn.between, drawn.type),
        after(drawn.after, drawn.type) {
    input.fill(drawn.input);
    if (!drawn.after.addend.empty()) addend.fill(drawn.after.addend);
    fill(taps, drawn.taps);
    fill(weights, drawn.weights);
    const Problem& problem = drawn.problem;
    const Values nothing(problem.batch * drawn.channels() * drawn.positions());
    std::vector<Near> middle = whole(plain(problem, nothing, drawn.input, drawn.taps).narrow);
    plain_follow(middle, drawn.channels(), drawn.positions(), drawn.between);
    want = plain_pointwise(middle, problem.batch, drawn.channels(), drawn.outputs, drawn.positions(), drawn.weights);
    plain_follow(want, drawn.outputs, drawn.positions(), drawn.after);
  }

  Fused call(const Laid& output) const {
    const Problem& problem = drawn.problem;
    const int64_t filter = taps_of(problem);
    Fused made{};
    made.depthwise = problem;
    made.input = input.view();
    made.taps = {taps.data, taps.type, problem.narrow * filter, filter, filter, 1, 0};
    made.depthwise_bias = between.of_bias();
    made.affine = between.affine();
    made.between = drawn.between.activation;
    Pointwise& across = made.pointwise;
    across.batch = problem.batch;
    across.inputs = drawn.channels();
    across.outputs = drawn.outputs;
    for (int axis = 0; axis < 3; ++axis) across.size[axis] = problem.axis[axis].narrow;
    across.by_rows = drawn.by_rows;
    across.input = across.output = output.view();
    if (!drawn.after.addend.empty()) across.addend = addend.view();
    across.weights = {weights.data, weights.type, drawn.channels(), 1};
    across.bias = after.of_bias();
    across.affine = after.affine();
    across.activation = drawn.after.activation;
    return made;
  }

  void sums(bool ahead) {
    const Laid output(drawn.output_sizes(), drawn.type, drawn.by_rows ? Layout::channels_inner : Layout::ordered,
                      drawn.axes, draw, /*offset=*/false);
    Fused asked = call(output);
    const auto packed = ahead ? packed_ahead(kernels, host, asked.pointwise) : nullptr;
    if (packed) asked.pointwise.packed = static_cast<const float*>(packed->data);
    const Owned workspace = aligned(kernels.fused(asked, nullptr, host) * 4);
    kernels.fused(asked, static_cast<float*>(workspace.get()), host);
    output.each([&](int64_t number, int64_t at) {
      answer("output", number, drawn.type, output.memory.at(at), want[number]);
    });
  }

  void plain_sums() { sums(false); }
  void packed_sums() { sums(true); }

  static constexpr Entry<FusedTrial> entries[2] = {{"fused", &FusedTrial::plain_sums},
                                                   {"fused, packed ahead", &FusedTrial::packed_sums}};
};

}  // namespace
}  // namespace omniconv
