// SPDX-License-Identifier: Apache-2.0
// A convolution, or the transpose of one, block by block of channels.
//
// The inputs of a few rows stand in a ring of packed rows in the L1 or L2 cache, zeros around them, and each row of
// outputs is summed from there. Tasks (block of channels, sample, band of rows, chunk of columns) go to whichever
// thread is free: an output is summed in the same order whoever does it.
#pragma once

#include "blocked_ring.h"
#include "blocked_rows.h"
#include "blocked_turns.h"
#include "blocked_weights.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t MANY_WEIGHTS = 8;

template <class T, Way WAY>
struct BlockedSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::bias, Call::host;

  Channels channels;
  Ring<T, WAY> ring;
  TapWeights<WAY> weights;
  Split split;

  explicit BlockedSums(const Call& call)
      : Call(call),
        channels(channels_of<WAY>(problem)),
        ring(problem, channels, input),
        weights(problem, channels, call.weights, ring.phases) {
    const int64_t rows = outputs_of<WAY>(problem.axis[0]) * outputs_of<WAY>(problem.axis[1]);
    const int64_t sums = weights.floats / V / period_of<WAY>(problem.axis[2]) + 4;
    // Weights that are many beside the outputs should be packed by one thread each.
    const int64_t outputs = problem.batch * rows * ring.columns;
    const bool many = channels.turns() > 1 && weights.floats / V * MANY_WEIGHTS > outputs;
    split = Split::of(host, ring.groups, problem.batch, rows, ring.least_rows(), ring.chunks,
                      ring.columns * rows * sums * channels.blocks() / ring.groups, output.channel == 1 && !many);
  }

  int64_t scratch_bytes() const {
    return ring.bytes() + weights.bytes() + whole_lines(ring.chunk * V * 4) +
           whole_lines(weights.rows * int64_t(sizeof(TapRow))) + 2 * whole_lines(weights.rows * 8);
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { Worker(*this).work(dealer); });
  }

  // What one thread has at hand.
  struct Worker {
    const BlockedSums& whole;
    const Problem& problem;
    const Channels& channels;
    const Ring<T, WAY>& ring;
    Arena arena;
    typename Ring<T, WAY>::Rows rows;
    typename TapWeights<WAY>::Packed packed;
    float* sums;
    TapRow* tap_rows;
    const float** met;
    int64_t* places;
    int64_t begin, count;  // columns of the task's chunk
    ivec circle;
    alignas(64) float start[V] = {};

    explicit Worker(const BlockedSums& whole)
        : whole(whole),
          problem(whole.problem),
          channels(whole.channels),
          ring(whole.ring),
          arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))},
          rows(ring, arena),
          packed(whole.weights, arena) {
      sums = arena.take<float>(ring.chunk * V);
      tap_rows = arena.take<TapRow>(whole.weights.rows);
      met = arena.take<const float*>(whole.weights.rows);
      places = arena.take<int64_t>(whole.weights.rows);
      for (int64_t lane = 0; lane < V; ++lane) circle[lane] = int32_t(channels.before(lane, 1));
    }

    void work(Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) {
        begin = task.chunk * ring.chunk;
        count = least(ring.chunk, ring.columns - begin);
        rows.begin(whole.input, task.sample, task.block, begin, count);
        for (int64_t first = task.first_row, end; first < task.end_row; first = end) {
          end = ring.end_of_band(first, task.end_row);
          for (int64_t block = rows.first_block; block < rows.first_block + rows.blocks; ++block)
            sum_band(task.sample, block, first, end);
        }
      }
    }

    // Rows first … end - 1, of one plane.
    void sum_band(int64_t sample, int64_t block, int64_t first, int64_t end) {
      const View& output = whole.output;
      const Lanes own = channels.own(block);
      if (whole.bias) store(start, load_first(whole.bias + own.lowest, own.count));
      const float* filters = packed.block(block);
      const int64_t height = outputs_of<WAY>(problem.axis[1]), plane = first / height;
      for (int64_t row = first; row < end; ++row) {
        const int64_t place[2] = {plane, row - plane * height};
        const int64_t found = rows.meet(block, place, met, places);
        T* to = static_cast<T*>(output.data) + sample * output.batch + own.lowest * output.channel +
                place[0] * output.axis[0] + place[1] * output.axis[1] + begin * output.axis[2];
        const bool straight = sizeof(T) == sizeof(float) && output.channel == 1 && own.count == V;
        sum_row(filters, found, straight ? reinterpret_cast<float*>(to) : sums, straight ? output.axis[2] : V);
        if (!straight) unpack_row(to, output.channel, output.axis[2], sums, count, own.count);
      }
    }

    // Phase by phase, from `found` rows of inputs.
    void sum_row(const float* filters, int64_t found, float* out, int64_t out_step) {
      for (int64_t phase = 0; phase < least(ring.phases, count); ++phase) {
        const Steps steps = steps_of<WAY>(problem.axis[2], begin + phase);
        for (int64_t i = 0; i < found; ++i)
          tap_rows[i] = {met[i], filters + packed.phase_at[phase] + places[i] * steps.taps * V};
        const Walk walk{tap_rows, steps.taps ? found : 0, steps.taps, V, input_step_of<WAY>(problem.axis[2]) * V,
                        steps.hop * V, ring.phases * out_step, 1, 0, 0, start, 0};
        const int64_t at = (steps.at - rows.lowest) * V, outputs = ceil_div(count - phase, ring.phases);
        if (channels.turns() > 1) {
          const Turns turns{channels.turns(), whole.weights.turn_step(steps.taps), circle};
          turn_row(walk, turns, at, out + phase * out_step, outputs);
        } else {
          gather_row(walk, tiles_for(walk), at, out + phase * out_step, outputs);
        }
      }
    }
  };
};

}  // namespace
}  // namespace omniconv
