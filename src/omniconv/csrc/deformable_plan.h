// SPDX-License-Identifier: Apache-2.0
// How a deformable convolution is cut: into passes over channels, samples that are packed together, and stretches of
// output positions; and how its tensors and weights are laid for it.
//
// Samples are taken where their channels lie side by side. A tensor that lies otherwise is packed so, as many channels
// and samples at a time as add little to the memory of the call.
#pragma once

#include "arena.h"
#include "blocked_pack.h"
#include "deformed_taps.h"
#include "tasks.h"

namespace omniconv {
namespace {

constexpr int64_t PACKED_FLOATS = 1 << 18;  // that are packed at once in any case
constexpr int64_t PACKED_SHARE = 10;        // or this part of what the call reads and writes

// Channels first … end - 1, all of one group of weights.
struct Share {
  int64_t group, first, end;
};

// Calls each(piece number, first, end) for the pieces of first … end - 1 that the multiples of `size` cut.
template <class Each>
void each_piece(int64_t first, int64_t end, int64_t size, const Each& each) {
  for (int64_t at = first; at < end;) {
    const int64_t next = least(end, (at / size + 1) * size);
    each(at / size, at, next);
    at = next;
  }
}

// How far each of V channels lies from the one with number 0.
struct LaneAt {
  int64_t of[V];
  LaneAt(int64_t first, int64_t channel) {
    for (int64_t lane = 0; lane < V; ++lane) of[lane] = (first + lane) * channel;
  }
};

struct DeformablePlan {
  const Deformable& call;
  const Problem& problem;
  const Host& host;
  int64_t taps, channels, outputs;            // outputs: channels of the output
  int64_t in_positions, out_positions;        // of a sample
  int64_t per_offset;                         // channels of a group of offsets
  int64_t stretches;                          // of a sample
  bool direct, scattered;                     // direct: samples are taken from the tensor itself
  int64_t chunk, samples;                     // channels of a pass, samples that are packed together
  int64_t threads;

  // passes: whether sums may be kept where results are, between passes of at most most_chunk channels, of whole panels.
  // scattered: whether inputs have gradients that are summed where inputs are packed.
  DeformablePlan(const Deformable& call_, const Host& host_, bool passes, int64_t most_chunk, bool scattered_)
      : call(call_),
        problem(call_.problem),
        host(host_),
        taps(taps_of(problem)),
        channels(problem.groups * problem.wide),
        outputs(problem.groups * problem.narrow),
        in_positions(1),
        out_positions(1),
        per_offset(channels / call.offset_groups) {
    for (const Axis& axis : problem.axis) {
      in_positions *= axis.wide;
      out_positions *= axis.narrow;
    }
    stretches = ceil_div(out_positions, POSITIONS);
    direct = call.input.channel == 1;
    scattered = scattered_;
    const int64_t sample = in_positions * whole_vectors(channels);
    const int64_t others = problem.batch * (in_positions * channels + out_positions * outputs) / PACKED_SHARE;
    const int64_t room = most(PACKED_FLOATS, others);
    const int64_t parts = direct && !scattered ? 1 : ceil_div(sample, room);
    const int64_t fitting = most(least(most_chunk, parts > 1 ? channels / parts / PANEL * PANEL : channels), PANEL);
    chunk = !passes || channels <= fitting ? channels : panels(ceil_div(channels, ceil_div(channels, fitting)));
    samples = direct && !scattered ? problem.batch
                                   : most(least(room / (in_positions * whole_vectors(chunk)), problem.batch), 1);
    const int64_t sampling = ceil_div(channels << call.dim, V), products = channels * ceil_div(problem.narrow, V);
    threads = threads_for(host, problem.batch * out_positions * taps * (sampling + products));
  }

  static int64_t panels(int64_t count) { return ceil_div(count, PANEL) * PANEL; }

  int64_t packed_pitch() const { return whole_vectors(chunk); }
  int64_t packed_rows() const { return direct ? 0 : samples * in_positions; }

  // The shares of channels first … end - 1.
  template <class Each>
  void each_share(int64_t first, int64_t end, const Each& each) const {
    each_piece(first, end, problem.wide, [&](int64_t group, int64_t a, int64_t b) { each(Share{group, a, b}); });
  }

  // Runs each(i) for i < count, on the threads of the call.
  template <class Each>
  void parallel(int64_t count, const Each& each) const {
    const int64_t workers = least(threads, count);
    if (workers < 1) return;
    run_tasks(host, Split::of_units(workers, 1, count, true), [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) each(task.first_row);
    });
  }

  // Rows of the input for the channels from `first` on, packed into `memory` unless they lie so.
  template <class T>
  Rows<const T> rows_of(int64_t first_sample, int64_t count, int64_t first, int64_t end, T* memory) const {
    const T* from = static_cast<const T*>(call.input.data) + first_sample * call.input.batch;
    if (direct) return {from, call.input.batch, call.input.position, 0};
    const int64_t pitch = packed_pitch(), batch = in_positions * pitch;
    constexpr int64_t PIECE = 16 * V;
    const int64_t blocks = ceil_div(end - first, V), pieces = ceil_div(in_positions, PIECE);
    parallel(count * blocks * pieces, [&](int64_t task) {
      const int64_t block = task % blocks, piece = task / blocks % pieces, sample = task / blocks / pieces;
      const int64_t lanes = least(end - first - block * V, V), begin = piece * PIECE;
      pack_transposed(memory + sample * batch + begin * pitch + block * V, from + sample * call.input.batch + begin,
                      LaneAt(first + block * V, call.input.channel).of, least(in_positions - begin, PIECE), lanes,
                      pitch);
    });
    return {memory, batch, pitch, first};
  }
};

// Where the channels of a stretch begin, from `first` on.
template <class T>
OMNICONV_INLINE T* stretch_at(const Planes& planes, const Stretch& stretch, int64_t first) {
  return static_cast<T*>(planes.data) + stretch.sample * planes.batch + stretch.begin * planes.position +
         first * planes.channel;
}

// Channels first … first + count - 1 at each position of a stretch, in float32, rows of them `pitch` apart.
template <class T>
void read_stretch(float* to, int64_t pitch, const Planes& planes, const Stretch& stretch, int64_t first,
                  int64_t count) {
  const T* from = stretch_at<T>(planes, stretch, first);
  each_vector(count, [&](int64_t c, int64_t some) {
    if (planes.channel == 1) {
      for (int64_t p = 0; p < stretch.count; ++p)
        store(to + p * pitch + c, load_count(from + p * planes.position + c, some));
    } else {
      pack_transposed(to + c, from, LaneAt(c, planes.channel).of, stretch.count, some, pitch);
    }
  });
}

// The way back.
template <class T>
void write_stretch(const float* from, int64_t pitch, const Planes& planes, const Stretch& stretch, int64_t first,
                   int64_t count) {
  T* to = stretch_at<T>(planes, stretch, first);
  each_vector(count, [&](int64_t c, int64_t some) {
    if (planes.channel == 1) {
      for (int64_t p = 0; p < stretch.count; ++p)
        store_count(to + p * planes.position + c, load(from + p * pitch + c), some);
    } else {
      unpack_transposed(to, LaneAt(c, planes.channel).of, from + c, stretch.count, some, pitch);
    }
  });
}

// No more numbers of a row that is outside the input are read than this.
template <class T>
struct Zeros {
  alignas(64) static constexpr T of[DEPTH + V] = {};
};

}  // namespace
}  // namespace omniconv
