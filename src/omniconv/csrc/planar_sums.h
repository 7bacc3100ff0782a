// SPDX-License-Identifier: Apache-2.0
// A convolution, or the transpose of one, plane by plane: lanes are neighbouring positions of the last axis.
#pragma once

#include "planar_flat.h"
#include "planar_packed.h"
#include "planar_squares.h"
#include "planar_stream.h"
#include "planar_three.h"

namespace omniconv {
namespace {
namespace planar {

// A kernel whose taps lie along the depths shares inputs between those: depths and rows change places.
inline bool turns(const Problem& problem) { return problem.axis[1].taps == 1 && problem.axis[0].taps > 1; }

template <class U>
inline U turned(const U& from, bool turn) {
  U to = from;
  if (turn) {
    to.axis[0] = from.axis[1];
    to.axis[1] = from.axis[0];
  }
  return to;
}

// For tensors whose rows lie in order. The alternative, blocked_sums.h, transposes blocks of channels.
template <class T, Way WAY>
struct PlanarSums {
  Problem problem;
  View input, output;
  SumsCall<T> call;  // of those

  explicit PlanarSums(const SumsCall<T>& given)
      : problem(turned(given.problem, turns(given.problem))),
        input(turned(given.input, turns(given.problem))),
        output(turned(given.output, turns(given.problem))),
        call{problem, input, output, given.weights, given.bias, given.host} {}

  void run() const {
    if (FlatSums<T, WAY>::suits(problem, input, output)) return FlatSums<T, WAY>(call).run();
    if constexpr (sizeof(T) == sizeof(float)) {
      if (SquareSums<WAY>::suits(problem, input, output)) return SquareSums<WAY>(call).run();
    }
    if (ThreeSums<T, WAY>::suits(problem, input, output)) {
      ThreeSums<T, WAY>(call).run();
    } else if (StreamedSums<T, WAY>::suits(problem)) {
      StreamedSums<T, WAY>(call).run();
    } else {
      PackedSums<T, WAY>(call).run();
    }
  }

  // Where rows are long enough to pay for what each plane costs, as measured on a Xeon of the fourth generation: half a
  // vector where rows share their inputs; else three, less where there are several rows or where channels share inputs.
  // Wide strides are left to the transposes, which deal inputs faster.
  static bool suits(const Problem& given, const View& input, const View& output) {
    const Problem problem = turned(given, turns(given));
    const Axis& columns = problem.axis[2];
    if (input.axis[2] != 1 || output.axis[2] != 1 || columns.stride > 2) return false;
    if (FlatSums<T, WAY>::suits(problem, input, output) || SquareSums<WAY>::suits(problem, input, output) ||
        ThreeSums<T, WAY>::suits(problem, input, output))
      return true;
    const Cut<WAY> cut(problem);
    // Without a shuffle of any two vectors, the shifts of long kernels cost too much.
    if (V < 16 && cut.tiling == Tiling::COMB && columns.taps > 2 * V) return false;
    const int64_t lone = outputs_of<WAY>(problem.axis[1]) > 2 ? 3 * V / 2 : 3 * V;
    const int64_t enough = cut.tiling == Tiling::ROWS ? V / 2 : lone / least(cut.outputs, 3);
    return outputs_of<WAY>(columns) >= enough && cut.variants <= MOST_VARIANTS && cut.shelf_bytes() <= MOST_BYTES;
  }
};

}  // namespace planar

using planar::PlanarSums;

}  // namespace
}  // namespace omniconv
