// SPDX-License-Identifier: Apache-2.0
// How a dynamic convolution is cut into tiles of output positions, and which kernels and which packed sources an output
// of a tile meets: the same way for the output (GATHER) and for the gradient of the input (SCATTER), whose sources are
// the gradient of the output.
#pragma once

#include "arena.h"
#include "kernels.h"
#include "tasks.h"

namespace omniconv {
namespace {

// A tap that an output meets, and where it meets it: a place among packed sources and one among kernels' positions.
// The next output of the class meets the next of both.
struct Met {
  int64_t tap, source, weight;
};

// Outputs first, first + period, …: those of a tile that meet the same taps, along one axis.
struct Class {
  int64_t first, count, taps;
};

// One axis of a tile. Its sources are packed in `runs` of `length`: run r holds start + hop * r + step * j. Sources
// that an input is strided over are packed apart, so that neighbouring outputs meet neighbouring sources.
template <Way WAY>
struct DynamicAxis {
  Axis axis;
  int64_t first, count;      // outputs
  int64_t begin, positions;  // of the kernels that they meet; some may be outside of the tensor
  int64_t start, runs, hop, length, step;

  DynamicAxis() = default;

  DynamicAxis(const Axis& of, int64_t first_, int64_t count_) : axis(of), first(first_), count(count_) {
    const int64_t reach = axis.dilation * (axis.taps - 1);
    if (WAY == Way::SCATTER) {
      begin = start = floor_div(first + axis.before - reach, axis.stride);
      positions = length = (count - 1 + reach) / axis.stride + 1 + (axis.stride > 1);
      runs = step = 1;
      hop = 0;
      return;
    }
    begin = first;
    positions = count;
    start = axis.stride * first - axis.before;
    step = axis.stride;
    hop = common_divisor(axis.stride, axis.dilation);
    runs = axis.stride / hop;
    length = count + reach / axis.stride;
    if (axis.taps * count < runs * length) {  // a run for each tap
      runs = axis.taps;
      hop = axis.dilation;
      length = count;
    }
  }

  int64_t packed() const { return runs * length; }
  int64_t source_at(int64_t place) const { return start + hop * (place / length) + step * (place % length); }
  int64_t sources() const { return inputs_of<WAY>(axis); }
  int64_t period() const { return period_of<WAY>(axis); }

  Class class_of(int64_t number, Met* met) const {
    if (WAY == Way::SCATTER) {
      const Steps steps = steps_of<WAY>(axis, first + number);
      for (int64_t j = 0; j < steps.taps; ++j) {
        const int64_t place = steps.at + steps.hop * j - start;
        met[j] = {steps.first + steps.step * j, place, place};
      }
      return {first + number, ceil_div(count - number, axis.stride), steps.taps};
    }
    const bool by_tap = length == count;
    for (int64_t tap = 0; tap < axis.taps; ++tap) {
      const int64_t reach = axis.dilation * tap;
      const int64_t phase = reach % axis.stride / hop * length + reach / axis.stride;
      met[tap] = {tap, by_tap ? tap * length : phase, 0};
    }
    return {first, count, axis.taps};
  }
};

template <Way WAY>
struct DynamicTile {
  int64_t sample, head;
  DynamicAxis<WAY> axis[3];

  int64_t packed() const { return axis[0].packed() * axis[1].packed() * axis[2].packed(); }
  // Kernels' positions, and those of a row, in whole vectors.
  int64_t row() const { return whole_vectors(axis[2].positions); }
  int64_t positions() const { return axis[0].positions * axis[1].positions * row(); }
};

// Numbers of kernels, and how far apart those of neighbouring taps and of neighbouring positions of a tile are.
struct Kept {
  const float* at;
  int64_t tap[3], position[3];
};

// The taps of one class of outputs: offsets of their sources and of their kernels. They come in rows of `row`, whose
// sources are `hop` apart; the kernels of neighbouring outputs are `apart`.
struct TapTable {
  int64_t count, row, hop, apart;
  const int64_t *source, *weight;
};

// A row of outputs of one class along the last axis.
struct OutputRow {
  int64_t at[3], step, count;  // the first of them, and the distance of the others
  int64_t source, weight;      // what is added to the offsets of its taps
};

// Rows of the kind, each below the one before.
struct OutputRows {
  OutputRow first;
  int64_t rows, down, source_down, weight_down;

  OutputRow number(int64_t row) const {
    OutputRow own = first;
    own.at[1] += row * down;
    own.source += row * source_down;
    own.weight += row * weight_down;
    return own;
  }
};

constexpr int64_t LEAST_TILES = 8;  // of a call, where there is enough to do
constexpr int64_t ROWS = 4;         // at a time

template <Way WAY>
struct DynamicPlan {
  const Dynamic& call;
  const Problem& problem;
  int64_t taps, channels;  // channels: of a head
  int64_t outputs[3], count[3], tiles[3];
  int64_t pitch;   // between kernels' taps
  int64_t packed;  // sources of the largest tile

  // weights: how many numbers of kernels a tile may hold; sources: how many of a channel.
  DynamicPlan(const Dynamic& call_, int64_t weights, int64_t sources)
      : call(call_), problem(call_.problem), taps(taps_of(problem)), channels(problem.wide) {
    for (int i = 0; i < 3; ++i) {
      outputs[i] = outputs_of<WAY>(problem.axis[i]);
      count[i] = i < 2 ? 1 : least(outputs[i], V);
    }
    const auto fits = [&] {
      const DynamicTile<WAY> tile = tile_at(0, 0, 0);
      return taps * tile.positions() <= weights && tile.packed() <= sources;
    };
    for (int i = 2; i >= 0; --i) {
      while (count[i] < outputs[i]) {
        const int64_t before = count[i];
        count[i] = least(2 * before, outputs[i]);
        if (fits() && problem.batch * problem.groups * all_tiles() >= LEAST_TILES) continue;
        count[i] = before;
        break;
      }
      if (count[i] < outputs[i]) break;
    }
    for (int i = 0; i < 3; ++i) {
      tiles[i] = ceil_div(outputs[i], count[i]);
      const int64_t even = ceil_div(outputs[i], tiles[i]);
      count[i] = i < 2 ? even : least(whole_vectors(even), count[i]);
      tiles[i] = ceil_div(outputs[i], count[i]);
    }
    const DynamicTile<WAY> largest = tile_at(0, 0, 0);
    pitch = odd_lines(largest.positions() + V);  // a vector more, whose lanes belong to no position
    packed = largest.packed();
  }

  int64_t all_tiles() const {
    return ceil_div(outputs[0], count[0]) * ceil_div(outputs[1], count[1]) * ceil_div(outputs[2], count[2]);
  }

  DynamicTile<WAY> tile_at(int64_t sample, int64_t head, int64_t number) const {
    DynamicTile<WAY> tile{sample, head, {}};
    for (int i = 2; i >= 0; --i) {
      const int64_t all = ceil_div(outputs[i], count[i]), first = number % all * count[i];
      tile.axis[i] = DynamicAxis<WAY>(problem.axis[i], first, least(count[i], outputs[i] - first));
      number /= all;
    }
    return tile;
  }

  int64_t weight_floats() const { return taps * pitch + V; }
  int64_t table_bytes() const {
    const Axis* axis = problem.axis;
    const int64_t met = axis[0].taps + axis[1].taps + axis[2].taps;
    return whole_lines(met * int64_t(sizeof(Met))) + 2 * whole_lines(taps * 8);
  }

  // A tile's kernels, packed tap by tap.
  Kept kept(const DynamicTile<WAY>& tile, const float* at) const {
    const int64_t row = problem.axis[2].taps * pitch, line = tile.row();
    return {at, {problem.axis[1].taps * row, row, pitch}, {tile.axis[1].positions * line, line, 1}};
  }

  // Calls each(table, rows) for some rows of every class of a tile at a time. A source has `unit` floats.
  template <class Each>
  void each_rows(const DynamicTile<WAY>& tile, const Kept& kernels, int64_t unit, Arena arena, const Each& each) const {
    const auto& axis = tile.axis;
    const auto &tap_step = kernels.tap, &step = kernels.position;
    Met* met[3];
    met[0] = arena.take<Met>(problem.axis[0].taps + problem.axis[1].taps + problem.axis[2].taps);
    met[1] = met[0] + problem.axis[0].taps;
    met[2] = met[1] + problem.axis[1].taps;
    int64_t *source = arena.take<int64_t>(taps), *weight = arena.take<int64_t>(taps);
    const auto classes = [&](int i) { return least(axis[i].period(), axis[i].count); };
    for (int64_t depth = 0; depth < classes(0); ++depth) {
      const Class of_depth = axis[0].class_of(depth, met[0]);
      for (int64_t height = 0; height < classes(1); ++height) {
        const Class of_height = axis[1].class_of(height, met[1]);
        for (int64_t width = 0; width < classes(2); ++width) {
          const Class of_width = axis[2].class_of(width, met[2]);
          TapTable table{0, of_width.taps, 0, step[2], source, weight};
          for (int64_t z = 0; z < of_depth.taps; ++z)
            for (int64_t y = 0; y < of_height.taps; ++y)
              for (int64_t x = 0; x < of_width.taps; ++x) {
                const Met &a = met[0][z], &b = met[1][y], &c = met[2][x];
                source[table.count] = unit * ((a.source * axis[1].packed() + b.source) * axis[2].packed() + c.source);
                weight[table.count++] = a.tap * tap_step[0] + b.tap * tap_step[1] + c.tap * tap_step[2] +
                                        a.weight * step[0] + b.weight * step[1] + c.weight * step[2];
              }
          if (of_width.taps > 1) table.hop = unit * (met[2][1].source - met[2][0].source);
          for (int64_t z = 0; z < of_depth.count; ++z)
            for (int64_t y = 0; y < of_height.count; y += ROWS) {
              const OutputRow row{{of_depth.first + z * axis[0].period(), of_height.first + y * axis[1].period(),
                                   of_width.first},
                                  axis[2].period(),
                                  of_width.count,
                                  unit * (z * axis[1].packed() + y) * axis[2].packed(),
                                  z * step[0] + y * step[1]};
              each(table, OutputRows{row, least(of_height.count - y, ROWS), axis[1].period(),
                                     unit * axis[2].packed(), step[1]});
            }
        }
      }
    }
  }
};

}  // namespace
}  // namespace omniconv
