// SPDX-License-Identifier: Apache-2.0
// Which channels a block of V lanes holds, and how its lanes meet all channels of their groups.
//
// A lane is a channel on the side of the outputs. Where groups and blocks fit into one another, each channel of the
// inputs is packed into one lane, and the lanes of a group meet the others by turns: after each turn but the last, sums
// move on by one lane within their circle. That takes one shuffle of an output for each turn, where a packed copy for
// each channel would take one of an input, and more of the L1 cache than there is.
#pragma once

#include "blocked_pack.h"
#include "steps.h"

namespace omniconv {
namespace {

// The channels of a group on the side of the outputs, each of which meets `variants` channels on the side of the
// inputs.
struct Channels {
  int64_t groups, per_group, variants;

  int64_t count() const { return groups * per_group; }
  int64_t blocks() const { return ceil_div(count(), V); }

  // Lanes among which sums move.
  int64_t circle() const { return least(per_group, V); }

  int64_t turns() const {
    if (V % circle() || per_group % circle()) return 1;
    return variants % circle() == 0 ? circle() : circle() % variants == 0 ? variants : 1;
  }

  // Packed copies of the inputs, each with other channels, that one turn meets.
  int64_t copies() const { return variants / turns(); }

  // The channels of outputs that a block holds. The last block overlaps the one before it, and computes some channels a
  // second time, rather than leave lanes empty.
  Lanes own(int64_t block) const { return Lanes::of(first(block), count(), 1, 1, 0); }

  // The channels of inputs that a block of outputs meets in its copy number `copy`.
  Lanes met_by(int64_t block, int64_t copy) const {
    return Lanes::of(first(block), count(), per_group, variants, copy * turns(), turns());
  }

  int64_t first(int64_t block) const { return most(least(block * V, count() - V), 0); }

  // The lane where the sum of a lane was `turns` turns before, and where it is `turns` turns later. Where there is more
  // than one turn, circles are powers of two.
  int64_t before(int64_t lane, int64_t turns) const {
    const int64_t mask = circle() - 1;
    return lane - (lane & mask) + ((lane + turns) & mask);
  }
  int64_t after(int64_t lane, int64_t turns) const { return before(lane, -turns); }

  // Of the channels of a group on the side of the inputs, that which a lane holds in its first copy.
  int64_t variant(int64_t lane) const { return lane & (turns() - 1); }

  template <Way WAY>
  int64_t weight_at(const Weights& weights, int64_t channel) const {
    const int64_t own = WAY == Way::GATHER ? weights.narrow : weights.wide;
    return weights.head(channel / per_group) * weights.group + channel % per_group * own;
  }
};

template <Way WAY>
Channels channels_of(const Problem& problem) {
  return WAY == Way::GATHER ? Channels{problem.groups, problem.narrow, problem.wide}
                            : Channels{problem.groups, problem.wide, problem.narrow};
}

}  // namespace
}  // namespace omniconv
