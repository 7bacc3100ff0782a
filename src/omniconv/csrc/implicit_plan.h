// SPDX-License-Identifier: Apache-2.0
// A convolution as a product of matrices, group by group: how its weights are packed for that.
#pragma once

#include "kernels.h"
#include "pointwise_tile.h"
#include "tasks.h"

namespace omniconv {
namespace {

struct ImplicitPlan {
  const Pointwise& call;
  const Problem& problem;
  int64_t groups, outputs;  // and channels of the output in a group
  int64_t steps;            // each of one input, for all outputs of the group

  explicit ImplicitPlan(const Pointwise& call_)
      : call(call_),
        problem(*call_.taps),
        groups(problem.groups),
        outputs(problem.narrow),
        steps(taps_of(problem) * problem.wide) {}

  int64_t group_floats() const { return steps * whole_vectors(outputs); }
  int64_t packed_floats() const { return groups * group_floats(); }

  template <class T>
  void pack(float* to, const Host& host) const {
    const int64_t panels = ceil_div(outputs, TILE_WIDTH), workers = threads_for(host, packed_floats() / 4);
    const Split split = Split::of_units(least(workers, groups * panels), panels, groups, true);
    run_tasks(host, split, [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) pack_panel<T>(task.first_row, task.block * TILE_WIDTH, to);
    });
  }

 private:
  // Of the outputs from `first` of a group: a row of them for each step, tap by tap.
  template <class T>
  void pack_panel(int64_t group, int64_t first, float* to) const {
    const int64_t width = least(TILE_WIDTH, whole_vectors(outputs) - first), taps = taps_of(problem);
    const T* from = static_cast<const T*>(call.weights.data) + (group * outputs + first) * steps;
    to += group * group_floats() + first * steps;
    for (int64_t lane = 0; lane < width; ++lane) {
      const bool is = first + lane < outputs;
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < problem.wide; ++c)
          to[(tap * problem.wide + c) * width + lane] = is ? widen(from[lane * steps + c * taps + tap]) : 0;
    }
  }
};

}  // namespace
}  // namespace omniconv
