// SPDX-License-Identifier: Apache-2.0
// A depthwise convolution, or the transpose of one, read straight from a tensor whose channels lie side by side.
//
// For kernels of few taps packing would cost as much as summing. A tile of outputs is summed for all blocks of channels
// in turn, so that memory is read and written in the order in which it lies, as the processor's prefetching expects.
#pragma once

#include "blocked_rows.h"
#include "blocked_weights.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t MOST_DIRECT_TAPS = 27;
constexpr int64_t DIRECT_TILES = 8;  // of columns in a task, where rows are few

template <Way WAY>
struct DirectSums {
  const Problem& problem;
  const View& input;
  const View& output;
  const float* bias;
  const Host& host;

  Channels channels;
  int64_t columns, phases, chunks, chunk;
  TapWeights<WAY> weights;
  Split split;

  static bool suits(const Problem& problem, const View& input, const View& output) {
    const int64_t taps = problem.axis[0].taps * problem.axis[1].taps * problem.axis[2].taps;
    return problem.wide == 1 && problem.narrow == 1 && problem.groups >= V && input.channel == 1 &&
           output.channel == 1 && input.type == Type::float32 && taps <= MOST_DIRECT_TAPS;
  }

  DirectSums(const Problem& problem, const View& input, const View& output, const Weights& weights, const float* bias,
             const Host& host)
      : problem(problem),
        input(input),
        output(output),
        bias(bias),
        host(host),
        channels{problem.groups, 1, 1},
        columns(outputs_of<WAY>(problem.axis[2])),
        phases(least(period_of<WAY>(problem.axis[2]), columns)),
        weights(problem, channels, weights, phases) {
    const int64_t rows = outputs_of<WAY>(problem.axis[0]) * outputs_of<WAY>(problem.axis[1]);
    chunk = rows > 1 ? columns : least(columns, ceil_div(DIRECT_TILES * MAX_TILE, phases) * phases);
    chunks = ceil_div(columns, chunk);
    const int64_t sums = this->weights.floats / V / period_of<WAY>(problem.axis[2]) + 4;
    split = Split::of(host, 1, problem.batch, rows, 1, chunks, columns * rows * sums * channels.blocks(), true);
  }

  int64_t scratch_bytes() const {
    const int64_t all = weights.floats * 4 * channels.blocks();
    return lines(all) + lines(phases * 8) + lines(weights.rows * int64_t(sizeof(TapRow)));
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { work(dealer); });
  }

  void work(Dealer& dealer) const {
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    float* packed = arena.take<float>(weights.floats * channels.blocks());
    int64_t* phase_at = arena.take<int64_t>(phases);
    TapRow* rows = arena.take<TapRow>(weights.rows);
    weights.place(phase_at);
    for (int64_t block = 0; block < channels.blocks(); ++block) weights.pack(block, packed + block * weights.floats);

    Task task;
    while (dealer.deal(task)) {
      const int64_t begin = task.chunk * chunk, count = least(chunk, columns - begin);
      const int64_t height = outputs_of<WAY>(problem.axis[1]);
      int64_t place[2] = {task.first_row / height, task.first_row % height};
      for (int64_t row = task.first_row; row < task.end_row; ++row, next(place, height)) {
        float* to = static_cast<float*>(output.data) + task.sample * output.batch + place[0] * output.axis[0] +
                    place[1] * output.axis[1];
        for (int64_t phase = 0; phase < least(phases, count); ++phase) {
          const Steps steps = steps_of<WAY>(problem.axis[2], begin + phase);
          const int64_t found = meet(place, task.sample, packed + phase_at[phase], steps.taps, rows);
          sum(steps, rows, found, to + (begin + phase) * output.axis[2], ceil_div(count - phase, phases));
        }
      }
    }
  }

  static void next(int64_t (&place)[2], int64_t height) {
    if (++place[1] < height) return;
    place[1] = 0;
    ++place[0];
  }

  // Lists the rows of inputs that a row of outputs meets, with the weights of the first block.
  int64_t meet(const int64_t (&place)[2], int64_t sample, const float* filters, int64_t taps, TapRow* rows) const {
    const Steps outer = steps_of<WAY>(problem.axis[0], place[0]), inner = steps_of<WAY>(problem.axis[1], place[1]);
    const float* from = static_cast<const float*>(input.data) + sample * input.batch;
    int64_t found = 0;
    for (int64_t i = 0; i < outer.taps; ++i) {
      const int64_t depth = outer.at + outer.hop * i;
      if (depth < 0 || depth >= inputs_of<WAY>(problem.axis[0])) continue;
      for (int64_t j = 0; j < inner.taps; ++j) {
        const int64_t height = inner.at + inner.hop * j;
        if (height < 0 || height >= inputs_of<WAY>(problem.axis[1])) continue;
        const int64_t row = (outer.first + outer.step * i) * problem.axis[1].taps + inner.first + inner.step * j;
        rows[found++] = {from + depth * input.axis[0] + height * input.axis[1], filters + row * taps * V};
      }
    }
    return found;
  }

  // Outputs 0 … count - 1 of a phase: in the middle, where every tap meets data, tile by tile; the others one by one.
  void sum(const Steps& steps, const TapRow* rows, int64_t found, float* to, int64_t count) const {
    static constexpr float NO_BIAS[V] = {};
    const int64_t step = input_step_of<WAY>(problem.axis[2]), last = inputs_of<WAY>(problem.axis[2]) - 1;
    const int64_t column = input.axis[2];
    const Walk walk{rows,
                    steps.taps ? found : 0,
                    steps.taps,
                    column,
                    step * column,
                    steps.hop * column,
                    phases * output.axis[2],
                    channels.blocks(),
                    channels.first(channels.blocks() - 1),
                    weights.floats,
                    bias ? bias : NO_BIAS,
                    bias ? 1 : 0};
    const int64_t other = steps.at + steps.hop * (steps.taps - 1);
    const int64_t low = least(steps.at, other), high = most(steps.at, other);
    const int64_t first = least(low < 0 ? ceil_div(-low, step) : 0, count);
    const int64_t end = most(least(high > last ? 0 : (last - high) / step + 1, count), first);
    for (int64_t t = 0; t < first; ++t) sum_one(walk, steps.at + step * t, steps.hop, last, to + t * walk.out_step);
    gather_row(walk, tiles_for(walk), (steps.at + step * first) * column, to + first * walk.out_step, end - first);
    for (int64_t t = end; t < count; ++t) sum_one(walk, steps.at + step * t, steps.hop, last, to + t * walk.out_step);
  }

  // One output that some taps of each row, at either end, meet outside the input.
  void sum_one(Walk walk, int64_t at, int64_t hop, int64_t last, float* to) const {
    int64_t begin = 0;
    while (begin < walk.taps && (at < 0 || at > last)) at += hop, ++begin;
    while (begin < walk.taps && (at + hop * (walk.taps - begin - 1) < 0 || at + hop * (walk.taps - begin - 1) > last))
      --walk.taps;
    walk.taps -= begin;
    if (walk.taps == 0) walk.count = 0;
    gather_one(walk, at * walk.column, begin * V, to);
  }
};

}  // namespace
}  // namespace omniconv
