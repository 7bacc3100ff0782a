// SPDX-License-Identifier: Apache-2.0
// A convolution whose output's channels lie side by side, tile by tile, from copies of a few rows of inputs at a time:
// in these channels do too, with the borders around, and close enough to each other for the caches.
#pragma once

#include "arena.h"
#include "following.h"
#include "implicit_plan.h"
#include "implicit_tile.h"

namespace omniconv {
namespace {

constexpr int64_t FIRST_FLOATS = 1 << 14;   // of a copy, if weights are few: most of it stays in the first cache
constexpr int64_t SECOND_FLOATS = 1 << 18;  // else: it stays in the second while all weights pass by
constexpr int64_t FEW_WEIGHTS = 1 << 17;    // which stay there too
constexpr int64_t CHUNK_TILES = 8;          // of a row
constexpr int64_t UNITS_A_THREAD = 2;
constexpr int64_t LEAST_PANELS = 2;         // of a part
constexpr int64_t CLASHING = 256;           // floats: what lies so far apart meets in few places of a cache

template <class T>
struct ImplicitSums {
  const Pointwise& call;
  const Host& host;
  Following<T> following;
  ImplicitPlan plan;
  const Problem& problem;
  bool near, whole;      // tiles are the results; rows of outputs follow one another without gaps
  int64_t threads;
  int64_t pitch;         // floats between positions in the copy
  int64_t length;        // of a run of steps
  int64_t along;         // runs of a row of taps
  int64_t chunk, chunks; // of columns
  // A row of inputs for a chunk is one stretch, or where taps lie far apart one for each: their number, the columns of one,
  // and the floats of one and of all.
  int64_t stretches, stretch, apart, row;
  int64_t down;          // rows of the copy from one row of outputs to the next
  int64_t band, bands;   // of rows of outputs
  int64_t units;
  int64_t parts;         // of the outputs of a group, in whole panels
  bool by_outputs;       // a thread keeps to its part, whose weights reach one cache

  ImplicitSums(const Pointwise& call_, const Host& host_)
      : call(call_), host(host_), following{call_}, plan(call_), problem(plan.problem) {
    const Axis* axis = problem.axis;
    const int64_t height = axis[1].narrow, width = axis[2].narrow, positions = axis[0].narrow * height * width;
    near = following.near() && call.output.axis[2] > 0;
    whole = call.output.axis[1] == width * call.output.axis[2];
    threads = threads_for(host, problem.batch * positions * plan.packed_floats() / V);

    pitch = problem.wide + (axis[2].stride * problem.wide % CLASHING == 0 ? V : 0);
    const bool together = axis[2].dilation == 1 && pitch == problem.wide;
    length = problem.wide * (together ? axis[2].taps : 1);
    along = together ? 1 : axis[2].taps;

    chunks = most(ceil_div(width, CHUNK_TILES * TILE_HEIGHT), 1);
    chunk = ceil_div(width, chunks);
    const int64_t met = (chunk - 1) * axis[2].stride + 1;  // columns, at one tap
    stretches = axis[2].taps * met < met - 1 + span_of(axis[2]) ? axis[2].taps : 1;
    stretch = stretches > 1 ? met : met - 1 + span_of(axis[2]);
    apart = whole_vectors(stretch * pitch);
    row = stretches * apart;
    // Rows of outputs share rows of inputs, unless these lie apart: then each has its own, without those between.
    const bool shared = axis[1].dilation == 1 && axis[1].stride < axis[1].taps;
    down = shared ? axis[1].stride : axis[1].taps;

    const int64_t panels = ceil_div(plan.outputs, TILE_WIDTH), most_parts = ceil_div(panels, LEAST_PANELS);
    by_outputs = threads > 1 && plan.groups == 1 && panels > 1 &&
                 plan.packed_floats() > problem.batch * positions * (problem.wide + plan.outputs);
    const int64_t floats = plan.group_floats() <= FEW_WEIGHTS ? FIRST_FLOATS : SECOND_FLOATS;
    band = least(most((floats / row / axis[0].taps - axis[1].taps) / down + 1, 2), height);
    if (threads > 1 && !by_outputs) {
      const int64_t others = most(problem.batch * axis[0].narrow * chunks, 1) * plan.groups * most_parts;
      band = least(band, most(ceil_div(height, ceil_div(UNITS_A_THREAD * threads, others)), least(2, height)));
    }
    bands = ceil_div(height, most(band, 1));
    band = ceil_div(height, most(bands, 1));
    units = problem.batch * axis[0].narrow * chunks * bands;
    parts = 1;
    if (by_outputs) {
      parts = threads * most(panels / (LEAST_PANELS * threads), 1);
    } else if (threads > 1) {
      parts = least(ceil_div(TASKS_PER_THREAD * threads, most(units * plan.groups, 1)), most_parts);
    }
    parts = least(parts, panels);
  }

  int64_t floats() const {
    const int64_t weights = call.packed ? 0 : plan.packed_floats();
    return whole_lines(2 * following.bias_floats() * 4) / 4 + weights + V;
  }

  void run(float* workspace) const {
    Arena arena{reinterpret_cast<char*>(workspace)};
    float* bias = arena.take<float>(2 * following.bias_floats());
    following.shift(bias);
    const float* weights = call.packed;
    if (!weights) {
      float* packed = reinterpret_cast<float*>(arena.at);
      plan.template pack<T>(packed, host);
      weights = packed;
    }
    const int64_t blocks = plan.groups * parts;
    const Split split = Split::of_units(least(threads, most(units * blocks, 1)), blocks, units, !by_outputs);
    run_tasks(host, split, [&](Dealer& dealer) {
      Room room(*this);
      Task task;
      while (dealer.deal(task)) {
        const Unit unit(*this, task.first_row);
        const int64_t group = task.block / parts, number = task.first_row * plan.groups + group;
        if (number != room.number) copy(unit, group, room.copy);
        room.number = number;
        sum(unit, group, task.block % parts, weights + group * plan.group_floats(), bias, room);
      }
    });
  }

  // A few rows of a stretch of columns.
  struct Unit {
    int64_t sample, depth, first_row, end_row, first, end;

    Unit(const ImplicitSums& sums, int64_t number) {
      first = number % sums.chunks * sums.chunk;
      end = least(first + sums.chunk, sums.problem.axis[2].narrow);
      number /= sums.chunks;
      first_row = number % sums.bands * sums.band;
      end_row = least(first_row + sums.band, sums.problem.axis[1].narrow);
      number /= sums.bands;
      depth = number % sums.problem.axis[0].narrow;
      sample = number / sums.problem.axis[0].narrow;
    }
  };

  int64_t heights(int64_t rows) const { return (rows - 1) * down + problem.axis[1].taps; }

  // What a thread keeps from task to task: a tile, its runs, and a copy of the inputs of a unit.
  struct Room {
    float* tile;
    Run* runs;
    float* copy;
    int64_t number = -1;  // of which unit and group

    explicit Room(const ImplicitSums& sums) {
      const Axis* axis = sums.problem.axis;
      const int64_t height = sums.heights(sums.band), copied = axis[0].taps * height * sums.row;
      const int64_t runs = axis[0].taps * axis[1].taps * sums.along;
      const int64_t bytes = whole_lines(TILE_HEIGHT * TILE_WIDTH * 4) + whole_lines(runs * int64_t(sizeof(Run))) +
                            whole_lines(copied * 4);
      Arena arena{static_cast<char*>(sums.host.scratch(bytes))};
      tile = arena.take<float>(TILE_HEIGHT * TILE_WIDTH);
      this->runs = arena.take<Run>(runs);
      copy = arena.take<float>(copied);
    }
  };

  // The inputs that a unit meets, with zeros around them.
  void copy(const Unit& unit, int64_t group, float* to) const {
    const Axis* axis = problem.axis;
    const int64_t first = unit.sample * call.input.batch + group * problem.wide * call.input.channel;
    const T* sample = static_cast<const T*>(call.input.data) + first;
    for (int64_t i = 0; i < axis[0].taps; ++i) {
      const int64_t depth = axis[0].stride * unit.depth + axis[0].dilation * i - axis[0].before;
      float* rows = to + i * heights(band) * row;
      for (int64_t j = 0; j < heights(unit.end_row - unit.first_row); ++j, rows += row) {
        const int64_t met = down == axis[1].taps ? j / down * axis[1].stride + j % down * axis[1].dilation : j;
        const int64_t height = axis[1].stride * unit.first_row + met - axis[1].before;
        const bool is = uint64_t(depth) < uint64_t(axis[0].wide) && uint64_t(height) < uint64_t(axis[1].wide);
        copy_row(is ? sample + depth * call.input.axis[0] + height * call.input.axis[1] : nullptr, unit, rows);
      }
    }
  }

  void copy_row(const T* from, const Unit& unit, float* to) const {
    const Axis& axis = problem.axis[2];
    const int64_t at = axis.stride * unit.first - axis.before;  // of the first column
    const int64_t spared = (chunk - (unit.end - unit.first)) * axis.stride;
    for (int64_t k = 0; k < stretches; ++k)
      copy_stretch(from, at + k * axis.dilation, stretch - spared, to + k * apart);
  }

  // So many columns from one on.
  void copy_stretch(const T* from, int64_t at, int64_t columns, float* to) const {
    const int64_t column = call.input.axis[2], wide = problem.wide;
    const int64_t begin = from ? least(most(-at, 0), columns) : columns;
    const int64_t end = most(least(problem.axis[2].wide - at, columns), begin);
    fill(to, begin * pitch);
    fill(to + end * pitch, (columns - end) * pitch);
    if (begin == end) return;
    from += (at + begin) * column;
    to += begin * pitch;
    if (call.input.channel != 1 && wide > 1) {
      interleave(from, end - begin, to);
    } else if (column == wide && pitch == wide) {
      copy_run(from, (end - begin) * wide, to);
    } else {
      for (int64_t p = begin; p < end; ++p, from += column, to += pitch) {
        for (int64_t k = 0; k < wide; k += V) __builtin_prefetch(from + wide + k, 0, 2);  // the next group
        copy_run(from, wide, to);
      }
    }
  }

  // From channels that lie one after the other.
  void interleave(const T* from, int64_t count, float* to) const {
    const int64_t channel = call.input.channel, column = call.input.axis[2];
    int64_t p = 0;
    if (problem.wide == 3 && pitch == 3 && column == 1) {
      // Of three vectors of positions: lane l of vector v is number v · V + l, of channel number % 3.
      ivec first[3], second[3];
      for (int v = 0; v < 3; ++v)
        for (int lane = 0; lane < V; ++lane) {
          const int number = v * V + lane, c = number % 3, position = number / 3;
          first[v][lane] = position + (c == 1 ? V : 0);
          second[v][lane] = c == 2 ? V + position : lane;
        }
      for (; p + V <= count; p += V, to += 3 * V) {
        const vec red = load(from + p), green = load(from + channel + p), blue = load(from + 2 * channel + p);
        for (int v = 0; v < 3; ++v)
          store(to + v * V, __builtin_shuffle(__builtin_shuffle(red, green, first[v]), blue, second[v]));
      }
    }
    for (; p < count; ++p, to += pitch)
      for (int64_t c = 0; c < problem.wide; ++c) to[c] = widen(from[c * channel + p * column]);
  }

  static void fill(float* to, int64_t count) {
    each_vector(count, [&](int64_t k, int64_t some) { store_count(to + k, vec{}, some); });
  }

  OMNICONV_INLINE static void copy_run(const T* from, int64_t count, float* to) {
    each_vector(count, [&](int64_t k, int64_t some) { store_count(to + k, load_count(from + k, some), some); });
  }

  // The runs that meet inputs, of outputs in so many rows and columns; the others meet nothing but padding.
  int64_t runs_met(const Unit& unit, int64_t r, int64_t rows, int64_t column, int64_t count, Run* runs) const {
    const Axis* axis = problem.axis;
    const auto meets = [](const Axis& one, int64_t first, int64_t outputs, int64_t tap) {
      const int64_t at = one.stride * first + one.dilation * tap - one.before;
      return at < one.wide && at + one.stride * (outputs - 1) >= 0;
    };
    const int64_t step = stretches > 1 ? apart : axis[2].dilation * pitch;
    int64_t found = 0, number = 0;
    for (int64_t i = 0; i < axis[0].taps; ++i)
      for (int64_t j = 0; j < axis[1].taps; ++j) {
        const bool is = meets(axis[0], unit.depth, 1, i) && meets(axis[1], r, rows, j);
        for (int64_t k = 0; k < along; ++k, ++number)
          if (is && (along == 1 || meets(axis[2], column, count, k)))
            runs[found++] = {(i * heights(band) + j) * row + k * step, number};
      }
    return found;
  }

  // The outputs of one part of a group.
  void sum(const Unit& unit, int64_t group, int64_t part, const float* weights, const float* bias,
           const Room& room) const {
    const int64_t outputs = plan.outputs, panels = ceil_div(outputs, TILE_WIDTH);
    const int64_t begin = panels * part / parts * TILE_WIDTH;
    const int64_t end = least(panels * (part + 1) / parts * TILE_WIDTH, outputs);
    const int64_t width = unit.end - unit.first, rows = unit.end_row - unit.first_row;
    const int64_t most_joint = whole && chunks == 1 && 2 * width <= TILE_HEIGHT && rows > 1 ? 2 : 1;
    const int64_t tiles_each = most(ceil_div(rows, most_joint) * ceil_div(width, TILE_HEIGHT), 1);
    const int64_t step = problem.axis[2].stride * pitch;
    for (int64_t o = begin; o < end; o += TILE_WIDTH) {
      const int64_t lanes = least(TILE_WIDTH, outputs - o), vectors = whole_vectors(lanes), last = lanes - vectors + V;
      const float* panel = weights + o * plan.steps;
      const float* next = o + TILE_WIDTH < end ? panel + vectors * plan.steps : weights + begin * plan.steps;
      const int64_t lines = ceil_div(plan.steps * vectors / V, tiles_each), channel = group * outputs + o;
      const TileCall tile =
          following.tile_call(near, true, step, vectors, length, near ? call.output.axis[2] : TILE_WIDTH);
      ImplicitCall own{tile, room.runs, 0, down * row};
      Ahead ahead{next, lines};
      for (int64_t r = unit.first_row, joint; r < unit.end_row; r += joint) {
        joint = least(unit.end_row - r, most_joint);
        each_tile(unit.first, unit.end, [&](int64_t column, int64_t count) {
          own.count = runs_met(unit, r, joint, column, count, room.runs);
          const float* from = room.copy + (r - unit.first_row) * down * row + (column - unit.first) * step;
          const ImplicitTiles& tiles = joint > 1 ? IMPLICIT_TILES<2> : IMPLICIT_TILES<1>;
          const ImplicitTile tile_sum = tiles.of[joint * count][vectors / V];
          const auto place = [&](int64_t m, bool adds) {
            const View& view = adds ? call.addend : call.output;
            return unit.sample * view.batch + unit.depth * view.axis[0] + (r + m / count) * view.axis[1] +
                   (column + m % count) * view.axis[2] + channel;
          };
          if (near) {
            float* out = static_cast<float*>(call.output.data) + place(0, false);
            tile_sum(own, from, panel, bias + channel, out, last, ahead);
          } else {
            tile_sum(own, from, panel, bias + channel, room.tile, V, ahead);
            following.finish(room.tile, joint * count, lanes, place);
          }
          ahead.from += lines * V;
        });
      }
    }
  }
};

template <class T>
int64_t implicit_sums(const Pointwise& call, float* workspace, const Host& host) {
  const ImplicitSums<T> sums(call, host);
  if (workspace) sums.run(workspace);
  return sums.floats();
}

template <class T>
int64_t pack_implicit(const Pointwise& call, float* to, const Host& host) {
  const ImplicitPlan plan(call);
  if (to) plan.template pack<T>(to, host);
  return plan.packed_floats();
}

}  // namespace
}  // namespace omniconv
