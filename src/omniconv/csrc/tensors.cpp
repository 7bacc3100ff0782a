// SPDX-License-Identifier: Apache-2.0
#include "tensors.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "kept.h"

namespace omniconv {
namespace {

// Positions, strides, dilations and paddings up to here add and multiply with room to spare.
const int64_t MOST = int64_t(1) << 40;

}  // namespace

int64_t Reader::number() {
  STD_TORCH_CHECK(at < numbers.size(), "`numbers` are fewer than the convolution has");
  const int64_t number = numbers[at++];
  STD_TORCH_CHECK(-MOST <= number && number <= MOST, "a number of the convolution (=", number, ") is past 2^40");
  return number;
}

const int64_t* Reader::list(int64_t length) {
  STD_TORCH_CHECK(number() == length, "`numbers` must hold a list of ", length);
  for (int64_t left = length; left > 0; --left) number();
  return numbers.data() + at - length;
}

void Reader::end() const { STD_TORCH_CHECK(at == numbers.size(), "`numbers` are more than the convolution has"); }

Seen::Seen(const Tensor& tensor) {
  int64_t *found_sizes, *found_strides;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor.get(), &dim));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor.get(), &found_sizes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &found_strides));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  sizes = found_sizes;
  strides = found_strides;
}

int64_t Seen::elements() const {
  int64_t count = 1;
  for (int64_t axis = 0; axis < dim; ++axis) count *= sizes[axis];
  return count;
}

Type Seen::type() const { return dtype == aoti_torch_dtype_float32() ? Type::float32 : Type::bfloat16; }

bool Seen::contiguous() const {
  int64_t step = 1;
  for (int64_t axis = dim - 1; axis >= 0; --axis) {
    if (sizes[axis] != 1 && strides[axis] != step) return elements() == 0;
    step *= sizes[axis];
  }
  return true;
}

bool Seen::channels_inner() const {
  if (strides[1] == 0) return false;
  int64_t least = 0;
  // From the innermost axis of a channels-last tensor outwards, strides must not fall.
  for (int64_t i = 0; i < dim; ++i) {
    const int64_t axis = i == 0 ? 1 : i == dim - 1 ? 0 : dim - i;
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    if (axis == 0 && least == strides[1]) return false;
    least = strides[axis] * sizes[axis];
  }
  return true;
}

Seen check(const char* name, const Tensor& tensor, int64_t dim) {
  const Seen seen(tensor);
  STD_TORCH_CHECK(tensor.is_cpu(), "`", name, "` must lie on the CPU");
  STD_TORCH_CHECK(seen.dtype == aoti_torch_dtype_float32() || seen.dtype == aoti_torch_dtype_bfloat16(), "`", name,
                  "` must be float32 or bfloat16");
  STD_TORCH_CHECK(seen.dim == dim, "`", name, "` has ", seen.dim, " dimensions and must have ", dim);
  return seen;
}

Seen check(const char* name, const Tensor& tensor, const Seen& like, const int64_t* sizes, int64_t dim) {
  const Seen seen = check(name, tensor, dim);
  STD_TORCH_CHECK(seen.dtype == like.dtype, "`", name, "` has another type than the input");
  for (int64_t axis = 0; axis < dim; ++axis)
    STD_TORCH_CHECK(seen.sizes[axis] == sizes[axis], "`", name, "` has ", seen.sizes[axis], " elements on axis ", axis,
                    " and must have ", sizes[axis]);
  return seen;
}

Tensor empty(const int64_t* sizes, int64_t dim, const Seen& like, bool channels_inner) {
  int64_t strides[8], step = 1;
  const auto lay = [&](int64_t axis) {
    strides[axis] = step;
    STD_TORCH_CHECK(!__builtin_mul_overflow(step, sizes[axis] > 1 ? sizes[axis] : 1, &step),
                    "the output has more elements than can be counted");
  };
  if (channels_inner) lay(1);
  for (int64_t axis = dim - 1; axis >= 0; --axis)
    if (!channels_inner || axis != 1) lay(axis);
  AtenTensorHandle made;
  const int64_t bytes = step * (like.type() == Type::float32 ? 4 : 2);
  Lent& memory = lent();
  if (memory.data && memory.bytes == bytes) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        std::exchange(memory.data, nullptr), dim, sizes, strides, 0, like.dtype, aoti_torch_device_type_cpu(), 0, &made));
    return Tensor(made);
  }
  if (std::optional<Tensor> kept = in_kept_memory(sizes, strides, dim, like.dtype, bytes)) return *std::move(kept);
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, like.dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

Lent& lent() {
  thread_local Lent mine{nullptr, 0};
  return mine;
}

Tensor nothing(const Seen& like) {
  const int64_t none = 0;
  return empty(&none, 1, like, false);
}

Tensor in_order(const Tensor& tensor) {
  return Seen(tensor).contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor readable(const Tensor& tensor) {
  const Seen seen(tensor);
  return seen.strides[1] == 1 || seen.strides[seen.dim - 1] == 1 ? tensor : in_order(tensor);
}

View view(const Tensor& tensor) {
  const Seen seen(tensor);
  View shown{tensor.data_ptr(), seen.type(), seen.strides[0], seen.strides[1], {0, 0, 0}};
  for (int64_t axis = 0; axis < seen.axes(); ++axis) shown.axis[3 - seen.axes() + axis] = seen.strides[2 + axis];
  return shown;
}

namespace {

// How far apart channels and positions are, where positions follow each other from end to end: with the channels of each
// side by side, or channel after channel. Nothing is said of samples.
bool laid_evenly(const Seen& seen, bool channels_inner, int64_t& channel, int64_t& position) {
  int64_t step = channels_inner ? seen.sizes[1] : 1;
  position = step;
  for (int64_t axis = seen.dim - 1; axis >= 2; --axis) {
    if (seen.sizes[axis] != 1 && seen.strides[axis] != step) return false;
    step *= seen.sizes[axis];
  }
  channel = channels_inner ? 1 : step;
  return seen.sizes[1] == 1 || seen.strides[1] == channel;
}

}  // namespace

Tensor even(const Tensor& tensor) {
  int64_t channel, position;
  const Seen seen(tensor);
  const bool is = laid_evenly(seen, false, channel, position) || laid_evenly(seen, true, channel, position);
  return is ? tensor : torch::stable::contiguous(tensor);
}

Planes planes(const Tensor& tensor) {
  const Seen seen(tensor);
  Planes shown{tensor.data_ptr(), seen.type(), seen.strides[0], 0, 0};
  if (!laid_evenly(seen, true, shown.channel, shown.position))
    laid_evenly(seen, false, shown.channel, shown.position);
  return shown;
}

int64_t span(int64_t positions, int64_t stride, int64_t taps, int64_t dilation) {
  STD_TORCH_CHECK(positions >= 1 && taps >= 1 && stride >= 1 && dilation >= 1,
                  "sizes, strides and dilations must be at least 1");
  const __int128 whole = static_cast<__int128>(positions - 1) * stride + static_cast<__int128>(taps - 1) * dilation + 1;
  STD_TORCH_CHECK(whole <= MOST, "an axis is past 2^40 positions");
  return static_cast<int64_t>(whole);
}

Axis axis_of(int64_t size, int64_t taps, int64_t stride, int64_t dilation, int64_t before, int64_t after) {
  STD_TORCH_CHECK(before >= 0 && after >= 0, "paddings must not be negative");
  const int64_t room = span(size, 1, 1, 1) + before + after - span(1, stride, taps, dilation);
  STD_TORCH_CHECK(room >= 0, "the kernel must fit the padded input");
  return {size, room / stride + 1, taps, stride, dilation, before};
}

Workspace::Workspace(int64_t floats)
    : data(static_cast<float*>(std::aligned_alloc(64, floats * sizeof(float) / 64 * 64 + 64))) {
  if (!data) throw std::bad_alloc();
}

Workspace::~Workspace() { std::free(data); }

}  // namespace omniconv
