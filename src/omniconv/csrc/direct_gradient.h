// SPDX-License-Identifier: Apache-2.0
// The gradient of a depthwise convolution's weights, read straight from tensors whose channels lie side by side.
//
// A tile of the narrow tensor stays in registers while the rows of the wide one slide past: each vector is loaded once
// for all taps of a row that it meets.
#pragma once

#include "blocked_parts.h"
#include "direct_sums.h"

namespace omniconv {
namespace {

// A row of the wide tensor and the sums of the taps that meet it.
template <class T>
struct SumRow {
  const T* wide;
  float* sums;
};

template <class T>
struct Meeting {
  SumRow<T>* rows;
  int64_t count;
  int64_t column;       // between neighbours in the wide tensor, in elements, as all distances here
  uint64_t last;        // wide elements at 0 … last lie in the row
  int64_t narrow_step;  // between neighbours in the narrow tensor
  int64_t blocks, last_lane, sums_step;
  float* totals;  // of the narrow tensor, or null
  int64_t taps_at = 0;

  int64_t lane(int64_t block) const { return block + 1 < blocks ? block * V : last_lane; }
};

// `at`: of the wide element that the first tap of the tile's first position meets.
template <class T, int TILE, int TAPS, int STRIDE>
void correlate_tile(const Meeting<T>& meeting, int64_t at, const T* narrow) {
  const uint64_t last = meeting.last;
  const int64_t column = meeting.column;
  for (int64_t block = 0; block < meeting.blocks; ++block) {
    const int64_t lane = meeting.lane(block), sums_at = block * meeting.sums_step + meeting.taps_at;
    vec factor[TILE];
#pragma GCC unroll 16
    for (int p = 0; p < TILE; ++p) factor[p] = load_lanes(narrow + lane + p * meeting.narrow_step);
    if (meeting.totals) {
      vec total = factor[0];
#pragma GCC unroll 16
      for (int p = 1; p < TILE; ++p) total += factor[p];
      store(meeting.totals + sums_at, load(meeting.totals + sums_at) + total);
    }
    for (int64_t row = 0; row < meeting.count; ++row) {
      const T* wide = meeting.rows[row].wide + lane;
      float* sums = meeting.rows[row].sums + sums_at;
      vec sum[TAPS];
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap) sum[tap] = load(sums + tap * V);
      int64_t place = at;
#pragma GCC unroll 40
      for (int j = 0; j < STRIDE * (TILE - 1) + TAPS; ++j, place += column) {
        keep(place);
        if (uint64_t(place) > last) continue;
        vec value = load_lanes(wide + place);
        keep(value);
#pragma GCC unroll 8
        for (int tap = 0; tap < TAPS; ++tap) {
          const int p = (j - tap) / STRIDE;
          if (j >= tap && (j - tap) % STRIDE == 0 && p < TILE) sum[tap] += factor[p] * value;
        }
      }
#pragma GCC unroll 8
      for (int tap = 0; tap < TAPS; ++tap) store(sums + tap * V, sum[tap]);
    }
  }
}

constexpr int SIZES = 4;
constexpr int TILE_SIZES[SIZES] = {MAX_TILE, MAX_TILE / 2, 2, 1};
constexpr int TAPS_AT_ONCE = 7;

// By taps at once and size of tile, for one stride.
template <class T>
struct Correlations {
  using Tile = void (*)(const Meeting<T>&, int64_t at, const T* narrow);
  Tile of[TAPS_AT_ONCE + 1][SIZES];
};

template <class T, int STRIDE, int TAPS = TAPS_AT_ONCE, int SIZE = 0>
constexpr void fill_correlations(Correlations<T>& tiles) {
  tiles.of[TAPS][SIZE] = correlate_tile<T, TILE_SIZES[SIZE], TAPS, STRIDE>;
  if constexpr (SIZE + 1 < SIZES) {
    fill_correlations<T, STRIDE, TAPS, SIZE + 1>(tiles);
  } else if constexpr (TAPS > 1) {
    fill_correlations<T, STRIDE, TAPS - 1, 0>(tiles);
  }
}

template <class T, int STRIDE>
constexpr Correlations<T> correlating() {
  Correlations<T> tiles{};
  fill_correlations<T, STRIDE>(tiles);
  return tiles;
}

template <class T>
constexpr Correlations<T> CORRELATIONS[] = {correlating<T, 1>(), correlating<T, 2>()};

constexpr int64_t GRADIENT_BLOCKS = 4;       // whose sums and rows stay in the L1 cache
constexpr int64_t MOST_GRADIENT_TAPS = 128;  // whose sums do

template <class T>
struct DirectGradient : GradientCall<T> {
  using Call = GradientCall<T>;
  using Call::problem, Call::wide, Call::narrow, Call::host;

  Channels channels;
  int64_t rows, columns, taps, group, groups, chunk, chunks, band, bands, units;
  Parts<T> parts;

  static bool suits(const Problem& problem, const View& wide, const View& narrow) {
    const Axis& axis = problem.axis[2];
    // Halves that many taps at a time meet are better widened once.
    const int64_t most_taps = wide.type == Type::float32 ? MOST_GRADIENT_TAPS : TAPS_AT_ONCE;
    return problem.wide == 1 && problem.narrow == 1 && problem.groups >= V && wide.channel == 1 &&
           narrow.channel == 1 && (wide.axis[2] > 0 || axis.wide == 1) && (axis.dilation == 1 || axis.taps == 1) &&
           axis.stride <= 2 && axis.taps <= most_taps &&
           taps_of(problem) <= MOST_GRADIENT_TAPS;
  }

  explicit DirectGradient(const Call& call)
      : Call(call),
        channels{problem.groups, 1, 1},
        parts{problem, channels, call.gradient, call.bias_gradient, 0, 0} {
    rows = problem.axis[0].narrow * problem.axis[1].narrow;
    columns = problem.axis[2].narrow;
    taps = taps_of(problem);
    group = problem.axis[1].taps > 1 ? least(GRADIENT_BLOCKS, channels.blocks()) : channels.blocks();
    groups = ceil_div(channels.blocks(), group);
    chunk = rows > 1 ? columns : least(columns, DIRECT_TILES * MAX_TILE);
    chunks = ceil_div(columns, chunk);
    const int64_t wanted = ceil_div(LEAST_PARTS, groups);
    const int64_t afforded = most(work() / groups / LEAST_PART_WORK, 1);
    band = ceil_div(rows, least(rows, ceil_div(wanted, most(problem.batch * chunks, 1))));
    bands = ceil_div(rows, band);
    units = problem.batch * chunks * bands;
    parts.taps = taps;
    parts.parts = most(least(least(wanted, afforded), units), 1);
  }

  // Vector multiply-adds.
  int64_t work() const { return problem.batch * rows * columns * taps * channels.blocks(); }
  int64_t floats() const { return parts.floats(); }
  int64_t scratch_bytes() const { return whole_lines(taps * int64_t(sizeof(SumRow<T>))); }

  // `sums` has room for floats().
  void run(float* sums) const {
    const Split split = Split::of_units(threads_for(host, work()), groups, parts.parts, true);
    run_tasks(host, split, [&](Dealer& dealer) {
      Arena arena{static_cast<char*>(host.scratch(scratch_bytes()))};
      SumRow<T>* met = arena.take<SumRow<T>>(taps);
      Task task;
      while (dealer.deal(task)) add_part(task.block * group, task.first_row, sums, met);
    });
    parts.add(host, split.threads, sums);
  }

  // What one part adds to the sums of the blocks from `first` on.
  void add_part(int64_t first, int64_t part, float* all_sums, SumRow<T>* met) const {
    const int64_t blocks = least(group, channels.blocks() - first);
    parts.clear(all_sums, first, first + blocks, part);
    float* sums = parts.at(all_sums, first, part);
    for (int64_t unit = units * part / parts.parts; unit < units * (part + 1) / parts.parts; ++unit) {
      const int64_t sample = unit / (chunks * bands), begin = unit / bands % chunks * chunk;
      const int64_t top = unit % bands * band, bottom = least(top + band, rows);
      Meeting<T> meeting{met,
                         0,
                         most(wide.axis[2], 1),
                         uint64_t(problem.axis[2].wide - 1) * uint64_t(most(wide.axis[2], 1)),
                         narrow.axis[2],
                         blocks,
                         channels.first(first + blocks - 1) - first * V,
                         parts.parts * parts.floats_of_part(),
                         nullptr};
      for (int64_t row = top; row < bottom; ++row) {
        const int64_t place[2] = {row / problem.axis[1].narrow, row % problem.axis[1].narrow};
        const T* from = static_cast<const T*>(narrow.data) + sample * narrow.batch + place[0] * narrow.axis[0] +
                        place[1] * narrow.axis[1] + begin * narrow.axis[2] + first * V;
        meeting.count = meet(place, sample, first * V, sums, met);
        meeting.totals = parts.bias_gradient ? sums + taps * V : nullptr;
        correlate_row(meeting, begin, from, least(chunk, columns - begin));
      }
    }
  }

  // Lists the rows of the wide tensor that a row of the narrow one meets.
  int64_t meet(const int64_t (&place)[2], int64_t sample, int64_t lane, float* sums, SumRow<T>* met) const {
    const T* from = static_cast<const T*>(wide.data) + sample * wide.batch + lane;
    int64_t found = 0;
    each_row_met<Way::GATHER>(problem, place, [&](int64_t depth, int64_t height, int64_t row) {
      met[found++] = {from + depth * wide.axis[0] + height * wide.axis[1], sums + row * problem.axis[2].taps * V};
    });
    return found;
  }

  // The outputs begin … begin + count - 1 of a row, tile by tile, and some taps at a time.
  void correlate_row(Meeting<T>& meeting, int64_t begin, const T* from, int64_t count) const {
    const Axis& axis = problem.axis[2];
    float* totals = meeting.totals;
    int size = 0;
    for (int64_t p = 0; p < count; p += TILE_SIZES[size]) {
      while (TILE_SIZES[size] > count - p) ++size;
      meeting.totals = totals;
      meeting.taps_at = 0;
      for (int64_t tap = 0; tap < axis.taps; tap += TAPS_AT_ONCE) {
        const auto tile = CORRELATIONS<T>[axis.stride - 1].of[least(axis.taps - tap, TAPS_AT_ONCE)][size];
        tile(meeting, (axis.stride * (begin + p) - axis.before + tap) * meeting.column, from + p * narrow.axis[2]);
        meeting.totals = nullptr;
        meeting.taps_at += TAPS_AT_ONCE * V;
      }
    }
  }
};

}  // namespace
}  // namespace omniconv
