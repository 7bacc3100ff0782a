// SPDX-License-Identifier: Apache-2.0
// The gradient of a convolution's weights, plane by plane: lanes are neighbouring positions of the last axis.
//
// Rows of the wide and of the narrow tensor are packed with zeros around them, and each block of taps is summed over
// all of them. Lanes are added at the end. As in blocked_gradient.h, how the sums are cut into parts depends on the
// problem alone.
#pragma once

#include "lone_taps.h"
#include "planar_plan.h"
#include "planar_taps.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int64_t PAIR_BYTES = 44 << 10;         // packed rows of one channel of either tensor
constexpr int64_t GROUP_PAIR_BYTES = 128 << 10;  // of a group, or of the depths of a volume
constexpr int64_t MOST_PAIR_BYTES = 64 << 20;
constexpr int64_t GRADIENT_TASKS = 32;
constexpr int64_t GRADIENT_TASK_WORK = 16000;  // vector multiply-adds
constexpr int64_t LEAST_VECTORS = 10, FEW_TAPS = 25, MOST_TAPS = 128;
constexpr int64_t MOST_PAIRS = 4096;  // channels of a group, times each other

// What the taps that meet one input are apart from each other.
enum class Tall { ROWS, COLUMNS, CHANNELS };

struct GradientCut {
  const Problem& problem;
  Columns<Way::GATHER> columns;
  Rows<Way::GATHER> rows;
  Tall tall;
  Blocks blocks;
  int64_t broad;                      // column taps, up to whole blocks
  int64_t chunk, chunks;              // columns of the narrow tensor
  int64_t row_band, row_bands, depth_band, depth_bands;
  int64_t lead;                       // zeros before a packed row of gradients
  int64_t vectors;                    // of a row of a chunk
  int64_t wide_pitch, wide_row, narrow_row;
  int64_t wide_rows, wide_depths, margin, narrow_rows;
  int64_t units, parts;

  explicit GradientCut(const Problem& problem) : problem(problem), columns(problem.axis[2]), rows(problem.axis[1]) {
    const Axis* axis = problem.axis;
    choose_blocks();
    broad = axis[2].taps;
    const int64_t whole = blocks.tall * blocks.broad;
    if (tall == Tall::COLUMNS && blocks.tall > 1) broad = ceil_div(broad, whole) * whole;
    const int64_t most_columns = tall == Tall::ROWS ? 16 * V : 2048;
    const int64_t cuts = ceil_div(axis[2].narrow, most_columns);
    chunk = whole_vectors(ceil_div(axis[2].narrow, cuts));
    chunks = ceil_div(axis[2].narrow, chunk);
    const int64_t shift = tall == Tall::COLUMNS ? (blocks.tall - 1) * blocks.broad : 0;
    lead = whole_vectors(shift);
    vectors = (chunk + lead) / V;
    narrow_row = lead + vectors * V;
    wide_pitch = whole_vectors(vectors * V + most(columns.reach, broad - 1));
    wide_row = columns.dealt * wide_pitch;
    margin = tall == Tall::ROWS ? rows.apart * (blocks.tall - 1) : 0;
    row_band = axis[1].narrow;
    depth_band = axis[0].narrow;
    size_rows();
    while (depth_band > 1 && bytes() > GROUP_PAIR_BYTES) {
      depth_band = (depth_band + 1) / 2;
      size_rows();
    }
    const int64_t least_band = least(row_band, most(8, 2 * margin));
    const int64_t budget = problem.wide > 1 || problem.narrow > 1 || depth_band > 1 ? GROUP_PAIR_BYTES : PAIR_BYTES;
    while (row_band > least_band && bytes() > budget) {
      row_band = most((row_band + 1) / 2, least_band);
      size_rows();
    }
    row_bands = ceil_div(axis[1].narrow, row_band);
    depth_bands = ceil_div(axis[0].narrow, depth_band);
    units = problem.batch * chunks * row_bands * depth_bands;
    const int64_t afforded = most(problem.batch * whole_work() / GRADIENT_TASK_WORK, 1);
    parts = most(least(least(ceil_div(GRADIENT_TASKS, problem.groups), afforded), units), 1);
  }

  // Taps of rows where there are several, columns' where those are consecutive, and channels of the narrow tensor where
  // a group has more of them than the kernel has rows.
  void choose_blocks() {
    const Axis* axis = problem.axis;
    const float positions = float(axis[1].narrow * ceil_div(axis[2].narrow, V)), fixed = 60 / positions;
    const int64_t taps = rows.taps_of(0), columns_taps = axis[2].taps;
    tall = Tall::COLUMNS;
    blocks = blocks_of_columns(columns_taps, columns.dense);
    blocks.cycles = (blocks.cycles + fixed) * float(taps * problem.narrow);
    const auto consider = [&](Tall other, int64_t height, int64_t times) {
      Blocks those = blocks_of(height, columns_taps, fixed);
      those.cycles *= float(times);
      if (those.cycles >= blocks.cycles) return;
      blocks = those;
      tall = other;
    };
    if (taps > 1) consider(Tall::ROWS, taps, problem.narrow);
    if (problem.narrow > 1) consider(Tall::CHANNELS, problem.narrow, taps);
  }

  // Packed rows of a unit.
  void size_rows() {
    const Axis* axis = problem.axis;
    wide_rows = least(axis[1].stride * (row_band - 1) + span_of(axis[1]), axis[1].wide);
    wide_depths = least(axis[0].stride * (depth_band - 1) + span_of(axis[0]), axis[0].wide);
    narrow_rows = row_band + 2 * margin;
  }
  int64_t bytes() const { return (wide_floats() + narrow_floats()) * int64_t(sizeof(float)); }
  int64_t wide_floats() const { return problem.wide * wide_depths * wide_rows * wide_row; }
  int64_t narrow_floats() const { return problem.narrow * depth_band * narrow_rows * narrow_row; }

  int64_t tap_rows() const { return problem.axis[0].taps * problem.axis[1].taps; }
  // Sums of one channel of either tensor.
  int64_t pair_sums() const { return tap_rows() * broad; }
  int64_t group_sums() const { return problem.narrow * (problem.wide * pair_sums() + 1); }  // and those of the bias
  // Numbers of a group's gradients.
  int64_t group_floats() const { return problem.narrow * (problem.wide * taps_of(problem) + 1); }
  // Vector multiply-adds of a group and a sample.
  int64_t whole_work() const {
    return problem.narrow * problem.wide * pair_sums() * problem.axis[0].narrow * problem.axis[1].narrow * chunks *
           vectors;
  }
};

template <class T>
struct PlanarGradient : GradientCall<T> {
  using Call = GradientCall<T>;
  using Call::problem, Call::wide, Call::narrow, Call::gradient, Call::bias_gradient, Call::host;

  GradientCut cut;

  // Where planes have enough vectors for what each of them and each of their taps costs, as measured against
  // blocked_gradient.h.
  static bool suits(const Problem& problem, const View& wide, const View& narrow) {
    const Axis& columns = problem.axis[2];
    if (wide.axis[2] != 1 || narrow.axis[2] != 1 || columns.stride > 2 || columns.narrow < V / 2 ||
        problem.wide * problem.narrow > MOST_PAIRS)
      return false;
    const GradientCut cut(problem);
    const int64_t vectors = problem.axis[0].narrow * problem.axis[1].narrow * ceil_div(columns.narrow, V);
    const int64_t taps = taps_of(problem);
    const int64_t enough = columns.stride * (taps <= FEW_TAPS ? LEAST_VECTORS : taps * 3 / 4);
    return vectors * least(problem.narrow, 4) >= enough && taps <= MOST_TAPS && cut.bytes() <= MOST_PAIR_BYTES;
  }

  explicit PlanarGradient(const Call& call) : Call(call), cut(problem) {}

  // Room that run() needs: parts are only kept where there are several.
  int64_t floats() const { return cut.parts > 1 ? problem.groups * cut.parts * cut.group_floats() : 0; }

  void run(float* workspace) const {
    const int64_t work = cut.whole_work() * most(problem.batch, 1);
    const int64_t wanted = ceil_div(GRADIENT_TASK_WORK, work), most_block = problem.groups / GRADIENT_TASKS;
    const int64_t block = cut.parts > 1 ? 1 : most(least(wanted, most_block), 1);
    const int64_t threads = threads_for(host, work * problem.groups);
    const Split split = Split::of_units(threads, ceil_div(problem.groups, block), cut.parts, false);
    run_tasks(host, split, [&](Dealer& dealer) {
      Worker worker(*this);
      Task task;
      while (dealer.deal(task))
        for (int64_t group = task.block * block; group < least((task.block + 1) * block, problem.groups); ++group) {
          worker.sum(group, task.first_row);
          if (cut.parts > 1) {
            worker.give(workspace + (group * cut.parts + task.first_row) * cut.group_floats());
          } else {
            worker.give(group);
          }
        }
    });
    if (cut.parts == 1) return;
    const int64_t some = least(threads, threads_for(host, problem.groups * cut.parts * cut.group_floats()));
    run_tasks(host, Split::of_units(some, problem.groups, 1, false), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) add_parts(task.block, workspace + task.block * cut.parts * cut.group_floats());
    });
  }

  void set(int64_t group, int64_t output, int64_t input, int64_t tap, float sum) const {
    const int64_t to = gradient.head(group) * gradient.group + output * gradient.narrow + input * gradient.wide + tap;
    gradient.set(to, LoneTaps<T>{problem, wide, narrow}.checked(sum, group, output, input, tap));
  }

  int64_t scratch_bytes() const {
    const int64_t sums = whole_vectors(cut.group_sums());
    return whole_lines(cut.wide_floats() * 4) + whole_lines(cut.narrow_floats() * 4) + whole_lines(sums * KEPT * 4) +
           whole_lines(sums * 4) + whole_lines(cut.depth_band * int64_t(sizeof(Run))) +
           whole_lines(problem.axis[2].taps * 8) * 2 + whole_lines(16);
  }

  struct Worker {
    const PlanarGradient& whole;
    const GradientCut& cut;
    const Problem& problem;
    float* wide;
    float* narrow;
    float* sums;
    float* totals;  // of the lanes of sums
    Run* runs;
    int64_t* offsets;
    int64_t first_row, rows, first_depth, depths;  // of the narrow tensor, in the unit at hand
    int64_t lowest_row, lowest_depth;              // of the wide tensor
    Correlate functions[MOST_TALL + 1][MOST_BROAD + 1] = {};
    int64_t held_first = INT64_MIN;                // the column that zeros stand for

    explicit Worker(const PlanarGradient& whole) : whole(whole), cut(whole.cut), problem(whole.problem) {
      Arena arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))};
      wide = arena.take<float>(cut.wide_floats());
      narrow = arena.take<float>(cut.narrow_floats());
      sums = arena.take<float>(whole_vectors(cut.group_sums()) * KEPT);
      totals = arena.take<float>(whole_vectors(cut.group_sums()));
      runs = arena.take<Run>(cut.depth_band);
      offsets = arena.take<int64_t>(problem.axis[2].taps);
      int64_t* taps = arena.take<int64_t>(problem.axis[2].taps);
      int64_t* starts = arena.take<int64_t>(2);
      cut.columns.list(offsets, taps, starts, cut.wide_pitch);
      std::memset(narrow, 0, cut.narrow_floats() * sizeof(float));
    }

    float* pair(int64_t output, int64_t input) const {
      return sums + (output * problem.wide + input) * cut.pair_sums() * KEPT;
    }
    float* bias(int64_t output) const { return pair(problem.narrow, 0) + output * KEPT; }

    const float* bias_totals() const { return totals + problem.narrow * problem.wide * cut.pair_sums(); }

    void sum(int64_t group, int64_t part) {
      std::memset(sums, 0, cut.group_sums() * KEPT * sizeof(float));
      for (int64_t unit = cut.units * part / cut.parts; unit < cut.units * (part + 1) / cut.parts; ++unit) {
        int64_t rest = unit;
        const int64_t begin = rest % cut.chunks * cut.chunk;
        rest /= cut.chunks;
        first_row = rest % cut.row_bands * cut.row_band;
        rest /= cut.row_bands;
        first_depth = rest % cut.depth_bands * cut.depth_band;
        const int64_t sample = rest / cut.depth_bands;
        rows = least(cut.row_band, problem.axis[1].narrow - first_row);
        depths = least(cut.depth_band, problem.axis[0].narrow - first_depth);
        lowest_row = most(problem.axis[1].stride * first_row - problem.axis[1].before, 0);
        lowest_depth = most(problem.axis[0].stride * first_depth - problem.axis[0].before, 0);
        pack_narrow(static_cast<const T*>(whole.narrow.data) + sample * whole.narrow.batch +
                        group * problem.narrow * whole.narrow.channel + begin,
                    least(cut.chunk, problem.axis[2].narrow - begin));
        pack_wide(static_cast<const T*>(whole.wide.data) + sample * whole.wide.batch +
                      group * problem.wide * whole.wide.channel,
                  cut.columns.input_at(begin));
        sum_blocks();
        if (whole.bias_gradient) sum_bias();
      }
    }

    float* narrow_at(int64_t output, int64_t depth, int64_t row) const {
      const int64_t plane = output * cut.depth_band + depth;
      return narrow + (plane * cut.narrow_rows + cut.margin + row) * cut.narrow_row + cut.lead;
    }
    float* wide_at(int64_t input, int64_t depth, int64_t row) const {
      const int64_t plane = input * cut.wide_depths + depth - lowest_depth;
      return wide + (plane * cut.wide_rows + row - lowest_row) * cut.wide_row;
    }

    // The margins stay zero; so do the rows behind those of a smaller band.
    __attribute__((noinline)) void pack_narrow(const T* from, int64_t count) {
      const View& view = whole.narrow;
      const Neighbours neighbours(0, count, cut.narrow_row - cut.lead);
      for (int64_t output = 0; output < problem.narrow; ++output)
        for (int64_t depth = 0; depth < depths; ++depth) {
          float* to = narrow_at(output, depth, 0);
          if (count < cut.chunk)
            for (int64_t row = 0; row < rows; ++row) neighbours.clear(to + row * cut.narrow_row);
          const T* own = from + output * view.channel + (first_depth + depth) * view.axis[0] + first_row * view.axis[1];
          neighbours.pack(to, cut.narrow_row, own, view.axis[1], rows);
          for (int64_t row = rows; row < least(rows + cut.margin, cut.row_band); ++row)
            std::memset(to + row * cut.narrow_row, 0, (cut.narrow_row - cut.lead) * sizeof(float));
        }
    }

    __attribute__((noinline)) void pack_wide(const T* from, int64_t first) {
      const View& view = whole.wide;
      const Axis* axis = problem.axis;
      const int64_t inside = axis[2].wide, step = axis[2].stride;
      const auto end_of = [](const Axis& along, int64_t last) {
        return least(along.stride * last - along.before + span_of(along), along.wide);
      };
      const int64_t row_end = end_of(axis[1], first_row + rows - 1);
      const int64_t depth_end = end_of(axis[0], first_depth + depths - 1);
      const Neighbours neighbours(first, inside, cut.wide_pitch);
      if (first != held_first) std::memset(wide, 0, cut.wide_floats() * sizeof(float));
      held_first = first;
      for (int64_t input = 0; input < problem.wide; ++input)
        for (int64_t depth = lowest_depth; depth < depth_end; ++depth) {
          const T* own = from + input * view.channel + depth * view.axis[0] + lowest_row * view.axis[1];
          float* to = wide_at(input, depth, lowest_row);
          if (step == 1) {
            neighbours.pack(to, cut.wide_row, own, view.axis[1], row_end - lowest_row);
            continue;
          }
          for (int64_t row = lowest_row; row < row_end; ++row, own += view.axis[1], to += cut.wide_row)
            pack_pairs(to, cut.columns.dealt > 1 ? to + cut.wide_pitch : nullptr, own, first, inside, cut.wide_pitch);
        }
    }

    // Block by block of taps: `tall` of a class of rows' taps, of columns, or of channels.
    __attribute__((noinline)) void sum_blocks() {
      const Axis* axis = problem.axis;
      Strides strides;
      strides.wide = axis[1].stride * cut.wide_row;
      strides.narrow = cut.narrow_row;
      strides.vectors = cut.vectors;
      for (int64_t outer = 0; outer < axis[0].taps; ++outer) {
        for (int64_t number = 0; number < cut.rows.classes; ++number) {
          const int64_t taps = cut.rows.taps_of(number);
          const int64_t tall_step = cut.tall == Tall::ROWS ? least(cut.blocks.tall, taps) : 1;
          const int64_t tiers = ceil_div(taps, tall_step);
          for (int64_t tier = 0, m = 0; tier < tiers; ++tier) {
            const int64_t tall = ceil_div(taps - m, tiers - tier);
            const int64_t tap = number + cut.rows.class_step * m;
            if (cut.tall == Tall::ROWS) {
              strides.tall = cut.rows.apart * cut.narrow_row;
              strides.sums = cut.rows.class_step * cut.broad * KEPT;
              sum_tier(strides, outer, tap, tall, cut.rows.apart * (tall - 1));
            } else {
              sum_tier(strides, outer, tap, 1, 0);
            }
            m += tall;
          }
        }
      }
    }

    // `reach`: rows of gradients behind the first that a row of inputs meets.
    void sum_tier(Strides& strides, int64_t outer, int64_t tap, int64_t tall, int64_t reach) {
      const Axis* axis = problem.axis;
      const int64_t base = axis[1].dilation * tap - axis[1].before + axis[1].stride * first_row;
      // Row `row` of the band, or one behind its end, meets the inputs base + stride * row.
      const int64_t low = base < 0 ? ceil_div(-base, axis[1].stride) : 0;
      const int64_t high = least(rows - 1 + reach, floor_div(axis[1].wide - 1 - base, axis[1].stride));
      if (low > high) return;
      const bool channels = cut.tall == Tall::CHANNELS;
      const int64_t step = channels ? cut.blocks.tall : 1;
      for (int64_t output = 0; output < problem.narrow; output += step) {
        const int64_t some = least(step, problem.narrow - output);
        for (int64_t input = 0; input < problem.wide; ++input) {
          int64_t count = 0;
          for (int64_t depth = 0; depth < depths; ++depth) {
            const int64_t met = axis[0].stride * (first_depth + depth) + axis[0].dilation * outer - axis[0].before;
            if (met < 0 || met >= axis[0].wide) continue;
            runs[count++] = {wide_at(input, met, base + axis[1].stride * low),
                             narrow_at(output + some - 1, depth, low), high - low + 1};
          }
          float* to = pair(output + some - 1, input) + (outer * axis[1].taps + tap) * cut.broad * KEPT;
          if (count) sum_row_of_taps(strides, to, count, channels ? some : tall);
        }
      }
    }

    void sum_row_of_taps(Strides& strides, float* to, int64_t count, int64_t tall) {
      const int64_t taps = problem.axis[2].taps;
      const bool near = cut.columns.dense;
      int64_t broad = cut.blocks.broad, step = broad;
      if (cut.tall == Tall::COLUMNS && near) {
        tall = cut.blocks.tall;
        step = tall * broad;
        strides.tall = broad;
        strides.sums = broad * KEPT;
        for (int64_t tap = 0; tap < cut.broad; tap += step) {
          strides.offsets = &tap;
          function_of(tall, least(broad, cut.broad - tap))(runs, count, strides, to + tap * KEPT);
        }
        return;
      }
      if (cut.tall == Tall::CHANNELS) {
        strides.tall = cut.depth_band * cut.narrow_rows * cut.narrow_row;
        strides.sums = -problem.wide * cut.pair_sums() * KEPT;
      }
      const int64_t blocks = ceil_div(taps, broad);
      for (int64_t block = 0, tap = 0; block < blocks; ++block, tap += broad) {
        broad = ceil_div(taps - tap, blocks - block);
        strides.offsets = offsets + tap;
        function_of(tall, broad)(runs, count, strides, to + tap * KEPT);
      }
    }

    Correlate function_of(int64_t tall, int64_t broad) {
      Correlate& known = functions[tall][broad];
      if (!known) known = cut.columns.dense ? correlate_of<true>(tall, broad) : correlate_of<false>(tall, broad);
      return known;
    }

    void sum_bias() {
      for (int64_t output = 0; output < problem.narrow; ++output) {
        vec whole = {};
        for (int64_t depth = 0; depth < depths; ++depth)
          for (int64_t row = 0; row < rows; ++row) {
            const float* from = narrow_at(output, depth, row);
            for (int64_t p = 0; p < cut.chunk; p += V) whole += load(from + p);
          }
        add_folded(bias(output), whole);
      }
    }

    // Channel by channel of the narrow tensor, then of the wide one, in the order of the weights.
    template <class Each>
    void each_tap(const Each& each) const {
      add_lanes(totals, sums, cut.group_sums());
      const float* from = totals;
      for (int64_t output = 0; output < problem.narrow; ++output)
        for (int64_t input = 0; input < problem.wide; ++input)
          for (int64_t row = 0; row < cut.tap_rows(); ++row, from += cut.broad)
            for (int64_t tap = 0; tap < problem.axis[2].taps; ++tap)
              each(output, input, row * problem.axis[2].taps + tap, from[tap]);
    }

    void give(float* to) const {
      each_tap([&](int64_t, int64_t, int64_t, float sum) { *to++ = sum; });
      for (int64_t output = 0; output < problem.narrow; ++output) *to++ = bias_totals()[output];
    }

    void give(int64_t group) const {
      each_tap([&](int64_t output, int64_t input, int64_t tap, float sum) {
        whole.set(group, output, input, tap, sum);
      });
      for (int64_t output = 0; whole.bias_gradient && output < problem.narrow; ++output)
        omniconv::narrow(whole.bias_gradient + group * problem.narrow + output, bias_totals()[output]);
    }
  };

  void add_parts(int64_t group, const float* parts) const {
    int64_t at = 0;
    const auto added = [&] {
      float sum = parts[at];
      for (int64_t part = 1; part < cut.parts; ++part) sum += parts[part * cut.group_floats() + at];
      ++at;
      return sum;
    };
    for (int64_t output = 0; output < problem.narrow; ++output)
      for (int64_t input = 0; input < problem.wide; ++input)
        for (int64_t tap = 0; tap < taps_of(problem); ++tap) set(group, output, input, tap, added());
    for (int64_t output = 0; bias_gradient && output < problem.narrow; ++output)
      omniconv::narrow(bias_gradient + group * problem.narrow + output, added());
  }
};

}  // namespace planar

using planar::PlanarGradient;

}  // namespace
}  // namespace omniconv
