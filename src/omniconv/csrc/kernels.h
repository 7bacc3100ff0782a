// SPDX-License-Identifier: Apache-2.0
// What every instruction set provides: one table of functions, in whose files nothing of torch is included.
#pragma once

#include "geometry.h"

namespace omniconv {

struct Kernels {
  const char* isa;
  int64_t lanes;
  // output = bias + Σ weights · input; output narrow and input wide, or (scatter) the other way round
  void (*sums)(const Problem&, bool scatter, const View& input, const View& output, const Weights&, const void* bias,
               const Host&);
  // the gradients of weights and bias from the wide and the narrow tensor; bias, of the narrow one, may be null
  int64_t (*gradient_floats)(const Problem&, const View& wide, const View& narrow, const Host&);
  void (*gradient)(const Problem&, const View& wide, const View& narrow, const Weights& gradient, void* bias_gradient,
                   float* workspace, const Host&);
};

}  // namespace omniconv
