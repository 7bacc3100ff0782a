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

// A tensor whose positions lie equally far apart: element (n, c, p) at batch · n + channel · c + position · p, where
// channel or position is 1.
struct Planes {
  void* data;
  Type type;
  int64_t batch, channel, position;
};

// A convolution whose taps are moved: by `dim` numbers, along the last axes, for each tap of each output position and
// each of `offset_groups` groups of channels.
struct Deformable {
  Problem problem;  // the input is wide
  int64_t dim, offset_groups;
  Planes input, offset, mask;  // mask: factors of the taps, or null; offset and mask may have a type of their own
  Weights weights;
};

// Its gradients; data is null where none is wanted.
struct DeformableGradients {
  Planes input, offset, mask;
  Weights weights;
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
  // output = bias + Σ weights · mask · input at moved positions; it too returns the floats of workspace that it needs
  int64_t (*deformable)(const Deformable&, const Planes& output, const void* bias, float* workspace, const Host&);
  // and its gradients, from the output's
  int64_t (*deformable_gradient)(const Deformable&, const Planes& grad, const DeformableGradients&, float* workspace,
                                 const Host&);
};

}  // namespace omniconv
