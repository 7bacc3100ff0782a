// SPDX-License-Identifier: Apache-2.0
// What every instruction set provides: one table of functions, in whose files nothing of torch is included.
#pragma once

#include "geometry.h"

namespace omniconv {

// The gradients of a spatially separable convolution; data is null where none is wanted.
struct SeparableGradients {
  View input;
  Weights column, row, bias;
};

struct Kernels {
  const char* isa;
  // output = bias + Σ weights · input; output narrow and input wide, or (scatter) the other way round
  void (*sums)(const Problem&, bool scatter, const View& input, const View& output, const Weights&, const void* bias,
               const Host&);
  // the gradients of weights and bias from the wide and the narrow tensor; bias, of the narrow one, may be null; it
  // returns the floats of workspace that it needs, and without one computes nothing
  int64_t (*gradient)(const Problem&, const View& wide, const View& narrow, const Weights& gradient,
                      void* bias_gradient, float* workspace, const Host&);
  // columns (along the second axis), then rows (along the last), of one channel each; the input wide, the output narrow
  void (*separable)(const Problem&, const View& input, const View& output, const Weights& column, const Weights& row,
                    const void* bias, const Host&);
  // and its gradients, with and without a workspace likewise
  int64_t (*separable_gradient)(const Problem&, const View& input, const View& grad, const Weights& column,
                                const Weights& row, const SeparableGradients&, float* workspace, const Host&);
};

}  // namespace omniconv
