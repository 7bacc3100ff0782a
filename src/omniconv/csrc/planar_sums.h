// SPDX-License-Identifier: Apache-2.0
// A convolution, or the transpose of one, plane by plane: lanes are neighbouring positions of the last axis.
#pragma once

#include "planar_packed.h"
#include "planar_three.h"

namespace omniconv {
namespace {
namespace planar {

// For tensors whose rows lie in order. The alternative, blocked_sums.h, transposes blocks of channels.
template <class T, Way WAY>
struct PlanarSums {
  const Problem& problem;
  const View& input;
  const View& output;
  const Weights& weights;
  const T* bias;
  const Host& host;

  PlanarSums(const Problem& problem, const View& input, const View& output, const Weights& weights, const T* bias,
             const Host& host)
      : problem(problem), input(input), output(output), weights(weights), bias(bias), host(host) {}

  void run() {
    if (ThreeSums<T, WAY>::suits(problem, input, output)) {
      ThreeSums<T, WAY>(problem, input, output, weights, bias, host).run();
    } else {
      PackedSums<T, WAY>(problem, input, output, weights, bias, host).run();
    }
  }

  // Where planes are long enough to pay for what each of them costs, as measured on two kinds of cache and kernel: a
  // single row needs some vectors, and rows that share their inputs with others half of one. Wide strides are left to
  // the transposes, which deal inputs faster.
  static bool suits(const Problem& problem, const View& input, const View& output) {
    const Axis& columns = problem.axis[2];
    if (input.axis[2] != 1 || output.axis[2] != 1 || columns.stride > 2) return false;
    if (ThreeSums<T, WAY>::suits(problem, input, output)) return true;
    const Cut<WAY> cut(problem);
    const int64_t enough = cut.tiling == Tiling::ROWS ? V / 2 : problem.wide * problem.narrow > 1 ? V : 3 * V;
    return outputs_of<WAY>(columns) >= enough && cut.variants <= MOST_VARIANTS && cut.shelf_bytes() <= MOST_BYTES;
  }
};

}  // namespace planar

using planar::PlanarSums;

}  // namespace
}  // namespace omniconv
