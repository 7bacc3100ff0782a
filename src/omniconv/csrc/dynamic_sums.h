// SPDX-License-Identifier: Apache-2.0
// A dynamic convolution, or (SCATTER) the gradient of its input: sums over taps of packed sources times kernels that
// change from position to position. Lanes of a vector are neighbouring positions, or the channels of a head.
#pragma once

#include "dynamic_weights.h"

namespace omniconv {
namespace {

constexpr int64_t SUM_CHANNELS = 8;         // of a block whose lanes are positions
constexpr int64_t SUM_LANES = 4 * V;        // of a block whose lanes are channels
constexpr int64_t SLIDING_TAPS = 12;        // taps of a row for which sources are better shared by positions
constexpr int UNROLLED_TAPS = 7;            // and those of shorter, odd rows, whose loops are unrolled
constexpr int64_t SUM_WEIGHTS = 1 << 14;    // floats of kernels of a tile, so that they stay in a cache
constexpr int64_t SUM_PACKED = 1 << 15;     // and of sources
constexpr int64_t HALO_WEIGHTS = 1 << 16;   // where kernels around a tile are needed too

// Where sums are put: in the tensor itself, or in floats on the way there.
template <class U>
struct SumsTo {
  U* at;
  int64_t pitch;  // between channels where lanes are positions, between positions where they are channels
};

// C channels, P vectors of positions, of which the last has `last`.
template <int C, int P, class U>
void sum_places(const TapTable& taps, const float* weights, const float* sources, int64_t pitch, const float* bias,
                const SumsTo<U>& to, int64_t last) {
  vec sum[C][P];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[c][p] = splat(bias[c]);
  for (int64_t tap = 0; tap < taps.count; ++tap) {
    vec weight[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) weight[p] = load(weights + taps.weight[tap] + p * V);
    const float* source = sources + taps.source[tap];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[c][p] += weight[p] * load(source + c * pitch + p * V);
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      U* own = to.at + c * to.pitch + p * V;
      p == P - 1 ? store_count(own, sum[c][p], last) : store(own, sum[c][p]);
    }
}

#if defined(OMNICONV_AVX512)
alignas(64) constexpr int32_t LANES_FROM[2 * V] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                   16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

OMNICONV_INLINE ivec lanes_from(int64_t first) {
  ivec lanes;
  std::memcpy(&lanes, LANES_FROM + first, sizeof lanes);
  return lanes;
}

// The V numbers from one of the first V of two vectors on.
OMNICONV_INLINE vec shifted(vec low, vec high, ivec lanes) {
  return (vec)_mm512_permutex2var_ps((__m512)low, (__m512i)lanes, (__m512)high);
}

// As sum_places, where the sources of a row of taps lie side by side. A load that does not begin at a cache line takes
// the time of two, so all channels but one are shifted in registers, which the other ports do.
template <int C, class U>
void sum_rows(const TapTable& taps, const float* weights, const float* sources, int64_t pitch, const float* bias,
              const SumsTo<U>& to, int64_t last) {
  constexpr int SHIFTED = C - 1;
  vec sum[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) sum[c] = splat(bias[c]);
  for (int64_t row = 0; row < taps.count; row += taps.row)
    for (int64_t first = row; first < row + taps.row; first += V) {
      const int64_t count = least(row + taps.row - first, V);
      int64_t shift = taps.hop > 0 ? 0 : count - 1;
      const float* source = sources + taps.source[first] - shift;
      vec low[SHIFTED], high[SHIFTED];
#pragma GCC unroll 8
      for (int c = 0; c < SHIFTED; ++c) {
        low[c] = load(source + c * pitch);
        high[c] = load(source + c * pitch + V);
      }
      for (int64_t tap = first; tap < first + count; ++tap, shift += taps.hop) {
        vec weight = load(weights + taps.weight[tap]);
        keep(weight);
        const ivec lanes = lanes_from(shift);
        sum[SHIFTED] += weight * load(source + shift + SHIFTED * pitch);
#pragma GCC unroll 8
        for (int c = 0; c < SHIFTED; ++c) sum[c] += weight * shifted(low[c], high[c], lanes);
      }
    }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) store_count(to.at + c * to.pitch, sum[c], last);
}
#endif

template <int M, int N>
OMNICONV_INLINE void begin_channels(vec (&sum)[M][N], const float* bias) {
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[m][n] = load(bias + n * V);
}

template <int M, int N, class U>
OMNICONV_INLINE void end_channels(const vec (&sum)[M][N], const SumsTo<U>& to, int64_t last) {
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      U* own = to.at + m * to.pitch + n * V;
      n == N - 1 ? store_count(own, sum[m][n], last) : store(own, sum[m][n]);
    }
}

// M positions, N vectors of channels, of which the last has `last`.
template <int M, int N, class U>
void sum_channels(const TapTable& taps, const float* weights, const float* sources, const float* bias,
                  const SumsTo<U>& to, int64_t last) {
  vec sum[M][N];
  begin_channels(sum, bias);
  for (int64_t tap = 0; tap < taps.count; ++tap) {
    const float *weight = weights + taps.weight[tap], *source = sources + taps.source[tap];
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m) {
      const vec factor = splat(weight[m * taps.apart]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] += factor * load(source + (m * N + n) * V);
    }
  }
  end_channels(sum, to, last);
}

// The sources of a row of taps as they follow each other, and the kernels beside them: that of tap number t and output
// number m is at[t * step + m * apart].
struct Sliding {
  int64_t turn, step;  // turn: the tap that comes first

  explicit Sliding(const TapTable& taps)
      : turn(taps.hop > 0 ? 0 : taps.row - 1), step((taps.weight[1] - taps.weight[0]) * (taps.hop > 0 ? 1 : -1)) {}
};

// As sum_channels, where the sources of a row of taps lie side by side: a source that was loaded serves every position
// that meets it, each at another tap.
template <int M, int N, class U>
void slide_channels(const TapTable& taps, const float* weights, const float* sources, const float* bias,
                    const SumsTo<U>& to, int64_t last) {
  vec sum[M][N];
  begin_channels(sum, bias);
  const Sliding slide(taps);
  const int64_t across = taps.apart - slide.step;
  for (int64_t row = 0; row < taps.count; row += taps.row) {
    const float* source = sources + taps.source[row + slide.turn];
    const float* weight = weights + taps.weight[row + slide.turn];
    const auto meet = [&](int64_t place, int64_t first, int64_t end) {
      vec value[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) value[n] = load(source + (place * N + n) * V);
      const float* own = weight + place * slide.step;
#pragma GCC unroll 14
      for (int m = 0; m < M; ++m) {
        if (m < first || m >= end) continue;
        const vec factor = splat(own[m * across]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[m][n] += factor * value[n];
      }
    };
    int64_t place = 0;
    for (; place < M - 1; ++place) meet(place, place - taps.row + 1, place + 1);
    for (; place < taps.row; ++place) meet(place, 0, M);
    for (; place < taps.row + M - 1; ++place) meet(place, place - taps.row + 1, M);
  }
  end_channels(sum, to, last);
}

// The same for rows of K taps. DENSE: the kernels of neighbouring outputs lie side by side, so that one pointer serves
// a tap. Otherwise one walks from each number to the next: so many offsets would not stay in registers.
template <int K, bool DENSE, int M, int N, class U>
void slide_unrolled(const TapTable& taps, const float* weights, const float* sources, const float* bias,
                    const SumsTo<U>& to, int64_t last) {
  vec sum[M][N];
  begin_channels(sum, bias);
  const Sliding slide(taps);
  const int64_t across = taps.apart - slide.step;
  for (int64_t row = 0; row < taps.count; row += K) {
    const float* source = sources + taps.source[row + slide.turn];
    const float* weight = weights + taps.weight[row + slide.turn];
    const float* tap[K];
    if (DENSE) {
#pragma GCC unroll 8
      for (int t = 0; t < K; ++t) {
        tap[t] = weight + t * slide.step;
        keep(tap[t]);
      }
    }
#pragma GCC unroll 20
    for (int place = 0; place < K + M - 1; ++place) {
      vec value[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) value[n] = load(source + (place * N + n) * V);
      const int first = place < K ? 0 : place - K + 1, end = place < M ? place + 1 : M;
      const float* own = weight;
      if (!DENSE) {
        own += first * taps.apart;
        keep(own);
      }
#pragma GCC unroll 14
      for (int m = first; m < end; ++m) {
        const vec factor = splat(DENSE ? tap[place - m][m] : *own);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) sum[m][n] += factor * value[n];
        if (!DENSE) {
          own += across;
          keep(own);
        }
      }
      if (!DENSE && place < K - 1) weight += slide.step;
    }
  }
  end_channels(sum, to, last);
}

constexpr int most_places(int channels) { return channels <= 2 ? 4 : channels <= 4 ? 2 : 1; }
constexpr int most_positions(int vectors) { return MAX_TILE / vectors < 8 ? MAX_TILE / vectors : 8; }
// Beside the sums, a source of each vector and a weight.
constexpr int most_slid(int vectors) {
  const int fitting = (2 * MAX_TILE - vectors) / vectors, narrow = (MAX_TILE + 4 - vectors) / vectors;
  const int some = MAX_TILE == 14 ? fitting : narrow;
  return some < 8 ? some : 8;
}

// Positions of an unrolled row.
constexpr int most_unrolled(int vectors) {
  constexpr int WIDE[5] = {0, 14, 14, 7, 6}, NARROW[5] = {0, 12, 6, 3, 2};
  return MAX_TILE == 14 ? WIDE[vectors] : NARROW[vectors];
}

template <class U>
struct SumTiles {
  using Places = void (*)(const TapTable&, const float*, const float*, int64_t, const float*, const SumsTo<U>&,
                          int64_t);
  using Channels = void (*)(const TapTable&, const float*, const float*, const float*, const SumsTo<U>&, int64_t);
  Places places[SUM_CHANNELS + 1][5];
  Channels channels[9][5], slid[9][5];
  // By taps of a row; whether neighbours' kernels lie side by side; vectors; most_unrolled positions, or half of them.
  Channels unrolled[UNROLLED_TAPS + 1][2][5][2];

  template <int C, int P>
  constexpr void fill_places() {
    places[C][P] = sum_places<C, P, U>;
    if constexpr (P > 1) {
      fill_places<C, P - 1>();
    } else if constexpr (C > 1) {
      fill_places<C - 1, most_places(C - 1)>();
    }
  }

  template <int M, int N>
  constexpr void fill_channels() {
    channels[M][N] = sum_channels<M, N, U>;
    if constexpr (M > 1) {
      fill_channels<M - 1, N>();
    } else if constexpr (N > 1) {
      fill_channels<most_positions(N - 1), N - 1>();
    }
  }

  template <int M, int N>
  constexpr void fill_slid() {
    slid[M][N] = slide_channels<M, N, U>;
    if constexpr (M > 1) {
      fill_slid<M - 1, N>();
    } else if constexpr (N > 1) {
      fill_slid<most_slid(N - 1), N - 1>();
    }
  }

  template <int K, int N>
  constexpr void fill_unrolled() {
    constexpr int M = most_unrolled(N);
    unrolled[K][0][N][0] = slide_unrolled<K, false, M, N, U>;
    unrolled[K][0][N][1] = slide_unrolled<K, false, M / 2, N, U>;
    unrolled[K][1][N][0] = slide_unrolled<K, true, M, N, U>;
    unrolled[K][1][N][1] = slide_unrolled<K, true, M / 2, N, U>;
    if constexpr (N > 1) {
      fill_unrolled<K, N - 1>();
    } else if constexpr (K > 3) {
      fill_unrolled<K - 2, 4>();
    }
  }

  constexpr SumTiles() : places{}, channels{}, slid{}, unrolled{} {
    fill_unrolled<UNROLLED_TAPS, 4>();
    fill_places<SUM_CHANNELS, most_places(SUM_CHANNELS)>();
    fill_channels<most_positions(4), 4>();
    fill_slid<most_slid(4), 4>();
  }
};

template <class U>
constexpr SumTiles<U> SUM_TILES{};

template <class T, Way WAY>
struct DynamicSums {
  const Dynamic& call;
  const View &from, &to;
  const T* bias;  // or null
  const Host& host;
  int64_t channels;
  bool across;    // lanes are channels
  bool in_place;  // kernels are read where they lie
  int64_t block, lanes;
  DynamicPlan<WAY> plan;
  int64_t pitch;  // between packed channels

  DynamicSums(const Dynamic& call_, const View& from_, const View& to_, const void* bias_, const Host& host_)
      : call(call_),
        from(from_),
        to(to_),
        bias(static_cast<const T*>(bias_)),
        host(host_),
        channels(call.problem.wide),
        across(lanes_are_channels()),
        in_place(across && DynamicWeights<T, WAY>::lie_ready(call)),
        block(least(channels, across ? SUM_LANES : SUM_CHANNELS)),
        lanes(whole_vectors(block)),
        plan(call, in_place ? INT64_MAX : WAY == Way::GATHER ? SUM_WEIGHTS : HALO_WEIGHTS,
             SUM_PACKED / (across ? lanes : block)),
        pitch(odd_lines(plan.packed + 2 * V)) {}

  // Also where they are turned on the way: sources of a kernel of several rows are met so often that it pays.
  bool lanes_are_channels() const {
    const Axis* axis = call.problem.axis;
    const int64_t width = outputs_of<WAY>(axis[2]);
    if (2 * channels < V) return false;
    return from.channel == 1 || width == 1 || axis[0].taps * axis[1].taps > 1 || (2 * width < V && width < channels);
  }

  int64_t weight_floats() const { return in_place ? 0 : plan.weight_floats(); }
  int64_t packed_floats() const { return across ? plan.packed * lanes : block * pitch + V; }
  int64_t row_floats() const { return (whole_vectors(plan.count[2]) + V) * (across ? ROWS * lanes : block); }
  int64_t scratch() const {
    return whole_lines(weight_floats() * 4) + whole_lines(packed_floats() * 4) + whole_lines(row_floats() * 4) +
           whole_lines(SUM_LANES * 4) + plan.table_bytes();
  }

  int64_t pairs() const { return plan.problem.batch * plan.problem.groups; }
  int64_t tiles() const { return plan.all_tiles(); }
  int64_t work() const {
    return pairs() * plan.taps * ceil_div(plan.outputs[0] * plan.outputs[1] * plan.outputs[2] * (channels + 8), V);
  }

  void run() const {
    const Problem& problem = plan.problem;
    const Split split = Split::of_units(threads_for(host, work()), problem.groups, tiles(), true, problem.batch);
    run_tasks(host, split, [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) sum(plan.tile_at(task.sample, task.block, task.first_row));
    });
  }

  void sum(const DynamicTile<WAY>& tile) const {
    Arena arena{static_cast<char*>(host.scratch(scratch()))};
    const DynamicWeights<T, WAY> weights{plan, tile, arena.take<float>(weight_floats())};
    float* packed = arena.take<float>(packed_floats());
    float* row_sums = arena.take<float>(row_floats());
    float* added = arena.take<float>(SUM_LANES);
    if (!in_place) weights.read();
    const Kept kernels = in_place ? weights.in_place() : plan.kept(tile, weights.at);
    const DynamicPack<T, WAY> pack{from, tile};
    for (int64_t c = 0; c < channels; c += block) {
      const int64_t some = least(block, channels - c), first = tile.head * channels + c;
      for (int64_t i = 0; i < SUM_LANES; ++i) added[i] = bias && i < some ? widen(bias[first + i]) : 0;
      if (across) {
        const int64_t width = whole_vectors(some);
        pack.by_channels(packed, width, first, some);
        plan.each_rows(tile, kernels, width, arena, [&](const TapTable& taps, const OutputRows& rows) {
          sum_across(taps, rows, kernels.at, packed, added, row_sums, tile.sample, first, some);
        });
      } else {
        pack.by_places(packed, pitch, first, some);
        plan.each_rows(tile, kernels, 1, arena, [&](const TapTable& taps, const OutputRows& rows) {
          for (int64_t row = 0; row < rows.rows; ++row)
            sum_along(taps, rows.number(row), kernels.at, packed, added, row_sums, tile.sample, first, some);
        });
      }
    }
  }

  T* output_at(int64_t sample, int64_t channel, const OutputRow& row) const {
    return static_cast<T*>(to.data) + sample * to.batch + channel * to.channel + row.at[0] * to.axis[0] +
           row.at[1] * to.axis[1] + row.at[2] * to.axis[2];
  }

  // Lanes are positions of the row.
  void sum_along(const TapTable& taps, const OutputRow& row, const float* weights, const float* packed,
                 const float* added, float* row_sums, int64_t sample, int64_t first, int64_t some) const {
    T* output = output_at(sample, first, row);
    const int64_t step = row.step * to.axis[2], apart = whole_vectors(plan.count[2]) + V;
    const auto run = [&](auto* at, int64_t pitch_to) {
      using U = typename std::remove_pointer<decltype(at)>::type;
      const int64_t most_at_once = most_places(int(some));
#if defined(OMNICONV_AVX512)
      if (some == SUM_CHANNELS && (taps.hop == 1 || taps.hop == -1)) {
        for (int64_t p = 0; p < row.count; p += V)
          sum_rows<SUM_CHANNELS>(taps, weights + row.weight + p, packed + row.source + p, pitch, added,
                                 SumsTo<U>{at + p, pitch_to}, least(row.count - p, V));
        return;
      }
#endif
      for (int64_t p = 0; p < row.count;) {
        const int64_t vectors = least(ceil_div(row.count - p, V), most_at_once);
        const int64_t last = least(row.count - p - (vectors - 1) * V, V);
        SUM_TILES<U>.places[some][vectors](taps, weights + row.weight + p, packed + row.source + p, pitch, added,
                                           SumsTo<U>{at + p, pitch_to}, last);
        p += vectors * V;
      }
    };
    if (step == 1 || row.count == 1) return run(output, to.channel);
    run(row_sums, apart);
    if (to.channel == 1) {
      int64_t at[V];
      for (int64_t lane = 0; lane < V; ++lane) at[lane] = lane * step;
      each_vector(row.count, [&](int64_t p, int64_t count) {
        unpack_transposed(output + p * step, at, row_sums + p, some, count, apart);
      });
    } else {
      for (int64_t c = 0; c < some; ++c)
        for (int64_t p = 0; p < row.count; ++p) narrow(output + c * to.channel + p * step, row_sums[c * apart + p]);
    }
  }

  // Lanes are channels. Some positions of all rows come before the next, so that rows find the sources that they share
  // in the nearest cache.
  void sum_across(const TapTable& taps, const OutputRows& rows, const float* weights, const float* packed,
                  const float* added, float* row_sums, int64_t sample, int64_t first, int64_t some) const {
    T* output = output_at(sample, first, rows.first);
    const int64_t count = rows.first.count, step = rows.first.step * to.axis[2], down = rows.down * to.axis[1];
    const int64_t width = whole_vectors(some), vectors = width / V;
    const auto run = [&](auto* at, int64_t pitch_to, int64_t row_to, int64_t last) {
      using U = typename std::remove_pointer<decltype(at)>::type;
      const AtOnce<U> tile = tile_across<U>(taps, width, count);
      for (int64_t p = 0; p < count; p += tile.positions) {
        const int64_t begin = least(p, count - tile.positions);  // the last may begin within the one before
        for (int64_t row = 0; row < rows.rows; ++row)
          tile.sum(taps, weights + rows.first.weight + row * rows.weight_down + begin * taps.apart,
               packed + rows.first.source + row * rows.source_down + begin * width, added,
               SumsTo<U>{at + row * row_to + begin * pitch_to, pitch_to}, last);
      }
    };
    if (to.channel == 1) return run(output, step, down, some - (vectors - 1) * V);
    run(row_sums, width, count * width, V);
    for (int64_t row = 0; row < rows.rows; ++row, output += down, row_sums += count * width)
      write_turned(output, step, row_sums, count, some);
  }

  template <class U>
  struct AtOnce {
    typename SumTiles<U>::Channels sum;
    int64_t positions;  // at most as many as a row has
  };

  template <class U>
  AtOnce<U> tile_across(const TapTable& taps, int64_t width, int64_t count) const {
    const auto& tiles = SUM_TILES<U>;
    const int64_t vectors = width / V, all = most_unrolled(int(vectors)), half = all / 2;
    const bool side_by_side = taps.hop == width || taps.hop == -width;
    if (side_by_side && taps.row % 2 && taps.row <= UNROLLED_TAPS && count >= half) {
      const bool whole = count >= all;
      return {tiles.unrolled[taps.row][taps.apart == 1][vectors][!whole], whole ? all : half};
    }
    const bool slides = side_by_side && taps.row >= SLIDING_TAPS;
    const int64_t most_at_once = slides ? most_slid(int(vectors)) : most_positions(int(vectors));
    const int64_t at_once = ceil_div(count, ceil_div(count, most_at_once));
    return {(slides ? tiles.slid : tiles.channels)[at_once][vectors], at_once};
  }

  // Sums of the channels of each position of a row, to where channels lie apart.
  void write_turned(T* to_row, int64_t step, const float* sums, int64_t count, int64_t some) const {
    const int64_t width = whole_vectors(some);
    for (int64_t v = 0; v < some; v += V) {
      const int64_t lanes_here = least(some - v, V);
      int64_t at[V];
      for (int64_t lane = 0; lane < V; ++lane) at[lane] = lane * to.channel;
      T* own = to_row + v * to.channel;
      if (step == 1) {
        unpack_transposed(own, at, sums + v, count, lanes_here, width);
      } else {
        for (int64_t p = 0; p < count; ++p)
          for (int64_t lane = 0; lane < lanes_here; ++lane)
            narrow(own + at[lane] + p * step, sums[p * width + v + lane]);
      }
    }
  }
};

template <class T>
void dynamic_sums(const Dynamic& call, const View& output, const void* bias, const Host& host) {
  DynamicSums<T, Way::GATHER>(call, call.input, output, bias, host).run();
}

}  // namespace
}  // namespace omniconv
