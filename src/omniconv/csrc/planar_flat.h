// SPDX-License-Identifier: Apache-2.0
// Planes whose rows lie one behind another, under kernels that keep the width of a row, in groups of several channels.
//
// Such a plane is one long row: each tap is an offset along it, and whole vectors are filled whatever the width. Lanes
// whose column would lie outside are masked out of the multiply-adds, which costs nothing. Each input is loaded once
// at each tap for FLAT_CHANNELS channels of outputs.
#pragma once

#include "arena.h"
#include "planar_pack.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

#if defined(OMNICONV_AVX512)
constexpr bool HAS_FLAT = true;
OMNICONV_INLINE vec plus_product(vec sum, vec factor, vec value, Inside inside) {
  return (vec)_mm512_mask3_fmadd_ps((__m512)factor, (__m512)value, (__m512)sum, inside);
}
#else
constexpr bool HAS_FLAT = false;  // without masks, and with registers for few sums
OMNICONV_INLINE vec plus_product(vec sum, vec, vec, Inside) { return sum; }
#endif

constexpr int FLAT_CHANNELS = 4, FLAT_VECTORS = 6;
constexpr int64_t MOST_FLAT = 1 << 16;  // positions of a plane, so that masks of all its vectors are few

// What all tiles of a plane of outputs have in common; distances in elements.
template <class T>
struct FlatPlanes {
  const T* input;  // of the group's first channel
  int64_t size;    // of a plane of inputs
  int64_t variants, variant, variant_weight;
  int64_t channel_weight;
  int64_t rows, row_hop, columns, column_hop;
  int64_t first, lowest, highest;   // offsets of taps: of the first one, and the range of all
  const Inside* inside;             // lanes of each vector that meet the plane, tap by tap
  int64_t inside_pitch;

  // Whether each tap of each of the positions begin … end - 1 lies in the plane.
  bool hold(int64_t begin, int64_t end) const {
    return begin + lowest >= 0 && end + highest <= size;
  }
};

template <class T, int NV>
OMNICONV_INLINE void prefetch_next(const FlatPlanes<T>& planes, int64_t at) {
  constexpr int PER_LINE = int(LINE / (V * int64_t(sizeof(T))));
  const T* next = planes.input + at + NV * V + planes.highest;
  for (int64_t variant = 0; variant < planes.variants; ++variant, next += planes.variant)
#pragma GCC unroll 8
    for (int v = 0; v < NV; v += PER_LINE) __builtin_prefetch(next + v * V);
}

// NV vectors of FLAT_CHANNELS channels. BORDER: some taps lie outside the plane.
template <class T, int NV, bool BORDER>
__attribute__((noinline)) void flat_tile(const FlatPlanes<T>& planes, int64_t at, const float* weights,
                                         const float* starts, T* to, int64_t line, int64_t last) {
  vec sum[FLAT_CHANNELS][NV];
#pragma GCC unroll 8
  for (int o = 0; o < FLAT_CHANNELS; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[o][v] = everywhere(starts[o]);
  prefetch_next<T, NV>(planes, at);
  const int64_t channel_weight = planes.channel_weight;
  for (int64_t k = 0; k < planes.columns; ++k) {
    Inside inside[NV];
    for (int64_t r = 0; r < planes.rows; ++r) {
      const int64_t tap = r * planes.columns + k;
      if (BORDER || r == 0) {
        const Inside* those = planes.inside + tap * planes.inside_pitch + at / V;
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) inside[v] = those[v];
      }
      const T* from = planes.input + at + planes.first + r * planes.row_hop + k * planes.column_hop;
      const float* own = weights + tap;
      for (int64_t variant = 0; variant < planes.variants; ++variant) {
        vec weight[FLAT_CHANNELS];
#pragma GCC unroll 8
        for (int o = 0; o < FLAT_CHANNELS; ++o) weight[o] = held(everywhere(own[o * channel_weight]));
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) {
          const vec value = held(BORDER ? load_inside(from + v * V, inside[v]) : load_lanes(from + v * V));
#pragma GCC unroll 8
          for (int o = 0; o < FLAT_CHANNELS; ++o) sum[o][v] = plus_product(sum[o][v], weight[o], value, inside[v]);
        }
        from += planes.variant;
        own += planes.variant_weight;
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < FLAT_CHANNELS; ++o, to += line) {
#pragma GCC unroll 8
    for (int v = 0; v + 1 < NV; ++v) store_lanes(to + v * V, sum[o][v]);
    store_some(to + (NV - 1) * V, sum[o][NV - 1], last);
  }
}

template <class T>
struct FlatTiles {
  using Tile = void (*)(const FlatPlanes<T>&, int64_t at, const float* weights, const float* starts, T* to,
                        int64_t line, int64_t last);
  Tile of[FLAT_VECTORS + 1][2];  // by vectors, and whether at the border
};

template <class T, int NV = FLAT_VECTORS>
constexpr void fill_flat(FlatTiles<T>& tiles) {
  tiles.of[NV][0] = flat_tile<T, NV, false>;
  tiles.of[NV][1] = flat_tile<T, NV, true>;
  if constexpr (NV > 1) fill_flat<T, NV - 1>(tiles);
}

template <class T>
constexpr FlatTiles<T> flat_tiles() {
  FlatTiles<T> tiles{};
  if constexpr (HAS_FLAT) fill_flat(tiles);
  return tiles;
}

template <class T>
constexpr FlatTiles<T> FLAT = flat_tiles<T>();

template <class T, Way WAY>
struct FlatSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::weights, Call::bias, Call::host;

  int64_t outputs, variants;               // channels of a group
  int64_t channel_weight, variant_weight;  // from the weights of one of them to those of the next
  int64_t width, size;        // of a row, and of a plane of outputs
  int64_t vectors, tiles;     // of a plane
  PlaneSplit cut;             // whose rows are tiles

  // As measured against planar_three.h and planar_squares.h, whose vectors rows of almost one vector fill as well.
  static bool suits(const Problem& problem, const View& input, const View& output) {
    const Axis &outer = problem.axis[0], &rows = problem.axis[1], &columns = problem.axis[2];
    const int64_t outputs = WAY == Way::GATHER ? problem.narrow : problem.wide, width = columns.wide;
    const bool fills = input.type == Type::float32 && width > V - 3 && width <= V && outputs == FLAT_CHANNELS;
    const auto lies_in_a_piece = [width](const View& view) { return view.axis[2] == 1 && view.axis[1] == width; };
    const bool flat = outer.taps == 1 && outer.stride == 1 && outer.before == 0 && outer.wide == outer.narrow &&
                      rows.stride == 1 && columns.stride == 1 && columns.narrow == width;
    return HAS_FLAT && flat && !fills && least(problem.wide, problem.narrow) > 1 && outputs % FLAT_CHANNELS == 0 &&
           rows.taps == 3 && columns.taps == 3 && lies_in_a_piece(input) && lies_in_a_piece(output) &&
           outputs_of<WAY>(rows) * width <= MOST_FLAT;
  }

  explicit FlatSums(const Call& call)
      : Call(call),
        outputs(WAY == Way::GATHER ? problem.narrow : problem.wide),
        variants(WAY == Way::GATHER ? problem.wide : problem.narrow),
        channel_weight(WAY == Way::GATHER ? weights.narrow : weights.wide),
        variant_weight(WAY == Way::GATHER ? weights.wide : weights.narrow),
        width(problem.axis[2].wide),
        size(outputs_of<WAY>(problem.axis[1]) * width),
        vectors(ceil_div(size, V)),
        tiles(ceil_div(vectors, FLAT_VECTORS)),
        cut(host, problem, problem.axis[0].wide, tiles, 1, tiles,
            FLAT_VECTORS * outputs * (variants * problem.axis[1].taps * problem.axis[2].taps + 6)) {}

  int64_t taps() const { return problem.axis[1].taps * problem.axis[2].taps; }
  int64_t inside_pitch() const { return vectors + FLAT_VECTORS; }
  bool packs_weights() const { return weights.type != Type::float32; }

  int64_t scratch_bytes() const {
    return whole_lines(taps() * inside_pitch() * int64_t(sizeof(Inside))) + whole_lines(outputs * 4) +
           whole_lines(outputs * variants * taps() * 4);
  }

  void run() {
    run_tasks(host, cut.split, [this](Dealer& dealer) { Worker(*this).work(dealer); });
  }

  struct Worker {
    const FlatSums& whole;
    FlatPlanes<T> planes;
    Inside* inside;
    float* starts;
    float* packed;
    const float* own_weights;  // of the group at hand

    explicit Worker(const FlatSums& whole) : whole(whole) {
      Arena arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))};
      const Axis &rows = whole.problem.axis[1], &columns = whole.problem.axis[2];
      inside = arena.take<Inside>(whole.taps() * whole.inside_pitch());
      starts = arena.take<float>(whole.outputs);
      packed = arena.take<float>(whole.outputs * whole.variants * whole.taps());
      std::memset(starts, 0, whole.outputs * sizeof(float));
      const int64_t sign = WAY == Way::GATHER ? 1 : -1;
      planes.size = inputs_of<WAY>(rows) * whole.width;
      planes.variants = whole.variants;
      planes.variant = whole.input.channel;
      planes.rows = rows.taps;
      planes.columns = columns.taps;
      planes.row_hop = sign * rows.dilation * whole.width;
      planes.column_hop = sign * columns.dilation;
      planes.first = -sign * (rows.before * whole.width + columns.before);
      const int64_t last = planes.first + planes.row_hop * (rows.taps - 1) + planes.column_hop * (columns.taps - 1);
      planes.lowest = least(planes.first, last);
      planes.highest = most(planes.first, last);
      planes.inside = inside;
      planes.inside_pitch = whole.inside_pitch();
      planes.channel_weight = whole.packs_weights() ? whole.variants * whole.taps() : whole.channel_weight;
      planes.variant_weight = whole.packs_weights() ? whole.taps() : whole.variant_weight;
      if constexpr (HAS_FLAT) list_inside();
    }

    void list_inside() const {
      const Axis &rows = whole.problem.axis[1], &columns = whole.problem.axis[2];
      const int64_t sign = WAY == Way::GATHER ? 1 : -1, pitch = planes.inside_pitch;
      std::memset(inside, 0xff, columns.taps * pitch * sizeof(Inside));
      for (int64_t k = 0; k < columns.taps; ++k) {
        const int64_t offset = sign * (columns.dilation * k - columns.before);
        const int64_t begin = offset < 0 ? 0 : most(whole.width - offset, 0);
        const int64_t end = offset < 0 ? least(-offset, whole.width) : whole.width;
        for (int64_t row = 0; row < whole.size; row += whole.width)
          for (int64_t at = row + begin; at < row + end; ++at)
            inside[k * pitch + at / V] &= ~lanes_inside(at % V, at % V + 1);
      }
      for (int64_t r = rows.taps - 1; r >= 0; --r)
        for (int64_t k = 0; k < columns.taps; ++k) {
          Inside* own = inside + (r * columns.taps + k) * pitch;
          if (r > 0) std::memcpy(own, inside + k * pitch, pitch * sizeof(Inside));
          cut_rows(own, sign * (rows.dilation * r - rows.before) * whole.width);
        }
    }

    // Leaves the positions whose rows, `offset` further on, lie in the plane.
    void cut_rows(Inside* own, int64_t offset) const {
      const int64_t begin = -offset, end = planes.size - offset;
      for (int64_t at = 0; at < least(begin, whole.vectors * V); at += V) own[at / V] &= inside_of(at - begin, V);
      for (int64_t at = most(end / V, 0) * V; at < whole.vectors * V; at += V) own[at / V] &= inside_of(at, end);
    }

    void work(Dealer& dealer) {
      const PlaneSplit& cut = whole.cut;
      Task task;
      while (dealer.deal(task)) {
        const int64_t depth = task.first_row / cut.bands, first = task.first_row % cut.bands * cut.band;
        const int64_t end_group = least((task.block + 1) * cut.block, whole.problem.groups);
        for (int64_t group = task.block * cut.block; group < end_group; ++group) {
          planes.input = static_cast<const T*>(whole.input.data) + task.sample * whole.input.batch +
                         group * whole.variants * whole.input.channel + depth * whole.input.axis[0];
          T* to = static_cast<T*>(whole.output.data) + task.sample * whole.output.batch +
                  group * whole.outputs * whole.output.channel + depth * whole.output.axis[0];
          take_weights(group);
          for (int64_t i = 0; whole.bias && i < whole.outputs; ++i)
            starts[i] = widen(whole.bias[group * whole.outputs + i]);
          sum_tiles(first, least(first + cut.band, whole.tiles), to);
        }
      }
    }

    void take_weights(int64_t group) {
      const Weights& weights = whole.weights;
      const int64_t from = weights.head(group) * weights.group;
      if (!whole.packs_weights()) {
        own_weights = static_cast<const float*>(weights.data) + from;
        return;
      }
      float* to = packed;
      for (int64_t channel = 0; channel < whole.outputs; ++channel)
        for (int64_t variant = 0; variant < whole.variants; ++variant)
          for (int64_t tap = 0; tap < whole.taps(); ++tap)
            *to++ = weights.at(from + channel * whole.channel_weight + variant * whole.variant_weight + tap);
      own_weights = packed;
    }

    void sum_tiles(int64_t first, int64_t end, T* to) const {
      for (int64_t tile = first; tile < end; ++tile) {
        const int64_t begin = whole.vectors * tile / whole.tiles;
        const int64_t count = whole.vectors * (tile + 1) / whole.tiles - begin;
        const int64_t at = begin * V, last = least(whole.size - at - (count - 1) * V, V);
        const auto sum = FLAT<T>.of[count][!planes.hold(at, at + count * V)];
        for (int64_t channel = 0; channel < whole.outputs; channel += FLAT_CHANNELS)
          sum(planes, at, own_weights + channel * planes.channel_weight, starts + channel,
              to + channel * whole.output.channel + at, whole.output.channel, last);
      }
    }
  };
};

}  // namespace planar
}  // namespace
}  // namespace omniconv
