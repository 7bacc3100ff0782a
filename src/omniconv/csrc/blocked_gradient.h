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
struct BlockedGradient {
  const Problem& problem;
  const View& wide;
  const View& narrow;
  T* bias_gradient;  // or null
  const Host& host;

  Channels channels;
  Ring<T, Way::GATHER> ring;
  int64_t rows, list, turn_taps, taps, band, bands, units;
  Parts<T> parts;

  BlockedGradient(const Problem& problem, const View& wide, const View& narrow, const Weights& gradient,
                  T* bias_gradient, const Host& host)
      : problem(problem),
        wide(wide),
        narrow(narrow),
        bias_gradient(bias_gradient),
        host(host),
        channels{problem.groups, problem.narrow, problem.wide},
        ring(problem, channels, wide),
        parts{problem, channels, gradient, bias_gradient, 0, 0} {
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
  void run(float* sums) {
    const int64_t threads = threads_for(host, work() * channels.blocks());
    const Split split = Split::of_units(threads, ring.groups, parts.parts, narrow.channel == 1);
    run_tasks(host, split, [&](Dealer& dealer) { work_on(dealer, sums); });
    parts.add(host, threads, sums);
  }

  void work_on(Dealer& dealer, float* all_sums) const {
    Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
    typename Ring<T, Way::GATHER>::Rows packed(ring, arena);
    float* factors = arena.take<float>(ring.chunk * V);
    float* turned = arena.take<float>(ring.chunk * V);
    const float** met = arena.take<const float*>(list);
    int64_t* places = arena.take<int64_t>(list);
    float** sums_of = arena.take<float*>(list);
    ivec lanes_at[V];
    for (int64_t turn = 0; turn < channels.turns(); ++turn)
      for (int64_t lane = 0; lane < V; ++lane) lanes_at[turn][lane] = int32_t(channels.after(lane, turn));
    Task task;
    while (dealer.deal(task)) {
      const int64_t part = task.first_row;
      const int64_t first_block = task.block * ring.group;
      const int64_t end_block = least(first_block + ring.group, channels.blocks());
      parts.clear(all_sums, first_block, end_block, part);
      for (int64_t unit = units * part / parts.parts; unit < units * (part + 1) / parts.parts; ++unit) {
        const int64_t sample = unit / (ring.chunks * bands), cut = unit / bands % ring.chunks;
        const int64_t begin = cut * ring.chunk, count = least(ring.chunk, ring.columns - begin);
        const int64_t top = unit % bands * band, bottom = least(top + band, rows);
        packed.begin(wide, sample, task.block, begin, count);
        const int64_t lead = (problem.axis[2].stride * begin - problem.axis[2].before - packed.lowest) * V;
        for (int64_t first = top; first < bottom; first = ring.end_of_band(first, bottom)) {
          for (int64_t block = packed.first_block; block < packed.first_block + packed.blocks; ++block) {
            float* sums = parts.at(all_sums, block, part);
            const Lanes own = channels.own(block);
            const int64_t plane = first / problem.axis[1].narrow, end = ring.end_of_band(first, bottom);
            for (int64_t row = first; row < end; ++row) {
              const int64_t place[2] = {plane, row - plane * problem.axis[1].narrow};
              const T* from = static_cast<const T*>(narrow.data) + sample * narrow.batch + place[0] * narrow.axis[0] +
                              place[1] * narrow.axis[1] + begin * narrow.axis[2];
              const bool straight = sizeof(T) == sizeof(float) && narrow.channel == 1 && own.count == V;
              const float* factor = straight ? reinterpret_cast<const float*>(from) + own.lowest : factors;
              const int64_t step = straight ? narrow.axis[2] : V;
              if (!straight) pack_row(factors, from, narrow.channel, narrow.axis[2], count, own);
              const int64_t found = packed.meet(block, place, met, places);
              for (int64_t i = 0; i < found; ++i) {
                met[i] += lead;
                sums_of[i] = sums + places[i] * problem.axis[2].taps * V;
              }
              const TurnedRow turned_row{sums_of, turn_taps * V, factor, step, met, found, problem.axis[2].taps,
                                         problem.axis[2].stride * V, problem.axis[2].dilation * V, count};
              correlate_turns(turned_row, channels.turns(), lanes_at, turned);
              if (bias_gradient) add_row(sums + taps * V, factor, step, count);
            }
          }
        }
      }
    }
  }

  static void add_row(float* sum, const float* factor, int64_t step, int64_t count) {
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

}  // namespace
}  // namespace omniconv
