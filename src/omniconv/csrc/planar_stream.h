// SPDX-License-Identifier: Apache-2.0
// Rows of sums of one channel under up to MOST_STREAMED taps side by side: the kernels of one-dimensional networks.
//
// As in planar_comb.h inputs are shifted in registers, but the number of taps is known to the compiler, so that a
// vector of outputs needs nothing but its load, shifts and multiply-adds, and the inputs that are shifted for one
// vector are those that the vector before meets 16 taps further. Each row is read once, so it is read where it lies:
// to pack it first took up to two fifths of the time.
#pragma once

#include "planar_pack.h"
#include "planar_plan.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int MOST_STREAMED = V == 16 ? 32 : 0;
constexpr int KEPT_TAPS = 8;  // weights that stay in registers
constexpr int64_t MOST_STREAMED_COLUMNS = 4096;  // of a task

// Runs of taps, and taps of a run, as in planar_comb.h.
constexpr int runs_of(int taps) { return taps > 12 ? 4 : taps > 8 ? 3 : taps > 2 ? 2 : 1; }
constexpr int run_of(int taps) {
  return taps > V ? V / runs_of(taps) : (taps + runs_of(taps) - 1) / runs_of(taps);
}

// Lanes count … count + V - 1 of two vectors.
template <int COUNT>
OMNICONV_INLINE vec shifted(vec low, vec high) {
  if (COUNT == 0) return low;
  ivec places;
  for (int lane = 0; lane < V; ++lane) places[lane] = lane + COUNT;
  return __builtin_shuffle(low, high, places);
}

template <int B, int PLACE = 1>
OMNICONV_INLINE void shift_all(vec (&places)[B], vec low, vec high) {
  if constexpr (PLACE < B) {
    places[PLACE] = shifted<PLACE>(low, high);
    shift_all<B, PLACE + 1>(places, low, high);
  } else {
    places[0] = low;
  }
}

template <int A, int B, int RUN = 1>
OMNICONV_INLINE vec complete(vec whole, const vec (&before)[A], const vec (&parts)[A]) {
  if constexpr (RUN < A) {
    return complete<A, B, RUN + 1>(whole + shifted<RUN * B>(before[RUN], parts[RUN]), before, parts);
  } else {
    return whole;
  }
}

// A row of inputs seen from one of its columns on, with zeros outside.
template <class T>
struct LyingRow {
  const T* row;
  int64_t first, inside;  // the column that is seen first, and columns of the row
  uint64_t whole;         // vectors that begin at a column below lie inside

  LyingRow(const T* row, int64_t first, int64_t inside)
      : row(row), first(first), inside(inside), whole(uint64_t(most(inside - V + 1, 0))) {}

  OMNICONV_INLINE vec at(int64_t v) const {
    const int64_t column = first + v * V;
    if (__builtin_expect(uint64_t(column) < whole, 1)) return load_lanes(row + column);
    return load_inside(row + column, inside_of(column, inside));
  }
};

// out[p] = start + Σ over k < K of weights[k] · input[p + k], for p < count.
template <class T, int K>
__attribute__((noinline)) void stream(const LyingRow<T>& given, const float* weights, float start, T* out,
                                      int64_t count) {
  constexpr int A = runs_of(K), B = run_of(K), F = (K + V - 1) / V;
  const LyingRow<T> input = given;
  const int64_t vectors = ceil_div(count, V);
  vec places[F][B];  // inputs of the vectors at hand, shifted
  vec before[A] = {};
  vec own = input.at(0);
#pragma GCC unroll 2
  for (int f = 0; f < F - 1; ++f) {
    const vec next = input.at(f + 1);
    shift_all<B>(places[f], own, next);
    own = next;
  }
  const vec begin = everywhere(start);
#pragma GCC unroll 2
  for (int64_t v = 0; v <= vectors; ++v) {
    if (K > KEPT_TAPS) __asm__("" : "+r"(weights));
    const vec next = input.at(v + F);
    shift_all<B>(places[F - 1], own, next);
    own = next;
    vec parts[A];
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) {
      parts[a] = a ? vec{} : begin;
#pragma GCC unroll 2
      for (int f = 0; f < F; ++f)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b)
          if (f * V + a * B + b < K) parts[a] += everywhere(weights[f * V + a * B + b]) * places[f][b];
    }
    const vec whole = complete<A, B>(before[0], before, parts);
    if (v > 0 && v < vectors) store_lanes(out + (v - 1) * V, whole);
    if (v == vectors) store_some(out + (v - 1) * V, whole, count - (v - 1) * V);
#pragma GCC unroll 4
    for (int a = 0; a < A; ++a) before[a] = parts[a];
#pragma GCC unroll 2
    for (int f = 0; f < F - 1; ++f)
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) places[f][b] = places[f + 1][b];
  }
}

template <class T>
using StreamFunction = void (*)(const LyingRow<T>&, const float* weights, float start, T* out, int64_t count);

template <class T, int K = MOST_STREAMED>
inline StreamFunction<T> stream_of(int64_t taps) {
  if constexpr (K > 1) {
    if (taps < K) return stream_of<T, K - 1>(taps);
  }
  if constexpr (K > 0) return stream<T, K>;
  return nullptr;
}

template <class T, Way WAY>
struct StreamedSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::weights, Call::bias, Call::host;

  int64_t taps, width, height;  // of outputs
  int64_t lowest;               // input of the first output at its first tap
  int64_t chunk;                // columns of a task
  PlaneSplit cut;

  static bool suits(const Problem& problem) {
    const Axis* axis = problem.axis;
    return problem.wide == 1 && problem.narrow == 1 && axis[0].taps == 1 && axis[1].taps == 1 &&
           axis[2].taps <= MOST_STREAMED && axis[2].stride == 1 && axis[2].dilation == 1;
  }

  explicit StreamedSums(const Call& call)
      : Call(call),
        taps(problem.axis[2].taps),
        width(outputs_of<WAY>(problem.axis[2])),
        height(outputs_of<WAY>(problem.axis[1])),
        lowest(WAY == Way::GATHER ? -problem.axis[2].before : problem.axis[2].before - taps + 1),
        chunk(whole_vectors(ceil_div(width, ceil_div(width, MOST_STREAMED_COLUMNS)))),
        cut(host, problem, outputs_of<WAY>(problem.axis[0]), height, 1, height, ceil_div(width, V) * (taps + 6)) {
    cut.split.chunks = ceil_div(width, chunk);
  }

  void run() {
    run_tasks(host, cut.split, [this](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) sum_task(task);
    });
  }

  void sum_task(const Task& task) const {
    const int64_t depth = task.first_row / cut.bands, first = task.first_row % cut.bands * cut.band;
    const int64_t end_group = least((task.block + 1) * cut.block, problem.groups);
    for (int64_t group = task.block * cut.block; group < end_group; ++group)
      for (int64_t row = first; row < least(first + cut.band, height); ++row)
        sum_row(task.sample, group, {depth, row}, task.chunk * chunk);
  }

  void sum_row(int64_t sample, int64_t group, const int64_t (&place)[2], int64_t begin) const {
    const int64_t count = least(chunk, width - begin), at = weights.head(group) * weights.group;
    const float start = bias ? widen(bias[group]) : 0;
    const T* from = static_cast<const T*>(input.data) + sample * input.batch + group * input.channel;
    T* to = static_cast<T*>(output.data) + sample * output.batch + group * output.channel + place[0] * output.axis[0] +
            place[1] * output.axis[1] + begin;
    int64_t inside = 0;
    each_row_met<WAY>(problem, place, [&](int64_t depth, int64_t height, int64_t) {
      from += depth * input.axis[0] + height * input.axis[1];
      inside = inputs_of<WAY>(problem.axis[2]);
    });
    float own[MOST_STREAMED + 1];
    for (int64_t tap = 0; tap < taps; ++tap) own[tap] = weights.at(at + (WAY == Way::GATHER ? tap : taps - 1 - tap));
    stream_of<T>(taps)({from, lowest + begin, inside}, own, start, to, count);
  }
};

}  // namespace planar
}  // namespace
}  // namespace omniconv
