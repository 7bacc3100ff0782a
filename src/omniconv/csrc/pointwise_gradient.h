// SPDX-License-Identifier: Apache-2.0
// The gradient of the weights of a pointwise convolution: a product over all positions, some hundred at a time. A task
// has a part of the weights, and where they are few, a part of the positions, which the problem alone decides: so any
// number of threads adds alike.
#pragma once

#include "pointwise_plan.h"

namespace omniconv {
namespace {

constexpr int64_t AT_ONCE = 256;  // positions
constexpr int64_t LEAST_IN_PLACE = 128;  // of a sample, that are not copied to stand beside those of the next
// Of rows so many numbers apart, AT_ONCE lines of one column do not fit their places in the cache.
constexpr int64_t CROWDED = 64;
constexpr int64_t MOST_PARTS = 16;
constexpr int64_t SUMS_SHARE = 10;  // the parts' sums are at most this part of what is read

template <class T>
struct PointwiseGradient {
  // One of the two tensors: its channels are rows of tiles, or lanes.
  struct Side {
    const View& view;
    Places places;
    int64_t channels;
  };

  const Pointwise& call;
  const Matrix& gradient;
  const Host& host;
  PointwisePlan plan;
  bool flipped;  // lanes are channels of the output
  Side rows, lanes;
  int64_t pitch;        // between rows of sums
  int64_t parts, part;  // of all positions; positions of one
  bool in_place;        // sums are the gradient
  int64_t row_band, lane_band, row_bands, lane_bands;  // of a task

  PointwiseGradient(const Pointwise& call_, const Matrix& gradient_, const Host& host_)
      : call(call_),
        gradient(gradient_),
        host(host_),
        plan(call_, host_),
        flipped(flips()),
        rows(side(!flipped)),
        lanes(side(flipped)),
        pitch(whole_vectors(lanes.channels)) {
    const int64_t all = call.batch * plan.positions;
    const int64_t room = all * (call.inputs + call.outputs) / SUMS_SHARE / (rows.channels * pitch);
    parts = most(least(least(all / (2 * AT_ONCE), room), MOST_PARTS), 1);
    part = ceil_div(ceil_div(all, parts), AT_ONCE) * AT_ONCE;
    parts = most(ceil_div(all, most(part, 1)), 1);
    in_place = sizeof(T) == sizeof(float) && !flipped && gradient.column == 1 && parts == 1;
    const int64_t panels = ceil_div(lanes.channels, TILE_WIDTH), heights = ceil_div(rows.channels, TILE_HEIGHT);
    const int64_t wanted = plan.threads > 1 ? ceil_div(2 * plan.threads, parts) : 1;
    lane_bands = least(panels, plan.by_rows ? least(wanted, 2) : wanted);  // each band of either kind packs the other
    lane_band = ceil_div(panels, lane_bands) * TILE_WIDTH;
    lane_bands = ceil_div(lanes.channels, lane_band);
    row_band = ceil_div(heights, least(ceil_div(wanted, lane_bands), heights)) * TILE_HEIGHT;
    row_bands = ceil_div(rows.channels, row_band);
  }

  // In order, where the channels of lanes are transposed, the smaller side, unless turning the sums is more work than
  // that saves; else the side that wastes less of its panels.
  bool flips() const {
    if (!plan.by_rows)
      return call.batch * plan.positions * (call.inputs - call.outputs) > call.inputs * call.outputs;
    const auto panels = [](int64_t channels) {
      const int64_t rest = channels % TILE_WIDTH;
      return double(channels / TILE_WIDTH) + (rest > V ? 1 : rest > 0 ? 0.75 : 0);
    };
    const double kept = panels(call.inputs) * double(call.outputs), turned = panels(call.outputs) * double(call.inputs);
    return turned < kept || (turned == kept && call.outputs > call.inputs);
  }

  Side side(bool output) const {
    if (output) return {call.output, Places(call.size, call.output), call.outputs};
    return {call.input, Places(call.size, call.input), call.inputs};
  }

  int64_t floats() const { return (in_place ? 0 : parts * rows.channels * pitch) + V; }

  void run(float* workspace) const {
    const int64_t tasks = row_bands * lane_bands * parts;
    const int64_t threads = least(plan.threads, tasks);
    run_tasks(host, Split::of_units(threads, row_bands, lane_bands, true, parts), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) sum(task.block * row_band, task.first_row * lane_band, task.sample, workspace);
    });
    end(workspace, threads);
  }

  // The gradient from the sums of all parts.
  void end(float* workspace, int64_t threads) const {
    if (in_place) return;
    const int64_t blocks = ceil_div(rows.channels, V);
    run_tasks(host, Split::of_units(least(threads, blocks), 1, blocks, true), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) {
        const int64_t first = task.first_row * V, end = least(first + V, rows.channels);
        join(workspace, first, end);
        deliver(workspace, first, end);
      }
    });
  }

  // Adds the sums of all parts to those of the first.
  void join(float* sums, int64_t first, int64_t end) const {
    for (int64_t other = 1; other < parts; ++other) {
      const float* from = sums + other * rows.channels * pitch;
      for (int64_t at = first * pitch; at < end * pitch; at += V) store(sums + at, load(sums + at) + load(from + at));
    }
  }

  void sum(int64_t first_row, int64_t first_lane, int64_t number, float* workspace) const {
    const int64_t end_row = least(first_row + row_band, rows.channels);
    const int64_t start = number * part, end = least(start + part, call.batch * plan.positions);
    const int64_t end_lane = least(first_lane + lane_band, lanes.channels);
    const int64_t copied = plan.by_rows ? AT_ONCE * odd_lines(end_row - first_row)
                                        : (end_row - first_row) * odd_lines(AT_ONCE);
    Arena arena{static_cast<char*>(host.scratch(whole_lines(AT_ONCE * TILE_WIDTH * 4) + whole_lines(copied * 4)))};
    float* panel = arena.take<float>(AT_ONCE * TILE_WIDTH);
    float* copy = arena.take<float>(copied);
    float* sums = sums_of(number, workspace);
    const Area area{first_row, end_row, first_lane, end_lane};
    for (int64_t begin = start; begin < end || begin == 0; begin += AT_ONCE) {
      const int64_t next = begin + AT_ONCE, more = most(least(AT_ONCE, end - next), 0);
      Later later({stretch(rows, next, more), stretch(lanes, next, more)}, tiles());
      add(rows, lanes, {begin, least(AT_ONCE, end - begin), begin == start}, area, panel, copy, sums, later);
    }
  }

  // The numbers of a side at so many positions, where a task reads all of them and they lie without gaps.
  Ahead stretch(const Side& side, int64_t begin, int64_t count) const {
    const int64_t step = side.places.step[2];
    const bool dense = plan.by_rows && side.places.even && step == side.channels &&
                       (call.batch == 1 || side.view.batch == plan.positions * step);
    if (sizeof(T) != sizeof(float) || !dense || count == 0 || row_bands * lane_bands > 1) return {};
    return {reinterpret_cast<const float*>(at(side, 0, 0)) + begin * step, count * step / V};
  }

  // Of a block of positions.
  int64_t tiles() const { return ceil_div(lanes.channels, TILE_WIDTH) * ceil_div(rows.channels, TILE_HEIGHT); }

  float* sums_of(int64_t number, float* workspace) const {
    return in_place ? static_cast<float*>(gradient.data) : workspace + number * rows.channels * pitch;
  }

  // Positions, and whether nothing was added up before them.
  struct Block {
    int64_t begin, count;
    bool first;
  };
  // Of the sums.
  struct Area {
    int64_t first_row, end_row, first_lane, end_lane;
  };

  void add(const Side& of_rows, const Side& of_lanes, const Block& block, const Area& area, float* panel, float* copy,
           float* sums, Later& later) const {
    const int64_t sums_row = in_place ? gradient.row : pitch, first_row = area.first_row;
    constexpr float INFINITE = __builtin_inff();
    TileCall tile{0, 0, block.count, sums_row, false, 0, !block.first, 0, -INFINITE, INFINITE};
    const float* a = left(of_rows, block, first_row, area.end_row, copy, tile.a_row);
    for (int64_t lane = area.first_lane; lane < area.end_lane; lane += TILE_WIDTH) {
      const int64_t some = least(TILE_WIDTH, lanes.channels - lane), width = whole_vectors(some);
      right(of_lanes, block, lane, some, width, panel);
      tile.b_row = width;
      for (int64_t row = first_row; row < area.end_row;) {
        const int64_t height = ceil_div(area.end_row - row, ceil_div(area.end_row - row, TILE_HEIGHT));
        const auto& tiles = plan.by_rows ? SUM_TILES<true> : SUM_TILES<false>;
        const float* own = a + (row - first_row) * (plan.by_rows ? 1 : tile.a_row);
        tiles.of[height][width / V](tile, own, panel, NONE, sums + row * sums_row + lane,
                                    in_place ? some - width + V : V, later.next());
        row += height;
      }
    }
  }

  static constexpr float NONE[TILE_WIDTH] = {};

  // Calls each(sample, first position, offset, count) for the runs of one sample among positions counted over all.
  template <class Each>
  void each_run(int64_t begin, int64_t count, const Each& each) const {
    for (int64_t done = 0, some; done < count; done += some) {
      const int64_t at = begin + done, position = at % plan.positions;
      some = least(plan.positions - position, count - done);
      each(at / plan.positions, position, done, some);
    }
  }

  const T* at(const Side& side, int64_t sample, int64_t channel) const {
    return static_cast<const T*>(side.view.data) + sample * side.view.batch + channel * side.view.channel;
  }

  // The first factor of tiles: the tensor itself, or a copy.
  const float* left(const Side& rows, const Block& block, int64_t first, int64_t end, float* copy,
                    int64_t& a_row) const {
    const int64_t begin = block.begin, count = block.count;
    const int64_t sample = begin / most(plan.positions, 1), position = begin % most(plan.positions, 1);
    const View& view = rows.view;
    const bool floats = sizeof(T) == sizeof(float) && rows.places.even && count > 0;
    if (plan.by_rows) {
      const int64_t step = rows.places.step[2];
      if (floats && step % CROWDED && (call.batch == 1 || view.batch == plan.positions * step)) {
        a_row = step;
        return reinterpret_cast<const float*>(at(rows, sample, first)) + position * step;
      }
      a_row = odd_lines(end - first);
      each_run(begin, count, [&](int64_t of, int64_t from, int64_t offset, int64_t some) {
        for (int64_t p = 0; p < some; ++p)
          each_vector(end - first, [&](int64_t c, int64_t own) {
            const T* value = at(rows, of, first) + rows.places.at(from + p) + c;
            store_count(copy + (offset + p) * a_row + c, load_count(value, own), own);
          });
      });
      return copy;
    }
    if (floats && rows.places.step[2] == 1 && position + count <= plan.positions &&
        plan.positions >= LEAST_IN_PLACE && view.channel % MEETING) {
      a_row = view.channel;
      return reinterpret_cast<const float*>(at(rows, sample, first)) + position;
    }
    a_row = odd_lines(AT_ONCE);
    each_run(begin, count, [&](int64_t of, int64_t from, int64_t offset, int64_t some) {
      for (int64_t c = first; c < end; ++c) {
        const T* values = at(rows, of, c);
        float* to = copy + (c - first) * a_row + offset;
        if (rows.places.even && rows.places.step[2] == 1) {
          each_vector(some, [&](int64_t p, int64_t own) {
            store_count(to + p, load_count(values + from + p, own), own);
          });
        } else {
          for (int64_t p = 0; p < some; ++p) to[p] = widen(values[rows.places.at(from + p)]);
        }
      }
    });
    return copy;
  }

  // The second factor: position by position, `some` channels from `lane` on.
  void right(const Side& lanes, const Block& block, int64_t lane, int64_t some, int64_t width, float* panel) const {
    each_run(block.begin, block.count, [&](int64_t of, int64_t from, int64_t offset, int64_t run) {
      float* to = panel + offset * width;
      const T* base = at(lanes, of, lane);
      if (plan.by_rows) {
        for (int64_t p = 0; p < run; ++p, to += width) {
          const T* values = base + lanes.places.at(from + p);
          each_vector(some, [&](int64_t c, int64_t own) { store(to + c, load_count(values + c, own)); });
        }
      } else if (lanes.places.even && lanes.places.step[2] == 1) {
        int64_t apart[V];
        for (int64_t c = 0; c < width; c += V) {
          for (int64_t l = 0; l < V; ++l) apart[l] = l * lanes.view.channel;
          pack_transposed(to + c, base + c * lanes.view.channel + from, apart, run, least(V, some - c), width);
        }
      } else {
        for (int64_t p = 0; p < run; ++p, to += width)
          for (int64_t c = 0; c < width; ++c)
            to[c] = c < some ? widen(base[c * lanes.view.channel + lanes.places.at(from + p)]) : 0;
      }
    });
  }

  // Rows of sums to where the gradient is wanted.
  void deliver(const float* sums, int64_t first, int64_t end) const {
    T* to = static_cast<T*>(gradient.data);
    const int64_t row = flipped ? gradient.column : gradient.row, lane = flipped ? gradient.row : gradient.column;
    if (row == 1) {
      int64_t apart[V];
      for (int64_t l = 0; l < V; ++l) apart[l] = l * lane;
      for (int64_t at = 0; at < lanes.channels; at += V)
        unpack_transposed(to + at * lane + first, apart, sums + first * pitch + at, end - first,
                          least(V, lanes.channels - at), pitch);
      return;
    }
    for (int64_t m = first; m < end; ++m)
      each_vector(lanes.channels, [&](int64_t n, int64_t some) {
        store_count(to + m * row + n, load(sums + m * pitch + n), some);
      });
  }
};

template <class T>
int64_t pointwise_gradient(const Pointwise& call, const Matrix& gradient, float* workspace, const Host& host) {
  const PointwiseGradient<T> sums(call, gradient, host);
  if (workspace) sums.run(workspace);
  return sums.floats();
}

}  // namespace
}  // namespace omniconv
