// SPDX-License-Identifier: Apache-2.0
// The gradients of a deformable convolution.
//
// Some stretches of positions, a wave, are taken at a time. First each is sampled as in the forward sum, its samples'
// gradients are computed, and from both those of offsets and masks: a stretch by one thread. Then the samples'
// gradients are added to the inputs that they were taken from, and the samples multiplied with the output's gradient:
// some channels by one thread, in the order of positions. So no two threads add to the same number, and the sums are
// the same for any number of threads.
#pragma once

#include "deformable_plan.h"

namespace omniconv {
namespace {

constexpr int64_t WAVE_FLOATS = 1 << 18;  // of samples at once, and as many of their gradients
constexpr int64_t LEAST_WAVE = 8;         // stretches, each of which one thread takes

template <class T, int D>
struct DeformableGradient {
  static constexpr int CORNERS = 1 << D;

  const Deformable& call;
  const Planes& grad;
  const DeformableGradients& wanted;
  bool placed;  // the input's gradient is float32 with its channels side by side: added to where it lies
  DeformablePlan plan;
  int64_t narrow, table;    // floats of the table of a group of offsets at a stretch
  int64_t tables;           // groups of offsets that a pass meets, at most
  int64_t pitch;            // between positions' samples
  int64_t wave;             // stretches at once
  int64_t per_group;        // blocks of the output's channels for each group, or
  int64_t groups_a_block;   // groups for each block
  int64_t lanes;            // of all shares

  struct Memory {
    float *samples, *gradients;  // [position of the wave][tap][channel of the pass]
    float* outputs;              // [block][position of the wave][PITCH]
    float* weights;              // of each share and panel: [tap][output][channel]
    float* sums;                 // of each share: [tap][output][channel], in whole vectors
    float* tables;               // [stretch of the wave][group of offsets]
    float* scattered;            // [sample][position][channel of the pass]
    float* packed;               // likewise, of T
  };

  // Channels first … end - 1 of the samples from `sample` on.
  struct Pass {
    int64_t sample, samples, first, end;
    Rows<const T> rows;
    Rows<float> into;
    int64_t lanes_before;  // in shares of earlier passes
  };

  // Stretches of a pass, and the positions before them.
  struct Wave {
    int64_t begin, end, first_row, rows;
  };

  DeformableGradient(const Deformable& call_, const Planes& grad_, const DeformableGradients& wanted_,
                     const Host& host)
      : call(call_),
        grad(grad_),
        wanted(wanted_),
        placed(sizeof(T) == sizeof(float) && call.input.channel == 1 && wanted.input.channel == 1),
        plan(call_, host, sizeof(T) == sizeof(float), most_chunk(call_.problem), wanted.input.data && !placed),
        narrow(plan.problem.narrow),
        table(DeformedTaps<D>::floats_for(plan.taps)),
        tables(least(ceil_div(plan.chunk, plan.per_offset) + 1, call.offset_groups)),
        pitch((((plan.taps * plan.chunk + PANEL) / 16 + 1) | 1) * 16),  // an odd number of cache lines
        per_group(ceil_div(narrow, DEPTH)),
        groups_a_block(per_group > 1 ? 1 : DEPTH / narrow),
        lanes(lanes_of(0, plan.channels)) {
    const int64_t stretch = POSITIONS * pitch + tables * table;
    wave = most(least(most(WAVE_FLOATS / stretch, LEAST_WAVE), plan.samples * plan.stretches), 1);
  }

  // So few that a wave has stretches for some threads.
  static int64_t most_chunk(const Problem& problem) {
    return most(WAVE_FLOATS / (LEAST_WAVE * POSITIONS * taps_of(problem)) / PANEL, 1) * PANEL;
  }

  bool moves() const { return wanted.offset.data || wanted.mask.data; }
  bool differentiates() const { return wanted.input.data || moves(); }
  int64_t blocks() const { return ceil_div(plan.problem.groups, groups_a_block) * per_group; }
  int64_t wave_rows() const { return wave * POSITIONS; }

  // Calls each(share, its lanes, those before it) for the shares of channels first … end - 1, which begin and end
  // with passes; returns the lanes before `end`.
  template <class Each>
  int64_t each_laid(int64_t first, int64_t end, int64_t before, const Each& each) const {
    each_piece(first, end, plan.chunk, [&](int64_t, int64_t a, int64_t b) {
      plan.each_share(a, b, [&](const Share& share) {
        const int64_t own = whole_vectors(share.end - share.first);
        each(share, own, before);
        before += own;
      });
    });
    return before;
  }

  int64_t lanes_of(int64_t first, int64_t end) const {
    return each_laid(first, end, 0, [](const Share&, int64_t, int64_t) {});
  }

  // Floats of each piece of memory.
  struct Floats {
    int64_t samples, gradients, outputs, weights, sums, tables, scattered, packed;
  };

  Floats pieces() const {
    const int64_t rows = wave_rows(), all_weights = lanes * narrow * plan.taps;
    const int64_t scattered = plan.scattered ? plan.samples * plan.in_positions * plan.packed_pitch() : 0;
    const int64_t packed = ceil_div(plan.packed_rows() * plan.packed_pitch() * int64_t(sizeof(T)), sizeof(float));
    return {wanted.weights.data ? rows * pitch : 0,   differentiates() ? rows * pitch : 0,
            blocks() * rows * PITCH,                  differentiates() ? all_weights : 0,
            wanted.weights.data ? all_weights : 0,    wave * tables * table,
            scattered,                                packed};
  }

  int64_t floats() const {
    const auto whole = [](auto... counts) { return (whole_lines(counts * int64_t(sizeof(float))) + ...); };
    const Floats all = pieces();
    return whole(all.samples, all.gradients, all.outputs, all.weights, all.sums, all.tables, all.scattered,
                 all.packed) / int64_t(sizeof(float));
  }

  void run(float* workspace) const {
    const Floats all = pieces();
    Arena arena{reinterpret_cast<char*>(workspace)};
    const auto take = [&](int64_t count) { return arena.take<float>(count); };
    const Memory memory{take(all.samples), take(all.gradients), take(all.outputs),   take(all.weights),
                        take(all.sums),    take(all.tables),    take(all.scattered), take(all.packed)};
    if (differentiates()) pack_weights(memory.weights);
    if (wanted.weights.data) clear(memory.sums, narrow * plan.taps, lanes, lanes);
    for (int64_t sample = 0; sample < plan.problem.batch; sample += plan.samples) {
      const int64_t some = least(plan.samples, plan.problem.batch - sample);
      each_piece(0, plan.channels, plan.chunk, [&](int64_t, int64_t first, int64_t end) {
        T* packed = reinterpret_cast<T*>(memory.packed);
        run_pass({sample, some, first, end, plan.template rows_of<T>(sample, some, first, end, packed),
                  rows_into(sample, some, first, memory), lanes_of(0, first)},
                 memory);
      });
    }
    if (wanted.weights.data) write_weights(memory.sums);
  }

  // Some rows of memory, each as wide as it is told, to zeros.
  void clear(float* memory, int64_t rows, int64_t step, int64_t width) const {
    const int64_t piece = ceil_div(1 << 14, most(width, 1));
    plan.parallel(ceil_div(rows, piece), [&](int64_t task) {
      for (int64_t row = task * piece; row < least(rows, (task + 1) * piece); ++row)
        std::memset(memory + row * step, 0, width * sizeof(float));
    });
  }

  // Where a pass adds to the input's gradient, all zeros.
  Rows<float> rows_into(int64_t sample, int64_t samples, int64_t first, const Memory& memory) const {
    if (!wanted.input.data) return {nullptr, 0, 0, 0};
    if (!placed) {
      const int64_t step = plan.packed_pitch();
      clear(memory.scattered, samples * plan.in_positions, step, step);
      return {memory.scattered, plan.in_positions * step, step, first};
    }
    float* into = static_cast<float*>(wanted.input.data) + sample * wanted.input.batch;
    if (first == 0)
      for (int64_t own = 0; own < samples; ++own)
        clear(into + own * wanted.input.batch, plan.in_positions, wanted.input.position, plan.channels);
    return {into, wanted.input.batch, wanted.input.position, 0};
  }

  void run_pass(const Pass& pass, const Memory& memory) const {
    const int64_t all = pass.samples * plan.stretches;
    for (int64_t begin = 0; begin < all; begin += wave) {
      Wave now{begin, least(begin + wave, all), rows_before(begin), 0};
      now.rows = rows_before(now.end) - now.first_row;
      plan.parallel(now.end - begin, [&](int64_t task) { differentiate(pass, now, begin + task, memory); });
      const int64_t scatters = wanted.input.data ? ceil_div(pass.end - pass.first, PANEL) : 0;
      const int64_t products = wanted.weights.data ? panels_of(pass) * plan.taps : 0;
      plan.parallel(scatters + products, [&](int64_t task) {
        task < scatters ? scatter(pass, now, task, memory) : correlate(pass, now, task - scatters, memory);
      });
    }
    if (plan.scattered) write_input(pass);
  }

  // Positions of the stretches before one.
  int64_t rows_before(int64_t stretch) const {
    return stretch / plan.stretches * plan.out_positions + stretch % plan.stretches * POSITIONS;
  }

  Stretch stretch_of(const Pass& pass, int64_t stretch) const {
    const int64_t begin = stretch % plan.stretches * POSITIONS;
    return {pass.sample + stretch / plan.stretches, begin, least(plan.out_positions - begin, POSITIONS)};
  }

  DeformedTaps<D> table_of(const Pass& pass, const Wave& now, int64_t stretch, int64_t group,
                           const Memory& memory) const {
    const int64_t own = (stretch - now.begin) * tables + group - pass.first / plan.per_offset;
    return {memory.tables + own * table, plan.taps};
  }

  // The output's gradient for the channels of a block.
  float* block_at(const Memory& memory, int64_t number) const {
    return memory.outputs + number * wave_rows() * PITCH;
  }

  // Calls each(where its first row lies, its first output, their count) for the blocks of one group.
  template <class Each>
  void each_block(const Memory& memory, int64_t group, const Each& each) const {
    if (per_group == 1) {
      each(block_at(memory, group / groups_a_block) + group % groups_a_block * narrow, int64_t(0), narrow);
      return;
    }
    for (int64_t o = 0; o < narrow; o += DEPTH)
      each(block_at(memory, group * per_group + o / DEPTH), o, least(DEPTH, narrow - o));
  }

  // Samples a stretch and computes all gradients of its own.
  void differentiate(const Pass& pass, const Wave& now, int64_t number, const Memory& memory) const {
    const Stretch stretch = stretch_of(pass, number);
    const int64_t row = rows_before(number) - now.first_row;
    read_outputs(stretch, row, memory);
    if (differentiates()) multiply_back(pass, stretch, row, memory);
    float* dots = static_cast<float*>(plan.host.scratch(plan.taps * CORNERS * LANES * 4));
    each_piece(pass.first, pass.end, plan.per_offset, [&](int64_t group, int64_t first, int64_t end) {
      const DeformedTaps<D> taps = table_of(pass, now, number, group, memory);
      place_taps(taps, call, stretch, group, 0);
      for (int64_t from = first; from < end; from += DEPTH) {
        const int64_t to = least(from + DEPTH, end);
        if (moves()) {
          sample<true>(pass, stretch, row, taps, from, to, from == first, memory, dots);
        } else if (wanted.weights.data) {
          sample<false>(pass, stretch, row, taps, from, to, false, memory, dots);
        }
      }
      const bool fresh = first == group * plan.per_offset;
      if (wanted.mask.data) write_masks(taps, stretch, group, dots, fresh);
      if (wanted.offset.data) write_offsets(taps, stretch, group, dots, fresh);
    });
  }

  void read_outputs(const Stretch& stretch, int64_t row, const Memory& memory) const {
    const int64_t size = per_group > 1 ? DEPTH : groups_a_block * narrow;
    for (int64_t number = 0; number < blocks(); ++number) {
      const int64_t first = per_group > 1 ? number / per_group * narrow + number % per_group * DEPTH : number * size;
      const int64_t end = per_group > 1 ? (number / per_group + 1) * narrow : plan.outputs;
      read_stretch<T>(block_at(memory, number) + row * PITCH, PITCH, grad, stretch, first, least(size, end - first));
    }
  }

  // gradients[position][tap][channel] = Σ over outputs of the output's gradient · weights. Lanes behind a share's are
  // written too, before what belongs there.
  void multiply_back(const Pass& pass, const Stretch& stretch, int64_t row, const Memory& memory) const {
    for (int64_t tap = 0; tap < plan.taps; ++tap) {
      each_laid(pass.first, pass.end, pass.lanes_before, [&](const Share& share, int64_t own, int64_t before) {
        float* to = memory.gradients + row * pitch + tap * (pass.end - pass.first) + share.first - pass.first;
        for (int64_t panel = 0; panel < own; panel += PANEL) {
          const int64_t width = least(PANEL, own - panel);
          const float* weights = memory.weights + ((before + panel) * plan.taps + tap * width) * narrow;
          each_block(memory, share.group, [&](const float* outputs, int64_t o, int64_t count) {
            const Product product{outputs + row * PITCH, 0,     weights + o * width, 0,     width,
                                  0,                     1,     count,               to + panel, pitch,
                                  o > 0};
            multiply<false>(product, stretch.count, width);
          });
        }
      });
    }
  }

  // The samples of channels first … end - 1 of one group of offsets, and (DOT) the products of their gradients with
  // each corner, which begin anew or are added to what is there.
  template <bool DOT>
  void sample(const Pass& pass, const Stretch& stretch, int64_t row, const DeformedTaps<D>& taps, int64_t first,
              int64_t end, bool anew, const Memory& memory, float* dots) const {
    const Axis* axes = plan.problem.axis + (3 - D);
    const int64_t width = pass.end - pass.first;
    for (int64_t tap = 0; tap < plan.taps; ++tap) {
      float* own_dots = dots + tap * CORNERS * LANES;
      for (int64_t p = 0; p < stretch.count; ++p) {
        const T* corners[CORNERS];
        corner_rows<D, const T>(corners, taps, tap, p, axes, pass.rows, stretch.sample - pass.sample, first,
                                Zeros<T>::of);
        const int64_t at = (row + p) * pitch + tap * width + first - pass.first;
        vec weight[CORNERS], dot[CORNERS] = {};
#pragma GCC unroll 8
        for (int corner = 0; corner < CORNERS; ++corner) weight[corner] = splat(taps.weight(corner, tap)[p]);
        each_vector(end - first, [&](int64_t c, int64_t some) {
          vec gradient = {}, total = {};
          if constexpr (DOT) gradient = load_count(memory.gradients + at + c, some);
#pragma GCC unroll 8
          for (int corner = 0; corner < CORNERS; ++corner) {
            const vec value = load_count(corners[corner] + c, some);
            total += weight[corner] * value;
            if constexpr (DOT) dot[corner] += gradient * value;
          }
          if (wanted.weights.data) store_count(memory.samples + at + c, total, some);
        });
        if constexpr (DOT) {
#pragma GCC unroll 8
          for (int corner = 0; corner < CORNERS; ++corner) {
            float& sum = own_dots[corner * LANES + p];
            sum = (anew ? 0 : sum) + total_of(dot[corner]);
          }
        }
      }
    }
  }

  // The weight of a corner without the mask, or its derivative along one axis.
  static vec side(const DeformedTaps<D>& taps, int64_t tap, int64_t lane, int corner, int along) {
    vec weight = splat(1);
    for (int a = 0; a < D; ++a) {
      const vec fraction = load(taps.fraction(a, tap) + lane);
      const bool higher = corner >> a & 1;
      if (a == along) {
        if (!higher) weight = -weight;
      } else {
        weight *= higher ? fraction : 1.f - fraction;
      }
    }
    return weight;
  }

  void write_masks(const DeformedTaps<D>& taps, const Stretch& stretch, int64_t group, const float* dots,
                   bool fresh) const {
    for (int64_t tap = 0; tap < plan.taps; ++tap)
      for (int64_t lane = 0; lane < stretch.count; lane += V) {
        vec total = {};
        for (int corner = 0; corner < CORNERS; ++corner)
          total += side(taps, tap, lane, corner, -1) * load(dots + (tap * CORNERS + corner) * LANES + lane);
        write(wanted.mask, stretch, group * plan.taps + tap, lane, total, fresh);
      }
  }

  void write_offsets(const DeformedTaps<D>& taps, const Stretch& stretch, int64_t group, const float* dots,
                     bool fresh) const {
    for (int64_t tap = 0; tap < plan.taps; ++tap)
      for (int a = 0; a < D; ++a)
        for (int64_t lane = 0; lane < stretch.count; lane += V) {
          vec total = {};
          for (int corner = 0; corner < CORNERS; ++corner)
            total += side(taps, tap, lane, corner, a) * load(dots + (tap * CORNERS + corner) * LANES + lane);
          total *= load(taps.mask(tap) + lane);
          write(wanted.offset, stretch, (group * plan.taps + tap) * D + a, lane, total, fresh);
        }
  }

  // At the positions of a stretch from `lane` on; added to what earlier passes wrote unless it is fresh.
  static void write(const Planes& planes, const Stretch& stretch, int64_t channel, int64_t lane, vec value,
                    bool fresh) {
    const int64_t at = stretch.sample * planes.batch + channel * planes.channel +
                       (stretch.begin + lane) * planes.position;
    const int64_t some = least(V, stretch.count - lane);
    if (planes.type == Type::float32) {
      write_numbers(static_cast<float*>(planes.data) + at, planes.position, value, some, fresh);
    } else {
      write_numbers(static_cast<bf16*>(planes.data) + at, planes.position, value, some, fresh);
    }
  }

  template <class U>
  static void write_numbers(U* to, int64_t step, vec value, int64_t count, bool fresh) {
    for (int64_t i = 0; i < count; ++i)
      omniconv::narrow(to + i * step, value[i] + (fresh ? 0 : widen(to[i * step])));
  }

  // Adds the samples' gradients of PANEL channels to the inputs that they were taken from.
  void scatter(const Pass& pass, const Wave& now, int64_t panel, const Memory& memory) const {
    const Axis* axes = plan.problem.axis + (3 - D);
    const int64_t begin = pass.first + panel * PANEL, width = pass.end - pass.first;
    alignas(64) float outside[PANEL] = {};
    for (int64_t number = now.begin; number < now.end; ++number) {
      const Stretch stretch = stretch_of(pass, number);
      const int64_t row = rows_before(number) - now.first_row;
      const int64_t behind = least(begin + PANEL, pass.end);
      each_piece(begin, behind, plan.per_offset, [&](int64_t group, int64_t first, int64_t end) {
        const DeformedTaps<D> taps = table_of(pass, now, number, group, memory);
        for (int64_t tap = 0; tap < plan.taps; ++tap)
          for (int64_t p = 0; p < stretch.count; ++p) {
            float* corners[CORNERS];
            corner_rows<D, float>(corners, taps, tap, p, axes, pass.into, stretch.sample - pass.sample, first, outside);
            const float* gradient = memory.gradients + (row + p) * pitch + tap * width + first - pass.first;
            vec weight[CORNERS];
#pragma GCC unroll 8
            for (int corner = 0; corner < CORNERS; ++corner) weight[corner] = splat(taps.weight(corner, tap)[p]);
            each_vector(end - first, [&](int64_t c, int64_t some) {
              const vec value = load_count(gradient + c, some);
#pragma GCC unroll 8
              for (int corner = 0; corner < CORNERS; ++corner)
                store_count(corners[corner] + c, load_count(corners[corner] + c, some) + weight[corner] * value, some);
            });
          }
      });
    }
  }

  int64_t panels_of(const Pass& pass) const {
    int64_t count = 0;
    plan.each_share(pass.first, pass.end,
                    [&](const Share& share) { count += ceil_div(share.end - share.first, PANEL); });
    return count;
  }

  // sums[tap][output][channel] += Σ over positions of the output's gradient · samples, for one tap and panel. Lanes
  // behind a share's are summed too, of whatever lies there, and never read.
  void correlate(const Pass& pass, const Wave& now, int64_t task, const Memory& memory) const {
    const int64_t tap = task % plan.taps, wanted_panel = task / plan.taps;
    int64_t panels = 0;
    each_laid(pass.first, pass.end, pass.lanes_before, [&](const Share& share, int64_t own, int64_t before) {
      const int64_t panel = (wanted_panel - panels) * PANEL;
      if (panel >= 0 && panel < own) {
        const float* samples = memory.samples + tap * (pass.end - pass.first) + share.first - pass.first + panel;
        float* sums = memory.sums + (before * plan.taps + tap * own) * narrow + panel;
        each_block(memory, share.group, [&](const float* outputs, int64_t o, int64_t count) {
          const Product product{outputs, 0, samples, 0, pitch, 0, 1, now.rows, sums + o * own, own, true};
          multiply<true>(product, count, least(PANEL, own - panel));
        });
      }
      panels += ceil_div(own, PANEL);
    });
  }

  // Of each share, in panels of a vector or two: [tap][output][channel].
  void pack_weights(float* packed) const {
    const Weights& from = call.weights;
    plan.parallel(narrow, [&](int64_t output) {
      each_laid(0, plan.channels, 0, [&](const Share& share, int64_t own, int64_t before) {
        for (int64_t c = 0; c < own; c += V) {
          const int64_t panel = c / PANEL * PANEL, width = least(PANEL, own - panel);
          const T* filter = static_cast<const T*>(from.data) + filter_at(from, share, output, share.first + c);
          for (int64_t tap = 0; tap < plan.taps; tap += V) {
            alignas(64) float turned[V * V];
            const int64_t some = least(V, plan.taps - tap);
            pack_transposed(turned, filter + tap, LaneAt(0, from.wide).of, some, least(V, share.end - share.first - c));
            for (int64_t t = 0; t < some; ++t)
              store(packed + ((before + panel) * plan.taps + (tap + t) * width) * narrow + output * width + c - panel,
                    load(turned + t * V));
          }
        }
      });
    });
  }

  void write_weights(const float* sums) const {
    const Weights& to = wanted.weights;
    plan.parallel(narrow, [&](int64_t output) {
      each_laid(0, plan.channels, 0, [&](const Share& share, int64_t own, int64_t before) {
        for (int64_t c = share.first; c < share.end; ++c)
          for (int64_t tap = 0; tap < plan.taps; ++tap)
            to.set(filter_at(to, share, output, c) + tap,
                   sums[(before * plan.taps + tap * own) * narrow + output * own + c - share.first]);
      });
    });
  }

  // The first tap of an output of a share's group and of one channel.
  int64_t filter_at(const Weights& weights, const Share& share, int64_t output, int64_t channel) const {
    return weights.head(share.group) * weights.group + output * weights.narrow +
           (channel - share.group * plan.problem.wide) * weights.wide;
  }

  // From rows of a pass to the input's gradient.
  void write_input(const Pass& pass) const {
    const int64_t pieces = ceil_div(plan.in_positions, POSITIONS), step = pass.into.pitch;
    plan.parallel(pass.samples * pieces, [&](int64_t task) {
      const int64_t begin = task % pieces * POSITIONS, local = task / pieces;
      write_stretch<T>(pass.into.data + local * pass.into.batch + begin * step, step, wanted.input,
                       {pass.sample + local, begin, least(POSITIONS, plan.in_positions - begin)}, pass.first,
                       pass.end - pass.first);
    });
  }
};

template <class T>
int64_t deformable_gradient(const Deformable& call, const Planes& grad, const DeformableGradients& wanted,
                            float* workspace, const Host& host) {
  const auto run = [&](const auto& gradient) {
    if (workspace) gradient.run(workspace);
    return gradient.floats();
  };
  if (call.dim == 1) return run(DeformableGradient<T, 1>(call, grad, wanted, host));
  if (call.dim == 2) return run(DeformableGradient<T, 2>(call, grad, wanted, host));
  return run(DeformableGradient<T, 3>(call, grad, wanted, host));
}

}  // namespace
}  // namespace omniconv
