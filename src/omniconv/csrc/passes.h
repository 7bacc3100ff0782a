// SPDX-License-Identifier: Apache-2.0
// How passes over tensors, number by number, are cut into tasks.
#pragma once

#include "activation.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t PASSED_AT_ONCE = 1 << 14;  // numbers of a task
constexpr int64_t MOST_PASSED = 64;          // tasks, where each keeps a total of every channel

// Rows of the channels of a position (by_rows), or of the positions of a channel.
struct Passes {
  int64_t together, units;  // rows of a task
  int64_t pieces, piece;    // of a row, where it is one of positions
  int64_t all, work;        // rows; vectors

  Passes(int64_t rows, int64_t length, bool by_rows) : together(1), pieces(1), piece(length) {
    if (by_rows) {
      const int64_t least_rows = ceil_div(rows, MOST_PASSED);
      together = most(most(PASSED_AT_ONCE / most(length, 1), least_rows), 1);
    } else {
      pieces = most(ceil_div(length, PASSED_AT_ONCE), 1);
      piece = whole_vectors(ceil_div(length, pieces));
      pieces = most(ceil_div(length, most(piece, 1)), 1);
      together = most(PASSED_AT_ONCE / most(length, 1), 1);
    }
    units = ceil_div(rows, together) * pieces;
    all = rows;
    work = rows * length / V;
  }

  // Calls each(unit, first row, end, activation) on all threads; unit % pieces is the piece of its rows.
  template <class Each>
  void each_unit(Activation activation, const Host& host, const Each& each) const {
    const int64_t threads = threads_for(host, work);
    run_tasks(host, Split::of_units(least(threads, most(units, 1)), 1, units, true), [&](Dealer& dealer) {
      with_activation(activation, [&](auto function) {
        Task task;
        while (dealer.deal(task)) {
          const int64_t unit = task.first_row, first = unit / pieces * together;
          each(unit, first, least(first + together, all), function);
        }
      });
    });
  }
};

}  // namespace
}  // namespace omniconv
