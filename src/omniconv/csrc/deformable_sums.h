// SPDX-License-Identifier: Apache-2.0
// A deformable convolution: a stretch of positions is sampled for some taps and channels, and multiplied with their
// weights, while the samples are in the cache; no more of them exist at a time.
#pragma once

#include "deformable_plan.h"

namespace omniconv {
namespace {

template <class T, int D>
struct DeformableSums {
  const Deformable& call;
  const Planes& output;
  const T* bias;  // or null
  DeformablePlan plan;
  int64_t lanes;               // of a group's outputs, whole vectors
  int64_t sums_pitch;          // between the sums of a position
  int64_t band, band_taps;     // channels and taps that are sampled at once

  DeformableSums(const Deformable& call_, const Planes& output_, const void* bias_, const Host& host)
      : call(call_),
        output(output_),
        bias(static_cast<const T*>(bias_)),
        plan(call_, host, sizeof(T) == sizeof(float), call_.problem.groups * call_.problem.wide, false),
        lanes(whole_vectors(plan.problem.narrow)),
        sums_pitch(plan.problem.groups * lanes),
        band(least(plan.chunk, DEPTH)) {
    const int64_t at_once = most(DEPTH / band, 1);
    band_taps = ceil_div(plan.taps, ceil_div(plan.taps, at_once));
  }

  int64_t weight_floats() const { return plan.channels * plan.taps * lanes; }
  int64_t packed_floats() const { return plan.packed_rows() * plan.packed_pitch() * int64_t(sizeof(T)) / 4; }
  int64_t floats() const { return whole_lines(weight_floats() * 4) / 4 + packed_floats() + V; }

  void run(float* workspace) const {
    Arena arena{reinterpret_cast<char*>(workspace)};
    float* weights = arena.take<float>(weight_floats());
    T* packed = reinterpret_cast<T*>(arena.at);
    pack_weights(weights);
    for (int64_t sample = 0; sample < plan.problem.batch; sample += plan.samples) {
      const int64_t some = least(plan.samples, plan.problem.batch - sample);
      for (int64_t first = 0; first < plan.channels; first += plan.chunk) {
        const int64_t end = least(first + plan.chunk, plan.channels);
        const Rows<const T> rows = plan.template rows_of<T>(sample, some, first, end, packed);
        plan.parallel(some * plan.stretches, [&](int64_t task) {
          const int64_t begin = task % plan.stretches * POSITIONS;
          const int64_t local = task / plan.stretches;
          sum(rows, local, {sample + local, begin, least(plan.out_positions - begin, POSITIONS)}, first, end, weights);
        });
      }
    }
  }

  // The weights of the share that begins at `first`: panels of outputs, each tap by tap and channel by channel.
  float* share_at(float* weights, int64_t first) const { return weights + first * plan.taps * lanes; }

  // For each share of each pass, in panels of a vector or two, the rows of which are (tap, channel).
  void pack_weights(float* weights) const {
    const Weights& from = call.weights;
    plan.parallel(plan.problem.groups * (lanes / V), [&](int64_t task) {
      const int64_t group = task / (lanes / V), output_ = task % (lanes / V) * V, wide = plan.problem.wide;
      const int64_t panel = output_ / PANEL * PANEL, width = least(PANEL, lanes - panel);
      const int64_t own = least(V, plan.problem.narrow - output_);
      const LaneAt at(0, from.narrow);
      each_piece(group * wide, (group + 1) * wide, plan.chunk, [&](int64_t, int64_t first, int64_t end) {
        float* to = share_at(weights, first) + panel * (end - first) * plan.taps + output_ - panel;
        for (int64_t channel = first; channel < end; ++channel)
          for (int64_t tap = 0; tap < plan.taps; tap += V) {
            alignas(64) float turned[V * V];
            const int64_t some = least(V, plan.taps - tap);
            const T* filter = static_cast<const T*>(from.data) + from.head(group) * from.group +
                              output_ * from.narrow + (channel - group * wide) * from.wide + tap;
            pack_transposed(turned, filter, at.of, some, own);
            for (int64_t t = 0; t < some; ++t)
              store(to + ((tap + t) * (end - first) + channel - first) * width, load(turned + t * V));
          }
      });
    });
  }

  // One stretch, for the channels first … end - 1.
  void sum(const Rows<const T>& rows, int64_t local, const Stretch& stretch, int64_t first, int64_t end,
           float* weights) const {
    const int64_t table = DeformedTaps<D>::floats_for(band_taps);
    Arena arena{static_cast<char*>(plan.host.scratch(
        whole_lines(table * 4) + whole_lines(POSITIONS * PITCH * 4) + whole_lines(POSITIONS * sums_pitch * 4)))};
    const DeformedTaps<D> taps{arena.take<float>(table), band_taps};
    float* samples = arena.take<float>(POSITIONS * PITCH);
    float* sums = arena.take<float>(POSITIONS * sums_pitch);
    begin_sums(sums, stretch, first == 0);
    for (int64_t from = first; from < end; from += band) {
      const int64_t to = least(from + band, end);
      for (int64_t tap = 0; tap < plan.taps; tap += band_taps) {
        const DeformedTaps<D> some{taps.memory, least(band_taps, plan.taps - tap)};
        sample(rows, local, stretch, some, tap, from, to, samples);
        multiply_shares(samples, stretch.count, tap, some.taps, first, end, from, to, weights, sums);
      }
    }
    for (int64_t group = 0; group < plan.problem.groups; ++group)
      write_stretch<T>(sums + group * lanes, sums_pitch, output, stretch, group * plan.problem.narrow,
                       plan.problem.narrow);
  }

  // With the bias, or with what earlier passes have left.
  void begin_sums(float* sums, const Stretch& stretch, bool fresh) const {
    const int64_t narrow = plan.problem.narrow;
    for (int64_t group = 0; group < plan.problem.groups; ++group) {
      float* own = sums + group * lanes;
      if (!fresh) {
        read_stretch<float>(own, sums_pitch, output, stretch, group * narrow, narrow);
        continue;
      }
      each_vector(narrow, [&](int64_t o, int64_t some) {
        const vec value = bias ? load_count(bias + group * narrow + o, some) : vec{};
        for (int64_t p = 0; p < stretch.count; ++p) store(own + p * sums_pitch + o, value);
      });
    }
  }

  // samples[position][tap][channel], of the channels from … to - 1
  void sample(const Rows<const T>& rows, int64_t local, const Stretch& stretch, const DeformedTaps<D>& taps,
              int64_t first_tap, int64_t from, int64_t to, float* samples) const {
    const Axis* axes = plan.problem.axis + (3 - D);
    each_piece(from, to, plan.per_offset, [&](int64_t group, int64_t first, int64_t end) {
      place_taps(taps, call, stretch, group, first_tap);
      for (int64_t tap = 0; tap < taps.taps; ++tap)
        for (int64_t p = 0; p < stretch.count; ++p) {
          const T* corners[1 << D];
          corner_rows<D, const T>(corners, taps, tap, p, axes, rows, local, first, Zeros<T>::of);
          vec weight[1 << D];
#pragma GCC unroll 8
          for (int corner = 0; corner < 1 << D; ++corner) weight[corner] = splat(taps.weight(corner, tap)[p]);
          float* own = samples + p * PITCH + tap * (to - from) + first - from;
          each_vector(end - first, [&](int64_t c, int64_t some) {
            vec total = weight[0] * load_count(corners[0] + c, some);
#pragma GCC unroll 8
            for (int corner = 1; corner < 1 << D; ++corner)
              total += weight[corner] * load_count(corners[corner] + c, some);
            store_count(own + c, total, some);
          });
        }
    });
  }

  // first … end - 1: the channels of the pass, from … to - 1: those of the samples
  void multiply_shares(const float* samples, int64_t positions, int64_t tap, int64_t taps, int64_t first, int64_t end,
                       int64_t from, int64_t to, float* weights, float* sums) const {
    plan.each_share(from, to, [&](const Share& share) {
      const int64_t wide = plan.problem.wide;
      const int64_t begin = most(share.group * wide, first), all = least((share.group + 1) * wide, end) - begin;
      const float* filter = share_at(weights, begin);
      const int64_t own = share.end - share.first;
      for (int64_t panel = 0; panel < lanes; panel += PANEL) {
        const int64_t width = least(PANEL, lanes - panel);
        const bool whole = own == to - from && own == all;  // samples and weights of all taps follow each other
        const Product product{samples + share.first - from,
                              to - from,
                              filter + panel * all * plan.taps + (tap * all + share.first - begin) * width,
                              0,
                              width,
                              all * width,
                              whole ? 1 : taps,
                              whole ? taps * own : own,
                              sums + share.group * lanes + panel,
                              sums_pitch,
                              true};
        multiply<false>(product, positions, width);
      }
    });
  }
};

template <class T>
int64_t deformable_sums(const Deformable& call, const Planes& output, const void* bias, float* workspace,
                        const Host& host) {
  const auto run = [&](const auto& sums) {
    if (workspace) sums.run(workspace);
    return sums.floats();
  };
  if (call.dim == 1) return run(DeformableSums<T, 1>(call, output, bias, host));
  if (call.dim == 2) return run(DeformableSums<T, 2>(call, output, bias, host));
  return run(DeformableSums<T, 3>(call, output, bias, host));
}

}  // namespace
}  // namespace omniconv
