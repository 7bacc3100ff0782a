// SPDX-License-Identifier: Apache-2.0
// A separable convolution of each channel by itself: down the columns, then along the rows.
#pragma once

#include "separable_rows.h"
#include "separable_strips.h"

namespace omniconv {
namespace {

template <class T, Lane LANE>
struct SeparableSums : SeparableCall<T, LANE> {
  using Own = Lay<LANE>;
  using Call = SeparableCall<T, LANE>;
  using Call::problem, Call::input, Call::output, Call::bias, Call::host;
  using Call::passes, Call::channels, Call::column_weights, Call::row_weights;

  int64_t rows, slots, chunk, width, group;
  Split split;

  template <class... Given>
  explicit SeparableSums(const Given&... given) : Call(given...) {
    const Axis &down = passes.down, &along = passes.along;
    rows = least(passes.template rows_ahead<LANE>(), down.narrow);
    slots = least(passes.rows_met(rows), down.wide);
    chunk = passes.template chunk<LANE>(slots);
    width = passes.chunk_width(chunk);
    const int64_t work = down.narrow * (Own::vectors(least(width, along.wide)) * (down.taps + 4) +
                                        Own::vectors(along.narrow) * (along.taps + 4));
    group = LANE == Lane::COLUMNS ? 1 : passes.group(input, channels, problem.batch, slots, width);
    split = Split::of(host, ceil_div(Own::blocks(channels), group), problem.batch, down.narrow, slots,
                      ceil_div(along.narrow, chunk), work, output.channel == 1);
    split.band = ceil_div(ceil_div(down.narrow, ceil_div(down.narrow, split.band)), rows) * rows;
    split.bands = ceil_div(split.rows, split.band);
  }

  int64_t scratch_bytes() const {
    return PackedRows<T, LANE>::bytes(slots, width, group, passes.down.wide) + column_weights.bytes() +
           row_weights.bytes() + whole_lines(rows * Own::floats(width) * 4) +
           whole_lines(rows * Own::floats(chunk) * 4) + whole_lines(passes.down.taps * 8);
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { work(dealer); });
  }

  void work(Dealer& dealer) const {
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    PackedRows<T, LANE> inputs(slots, width, group, passes.down.wide, arena);
    typename PassWeights<LANE, Way::GATHER>::Packed down(column_weights, arena), along(row_weights, arena);
    const int64_t pitch = Own::floats(width);
    float* between = arena.take<float>(rows * pitch);
    float* sums = arena.take<float>(rows * Own::floats(chunk));
    const float** met = arena.take<const float*>(passes.down.taps);

    Task task;
    int64_t framed = -1;
    while (dealer.deal(task)) {
      Lanes own[MOST_GROUP];
      const int64_t first = task.block * group, blocks = least(group, Own::blocks(channels) - first);
      for (int64_t block = 0; block < blocks; ++block) own[block] = Own::own(channels, first + block);
      const Span columns{task.chunk * chunk, least((task.chunk + 1) * chunk, passes.along.narrow)};
      const Span reach = met_by<Way::GATHER>(passes.along, columns), filled = reach.inside(passes.along.wide);
      for (int64_t row = 0; framed != task.chunk && row < rows; ++row)
        inputs.frame(between + row * pitch, pitch, reach, filled);
      framed = task.chunk;
      inputs.begin(input, task.sample, own, blocks, filled, passes.along.wide, true);
      T* to = static_cast<T*>(output.data) + task.sample * output.batch + columns.begin * output.axis[2];
      for (int64_t row = task.first_row; row < task.end_row; row += rows) {
        const int64_t some = least(rows, task.end_row - row);
        for (int64_t block = 0; block < blocks; ++block) {
          passes.sum_between(inputs, met, down.block(first + block), block, row, some, between, pitch, reach);
          sum_along(some, between, pitch, along.block(first + block), own[block], columns,
                    to + own[block].lowest * output.channel + row * output.axis[1], sums);
        }
      }
    }
  }

  void sum_along(int64_t some, const float* between, int64_t pitch, const float* weights, const Lanes& own,
                 const Span& columns, T* to, float* sums) const {
    alignas(64) float start[V] = {};
    for (int64_t lane = 0; bias && lane < own.count; ++lane) start[lane] = widen(bias[own.lowest + lane]);
    const Axis& along = passes.along;
    if constexpr (LANE == Lane::COLUMNS) {
      const Shifts shifts{between, pitch, weights, along.taps, along.dilation, start[0]};
      const int64_t apart = half_of(along.taps, along.dilation);
      if constexpr (sizeof(T) == sizeof(float)) {
        shift_rows(some, shifts, apart, to, output.axis[1], columns.count());
      } else {
        shift_rows(some, shifts, apart, sums, Own::floats(chunk), columns.count());
        for (int64_t r = 0; r < some; ++r)
          Own::unpack(to + r * output.axis[1], output, sums + r * Own::floats(chunk), columns.count(), own);
      }
    } else {
      for (int64_t r = 0; r < some; ++r, to += output.axis[1]) {
        const bool straight = sizeof(T) == sizeof(float) && output.channel == 1 && own.count == V;
        float* out = straight ? reinterpret_cast<float*>(to) : sums;
        const TapRow tap_row{between + r * pitch, weights};
        const Walk walk{&tap_row, 1, along.taps, V, along.stride * V, along.dilation * V,
                        straight ? output.axis[2] : V, 1, 0, 0, start, 0};
        gather_row(walk, tiles_for(walk), 0, out, columns.count());
        if (!straight) Own::unpack(to, output, sums, columns.count(), own);
      }
    }
  }
};

template <class T>
inline void separable_sums(const Problem& problem, const View& input, const View& output, const Weights& column,
                           const Weights& row, const void* bias, const Host& host) {
  if (SeparableStrips<T>::suits(problem, input, output)) {
    SeparableStrips<T>(problem, input, output, column, row, bias, host).run();
  } else if (columns_suit(problem, input, output)) {
    SeparableSums<T, Lane::COLUMNS>(problem, input, output, column, row, bias, host).run();
  } else {
    SeparableSums<T, Lane::CHANNELS>(problem, input, output, column, row, bias, host).run();
  }
}

}  // namespace
}  // namespace omniconv
