// SPDX-License-Identifier: Apache-2.0
// The weights of a block of channels, V lanes for each tap, in the order in which a row of outputs meets them.
#pragma once

#include "blocked_ring.h"

namespace omniconv {
namespace {

constexpr int64_t KEPT_WEIGHTS = 512 << 10;

// By phase of the columns, then turn by turn, the last first, and row by row of taps and copies: the taps that the
// phase meets.
template <Way WAY>
struct TapWeights {
  const Problem& problem;
  const Channels& channels;
  const Weights& weights;
  int64_t phases, rows, floats;
  int64_t kept;  // blocks that a thread keeps packed

  TapWeights(const Problem& problem, const Channels& channels, const Weights& weights, int64_t phases)
      : problem(problem), channels(channels), weights(weights), phases(phases) {
    rows = problem.axis[0].taps * problem.axis[1].taps * channels.variants;
    floats = rows * problem.axis[2].taps * V;
    kept = floats * 4 * channels.blocks() <= KEPT_WEIGHTS ? channels.blocks() : 1;
  }

  int64_t bytes() const { return whole_lines(kept * floats * 4) + whole_lines(kept * 8) + whole_lines(phases * 8); }

  // The packed weights of one thread.
  struct Packed {
    const TapWeights& of;
    float* all;
    int64_t* held;  // which block stands in each place, or -1
    int64_t* phase_at;

    Packed(const TapWeights& of, Arena& arena) : of(of) {
      all = arena.take<float>(of.kept * of.floats);
      held = arena.take<int64_t>(of.kept);
      phase_at = arena.take<int64_t>(of.phases);
      for (int64_t place = 0; place < of.kept; ++place) held[place] = -1;
      of.place(phase_at);
    }

    const float* block(int64_t block) {
      float* packed = all + block % of.kept * of.floats;
      if (held[block % of.kept] != block) of.pack(block, packed);
      held[block % of.kept] = block;
      return packed;
    }
  };

  // Where the weights of each phase begin.
  void place(int64_t* phase_at) const {
    int64_t at = 0;
    for (int64_t phase = 0; phase < phases; ++phase) {
      phase_at[phase] = at;
      at += rows * steps_of<WAY>(problem.axis[2], phase).taps * V;
    }
  }

  // Floats between the weights of two turns.
  int64_t turn_step(int64_t taps) const { return rows / channels.turns() * taps * V; }

  void pack(int64_t block, float* to) const {
    const Lanes own = channels.own(block);
    const int64_t variant_step = WAY == Way::GATHER ? weights.wide : weights.narrow;
    int64_t own_at[V];
    for (int64_t lane = 0; lane < own.count; ++lane)
      own_at[lane] = channels.weight_at<WAY>(weights, own.lowest + lane);
    for (int64_t phase = 0; phase < phases; ++phase) {
      const Steps steps = steps_of<WAY>(problem.axis[2], phase);
      for (int64_t turn = channels.turns() - 1; turn >= 0; --turn) {
        int64_t lane_at[V] = {};
        for (int64_t lane = 0; lane < own.count; ++lane)
          lane_at[lane] = own_at[channels.after(lane, turn)] + channels.variant(lane) * variant_step;
        to = pack_turn(to, steps, lane_at, own.count);
      }
    }
  }

  // The weights of one turn, whose first lies at lane_at for each lane. Returns their end.
  float* pack_turn(float* to, const Steps& steps, const int64_t (&lane_at)[V], int64_t lanes) const {
    const int64_t tap_rows = problem.axis[0].taps * problem.axis[1].taps, taps = problem.axis[2].taps;
    if (channels.copies() == 1 && period_of<WAY>(problem.axis[2]) == 1) {
      weights.type == Type::float32
          ? pack_transposed(to, static_cast<const float*>(weights.data), lane_at, tap_rows * taps, lanes)
          : pack_transposed(to, static_cast<const bf16*>(weights.data), lane_at, tap_rows * taps, lanes);
      return to + tap_rows * taps * V;
    }
    const int64_t copy_step = channels.turns() * (WAY == Way::GATHER ? weights.wide : weights.narrow);
    for (int64_t row = 0; row < tap_rows; ++row) {
      for (int64_t copy = 0; copy < channels.copies(); ++copy) {
        for (int64_t tap = 0; tap < steps.taps; ++tap, to += V) {
          const int64_t at = copy * copy_step + row * taps + steps.first + steps.step * tap;
          for (int64_t lane = 0; lane < V; ++lane) to[lane] = lane < lanes ? weights.at(lane_at[lane] + at) : 0;
        }
      }
    }
    return to;
  }
};

}  // namespace
}  // namespace omniconv
