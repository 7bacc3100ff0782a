// SPDX-License-Identifier: Apache-2.0
// Random dynamic convolutions. A softmax is of numbers that make it exact: equal ones, as many as a power of two, and
// others so far below that their shares are none.
#pragma once

#include "drawn_cases.h"

namespace omniconv {

constexpr int FAR_BELOW = -1024;

struct DynamicCase {
  Problem problem;
  int64_t axes, threads;
  Type type;
  Layout input_layout, grad_layout;
  int order[8];  // of the axes of the kernels' tensor, innermost first: sample, head, taps, positions
  bool everywhere, softmax, renorm, biased;
  bool of_input, of_weights;
  Values input, grad, weights, bias;

  int64_t taps() const { return taps_of(problem); }
  Sizes input_sizes() const { return sizes_of(problem, problem.wide, &Axis::wide); }
  Sizes grad_sizes() const { return sizes_of(problem, problem.wide, &Axis::narrow); }
  // Of the kernels' tensor.
  int64_t size(int axis) const {
    if (axis < 2) return axis ? problem.groups : problem.batch;
    const Axis& own = problem.axis[(axis - 2) % 3];
    return axis < 5 ? own.taps : everywhere ? 1 : own.narrow;
  }
  int64_t count() const {
    int64_t all = 1;
    for (int axis = 0; axis < 8; ++axis) all *= size(axis);
    return all;
  }

  std::string text() const {
    std::ostringstream out;
    out << text_of(type) << ", batch " << problem.batch << ", heads " << problem.groups << " of " << problem.wide
        << " channels, layouts " << int(input_layout) << ' ' << int(grad_layout) << ", kernels";
    for (int axis : order) out << ' ' << axis;
    out << ", everywhere " << everywhere << ", softmax " << softmax << ", renorm " << renorm << ", bias " << biased
        << ", gradients of " << (of_input ? "input " : "") << (of_weights ? "weights" : "") << ", threads " << threads
        << text_of(problem, axes);
    return out.str();
  }
};

// Which taps of a position lie in the input.
inline std::vector<bool> taps_inside(const Problem& problem, int64_t position) {
  const Axis(&axis)[3] = problem.axis;
  const int64_t taps = taps_of(problem);
  std::vector<bool> inside(taps, true);
  for (int64_t tap = 0; tap < taps; ++tap) {
    int64_t k = tap, p = position;
    for (int i = 2; i >= 0; --i) {
      const int64_t at = axis[i].stride * (p % axis[i].narrow) + axis[i].dilation * (k % axis[i].taps) - axis[i].before;
      inside[tap] = inside[tap] && at >= 0 && at < axis[i].wide;
      k /= axis[i].taps;
      p /= axis[i].narrow;
    }
  }
  return inside;
}

// Numbers of one kernel whose softmax over the taps that count is exact.
inline Values exact_numbers(Draw& draw, std::vector<bool> counts) {
  std::vector<int64_t> places;
  for (size_t tap = 0; tap < counts.size(); ++tap)
    if (counts[tap]) places.push_back(tap);
  std::shuffle(places.begin(), places.end(), draw.engine);
  int64_t equal = 1;
  while (2 * equal <= int64_t(places.size()) && draw.chance(70)) equal *= 2;
  const int highest = int(draw.of(-3, 3));
  Values numbers(counts.size(), 5);
  for (size_t i = 0; i < places.size(); ++i) numbers[places[i]] = int64_t(i) < equal ? highest : FAR_BELOW;
  return numbers;
}

inline void draw_numbers(Draw& draw, DynamicCase& made) {
  const int64_t taps = made.taps(), each = made.size(5) * made.size(6) * made.size(7);
  made.weights = draw.integers(made.count(), 3);
  if (!made.softmax) return;
  for (int64_t pair = 0; pair < made.problem.batch * made.problem.groups; ++pair)
    for (int64_t p = 0; p < each; ++p) {
      std::vector<bool> counts(taps, true);
      if (made.renorm && !made.everywhere) counts = taps_inside(made.problem, p);
      if (std::count(counts.begin(), counts.end(), true) == 0) counts.assign(taps, true);
      Values numbers = exact_numbers(draw, counts);
      if (made.renorm && made.everywhere) {  // each tap far below the one before it, whichever are left out
        for (int64_t tap = 0; tap < taps; ++tap) numbers[tap] = int(tap) * FAR_BELOW;
        std::shuffle(numbers.begin(), numbers.end(), draw.engine);
      }
      for (int64_t tap = 0; tap < taps; ++tap) made.weights[(pair * taps + tap) * each + p] = numbers[tap];
    }
}

inline DynamicCase drawn_dynamic(uint64_t seed) {
  Draw draw{std::mt19937_64(seed)};
  DynamicCase made;
  made.axes = draw.of(1, 3);
  made.threads = draw.of(1, 3);
  made.type = draw.among({Type::float32, Type::bfloat16});
  made.input_layout = drawn_layout(draw);
  made.grad_layout = drawn_layout(draw);
  made.everywhere = draw.chance(20);
  made.softmax = draw.chance(60);
  made.renorm = made.softmax && draw.chance(50);
  made.biased = draw.chance(50);
  do {
    made.of_input = draw.chance(60);
    made.of_weights = draw.chance(60);
  } while (!made.of_input && !made.of_weights);
  const int ordered[8] = {7, 6, 5, 4, 3, 2, 1, 0}, inner[8] = {4, 3, 2, 1, 7, 6, 5, 0};
  std::memcpy(made.order, draw.chance(50) ? ordered : inner, sizeof ordered);
  if (draw.chance(20)) std::shuffle(made.order, made.order + 8, draw.engine);

  Problem& problem = made.problem;
  const bool large = draw.chance(8);
  const int64_t most_size[3] = {large ? 700 : 90, large ? 40 : 16, large ? 12 : 6};
  const int64_t most_taps[3] = {draw.chance(15) ? 40 : 6, draw.chance(10) ? 8 : 4, 3};
  problem = {draw.chance(3) ? 0 : draw.of(1, 3), 1, 1, 1, {NO_AXIS, NO_AXIS, NO_AXIS}};
  int64_t work = problem.batch + 1;
  for (int64_t i = 3 - made.axes; i < 3; ++i) {
    problem.axis[i] = drawn_axis(draw, most_size[made.axes - 1], most_taps[made.axes - 1]);
    work *= problem.axis[i].narrow * problem.axis[i].taps;
  }
  const int64_t most = std::max<int64_t>((large ? 4000000 : 400000) / work, 1);  // channels
  problem.groups = draw.of(1, std::min<int64_t>(most, 6));
  problem.wide = draw.of(1, std::min<int64_t>(most / problem.groups + 1, draw.chance(95) ? 70 : 300));
  problem.narrow = problem.wide;

  made.input = draw.integers(made.input_sizes().count(), 3);
  made.grad = draw.integers(made.grad_sizes().count(), 3);
  made.bias = draw.integers(problem.groups * problem.wide, 9);
  draw_numbers(draw, made);
  return made;
}

}  // namespace omniconv
