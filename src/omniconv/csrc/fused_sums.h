// SPDX-License-Identifier: Apache-2.0
// A depthwise convolution and the pointwise one behind it, and perhaps one before it, box by box of output positions:
// what stands between them is computed for one box at a time, and read again while it is in the cache. What the taps of
// two boxes reach is then expanded for both.
#pragma once

#include "isa_entries.h"
#include "pointwise_sums.h"

namespace omniconv {
namespace {

constexpr int64_t BETWEEN_FLOATS = 1 << 16, EXPANDED_FLOATS = 3 << 16;  // of a box, without and with an expansion
constexpr int64_t LEAST_BOX = 2 * TILE_HEIGHT;  // positions
// Of a tap, of an input position that the taps of a box reach, of a weight that a box reads, and of a box, beside a
// multiply-add of a tile.
constexpr double TAP_COST = 2, REACH_COST = 8, WEIGHT_COST = 4, BOX_COST = 1 << 16;
// What the threads wait for each other where they compute all of a sample in turn.
constexpr double TURN_COST = 1 << 19;
constexpr double EXPANDED_COST = 12;  // of a float that the expansion then writes for all of a sample
// Floats between two convolutions, of a sample: at most so many in turn, and where boxes are dear.
constexpr int64_t MOST_IN_TURN = 1 << 18, MOST_FOR_DEAR = 1 << 22;
constexpr int64_t FEW_BOXES = 4;           // of a thread
// For which boxes are cut, whatever number runs: another cut may add in another order.
constexpr int64_t PLANNED_THREADS = 4;

template <class T>
struct FusedSums {
  const Fused& call;
  const Host& host;
  PointwisePlan plan;
  int64_t middle;          // channels between the last two
  int64_t pitch;           // between positions (by rows) or channels of a box
  int64_t box[3], boxes[3];  // positions of a box along each axis, and boxes along it
  bool in_turn;              // a sample at a time, one convolution after the other, each on all threads

  FusedSums(const Fused& call_, const Host& host_)
      : call(call_), host(host_), plan(call_.pointwise, host_), middle(call_.pointwise.inputs) {
    const int64_t(&size)[3] = call.pointwise.size;
    const int64_t most_floats = call.expansion ? EXPANDED_FLOATS : BETWEEN_FLOATS;
    const int64_t most_positions = most(most_floats / floats_for_one(), LEAST_BOX);
    box[0] = 1;
    box[2] = ceil_div(size[2], ceil_div(size[2], most_positions));
    box[1] = 1;
    if (box[2] == size[2]) {
      box[1] = best(1, most(most_positions / size[2], 1));
    } else if (size[1] == 1) {
      box[2] = best(2, box[2]);
    }
    for (int axis = 0; axis < 3; ++axis) boxes[axis] = ceil_div(size[axis], box[axis]);
    pitch = plan.by_rows ? odd_lines(middle) : odd_lines(box[1] * box[2]);
    const int64_t axis = box[2] == size[2] ? 1 : 2;
    const int64_t whole = most(middle * plan.positions, call.expansion ? channels() * volume(call.depthwise) : 0);
    const double boxed = time(axis, box[axis]), turned = time_in_turn();
    const bool dear = call.expansion && 4 * turned < 3 * boxed;  // boxes that reach so much of each other
    in_turn = (sizeof(T) == sizeof(float) || call.expansion) && turned < boxed &&
              whole <= (dear ? MOST_FOR_DEAR : MOST_IN_TURN);
    if (in_turn) pitch = plan.by_rows ? odd_lines(middle) : odd_lines(plan.positions);
  }

  // Between the convolutions, for a position of the output.
  int64_t floats_for_one() const {
    int64_t reached = 1;
    for (const Axis& along : call.depthwise.axis) reached *= along.stride;
    return middle + (call.expansion ? channels() * reached : 0);
  }

  int64_t lanes() const { return plan.by_rows ? TILE_HEIGHT : TILE_WIDTH; }

  // Of the expansion of so many positions.
  double expansion_time(int64_t positions) const {
    if (!call.expansion) return 0;
    const double expanded = double(ceil_div(positions, lanes()) * lanes());
    return double(channels() * call.expansion->inputs) * (expanded + WEIGHT_COST);
  }

  // Positions that the taps of a box reach: one before `axis`, `some` along it, and all behind it.
  int64_t expanded(int axis, int64_t some) const {
    int64_t found = 1;
    for (int i = 0; i < 3; ++i) {
      const Axis& along = call.depthwise.axis[i];
      const int64_t positions = i < axis ? 1 : i == axis ? some : along.narrow;
      found *= least((positions - 1) * along.stride + span_of(along), along.wide);
    }
    return found;
  }

  // Of a box with `some` positions along an axis.
  double box_time(int axis, int64_t some) const {
    return block_time(axis, some) + expansion_time(expanded(axis, some));
  }

  // Without its expansion.
  double block_time(int axis, int64_t some) const {
    const Axis& along = call.depthwise.axis[axis];
    const int64_t across = axis == 1 ? call.pointwise.size[2] : 1;
    const double tiles = double(ceil_div(some * across, lanes()) * lanes()) * double(call.pointwise.outputs);
    const double taps = double(some * across * taps_of(call.depthwise)) * TAP_COST;
    const double reach = double(((some - 1) * along.stride + span_of(along)) * across) * REACH_COST;
    const double weights = double(call.pointwise.outputs) * WEIGHT_COST;
    return double(middle) * (tiles + taps + reach + weights) + BOX_COST;
  }

  // Of all boxes; where they are few, of the thread that has the most.
  double time(int axis, int64_t some) const {
    const int64_t all = call.pointwise.size[axis], whole = all / some, rest = all % some;
    const int64_t beside = axis == 2 ? call.pointwise.size[1] : 1;
    const int64_t others = call.pointwise.batch * call.pointwise.size[0] * beside, count = others * ceil_div(all, some);
    if (count <= FEW_BOXES * PLANNED_THREADS) return double(ceil_div(count, PLANNED_THREADS)) * box_time(axis, some);
    const double each = double(whole) * box_time(axis, some) + (rest ? box_time(axis, rest) : 0);
    return double(others) * each / double(PLANNED_THREADS);
  }

  // Of a sample's depthwise convolution on all threads, then its pointwise one.
  double time_in_turn() const {
    const int axis = call.pointwise.size[1] > 1 ? 1 : 2;
    const int64_t depths = call.pointwise.size[0];
    double all = double(depths) * (block_time(axis, call.pointwise.size[axis]) - BOX_COST);
    const int64_t reached = volume(call.depthwise);
    if (call.expansion) all += expansion_time(reached) + double(channels() * reached) * EXPANDED_COST;
    return double(call.pointwise.batch) * (all / double(PLANNED_THREADS) + TURN_COST);
  }

  // How many positions of an axis make a box, up to `limit`, for the least time.
  int64_t best(int axis, int64_t limit) const {
    int64_t found = 1;
    double least_time = 1e300;
    for (int64_t some = 1; some <= least(limit, call.pointwise.size[axis]); ++some) {
      if (const double one = time(axis, some); one < least_time) {
        least_time = one;
        found = some;
      }
    }
    return found;
  }

  // The depthwise weights and bias in float32.
  struct Taps {
    Weights taps;
    const void* bias;
  };

  int64_t packed_floats() const { return plan.packs() ? whole_lines(plan.packed_floats() * 4) / 4 : 0; }
  int64_t filter() const { return taps_of(call.depthwise); }
  int64_t widened_floats() const {
    return sizeof(T) == sizeof(float) ? 0 : (whole_lines(middle * filter() * 4) + whole_lines(middle * 4)) / 4;
  }
  // The weights of the expansion, if they are to be packed, and (where they are not of float32) its biases.
  int64_t expansion_floats() const {
    if (!call.expansion) return 0;
    const Pointwise& first = *call.expansion;
    const PointwisePlan own(first, host);
    const int64_t weights = own.packs() ? whole_lines(own.packed_floats() * 4) / 4 : 0;
    return weights + (sizeof(T) == sizeof(float) ? 0 : whole_lines(first.outputs * 4) / 4);
  }
  int64_t floats() const { return packed_floats() + expansion_floats() + widened_floats() + turn_floats() + V; }
  int64_t between_rows() const { return plan.by_rows ? plan.positions : middle; }
  // Of the biases of either pointwise convolution, which follow one another.
  int64_t across_floats() const {
    const int64_t own = PointwiseSums<T, float>::least_floats(call.pointwise);
    return call.expansion ? most(own, PointwiseSums<float, T>::least_floats(*call.expansion)) : own;
  }
  int64_t turn_floats() const {
    if (!in_turn) return 0;
    return (whole_lines(between_rows() * pitch * 4) + whole_lines(across_floats() * 4) +
            whole_lines(expanded_floats(call.depthwise) * 4)) / 4;
  }

  // Both pointwise convolutions, their weights packed, and what of the depthwise one is read in float32.
  struct Parts {
    Pointwise expansion, across;
    Taps depthwise;
  };

  // Whether the weights were those that are packed.
  bool run(float* workspace) const {
    Arena arena{reinterpret_cast<char*>(workspace)};
    Parts parts{{}, call.pointwise, {call.taps, call.depthwise_bias}};
    if (plan.packs()) parts.across.packed = packed(plan, arena);
    if (call.expansion) {
      const PointwisePlan own(*call.expansion, host);
      parts.expansion = *call.expansion;
      if (own.packs()) parts.expansion.packed = packed(own, arena);
      parts.expansion.bias = widened(arena, own.call.bias, own.call.outputs);
    }
    Taps& depthwise = parts.depthwise;
    if constexpr (sizeof(T) != sizeof(float)) {
      depthwise.taps.data = const_cast<void*>(widened(arena, call.taps.data, middle * filter()));
      depthwise.taps.type = Type::float32;
      depthwise.bias = widened(arena, call.depthwise_bias, middle);
    }
    if (in_turn) return sum_in_turn(parts, arena);
    // A box does not look at all of the weights that it meets: each looks at a share of them, below.
    const Pointwise across = parts.across, expansion = parts.expansion;
    parts.across.kept = parts.expansion.kept = nullptr;
    const int64_t units = boxes[0] * boxes[1] * boxes[2], tasks = units * call.pointwise.batch;
    const Split split = Split::of_units(least(plan.threads, most(tasks, 1)), 1, units, true, call.pointwise.batch);
    bool changed = false;
    run_tasks(host, split, [&](Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) {
        const int64_t number = task.sample * units + task.first_row;
        const Watch behind(across, number, tasks), before(expansion, number, tasks);
        sum_box(parts, task.sample, task.first_row);
        if (!behind.same() || !before.same()) __atomic_store_n(&changed, true, __ATOMIC_RELAXED);
      }
    });
    return !changed;
  }

  const float* packed(const PointwisePlan& of, Arena& arena) const {
    float* to = arena.take<float>(of.packed_floats());
    of.template pack<T>(to, host);
    return to;
  }

  // Numbers of T in float32, themselves where they are.
  static const void* widened(Arena& arena, const void* numbers, int64_t count) {
    if (sizeof(T) == sizeof(float) || !numbers) return numbers;
    float* to = arena.take<float>(count);
    widen_run(to, static_cast<const T*>(numbers), count);
    return to;
  }

  static int64_t offset(const View& view, const int64_t (&place)[3]) {
    return place[0] * view.axis[0] + place[1] * view.axis[1] + place[2] * view.axis[2];
  }

  template <class U>
  static View from(const View& view, int64_t sample, const int64_t (&place)[3]) {
    View found = view;
    if (found.data) found.data = static_cast<U*>(found.data) + sample * view.batch + offset(view, place);
    return found;
  }

  bool sum_in_turn(Parts& parts, Arena& arena) const {
    constexpr int64_t FIRST[3] = {0, 0, 0};
    float* expanded = arena.take<float>(expanded_floats(call.depthwise));
    float* between = arena.take<float>(between_rows() * pitch);
    float* bias = arena.take<float>(across_floats());
    Pointwise across = parts.across;
    across.batch = 1;
    across.input = view_between(between, across);
    Problem part = call.depthwise;
    part.batch = 1;
    bool same = true;
    for (int64_t sample = 0; sample < call.pointwise.batch; ++sample) {
      across.output = from<T>(call.pointwise.output, sample, FIRST);
      across.addend = from<T>(call.pointwise.addend, sample, FIRST);
      View input = from<T>(call.input, sample, FIRST);
      if (call.expansion) same &= expand(parts, sample, FIRST, part, expanded, bias, host, input);
      OMNICONV_ISA::sums(part, false, input, across.input, parts.depthwise.taps, parts.depthwise.bias, host);
      if (call.between != Activation::none || call.affine.scale) {
        const int64_t rows = between_rows(), pieces = least(rows, 4 * plan.threads);
        run_tasks(host, Split::of_units(plan.threads, 1, pieces, true), [&](Dealer& dealer) {
          Task task;
          while (dealer.deal(task)) {
            const int64_t first = rows * task.first_row / pieces, end = rows * (task.first_row + 1) / pieces;
            activate(between + first * pitch, first, end - first, plan.by_rows ? middle : plan.positions);
          }
        });
      }
      same &= PointwiseSums<T, float>(across, host).run(bias);
      across.kept = parts.expansion.kept = nullptr;  // that sample looked at all of them
    }
    return same;
  }

  // What `part` reads, from the position `first` of a sample on, out of the expansion; whether that met its weights.
  bool expand(const Parts& parts, int64_t sample, const int64_t (&first)[3], const Problem& part, float* to,
              float* bias, const Host& threads, View& found) const {
    Pointwise expansion = parts.expansion;
    expansion.batch = 1;
    for (int axis = 0; axis < 3; ++axis) expansion.size[axis] = part.axis[axis].wide;
    expansion.input = from<T>(expansion.input, sample, first);
    found = expansion.output = view_expanded(to, part);
    return PointwiseSums<float, T>(expansion, threads).run(bias);
  }

  View view_expanded(float* to, const Problem& part) const {
    const Axis* axis = part.axis;
    const int64_t step = plan.by_rows ? odd_lines(channels()) : 1, row = step * axis[2].wide;
    return {to, Type::float32, 0, plan.by_rows ? 1 : odd_lines(volume(part)), {row * axis[1].wide, row, step}};
  }

  int64_t expanded_floats(const Problem& part) const {
    if (!call.expansion) return 0;
    return plan.by_rows ? volume(part) * odd_lines(channels()) : channels() * odd_lines(volume(part));
  }

  View view_between(float* between, const Pointwise& across) const {
    const int64_t step = plan.by_rows ? pitch : 1, row = step * across.size[2];
    return {between, Type::float32, 0, plan.by_rows ? 1 : pitch, {row * across.size[1], row, step}};
  }

  void sum_box(const Parts& parts, int64_t sample, int64_t number) const {
    int64_t place[3];
    for (int axis = 2; axis >= 0; --axis) {
      place[axis] = number % boxes[axis] * box[axis];
      number /= boxes[axis];
    }
    Pointwise across = parts.across;
    across.batch = 1;
    for (int axis = 0; axis < 3; ++axis) across.size[axis] = least(box[axis], across.size[axis] - place[axis]);
    across.output = from<T>(across.output, sample, place);
    across.addend = from<T>(across.addend, sample, place);
    int64_t first[3];
    const Problem part = reached(place, across, first);
    const int64_t positions = across.size[1] * across.size[2], rows = plan.by_rows ? positions : middle;
    const int64_t widened = sizeof(T) == sizeof(float) || call.expansion ? 0 : volume(part) * whole_vectors(channels());
    Arena arena{static_cast<char*>(host.held(whole_lines(rows * pitch * 4) + whole_lines(across_floats() * 4) +
                                             whole_lines(widened * 4) + whole_lines(expanded_floats(part) * 4)))};
    float* between = arena.take<float>(rows * pitch);
    float* bias = arena.take<float>(across_floats());
    across.input = view_between(between, across);
    const Host alone = {by_itself, host.scratch, nullptr, 1};
    View input;
    if (call.expansion) {
      expand(parts, sample, first, part, arena.take<float>(expanded_floats(part)), bias, alone, input);
    } else {
      input = from<T>(call.input, sample, first);
      if constexpr (sizeof(T) != sizeof(float)) input = widen_box(input, part, arena.take<float>(widened));
    }
    OMNICONV_ISA::sums(part, false, input, across.input, parts.depthwise.taps, parts.depthwise.bias, alone);
    if (call.between != Activation::none || call.affine.scale)
      activate(between, 0, rows, plan.by_rows ? middle : positions);
    PointwiseSums<T, float>(across, alone).run(bias);
  }

  int64_t channels() const { return call.depthwise.groups * call.depthwise.wide; }
  static int64_t volume(const Problem& part) { return part.axis[0].wide * part.axis[1].wide * part.axis[2].wide; }

  // The input of a box in float32, which the sums of its taps are computed from and kept in.
  View widen_box(const View& input, const Problem& part, float* to) const {
    const Axis* axis = part.axis;
    const int64_t inner = plan.by_rows ? whole_vectors(channels()) : 1;
    View wide{to, Type::float32, 0, plan.by_rows ? 1 : volume(part),
              {inner * axis[2].wide * axis[1].wide, inner * axis[2].wide, inner}};
    const int64_t outer = plan.by_rows ? 1 : channels();
    for (int64_t c = 0; c < outer; ++c)
      for (int64_t d = 0; d < axis[0].wide; ++d)
        for (int64_t h = 0; h < axis[1].wide; ++h) {
          const T* row = static_cast<const T*>(input.data) + c * input.channel + d * input.axis[0] + h * input.axis[1];
          float* row_to = to + c * wide.channel + d * wide.axis[0] + h * wide.axis[1];
          if (!plan.by_rows) {
            widen_run(row_to, row, axis[2].wide);
          } else {
            for (int64_t w = 0; w < axis[2].wide; ++w)
              widen_run(row_to + w * inner, row + w * input.axis[2], channels());
          }
        }
    return wide;
  }

  static void widen_run(float* to, const T* from_, int64_t count) {
    each_vector(count, [&](int64_t n, int64_t some) { store_count(to + n, load_count(from_ + n, some), some); });
  }

  static void by_itself(int64_t count, Body body, void* context) { body(context, 0, count); }

  // The depthwise convolution of a box: of the inputs, from `first` on, that it reaches.
  Problem reached(const int64_t (&place)[3], const Pointwise& across, int64_t (&first)[3]) const {
    Problem part = call.depthwise;
    part.batch = 1;
    for (int axis = 0; axis < 3; ++axis) {
      Axis& along = part.axis[axis];
      const int64_t at = place[axis] * along.stride - along.before;
      const int64_t end = at + (across.size[axis] - 1) * along.stride + span_of(along);
      first[axis] = least(most(at, 0), along.wide - 1);
      along.narrow = across.size[axis];
      // behind the input as well as before it: all taps are outside
      along.before = at < along.wide ? first[axis] - at : end - at;
      along.wide = most(least(along.wide, end) - first[axis], 1);
    }
    return part;
  }

  // The affine map and the activation between the two; rows are channels, from `first` on, where they are no positions.
  void activate(float* rows, int64_t first, int64_t count, int64_t length) const {
    const Affine& affine = call.affine;
    with_activation(call.between, [&](auto activation) {
      for (int64_t row = first; row < first + count; ++row, rows += pitch)
        each_vector(length, [&](int64_t n, int64_t some) {
          vec value = load_count(rows + n, some);
          if (affine.scale && plan.by_rows) {
            value = value * load_count(affine.scale + n, some) + load_count(affine.shift + n, some);
          } else if (affine.scale) {
            value = value * affine.scale[row] + affine.shift[row];
          }
          store_count(rows + n, activation.of(value), some);
        });
    });
  }
};

template <class T>
int64_t fused_sums(const Fused& call, float* workspace, const Host& host) {
  const FusedSums<T> sums(call, host);
  return !workspace || sums.run(workspace) ? sums.floats() : CHANGED;
}

}  // namespace
}  // namespace omniconv
