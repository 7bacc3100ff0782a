// SPDX-License-Identifier: Apache-2.0
// Random geometries with values for their tensors, each from a seed of its own.
#pragma once

#include <algorithm>
#include <sstream>

#include "laid_tensors.h"

namespace omniconv {

inline Sizes sizes_of(const Problem& problem, int64_t channels, int64_t Axis::*size) {
  const Axis(&axis)[3] = problem.axis;
  return {{problem.batch, problem.groups * channels, axis[0].*size, axis[1].*size, axis[2].*size}};
}

inline const char* text_of(Type type) { return type == Type::float32 ? "float32" : "bfloat16"; }

inline std::string text_of(const Problem& problem, int64_t axes) {
  std::ostringstream out;
  for (int64_t i = 3 - axes; i < 3; ++i) {
    const Axis& axis = problem.axis[i];
    out << "; wide " << axis.wide << ", narrow " << axis.narrow << ", taps " << axis.taps << ", stride " << axis.stride
        << ", dilation " << axis.dilation << ", before " << axis.before;
  }
  return out.str();
}

struct Case {
  Problem problem;
  int64_t axes, threads;
  Type type, weights_type;
  Layout narrow_layout, wide_layout;
  int64_t share, heads;  // of weights that are read; where a gradient is written each group has its own
  bool biased;
  Values narrow, wide, weights, bias;  // weights by group, narrow channel, wide channel, tap

  Sizes narrow_sizes() const { return sizes_of(problem, problem.narrow, &Axis::narrow); }
  Sizes wide_sizes() const { return sizes_of(problem, problem.wide, &Axis::wide); }
  int64_t taps() const { return problem.axis[0].taps * problem.axis[1].taps * problem.axis[2].taps; }
  int64_t filter() const { return problem.narrow * problem.wide * taps(); }

  Weights shown(void* data, Type type, int64_t share, int64_t heads) const {
    return {data, type, filter(), problem.wide * taps(), taps(), share, heads};
  }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << problem.batch << ", groups " << problem.groups << " of " << problem.narrow
        << " narrow and " << problem.wide << " wide, layouts " << int(narrow_layout) << ' ' << int(wide_layout)
        << ", weights " << text_of(weights_type) << " of " << heads << " heads, share " << share << ", bias " << biased
        << ", threads " << threads << text_of(problem, axes);
    return out.str();
  }
};

// The padding on both sides is about half the span, as in most networks, or anything.
inline Axis drawn_axis(Draw& draw, int64_t most_wide, int64_t most_taps) {
  Axis axis{};
  do {
    axis.taps = draw.of(1, most_taps);
    axis.stride = draw.chance(60) ? 1 : draw.of(2, 4);
    axis.dilation = draw.chance(70) ? 1 : draw.of(2, 4);
    const int64_t span = axis.dilation * (axis.taps - 1) + 1;
    if (draw.chance(60)) {  // an ordinary convolution: the narrow size follows
      axis.wide = draw.of(1, most_wide);
      axis.before = draw.chance(70) ? span / 2 : draw.of(0, span + 3);
      const int64_t after = draw.chance(70) ? span / 2 : draw.of(0, span + 3);
      const int64_t room = axis.wide + axis.before + after - span;
      axis.narrow = room < 0 ? 0 : room / axis.stride + 1;
    } else {  // a transposed one: the wide size follows
      axis.narrow = draw.of(1, (most_wide + axis.stride - 1) / axis.stride);
      axis.before = draw.of(0, span / 2 + 1);
      axis.wide = (axis.narrow - 1) * axis.stride + span + draw.of(0, 3) - axis.before - draw.of(0, span / 2 + 1);
    }
  } while (axis.narrow < 1 || axis.wide < 1);
  return axis;
}

// As networks have most of them: the same odd taps along every axis, stride 1, and the size kept.
inline void make_usual(Draw& draw, Problem& problem, int64_t axes) {
  const int64_t taps = draw.among<int64_t>({3, 5, 7}), most_size[3] = {700, 70, 14};
  if (draw.chance(30)) problem.narrow = problem.wide = draw.among<int64_t>({2, 4, 8});  // whose lanes meet by turns
  int64_t work = std::max<int64_t>(problem.batch, 1) * problem.narrow * problem.wide;
  for (int64_t i = 3 - axes; i < 3; ++i) {
    const int64_t size = draw.of(1, most_size[axes - 1]);
    problem.axis[i] = {size, size, taps, 1, 1, taps / 2};
    work *= size * taps;
  }
  problem.groups = draw.of(1, std::clamp<int64_t>(10000000 / work, 1, 64));
}

inline Layout drawn_layout(Draw& draw) {
  return draw.among({Layout::ordered, Layout::ordered, Layout::channels_inner, Layout::channels_inner,
                     Layout::wide_rows, Layout::window, Layout::shuffled, Layout::one_sample});
}

inline Case drawn_case(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  Case made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 3);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.weights_type = draw.chance(20) ? Type::float32 : made.type;
  made.narrow_layout = drawn_layout(draw);
  made.wide_layout = drawn_layout(draw);
  made.biased = draw.chance(50);

  Problem& problem = made.problem;
  const bool large = draw.chance(8);  // enough for several threads to share
  const int64_t kind = draw.of(1, 10);
  problem.batch = draw.chance(3) ? 0 : draw.of(1, 3);
  problem.narrow = kind <= 6 ? 1 : kind == 7 ? draw.of(2, 4) : draw.of(1, 16);
  problem.wide = kind <= 7 ? 1 : draw.of(1, 16);
  problem.groups = kind == 10 ? 1 : kind >= 8 ? draw.of(1, 5) : draw.of(large ? 8 : 1, 40);
  const int64_t most_size[3] = {large ? 700 : 90, large ? 40 : 20, large ? 14 : 8};
  const int64_t most_taps[3] = {draw.chance(20) ? 40 : 9, draw.chance(10) ? 12 : 5, 4};
  for (int64_t i = 0; i < 3; ++i)
    problem.axis[i] =
        i < 3 - made.axes ? NO_AXIS : drawn_axis(draw, most_size[made.axes - 1], most_taps[made.axes - 1]);

  if (draw.chance(15)) make_usual(draw, problem, made.axes);

  made.heads = problem.groups;
  made.share = 1;
  if (draw.chance(30)) {  // neighbours share the weights of a head, or every so many groups do
    do made.heads = draw.of(1, problem.groups);
    while (problem.groups % made.heads);
    made.share = draw.chance(50) ? problem.groups / made.heads : 0;
  }
  made.narrow = draw.integers(made.narrow_sizes().count(), 3);
  made.wide = draw.integers(made.wide_sizes().count(), 3);
  const Values by_head = draw.integers(made.heads * made.filter(), 3);
  const Weights shown = made.shown(nullptr, made.weights_type, made.share, made.heads);
  for (int64_t group = 0; group < problem.groups; ++group) {
    const auto from = by_head.begin() + shown.head(group) * made.filter();
    made.weights.insert(made.weights.end(), from, from + made.filter());
  }
  made.bias = draw.integers(problem.groups * (problem.narrow > problem.wide ? problem.narrow : problem.wide), 9);
  return made;
}

// A depthwise convolution along two axes, and which of its gradients are asked for.
struct SeparableCase {
  Problem problem;
  int64_t threads;
  Type type;
  Layout input_layout, grad_layout;
  bool biased;
  bool of_input, of_column, of_row, of_bias;
  Values input, grad, column, row, bias;  // weights by channel and tap

  Sizes input_sizes() const { return sizes_of(problem, 1, &Axis::wide); }
  Sizes grad_sizes() const { return sizes_of(problem, 1, &Axis::narrow); }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << problem.batch << ", channels " << problem.groups << ", layouts "
        << int(input_layout) << ' ' << int(grad_layout) << ", bias " << biased << ", gradients of "
        << (of_input ? "input " : "") << (of_column ? "column " : "") << (of_row ? "row " : "")
        << (of_bias ? "bias" : "") << ", threads " << threads << text_of(problem, 2);
    return out.str();
  }
};

// Of short and long rows, few and many of them, as many channels as are soon computed.
inline SeparableCase drawn_separable(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  SeparableCase made;
  made.threads = draw.of(1, 3);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.input_layout = drawn_layout(draw);
  made.grad_layout = drawn_layout(draw);
  made.biased = draw.chance(50);
  do {
    made.of_input = draw.chance(50);
    made.of_column = draw.chance(50);
    made.of_row = draw.chance(50);
    made.of_bias = draw.chance(50);
  } while (!made.of_input && !made.of_column && !made.of_row && !made.of_bias);

  Problem& problem = made.problem;
  const bool large = draw.chance(8);  // enough for several threads, bands of rows and chunks of columns
  const auto most_taps = [&] { return draw.chance(20) ? 34 : 9; };
  const int64_t tall = large ? draw.among({12, 40, 200}) : 12, broad = large ? draw.among({40, 120, 900}) : 40;
  problem = {draw.chance(3) ? 0 : draw.of(1, 3), 1, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  problem.axis[1] = drawn_axis(draw, tall, most_taps());
  problem.axis[2] = drawn_axis(draw, broad, most_taps());
  const int64_t work = problem.axis[1].wide * problem.axis[2].wide * (problem.axis[1].taps + problem.axis[2].taps);
  const int64_t most_channels = (large ? 4000000 : 200000) / (work * (problem.batch + 1));
  problem.groups = draw.of(1, std::min<int64_t>(std::max<int64_t>(most_channels, 1), draw.chance(70) ? 40 : 300));

  made.input = draw.integers(made.input_sizes().count(), 3);
  made.grad = draw.integers(made.grad_sizes().count(), 3);
  made.column = draw.integers(problem.groups * problem.axis[1].taps, 3);
  made.row = draw.integers(problem.groups * problem.axis[2].taps, 3);
  made.bias = draw.integers(problem.groups, 9);
  return made;
}

}  // namespace omniconv
