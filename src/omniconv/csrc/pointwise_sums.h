// SPDX-License-Identifier: Apache-2.0
// A pointwise convolution as a product of matrices, tile by tile, with what follows it while a tile is in the cache.
#pragma once

#include "following.h"
#include "pointwise_plan.h"
#include "witness.h"

namespace omniconv {
namespace {

constexpr int64_t LEAST_FETCHED = 64;     // inputs: with fewer, fetching the next rows costs more than it saves
constexpr int64_t UNIT_FLOATS = 1 << 18;  // of inputs, which stay in the second cache while all weights pass by
constexpr int64_t UNIT_TILES = 8;
constexpr int64_t LEAST_STEPS = 4;        // of a band
constexpr int64_t LEAST_TASKS = 2;        // of a thread

// T: of the output, what is added to it and the weights; From: of the input.
template <class T, class From = T>
struct PointwiseSums {
  const Pointwise& call;
  const Host& host;
  Following<T> following;
  PointwisePlan plan;
  Places from, to, added;
  bool direct;    // rows of the first factor are those of the tensor
  bool near;      // tiles are the results
  int64_t units;  // blocks of rows, or panels of positions of all samples
  int64_t length; // of a unit
  // Bands of outputs, of whole steps each. Where weights are more than the tensors, and these fit the cache, a thread
  // keeps to its bands, so that each weight reaches one cache.
  int64_t bands, step;
  bool by_outputs;

  PointwiseSums(const Pointwise& call_, const Host& host_)
      : call(call_),
        host(host_),
        following{call_},
        plan(call_, host_),
        from(call.size, call.input),
        to(call.size, call.output),
        added(call.size, call.addend) {
    const int64_t rows = call.batch * plan.positions, threads = plan.threads;
    step = plan.by_rows ? TILE_WIDTH : TILE_HEIGHT;
    const int64_t steps = ceil_div(call.outputs, step), most_bands = ceil_div(steps, LEAST_STEPS);
    by_outputs = threads > 1 && call.outputs * call.inputs > rows * (call.inputs + call.outputs);
    if (plan.by_rows) {
      direct = sizeof(From) == sizeof(float) && uniform(call.input, from) && from.step[2] % MEETING;
      near = following.near() && uniform(call.output, to);
      const int64_t tiles = UNIT_FLOATS / most(call.inputs, 1) / TILE_HEIGHT;
      by_outputs = by_outputs && rows <= tiles * TILE_HEIGHT;
      length = by_outputs ? most(rows, 1) : least(most(tiles, 2), UNIT_TILES) * TILE_HEIGHT;
      const int64_t wanted = threads > 1 && !by_outputs ? ceil_div(LEAST_TASKS * threads, most(most_bands, 1)) : 1;
      units = most(ceil_div(rows, length), least(wanted, ceil_div(rows, TILE_HEIGHT)));
      length = ceil_div(rows, most(units, 1));
    } else {
      direct = false;
      near = following.near() && to.even && to.step[2] == 1;
      length = TILE_WIDTH;
      units = call.batch * ceil_div(plan.positions, length);
    }
    if (by_outputs) {
      // every task of one packs its positions
      bands = threads * (plan.by_rows ? most(steps / (LEAST_STEPS * threads), 1) : 1);
    } else {
      bands = threads > 1 ? ceil_div(TASKS_PER_THREAD * threads, most(units, 1)) : 1;
      bands = least(bands, most_bands);
    }
    bands = least(bands, steps);
  }

  int64_t band_at(int64_t band) const { return ceil_div(call.outputs, step) * band / bands * step; }

  bool uniform(const View& view, const Places& places) const {
    return places.even && (call.batch <= 1 || view.batch == plan.positions * places.step[2]);
  }

  // Of workspace, where the weights are packed or lie so.
  static int64_t least_floats(const Pointwise& call) {
    return whole_lines(2 * Following<T>{call}.bias_floats() * 4) / 4 + V;
  }
  int64_t floats() const {
    return least_floats(call) + (plan.packs() ? plan.packed_floats() : 0);
  }

  // Whether the weights were those that are packed.
  bool run(float* workspace) const {
    Arena arena{reinterpret_cast<char*>(workspace)};
    float* bias = arena.take<float>(2 * following.bias_floats());
    following.shift(bias);
    const float* weights = call.packed;
    int64_t weight_row = plan.weight_pitch();
    if (!weights && plan.lying()) {
      weights = static_cast<const float*>(call.weights.data);
      weight_row = call.weights.row;
    } else if (!weights) {
      float* packed = reinterpret_cast<float*>(arena.at);
      plan.template pack<T>(packed, host);
      weights = packed;
    }
    const Split split = Split::of_units(least(plan.threads, most(units * bands, 1)), bands, units, !by_outputs);
    bool changed = false;
    run_tasks(host, split, [&](Dealer& dealer) {
      Room room(*this);
      Task task;
      while (dealer.deal(task)) {
        const Watch watch(call, task.first_row * bands + task.block, units * bands);
        const int64_t first = band_at(task.block), end = least(band_at(task.block + 1), call.outputs);
        if (plan.by_rows) {
          sum_rows(task.first_row, first, end, weights, bias, room);
        } else {
          sum_panel(task.first_row, first, end, weights, weight_row, bias, room);
        }
        if (!watch.same()) __atomic_store_n(&changed, true, __ATOMIC_RELAXED);
      }
    });
    return !changed;
  }

  TileCall tile_call(int64_t a_row, int64_t b_row, int64_t out_row) const {
    return following.tile_call(near, plan.by_rows, a_row, b_row, call.inputs, out_row);
  }

  // What a thread keeps from task to task: a tile, and rows of inputs, or positions of a panel.
  struct Room {
    float *tile, *copy;
    int64_t unit = -1;  // whose rows are copied

    explicit Room(const PointwiseSums& sums) {
      const int64_t rows = sums.direct ? 0 : sums.length * sums.plan.weight_pitch();
      const int64_t copied = sums.plan.by_rows ? rows : sums.call.inputs * TILE_WIDTH;
      const int64_t bytes = whole_lines(TILE_HEIGHT * TILE_WIDTH * 4) + whole_lines(copied * 4);
      Arena arena{static_cast<char*>(sums.host.scratch(bytes))};
      tile = arena.take<float>(TILE_HEIGHT * TILE_WIDTH);
      copy = reinterpret_cast<float*>(arena.at);
    }
  };

  // The positions of a unit, counted over all samples, for the outputs first … end - 1.
  void sum_rows(int64_t unit, int64_t first, int64_t end, const float* weights, const float* bias, Room& room) const {
    const int64_t begin = unit * length, last_row = least(begin + length, call.batch * plan.positions);
    const float* rows = room.copy;
    int64_t a_row = plan.weight_pitch();
    if (direct) {
      rows = static_cast<const float*>(call.input.data) + begin * from.step[2];
      a_row = from.step[2];
    } else if (unit != room.unit) {
      copy_rows(room.copy, begin, last_row);
      room.unit = unit;
    }
    float* sums = room.tile;
    // Of the next panel, a share for each tile.
    const int64_t tiles = most(ceil_div(last_row - begin, TILE_HEIGHT), 1);
    const int64_t lines = ceil_div(call.inputs * TILE_WIDTH / V, tiles);
    for (int64_t o = first; o < end; o += TILE_WIDTH) {
      const int64_t lanes = least(TILE_WIDTH, call.outputs - o), width = whole_vectors(lanes), last = lanes - width + V;
      const TileCall tile = tile_call(a_row, width, near ? to.step[2] : TILE_WIDTH);
      const bool fetching = o == first && call.inputs >= LEAST_FETCHED;
      const SumTiles& summing = fetching ? FIRST_TILES : SUM_TILES<false>;
      const float* panel = weights + o * call.inputs;
      Ahead ahead{o + TILE_WIDTH < call.outputs ? panel + width * call.inputs : weights + first * call.inputs, lines};
      each_tile(begin, last_row, [&](int64_t row, int64_t count) {
        const SumTile sum = summing.of[count][width / V];
        const float* a = rows + (row - begin) * a_row;
        if (near) {
          sum(tile, a, panel, bias + o, static_cast<float*>(call.output.data) + row * to.step[2] + o, last, ahead);
        } else {
          sum(tile, a, panel, bias + o, sums, V, ahead);
          following.finish(sums, count, lanes, [&](int64_t m, bool adds) {
            const Places& places = adds ? added : to;
            const int64_t batch = adds ? call.addend.batch : call.output.batch;
            return (row + m) / plan.positions * batch + places.at((row + m) % plan.positions) + o;
          });
        }
        ahead.from += lines * V;
      });
    }
  }

  void copy_rows(float* to_, int64_t begin, int64_t end) const {
    const int64_t pitch = plan.weight_pitch();
    int64_t sample = begin / plan.positions, position = begin % plan.positions;
    for (int64_t row = begin; row < end; ++row, to_ += pitch) {
      const From* row_at = static_cast<const From*>(call.input.data) + sample * call.input.batch + from.at(position);
      each_vector(call.inputs, [&](int64_t k, int64_t some) { store(to_ + k, load_count(row_at + k, some)); });
      if (++position == plan.positions) {
        position = 0;
        ++sample;
      }
    }
  }

  // The positions of a panel, for the outputs first … end - 1.
  void sum_panel(int64_t unit, int64_t first, int64_t end, const float* weights, int64_t weight_row,
                 const float* bias, const Room& room) const {
    const int64_t panels = ceil_div(plan.positions, TILE_WIDTH), sample = unit / panels;
    const int64_t begin = unit % panels * TILE_WIDTH, lanes = least(TILE_WIDTH, plan.positions - begin);
    const int64_t width = whole_vectors(lanes), last = lanes - width + V;
    float *sums = room.tile, *panel = room.copy;
    pack_positions(panel, width, sample, begin, lanes);
    const int64_t channel = call.output.channel;
    const TileCall tile = tile_call(weight_row, width, near ? channel : TILE_WIDTH);
    float* out = static_cast<float*>(call.output.data) + (near ? sample * call.output.batch + to.at(begin) : 0);
    each_tile(first, end, [&](int64_t o, int64_t count) {
      const SumTile sum = SUM_TILES<false>.of[count][width / V];
      const float* rows = weights + o * weight_row;
      const Ahead ahead{rows + count * weight_row, count * weight_row / V};
      if (near) {
        sum(tile, rows, panel, bias + o, out + o * channel, last, ahead);
      } else {
        sum(tile, rows, panel, bias + o, sums, V, ahead);
        finish_positions(sums, count, o, sample, begin, lanes);
      }
    });
  }

  void pack_positions(float* panel, int64_t width, int64_t sample, int64_t begin, int64_t lanes) const {
    const From* base = static_cast<const From*>(call.input.data) + sample * call.input.batch;
    if (from.even && from.step[2] == 1) {
      base += begin;
      for (int64_t c = 0; c < call.inputs; ++c, base += call.input.channel, panel += width)
        each_vector(lanes, [&](int64_t p, int64_t some) { store(panel + p, load_count(base + p, some)); });
      return;
    }
    int64_t at[TILE_WIDTH];
    for (int64_t p = 0; p < lanes; ++p) at[p] = from.at(begin + p);
    for (int64_t c = 0; c < call.inputs; ++c, base += call.input.channel, panel += width)
      for (int64_t p = 0; p < width; ++p) panel[p] = p < lanes ? widen(base[at[p]]) : 0;
  }

  void finish_positions(float* sums, int64_t count, int64_t o, int64_t sample, int64_t begin, int64_t lanes) const {
    const auto at = [&](const View& view, int64_t m) { return sample * view.batch + (o + m) * view.channel; };
    if (to.even && to.step[2] == 1 && (!call.addend.data || (added.even && added.step[2] == 1))) {
      following.finish(sums, count, lanes, [&](int64_t m, bool adds) {
        return at(adds ? call.addend : call.output, m) + (adds ? added : to).at(begin);
      });
      return;
    }
    for (int64_t m = 0; m < count; ++m) {
      float* row = sums + m * TILE_WIDTH;
      if (call.addend.data)
        for (int64_t p = 0; p < lanes; ++p)
          row[p] += widen(static_cast<const T*>(call.addend.data)[at(call.addend, m) + added.at(begin + p)]);
      following.activate(row, lanes);
      for (int64_t p = 0; p < lanes; ++p)
        narrow(static_cast<T*>(call.output.data) + at(call.output, m) + to.at(begin + p), row[p]);
    }
  }
};

template <class T>
int64_t pointwise_sums(const Pointwise& call, float* workspace, const Host& host) {
  const PointwiseSums<T> sums(call, host);
  return !workspace || sums.run(workspace) ? sums.floats() : CHANGED;
}

template <class T>
int64_t pack_pointwise(const Pointwise& call, float* to, const Host& host) {
  const PointwisePlan plan(call, host);
  if (plan.lying()) return 0;
  if (to) plan.template pack<T>(to, host);
  return plan.packed_floats();
}

}  // namespace
}  // namespace omniconv
