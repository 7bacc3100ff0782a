// SPDX-License-Identifier: Apache-2.0
// A convolution of one channel to a group, or of as few as lanes meet by turns, or the transpose of one, read straight
// from a tensor whose channels lie side by side.
//
// Packing would cost a third of the time. A tile of outputs is summed for blocks of channels in turn, so that memory is
// read and written in the order in which it lies, as the processor's prefetching expects.
#pragma once

#include "blocked_weights.h"
#include "direct_tiles.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t MOST_DIRECT_WEIGHTS = 2 << 20;  // bytes that each thread packs
constexpr int64_t MOST_DIRECT_TURNS = 4;          // of an image
constexpr int64_t MOST_TILED_TURNS = 8;           // of tiles of several rows
constexpr int64_t DIRECT_TILES = 8;               // of columns in a task, where rows are few
constexpr int64_t DIRECT_BLOCKS = 8;              // whose rows of inputs stay cached until the next row of outputs

template <class T, Way WAY>
struct DirectSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::bias, Call::host;

  static constexpr T NO_BIAS[V] = {};

  Channels channels;
  bool tall;  // whether tasks consist of tiles
  int64_t columns, phases, chunks, chunk, group;
  TapWeights<WAY> weights;
  ivec circle;
  Split split;

  static bool suits(const Problem& problem, const View& input, const View& output) {
    const bool ordered = input.axis[2] > 0 || inputs_of<WAY>(problem.axis[2]) == 1;
    const Channels channels = channels_of<WAY>(problem);
    const int64_t weights = channels.blocks() * V * channels.variants * taps_of(problem) * 4;
    return channels.per_group == channels.variants && (channels.per_group == 1 || turns_pay(problem, channels)) &&
           channels.count() >= V && input.channel == 1 && output.channel == 1 && ordered &&
           weights <= MOST_DIRECT_WEIGHTS;
  }

  // Where groups share inputs so little, or rows of a volume are so many, that packing costs more than it saves. Taps
  // must lie side by side, or each is loaded at each turn; bfloat16 would be widened as often.
  static bool turns_pay(const Problem& problem, const Channels& channels) {
    if (tiled(problem)) return true;
    return sizeof(T) == sizeof(float) && channels.turns() == channels.variants &&
           (problem.axis[2].taps == 1 || problem.axis[2].dilation == 1) &&
           (channels.per_group <= MOST_DIRECT_TURNS || outputs_of<WAY>(problem.axis[0]) > 1);
  }

  explicit DirectSums(const Call& call)
      : Call(call),
        channels(channels_of<WAY>(problem)),
        tall(tiled(problem)),
        columns(outputs_of<WAY>(problem.axis[2])),
        phases(least(period_of<WAY>(problem.axis[2]), columns)),
        weights(problem, channels, call.weights, phases) {
    for (int64_t lane = 0; lane < V; ++lane) circle[lane] = int32_t(channels.before(lane, 1));
    const int64_t rows = outputs_of<WAY>(problem.axis[0]) * outputs_of<WAY>(problem.axis[1]);
    const int64_t units = tall ? ceil_div(rows, TILE_ROWS) : rows;
    chunk = rows > 1 ? columns : least(columns, ceil_div(DIRECT_TILES * MAX_TILE, phases) * phases);
    chunks = ceil_div(columns, chunk);
    const int64_t sums = weights.floats / V / period_of<WAY>(problem.axis[2]) + 4;
    group = problem.axis[1].taps > 1 ? least(DIRECT_BLOCKS, channels.blocks()) : channels.blocks();
    split = Split::of(host, 1, problem.batch, units, 1, chunks, columns * rows * sums * channels.blocks(), true);
  }

  // Whether tasks consist of tiles of several rows (direct_tiles.h): of images high and of channels many enough for
  // them, as measured.
  static bool tiled(const Problem& problem) {
    const Channels channels = channels_of<WAY>(problem);
    const auto steps_by_one = [](const Axis& axis) { return axis.taps == 3 && axis.stride == 1 && axis.dilation == 1; };
    return HAS_TILES && channels.turns() > 1 && channels.turns() <= MOST_TILED_TURNS &&
           channels.turns() == channels.variants && channels.per_group == channels.variants &&
           problem.axis[0].taps == 1 && problem.axis[0].wide == 1 && problem.axis[0].narrow == 1 &&
           steps_by_one(problem.axis[1]) && steps_by_one(problem.axis[2]) && channels.blocks() >= 4 &&
           outputs_of<WAY>(problem.axis[1]) >= 3 * TILE_ROWS;
  }

  int64_t scratch_bytes() const {
    const int64_t all = weights.floats * 4 * channels.blocks();
    return whole_lines(all) + whole_lines(phases * 8) + whole_lines(weights.rows * int64_t(sizeof(TapRowOf<T>)));
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { work(dealer); });
  }

  void work(Dealer& dealer) const {
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    float* packed = arena.take<float>(weights.floats * channels.blocks());
    int64_t* phase_at = arena.take<int64_t>(phases);
    TapRowOf<T>* rows = arena.take<TapRowOf<T>>(weights.rows);
    weights.place(phase_at);
    for (int64_t block = 0; block < channels.blocks(); ++block) weights.pack(block, packed + block * weights.floats);

    Task task;
    while (dealer.deal(task))
      for (int64_t block = 0; block < channels.blocks(); block += group) {
        if (tall) {
          sum_tiles(task, block, packed);
        } else {
          sum_task(task, block, packed, phase_at, rows);
        }
      }
  }

  // From an output to the first input that it meets.
  static int64_t lead(const Axis& axis) { return WAY == Way::GATHER ? -axis.before : axis.before - (axis.taps - 1); }

  // As sum_task, of a task whose rows are tiles.
  void sum_tiles(const Task& task, int64_t first, const float* packed) const {
    if constexpr (HAS_TILES) {
      const Axis &rows = problem.axis[1], &axis = problem.axis[2];
      const int64_t begin = task.chunk * chunk, end = least(begin + chunk, columns);
      const bool flipped = WAY == Way::SCATTER;
      TurnedTile<T> tile;
      tile.weights = packed + first * weights.floats + (flipped ? 8 * V : 0);
      tile.tap_step = flipped ? -V : V;
      tile.row = input.axis[1];
      tile.column = most(input.axis[2], 1);
      tile.height = inputs_of<WAY>(rows);
      tile.last = (inputs_of<WAY>(axis) - 1) * tile.column;
      tile.out_row = output.axis[1];
      tile.out_column = output.axis[2];
      tile.blocks = least(group, channels.blocks() - first);
      tile.last_lane = channels.first(first + tile.blocks - 1) - first * V;
      tile.weights_step = weights.floats;
      tile.bias = bias ? bias + first * V : NO_BIAS;
      tile.bias_step = bias ? 1 : 0;
      const Turns turns{channels.turns(), weights.turn_step(axis.taps), circle};
      for (int64_t unit = task.first_row; unit < task.end_row; ++unit) {
        const int64_t row = unit * TILE_ROWS, some = least(TILE_ROWS, outputs_of<WAY>(rows) - row);
        tile.first = row + lead(rows);
        tile.input = static_cast<const T*>(input.data) + task.sample * input.batch + tile.first * tile.row + first * V;
        T* to = static_cast<T*>(output.data) + task.sample * output.batch + row * tile.out_row + first * V;
        for (int64_t at = begin, own; at < end; at += own) {
          own = ceil_div(end - at, ceil_div(end - at, TILE_COLUMNS));
          const int64_t place = (at + lead(axis)) * tile.column;
          const bool edge = place < 0 || place + (own + 1) * tile.column > tile.last;
          TURNED_SQUARES<T>.of[some][own][edge](tile, turns, place, to + at * tile.out_column);
        }
      }
    }
  }

  // Blocks first … first + group - 1 of a task.
  void sum_task(const Task& task, int64_t first, const float* packed, const int64_t* phase_at,
                TapRowOf<T>* rows) const {
    const int64_t begin = task.chunk * chunk, count = least(chunk, columns - begin);
    const int64_t height = outputs_of<WAY>(problem.axis[1]);
    const float* filters = packed + first * weights.floats;
    int64_t place[2] = {task.first_row / height, task.first_row % height};
    for (int64_t row = task.first_row; row < task.end_row; ++row, next(place, height)) {
      T* to = static_cast<T*>(output.data) + task.sample * output.batch + place[0] * output.axis[0] +
              place[1] * output.axis[1] + first * V;
      for (int64_t phase = 0; phase < least(phases, count); ++phase) {
        const Steps steps = steps_of<WAY>(problem.axis[2], begin + phase);
        const int64_t found = meet(place, task.sample, first * V, filters + phase_at[phase], steps.taps, rows);
        sum(steps, rows, found, first, to + (begin + phase) * output.axis[2], ceil_div(count - phase, phases));
      }
    }
  }

  static void next(int64_t (&place)[2], int64_t height) {
    if (++place[1] < height) return;
    place[1] = 0;
    ++place[0];
  }

  // Lists the rows of inputs that a row of outputs meets, with the weights of the first block.
  int64_t meet(const int64_t (&place)[2], int64_t sample, int64_t lane, const float* filters, int64_t taps,
               TapRowOf<T>* rows) const {
    const T* from = static_cast<const T*>(input.data) + sample * input.batch + lane;
    int64_t found = 0;
    each_row_met<WAY>(problem, place, [&](int64_t depth, int64_t height, int64_t row) {
      rows[found++] = {from + depth * input.axis[0] + height * input.axis[1], filters + row * taps * V};
    });
    return found;
  }

  // Outputs 0 … count - 1 of a phase.
  void sum(const Steps& steps, const TapRowOf<T>* rows, int64_t found, int64_t first, T* to, int64_t count) const {
    const int64_t column = most(input.axis[2], 1), blocks = least(group, channels.blocks() - first);
    const WalkOf<T> walk{rows,
                         steps.taps ? found : 0,
                         steps.taps,
                         column,
                         input_step_of<WAY>(problem.axis[2]) * column,
                         steps.hop * column,
                         phases * output.axis[2],
                         blocks,
                         channels.first(first + blocks - 1) - first * V,
                         weights.floats,
                         bias ? bias + first * V : NO_BIAS,
                         bias ? 1 : 0,
                         uint64_t(inputs_of<WAY>(problem.axis[2]) - 1) * uint64_t(column)};
    if constexpr (sizeof(T) == sizeof(float)) {
      if (channels.turns() > 1) {
        const Turns turns{channels.turns(), weights.turn_step(steps.taps), circle};
        return turn_lying_row(walk, turns, steps.at * column, to, count);
      }
    }
    gather_row(walk, tiles_for(walk), steps.at * column, to, count);
  }
};

}  // namespace
}  // namespace omniconv
