// SPDX-License-Identifier: Apache-2.0
// Random numbers, and tensors that end where the memory that they were given does.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "geometry.h"

namespace omniconv {

using Values = std::vector<int>;  // small integers, in the order batch, channel, axes

struct Draw {
  std::mt19937_64 engine;

  int64_t of(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine); }
  bool chance(int percent) { return of(1, 100) <= percent; }

  template <class U>
  U among(std::initializer_list<U> values) {
    return values.begin()[of(0, int64_t(values.size()) - 1)];
  }

  Values integers(int64_t count, int64_t most) {
    Values values(count);
    for (int& value : values) value = int(of(-most, most));
    return values;
  }
};

inline int64_t bytes_of(Type type) { return type == Type::float32 ? 4 : 2; }

inline double read(const void* data, Type type, int64_t at) {
  return type == Type::float32 ? static_cast<const float*>(data)[at] : widened(static_cast<const bf16*>(data)[at]);
}

inline void write(void* data, Type type, int64_t at, double value) {
  if (type == Type::float32) {
    static_cast<float*>(data)[at] = float(value);
  } else {
    static_cast<bf16*>(data)[at] = rounded(float(value));
  }
}

// What a type keeps of a number that float32 holds exactly.
inline double kept(Type type, double value) { return type == Type::float32 ? value : widened(rounded(float(value))); }

// Memory of just so many elements, all NaN. The last byte is the last that may be touched.
struct Memory {
  Type type;
  int64_t count;
  void* data;

  Memory(Type type, int64_t count) : type(type), count(count), data(std::malloc(count * bytes_of(type))) {
    std::memset(data, 0xff, count * bytes_of(type));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { std::free(data); }

  double at(int64_t index) const { return read(data, type, index); }
};

enum class Layout {
  ordered, channels_inner, wide_rows, window, shuffled, one_sample, shuffled_channels, shuffled_positions
};

struct Sizes {
  int64_t of[5];  // batch, channel, axes

  int64_t count() const { return of[0] * of[1] * of[2] * of[3] * of[4]; }
};

// Strides of a tensor, innermost axis first in `order`; `extra` elements lie behind each row of the second axis.
inline void lay(const Sizes& sizes, const int (&order)[5], int64_t extra, int64_t (&strides)[5]) {
  int64_t step = 1;
  for (int i = 0; i < 5; ++i) {
    strides[order[i]] = step;
    step *= sizes.of[order[i]] > 1 ? sizes.of[order[i]] : 1;
    if (i == 0 || i == 1) step += extra;
  }
}

// A tensor of the library's kinds: for its inputs channels or the last axis lie side by side.
struct Laid {
  Sizes sizes;
  int64_t strides[5];
  int64_t first;
  Memory memory;

  Laid(const Sizes& sizes, Type type, Layout layout, int64_t axes, Draw& draw, bool offset = true)
      : sizes(sizes),
        first(offset && draw.chance(30) ? draw.of(1, 5) : 0),
        memory(type, first + span(layout, axes, draw)) {}

  View view() const {
    char* data = static_cast<char*>(memory.data) + first * bytes_of(memory.type);
    View shown{data, memory.type, strides[0], strides[1], {}};
    for (int axis = 0; axis < 3; ++axis) shown.axis[axis] = strides[2 + axis];
    return shown;
  }

  int64_t place(const int64_t (&at)[5]) const {
    int64_t found = first;
    for (int axis = 0; axis < 5; ++axis) found += at[axis] * strides[axis];
    return found;
  }

  template <class Visit>
  void each(const Visit& visit) const {  // visit(number in order, place in memory)
    int64_t number = 0, at[5];
    for (at[0] = 0; at[0] < sizes.of[0]; ++at[0])
      for (at[1] = 0; at[1] < sizes.of[1]; ++at[1])
        for (at[2] = 0; at[2] < sizes.of[2]; ++at[2])
          for (at[3] = 0; at[3] < sizes.of[3]; ++at[3])
            for (at[4] = 0; at[4] < sizes.of[4]; ++at[4]) visit(number++, place(at));
  }

  // Writes values, and reads back those that stayed where elements share memory.
  void fill(Values& values) {
    each([&](int64_t number, int64_t at) { write(memory.data, memory.type, at, values[number]); });
    each([&](int64_t number, int64_t at) { values[number] = int(memory.at(at)); });
  }

 private:
  // Sets the strides; the elements from the first to the last.
  int64_t span(Layout layout, int64_t axes, Draw& draw) {
    const int in_order[5] = {4, 3, 2, 1, 0}, inner[5] = {1, 4, 3, 2, 0};
    const bool by_channels =
        layout == Layout::channels_inner || layout == Layout::window || layout == Layout::shuffled_channels;
    const bool shuffled =
        layout == Layout::shuffled || layout == Layout::shuffled_channels || layout == Layout::shuffled_positions;
    const bool extra = layout == Layout::wide_rows || layout == Layout::window;
    int order[5];
    std::memcpy(order, by_channels ? inner : in_order, sizeof order);
    if (shuffled) {  // all but the innermost
      if (layout == Layout::shuffled && draw.chance(50)) std::memcpy(order, inner, sizeof order);
      for (int i = 4; i > 1; --i) std::swap(order[i], order[draw.of(1, i)]);
    }
    lay(sizes, order, extra ? draw.among<int64_t>({1, 2, 3, 4, 5, 8, 16}) : 0, strides);
    if (layout == Layout::one_sample) strides[0] = 0;
    for (int axis = 0; axis < 5; ++axis) {
      if (axis > 1 && axis < 5 - axes) strides[axis] = 0;  // an absent axis
      // Where an axis has one position its stride means nothing, unless it is the one that makes the tensor readable.
      if (shuffled && axis != order[0] && sizes.of[axis] == 1 && axis >= 5 - axes)
        strides[axis] = draw.among<int64_t>({0, 1, 7777});
    }
    if (!sizes.count()) return 0;
    int64_t last = 0;
    for (int axis = 0; axis < 5; ++axis) last += (sizes.of[axis] - 1) * strides[axis];
    return last + 1;
  }
};

}  // namespace omniconv
