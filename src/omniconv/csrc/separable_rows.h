// SPDX-License-Identifier: Apache-2.0
// What both directions of a separable convolution share: its two passes, and the packed rows that they read.
//
// Channels meet no others: V of them, or one, go through both passes by themselves. The rows between the passes are
// summed a few at a time into the L1 cache and read from there at once.
#pragma once

#include "arena.h"
#include "blocked_pack.h"
#include "blocked_ring.h"
#include "blocked_rows.h"
#include "blocked_weights.h"
#include "separable_columns.h"
#include "separable_shifts.h"
#include "tasks.h"

namespace omniconv {
namespace {

// Packed rows of one task, in the L2 cache.
constexpr int64_t SEPARABLE_BYTES = 512 << 10;
constexpr int64_t MOST_GROUP = 4, LEAST_TASKS = 8;

// What the lanes of a vector are: V channels of one position, or V neighbouring columns of one channel. Rows of columns
// need no transposing where columns lie side by side in memory, but each tap of the pass along them reads at another
// odd place.
enum class Lane { CHANNELS, COLUMNS };

template <Lane LANE>
struct Lay {
  static constexpr int64_t PLACE = LANE == Lane::CHANNELS ? V : 1;  // floats between neighbouring columns

  static int64_t vectors(int64_t columns) { return LANE == Lane::CHANNELS ? columns : ceil_div(columns, V); }
  // A row has room for vectors that begin at any of its columns.
  static int64_t floats(int64_t columns) {
    return LANE == Lane::CHANNELS ? columns * V : (ceil_div(columns, V) + 1) * V;
  }
  static int64_t blocks(const Channels& channels) {
    return LANE == Lane::CHANNELS ? channels.blocks() : channels.count();
  }
  static Lanes own(const Channels& channels, int64_t block) {
    if (LANE == Lane::CHANNELS) return channels.own(block);
    Lanes alone{};
    alone.count = alone.span = 1;
    alone.lowest = alone.channel[0] = block;
    return alone;
  }

  // Blocks whose channels lie side by side are read together: whole neighbouring cache lines of each position.
  template <class T>
  static void pack(float* to, int64_t pitch, const T* from, const View& view, int64_t count, const Lanes* own,
                   int64_t blocks) {
    if constexpr (LANE == Lane::COLUMNS) {
      from += own->lowest * view.channel;
      int64_t i = 0;
      for (; i + V <= count; i += V) store(to + i, load(from + i));
      if (i < count) store(to + i, load_first(from + i, count - i));
    } else if (blocks > 1 && view.channel == 1) {
      for (int64_t p = 0; p < count; ++p)
        for (int64_t block = 0; block < blocks; ++block)
          store(to + block * pitch + p * V, load(from + p * view.axis[2] + own[block].lowest));
    } else {
      for (int64_t block = 0; block < blocks; ++block)
        pack_row(to + block * pitch, from, view.channel, view.axis[2], count, own[block]);
    }
  }

  template <class T>
  static void unpack(T* to, const View& view, const float* from, int64_t count, const Lanes& own) {
    if constexpr (LANE == Lane::CHANNELS) {
      unpack_row(to, view.channel, view.axis[2], from, count, own.count);
    } else {
      int64_t i = 0;
      for (; i + V <= count; i += V) store_lanes(to + i, load(from + i));
      if (i < count) store_first(to + i, load(from + i), count - i);
    }
  }
};

// The weights of a pass for the channels of a block: V lanes for each tap. Where lanes are columns, a scattering pass
// has them from the last tap to the first, and meets inputs in order.
template <Lane LANE, Way WAY>
struct PassWeights {
  const Weights& weights;
  TapWeights<WAY> taps;

  PassWeights(const Problem& pass, const Channels& channels, const Weights& weights)
      : weights(weights),
        taps(pass, channels, weights, least(period_of<WAY>(pass.axis[2]), outputs_of<WAY>(pass.axis[2]))) {}

  int64_t bytes() const { return taps.bytes(); }

  struct Packed {
    typename TapWeights<WAY>::Packed packed;
    const PassWeights& of;
    int64_t held = -1;

    Packed(const PassWeights& of, Arena& arena) : packed(of.taps, arena), of(of) {}

    int64_t phase_at(int64_t phase) const { return packed.phase_at[phase % of.taps.phases]; }
    const float* block(int64_t block) {
      if constexpr (LANE == Lane::CHANNELS) {
        return packed.block(block);
      } else {
        for (int64_t tap = 0; held != block && tap < of.taps.problem.axis[2].taps; ++tap)
          store(packed.all + (WAY == Way::GATHER ? tap : of.taps.problem.axis[2].taps - 1 - tap) * V,
                splat(of.weights.at(block * of.weights.group + tap)));
        held = block;
        return packed.all;
      }
    }
  };
};

struct Span {
  int64_t begin, end;

  int64_t count() const { return end - begin; }
  bool operator!=(const Span& other) const { return begin != other.begin || end != other.end; }
  Span inside(int64_t size) const {
    const int64_t first = least(most(begin, 0), end);
    return {first, most(least(end, size), first)};
  }
  Span with(const Span& other) const {
    if (other.count() <= 0) return *this;
    return count() <= 0 ? other : Span{least(begin, other.begin), most(end, other.end)};
  }
};

// The inputs that the outputs of a span meet along one axis, outside the tensor too.
template <Way WAY>
inline Span met_by(const Axis& axis, const Span& outputs) {
  Span met{0, 0};
  const int64_t phases = least(period_of<WAY>(axis), outputs.count());
  for (int64_t phase = 0; phase < phases; ++phase) {
    const Steps steps = steps_of<WAY>(axis, outputs.begin + phase);
    if (!steps.taps) continue;
    const int64_t other = steps.at + steps.hop * (steps.taps - 1);
    const int64_t last = input_step_of<WAY>(axis) * ((outputs.count() - phase - 1) / phases);
    met = met.with({least(steps.at, other), most(steps.at, other) + last + 1});
  }
  return met;
}

// Those i < count for which at + hop * i lies in 0 … size - 1.
inline Span steps_inside(int64_t at, int64_t hop, int64_t count, int64_t size) {
  if (hop < 0) {
    at = size - 1 - at;
    hop = -hop;
  }
  if (hop == 1) {  // without divisions, which would take as long as a short row
    const int64_t end = most(least(size - at, count), 0);
    return {least(most(-at, 0), end), end};
  }
  const int64_t end = at < size ? most(least((size - 1 - at) / hop + 1, count), 0) : 0;
  return {least(at < 0 ? ceil_div(-at, hop) : 0, end), end};
}

// Rows of a tensor for some blocks of channels, packed when they are first met and kept until others take their place.
template <class T, Lane LANE>
struct PackedRows {
  using Own = Lay<LANE>;
  int64_t slots, group, pitch;
  float* packed;
  const float** rows;  // where each row of the tensor is packed, the rows of other blocks `pitch` apart behind it
  const View* view;
  const Lanes* lanes;  // of each block
  const T* from;
  Span columns, filled, framed{0, -1};
  int64_t all, blocks, next, slot, base;
  int64_t place;  // floats between columns
  int64_t direct;  // rows that are read where they stand

  static int64_t bytes(int64_t slots, int64_t width, int64_t group, int64_t all) {
    return whole_lines(slots * group * Own::floats(width) * 4) + whole_lines(all * 8);
  }

  PackedRows(int64_t slots, int64_t width, int64_t group, int64_t all, Arena& arena)
      : slots(slots), group(group), pitch(Own::floats(width)), all(all) {
    packed = arena.take<float>(slots * group * pitch);
    rows = arena.take<const float*>(all);
  }

  // Zeros stand for columns outside the tensor. Rows that may be read where they stand need not be packed.
  void begin(const View& of, int64_t sample, const Lanes* own, int64_t count, const Span& span, int64_t inside,
             bool in_place) {
    view = &of;
    lanes = own;
    blocks = count;
    columns = span;
    filled = span.inside(inside);
    from = static_cast<const T*>(of.data) + sample * of.batch + filled.begin * of.axis[2];
    next = slot = 0;
    base = LANE == Lane::COLUMNS ? own->lowest * of.channel : 0;
    // A vector may reach from one row of columns into the next, but not behind the last of the tensor.
    const bool stands =
        LANE == Lane::COLUMNS ? of.axis[1] >= inside && inside >= V : of.channel == 1 && own->count == V;
    direct = in_place && sizeof(T) == sizeof(float) && stands ? all - (LANE == Lane::COLUMNS) : 0;
    place = direct && LANE == Lane::CHANNELS ? of.axis[2] : Own::PLACE;
    if (framed != columns) {
      framed = columns;
      for (int64_t row = 0; row < slots * group; ++row) frame(packed + row * pitch, pitch, columns, filled);
    }
  }

  // From the start of a row to a column of a block.
  int64_t at(int64_t block, int64_t column) const {
    return (direct && LANE == Lane::CHANNELS ? lanes[block].lowest : block * pitch) + (column - columns.begin) * place;
  }
  float* row_of(int64_t slot, int64_t block) const { return packed + (slot * group + block) * pitch; }

  // Zeros before and behind the filled columns of a row.
  static void frame(float* row, int64_t pitch, const Span& columns, const Span& filled) {
    const int64_t end = (filled.end - columns.begin) * Own::PLACE;
    std::memset(row, 0, (filled.begin - columns.begin) * Own::PLACE * 4);
    std::memset(row + end, 0, (pitch - end) * 4);
  }

  int64_t vector() const { return LANE == Lane::CHANNELS ? place : V; }  // floats between vectors

  // Rows begin … end - 1 are met next, and none before them any more.
  void meet(const Span& met) {
    for (next = most(next, met.begin); next < met.end; ++next) {
      if (next < direct) {
        rows[next] = reinterpret_cast<const float*>(from) + next * view->axis[1] + base;
        continue;
      }
      rows[next] = row_of(slot, 0);
      float* to = row_of(slot, 0) + (filled.begin - columns.begin) * Own::PLACE;
      Own::pack(to, pitch, from + next * view->axis[1], *view, filled.count(), lanes, blocks);
      if (++slot == slots) slot = 0;
    }
  }
};

// The two passes, each along the last axis of a problem of its own, as their weights are packed.
struct Passes {
  const Axis &down, &along;
  Problem columns, rows;

  Passes(const Problem& problem)
      : down(problem.axis[1]), along(problem.axis[2]), columns(problem), rows(problem) {
    columns.axis[1] = rows.axis[1] = NO_AXIS;
    columns.axis[2] = down;
  }

  // Rows between the passes that are summed together: those that share inputs.
  int64_t rows_at_once() const {
    if (down.dilation > 1) return 1;
    if (down.stride > 1 || down.taps < LEAST_SLID) return least(ceil_div(down.taps, down.stride), ROWS_AT_ONCE);
    const int64_t rows = ceil_div(down.narrow, ceil_div(down.narrow, MOST_WINDOW));
    return (rows + 1) / 2 * 2;  // in pairs, as the pass along them takes them
  }
  // Rows that are summed before they are read. A vector that was stored in two is read again only when both have left
  // for the cache, and short rows are better gone through by many.
  template <Lane LANE>
  int64_t rows_ahead() const {
    return LANE == Lane::COLUMNS ? most(16 / rows_at_once(), 1) * rows_at_once() : rows_at_once();
  }
  int64_t rows_met(int64_t rows) const { return span_of(down) + down.stride * (rows - 1); }

  // Columns of outputs that are computed together, of which a part meets inputs that its neighbours meet too. Rows of
  // one channel fit the cache whole.
  template <Lane LANE>
  int64_t chunk(int64_t packed_rows) const {
    if (LANE == Lane::COLUMNS) return along.narrow;
    const int64_t inputs = SEPARABLE_BYTES / (packed_rows * V * 4), span = span_of(along);
    const int64_t outputs = most((inputs - span) / along.stride, 4 * ceil_div(span, along.stride));
    const int64_t chunks = ceil_div(along.narrow, most(outputs, LEAST_CHUNK));
    return ceil_div(along.narrow, chunks);
  }
  // Blocks of channels side by side that a task takes together, so that whole neighbouring cache lines are read: as
  // many as the cache holds packed, where enough tasks are left.
  static int64_t group(const View& tensor, const Channels& channels, int64_t batch, int64_t packed_rows,
                       int64_t width) {
    if (tensor.channel != 1) return 1;
    const int64_t blocks = channels.blocks(), fits = SEPARABLE_BYTES / (packed_rows * width * V * 4);
    const int64_t group = least(least(MOST_GROUP, fits), blocks * batch / LEAST_TASKS);
    return group < 2 ? 1 : ceil_div(blocks, ceil_div(blocks, group));
  }
  int64_t chunk_width(int64_t chunk) const { return span_of(along) + along.stride * (chunk - 1); }

  // Lists the rows of inputs that `rows` rows of the narrow tensor meet.
  template <class T, Lane LANE>
  ColumnPass list(PackedRows<T, LANE>& inputs, const float** met, const float* weights, int64_t row,
                  int64_t rows) const {
    const int64_t at = down.stride * row - down.before;
    const Span span = steps_inside(at, down.dilation, down.taps + down.stride * (rows - 1), down.wide);
    if (span.count() <= 0) return {met, 0, 0, inputs.vector(), weights, V, down.taps, down.stride};
    inputs.meet({most(at, 0), at + down.dilation * (span.end - 1) + 1});
    if (down.dilation == 1)
      return {inputs.rows + at + span.begin, span.begin, span.end, inputs.vector(), weights, V, down.taps, down.stride};
    for (int64_t i = span.begin; i < span.end; ++i) met[i - span.begin] = inputs.rows[at + down.dilation * i];
    return {met, span.begin, span.end, inputs.vector(), weights, V, down.taps, down.stride};
  }
  // Rows between the passes from number `row` on, within the columns of a reach.
  template <class T, Lane LANE>
  void sum_between(PackedRows<T, LANE>& inputs, const float** met, const float* weights, int64_t block, int64_t row,
                   int64_t rows, float* between, int64_t pitch, const Span& reach) const {
    const Span filled = reach.inside(along.wide);
    const int64_t at = inputs.at(block, filled.begin), tile = rows_at_once();
    float* to = between + (filled.begin - reach.begin) * Lay<LANE>::PLACE;
    for (int64_t done = 0; done < rows; done += tile) {
      const int64_t some = least(tile, rows - done);
      column_sums(some, list(inputs, met, weights, row + done, some), at, to + done * pitch, V, pitch,
                  Lay<LANE>::vectors(filled.count()));
    }
    // Behind a row of columns zeros must stand again.
    for (int64_t r = 0; LANE == Lane::COLUMNS && r < rows; ++r) store(to + r * pitch + filled.count(), vec{});
  }
};

// What the kernels of both passes are told. Its weights refer to its passes, so it stays where it was made.
template <class T, Lane LANE>
struct SeparableCall {
  const Problem& problem;
  const View& input;
  const View& output;
  const T* bias;  // or null
  const Host& host;

  Passes passes;
  Channels channels;
  PassWeights<LANE, Way::GATHER> column_weights, row_weights;

  SeparableCall(const Problem& problem, const View& input, const View& output, const Weights& column,
                const Weights& row, const void* bias, const Host& host)
      : problem(problem),
        input(input),
        output(output),
        bias(static_cast<const T*>(bias)),
        host(host),
        passes(problem),
        channels{problem.groups, 1, 1},
        column_weights(passes.columns, channels, column),
        row_weights(passes.rows, channels, row) {}
  SeparableCall(const SeparableCall&) = delete;
};

// Whether rows lie so in memory, and are so wide, that lanes should be columns.
inline bool columns_suit(const Problem& problem, const View& wide, const View& narrow) {
  const int64_t columns = problem.axis[2].narrow;
  return problem.axis[2].stride == 1 && wide.axis[2] == 1 && narrow.axis[2] == 1 &&
         ceil_div(columns, V) * V * 2 <= columns * 3;
}

}  // namespace
}  // namespace omniconv
