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

// By blocks of channels, then parts: V lanes for each tap (by rows of taps, variants, then the taps of the row), and
// for the bias.
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
    Split split{channels.blocks(), 1, 1, 1, 1, 1, 1, false};
    if (taps * parts * channels.blocks() > SERIAL_WORK / V) split.threads = threads;
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
    const int64_t rows = problem.axis[0].taps * problem.axis[1].taps, taps_of_row = problem.axis[2].taps;
    if (channels.variants == 1 && channels.per_group == 1 && gradient.share == 1) {
      const int64_t to = own.lowest * gradient.group;
      gradient.type == Type::float32
          ? unpack_row(static_cast<float*>(gradient.data) + to, gradient.group, 1, whole, taps, own.count)
          : unpack_row(static_cast<bf16*>(gradient.data) + to, gradient.group, 1, whole, taps, own.count);
    } else {
      for (int64_t lane = 0; lane < own.count; ++lane) {
        const int64_t to = channels.weight_at<Way::GATHER>(gradient, own.lowest + lane);
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t variant = 0; variant < channels.variants; ++variant)
            for (int64_t tap = 0; tap < taps_of_row; ++tap)
              gradient.set(to + variant * gradient.wide + row * taps_of_row + tap,
                           whole[((row * channels.variants + variant) * taps_of_row + tap) * V + lane]);
      }
    }
    for (int64_t lane = 0; lane < (bias_gradient ? own.count : 0); ++lane)
      narrow(bias_gradient + own.lowest + lane, whole[taps * V + lane]);
  }
};

}  // namespace
}  // namespace omniconv
