// SPDX-License-Identifier: Apache-2.0
// Any convolution as a product of matrices, and what follows it.
#pragma once

#include "pointwise_trial.h"

namespace omniconv {

struct ImplicitCase {
  Problem problem;
  int64_t axes, threads;
  Type type;
  Layout input_layout, addend_layout;
  Following follows;
  Values input, weights;  // weights by output, channel of its group, tap

  Sizes input_sizes() const { return sizes_of(problem, problem.wide, &Axis::wide); }
  Sizes output_sizes() const { return sizes_of(problem, problem.narrow, &Axis::narrow); }
  int64_t channels() const { return problem.groups * problem.narrow; }
  int64_t positions() const { return problem.axis[0].narrow * problem.axis[1].narrow * problem.axis[2].narrow; }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << problem.batch << ", groups " << problem.groups << " of " << problem.narrow
        << " outputs and " << problem.wide << " inputs, layouts " << int(input_layout) << ' ' << int(addend_layout)
        << ',' << text_of(follows) << ", threads " << threads << text_of(problem, axes);
    return out.str();
  }
};

inline ImplicitCase drawn_implicit(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  ImplicitCase made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 4);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.input_layout = drawn_layout(draw, draw.chance(70));
  made.addend_layout = drawn_layout(draw, /*by_rows=*/true);

  Problem& problem = made.problem;
  const bool large = draw.chance(10);
  problem = {draw.chance(3) ? 0 : draw.of(1, 3), 1, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  if (draw.chance(40)) problem.groups = draw.of(2, 9);
  const int64_t most_size[3] = {large ? 700 : 90, large ? 40 : 16, large ? 12 : 6};
  const int64_t most_taps[3] = {draw.chance(10) ? 20 : 9, draw.chance(10) ? 9 : 5, 3};
  for (int64_t i = 3 - made.axes; i < 3; ++i)
    problem.axis[i] = drawn_padded_axis(draw, most_size[made.axes - 1], most_taps[made.axes - 1]);
  const int64_t work = (made.positions() + 1) * taps_of(problem) * (problem.batch + 1) * problem.groups;
  const int64_t most = (large ? 3000000 : 400000) / work + 1;  // products of channels
  problem.wide = draw.chance(20) ? std::min<int64_t>(most, 3) : drawn_channels(draw, most);
  if (draw.chance(10)) problem.wide = std::min<int64_t>(most, 256);  // which the copy lays further apart
  problem.narrow = drawn_channels(draw, most / problem.wide);
  made.follows = drawn_following(draw, made.channels(), made.output_sizes().count());
  made.input = draw.integers(made.input_sizes().count(), 3);
  made.weights = draw.integers(made.channels() * problem.wide * taps_of(problem), 3);
  return made;
}

namespace {

struct ImplicitTrial : Trial {
  ImplicitCase drawn;
  Laid input, addend;
  Memory weights;
  FollowingMemory follows;

  ImplicitTrial(const Kernels& kernels, uint64_t seed) : ImplicitTrial(kernels, seed, drawn_implicit(seed)) {}

  ImplicitTrial(const Kernels& kernels, uint64_t seed, ImplicitCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.input_sizes(), drawn.type, drawn.input_layout, drawn.axes, draw),
        addend(drawn.output_sizes(), drawn.type, drawn.addend_layout, drawn.axes, draw),
        weights(drawn.type, drawn.weights.size()),
        follows(drawn.follows, drawn.type) {
    input.fill(drawn.input);
    if (!drawn.follows.addend.empty()) addend.fill(drawn.follows.addend);
    fill(weights, drawn.weights);
  }

  void sums(bool ahead) {
    const Laid output(drawn.output_sizes(), drawn.type, Layout::channels_inner, drawn.axes, draw, /*offset=*/false);
    Pointwise call{};
    call.batch = drawn.problem.batch;
    call.inputs = drawn.problem.wide;
    call.outputs = drawn.problem.narrow;
    for (int axis = 0; axis < 3; ++axis) call.size[axis] = drawn.problem.axis[axis].narrow;
    call.by_rows = true;
    call.input = input.view();
    call.output = output.view();
    if (!drawn.follows.addend.empty()) call.addend = addend.view();
    call.weights = {weights.data, weights.type, 0, 0};
    call.bias = follows.of_bias();
    call.affine = follows.affine();
    call.activation = drawn.follows.activation;
    call.taps = &drawn.problem;
    const Memory packed(Type::float32, ahead ? kernels.pack(call, nullptr, host) : 0);
    if (ahead) {
      kernels.pack(call, static_cast<float*>(packed.data), host);
      call.packed = static_cast<const float*>(packed.data);
    }
    const int64_t floats = kernels.pointwise(call, nullptr, host);
    const Owned workspace = aligned(floats * 4);
    answer("what it returns, call", 0, kernels.pointwise(call, static_cast<float*>(workspace.get()), host), floats);

    const Values unused(drawn.output_sizes().count());
    std::vector<Near> want = whole(plain(drawn.problem, unused, drawn.input, drawn.weights).narrow);
    plain_follow(want, drawn.channels(), drawn.positions(), drawn.follows);
    output.each([&](int64_t number, int64_t at) {
      answer("output", number, drawn.type, output.memory.at(at), want[number]);
    });
  }

  void plain_sums() { sums(false); }
  void packed_sums() { sums(true); }

  static constexpr Entry<ImplicitTrial> entries[] = {{"implicit", &ImplicitTrial::plain_sums},
                                                     {"implicit, packed", &ImplicitTrial::packed_sums}};
};

}  // namespace
}  // namespace omniconv
