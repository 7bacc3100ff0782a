// SPDX-License-Identifier: Apache-2.0
// A separable convolution where channels lie side by side: along the rows, then down the columns.
//
// V channels go through both passes in strips as wide as a tile. The row pass reads the tensor, and writes a ring of
// rows that fits the L1 cache with the window of the column pass in it.
#pragma once

#include "separable_rows.h"
#include "separable_window.h"

namespace omniconv {
namespace {

// What the rows of a strip meet: inputs from the column `place` on, of which those at 0 … inside - 1 are there.
struct StripRow {
  int64_t column;  // elements between columns
  int64_t place;
  uint64_t inside;
  const float* weights;
  int64_t weights_step, taps;
};

template <int N, class T>
__attribute__((noinline)) void strip_row(const StripRow& strip, const T* input, float* out) {
  vec sum[N] = {};
  slide<N>(sum, Spaced<T>{input, strip.column, strip.place, strip.inside}, strip.weights, strip.weights_step,
           strip.taps);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(out + i * V, sum[i]);
}

// What the columns of a strip meet: rows between the passes from number `place` on, likewise.
struct Fall {
  const float* const* rows;
  int64_t place;
  uint64_t inside;
  const float* weights;
  int64_t taps;
};

template <int N, class T>
__attribute__((noinline)) void strip_columns(const Fall& fall, vec start, T* out, int64_t row, int64_t column,
                                             int64_t columns) {
  for (int64_t p = 0; p < columns; ++p, out += column) {
    vec sum[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) sum[i] = start;
    slide<N>(sum, Listed{fall.rows, p * V, fall.place, fall.inside}, fall.weights, V, fall.taps);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) store_lanes(out + i * row, sum[i]);
  }
}

template <class T>
struct StripFunctions {
  void (*row[MOST_WINDOW + 1])(const StripRow&, const T* input, float* out);
  void (*columns[MOST_WINDOW + 1])(const Fall&, vec start, T* out, int64_t row, int64_t column, int64_t columns);
};

template <class T, int N = MOST_WINDOW>
constexpr void fill_strips(StripFunctions<T>& functions) {
  functions.row[N] = strip_row<N, T>;
  functions.columns[N] = strip_columns<N, T>;
  if constexpr (N > 1) fill_strips<T, N - 1>(functions);
}

template <class T>
constexpr StripFunctions<T> strip_functions() {
  StripFunctions<T> functions{};
  fill_strips<T>(functions);
  return functions;
}

template <class T>
constexpr StripFunctions<T> STRIPS = strip_functions<T>();

template <class T>
struct SeparableStrips : SeparableCall<T, Lane::CHANNELS> {
  static constexpr Lane LANE = Lane::CHANNELS;
  static constexpr int64_t TASKS = 16;
  // Fewer taps are sums soon done, and wait for memory: rows had better be read from end to end.
  static constexpr int64_t LEAST_TAPS = 5;

  using Call = SeparableCall<T, LANE>;
  using Call::problem, Call::input, Call::output, Call::bias, Call::host;
  using Call::passes, Call::channels, Call::column_weights, Call::row_weights;

  EvenParts strips;
  int64_t slots, band;
  Split split;

  static bool suits(const Problem& problem, const View& input, const View& output) {
    const Axis &down = problem.axis[1], &along = problem.axis[2];
    return input.channel == 1 && output.channel == 1 && problem.groups >= V && down.stride == 1 &&
           down.dilation == 1 && along.stride == 1 && along.dilation == 1 &&
           (along.narrow <= MOST_WINDOW || down.taps + along.taps >= 2 * LEAST_TAPS);
  }

  template <class... Given>
  explicit SeparableStrips(const Given&... given) : Call(given...), strips(passes.along.narrow) {
    const Axis &down = passes.down, &along = passes.along;
    slots = least(MOST_WINDOW, down.narrow) + down.taps - 1;
    const int64_t tasks = most(channels.blocks() * problem.batch * strips.parts, 1);
    const int64_t bands = most(least(ceil_div(TASKS, tasks), down.narrow / (4 * down.taps)), 1);
    band = ceil_div(down.narrow, bands);
    const int64_t work = down.narrow * along.narrow * (down.taps + along.taps + 4);
    split = Split::of_units(threads_for(host, work * channels.blocks() * problem.batch), channels.blocks(),
                            ceil_div(down.narrow, band), true, problem.batch, strips.parts);
  }

  int64_t scratch_bytes() const {
    return column_weights.bytes() + row_weights.bytes() + whole_lines(slots * MOST_WINDOW * V * 4) +
           whole_lines(passes.down.wide * 8);
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { work(dealer); });
  }

  void work(Dealer& dealer) const {
    const Axis &down = passes.down, &along = passes.along;
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    typename PassWeights<LANE, Way::GATHER>::Packed columns(column_weights, arena), rows(row_weights, arena);
    float* ring = arena.take<float>(slots * MOST_WINDOW * V);
    const float** ring_rows = arena.take<const float*>(down.wide);
    Task task;
    while (dealer.deal(task)) {
      const int64_t lowest = channels.first(task.block), first = strips.begin(task.chunk);
      const int64_t width = strips.begin(task.chunk + 1) - first, met = first - along.before;
      const T* from = static_cast<const T*>(input.data) + task.sample * input.batch + lowest + met * input.axis[2];
      T* to = static_cast<T*>(output.data) + task.sample * output.batch + lowest + first * output.axis[2];
      const StripRow strip{input.axis[2], met, uint64_t(along.wide), rows.block(task.block), V, along.taps};
      Fall fall{ring_rows, 0, uint64_t(down.wide), columns.block(task.block), down.taps};
      const vec start = bias ? load(bias + lowest) : vec{};
      const int64_t begin = task.first_row * band, end = least(begin + band, down.narrow);
      const EvenParts tiles(end - begin);
      int64_t next = 0, slot = 0;
      for (int64_t tile = 0; tile < tiles.parts; ++tile) {
        const int64_t row = begin + tiles.begin(tile), some = begin + tiles.begin(tile + 1) - row;
        fall.place = row - down.before;
        const int64_t end_met = least(fall.place + some + down.taps - 1, down.wide);
        for (next = most(next, fall.place); next < end_met; ++next) {
          float* out = ring + slot * MOST_WINDOW * V;
          STRIPS<T>.row[width](strip, from + next * input.axis[1], out);
          ring_rows[next] = out;
          if (++slot == slots) slot = 0;
        }
        STRIPS<T>.columns[some](fall, start, to + row * output.axis[1], output.axis[1], output.axis[2], width);
      }
    }
  }
};

}  // namespace
}  // namespace omniconv
