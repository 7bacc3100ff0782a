// SPDX-License-Identifier: Apache-2.0
// Random pointwise convolutions, depthwise ones before them, and what follows each.
#pragma once

#include "drawn_cases.h"
#include "plain_loops.h"

namespace omniconv {

constexpr Activation LAST_ACTIVATION = Activation::hardswish;

inline std::string text_of(const Following& given) {
  return std::string(given.bias.empty() ? "" : " bias") + (given.scale.empty() ? "" : " affine") +
         (given.addend.empty() ? "" : " addend") + " activation " + std::to_string(int(given.activation));
}

// Half of the activations are those that keep numbers whole.
inline Following drawn_following(Draw& draw, int64_t channels, int64_t addends) {
  Following made;
  if (draw.chance(50)) made.bias = draw.integers(channels, 9);
  if (draw.chance(40)) {
    made.scale = draw.integers(channels, 2);
    made.shift = draw.integers(channels, 9);
  }
  if (addends && draw.chance(40)) made.addend = draw.integers(addends, 9);
  const Activation last = draw.chance(50) ? Activation::relu6 : LAST_ACTIVATION;
  made.activation = Activation(draw.of(0, int64_t(last)));
  return made;
}

inline Layout drawn_layout(Draw& draw, bool by_rows) {
  return by_rows ? draw.among({Layout::channels_inner, Layout::channels_inner, Layout::window,
                               Layout::shuffled_channels})
                 : draw.among({Layout::ordered, Layout::ordered, Layout::wide_rows, Layout::one_sample,
                               Layout::shuffled_positions});
}

// A pointwise convolution between a wide tensor, of which it meets every `stride`-th position, and a narrow one.
struct PointwiseCase {
  int64_t axes, threads, batch, inputs, outputs;
  int64_t narrow[3], wide[3], stride[3];
  Type type;
  bool by_rows;
  bool back;       // the output is the wide tensor, as it is where the gradient of the input is computed
  bool turned;     // weights lie input by input
  int64_t beyond;  // elements between rows of weights
  Layout input_layout, grad_layout, addend_layout;
  Following follows;
  Values input, grad, weights;  // tensors of the positions that meet

  int64_t positions() const { return narrow[0] * narrow[1] * narrow[2]; }
  Sizes sizes(int64_t channels, bool strided) const {
    const int64_t(&size)[3] = strided ? wide : narrow;
    return {{batch, channels, size[0], size[1], size[2]}};
  }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << batch << ", " << inputs << " inputs, " << outputs << " outputs, "
        << (by_rows ? "by rows" : "by positions") << (back ? ", back" : "") << (turned ? ", turned" : "") << ", beyond "
        << beyond << ", layouts " << int(input_layout) << ' ' << int(grad_layout) << ' ' << int(addend_layout) << ','
        << text_of(follows) << ", threads " << threads;
    for (int64_t i = 3 - axes; i < 3; ++i)
      out << "; wide " << wide[i] << ", narrow " << narrow[i] << ", stride " << stride[i];
    return out.str();
  }
};

// Channels about the width of vectors and tiles, and now and then of rows that lie a power of two apart.
inline int64_t drawn_channels(Draw& draw, int64_t most) {
  const int64_t found = draw.chance(85) ? draw.of(1, 40) : draw.chance(30) ? draw.among({64, 512}) : draw.of(41, 300);
  return std::min(found, std::max<int64_t>(most, 1));
}

inline PointwiseCase drawn_pointwise(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  PointwiseCase made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 4);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.by_rows = draw.chance(50);
  made.back = draw.chance(25);
  made.turned = draw.chance(30);
  made.beyond = draw.chance(70) ? 0 : draw.of(1, 5);
  made.input_layout = drawn_layout(draw, made.by_rows);
  made.grad_layout = drawn_layout(draw, made.by_rows);
  made.addend_layout = drawn_layout(draw, made.by_rows);

  made.batch = draw.chance(3) ? 0 : draw.of(1, 3);
  const bool large = draw.chance(10), strided = draw.chance(30);
  const int64_t most_size[3] = {large ? 3000 : 90, large ? 50 : 11, large ? 14 : 5};
  for (int64_t i = 0; i < 3; ++i) {
    const bool absent = i < 3 - made.axes;
    made.narrow[i] = absent ? 1 : draw.of(1, most_size[made.axes - 1]);
    made.stride[i] = strided && !absent ? draw.of(1, 3) : 1;
    made.wide[i] = (made.narrow[i] - 1) * made.stride[i] + 1 + (absent ? 0 : draw.of(0, made.stride[i] - 1));
  }
  const int64_t most = (large ? 3000000 : 300000) / (made.positions() * (made.batch + 1)) + 1;  // products of channels
  made.inputs = drawn_channels(draw, most);
  made.outputs = drawn_channels(draw, most / made.inputs);
  made.follows = drawn_following(draw, made.outputs, made.batch * made.outputs * made.positions());

  made.input = draw.integers(made.batch * made.inputs * made.positions(), 3);
  made.grad = draw.integers(made.batch * made.outputs * made.positions(), 3);
  made.weights = draw.integers(made.inputs * made.outputs, 3);
  return made;
}

// A depthwise convolution, and the pointwise one of its output; before them perhaps one of `inputs` channels (else 0).
struct FusedCase {
  Problem problem;
  int64_t axes, threads, inputs, outputs;
  Type type;
  bool by_rows;
  Layout input_layout, addend_layout;
  Following before, between, after;
  Values input, expansion, taps, weights;

  int64_t reached() const { return problem.axis[0].wide * problem.axis[1].wide * problem.axis[2].wide; }
  int64_t channels() const { return problem.groups * problem.narrow; }  // between the two
  int64_t positions() const { return problem.axis[0].narrow * problem.axis[1].narrow * problem.axis[2].narrow; }
  Sizes input_sizes() const {
    Sizes found = sizes_of(problem, 1, &Axis::wide);
    if (inputs) found.of[1] = inputs;
    return found;
  }
  Sizes output_sizes() const {
    return {{problem.batch, outputs, problem.axis[0].narrow, problem.axis[1].narrow, problem.axis[2].narrow}};
  }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << problem.batch << ", expanded from " << inputs << ", channels "
        << problem.groups << " of " << problem.narrow << " filters, outputs " << outputs
        << (by_rows ? ", by rows" : ", by positions") << ", layouts " << int(input_layout) << ' ' << int(addend_layout)
        << ", before" << text_of(before) << ", between" << text_of(between) << ", after"
        << text_of(after) << ", threads " << threads << text_of(problem, axes);
    return out.str();
  }
};

// Padded by more than the whole tensor now and then, so that taps of whole boxes are outside.
inline Axis drawn_padded_axis(Draw& draw, int64_t most_wide, int64_t most_taps) {
  Axis axis = drawn_axis(draw, most_wide, most_taps);
  if (!draw.chance(12)) return axis;
  const int64_t span = axis.dilation * (axis.taps - 1) + 1, most = 2 * (axis.wide + span);
  axis.before = draw.of(0, most);
  const int64_t room = axis.wide + axis.before + draw.of(0, most) - span;
  axis.narrow = std::max<int64_t>(room, 0) / axis.stride + 1;
  return axis;
}

inline FusedCase drawn_fused(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  FusedCase made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 4);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.by_rows = draw.chance(50);
  made.input_layout = drawn_layout(draw, made.by_rows);
  made.addend_layout = drawn_layout(draw, made.by_rows);

  Problem& problem = made.problem;
  const bool large = draw.chance(10);
  problem = {draw.chance(3) ? 0 : draw.of(1, 3), 1, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  problem.narrow = draw.chance(60) ? 1 : draw.of(2, 4);
  const int64_t most_size[3] = {large ? 700 : 90, large ? 40 : 14, large ? 14 : 6};
  const int64_t most_taps[3] = {draw.chance(10) ? 20 : 9, draw.chance(10) ? 9 : 5, 4};
  for (int64_t i = 3 - made.axes; i < 3; ++i)
    problem.axis[i] = drawn_padded_axis(draw, most_size[made.axes - 1], most_taps[made.axes - 1]);
  const int64_t work = (made.positions() + taps_of(problem)) * (problem.batch + 1);
  const int64_t most = (large ? 2000000 : 300000) / work + 1;  // products of channels
  problem.groups = std::max<int64_t>(drawn_channels(draw, most) / problem.narrow, 1);
  made.outputs = drawn_channels(draw, most / made.channels());
  made.inputs = draw.chance(40) ? std::min<int64_t>(drawn_channels(draw, most), 40) : 0;
  made.before = drawn_following(draw, problem.groups, 0);
  // The loops need whole numbers.
  if (made.before.activation > Activation::relu6) made.before.activation = Activation::none;
  made.between = drawn_following(draw, made.channels(), 0);
  made.after = drawn_following(draw, made.outputs, made.output_sizes().count());

  made.input = draw.integers(made.input_sizes().count(), 3);
  made.taps = draw.integers(made.channels() * taps_of(problem), 3);
  made.expansion = draw.integers(problem.groups * made.inputs, 1);
  made.weights = draw.integers(made.channels() * made.outputs, 2);
  return made;
}

}  // namespace omniconv
