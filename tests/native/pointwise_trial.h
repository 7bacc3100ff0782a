// SPDX-License-Identifier: Apache-2.0
// One pointwise convolution with what follows it, and the gradient of its weights.
#pragma once

#include "drawn_pointwise.h"
#include "trial.h"
#include "witness.h"

namespace omniconv {
namespace {

template <class Numbers>
std::vector<Near> whole(const Numbers& values) {
  std::vector<Near> found;
  for (const auto value : values) found.push_back({double(value), 0});
  return found;
}

// The tensors of what follows a convolution, where they are.
struct FollowingMemory {
  Memory bias, scale, shift;
  const Following& given;

  FollowingMemory(const Following& given, Type type)
      : bias(type, given.bias.size()),
        scale(Type::float32, given.scale.size()),
        shift(Type::float32, given.shift.size()),
        given(given) {
    fill(bias, given.bias);
    fill(scale, given.scale);
    fill(shift, given.shift);
  }

  const void* of_bias() const { return given.bias.empty() ? nullptr : bias.data; }
  Affine affine() const {
    if (given.scale.empty()) return {};
    return {static_cast<const float*>(scale.data), static_cast<const float*>(shift.data)};
  }
};

// Weights as `pack` lays them for tensors that are not there yet, if it moves them at all, and those that are looked
// at; `changed`: of these one is not as it was.
struct PackedAhead {
  std::unique_ptr<Memory> packed, kept;

  PackedAhead(const Kernels& kernels, const Host& host, const Pointwise& call, Draw* changed) {
    Pointwise alone{};
    alone.inputs = call.inputs;
    alone.outputs = call.outputs;
    alone.by_rows = call.by_rows;
    alone.weights = call.weights;
    const int64_t floats = kernels.pack(alone, nullptr, host);
    if (!floats) return;
    packed = std::make_unique<Memory>(Type::float32, floats);
    kernels.pack(alone, static_cast<float*>(packed->data), host);
    kept = std::make_unique<Memory>(Type::float32, witnesses(call));
    for (int64_t number = 0; number < kept->count; ++number)
      write(kept->data, Type::float32, number, witness(call, number));
    if (changed) write(kept->data, Type::float32, changed->of(0, kept->count - 1), 100);
  }

  void tell(Pointwise& call) const {
    call.packed = packed ? static_cast<const float*>(packed->data) : nullptr;
    call.kept = packed ? static_cast<const float*>(kept->data) : nullptr;
  }
};

struct PointwiseTrial : Trial {
  PointwiseCase drawn;
  Laid input, grad, addend;
  Memory weights;
  FollowingMemory follows;

  PointwiseTrial(const Kernels& kernels, uint64_t seed) : PointwiseTrial(kernels, seed, drawn_pointwise(seed)) {}

  PointwiseTrial(const Kernels& kernels, uint64_t seed, PointwiseCase of)
      : Trial(kernels, seed, of.threads),
        drawn(std::move(of)),
        input(drawn.sizes(drawn.inputs, !drawn.back), drawn.type, drawn.input_layout, drawn.axes, draw),
        grad(drawn.sizes(drawn.outputs, false), drawn.type, drawn.grad_layout, drawn.axes, draw),
        addend(drawn.sizes(drawn.outputs, drawn.back), drawn.type, drawn.addend_layout, drawn.axes, draw),
        weights(drawn.type, drawn.turned ? (drawn.inputs - 1) * row() + drawn.outputs
                                         : (drawn.outputs - 1) * row() + drawn.inputs),
        follows(drawn.follows, drawn.type) {
    fill_met(input, !drawn.back, drawn.input);
    fill_met(grad, false, drawn.grad);
    if (!drawn.follows.addend.empty()) fill_met(addend, drawn.back, drawn.follows.addend);
    for (int64_t at = 0; at < drawn.inputs * drawn.outputs; ++at) {
      const int64_t output = at / drawn.inputs, from = at % drawn.inputs;
      const Matrix lie = matrix();
      write(weights.data, weights.type, output * lie.row + from * lie.column, drawn.weights[at]);
    }
  }

  int64_t row() const { return (drawn.turned ? drawn.outputs : drawn.inputs) + drawn.beyond; }
  Matrix matrix() const {
    return drawn.turned ? Matrix{weights.data, weights.type, 1, row()} : Matrix{weights.data, weights.type, row(), 1};
  }

  // Calls visit(number, place in memory) for the positions that meet; those between are neither read nor written.
  template <class Visit>
  void each_met(const Laid& laid, bool strided, const Visit& visit) const {
    int64_t number = 0, at[5];
    const int64_t(&step)[3] = drawn.stride;
    for (at[0] = 0; at[0] < laid.sizes.of[0]; ++at[0])
      for (at[1] = 0; at[1] < laid.sizes.of[1]; ++at[1])
        for (at[2] = 0; at[2] < laid.sizes.of[2]; at[2] += strided ? step[0] : 1)
          for (at[3] = 0; at[3] < laid.sizes.of[3]; at[3] += strided ? step[1] : 1)
            for (at[4] = 0; at[4] < laid.sizes.of[4]; at[4] += strided ? step[2] : 1) visit(number++, laid.place(at));
  }

  void fill_met(const Laid& laid, bool strided, Values& values) const {
    each_met(laid, strided, [&](int64_t number, int64_t at) {
      write(laid.memory.data, laid.memory.type, at, values[number]);
    });
    each_met(laid, strided, [&](int64_t number, int64_t at) { values[number] = int(laid.memory.at(at)); });
  }

  View met(const Laid& laid, bool strided) const {
    View view = laid.view();
    for (int axis = 0; axis < 3; ++axis) view.axis[axis] *= strided ? drawn.stride[axis] : 1;
    return view;
  }

  Pointwise call(const Laid& output) const {
    Pointwise made{};
    made.batch = drawn.batch;
    made.inputs = drawn.inputs;
    made.outputs = drawn.outputs;
    for (int axis = 0; axis < 3; ++axis) made.size[axis] = drawn.narrow[axis];
    made.by_rows = drawn.by_rows;
    made.input = met(input, !drawn.back);
    made.output = met(output, drawn.back);
    if (!drawn.follows.addend.empty()) made.addend = met(addend, drawn.back);
    made.weights = matrix();
    made.bias = follows.of_bias();
    made.affine = follows.affine();
    made.activation = drawn.follows.activation;
    return made;
  }

  void sums(bool ahead, bool changed = false) {
    const Laid output(drawn.sizes(drawn.outputs, drawn.back), drawn.type,
                      drawn.by_rows ? Layout::channels_inner : Layout::ordered, drawn.axes, draw, /*offset=*/false);
    Pointwise asked = call(output);
    const PackedAhead packed(kernels, host, asked, changed ? &draw : nullptr);
    if (ahead) packed.tell(asked);
    const int64_t floats = kernels.pointwise(asked, nullptr, host);
    const Owned workspace = aligned(floats * 4);
    const int64_t said = kernels.pointwise(asked, static_cast<float*>(workspace.get()), host);
    const bool seen = changed && packed.packed && asked.batch;
    answer("what it returns, call", 0, said, seen ? CHANGED : floats);
    if (seen) return;
    std::vector<Near> want =
        plain_pointwise(whole(drawn.input), drawn.batch, drawn.inputs, drawn.outputs, drawn.positions(), drawn.weights);
    plain_follow(want, drawn.outputs, drawn.positions(), drawn.follows);
    std::vector<bool> is_met(output.memory.count);
    each_met(output, drawn.back, [&](int64_t number, int64_t at) {
      answer("output", number, drawn.type, output.memory.at(at), want[number]);
      is_met[at] = true;
    });
    for (int64_t at = 0; at < output.memory.count; ++at)
      if (!is_met[at]) answer("output between, at", at, output.memory.at(at), NAN);
  }

  void plain_sums() { sums(false); }
  void packed_sums() { sums(true); }
  void changed_sums() { sums(true, true); }

  void gradient() {
    Pointwise sides = call(grad);
    sides.output = grad.view();
    const Memory found(drawn.type, (drawn.outputs - 1) * (drawn.inputs + drawn.beyond) + drawn.inputs);
    const Matrix gradient{found.data, found.type, drawn.inputs + drawn.beyond, 1};
    const Owned workspace = aligned(kernels.pointwise_gradient(sides, gradient, nullptr, host) * 4);
    kernels.pointwise_gradient(sides, gradient, static_cast<float*>(workspace.get()), host);
    const std::vector<double> want = plain_pointwise_gradient(drawn.input, drawn.grad, drawn.batch, drawn.inputs,
                                                              drawn.outputs, drawn.positions());
    for (int64_t at = 0; at < found.count; ++at) {
      const int64_t output = at / gradient.row, from = at % gradient.row;
      const bool inside = from < drawn.inputs;
      answer("weight gradient", at, found.at(at), inside ? kept(drawn.type, want[output * drawn.inputs + from]) : NAN);
    }
  }

  // What follows, over a tensor of the narrow positions that is there already, or beside it.
  void follow() {
    const Layout layout = drawn.by_rows ? Layout::channels_inner : Layout::ordered;
    Laid output(drawn.sizes(drawn.outputs, false), drawn.type, layout, drawn.axes, draw, /*offset=*/false);
    Laid added(drawn.sizes(drawn.outputs, false), drawn.type, layout, drawn.axes, draw, /*offset=*/false);
    Laid beside(drawn.sizes(drawn.outputs, false), drawn.type, layout, drawn.axes, draw, /*offset=*/false);
    Laid& from = draw.chance(50) ? beside : output;
    from.fill(drawn.grad);
    const bool adds = !drawn.follows.addend.empty();
    if (adds) added.fill(drawn.follows.addend);
    const int64_t positions = drawn.positions(), channels = drawn.outputs;
    const int64_t length = drawn.by_rows ? channels : positions;
    kernels.follow({output.view().data, from.view().data, adds ? added.view().data : nullptr, drawn.type,
                    drawn.batch * channels * positions / length, length, channels, drawn.by_rows, follows.affine(),
                    drawn.follows.activation},
                   host);
    Following rest = drawn.follows;
    rest.bias.clear();
    std::vector<Near> want = whole(drawn.grad);
    plain_follow(want, channels, positions, rest);
    output.each([&](int64_t number, int64_t at) {
      answer("followed output", number, drawn.type, output.memory.at(at), want[number]);
    });
  }

  // The way back through an activation, over tensors of the narrow positions.
  void activation_gradient() {
    const Layout layout = drawn.by_rows ? Layout::channels_inner : Layout::ordered;
    const auto tensor = [&] {
      return Laid(drawn.sizes(drawn.outputs, false), drawn.type, layout, drawn.axes, draw, /*offset=*/false);
    };
    Laid kept = tensor(), passed = tensor(), found = tensor();
    Values backwards(drawn.grad.rbegin(), drawn.grad.rend());
    kept.fill(drawn.grad);
    passed.fill(backwards);
    const int64_t positions = drawn.positions(), channels = drawn.outputs;
    const int64_t length = drawn.by_rows ? channels : positions;
    const bool adds = draw.chance(70);
    const Memory totals(drawn.type, adds ? channels : 0);
    const ActivationGradient asked{passed.view().data, kept.view().data, found.view().data,
                                   adds ? totals.data : nullptr, drawn.type,
                                   drawn.batch * channels * positions / length, length, channels, drawn.by_rows,
                                   drawn.follows.activation};
    const Owned workspace = aligned(kernels.activation_gradient(asked, nullptr, host) * 4);
    kernels.activation_gradient(asked, static_cast<float*>(workspace.get()), host);
    const std::vector<Near> want = plain_back(drawn.follows.activation, backwards, drawn.grad);
    std::vector<Near> sums(channels);
    found.each([&](int64_t number, int64_t at) {
      answer("gradient", number, drawn.type, found.memory.at(at), want[number]);
      Near& sum = sums[number / positions % channels];
      sum.value += want[number].value;
      sum.error += want[number].error;
      if (want[number].error) sum.error += 1e-6 * std::abs(want[number].value);
    });
    for (int64_t c = 0; adds && c < channels; ++c) answer("total", c, drawn.type, totals.at(c), sums[c]);
  }

  // A batch norm in training, over tensors of the narrow positions: sums of channels, then the numbers, either way.
  void norm() {
    const Layout layout = drawn.by_rows ? Layout::channels_inner : Layout::ordered;
    const auto tensor = [&] {
      return Laid(drawn.sizes(drawn.outputs, false), drawn.type, layout, drawn.axes, draw, /*offset=*/false);
    };
    Laid input = tensor(), passed = tensor(), forth = tensor(), back = tensor();
    Values own = drawn.grad, backwards(own.rbegin(), own.rend());
    input.fill(own);
    passed.fill(backwards);
    const int64_t positions = drawn.positions(), channels = drawn.outputs;
    const int64_t length = drawn.by_rows ? channels : positions;
    const auto line = [&](double step) {
      auto numbers = std::make_unique<Memory>(Type::float32, channels);
      for (int64_t c = 0; c < channels; ++c) write(numbers->data, Type::float32, c, float(step * double(c % 3 - 1)));
      return numbers;
    };
    const auto scale = line(1), shift = line(2), pilot = line(1), of_grad = line(2), of_input = line(1), rest = line(4);
    const auto at = [](const std::unique_ptr<Memory>& numbers) { return static_cast<const float*>(numbers->data); };
    Normed asked{};
    asked.input = input.view().data;
    asked.type = drawn.type;
    asked.rows = drawn.batch * channels * positions / length;
    asked.length = length;
    asked.channels = channels;
    asked.by_rows = drawn.by_rows;
    asked.affine = {at(scale), at(shift)};
    asked.pilot = at(pilot);
    asked.of_grad = at(of_grad);
    asked.of_input = at(of_input);
    asked.rest = at(rest);
    for (const bool backward : {false, true}) {
      asked.grad = backward ? passed.view().data : nullptr;
      asked.activation = backward ? drawn.follows.activation : Activation::none;
      const std::unique_ptr<double[]> totals(new double[2 * channels]);
      const Owned workspace = aligned(kernels.norm_sums(asked, nullptr, nullptr, host) * 4);
      kernels.norm_sums(asked, totals.get(), static_cast<float*>(workspace.get()), host);
      asked.activation = drawn.follows.activation;
      Laid& found = backward ? back : forth;
      asked.to = found.view().data;
      kernels.normalize(asked, host);
      std::vector<Near> normal, sums(2 * channels);
      Values before;
      for (size_t number = 0; number < own.size(); ++number) {
        const int64_t c = int64_t(number) / positions % channels;
        before.push_back(int(scale->at(c)) * own[number] + int(shift->at(c)));
        normal.push_back({double(before.back()), 0});
      }
      Following activates;
      activates.activation = drawn.follows.activation;
      if (!backward) plain_follow(normal, channels, positions, activates);
      const std::vector<Near> share = backward ? plain_back(drawn.follows.activation, backwards, before) : normal;
      found.each([&](int64_t number, int64_t place) {
        const int64_t c = number / positions % channels;
        const double distance = own[number] - pilot->at(c);
        Near one = backward ? share[number] : Near{distance, 0};
        sums[c].value += one.value;
        sums[channels + c].value += one.value * distance;
        if (one.error) one.error += 1e-6 * std::abs(one.value);
        sums[c].error += one.error;
        sums[channels + c].error += one.error * std::abs(distance);
        Near want = share[number];
        if (backward) {
          const double factor = of_grad->at(c);
          want.value = factor * want.value + of_input->at(c) * own[number] + rest->at(c);
          want.error = std::abs(factor) * want.error + (want.error ? 1e-6 * std::abs(want.value) : 0);
        }
        answer(backward ? "norm back" : "norm", number, drawn.type, found.memory.at(place), want);
      });
      for (int64_t c = 0; drawn.batch && c < 2 * channels; ++c)
        answer("norm sum", c, Type::float32, totals[c], sums[c]);
    }
  }

  static constexpr Entry<PointwiseTrial> entries[7] = {{"pointwise", &PointwiseTrial::plain_sums},
                                                       {"pointwise, packed ahead", &PointwiseTrial::packed_sums},
                                                       {"pointwise, changed since", &PointwiseTrial::changed_sums},
                                                       {"pointwise gradient", &PointwiseTrial::gradient},
                                                       {"follow", &PointwiseTrial::follow},
                                                       {"activation gradient", &PointwiseTrial::activation_gradient},
                                                       {"norm", &PointwiseTrial::norm}};
};

}  // namespace
}  // namespace omniconv
