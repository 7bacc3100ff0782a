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

enum class Activation : int32_t { none, relu, relu6, silu, gelu, gelu_tanh, hardswish };

// Element (r, c) lies at data + row * r + column * c, in elements.
struct Matrix {
  void* data;
  Type type;
  int64_t row, column;
};

// A factor and a shift for each channel; null where there are none.
struct Affine {
  const float *scale, *shift;
};

// A pointwise convolution and what follows it: output = activation(affine(bias + Σ weights · input) + addend). Or, with
// `taps`, another convolution, and what follows that; its input may lie in any order in which it is readable.
struct Pointwise {
  int64_t batch, inputs, outputs;  // samples; channels of each, of a group
  int64_t size[3];                 // positions of either tensor
  bool by_rows;                    // whether channels lie side by side, in both tensors; else positions should; with
                                   // `taps` they do in the output
  View input, output;
  View addend;                     // lying as the output does; data is null where there is none
  Matrix weights;                  // of outputs × inputs; with `taps` they lie in order
  const void* bias;                // of the weights' type, or null
  Affine affine;
  Activation activation;
  const float* packed;             // weights as `pack` lays them for such tensors, or null
  const float* kept;               // those that are looked at (witness.h) as they were then; null: none is
  const Problem* taps;             // whose narrow tensor is the output, or null
};

// The output of a convolution, whose numbers lie without gaps: rows of the channels of a position (by_rows), or of the
// positions of a channel.
struct Followed {
  void* data;
  const void* from;    // what it is computed from, lying likewise: the same where it is computed in place
  const void* addend;  // lying likewise, or null
  Type type;
  int64_t rows, length, channels;
  bool by_rows;
  Affine affine;
  Activation activation;
};

// The way back through an activation, of tensors whose numbers lie alike and without gaps, as those of `Followed`.
struct ActivationGradient {
  const void *grad, *kept;  // kept: what the activation was computed from, or (ReLU, ReLU6) its result
  void* to;
  void* totals;  // of each channel, or null
  Type type;
  int64_t rows, length, channels;
  bool by_rows;
  Activation activation;
};

// A batch norm in training and an activation behind it, of tensors whose numbers lie alike and without gaps, as those of
// `Followed`: z = scale · x + shift of each channel, to = activation(z). The way back has a gradient, of whose share
// g = grad · activation'(z) the result is: to = of_grad · g + of_input · x + rest.
struct Normed {
  const void *input, *grad;  // grad is null on the way forward
  void* to;
  Type type;
  int64_t rows, length, channels;
  bool by_rows;
  Affine affine;
  const float* pilot;  // of each channel, a number near its own: sums are of distances d from it
  const float *of_grad, *of_input, *rest;
  Activation activation;
};

// A depthwise convolution, what follows it, and the pointwise one of that, whose own input stays unset. Before it may
// stand a pointwise one, with what follows that: the input is then its input, and its output stays unset.
struct Fused {
  const Pointwise* expansion;  // or null
  Problem depthwise;           // the input is wide
  View input;
  Weights taps;
  const void* depthwise_bias;  // of the input's type, or null
  Affine affine;               // then an activation, between the two
  Activation between;
  Pointwise pointwise;
};

// The kernels of a dynamic convolution: element (sample, head, tap, position), taps and positions axis by axis, lies
// at the sum of its strides. Absent axes have none.
struct Predicted {
  void* data;
  Type type;
  int64_t batch, head, tap[3], position[3];
};

// A convolution of each channel with the kernel of its head at each position.
struct Dynamic {
  Problem problem;  // groups: heads, of `wide` channels each; the input is wide
  View input;
  Predicted weights;
  bool everywhere;       // the kernels of one position are those of all
  bool softmax, renorm;  // over the taps; taps on padding get no share
};

// Its gradients; data is null where none is wanted.
struct DynamicGradients {
  View input;
  Predicted weights;
};

constexpr int64_t CHANGED = -1;

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
  // It returns the floats of workspace that it needs, and without one computes nothing; CHANGED where weights are no
  // longer those that were packed: then it is to be called again without these, and what it wrote does not count.
  int64_t (*pointwise)(const Pointwise&, float* workspace, const Host&);
  // The weights as it reads them; `to` may be null: it returns how many floats they are, none where they need not move.
  int64_t (*pack)(const Pointwise&, float* to, const Host&);
  // The gradient of its weights, from that of the sums of the products in the place of the output.
  int64_t (*pointwise_gradient)(const Pointwise&, const Matrix& gradient, float* workspace, const Host&);
  // The same through a norm behind the convolution, whose gradient and input (the sums) have one layout with channels
  // side by side, and (back, or null) the convolution of what the norm gives back, whose output lies without gaps; it
  // returns no floats where that is more work than each by itself.
  int64_t (*normed_gradient)(const Normed&, const Pointwise&, const Pointwise* back, const Matrix& gradient,
                             float* workspace, const Host&);
  // All of them at once; its workspace, and packed weights, likewise.
  int64_t (*fused)(const Fused&, float* workspace, const Host&);
  // In place, activation(affine(numbers) + addend).
  void (*follow)(const Followed&, const Host&);
  // to = grad · activation'(…), and its totals; with and without a workspace likewise
  int64_t (*activation_gradient)(const ActivationGradient&, float* workspace, const Host&);
  // Of each channel Σ d and Σ d² forward, Σ g and Σ g · d back; with and without a workspace likewise.
  int64_t (*norm_sums)(const Normed&, double* totals, float* workspace, const Host&);
  void (*normalize)(const Normed&, const Host&);
  // output = bias + Σ kernels of each position · input
  void (*dynamic)(const Dynamic&, const View& output, const void* bias, const Host&);
  // and its gradients, with and without a workspace likewise
  int64_t (*dynamic_gradient)(const Dynamic&, const View& grad, const DynamicGradients&, float* workspace, const Host&);
};

}  // namespace omniconv
