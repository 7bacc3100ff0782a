// SPDX-License-Identifier: Apache-2.0
// Rows of inputs, packed when a row of outputs first meets them and kept until others take their place.
#pragma once

#include "arena.h"
#include "blocked_channels.h"
#include "blocked_pack.h"
#include "geometry.h"
#include "steps.h"

namespace omniconv {
namespace {

// Packed rows that are in use together should stay in the L1 cache, and those of a volume in the L2 cache.
constexpr int64_t ROW_BYTES = 32 << 10, VOLUME_BYTES = 512 << 10;
constexpr int64_t LEAST_CHUNK = 4 * MAX_TILE;
// Blocks of channels that are packed together, and what a band of them may take of the L2 cache.
constexpr int64_t GROUP = 4, BAND_BYTES = 512 << 10;

template <class T, Way WAY>
struct Ring {
  const Problem& problem;
  const Channels& channels;
  int64_t group, groups;  // blocks that are packed together, and how many such there are
  int64_t band;           // rows of outputs that are summed from the ring before it moves on
  int64_t slots[2];       // packed rows along the two outer axes, powers of two
  int64_t columns, chunks, chunk, phases, width;

  // Channels side by side: several blocks at a time, so that a whole cache line or more of a position is read at once,
  // and as many rows as the L2 cache holds. Else one block, and as few rows as there must be.
  Ring(const Problem& problem, const Channels& channels, const View& input) : problem(problem), channels(channels) {
    const Axis* axis = problem.axis;
    columns = outputs_of<WAY>(axis[2]);
    const bool volume = inputs_of<WAY>(axis[0]) > 1 && outputs_of<WAY>(axis[0]) > 1;
    group = input.channel == 1 && channels.count() >= V ? least(GROUP, channels.blocks()) : 1;
    groups = ceil_div(channels.blocks(), group);
    group = ceil_div(channels.blocks(), groups);
    slots[0] = power_of_two(window_of<WAY>(axis[0]));
    slots[1] = power_of_two(volume ? inputs_of<WAY>(axis[1]) : window_of<WAY>(axis[1]));
    phases = least(period_of<WAY>(axis[2]), columns);
    const int64_t column_bytes = slots[0] * slots[1] * channels.copies() * V * int64_t(sizeof(float));
    const int64_t fits = (volume ? VOLUME_BYTES / group : ROW_BYTES) / column_bytes;
    const int64_t outputs = fits * period_of<WAY>(axis[2]) / input_step_of<WAY>(axis[2]);
    const int64_t least_chunk = (channels.copies() > 1 ? 2 * MAX_TILE : LEAST_CHUNK) * phases;
    // Of the columns that a chunk packs, its neighbours pack those of a window too; many rows had better stay short.
    const int64_t window = window_of<WAY>(axis[2]) * period_of<WAY>(axis[2]) / input_step_of<WAY>(axis[2]);
    const int64_t windows = slots[0] * slots[1] == 1 ? 4 : 1;
    chunks = ceil_div(columns, most(outputs, most(least_chunk, windows * window)));
    chunk = ceil_div(ceil_div(columns, chunks), phases) * phases;
    chunks = ceil_div(columns, chunk);
    width = most(reach(0, chunk).count, 0);
    band = volume && group > 1 ? outputs_of<WAY>(axis[1]) : 1;
    if (group > 1 && !volume && slots[0] == 1) {
      const int64_t held = BAND_BYTES / most(group * channels.copies() * width * V * int64_t(sizeof(float)), 1);
      while (slots[1] * 2 <= held && slots[1] < inputs_of<WAY>(axis[1])) slots[1] *= 2;
      const int64_t more = most(slots[1] - window_of<WAY>(axis[1]) - 1, 0);
      band = most(least(1 + more * period_of<WAY>(axis[1]) / input_step_of<WAY>(axis[1]), outputs_of<WAY>(axis[1])), 1);
    }
  }

  // Fewer rows of outputs than twice these would pack more rows of inputs than they sum.
  int64_t least_rows() const {
    const bool volume = inputs_of<WAY>(problem.axis[0]) > 1 && outputs_of<WAY>(problem.axis[0]) > 1;
    return volume ? slots[0] * outputs_of<WAY>(problem.axis[1]) : window_of<WAY>(problem.axis[1]);
  }

  // Rows of outputs from `first` on that are summed together: of one plane, for the ring holds what one plane meets.
  int64_t end_of_band(int64_t first, int64_t end) const {
    const int64_t height = outputs_of<WAY>(problem.axis[1]);
    return least(least(first + band, (first / height + 1) * height), end);
  }

  int64_t block_floats() const { return channels.copies() * width * V; }
  int64_t row_floats() const { return group * block_floats(); }
  int64_t bytes() const {
    return whole_lines(slots[0] * slots[1] * row_floats() * int64_t(sizeof(float))) +
           whole_lines(slots[0] * slots[1] * int64_t(sizeof(int64_t))) +
           whole_lines(group * channels.copies() * int64_t(sizeof(Lanes)));
  }

  struct Reach {
    int64_t lowest, count;
  };

  // The columns of inputs that the outputs begin … begin + count - 1 meet, outside the tensor too.
  Reach reach(int64_t begin, int64_t count) const {
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    for (int64_t phase = 0; phase < least(phases, count); ++phase) {
      const Steps steps = steps_of<WAY>(problem.axis[2], begin + phase);
      if (!steps.taps) continue;
      const int64_t other = steps.at + steps.hop * (steps.taps - 1);
      const int64_t last = input_step_of<WAY>(problem.axis[2]) * ((count - phase - 1) / phases);
      lowest = least(lowest, least(steps.at, other));
      highest = most(highest, most(steps.at, other) + last);
    }
    return lowest > highest ? Reach{0, 0} : Reach{lowest, highest - lowest + 1};
  }

  // The packed rows of one task.
  struct Rows {
    const Ring& ring;
    float* packed;
    int64_t* tags;  // which row each slot holds, or -1
    Lanes* lanes;   // that each block meets, copy by copy
    int64_t held;   // the group that they are of
    const T* from;
    const View* input;
    int64_t first_block, blocks, lowest, count;

    Rows(const Ring& ring, Arena& arena) : ring(ring) {
      packed = arena.take<float>(ring.slots[0] * ring.slots[1] * ring.row_floats());
      tags = arena.take<int64_t>(ring.slots[0] * ring.slots[1]);
      lanes = arena.take<Lanes>(ring.group * ring.channels.copies());
      held = -1;
    }

    void begin(const View& view, int64_t sample, int64_t group, int64_t column, int64_t outputs) {
      input = &view;
      first_block = group * ring.group;
      blocks = least(ring.group, ring.channels.blocks() - first_block);
      from = static_cast<const T*>(view.data) + sample * view.batch;
      const Reach found = ring.reach(column, outputs);
      lowest = found.lowest;
      count = found.count;
      for (int64_t slot = 0; slot < ring.slots[0] * ring.slots[1]; ++slot) tags[slot] = -1;
      if (held != group) list_lanes();
      held = group;
    }

    void list_lanes() {
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t copy = 0; copy < ring.channels.copies(); ++copy)
          lanes[block * ring.channels.copies() + copy] = ring.channels.met_by(first_block + block, copy);
    }

    // Lists the packed rows that the outputs at `place` meet, and which rows of taps (copies innermost) meet them.
    int64_t meet(int64_t block, const int64_t (&place)[2], const float** met, int64_t* places) {
      const int64_t copies = ring.channels.copies();
      int64_t found = 0;
      each_row_met<WAY>(ring.problem, place, [&](int64_t depth, int64_t height, int64_t taps) {
        const float* row = row_at(depth, height) + (block - first_block) * ring.block_floats();
        for (int64_t copy = 0; copy < copies; ++copy) {
          met[found] = row + copy * ring.width * V;
          places[found++] = taps * copies + copy;
        }
      });
      return found;
    }

    float* row_at(int64_t depth, int64_t height) {
      const int64_t slot = (depth & (ring.slots[0] - 1)) * ring.slots[1] + (height & (ring.slots[1] - 1));
      float* row = packed + slot * ring.row_floats();
      const int64_t tag = depth * inputs_of<WAY>(ring.problem.axis[1]) + height;
      if (tags[slot] == tag) return row;
      tags[slot] = tag;
      const int64_t inside = inputs_of<WAY>(ring.problem.axis[2]);
      const int64_t first = least(most(lowest, 0), lowest + count), end = most(least(lowest + count, inside), first);
      const T* at = from + depth * input->axis[0] + height * input->axis[1] + first * input->axis[2];
      const int64_t before = (first - lowest) * V, behind = (end - lowest) * V;
      for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t copy = 0; copy < ring.channels.copies(); ++copy) {
          float* to = row + block * ring.block_floats() + copy * ring.width * V;
          std::memset(to, 0, before * sizeof(float));
          std::memset(to + behind, 0, (lowest + count - end) * V * sizeof(float));
        }
      }
      pack(row + before, at, end - first);
      return row;
    }

    void pack(float* to, const T* at, int64_t positions) const {
      const Channels& channels = ring.channels;
      if (blocks > 1 && channels.copies() == 1 && lanes[0].dense) {
        int64_t first[GROUP];
        for (int64_t block = 0; block < blocks; ++block) first[block] = lanes[block].lowest;
        pack_blocks<GROUP>(to, ring.block_floats(), at, input->axis[2], positions, first, blocks);
        return;
      }
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t copy = 0; copy < channels.copies(); ++copy)
          pack_row(to + block * ring.block_floats() + copy * ring.width * V, at, input->channel, input->axis[2],
                   positions, lanes[block * channels.copies() + copy]);
    }
  };
};

}  // namespace
}  // namespace omniconv
