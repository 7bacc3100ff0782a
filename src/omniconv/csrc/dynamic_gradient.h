// SPDX-License-Identifier: Apache-2.0
// The gradients of a dynamic convolution: of its input, as sums the other way, and of what its kernels were made from.
// Lanes of a vector are neighbouring positions, each of which has its own kernel: so nothing is added over them.
#pragma once

#include "dynamic_sums.h"

namespace omniconv {
namespace {

constexpr int64_t GRADIENT_CHANNELS = 32, GRADIENT_LANES = 64;  // that are packed at once, in order or channels last
constexpr int GRADIENT_TAPS = MAX_TILE - 2;
constexpr int64_t GRADIENT_WEIGHTS = 1 << 14;  // floats of gradients of kernels of a tile

// The products of the output's gradient with the sources of K taps, over all channels, for P vectors of positions.
template <int K, int P>
void correlate_places(const int64_t* source, const int64_t* weight, const float* grad, int64_t grad_pitch,
                      const float* sources, int64_t pitch, int64_t channels, float* to, bool add) {
  vec sum[K][P] = {};
  for (int64_t c = 0; c < channels; ++c, grad += grad_pitch, sources += pitch) {
    vec factor[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) factor[p] = load(grad + p * V);
#pragma GCC unroll 12
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[k][p] += factor[p] * load(sources + source[k] + p * V);
  }
#pragma GCC unroll 12
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      float* own = to + weight[k] + p * V;
      store(own, add ? load(own) + sum[k][p] : sum[k][p]);
    }
}

#if defined(OMNICONV_AVX512)
// As correlate_places, where the sources of the taps lie side by side: most are shifted in registers (see sum_rows).
template <int K, int P>
void correlate_row(const int64_t* source, const int64_t* weight, const float* grad, int64_t grad_pitch,
                   const float* sources, int64_t pitch, int64_t channels, float* to, bool add) {
  vec sum[K][P] = {};
  constexpr int LOADED = 7;  // one of eight is loaded
  ivec lanes[K];
#pragma GCC unroll 12
  for (int k = 1; k < K; ++k) {
    lanes[k] = lanes_from(k);
    asm("" : "+v"(lanes[k]));
  }
  sources += source[0];
  for (int64_t c = 0; c < channels; ++c, grad += grad_pitch, sources += pitch) {
    vec factor[P], whole[P + 1];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) factor[p] = load(grad + p * V);
#pragma GCC unroll 5
    for (int p = 0; p <= P; ++p) {
      whole[p] = load(sources + p * V);
      keep(whole[p]);
    }
#pragma GCC unroll 12
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const vec met = k == 0        ? whole[p]
                        : k == LOADED ? load(sources + k + p * V)
                                      : shifted(whole[p], whole[p + 1], lanes[k]);
        sum[k][p] += factor[p] * met;
      }
  }
#pragma GCC unroll 12
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      float* own = to + weight[k] + p * V;
      store(own, add ? load(own) + sum[k][p] : sum[k][p]);
    }
}
#endif

constexpr int most_correlated(int taps) { return 4 * taps <= MAX_TILE ? 4 : 2 * taps <= MAX_TILE ? 2 : 1; }

struct CorrelateTiles {
  using Tile = void (*)(const int64_t*, const int64_t*, const float*, int64_t, const float*, int64_t, int64_t, float*,
                        bool);
  Tile of[GRADIENT_TAPS + 1][5], rows[GRADIENT_TAPS + 1][5];  // rows: whose sources lie side by side

  template <int K, int P>
  constexpr void fill() {
    of[K][P] = rows[K][P] = correlate_places<K, P>;
#if defined(OMNICONV_AVX512)
    rows[K][P] = correlate_row<K, P>;
#endif
    if constexpr (P > 1) {
      fill<K, P - 1>();
    } else if constexpr (K > 1) {
      fill<K - 1, most_correlated(K - 1)>();
    }
  }

  constexpr CorrelateTiles() : of{}, rows{} { fill<GRADIENT_TAPS, most_correlated(GRADIENT_TAPS)>(); }
};

constexpr CorrelateTiles CORRELATE_TILES{};

template <class T>
struct DynamicKernelGradient {
  static constexpr Way WAY = Way::GATHER;

  const Dynamic& call;
  const View& grad;
  const Predicted& wanted;
  const Host& host;
  int64_t channels, block;
  DynamicPlan<WAY> plan;
  int64_t pitch;  // between packed channels

  DynamicKernelGradient(const Dynamic& call_, const View& grad_, const Predicted& wanted_, const Host& host_)
      : call(call_),
        grad(grad_),
        wanted(wanted_),
        host(host_),
        channels(call.problem.wide),
        block(least(channels, call.input.channel == 1 ? GRADIENT_LANES : GRADIENT_CHANNELS)),
        plan(call, GRADIENT_WEIGHTS, SUM_PACKED / block),
        pitch(odd_lines(plan.packed + 5 * V)) {}

  int64_t tiles() const { return plan.all_tiles(); }
  int64_t packed_floats() const { return block * pitch + V; }
  int64_t grad_floats() const { return block * plan.pitch + 4 * V; }
  int64_t scratch() const {
    return 2 * whole_lines((plan.weight_floats() + 4 * V) * 4) + whole_lines(packed_floats() * 4) +
           whole_lines(grad_floats() * 4) + plan.table_bytes();
  }
  // Where one kernel serves all positions: the sums of each tile, tap by tap.
  int64_t floats() const {
    return call.everywhere ? plan.problem.batch * plan.problem.groups * tiles() * plan.taps : 0;
  }

  // The output's gradient at the positions of a tile, as a tensor that positions are read from one by one.
  DynamicTile<WAY> outputs_of_tile(const DynamicTile<WAY>& tile) const {
    DynamicTile<WAY> outputs{tile.sample, tile.head, {}};
    for (int i = 0; i < 3; ++i) {
      const int64_t size = plan.outputs[i];
      const int64_t count = i < 2 ? tile.axis[i].count : tile.row();
      outputs.axis[i] = DynamicAxis<WAY>(Axis{size, size, 1, 1, 1, 0}, tile.axis[i].first, count);
    }
    return outputs;
  }

  void differentiate(const DynamicTile<WAY>& tile, int64_t number, float* workspace) const {
    Arena arena{static_cast<char*>(host.scratch(scratch()))};
    const DynamicWeights<T, WAY> weights{plan, tile, arena.take<float>(plan.weight_floats() + 4 * V)};
    float* gradients = arena.take<float>(plan.weight_floats() + 4 * V);
    float* packed = arena.take<float>(packed_floats());
    float* outputs = arena.take<float>(grad_floats());
    const DynamicTile<WAY> own = outputs_of_tile(tile);
    for (int64_t c = 0; c < channels; c += block) {
      const int64_t some = least(block, channels - c), first = tile.head * channels + c;
      DynamicPack<T, WAY>{call.input, tile}.by_places(packed, pitch, first, some);
      DynamicPack<T, WAY>{grad, own}.by_places(outputs, plan.pitch, first, some);
      plan.each_rows(tile, plan.kept(tile, gradients), 1, arena, [&](const TapTable& taps, const OutputRows& rows) {
        for (int64_t row = 0; row < rows.rows; ++row)
          correlate(taps, rows.number(row), outputs, packed, some, gradients, c > 0);
      });
    }
    if (call.softmax) {
      weights.read();
      weights.differentiate(gradients);
    }
    call.everywhere ? total(tile, gradients, workspace + number * plan.taps) : weights.write(wanted, gradients);
  }

  void correlate(const TapTable& taps, const OutputRow& row, const float* outputs, const float* packed,
                 int64_t some, float* gradients, bool add) const {
    const bool by_rows = taps.hop == 1;
    const int64_t stretch = by_rows ? taps.row : taps.count;
    const int64_t at_once = ceil_div(stretch, ceil_div(stretch, GRADIENT_TAPS));
    const auto& tiles = by_rows ? CORRELATE_TILES.rows : CORRELATE_TILES.of;
    for (int64_t begin = 0; begin < taps.count; begin += stretch) {
      const int64_t end = begin + stretch;
      for (int64_t tap = begin; tap < end; tap += at_once) {
        const int64_t count = least(end - tap, at_once), most_at_once = most_correlated(int(count));
        for (int64_t p = 0; p < row.count;) {
          const int64_t vectors = least(ceil_div(row.count - p, V), most_at_once);
          tiles[count][vectors](taps.source + tap, taps.weight + tap, outputs + row.weight + p, plan.pitch,
                                packed + row.source + p, pitch, some, gradients + row.weight + p, add);
          p += vectors * V;
        }
      }
    }
  }

  void total(const DynamicTile<WAY>& tile, const float* gradients, float* to) const {
    const auto& axis = tile.axis;
    for (int64_t tap = 0; tap < plan.taps; ++tap) {
      vec sum = {};
      for (int64_t row = 0; row < axis[0].positions * axis[1].positions; ++row)
        each_vector(axis[2].positions, [&](int64_t p, int64_t some) {
          sum += load_first(gradients + tap * plan.pitch + row * tile.row() + p, some);
        });
      to[tap] = total_of(sum);
    }
  }

  void total_tiles(int64_t pair, const float* workspace) const {
    const DynamicTile<WAY> tile = plan.tile_at(pair / plan.problem.groups, pair % plan.problem.groups, 0);
    const DynamicWeights<T, WAY> weights{plan, tile, nullptr};
    T* to = weights.template begin_of<T>(wanted);
    weights.each_tap(wanted, [&](int64_t offset, int64_t tap) {
      float sum = 0;
      for (int64_t number = 0; number < tiles(); ++number)
        sum += workspace[(pair * tiles() + number) * plan.taps + tap];
      narrow(to + offset, sum);
    });
  }
};

template <class T>
int64_t dynamic_gradient(const Dynamic& call, const View& grad, const DynamicGradients& wanted, float* workspace,
                         const Host& host) {
  const DynamicSums<T, Way::SCATTER> of_input(call, grad, wanted.input, nullptr, host);
  const DynamicKernelGradient<T> of_weights(call, grad, wanted.weights, host);
  const int64_t floats = of_weights.floats();
  if (!workspace) return floats;
  const int64_t groups = call.problem.groups, pairs = call.problem.batch * groups;
  const int64_t inputs = wanted.input.data ? of_input.tiles() : 0;
  const int64_t kernels = wanted.weights.data ? of_weights.tiles() : 0;
  const Split split =
      Split::of_units(threads_for(host, 2 * of_input.work()), groups, inputs + kernels, true, call.problem.batch);
  run_tasks(host, split, [&](Dealer& dealer) {
    Task task;
    while (dealer.deal(task)) {
      const int64_t number = task.first_row - inputs, pair = task.sample * groups + task.block;
      if (number < 0) {
        of_input.sum(of_input.plan.tile_at(task.sample, task.block, task.first_row));
      } else {
        of_weights.differentiate(of_weights.plan.tile_at(task.sample, task.block, number), pair * kernels + number,
                                 workspace);
      }
    }
  });
  if (kernels && call.everywhere)
    for (int64_t pair = 0; pair < pairs; ++pair) of_weights.total_tiles(pair, workspace);
  return floats;
}

}  // namespace
}  // namespace omniconv
