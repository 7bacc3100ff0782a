// SPDX-License-Identifier: Apache-2.0
// Between torch's tensors and what kernels are told. Nothing that kernels.cpp is compiled from sees torch.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels.h"

namespace omniconv {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Numbers = std::vector<int64_t>;

// The kernels of the instruction set that was picked when the library was loaded, and what they run on.
const Kernels& kernels();
Host host();

// The arguments of a schema behind its tensors, as core/flat.py writes them: a list is its length and its values.
struct Reader {
  const Numbers& numbers;
  size_t at = 0;

  int64_t number();
  const int64_t* list(int64_t length);
  void end() const;
};

// A tensor as it lies: asked of torch once, since each question is a call across libraries.
struct Seen {
  explicit Seen(const Tensor& tensor);

  int64_t dim;
  const int64_t* sizes;
  const int64_t* strides;
  int32_t dtype;

  int64_t axes() const { return dim - 2; }
  int64_t elements() const;
  Type type() const;
  bool contiguous() const;
  // Whether channels lie side by side and the axes behind them do not: torch's rule for channels last, which takes a
  // tensor that fits both ways for contiguous; for one axis too.
  bool channels_inner() const;
};

// Raises unless the tensor lies on the processor and has so many dimensions and a type that kernels have.
Seen check(const char* name, const Tensor& tensor, int64_t dim);
// … and the type of another, and these sizes.
Seen check(const char* name, const Tensor& tensor, const Seen& like, const int64_t* sizes, int64_t dim);

// A new tensor of `like`'s type, with its channels innermost or in order.
Tensor empty(const int64_t* sizes, int64_t dim, const Seen& like, bool channels_inner);
Tensor nothing(const Seen& like);  // of no elements, in the place of a gradient that was not asked for

// Memory that the next tensor of exactly so many bytes, new on this thread, is to lie in; it must outlive that.
struct Lent {
  void* data;
  int64_t bytes;
};
Lent& lent();
// What this thread keeps for that between calls; other numbers than the last move it, and nothing in it stays.
void* lendable(int64_t bytes);

// Tensors as kernels can read them, themselves if they are so: elements in order; or channels, or the last axis, side
// by side.
Tensor in_order(const Tensor& tensor);
Tensor readable(const Tensor& tensor);

// A (n, c, *spatial) tensor of up to three spatial axes.
View view(const Tensor& tensor);

// A (n, c, *spatial) tensor whose positions are equally far apart: itself if it is so.
Tensor even(const Tensor& tensor);
Planes planes(const Tensor& tensor);

// The positions that strided positions and dilated taps reach over, counted in room for every product.
int64_t span(int64_t positions, int64_t stride, int64_t taps, int64_t dilation);
// One axis of a convolution, or of a missing axis.
Axis axis_of(int64_t size, int64_t taps, int64_t stride, int64_t dilation, int64_t before, int64_t after);

// Temporary memory of one call, never null.
struct Workspace {
  explicit Workspace(int64_t floats);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  float* data;
};

}  // namespace omniconv
