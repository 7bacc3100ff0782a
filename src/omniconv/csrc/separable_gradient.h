// SPDX-License-Identifier: Apache-2.0
// The gradients of a separable convolution: of its input, of both weights and of the bias, in one go.
//
// Going down the rows of outputs, a part recomputes the rows between the passes and correlates them with the gradient's
// (the row weights), scatters the gradient's rows along the columns into rows between the passes, correlates those with
// the input's (the column weights), and, once all that a row of inputs meets are there, scatters them down the columns.
// How parts are cut depends on the problem alone, and their sums are added in order: any number of threads gives the
// same bits.
#pragma once

#include "kernels.h"
#include "separable_rows.h"
#include "separable_strips.h"

namespace omniconv {
namespace {

constexpr int64_t SEPARABLE_PARTS = 16;  // times blocks: enough for several threads to share
constexpr int64_t LEAST_SEPARABLE_WORK = 8192;

template <class T, Lane LANE>
struct SeparableGradient {
  using Own = Lay<LANE>;

  const Problem& problem;
  const View& input;
  const View& grad;
  const SeparableGradients& wanted;
  const Host& host;

  Passes passes;
  const Axis &down, &along;
  Channels channels;
  PassWeights<LANE, Way::GATHER> column_weights;
  PassWeights<LANE, Way::SCATTER> row_weights;
  int64_t rows, back_rows;  // summed together: between the passes, and of the input's gradient
  int64_t chunk, chunks, band, bands, units, parts;
  int64_t input_slots, between_slots, input_width, grad_width, wide_width, group;

  SeparableGradient(const Problem& problem, const View& input, const View& grad, const Weights& column,
                    const Weights& row, const SeparableGradients& wanted, const Host& host)
      : problem(problem),
        input(input),
        grad(grad),
        wanted(wanted),
        host(host),
        passes(problem),
        down(passes.down),
        along(passes.along),
        channels{problem.groups, 1, 1},
        column_weights(passes.columns, channels, column),
        row_weights(passes.rows, channels, row) {
    rows = least(passes.rows_ahead<LANE>(), down.narrow);
    back_rows = down.stride == 1 ? passes.rows_at_once() : 1;
    const int64_t window = (span_of(down) + back_rows) / down.stride + 2;
    input_slots = least(passes.rows_met(rows), down.wide);
    between_slots = least(window + 2 * rows, down.narrow);
    chunk = passes.chunk<LANE>(input_slots + between_slots);
    chunks = ceil_div(along.narrow, chunk);
    group = LANE == Lane::COLUMNS ? 1
                                  : passes.group(grad, channels, problem.batch, input_slots + between_slots,
                                                  passes.chunk_width(chunk));
    const int64_t parts_wanted = ceil_div(SEPARABLE_PARTS, ceil_div(blocks(), group));
    // Of the rows between the passes, a band computes `window` that its neighbours compute too.
    bands = least(ceil_div(parts_wanted, most(problem.batch * chunks, 1)), most(down.narrow / (4 * window), 1));
    band = ceil_div(ceil_div(down.narrow, bands), rows) * rows;
    bands = ceil_div(down.narrow, band);
    units = problem.batch * chunks * bands;
    parts = most(least(least(parts_wanted, work() / LEAST_SEPARABLE_WORK), units), 1);
    input_width = grad_width = wide_width = 0;
    for (int64_t at = 0; at < chunks; ++at) {
      const Unit unit = unit_of(at * bands);
      input_width = most(input_width, unit.input_columns.count());
      grad_width = most(grad_width, unit.grad_columns.count());
      wide_width = most(wide_width, unit.wide_columns.count());
    }
  }

  int64_t blocks() const { return Own::blocks(channels); }
  int64_t between_width() const { return passes.chunk_width(chunk) + (LANE == Lane::COLUMNS ? span_of(along) : 0); }

  // Vector multiply-adds of one block.
  int64_t work() const {
    return problem.batch * down.narrow * Own::vectors(along.wide) * (3 * down.taps + 2 * along.taps);
  }

  // Whether the gradient of a pass's weights is summed by windows.
  static bool windowed(const Axis& axis) {
    return axis.stride == 1 && axis.dilation == 1 && axis.taps >= LEAST_CORRELATED;
  }

  int64_t sums_of_part() const { return (down.taps + along.taps + 1) * V; }
  int64_t floats() const { return blocks() * parts * sums_of_part(); }

  // What one unit of work owns: rows and columns of the narrow tensor, and those of the wide one around their middles.
  struct Unit {
    int64_t sample;
    Span narrow_rows, narrow_columns, wide_rows, wide_columns;
    Span rows;                                // between the passes: also those that its own inputs meet
    Span reach;                               // of its columns of the narrow tensor
    Span input_columns, grad_columns;
  };

  static Span middles(const Axis& axis, const Span& narrow) {
    const auto cut = [&](int64_t at) {
      if (at == 0 || at == axis.narrow) return at ? axis.wide : 0;
      return least(most(axis.stride * at - axis.before + span_of(axis) / 2, 0), axis.wide);
    };
    return {cut(narrow.begin), cut(narrow.end)};
  }

  Unit unit_of(int64_t number) const {
    Unit unit;
    unit.sample = number / (chunks * bands);
    const int64_t at = number / bands % chunks * chunk, top = number % bands * band;
    unit.narrow_columns = {at, least(at + chunk, along.narrow)};
    unit.narrow_rows = {top, least(top + band, down.narrow)};
    unit.wide_columns = middles(along, unit.narrow_columns);
    unit.wide_rows = middles(down, unit.narrow_rows);
    unit.rows = unit.narrow_rows;
    if (wanted.input.data) unit.rows = unit.rows.with(met_by<Way::SCATTER>(down, unit.wide_rows).inside(down.narrow));
    unit.reach = met_by<Way::GATHER>(along, unit.narrow_columns);
    unit.input_columns = unit.reach.inside(along.wide).with(unit.wide_columns);
    unit.grad_columns = unit.narrow_columns.with(met_by<Way::SCATTER>(along, unit.wide_columns));
    if (LANE == Lane::COLUMNS) {
      unit.grad_columns.begin -= span_of(along);
      unit.grad_columns.end += span_of(along);
    }
    return unit;
  }

  int64_t scratch_bytes() const {
    return PackedRows<T, LANE>::bytes(input_slots, input_width, group, down.wide) +
           PackedRows<T, LANE>::bytes(rows, grad_width, group, down.narrow) + column_weights.bytes() +
           row_weights.bytes() + whole_lines(between_slots * group * Own::floats(wide_width) * 4) +
           whole_lines(down.narrow * 8) + whole_lines(rows * Own::floats(between_width()) * 4) +
           whole_lines(back_rows * Own::floats(wide_width) * 4) + 2 * whole_lines(down.taps * 8);
  }

  // `sums` has room for floats().
  void run(float* sums) const {
    const int64_t threads = threads_for(host, work() * blocks());
    const Split split = Split::of_units(threads, ceil_div(blocks(), group), parts, grad.channel == 1);
    run_tasks(host, split, [&](Dealer& dealer) { Thread(*this).work(dealer, sums); });
    for (int64_t block = 0; parts > 1 && block < blocks(); ++block) add_parts(block, sums);
  }

  void add_parts(int64_t block, float* all_sums) const {
    float* whole = all_sums + block * parts * sums_of_part();
    for (int64_t part = 1; part < parts; ++part) {
      const float* other = whole + part * sums_of_part();
      for (int64_t i = 0; i < sums_of_part(); i += V) store(whole + i, load(whole + i) + load(other + i));
    }
    set_gradients(block, whole);
  }

  // From the sums of all parts.
  void set_gradients(int64_t block, float* sums) const {
    if (LANE == Lane::COLUMNS) add_lanes(sums, down.taps + along.taps + 1);
    constexpr int64_t TAP = LANE == Lane::COLUMNS ? 1 : V;
    const Lanes own = Own::own(channels, block);
    const auto set = [&](const Weights& gradient, const float* of, int64_t taps) {
      for (int64_t lane = 0; gradient.data && lane < own.count; ++lane)
        for (int64_t tap = 0; tap < taps; ++tap)
          gradient.set((own.lowest + lane) * gradient.group + tap, of[tap * TAP + lane]);
    };
    set(wanted.column, sums, down.taps);
    set(wanted.row, sums + down.taps * TAP, along.taps);
    set(wanted.bias, sums + (down.taps + along.taps) * TAP, 1);
  }

  // sums[i] = the lanes of vector i added.
  static void add_lanes(float* sums, int64_t count) {
    for (int64_t i = 0; i < count; i += V) {
      vec rows[V];
#pragma GCC unroll 16
      for (int64_t j = 0; j < V; ++j) rows[j] = i + j < count ? load(sums + (i + j) * V) : vec{};
      transpose(rows);
#pragma GCC unroll 16
      for (int64_t j = 1; j < V; ++j) rows[0] += rows[j];
      store(sums + i, rows[0]);
    }
  }

  // What one thread computes, part by part.
  struct Thread {
    const SeparableGradient& of;
    const Passes& passes;
    const Axis &down, &along;
    Arena arena;
    PackedRows<T, LANE> inputs, grads;
    typename PassWeights<LANE, Way::GATHER>::Packed packed_columns;
    typename PassWeights<LANE, Way::SCATTER>::Packed packed_rows;
    int64_t ring_pitch, between_pitch;
    float *ring, *between, *out;
    const float** ring_rows;  // from the last row of the narrow tensor to the first
    const float **met, **met_back;
    Unit unit;
    int64_t held = -1;  // the unit's number
    int64_t first, blocks, ring_slot, apart;
    Lanes owns[MOST_GROUP];
    Span framed{0, -1};
    // Of the block at hand: its number in the group, its weights and sums.
    int64_t block;
    const float *column_weights, *row_weights;
    float *of_column, *of_row, *of_bias;

    explicit Thread(const SeparableGradient& of)
        : of(of),
          passes(of.passes),
          down(of.down),
          along(of.along),
          arena{static_cast<char*>(of.host.scratch(of.scratch_bytes()))},
          inputs(of.input_slots, of.input_width, of.group, down.wide, arena),
          grads(of.rows, of.grad_width, of.group, down.narrow, arena),
          packed_columns(of.column_weights, arena),
          packed_rows(of.row_weights, arena) {
      apart = half_of(along.taps, along.dilation);
      ring_pitch = Own::floats(of.wide_width);
      between_pitch = Own::floats(of.between_width());
      ring = arena.take<float>(of.between_slots * of.group * ring_pitch);
      ring_rows = arena.take<const float*>(down.narrow);
      between = arena.take<float>(of.rows * between_pitch);
      out = arena.take<float>(of.back_rows * ring_pitch);
      met = arena.take<const float*>(down.taps);
      met_back = arena.take<const float*>(down.taps);
    }

    void work(Dealer& dealer, float* all_sums) {
      Task task;
      while (dealer.deal(task)) {
        first = task.block * of.group;
        blocks = least(of.group, of.blocks() - first);
        for (block = 0; block < blocks; ++block) owns[block] = Own::own(of.channels, first + block);
        float* sums = all_sums + (first * of.parts + task.first_row) * of.sums_of_part();
        for (block = 0; block < blocks; ++block)
          std::memset(sums + block * of.parts * of.sums_of_part(), 0, of.sums_of_part() * 4);
        const int64_t begin = of.units * task.first_row / of.parts, end = of.units * (task.first_row + 1) / of.parts;
        for (int64_t number = begin; number < end; ++number) {
          if (number != held) unit = of.unit_of(number);
          held = number;
          compute(sums);
        }
        for (block = 0; of.parts == 1 && block < blocks; ++block)
          of.set_gradients(first + block, sums + block * of.sums_of_part());
      }
    }

    void compute(float* sums) {
      inputs.begin(of.input, unit.sample, owns, blocks, unit.input_columns, along.wide, true);
      grads.begin(of.grad, unit.sample, owns, blocks, unit.grad_columns, along.narrow, false);
      for (int64_t row = 0; framed != unit.reach && row < of.rows; ++row)
        inputs.frame(between + row * between_pitch, between_pitch, unit.reach, unit.reach.inside(along.wide));
      framed = unit.reach;
      ring_slot = 0;
      const int64_t ends[] = {unit.narrow_rows.begin, unit.narrow_rows.end, unit.rows.end};
      int64_t row = unit.rows.begin, done = unit.wide_rows.begin;
      for (int stage = 0; stage < 3; ++stage) {
        for (int64_t some; row < ends[stage]; row += some) {
          some = least(of.rows, ends[stage] - row);
          // Later rows are met by inputs from here on.
          const int64_t ready = down.stride * (row + some) - down.before;
          grads.slot = 0;
          grads.meet({row, row + some});
          if (ring_slot + some > of.between_slots) ring_slot = 0;  // rows that are summed together stand in a row
          for (int64_t r = 0; r < some; ++r) {
            ring_rows[down.narrow - 1 - row - r] = ring + ring_slot * of.group * ring_pitch;
            ++ring_slot;
          }
          for (block = 0; block < blocks; ++block) {
            choose(sums);
            meet(row, some, stage == 1);
            if (of.wanted.input.data) sum_inputs(done, ready);
          }
          if (of.wanted.input.data) done = ready_until(done, ready);
        }
      }
      for (block = 0; of.wanted.input.data && block < blocks; ++block) {
        choose(sums);
        sum_inputs(done, INT64_MAX);
      }
    }

    void choose(float* sums) {
      column_weights = packed_columns.block(first + block);
      row_weights = packed_rows.block(first + block);
      of_column = sums + block * of.parts * of.sums_of_part();
      of_row = of_column + down.taps * V;
      of_bias = of_row + along.taps * V;
    }

    float* ring_row(int64_t row) const {
      return const_cast<float*>(ring_rows[down.narrow - 1 - row]) + block * ring_pitch;
    }
    const float* grad_row(int64_t row) const { return grads.rows[row] + grads.at(block, unit.grad_columns.begin); }

    // Rows of the narrow tensor. Only those that the unit owns count for the weights.
    void meet(int64_t row, int64_t some, bool owned) {
      const bool column = owned && of.wanted.column.data, along_columns = owned && of.wanted.row.data;
      if (along_columns)
        passes.sum_between(inputs, met, column_weights, block, row, some, between, between_pitch, unit.reach);
      for (int64_t r = 0; owned && of.wanted.bias.data && r < some; ++r) {
        const float* from = grad_row(row + r) + (unit.narrow_columns.begin - unit.grad_columns.begin) * Own::PLACE;
        vec sum = load(of_bias);
        for (int64_t p = 0; p < Own::vectors(unit.narrow_columns.count()); ++p) sum += load(from + p * V);
        store(of_bias, sum);
      }
      if (column || of.wanted.input.data) spread_along(row, some);
      if (along_columns) correlate_along(row, some);
      const int64_t tile = windowed(down) ? some : least(passes.rows_at_once(), ROWS_AT_ONCE);
      for (int64_t done = 0; column && done < some; done += tile)
        correlate_down(row + done, least(tile, some - done));
    }

    void correlate_along(int64_t row, int64_t some) {
      const float* from = grad_row(row) + (unit.narrow_columns.begin - unit.grad_columns.begin) * Own::PLACE;
      if constexpr (LANE == Lane::COLUMNS) {
        const int64_t count = unit.narrow_columns.count();
        const Correlation rows{from, between, grads.pitch, between_pitch, some, along.dilation, count};
        return correlate_shifts(along.taps, rows, of_row);
      }
      if (windowed(along)) {
        const Rowwise rows{from, between, grads.pitch * of.group, between_pitch, some, V, V,
                           unit.narrow_columns.count()};
        return correlate_window(along.taps, rows, of_row);
      }
      for (int64_t r = 0; r < some; ++r) {
        const int64_t cuts = ceil_div(along.taps, TAPS_IN_REGISTERS);
        for (int64_t cut = 0, tap = 0; cut < cuts; ++cut) {
          const int64_t taps = even_part(along.taps - tap, cuts - cut);
          correlate_up_to(taps, of_row + tap * V, from + r * grads.pitch * of.group, V,
                          between + r * between_pitch + tap * along.dilation * V, along.stride * V, along.dilation * V,
                          unit.narrow_columns.count());
          tap += taps;
        }
      }
    }

    // Rows of the gradient, spread along the columns to rows between the passes.
    void spread_along(int64_t row, int64_t some) const {
      const int64_t begin = unit.wide_columns.begin, count = unit.wide_columns.count();
      if constexpr (LANE == Lane::COLUMNS) {
        const float* from = grad_row(row) + begin + along.before - (span_of(along) - 1) - unit.grad_columns.begin;
        const Shifts shifts{from, grads.pitch, row_weights, along.taps, along.dilation, 0};
        shift_rows(some, shifts, apart, ring_row(row), ring_pitch, count);
        for (int64_t r = 0; r < some; ++r) store(ring_row(row + r) + count, vec{});
        return;
      }
      if (along.stride == 1 && along.dilation == 1) return slide_along(row, some);
      static constexpr float start[V] = {};
      for (int64_t r = 0; r < some; ++r) {
        for (int64_t phase = 0; phase < least(along.stride, count); ++phase) {
          const Steps steps = steps_of<Way::SCATTER>(along, begin + phase);
          const TapRow tap_row{grad_row(row + r), row_weights + packed_rows.phase_at(begin + phase)};
          const int64_t hop = steps.hop * V, step = along.stride * V;
          const Walk walk{&tap_row, steps.taps ? 1 : 0, steps.taps, V, V, hop, step, 1, 0, 0, start, 0};
          gather_row(walk, tiles_for(walk), (steps.at - unit.grad_columns.begin) * V, ring_row(row + r) + phase * V,
                     ceil_div(count - phase, along.stride));
        }
      }
    }

    // The same by windows, from the last tap to the first.
    void slide_along(int64_t row, int64_t some) const {
      const int64_t before = unit.wide_columns.begin + along.before - (along.taps - 1) - unit.grad_columns.begin;
      const EvenParts tiles(unit.wide_columns.count());
      for (int64_t tile = 0; tile < tiles.parts; ++tile) {
        const int64_t at = tiles.begin(tile), width = tiles.begin(tile + 1) - at;
        const StripRow strip{V, 0, UINT64_MAX, row_weights + (along.taps - 1) * V, -V, along.taps};
        for (int64_t r = 0; r < some; ++r)
          STRIPS<float>.row[width](strip, grad_row(row + r) + (before + at) * V, ring_row(row + r) + at * V);
      }
    }

    void correlate_down(int64_t row, int64_t some) {
      const ColumnPass inside = passes.list(inputs, met, nullptr, row, some);
      const int64_t columns = unit.wide_columns.count(), count = Own::vectors(columns);
      const int64_t last = LANE == Lane::COLUMNS ? columns - (count - 1) * V : V;
      const int64_t at = inputs.at(block, unit.wide_columns.begin);
      if (windowed(down)) {
        const Columnwise rows{ring_row(row), inside.inputs, ring_pitch * of.group, some, inside.begin, inside.end,
                              at, inputs.vector(), count, last};
        return correlate_window(down.taps, rows, of_column);
      }
      const float* narrow[ROWS_AT_ONCE];
      for (int64_t r = 0; r < some; ++r) narrow[r] = ring_row(row + r);
      // Taps that all rows meet inside the tensor, then those that only some rows meet.
      Span all{inside.begin, least(inside.end - down.stride * (some - 1), down.taps)};
      if (down.stride > 1 || all.count() < 0) all.end = all.begin;
      if (all.count() > 0)
        correlate_rows_down(some, all.count(), of_column + all.begin * V, narrow, inside.inputs, at, inputs.vector(),
                            count, last);
      for (int64_t r = 0; r < some; ++r) {
        const int64_t shift = r * down.stride;
        const Span own{most(inside.begin - shift, 0), least(inside.end - shift, down.taps)};
        const Span rests[] = {{own.begin, least(own.end, all.begin)}, {most(own.begin, all.end), own.end}};
        for (const Span& rest : rests)
          if (rest.count() > 0)
            correlate_all<1>(rest.count(), of_column + rest.begin * V, narrow + r,
                             inside.inputs + rest.begin + shift - inside.begin, at, inputs.vector(), count,
                             last);
      }
    }

    template <int R = ROWS_AT_ONCE>
    static void correlate_rows_down(int64_t rows, int64_t taps, float* sums, const float* const* narrow,
                                    const float* const* wide, int64_t at, int64_t column, int64_t count,
                                    int64_t last) {
      if constexpr (R > 1) {
        if (rows < R) return correlate_rows_down<R - 1>(rows, taps, sums, narrow, wide, at, column, count, last);
      }
      correlate_all<R>(taps, sums, narrow, wide, at, column, count, last);
    }

    // Rows of the input's gradient that can be summed when they meet none from `ready` on: those before the result.
    int64_t ready_until(int64_t row, int64_t ready) const {
      if (ready >= unit.wide_rows.end) return unit.wide_rows.end;
      return row + uint32_t(most(ready - row, 0)) / uint32_t(of.back_rows) * of.back_rows;
    }

    void sum_inputs(int64_t row, int64_t ready) const {
      const Lanes& own = owns[block];
      for (int64_t end = ready_until(row, ready), some; row < end; row += some) {
        some = least(of.back_rows, end - row);
        // Rows that are summed together meet the same rows with taps that fall: the last of them stands first.
        const Steps steps = down.stride == 1 ? Steps{down.taps, 0, 1, row + down.before, -down.dilation}
                                             : steps_of<Way::SCATTER>(down, row);
        const int64_t at = steps.at + some - 1, hop = steps.taps ? steps.hop : -1;
        const Span span = steps_inside(at, hop, steps.taps ? steps.taps + some - 1 : 0, down.narrow);
        const float* const* met = ring_rows + (down.narrow - 1 - at + span.begin);
        if (hop != -1) {
          for (int64_t i = span.begin; i < span.end; ++i)
            met_back[i - span.begin] = ring_rows[down.narrow - 1 - at - hop * i];
          met = met_back;
        }
        const float* taps = column_weights + steps.first * V;
        const ColumnPass columns{met, span.begin, span.end, V, taps, steps.step * V, steps.taps, 1};
        const int64_t place = block * ring_pitch;
        const View& to_view = of.wanted.input;
        T* to = static_cast<T*>(to_view.data) + unit.sample * to_view.batch + own.lowest * to_view.channel +
                row * to_view.axis[1] + unit.wide_columns.begin * to_view.axis[2];
        const int64_t count = unit.wide_columns.count(), vectors = Own::vectors(count);
        if (sizeof(T) == sizeof(float) && (LANE == Lane::COLUMNS || (to_view.channel == 1 && own.count == V))) {
          column_sums(some, columns, place, reinterpret_cast<float*>(to) + (some - 1) * to_view.axis[1],
                      LANE == Lane::COLUMNS ? V : to_view.axis[2], -to_view.axis[1], vectors,
                      LANE == Lane::COLUMNS ? count - (vectors - 1) * V : V);
        } else {
          column_sums(some, columns, place, out + (some - 1) * ring_pitch, V, -ring_pitch, vectors);
          for (int64_t r = 0; r < some; ++r)
            Own::unpack(to + r * to_view.axis[1], to_view, out + r * ring_pitch, count, own);
        }
      }
    }
  };
};

// The gradients, or without a workspace the floats that it must have room for.
template <class T>
inline int64_t separable_gradient(const Problem& problem, const View& input, const View& grad, const Weights& column,
                                  const Weights& row, const SeparableGradients& wanted, float* workspace,
                                  const Host& host) {
  const auto run = [&](const auto& gradient) {
    if (workspace) gradient.run(workspace);
    return gradient.floats();
  };
  if (columns_suit(problem, wanted.input.data ? wanted.input : input, grad) && input.axis[2] == 1)
    return run(SeparableGradient<T, Lane::COLUMNS>(problem, input, grad, column, row, wanted, host));
  return run(SeparableGradient<T, Lane::CHANNELS>(problem, input, grad, column, row, wanted, host));
}

}  // namespace
}  // namespace omniconv
