// SPDX-License-Identifier: Apache-2.0
// The way back through a batch norm and the pointwise convolution before it, of positions enough for the kernel to take.
#pragma once

#include "trial.h"

namespace omniconv {
namespace {

struct NormedCase {
  static constexpr int64_t POSITIONS = 6144, EVERY = 16;  // the trial is long: one geometry of so many

  bool runs, takes_back;
  int64_t threads, axes;
  Sizes wide, narrow;  // of the input and the output, which have the same positions
  Layout layout;
  Activation activation;

  NormedCase(Draw& draw, uint64_t seed)
      : runs(seed % EVERY == 0),
        takes_back(draw.chance(80)),
        threads(draw.of(1, 4)),
        axes(draw.of(1, 3)),
        layout(draw.among({Layout::channels_inner, Layout::window, Layout::shuffled_channels})),
        activation(draw.among({Activation::none, Activation::relu, Activation::relu6})) {
    const int64_t batch = draw.of(1, 3), inner = axes > 1 ? draw.of(1, 70) : 1, outer = axes > 2 ? draw.of(1, 5) : 1;
    const int64_t middle = POSITIONS / (batch * inner * outer) + draw.of(1, 3);
    wide = {{batch, draw.of(1, 20), outer, axes > 1 ? middle : inner, axes > 1 ? inner : middle}};
    narrow = wide;
    narrow.of[1] = draw.of(1, 20);
  }

  int64_t positions() const { return wide.of[2] * wide.of[3] * wide.of[4]; }

  std::string text() const {
    std::ostringstream out;
    out << "batch " << wide.of[0] << ", " << wide.of[1] << " inputs, " << narrow.of[1] << " outputs, " << wide.of[2]
        << " x " << wide.of[3] << " x " << wide.of[4] << ", layout " << int(layout) << ", activation "
        << int(activation) << (takes_back ? ", back" : "") << ", threads " << threads;
    return out.str();
  }
};

struct NormedTrial : Trial {
  NormedCase drawn;

  NormedTrial(const Kernels& kernels, uint64_t seed) : Trial(kernels, seed, 1), drawn(draw, seed) {
    host.threads = drawn.threads;
  }

  std::unique_ptr<Memory> line(int64_t most) {
    auto numbers = std::make_unique<Memory>(Type::float32, drawn.narrow.of[1]);
    omniconv::fill(*numbers, draw.integers(numbers->count, most));
    return numbers;
  }

  void gradient() {
    if (!drawn.runs) return;
    const auto dense = [&](const Sizes& sizes) {
      return Laid(sizes, Type::float32, Layout::channels_inner, drawn.axes, draw, /*offset=*/false);
    };
    Laid input(drawn.wide, Type::float32, drawn.layout, drawn.axes, draw);
    Laid between = dense(drawn.narrow), passed = dense(drawn.narrow), back = dense(drawn.wide);
    const int64_t batch = drawn.wide.of[0], inputs = drawn.wide.of[1], outputs = drawn.narrow.of[1];
    Values from = draw.integers(drawn.wide.count(), 3), sums = draw.integers(drawn.narrow.count(), 4);
    Values grad = draw.integers(drawn.narrow.count(), 2), weights = draw.integers(outputs * inputs, 2);
    input.fill(from);
    between.fill(sums);
    passed.fill(grad);
    const Memory filters(Type::float32, outputs * inputs), found(Type::float32, outputs * inputs);
    omniconv::fill(filters, weights);
    const auto scale = line(2), shift = line(2), of_grad = line(2), of_input = line(1), rest = line(2);
    const auto at = [](const std::unique_ptr<Memory>& numbers) { return static_cast<const float*>(numbers->data); };
    Normed norm{};
    norm.input = between.view().data;
    norm.grad = passed.view().data;
    norm.type = Type::float32;
    norm.rows = batch * drawn.positions();
    norm.length = norm.channels = outputs;
    norm.by_rows = true;
    norm.affine = {at(scale), at(shift)};
    norm.of_grad = at(of_grad);
    norm.of_input = at(of_input);
    norm.rest = at(rest);
    norm.activation = drawn.activation;
    Pointwise call{};
    call.batch = batch;
    call.inputs = inputs;
    call.outputs = outputs;
    for (int axis = 0; axis < 3; ++axis) call.size[axis] = drawn.wide.of[2 + axis];
    call.by_rows = true;
    call.input = input.view();
    call.weights = {filters.data, Type::float32, inputs, 1};
    Pointwise turned = call;
    std::swap(turned.inputs, turned.outputs);
    turned.weights = {filters.data, Type::float32, 1, inputs};
    turned.output = back.view();
    const Pointwise* asked = drawn.takes_back ? &turned : nullptr;
    const Matrix gradient{found.data, Type::float32, inputs, 1};
    const int64_t floats = kernels.normed_gradient(norm, call, asked, gradient, nullptr, host);
    answer("whether it is taken, call", 0, floats != 0, 1);
    const Owned workspace = aligned(floats * 4);
    kernels.normed_gradient(norm, call, asked, gradient, static_cast<float*>(workspace.get()), host);

    Values before(sums.size()), through(sums.size());
    const auto channel = [&](size_t number) { return int64_t(number) / drawn.positions() % outputs; };
    for (size_t n = 0; n < sums.size(); ++n)
      before[n] = int(scale->at(channel(n))) * sums[n] + int(shift->at(channel(n)));
    const std::vector<Near> share = plain_back(drawn.activation, grad, before);
    for (size_t n = 0; n < sums.size(); ++n)
      through[n] = int(of_grad->at(channel(n)) * share[n].value + of_input->at(channel(n)) * sums[n] +
                       rest->at(channel(n)));
    const std::vector<double> of_weights =
        plain_pointwise_gradient(from, through, batch, inputs, outputs, drawn.positions());
    for (int64_t n = 0; n < found.count; ++n) answer("weight gradient", n, found.at(n), of_weights[n]);
    if (!asked) return;
    Values other(weights.size());  // input by input
    for (int64_t n = 0; n < found.count; ++n) other[n % inputs * outputs + n / inputs] = weights[n];
    std::vector<Near> given;
    for (const int number : through) given.push_back({double(number), 0});
    const std::vector<Near> want = plain_pointwise(given, batch, outputs, inputs, drawn.positions(), other);
    back.each([&](int64_t number, int64_t place) {
      answer("input gradient", number, back.memory.at(place), want[number].value);
    });
  }

  static constexpr Entry<NormedTrial> entries[1] = {{"normed gradient", &NormedTrial::gradient}};
};

}  // namespace
}  // namespace omniconv
