// SPDX-License-Identifier: Apache-2.0
// Planes in float32 under kernels of as many rows as columns, which keep a plane's size.
//
// Rows are read where they stand, one vector of them at each tap of the columns for all lines of a tile. Lanes outside
// a row belong to its neighbours; the multiply-adds are masked, which costs nothing, where a masked load takes a
// multiplier's time and a packed row two stores. Tiles at the border leave out the rows outside.
#pragma once

#include "arena.h"
#include "planar_pack.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

#if defined(OMNICONV_AVX512)
constexpr bool HAS_SQUARES = true;
#else
constexpr bool HAS_SQUARES = false;  // without masks
#endif

constexpr int MOST_SQUARE = 7, AHEAD = 3;
constexpr int64_t SQUARE_COPY = 2 * V;  // floats of a copied row
// Columns of planes under 3 × 3 taps whose groups have several channels; wider ones are those of planar_three.h.
constexpr int64_t MOST_NARROW = 2 * V;
constexpr int64_t MOST_SQUARE_PLANES = 256;  // that one output meets

// A plane that outputs meet, and its weights.
struct SquarePlane {
  int64_t input, weights;  // elements
};

struct Squares {
  const float* input;
  const float* weights;
  const SquarePlane* planes;
  int64_t count, pitch;
};

// A vector of outputs of a row, and which of its inputs lie inside at each tap.
struct SquareStrip {
  int64_t output, input;
  Inside inside[MOST_SQUARE], wanted;
};

#if defined(OMNICONV_AVX512)
OMNICONV_INLINE void add_product(vec& sum, vec factor, vec value, Inside inside) {
  sum = (vec)_mm512_mask3_fmadd_ps((__m512)factor, (__m512)value, (__m512)sum, inside);
}
OMNICONV_INLINE void store_inside(float* to, vec value, Inside inside) {
  _mm512_mask_storeu_ps(to, inside, (__m512)value);
}
#else
OMNICONV_INLINE void add_product(vec&, vec, vec, Inside) {}
OMNICONV_INLINE void store_inside(float*, vec, Inside) {}
#endif

// Rows at one distance, whose places cost no more than an address does.
struct Ladder {
  int64_t apart[4];  // bytes of 1, 3, 5 and 7 rows
  const char* base[3];

  template <class U>
  static OMNICONV_INLINE U opaque(U value) {
    __asm__("" : "+r"(value));
    return value;
  }

  explicit OMNICONV_INLINE Ladder(int64_t pitch) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) apart[i] = opaque((2 * i + 1) * pitch * int64_t(sizeof(float)));
  }
  OMNICONV_INLINE void stand(const float* first) {
    base[0] = reinterpret_cast<const char*>(first);
#pragma GCC unroll 3
    for (int i = 1; i < 3; ++i) base[i] = opaque(base[i - 1] + 8 * apart[0] + apart[0]);
  }
  OMNICONV_INLINE const float* row(int i) const {
    const int rest = i % 9;
    const int odd = rest % 8 == 0 ? 1 : rest % 4 == 0 ? rest / 4 : rest % 2 == 0 ? rest / 2 : rest;
    const char* from = base[i / 9];
    return reinterpret_cast<const float*>(rest ? from + apart[odd / 2] * (rest / odd) : from);
  }
};

// R rows of a vector under K × K taps, without the first LOW and the last HIGH of the rows of inputs that they meet.
template <int R, int K, int LOW, int HIGH>
__attribute__((noinline)) void square_tile(const Squares& squares, const SquareStrip& strip, int64_t row, float start,
                                           float* to, int64_t line) {
  vec sum[R];
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j) sum[j] = everywhere(start);
  const float* first = squares.input + strip.input + row * squares.pitch;
  Ladder ladder(squares.pitch);
  for (const SquarePlane *plane = squares.planes, *end = plane + squares.count; plane < end; ++plane) {
    ladder.stand(first + plane->input);
    const float* weights = squares.weights + plane->weights;
#pragma GCC unroll 8
    for (int tap = 0; tap < K; ++tap) {
      vec weight[K], rows[AHEAD + 1];
#pragma GCC unroll 8
      for (int i = 0; i < AHEAD; ++i) rows[(LOW + i) % (AHEAD + 1)] = held(load(ladder.row(LOW + i) + tap));
#pragma GCC unroll 8
      for (int m = 0; m < K; ++m) weight[m] = held(everywhere(weights[m * K + tap]));
#pragma GCC unroll 32
      for (int i = LOW; i < R + K - 1 - HIGH; ++i) {
        if (i + AHEAD < R + K - 1 - HIGH) rows[(i + AHEAD) % (AHEAD + 1)] = held(load(ladder.row(i + AHEAD) + tap));
        const vec loaded = rows[i % (AHEAD + 1)];
#pragma GCC unroll 8
        for (int m = 0; m < K; ++m)
          if (i - m >= 0 && i - m < R) add_product(sum[i - m], weight[m], loaded, strip.inside[tap]);
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j, to += line) store_inside(to, sum[j], strip.wanted);
}

using SquareTile = void (*)(const Squares&, const SquareStrip&, int64_t row, float start, float* to, int64_t line);

template <int R, int K>
inline SquareTile square_tile_of(bool first, bool last) {
  return first ? (last ? square_tile<R, K, K / 2, K / 2> : square_tile<R, K, K / 2, 0>)
               : (last ? square_tile<R, K, 0, K / 2> : square_tile<R, K, 0, 0>);
}

void list_square_strips(SquareStrip* strips, int64_t width, int64_t taps) {
  for (int64_t i = 0; i * V < width; ++i) {
    SquareStrip& strip = strips[i];
    strip.output = i * V;
    strip.input = strip.output - taps / 2;
    for (int64_t tap = 0; tap < taps; ++tap)
      strip.inside[tap] = inside_of(strip.input + tap, width) & inside_of(strip.output, width);
    strip.wanted = inside_of(strip.output, width);
  }
}

// The first row of the tile that begins at `begin`, moved up where rows that it meets would lie below the plane and it
// does not end there: tiles may do rows again. Planes are as high as a tile, or higher by `reach` or more.
inline int64_t square_row(int64_t begin, int64_t lines, int64_t height, int64_t reach) {
  return begin + lines >= height ? height - lines : least(begin, height - lines - reach);
}

// Rows low … high - 1 of a plane, from column `column`, as they stand behind row `first`, with zeros around them.
void copy_square_rows(float* to, const float* plane, int64_t line, int64_t first, int64_t low, int64_t high,
                      int64_t column, int64_t width) {
  const Inside own = inside_of(column, width), behind = inside_of(column + V, width);
  for (int64_t at = low; at < high; ++at) {
    store(to + (at - first) * SQUARE_COPY, load_inside(plane + at * line, own));
    store(to + (at - first) * SQUARE_COPY + V, load_inside(plane + at * line + V, behind));
  }
}

template <Way WAY>
struct SquareSums : SumsCall<float> {
  int64_t outputs, variants, taps;  // channels of a group, and taps along an axis
  int64_t height, width, lines, strip_count;
  Bounds bounds;  // of the inputs
  PlaneSplit cut;

  static int64_t channels_met(const Problem& problem) { return WAY == Way::GATHER ? problem.wide : problem.narrow; }

  // Where whole tiles waste few rows: then a plane that is not of one tile is half a tile higher, or more.
  static int64_t lines_for(int64_t height) {
    const int64_t tall = ceil_div(height, 14) * 14, low = ceil_div(height, 8) * 8;
    const auto fits = [&](int64_t lines, int64_t rows) { return height >= lines && rows * 4 <= height * 5; };
    if (fits(14, tall) && tall * 10 <= low * 11) return 14;
    return fits(8, low) ? 8 : fits(14, tall) ? 14 : 0;
  }

  // Other planes under 3 × 3 taps are those of planar_three.h.
  static bool is_square(int64_t taps, const Problem& problem) {
    return taps == 5 || taps == 7 ||
           (taps == 3 && problem.axis[0].taps == 1 && channels_met(problem) > 1 && problem.axis[2].wide <= MOST_NARROW);
  }

  static bool suits(const Problem& problem, const View& input, const View& output) {
    return fits(problem, input, output) && is_square(problem.axis[2].taps, problem) &&
           problem.axis[0].taps * channels_met(problem) <= MOST_SQUARE_PLANES;
  }

  static bool fits(const Problem& problem, const View& input, const View& output) {
    const Axis &rows = problem.axis[1], &columns = problem.axis[2];
    const auto keeps = [](const Axis& axis) {
      return axis.stride == 1 && axis.dilation == 1 && axis.before == axis.taps / 2 && axis.narrow == axis.wide;
    };
    return HAS_SQUARES && input.type == Type::float32 && input.axis[2] == 1 && output.axis[2] == 1 &&
           input.batch >= 0 && input.channel >= 0 && input.axis[0] >= 0 && input.axis[1] >= 0 &&
           rows.taps == columns.taps && rows.taps % 2 == 1 && rows.taps >= 3 && rows.taps <= MOST_SQUARE &&
           keeps(rows) && keeps(columns) && columns.wide >= V / 2 && lines_for(rows.wide);
  }

  explicit SquareSums(const SumsCall<float>& call)
      : SumsCall<float>(call),
        outputs(WAY == Way::GATHER ? problem.narrow : problem.wide),
        variants(channels_met(problem)),
        taps(problem.axis[2].taps),
        height(problem.axis[1].wide),
        width(problem.axis[2].wide),
        lines(lines_for(height)),
        strip_count(ceil_div(width, V)),
        bounds(input, problem.batch, problem.groups * variants, inputs_of<WAY>(problem.axis[0]), height, width),
        cut(host, problem, outputs_of<WAY>(problem.axis[0]), height, lines, ceil_div(height, lines) * lines,
            strip_count * (taps * taps * problem.axis[0].taps * variants + 6) * outputs) {}

  int64_t planes() const { return problem.axis[0].taps * variants; }
  int64_t rows() const { return lines + taps - 1; }
  int64_t square() const { return ceil_div(taps * taps, V) * V; }

  int64_t scratch_bytes() const {
    return whole_lines(strip_count * int64_t(sizeof(SquareStrip))) +
           2 * whole_lines(planes() * int64_t(sizeof(SquarePlane))) + whole_lines(planes() * 8) +
           planes() * (square() + rows() * SQUARE_COPY) * 4;
  }

  void run() {
    run_tasks(host, cut.split, [this](Dealer& dealer) { Worker(*this).work(dealer); });
  }

  SquareTile tile_of(bool first, bool last) const {
    if constexpr (HAS_SQUARES) {
      if (taps == 3) return lines == 14 ? square_tile_of<14, 3>(first, last) : square_tile_of<8, 3>(first, last);
      if (taps == 5) return lines == 14 ? square_tile_of<14, 5>(first, last) : square_tile_of<8, 5>(first, last);
      return lines == 14 ? square_tile_of<14, 7>(first, last) : square_tile_of<8, 7>(first, last);
    }
    return nullptr;
  }

  struct Worker {
    const SquareSums& whole;
    SquareStrip* strips;
    SquarePlane* planes;
    SquarePlane* copied;      // the same, where copies of their rows stand
    int64_t* weight_places;   // in the tensor
    float* turned;            // weights, the last one first
    float* copy;
    int64_t farthest, nearest;  // of the planes' inputs
    Squares squares;

    explicit Worker(const SquareSums& whole) : whole(whole) {
      Arena arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))};
      strips = arena.take<SquareStrip>(whole.strip_count);
      planes = arena.take<SquarePlane>(whole.planes());
      copied = arena.take<SquarePlane>(whole.planes());
      weight_places = arena.take<int64_t>(whole.planes());
      turned = arena.take<float>(whole.planes() * whole.square());
      copy = arena.take<float>(whole.planes() * whole.rows() * SQUARE_COPY);
      squares.planes = planes;
      squares.pitch = whole.input.axis[1];
      list_square_strips(strips, whole.width, whole.taps);
    }

    void work(Dealer& dealer) {
      const Problem& problem = whole.problem;
      const PlaneSplit& cut = whole.cut;
      Task task;
      while (dealer.deal(task)) {
        const int64_t depth = task.first_row / cut.bands, first = task.first_row % cut.bands * cut.band;
        list_planes(depth);
        const int64_t end_group = least((task.block + 1) * cut.block, problem.groups);
        for (int64_t group = task.block * cut.block; group < end_group; ++group) {
          squares.input = static_cast<const float*>(whole.input.data) + task.sample * whole.input.batch +
                          group * whole.variants * whole.input.channel;
          for (int64_t channel = 0; channel < whole.outputs; ++channel) {
            const int64_t number = group * whole.outputs + channel;
            float* to = static_cast<float*>(whole.output.data) + task.sample * whole.output.batch +
                        number * whole.output.channel + depth * whole.output.axis[0];
            take_weights(group, channel);
            sum_band(first, least(first + cut.band, whole.height), whole.bias ? whole.bias[number] : 0, to);
          }
        }
      }
    }

    void list_planes(int64_t depth) {
      const Axis& outer = whole.problem.axis[0];
      const Steps steps = steps_of<WAY>(outer, depth);
      const int64_t weight_step = WAY == Way::GATHER ? whole.weights.wide : whole.weights.narrow;
      int64_t count = 0;
      nearest = INT64_MAX;
      farthest = 0;
      for (int64_t variant = 0; variant < whole.variants; ++variant)
        for (int64_t i = 0; i < steps.taps; ++i) {
          const int64_t at = steps.at + steps.hop * i;
          if (at < 0 || at >= inputs_of<WAY>(outer)) continue;
          const int64_t input = variant * whole.input.channel + at * whole.input.axis[0];
          nearest = least(nearest, input);
          farthest = most(farthest, input);
          weight_places[count] = variant * weight_step + (steps.first + steps.step * i) * whole.taps * whole.taps;
          const int64_t weights = WAY == Way::GATHER ? weight_places[count] : count * whole.square();
          planes[count] = {input, weights};
          copied[count] = {count * whole.rows() * SQUARE_COPY, weights};
          ++count;
        }
      squares.count = count;
      if (!count) nearest = 0;
    }

    // The transpose of a convolution meets its taps in the other order.
    void take_weights(int64_t group, int64_t channel) {
      const Weights& all = whole.weights;
      const float* own = static_cast<const float*>(all.data) + all.head(group) * all.group +
                         channel * (WAY == Way::GATHER ? all.narrow : all.wide);
      squares.weights = WAY == Way::GATHER ? own : turned;
      if (WAY == Way::GATHER) return;
      ivec backwards;
      for (int lane = 0; lane < V; ++lane) backwards[lane] = V - 1 - lane;
      for (int64_t i = 0; i < squares.count; ++i)
        for (int64_t at = 0; at < whole.taps * whole.taps; at += V) {
          const int64_t begin = whole.taps * whole.taps - V - at;
          const vec some = load_inside(own + weight_places[i] + begin, lanes_inside(least(most(-begin, 0), V), V));
          store(turned + i * whole.square() + at, __builtin_shuffle(some, backwards));
        }
    }

    void sum_band(int64_t first, int64_t end, float start, float* to) {
      const int64_t reach = whole.taps / 2, line = whole.output.axis[1];
      for (int64_t begin = first; begin < end; begin += whole.lines) {
        const int64_t row = square_row(begin, whole.lines, whole.height, reach);
        const bool at_first = row == 0, at_last = row + whole.lines == whole.height;
        const SquareTile tile = whole.tile_of(at_first, at_last);
        const int64_t low = row - (at_first ? 0 : reach), high = row + whole.lines + (at_last ? 0 : reach);
        for (int64_t i = 0; i < whole.strip_count; ++i) {
          const SquareStrip& strip = strips[i];
          float* out = to + row * line + strip.output;
          if (reads_inside(strip, low, high)) {
            tile(squares, strip, row - reach, start, out, line);
          } else {
            sum_copied(tile, strip, row - reach, low, high, start, out);
          }
        }
      }
    }

    // Whether what the vectors read beside the rows lies in the tensor.
    bool reads_inside(const SquareStrip& strip, int64_t low, int64_t high) const {
      const int64_t line = squares.pitch;
      const float* first = squares.input + strip.input;
      return whole.bounds.hold(first + nearest + low * line,
                               first + farthest + (high - 1) * line + whole.taps - 1 + V);
    }

    __attribute__((noinline)) void sum_copied(SquareTile tile, const SquareStrip& strip, int64_t row, int64_t low,
                                              int64_t high, float start, float* out) const {
      for (int64_t i = 0; i < squares.count; ++i)
        copy_square_rows(copy + copied[i].input, squares.input + planes[i].input + strip.input, squares.pitch, row, low,
                         high, strip.input, whole.width);
      Squares copies = squares;
      copies.input = copy;
      copies.planes = copied;
      copies.pitch = SQUARE_COPY;
      SquareStrip first = strip;
      first.input = 0;
      tile(copies, first, 0, start, out, whole.output.axis[1]);
    }
  };
};

}  // namespace planar
}  // namespace
}  // namespace omniconv
