// SPDX-License-Identifier: Apache-2.0
// The sums of a weight gradient by parts of the positions, and their total.
//
// Each part has sums of its own, and the parts are added in order: how they are cut depends on the problem alone, so
// that any number of threads gives the same bits.
#pragma once

#include "blocked_ring.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t LEAST_PARTS = 16;  // times blocks: enough for several threads to share
constexpr int64_t LEAST_PART_WORK = 4096;

// By blocks of channels, then parts: V lanes for each tap (by turns, rows of taps, copies, then the taps of the row),
// and for the bias.
template <class T>
struct Parts {
  const Problem& problem;
  const Channels& channels;
  const Weights& gradient;
  T* bias_gradient;  // or null
  int64_t taps, parts;

  int64_t floats_of_part() const { return (taps + 1) * V; }
  int64_t floats() const { return channels.blocks() * parts * floats_of_part(); }
  float* at(float* sums, int64_t block, int64_t part) const { return sums + (block * parts + part) * floats_of_part(); }

  void clear(float* sums, int64_t first, int64_t end, int64_t part) const {
    for (int64_t block = first; block < end; ++block)
      std::memset(at(sums, block, part), 0, floats_of_part() * sizeof(float));
  }

  void add(const Host& host, int64_t threads, float* sums) const {
    const int64_t some = least(threads, threads_for(host, taps * parts * channels.blocks() * V));
    const Split split = Split::of_units(some, channels.blocks(), 1, false);
    run_tasks(host, split, [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) {
        float* whole = at(sums, task.block, 0);
        for (int64_t part = 1; part < parts; ++part) {
          const float* other = at(sums, task.block, part);
          for (int64_t i = 0; i < floats_of_part(); i += V) store(whole + i, load(whole + i) + load(other + i));
        }
        write(task.block, whole);
      }
    });
  }

  // In the gradient, taps lie in a row.
  void write(int64_t block, const float* whole) const {
    const Lanes own = channels.own(block);
    const int64_t turn_taps = taps / channels.turns();
    int64_t own_at[V] = {}, lane_at[V] = {};
    for (int64_t lane = 0; lane < own.count; ++lane)
      own_at[lane] = channels.weight_at<Way::GATHER>(gradient, own.lowest + lane);
    for (int64_t turn = 0; turn < channels.turns(); ++turn) {
      for (int64_t lane = 0; lane < own.count; ++lane)
        lane_at[lane] = own_at[channels.after(lane, turn)] + channels.variant(lane) * gradient.wide;
      write_turn(whole + turn * turn_taps * V, turn_taps, lane_at, own.count);
    }
    for (int64_t lane = 0; lane < (bias_gradient ? own.count : 0); ++lane)
      narrow(bias_gradient + own.lowest + lane, whole[taps * V + lane]);
  }

  // The gradient of the weights of one turn, whose first lies at lane_at for each lane.
  void write_turn(const float* from, int64_t turn_taps, const int64_t (&lane_at)[V], int64_t lanes) const {
    if (channels.copies() == 1) {
      gradient.type == Type::float32
          ? unpack_transposed(static_cast<float*>(gradient.data), lane_at, from, turn_taps, lanes)
          : unpack_transposed(static_cast<bf16*>(gradient.data), lane_at, from, turn_taps, lanes);
      return;
    }
    const int64_t taps_of_row = problem.axis[2].taps, copy_step = channels.turns() * gradient.wide;
    for (int64_t row = 0; row < problem.axis[0].taps * problem.axis[1].taps; ++row)
      for (int64_t copy = 0; copy < channels.copies(); ++copy)
        for (int64_t tap = 0; tap < taps_of_row; ++tap, from += V)
          for (int64_t lane = 0; lane < lanes; ++lane)
            gradient.set(lane_at[lane] + copy * copy_step + row * taps_of_row + tap, from[lane]);
  }
};

}  // namespace
}  // namespace omniconv
