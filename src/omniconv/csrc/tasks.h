// SPDX-License-Identifier: Apache-2.0
// The work of one call in tasks. Each thread has a share of neighbouring tasks, the same at every call, so that what it
// wrote is still in its own cache; when it is done it takes what others have not begun.
#pragma once

#include "geometry.h"
#include "steps.h"

namespace omniconv {
namespace {

// Waking a thread costs a few microseconds: less work than so many multiply-adds of vectors is left to the caller.
constexpr int64_t SERIAL_WORK = 12000;
constexpr int64_t TASKS_PER_THREAD = 8;
constexpr int64_t MOST_THREADS = 256;

// For so many multiply-adds of vectors.
inline int64_t threads_for(const Host& host, int64_t work) {
  return work > SERIAL_WORK ? least(host.threads, MOST_THREADS) : 1;
}

// What the kernels of a convolution are told, and those of the gradient of its weights.
template <class T>
struct SumsCall {
  const Problem& problem;
  const View& input;
  const View& output;
  const Weights& weights;
  const T* bias;  // or null
  const Host& host;
};

template <class T>
struct GradientCall {
  const Problem& problem;
  const View& wide;
  const View& narrow;
  const Weights& gradient;
  T* bias_gradient;  // or null
  const Host& host;
};

struct Task {
  int64_t block, sample, chunk, first_row, end_row;
};

// Blocks of channels × samples × bands of rows × chunks of columns. Blocks vary slowest where a channel lies by itself
// in memory, and fastest where channels lie side by side.
struct Split {
  int64_t blocks, samples, rows, band, bands, chunks, threads;
  bool blocks_inner;

  // least_band: rows below which a band would pack more rows than it sums. work: vector multiply-adds a block a sample.
  static Split of(const Host& host, int64_t blocks, int64_t samples, int64_t rows, int64_t least_band, int64_t chunks,
                  int64_t work, bool blocks_inner) {
    const int64_t threads = threads_for(host, work * blocks * samples);
    const int64_t wanted = threads > 1 ? TASKS_PER_THREAD * threads : 1;
    const int64_t others = most((blocks_inner ? 1 : blocks) * samples * chunks, 1);
    const int64_t band = most(ceil_div(rows, ceil_div(wanted, others)), least(rows, 2 * least_band));
    return {blocks, samples, rows, band, ceil_div(rows, band), chunks, threads, blocks_inner};
  }

  // Whose rows stand for units of any kind, a task for each.
  static Split of_units(int64_t threads, int64_t blocks, int64_t units, bool blocks_inner, int64_t samples = 1,
                        int64_t chunks = 1) {
    return {blocks, samples, units, 1, units, chunks, threads, blocks_inner};
  }

  int64_t tasks() const { return blocks * samples * bands * chunks; }

  Task task(int64_t number) const {
    Task task;
    if (blocks_inner) {
      task.block = number % blocks;
      number /= blocks;
    }
    task.chunk = number % chunks;
    number /= chunks;
    task.first_row = number % bands * band;
    task.end_row = least(task.first_row + band, rows);
    number /= bands;
    task.sample = number % samples;
    if (!blocks_inner) task.block = number / samples;
    return task;
  }
};

// How planes are cut into bands of whole tiles where channels and samples are few, and taken in blocks of groups where
// they are small.
struct PlaneSplit {
  static constexpr int64_t TASKS = 32, TASK_WORK = 16000;

  int64_t band, block;  // rows, groups
  int64_t bands;        // of one plane
  Split split;          // blocks of groups × samples × bands of all depths

  // row_work: vector multiply-adds of a row of a group. most_band: rows of a band that is a whole plane.
  PlaneSplit(const Host& host, const Problem& problem, int64_t depth, int64_t height, int64_t lines, int64_t most_band,
             int64_t row_work) {
    const int64_t others = most(problem.groups * problem.batch * depth, 1);
    band = most_band;
    while (band > 2 * lines && others * ceil_div(height, band) < TASKS && row_work * band > 2 * TASK_WORK)
      band = ceil_div(ceil_div(band, 2), lines) * lines;
    bands = ceil_div(height, band);
    block = most(least(ceil_div(TASK_WORK, row_work * band), others * bands / TASKS), 1);
    block = least(block, problem.groups);
    const int64_t threads = threads_for(host, row_work * height * depth * problem.groups * problem.batch);
    split = Split::of_units(threads, ceil_div(problem.groups, block), depth * bands, false, problem.batch);
  }
};

// Deals the tasks of one thread's share, then those that others have left.
struct Dealer {
  const Split& split;
  int64_t* next;  // of each thread's share
  int64_t own, share;

  bool deal(Task& task) {
    for (; share < split.threads; ++share) {
      const int64_t thread = (own + share) % split.threads;
      const int64_t number = __atomic_fetch_add(next + thread, 1, __ATOMIC_RELAXED);
      if (number < split.tasks() * (thread + 1) / split.threads) {
        task = split.task(number);
        return true;
      }
    }
    return false;
  }
};

// Calls work(dealer) on as many threads as the split asks for.
template <class Work>
void run_tasks(const Host& host, const Split& split, const Work& work) {
  struct Shared {
    const Work* work;
    const Split* split;
    int64_t next[MOST_THREADS];
  } shared;
  shared.work = &work;
  shared.split = &split;
  for (int64_t thread = 0; thread < split.threads; ++thread)
    shared.next[thread] = split.tasks() * thread / split.threads;
  const Body body = [](void* context, int64_t begin, int64_t end) {
    auto* mine = static_cast<Shared*>(context);
    for (int64_t thread = begin; thread < end; ++thread) {
      Dealer dealer{*mine->split, mine->next, thread, 0};
      (*mine->work)(dealer);
    }
  };
  if (split.threads > 1) {
    host.parallel(split.threads, body, &shared);
  } else {
    body(&shared, 0, 1);
  }
}

}  // namespace
}  // namespace omniconv
