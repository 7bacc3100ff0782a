// SPDX-License-Identifier: Apache-2.0
// How a pointwise convolution becomes a product of matrices, and how its weights are packed for it.
//
// Where channels lie side by side, lanes are channels of the output: rows of the tile are positions, and weights are
// packed in panels of two vectors of outputs, input by input. Where positions do, lanes are positions: rows of the
// tile are channels of the output, and the weights of each lie one after the other.
#pragma once

#include "arena.h"
#include "blocked_pack.h"
#include "kernels.h"
#include "pointwise_tile.h"
#include "tasks.h"

namespace omniconv {
namespace {

// Rows so many numbers apart, or a multiple of it, meet in few places of the first cache.
constexpr int64_t MEETING = 512;

// Where the positions of a sample lie, counted in order.
struct Places {
  int64_t size[2];  // of the last axes
  int64_t step[3];
  bool even;        // from end to end as far apart as along the last axis

  Places(const int64_t (&sizes)[3], const View& view)
      : size{sizes[1], sizes[2]}, step{view.axis[0], view.axis[1], view.axis[2]}, even(true) {
    if (sizes[2] == 1) step[2] = sizes[1] > 1 ? step[1] : sizes[0] > 1 ? step[0] : view.batch;  // of samples then
    int64_t next = step[2] * sizes[2];
    for (int axis = 1; axis >= 0; --axis) {
      if (sizes[axis] == 1) continue;
      even = even && view.axis[axis] == next;
      next = view.axis[axis] * sizes[axis];
    }
  }

  int64_t at(int64_t position) const {
    if (even) return position * step[2];
    const int64_t row = position / size[1];
    return position % size[1] * step[2] + row % size[0] * step[1] + row / size[0] * step[0];
  }
};

struct PointwisePlan {
  const Pointwise& call;
  int64_t positions;  // of a sample
  bool by_rows;       // rows of a tile are positions
  int64_t threads;

  PointwisePlan(const Pointwise& call_, const Host& host)
      : call(call_), positions(call.size[0] * call.size[1] * call.size[2]), by_rows(call.by_rows) {
    threads = threads_for(host, call.batch * positions * ceil_div(call.outputs, V) * call.inputs);
  }

  int64_t weight_pitch() const { return odd_lines(call.inputs); }
  int64_t packed_floats() const {
    return by_rows ? call.inputs * whole_vectors(call.outputs) : call.outputs * weight_pitch();
  }
  // Whether tiles can read the weights where they are.
  bool lying() const {
    return !by_rows && call.weights.type == Type::float32 && call.weights.column == 1 && call.weights.row % MEETING;
  }

  // Whether they are still to be packed.
  bool packs() const { return !call.packed && !lying(); }

  template <class T>
  void pack(float* to, const Host& host) const {
    const int64_t units = ceil_div(call.outputs, by_rows ? TILE_WIDTH : V);
    const int64_t workers = threads_for(host, call.outputs * call.inputs / 4);
    run_tasks(host, Split::of_units(least(workers, units), 1, units, true), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) by_rows ? pack_panel<T>(task.first_row, to) : pack_rows<T>(task.first_row, to);
    });
  }

  // Panel after panel of outputs, the last one perhaps of one vector: a row of outputs for each input.
  template <class T>
  void pack_panel(int64_t panel, float* to) const {
    const int64_t first = panel * TILE_WIDTH, width = least(TILE_WIDTH, whole_vectors(call.outputs) - first);
    const T* from = static_cast<const T*>(call.weights.data) + first * call.weights.row;
    to += first * call.inputs;
    for (int64_t lane = 0; lane < width; lane += V) {
      const int64_t lanes = least(V, call.outputs - first - lane);
      pack_lanes(to + lane, width, from + lane * call.weights.row, lanes);
    }
  }

  template <class T>
  void pack_lanes(float* to, int64_t width, const T* from, int64_t lanes) const {
    const Matrix& weights = call.weights;
    if (weights.row == 1) {
      for (int64_t k = 0; k < call.inputs; ++k) store(to + k * width, load_count(from + k * weights.column, lanes));
    } else {
      int64_t at[V];
      for (int64_t lane = 0; lane < V; ++lane) at[lane] = lane * weights.row;
      pack_transposed(to, from, at, call.inputs, lanes, width);
    }
  }

  // Row after row of inputs, for V outputs.
  template <class T>
  void pack_rows(int64_t unit, float* to) const {
    const Matrix& weights = call.weights;
    const int64_t first = unit * V, end = least(first + V, call.outputs), pitch = weight_pitch();
    const T* from = static_cast<const T*>(weights.data);
    if (weights.column == 1) {
      for (int64_t row = first; row < end; ++row)
        each_vector(call.inputs, [&](int64_t k, int64_t some) {
          store_count(to + row * pitch + k, load_count(from + row * weights.row + k, some), some);
        });
      return;
    }
    int64_t at[V];
    for (int64_t input = 0; input < call.inputs; input += V) {
      for (int64_t lane = 0; lane < V; ++lane) at[lane] = (input + lane) * weights.column;
      pack_transposed(to + first * pitch + input, from + first, at, end - first, least(V, call.inputs - input), pitch);
    }
  }
};

}  // namespace
}  // namespace omniconv
