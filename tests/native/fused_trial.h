// SPDX-License-Identifier: Apache-2.0
// One depthwise convolution and the pointwise one behind it, perhaps one before it, with what follows each.
#pragma once

#include "pointwise_trial.h"

namespace omniconv {
namespace {

struct FusedTrial : Trial {
  FusedCase drawn;
  Laid input, addend;
  Memory expansion, taps, weights;
  FollowingMemory before, between, after;
  std::vector<Near> want;

  FusedTrial(const Kernels& kernels, uint64_t seed) : FusedTrial(kernels, seed, drawn_fused(seed)) {}

  FusedTrial(const Kernels& kernels, uint64_t seed, FusedCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, drawn.axes, draw),
        addend(drawn.output_sizes(), drawn.type, drawn.addend_layout, drawn.axes, draw),
        expansion(drawn.type, drawn.expansion.size()),
        taps(drawn.type, drawn.taps.size()),
        weights(drawn.type, drawn.weights.size()),
        before(drawn.before, drawn.type),
        between(drawn.between, drawn.type),
        after(drawn.after, drawn.type) {
    input.fill(drawn.input);
    if (!drawn.after.addend.empty()) addend.fill(drawn.after.addend);
    fill(expansion, drawn.expansion);
    fill(taps, drawn.taps);
    fill(weights, drawn.weights);
    const Problem& problem = drawn.problem;
    const Values nothing(problem.batch * drawn.channels() * drawn.positions());
    std::vector<Near> middle = whole(plain(problem, nothing, expanded(), drawn.taps).narrow);
    plain_follow(middle, drawn.channels(), drawn.positions(), drawn.between);
    want = plain_pointwise(middle, problem.batch, drawn.channels(), drawn.outputs, drawn.positions(), drawn.weights);
    plain_follow(want, drawn.outputs, drawn.positions(), drawn.after);
  }

  // What the depthwise convolution reads.
  Values expanded() const {
    const Problem& problem = drawn.problem;
    if (!drawn.inputs) return drawn.input;
    std::vector<Near> found = plain_pointwise(whole(drawn.input), problem.batch, drawn.inputs, problem.groups,
                                              drawn.reached(), drawn.expansion);
    plain_follow(found, problem.groups, drawn.reached(), drawn.before);
    Values numbers;
    for (const Near& number : found) numbers.push_back(number.value);
    return numbers;
  }

  Pointwise expanding() const {
    const Problem& problem = drawn.problem;
    Pointwise made{};
    made.batch = problem.batch;
    made.inputs = drawn.inputs;
    made.outputs = problem.groups;
    for (int axis = 0; axis < 3; ++axis) made.size[axis] = problem.axis[axis].wide;
    made.by_rows = drawn.by_rows;
    made.input = made.output = input.view();
    made.weights = {expansion.data, expansion.type, drawn.inputs, 1};
    made.bias = before.of_bias();
    made.affine = before.affine();
    made.activation = drawn.before.activation;
    return made;
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

  void run(const Fused& asked, bool changed) {
    const int64_t floats = kernels.fused(asked, nullptr, host);
    const Owned workspace = aligned(floats * 4);
    const int64_t said = kernels.fused(asked, static_cast<float*>(workspace.get()), host);
    answer("what it returns, call", 0, said, changed && drawn.problem.batch ? CHANGED : floats);
  }

  void sums(bool ahead, bool changed = false) {
    const Laid output(drawn.output_sizes(), drawn.type, drawn.by_rows ? Layout::channels_inner : Layout::ordered,
                      drawn.axes, draw, /*offset=*/false);
    Fused asked = call(output);
    Pointwise first = expanding();
    const bool first_changed = drawn.inputs && changed && draw.chance(50);
    const PackedAhead behind(kernels, host, asked.pointwise, changed && !first_changed ? &draw : nullptr);
    if (ahead) behind.tell(asked.pointwise);
    bool seen = changed && !first_changed && behind.packed;
    if (drawn.inputs) {
      const PackedAhead before(kernels, host, first, first_changed ? &draw : nullptr);
      if (ahead) before.tell(first);
      seen |= first_changed && before.packed;
      asked.expansion = &first;
      run(asked, seen);
    } else {
      run(asked, seen);
    }
    if (seen && drawn.problem.batch) return;
    output.each([&](int64_t number, int64_t at) {
      answer("output", number, drawn.type, output.memory.at(at), want[number]);
    });
  }

  void plain_sums() { sums(false); }
  void packed_sums() { sums(true); }
  void changed_sums() { sums(true, true); }

  static constexpr Entry<FusedTrial> entries[3] = {{"fused", &FusedTrial::plain_sums},
                                                   {"fused, packed ahead", &FusedTrial::packed_sums},
                                                   {"fused, changed since", &FusedTrial::changed_sums}};
};

}  // namespace
}  // namespace omniconv
