// SPDX-License-Identifier: Apache-2.0
// The way back through a batch norm in training and the pointwise convolution before it: the gradient of what stands
// between them, computed for some hundred positions at a time, is read for both gradients while it is in the cache.
#pragma once

#include "norm_passes.h"
#include "pointwise_gradient.h"
#include "pointwise_sums.h"

namespace omniconv {
namespace {

// Below so many parts, which are the tasks, each way by itself has more of them. The number of threads does not decide:
// the same numbers may be rounded in another way.
constexpr int64_t LEAST_PARTS = 8;

// Numbers and sums are those of either way by itself, in the same order.
struct NormedGradient {
  using Sides = PointwiseGradient<float>;

  const NormPass<float> norm;
  const Pointwise* back;  // the convolution of the gradient between, whose input stays unset; or null
  Sides sides;
  int64_t pitch;  // between positions of the gradient between

  NormedGradient(const Normed& norm_, const Pointwise& call, const Pointwise* back_, const Matrix& gradient,
                 const Host& host)
      : norm(norm_), back(back_), sides(call, gradient, host), pitch(odd_lines(call.outputs)) {}

  bool pays() const { return sides.parts >= LEAST_PARTS; }

  int64_t packed_floats() const {
    return back ? whole_lines(PointwisePlan(*back, sides.host).packed_floats() * 4) / 4 : 0;
  }
  int64_t floats() const { return packed_floats() + sides.floats() + V; }

  void run(float* workspace) const {
    Arena arena{reinterpret_cast<char*>(workspace)};
    float* turned = arena.take<float>(packed_floats());
    if (back) PointwisePlan(*back, sides.host).pack<float>(turned, sides.host);
    float* sums = reinterpret_cast<float*>(arena.at);
    const int64_t threads = least(sides.plan.threads, sides.parts);
    run_tasks(sides.host, Split::of_units(threads, 1, sides.parts, true), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) pass(task.first_row, turned, sums);
    });
    sides.end(sums, threads);
  }

  void pass(int64_t part, const float* turned, float* workspace) const {
    const Pointwise& call = sides.call;
    const int64_t rows = sides.rows.channels, lanes = sides.lanes.channels, start = part * sides.part;
    const int64_t end = least(start + sides.part, call.batch * sides.plan.positions);
    const int64_t made = AT_ONCE * pitch, copied = AT_ONCE * odd_lines(rows);
    Arena arena{static_cast<char*>(sides.host.scratch(whole_lines(AT_ONCE * TILE_WIDTH * 4) + whole_lines(made * 4) +
                                                      whole_lines(copied * 4)))};
    float* panel = arena.take<float>(AT_ONCE * TILE_WIDTH);
    float* between = arena.take<float>(made);
    float* copy = arena.take<float>(copied);
    for (int64_t begin = start; begin < end; begin += AT_ONCE) {
      const int64_t count = least(AT_ONCE, end - begin);
      make(begin, count, between);
      Later later = read_next(begin + AT_ONCE, end);
      if (back) sum_back(begin, count, between, turned, later);
      const View view = seen(between, begin);
      const Sides::Side output{view, Places(call.size, view), call.outputs};
      const bool flipped = sides.flipped;
      sides.add(flipped ? sides.rows : output, flipped ? output : sides.lanes, {begin, count, begin == start},
                {0, rows, 0, lanes}, panel, copy, sides.sums_of(part, workspace), later);
    }
  }

  // What the block behind this one is made of.
  Later read_next(int64_t begin, int64_t end) const {
    if (begin >= end) return Later({}, 1);
    const int64_t count = least(AT_ONCE, end - begin), outputs = sides.call.outputs;
    const int64_t back_tiles = back ? ceil_div(back->outputs, TILE_WIDTH) * ceil_div(AT_ONCE, TILE_HEIGHT) : 0;
    const auto stretch = [&](const void* of) {
      return Ahead{static_cast<const float*>(of) + begin * outputs, count * outputs / V};
    };
    return Later({stretch(norm.call.input), stretch(norm.call.grad),
                  sides.stretch(sides.flipped ? sides.rows : sides.lanes, begin, count)}, sides.tiles() + back_tiles);
  }

  void make(int64_t begin, int64_t count, float* to) const {
    const int64_t outputs = sides.call.outputs;
    with_activation(norm.call.activation, [&](auto activation) {
      norm.each_few(begin, begin + count, [&](int64_t first, int64_t last, int64_t c, int64_t some, auto vectors) {
        for (int n = 0; n < decltype(vectors)::value; ++n, c += V) {
          const NormPass<float>::Own own(norm.call, [&](const float* of) { return load_count(of + c, some); });
          for (int64_t row = first; row < last; ++row)
            store(to + (row - begin) * pitch + c, norm.result(row * outputs + c, some, own, activation));
        }
      });
    });
  }

  void sum_back(int64_t begin, int64_t count, const float* between, const float* turned, Later& later) const {
    constexpr float INFINITE = __builtin_inff();
    const int64_t step = back->outputs;
    float* out = static_cast<float*>(back->output.data) + begin * step;
    for (int64_t o = 0; o < back->outputs; o += TILE_WIDTH) {
      const int64_t lanes = least(TILE_WIDTH, back->outputs - o), width = whole_vectors(lanes);
      const TileCall tile{pitch, width, back->inputs, step, false, 0, false, 0, -INFINITE, INFINITE};
      each_tile(0, count, [&](int64_t row, int64_t some) {
        SUM_TILES<false>.of[some][width / V](tile, between + row * pitch, turned + o * back->inputs, Sides::NONE,
                                             out + row * step + o, lanes - width + V, later.next());
      });
    }
  }

  // The numbers of a block, where those of all positions would lie.
  View seen(float* between, int64_t begin) const {
    const int64_t(&size)[3] = sides.call.size;
    return {between - begin * pitch,     Type::float32, sides.plan.positions * pitch, 1,
            {size[2] * size[1] * pitch, size[2] * pitch, pitch}};
  }
};

}  // namespace
}  // namespace omniconv
