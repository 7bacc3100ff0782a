// SPDX-License-Identifier: Apache-2.0
// The kernels of a tile of positions, tap by tap, each a row of positions side by side: read from wherever they were
// predicted, normalised, and on the way back their gradients.
#pragma once

#include <cmath>

#include "dynamic_pack.h"
#include "exponential.h"

namespace omniconv {
namespace {

constexpr int64_t STRETCH = 4 * V;  // positions that are normalised at a time

template <class T, Way WAY>
struct DynamicWeights {
  const DynamicPlan<WAY>& plan;
  const DynamicTile<WAY>& tile;
  float* at;  // [tap][position of the tile], taps plan.pitch apart

  // Neighbours along the last axis, from one on: its place on each axis, and in the tile.
  struct Row {
    int64_t z, y, x, place;
    Row operator+(int64_t more) const { return {z, y, x + more, place + more}; }
  };

  const Axis* axes() const { return plan.problem.axis; }
  const Dynamic& call() const { return plan.call; }

  // Calls each(offset of the tap, number) for the taps, row by row.
  template <class Each>
  void each_tap(const Predicted& predicted, const Each& each) const {
    int64_t number = 0;
    for (int64_t z = 0; z < axes()[0].taps; ++z)
      for (int64_t y = 0; y < axes()[1].taps; ++y)
        for (int64_t x = 0; x < axes()[2].taps; ++x, ++number)
          each(predicted.tap[0] * z + predicted.tap[1] * y + predicted.tap[2] * x, number);
  }

  // Whether the taps of one position lie side by side.
  bool taps_inner(const Predicted& predicted) const {
    int64_t step = 1;
    for (int i = 2; i >= 0; --i) {
      if (axes()[i].taps != 1 && predicted.tap[i] != step) return false;
      step *= axes()[i].taps;
    }
    return true;
  }

  // Calls each(row of the tile, count, offset in the tensor) for its rows inside the tensor.
  template <class Each>
  void each_row(const Predicted& predicted, const Each& each) const {
    const auto& axis = tile.axis;
    const auto is_inside = [&](int i, int64_t place) {
      const int64_t position = axis[i].begin + place;
      return position >= 0 && position < axes()[i].narrow;
    };
    const int64_t first = most(-axis[2].begin, 0);
    const int64_t end = least(axes()[2].narrow - axis[2].begin, axis[2].positions);
    for (int64_t z = 0; z < axis[0].positions; ++z)
      for (int64_t y = 0; y < axis[1].positions; ++y)
        if (is_inside(0, z) && is_inside(1, y) && first < end)
          each(Row{z, y, first, (z * axis[1].positions + y) * tile.row() + first}, end - first,
               predicted.position[0] * (axis[0].begin + z) + predicted.position[1] * (axis[1].begin + y) +
                   predicted.position[2] * (axis[2].begin + first));
  }

  template <class U>
  U* begin_of(const Predicted& predicted) const {
    return static_cast<U*>(predicted.data) + tile.sample * predicted.batch + tile.head * predicted.head;
  }

  // Whether sums can read kernels where they lie.
  static bool lie_ready(const Dynamic& call) {
    return WAY == Way::GATHER && sizeof(T) == sizeof(float) && !call.softmax && !call.everywhere;
  }

  // A tile's kernels there.
  Kept in_place() const {
    const Predicted& predicted = call().weights;
    Kept kept{reinterpret_cast<const float*>(begin_of<const T>(predicted)), {}, {}};
    for (int i = 0; i < 3; ++i) {
      kept.tap[i] = predicted.tap[i];
      kept.position[i] = predicted.position[i];
      kept.at += tile.axis[i].begin * predicted.position[i];
    }
    return kept;
  }

  // A stretch at a time, so that it is normalised while it is in the nearest cache. Positions outside the tensor, which
  // meet nothing but zeros, have any finite numbers.
  void read() const {
    if (call().everywhere) return read_alike();
    const Predicted& predicted = call().weights;
    const T* from = begin_of<const T>(predicted);
    const bool padded = call().renorm && meets_padding();
    if (WAY == Way::SCATTER) std::memset(at, 0, sizeof(float) * plan.weight_floats());
    each_row(predicted, [&](const Row& row, int64_t count, int64_t offset) {
      for (int64_t p = 0; p < count; p += STRETCH) {
        const int64_t some = least(count - p, STRETCH);
        read_some(from + offset + p * predicted.position[2], row.place + p, some);
        if (padded) leave_padding_out(row + p, some);
        if (call().softmax) normalize(row.place + p, some);
      }
    });
  }

  // One kernel for all positions, whose shares differ at the borders if those are renormalised.
  void read_alike() const {
    const Predicted& predicted = call().weights;
    const T* from = begin_of<const T>(predicted);
    const bool alike = !call().renorm;
    each_tap(predicted, [&](int64_t offset, int64_t tap) {
      const vec value = splat(widen(from[offset]));
      for (int64_t p = 0; p < (alike ? V : plan.pitch); p += V) store(at + tap * plan.pitch + p, value);
    });
    if (call().renorm) {
      const auto& axis = tile.axis;
      for (int64_t z = 0; z < axis[0].positions; ++z)
        for (int64_t y = 0; y < axis[1].positions; ++y)
          leave_padding_out({z, y, 0, (z * axis[1].positions + y) * tile.row()}, axis[2].positions);
    }
    if (call().softmax) normalize(0, alike ? V : plan.pitch);
    for (int64_t tap = 0; alike && tap < plan.taps; ++tap) {
      const vec value = load(at + tap * plan.pitch);
      for (int64_t p = V; p < plan.pitch; p += V) store(at + tap * plan.pitch + p, value);
    }
  }

  void read_some(const T* from, int64_t place, int64_t count) const {
    const Predicted& predicted = call().weights;
    const int64_t step = predicted.position[2];
    if (step == 1 || count == 1) {
      each_tap(predicted, [&](int64_t of_tap, int64_t tap) {
        float* to = at + tap * plan.pitch + place;
        each_vector(count, [&](int64_t p, int64_t some) {
          fetch(from + of_tap + p + STRETCH);
          store_count(to + p, load_count(from + of_tap + p, some), some);
        });
      });
    } else if (taps_inner(predicted)) {
      each_vector(count, [&](int64_t p, int64_t some) { read_turned(from + p * step, place + p, some, step); });
    } else {
      each_tap(predicted, [&](int64_t of_tap, int64_t tap) {
        for (int64_t p = 0; p < count; ++p) at[tap * plan.pitch + place + p] = widen(from[of_tap + p * step]);
      });
    }
  }

  // Up to V positions, whose taps lie side by side.
  void read_turned(const T* from, int64_t place, int64_t count, int64_t step) const {
    int64_t lanes[V];
    for (int64_t lane = 0; lane < V; ++lane) {
      lanes[lane] = lane * step;
      for (int64_t tap = 0; tap < plan.taps; tap += LINE / int64_t(sizeof(T)))
        fetch(from + (lane + 2 * V) * step + tap);
    }
    if (count == V) return pack_transposed(at + place, from, lanes, plan.taps, V, plan.pitch);
    alignas(64) float turned[V * V];
    for (int64_t tap = 0; tap < plan.taps; tap += V) {
      const int64_t some = least(plan.taps - tap, V);
      pack_transposed(turned, from + tap, lanes, some, count);
      for (int64_t t = 0; t < some; ++t)
        store_first(at + (tap + t) * plan.pitch + place, load(turned + t * V), count);
    }
  }

  // The softmax over the taps of some places. Lanes behind them change too.
  void normalize(int64_t first, int64_t count) const {
    const int64_t pitch = plan.pitch, end = plan.taps * pitch;
    for (int64_t p = first; p < first + count; p += V) {
      float* own = at + p;
      vec highest = load(own), total = {};
      for (int64_t tap = pitch; tap < end; tap += pitch) {
        const vec value = load(own + tap);
        highest = value > highest ? value : highest;
      }
      for (int64_t tap = 0; tap < end; tap += pitch) {
        const vec share = exponential(load(own + tap) - highest);
        total += share;
        store(own + tap, share);
      }
      const vec factor = splat(1) / total;
      for (int64_t tap = 0; tap < end; tap += pitch) store(own + tap, load(own + tap) * factor);
    }
  }

  // Whether tap number `tap` of a place of the tile lies in the input.
  bool inside(int i, int64_t tap, int64_t place) const {
    const Axis& axis = axes()[i];
    const int64_t met = axis.stride * (tile.axis[i].begin + place) + axis.dilation * tap - axis.before;
    return met >= 0 && met < axis.wide;
  }

  bool covered(int i, int64_t place) const {
    for (int64_t tap = 0; tap < axes()[i].taps; ++tap)
      if (inside(i, tap, place)) return true;
    return false;
  }

  // Whether all taps of places first … last of the tile lie in the input.
  bool within(int i, int64_t first, int64_t last) const {
    return inside(i, 0, first) && inside(i, axes()[i].taps - 1, last);
  }

  bool meets_padding() const {
    for (int i = 0; i < 3; ++i)
      if (!within(i, 0, tile.axis[i].positions - 1)) return true;
    return false;
  }

  // Numbers of taps on padding become -inf, where some tap of the position is not there.
  void leave_padding_out(const Row& row, int64_t count) const {
    if (!covered(0, row.z) || !covered(1, row.y)) return;
    const bool whole = within(0, row.z, row.z) && within(1, row.y, row.y);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t x = row.x + p;
      if ((whole && within(2, x, x)) || !covered(2, x)) continue;
      float* own = at + row.place + p;
      for (int64_t i = 0; i < axes()[0].taps; ++i)
        for (int64_t j = 0; j < axes()[1].taps; ++j) {
          const bool met = inside(0, i, row.z) && inside(1, j, row.y);
          for (int64_t k = 0; k < axes()[2].taps; ++k, own += plan.pitch)
            if (!met || !inside(2, k, x)) *own = -INFINITY;
        }
    }
  }

  // From the gradients of the kernels that were summed with to those of the numbers they were made from.
  void differentiate(float* gradients) const {
    const int64_t pitch = plan.pitch, end = plan.taps * pitch;
    for (int64_t p = 0; p < pitch; p += V) {
      vec mean = {};
      for (int64_t tap = p; tap < end; tap += pitch) mean += load(at + tap) * load(gradients + tap);
      for (int64_t tap = p; tap < end; tap += pitch)
        store(gradients + tap, load(at + tap) * (load(gradients + tap) - mean));
    }
  }

  void write(const Predicted& predicted, const float* gradients) const {
    T* to = begin_of<T>(predicted);
    each_row(predicted, [&](const Row& row, int64_t count, int64_t offset) {
      const int64_t step = predicted.position[2];
      if (step == 1 || count == 1) {
        each_tap(predicted, [&](int64_t of_tap, int64_t tap) {
          T* own = to + offset + of_tap;
          const float* from = gradients + tap * plan.pitch + row.place;
          each_vector(count, [&](int64_t p, int64_t some) { store_count(own + p, load_count(from + p, some), some); });
        });
      } else if (taps_inner(predicted)) {
        int64_t lanes[V];
        for (int64_t lane = 0; lane < V; ++lane) lanes[lane] = lane * step;
        each_vector(count, [&](int64_t p, int64_t some) {
          unpack_transposed(to + offset + p * step, lanes, gradients + row.place + p, plan.taps, some, plan.pitch);
        });
      } else {
        each_tap(predicted, [&](int64_t of_tap, int64_t tap) {
          for (int64_t p = 0; p < count; ++p)
            narrow(to + offset + of_tap + p * step, gradients[tap * plan.pitch + row.place + p]);
        });
      }
    });
  }
};

}  // namespace
}  // namespace omniconv
