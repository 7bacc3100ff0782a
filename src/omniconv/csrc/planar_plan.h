// SPDX-License-Identifier: Apache-2.0
// How the sums of a plane are cut into tiles of rows and columns, and which packed rows and taps each tile meets.
//
// Lanes are neighbouring positions along the last axis, so an input that is loaded once should serve several outputs:
// the lines of a tile are rows of outputs so far apart that they meet the same rows of inputs, line j at tap m where
// line j + 1 has tap m - 1. Such taps form a strand. Strides and dilations only change how far apart lines and rows
// are.
#pragma once

#include "arena.h"
#include "geometry.h"
#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {
namespace planar {

// Taps of a strand whose weights stay in registers, beside the sums of a tile.
constexpr int64_t MOST_STRAND = V == 16 ? 8 : 4;

// The columns: outputs of one phase are a vector's lanes, and each tap of the phase adds an offset to their inputs.
// A gathering kernel's stride deals the inputs to several packed rows, so that those of neighbouring lanes are
// neighbours; the stride of a scattering one deals the outputs to phases.
template <Way WAY>
struct Columns {
  const Axis& axis;
  int64_t outputs, phases;
  int64_t dealt;   // packed rows of one row of inputs
  int64_t lowest;  // input of the first output at offset 0
  int64_t reach;   // the largest offset
  bool dense;      // the offsets of a phase are consecutive

  explicit Columns(const Axis& of) : axis(of) {
    outputs = outputs_of<WAY>(axis);
    phases = least(period_of<WAY>(axis), outputs);
    const int64_t shared = common_divisor(axis.stride, axis.dilation);
    if (WAY == Way::GATHER) {
      dealt = least(axis.taps, axis.stride / shared);
      lowest = -axis.before;
      reach = axis.dilation * (axis.taps - 1) / axis.stride;
      dense = axis.taps == 1 || (axis.stride == 1 && axis.dilation == 1);
      return;
    }
    dealt = 1;
    dense = axis.dilation == shared;
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t phase = 0; phase < phases; ++phase) {
      const Steps steps = steps_of<WAY>(axis, phase);
      if (!steps.taps) continue;
      low = least(low, steps.at + steps.hop * (steps.taps - 1));
      high = most(high, steps.at);
    }
    lowest = low > high ? 0 : low;
    reach = low > high ? 0 : high - low;
  }

  int64_t inside() const { return inputs_of<WAY>(axis); }
  int64_t step() const { return WAY == Way::GATHER ? axis.stride : 1; }

  // The column of inputs at offset 0 of the output `begin`, a multiple of the phases.
  int64_t input_at(int64_t begin) const {
    return lowest + (WAY == Way::GATHER ? axis.stride * begin : begin / phases);
  }

  // Offsets and taps, phase by phase: those of phase f stand at starts[f] … starts[f + 1] - 1.
  void list(int64_t* offsets, int64_t* taps, int64_t* starts, int64_t pitch) const {
    int64_t count = 0;
    for (int64_t phase = 0; phase < phases; ++phase) {
      starts[phase] = count;
      if (WAY == Way::GATHER) {
        for (; count < axis.taps; ++count) {
          taps[count] = count;
          offsets[count] = count % dealt * pitch + axis.dilation * count / axis.stride;
        }
      } else {
        const Steps steps = steps_of<WAY>(axis, phase);
        for (int64_t j = steps.taps - 1; j >= 0; --j, ++count) {
          taps[count] = steps.first + steps.step * j;
          offsets[count] = steps.at + steps.hop * j - lowest;
        }
      }
    }
    starts[phases] = count;
  }
};

// The rows: line j of a tile that begins at output `row` is output row + apart * j, and meets at tap m of a strand the
// input first + hop * (j + m). A gathering kernel has a strand for each class of taps, a scattering one at most one.
template <Way WAY>
struct Rows {
  const Axis& axis;
  int64_t apart, hop, classes;
  int64_t class_step;  // between the taps of a class

  explicit Rows(const Axis& of) : axis(of) {
    const int64_t shared = common_divisor(axis.stride, axis.dilation);
    apart = (WAY == Way::GATHER ? 1 : axis.stride) * axis.dilation / shared;
    hop = (WAY == Way::GATHER ? axis.stride : 1) * axis.dilation / shared;
    class_step = axis.stride / shared;
    classes = least(class_step, axis.taps);
  }

  int64_t inside() const { return inputs_of<WAY>(axis); }
  int64_t outputs() const { return outputs_of<WAY>(axis); }
  int64_t taps_of(int64_t number) const { return ceil_div(axis.taps - number, class_step); }
  int64_t taps_before(int64_t number) const {
    int64_t count = 0;
    for (int64_t other = 0; other < number; ++other) count += taps_of(other);
    return count;
  }
  // The tap of a class that stands at place m of its strand.
  int64_t tap_at(int64_t number, int64_t m) const {
    return number + class_step * (WAY == Way::GATHER ? m : taps_of(number) - 1 - m);
  }

  // Calls each(number of the class, first input) for the strands of a tile that begins at `row`.
  template <class Each>
  void strands(int64_t row, const Each& each) const {
    if (WAY == Way::GATHER) {
      for (int64_t number = 0; number < classes; ++number)
        each(number, axis.stride * row + axis.dilation * number - axis.before);
    } else {
      const Steps steps = steps_of<WAY>(axis, row);
      if (steps.taps) each(steps.first, steps.at + steps.hop * (steps.taps - 1));
    }
  }

  // Rows of inputs, some of them outside, that tiles of `lines` lines in begin … end - 1 may read.
  struct Span {
    int64_t lowest, count;
  };
  Span span(int64_t begin, int64_t end, int64_t lines) const {
    const int64_t margin = hop * (lines - 1), far = axis.dilation * (axis.taps - 1);
    const int64_t low = WAY == Way::GATHER ? axis.stride * begin - axis.before
                                           : floor_div(begin + axis.before - far, axis.stride);
    const int64_t high = WAY == Way::GATHER ? axis.stride * (end - 1) + far - axis.before
                                            : floor_div(end - 1 + axis.before, axis.stride);
    const int64_t lowest = most(low, -margin), highest = least(high, inside() - 1) + margin;
    return {lowest, most(highest - lowest + 1, 0)};
  }
};

// Taps of one strand that a tile meets, in one depth of inputs.
struct Strand {
  int64_t packed, direct;  // floats to its first row: in the packed rows, and in a plane of the tensor
  int64_t before;          // weights before those of its class, times the taps along the columns
  int32_t first, pitch;    // where its taps stand among those of its class
  int32_t taps;
};

struct Tile {
  const Strand* strands;
  int64_t count;
  int64_t lines;
  int64_t output;  // elements to its first output, in a plane
};

// Where the rows that one task packs stand, and which of the tensor they are.
struct Shelf {
  int64_t row, depth, variant;  // floats from one to the next
  int64_t lowest_row, rows, lowest_depth, depths;
};

// The tiles of one band, and the rows to pack for them.
template <Way WAY>
struct Program {
  const Problem& problem;
  Rows<WAY> rows;
  int64_t lines, most_taps, variants;

  Tile* tiles;
  Strand* strands;
  uint8_t* met_rows;    // of the shelf, whether any output meets them
  uint8_t* met_depths;
  int64_t tile_count;
  Shelf shelf;

  struct Limits {
    int64_t tiles, strands, rows, depths;
  };
  static Limits limits(const Rows<WAY>& rows, const Axis& outer, int64_t depths, int64_t height, int64_t lines,
                       int64_t most_taps) {
    Limits limits;
    limits.tiles = depths * (height / lines + least(rows.apart, height));
    limits.strands = limits.tiles * outer.taps * (rows.axis.taps / most_taps + rows.classes);
    // The first band lies at the border: others may reach more rows.
    const Axis& axis = rows.axis;
    const int64_t far = axis.dilation * (axis.taps - 1), margin = 2 * rows.hop * (lines - 1);
    const int64_t window =
        WAY == Way::GATHER ? axis.stride * (height - 1) + far + 1 : (height - 1 + far) / axis.stride + 2;
    limits.rows = least(window, rows.inside()) + margin;
    const int64_t outer_far = outer.dilation * (outer.taps - 1);
    const int64_t outer_window =
        WAY == Way::GATHER ? outer.stride * (depths - 1) + outer_far + 1 : (depths - 1 + outer_far) / outer.stride + 2;
    limits.depths = least(outer_window, inputs_of<WAY>(outer));
    return limits;
  }

  Program(const Problem& problem, const Rows<WAY>& rows, int64_t lines, int64_t most_taps, int64_t variants)
      : problem(problem), rows(rows), lines(lines), most_taps(most_taps), variants(variants) {}

  void take(Arena& arena, const Limits& limits) {
    tiles = arena.take<Tile>(limits.tiles);
    strands = arena.take<Strand>(limits.strands);
    met_rows = arena.take<uint8_t>(limits.rows);
    met_depths = arena.take<uint8_t>(limits.depths);
  }
  static int64_t bytes(const Limits& limits) {
    return lines_of<Tile>(limits.tiles) + lines_of<Strand>(limits.strands) + lines_of<uint8_t>(limits.rows) +
           lines_of<uint8_t>(limits.depths);
  }
  template <class U>
  static int64_t lines_of(int64_t count) {
    return whole_lines(count * int64_t(sizeof(U)));
  }

  // The band of depths first_depth … end_depth - 1 and rows first_row … end_row - 1, packed `row_pitch` floats apart.
  void build(int64_t first_depth, int64_t end_depth, int64_t first_row, int64_t end_row, int64_t row_pitch,
             const View& input, const View& output) {
    const Axis& outer = problem.axis[0];
    const auto span = rows.span(first_row, end_row, lines);
    shelf.row = row_pitch;
    shelf.lowest_row = span.lowest;
    shelf.rows = span.count;
    int64_t low = inputs_of<WAY>(outer), high = -1;
    for (int64_t depth = first_depth; depth < end_depth; ++depth) {
      const Steps steps = steps_of<WAY>(outer, depth);
      for (int64_t i = 0; i < steps.taps; ++i) {
        const int64_t at = steps.at + steps.hop * i;
        if (at < 0 || at >= inputs_of<WAY>(outer)) continue;
        low = least(low, at);
        high = most(high, at);
      }
    }
    shelf.lowest_depth = low;
    shelf.depths = most(high - low + 1, 0);
    shelf.depth = shelf.rows * shelf.row;
    shelf.variant = shelf.depths * shelf.depth;
    std::memset(met_rows, 0, shelf.rows);
    std::memset(met_depths, 0, shelf.depths);
    tile_count = 0;
    int64_t strand_count = 0;
    for (int64_t depth = first_depth; depth < end_depth; ++depth) {
      const Steps steps = steps_of<WAY>(outer, depth);
      for (int64_t start = first_row; start < least(first_row + rows.apart, end_row); ++start) {
        for (int64_t row = start; row < end_row; row += rows.apart * lines) {
          Tile& tile = tiles[tile_count++];
          tile = {strands + strand_count, 0, least(lines, ceil_div(end_row - row, rows.apart)),
                  depth * output.axis[0] + row * output.axis[1]};
          for (int64_t i = 0; i < steps.taps; ++i) {
            const int64_t at = steps.at + steps.hop * i;
            if (at < 0 || at >= inputs_of<WAY>(outer)) continue;
            met_depths[at - low] = 1;
            const int64_t tap = steps.first + steps.step * i;
            rows.strands(row, [&](int64_t number, int64_t first) {
              add(tile, strand_count, at, tap, number, first, input);
            });
          }
          tile.count = strands + strand_count - tile.strands;
        }
      }
    }
  }

  // Taps that meet only rows outside are left out.
  void add(const Tile& tile, int64_t& strand_count, int64_t depth, int64_t outer_tap, int64_t number, int64_t first,
           const View& input) {
    const int64_t inside = rows.inside(), hop = rows.hop, taps = rows.taps_of(number);
    const int64_t nearest = first < 0 ? ceil_div(-first, hop) : 0, farthest = floor_div(inside - 1 - first, hop);
    const int64_t begin = most(nearest - (tile.lines - 1), 0), end = least(farthest + 1, taps);
    const int64_t pieces = begin < end ? ceil_div(end - begin, most_taps) : 0;
    for (int64_t piece = 0, m = begin; piece < pieces; ++piece) {
      Strand& strand = strands[strand_count++];
      const int64_t row = first + hop * m;
      strand.taps = int32_t(ceil_div(end - m, pieces - piece));
      strand.first = int32_t(m);
      strand.pitch = int32_t(taps);
      strand.before = outer_tap * variants * rows.axis.taps + rows.taps_before(number);
      strand.packed = (depth - shelf.lowest_depth) * shelf.depth + (row - shelf.lowest_row) * shelf.row;
      strand.direct = depth * input.axis[0] + row * input.axis[1];
      for (int64_t i = 0; i < tile.lines + strand.taps - 1; ++i) {
        const int64_t met = row + hop * i;
        if (met >= 0 && met < inside) met_rows[met - shelf.lowest_row] = 1;
      }
      m += strand.taps;
    }
  }
};

}  // namespace planar
}  // namespace
}  // namespace omniconv
