// SPDX-License-Identifier: Apache-2.0
// Random deformable convolutions: offsets in halves, and now and then far outside, infinite or no number.
#pragma once

#include "drawn_cases.h"

namespace omniconv {

struct DeformableCase {
  Problem problem;
  int64_t axes, threads, offset_groups;
  Type type, places_type;  // places: offset and mask
  Layout input_layout, grad_layout, places_layout;
  bool masked, biased;
  bool of_input, of_offset, of_mask, of_weights;
  Values input, grad, mask, weights, bias;
  std::vector<double> offset;

  int64_t taps() const { return taps_of(problem); }
  Sizes input_sizes() const { return sizes_of(problem, problem.wide, &Axis::wide); }
  Sizes grad_sizes() const { return sizes_of(problem, problem.narrow, &Axis::narrow); }
  Sizes mask_sizes() const {
    Sizes sizes = grad_sizes();
    sizes.of[1] = offset_groups * taps();
    return sizes;
  }
  Sizes offset_sizes() const {
    Sizes sizes = mask_sizes();
    sizes.of[1] *= axes;
    return sizes;
  }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", places " << text_of(places_type) << ", batch " << problem.batch << ", groups "
        << problem.groups << " of " << problem.narrow << " outputs and " << problem.wide << " inputs, offset groups "
        << offset_groups << ", layouts " << int(input_layout) << ' ' << int(grad_layout) << ' ' << int(places_layout)
        << ", mask " << masked << ", bias " << biased << ", gradients of " << (of_input ? "input " : "")
        << (of_offset ? "offset " : "") << (of_mask ? "mask " : "") << (of_weights ? "weights" : "") << ", threads "
        << threads << text_of(problem, axes);
    return out.str();
  }
};

// More than is packed at once, of few products.
inline void make_packed(Draw& draw, DeformableCase& made) {
  made.axes = 1;
  made.input_layout = Layout::ordered;
  const int64_t size = draw.of(450, 700), taps = draw.of(1, 2);
  made.problem = {draw.of(1, 2), draw.of(1, 2), draw.of(300, 350), draw.of(1, 2), {NO_AXIS, NO_AXIS, NO_AXIS}};
  made.problem.axis[2] = {size, size + 1 - taps, taps, 1, 1, 0};
}

inline DeformableCase drawn_deformable(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  DeformableCase made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 3);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.places_type = draw.chance(50) ? made.type : Type::float32;
  const auto layout = [&] { return draw.among({Layout::ordered, Layout::channels_inner, Layout::one_sample}); };
  made.input_layout = layout();
  made.grad_layout = layout();
  made.places_layout = layout();
  made.masked = draw.chance(50);
  made.biased = draw.chance(50);
  do {
    made.of_input = draw.chance(50);
    made.of_offset = draw.chance(50);
    made.of_mask = made.masked && draw.chance(50);
    made.of_weights = draw.chance(50);
  } while (!made.of_input && !made.of_offset && !made.of_mask && !made.of_weights);

  Problem& problem = made.problem;
  const bool large = draw.chance(8), many = draw.chance(8);  // many: channels, of several passes
  const int64_t most_size[3] = {large ? 400 : many ? 9 : 70, large ? 24 : many ? 4 : 12, large ? 9 : many ? 2 : 5};
  const int64_t most_taps[3] = {draw.chance(10) ? 20 : 5, 4, 3};
  problem = {draw.chance(3) ? 0 : draw.of(1, 3), 1, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  int64_t work = problem.batch + 1;
  for (int64_t i = 3 - made.axes; i < 3; ++i) {
    problem.axis[i] = drawn_axis(draw, most_size[made.axes - 1], most_taps[made.axes - 1]);
    work *= problem.axis[i].narrow * problem.axis[i].taps;
  }
  const int64_t most = std::max<int64_t>((large ? 4000000 : 200000) / work, 1);  // products of channels
  problem.groups = draw.chance(60) ? 1 : draw.of(1, std::min<int64_t>(most, many ? 3 : 8));
  problem.wide = draw.of(1, std::min<int64_t>(most / problem.groups + 1, many ? 300 : draw.chance(95) ? 40 : 600));
  problem.narrow = draw.of(
      1, std::min<int64_t>(most / problem.groups / problem.wide + 1, draw.chance(95) ? 40 : 600));
  if (draw.chance(2)) make_packed(draw, made);
  const int64_t channels = problem.groups * problem.wide;
  do made.offset_groups = draw.chance(50) ? 1 : draw.of(1, channels);
  while (channels % made.offset_groups);

  made.input = draw.integers(made.input_sizes().count(), 3);
  made.grad = draw.integers(made.grad_sizes().count(), 3);
  made.mask = draw.integers(made.mask_sizes().count(), 2);
  made.weights = draw.integers(problem.groups * problem.narrow * problem.wide * made.taps(), 3);
  made.bias = draw.integers(problem.groups * problem.narrow, 9);
  const int64_t reach = draw.among<int64_t>({1, 3, 20});
  const bool wild = draw.chance(10);
  made.offset.resize(made.offset_sizes().count());
  for (double& value : made.offset) {
    value = double(draw.of(-reach, reach)) / 2;
    if (wild && draw.chance(2)) value = draw.among<double>({1e9, -3e38, INFINITY, -INFINITY, NAN});
  }
  return made;
}

}  // namespace omniconv
