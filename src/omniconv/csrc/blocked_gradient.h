// SPDX-License-Identifier: Apache-2.0
// The gradient of a convolution's weights, block by block of channels of the narrow tensor.
#pragma once

#include "blocked_parts.h"
#include "blocked_ring.h"
#include "blocked_rows.h"
#include "blocked_turns.h"
#include "tasks.h"

namespace omniconv {
namespace {

template <class T>
struct BlockedGradient : GradientCall<T> {
  using Call = GradientCall<T>;
  using Call::problem, Call::wide, Call::narrow, Call::host;

  Channels channels;
  Ring<T, Way::GATHER> ring;
  int64_t rows, list, turn_taps, taps, band, bands, units;
  Parts<T> parts;

  explicit BlockedGradient(const Call& call)
      : Call(call),
        channels{problem.groups, problem.narrow, problem.wide},
        ring(problem, channels, wide),
        parts{problem, channels, call.gradient, call.bias_gradient, 0, 0} {
    rows = problem.axis[0].narrow * problem.axis[1].narrow;
    list = problem.axis[0].taps * problem.axis[1].taps * channels.copies();
    turn_taps = list * problem.axis[2].taps;
    taps = channels.turns() * turn_taps;
    const int64_t wanted = ceil_div(LEAST_PARTS, ring.groups);
    const int64_t afforded = most(work() / LEAST_PART_WORK, 1);
    bands = least(ceil_div(wanted, most(problem.batch * ring.chunks, 1)), ceil_div(rows, 2 * ring.least_rows()));
    band = ceil_div(rows, bands);
    bands = ceil_div(rows, band);
    units = problem.batch * ring.chunks * bands;
    parts.taps = taps;
    parts.parts = most(least(least(wanted, afforded), units), 1);
  }

  // Vector multiply-adds of one block.
  int64_t work() const { return problem.batch * rows * ring.columns * taps; }

  int64_t floats() const { return parts.floats(); }

  int64_t scratch_bytes() const {
    return ring.bytes() + 2 * whole_lines(ring.chunk * V * 4) + 3 * whole_lines(list * 8);
  }

  // `sums` has room for floats().
  void run(float* sums) const {
    const int64_t threads = threads_for(host, work() * channels.blocks());
    const Split split = Split::of_units(threads, ring.groups, parts.parts, narrow.channel == 1);
    run_tasks(host, split, [&](Dealer& dealer) { Worker(*this).work(dealer, sums); });
    parts.add(host, threads, sums);
  }

  // What one thread has at hand.
  struct Worker {
    const BlockedGradient& whole;
    const Problem& problem;
    const Channels& channels;
    const Ring<T, Way::GATHER>& ring;
    Arena arena;
    typename Ring<T, Way::GATHER>::Rows packed;
    float* factors;
    float* turned;
    const float** met;
    int64_t* places;
    float** sums_of;
    int64_t sample, begin, count;  // columns of the unit at hand
    int64_t lead;                  // floats to what the first of them meets at the first tap
    ivec lanes_at[V];

    explicit Worker(const BlockedGradient& whole)
        : whole(whole),
          problem(whole.problem),
          channels(whole.channels),
          ring(whole.ring),
          arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))},
          packed(ring, arena) {
      factors = arena.take<float>(ring.chunk * V);
      turned = arena.take<float>(ring.chunk * V);
      met = arena.take<const float*>(whole.list);
      places = arena.take<int64_t>(whole.list);
      sums_of = arena.take<float*>(whole.list);
      for (int64_t turn = 0; turn < channels.turns(); ++turn)
        for (int64_t lane = 0; lane < V; ++lane) lanes_at[turn][lane] = int32_t(channels.after(lane, turn));
    }

    void work(Dealer& dealer, float* all_sums) {
      const int64_t units = whole.units, parts = whole.parts.parts;
      Task task;
      while (dealer.deal(task)) {
        const int64_t part = task.first_row, first_block = task.block * ring.group;
        whole.parts.clear(all_sums, first_block, least(first_block + ring.group, channels.blocks()), part);
        for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit)
          add_unit(unit, task.block, part, all_sums);
      }
    }

    void add_unit(int64_t unit, int64_t group, int64_t part, float* all_sums) {
      sample = unit / (ring.chunks * whole.bands);
      begin = unit / whole.bands % ring.chunks * ring.chunk;
      count = least(ring.chunk, ring.columns - begin);
      packed.begin(whole.wide, sample, group, begin, count);
      lead = (problem.axis[2].stride * begin - problem.axis[2].before - packed.lowest) * V;
      const int64_t top = unit % whole.bands * whole.band, bottom = least(top + whole.band, whole.rows);
      for (int64_t first = top, end; first < bottom; first = end) {
        end = ring.end_of_band(first, bottom);
        for (int64_t block = packed.first_block; block < packed.first_block + packed.blocks; ++block)
          add_band(block, first, end, whole.parts.at(all_sums, block, part));
      }
    }

    // Rows first … end - 1, of one plane.
    void add_band(int64_t block, int64_t first, int64_t end, float* sums) {
      const View& narrow = whole.narrow;
      const Lanes own = channels.own(block);
      const bool straight = sizeof(T) == sizeof(float) && narrow.channel == 1 && own.count == V;
      const int64_t step = straight ? narrow.axis[2] : V;
      const int64_t height = problem.axis[1].narrow, plane = first / height;
      for (int64_t row = first; row < end; ++row) {
        const int64_t place[2] = {plane, row - plane * height};
        const T* from = static_cast<const T*>(narrow.data) + sample * narrow.batch + place[0] * narrow.axis[0] +
                        place[1] * narrow.axis[1] + begin * narrow.axis[2];
        const float* factor = straight ? reinterpret_cast<const float*>(from) + own.lowest : factors;
        if (!straight) pack_row(factors, from, narrow.channel, narrow.axis[2], count, own);
        add_row(packed.meet(block, place, met, places), factor, step, sums);
        if (whole.parts.bias_gradient) add_total(sums + whole.taps * V, factor, step, count);
      }
    }

    // The products of a row with the `found` rows that it meets.
    void add_row(int64_t found, const float* factor, int64_t step, float* sums) {
      const Axis& axis = problem.axis[2];
      for (int64_t i = 0; i < found; ++i) {
        met[i] += lead;
        sums_of[i] = sums + places[i] * axis.taps * V;
      }
      const TurnedRow row{sums_of, whole.turn_taps * V, factor, step, met, found, axis.taps, axis.stride * V,
                          axis.dilation * V, count};
      correlate_turns(row, channels.turns(), lanes_at, turned);
    }

    static void add_total(float* sum, const float* factor, int64_t step, int64_t count) {
      vec even = load(sum), odd = {};
      int64_t p = 0;
      for (; p + 2 <= count; p += 2) {
        even += load(factor + p * step);
        odd += load(factor + (p + 1) * step);
      }
      if (p < count) even += load(factor + p * step);
      store(sum, even + odd);
    }
  };
};

}  // namespace
}  // namespace omniconv
