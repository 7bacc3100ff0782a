// SPDX-License-Identifier: Apache-2.0
// What a kernel is told: where a tensor's elements lie, and which positions of one tensor meet which of another.
#pragma once

#include <cstdint>

namespace omniconv {

enum class Type : int32_t { float32, bfloat16 };

typedef uint16_t bf16;

static inline __attribute__((always_inline)) float widened(bf16 value) {
  const uint32_t bits = uint32_t(value) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// To nearest, ties to even; a NaN stays one (its lowest bits alone could round it to infinity).
static inline __attribute__((always_inline)) bf16 rounded(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return value != value ? bf16(0x7fc0) : bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A tensor of up to three spatial axes; strides in elements. Absent axes come first, with one position and stride 0.
struct View {
  void* data;
  Type type;
  int64_t batch, channel;  // strides
  int64_t axis[3];         // strides
};

// One axis of a convolution between a wide tensor (the input of an ordinary one) and a narrow one (its output):
// the narrow position p meets the wide position stride * p + dilation * k - before at tap k.
struct Axis {
  int64_t wide, narrow;
  int64_t taps, stride, dilation, before;
};

constexpr Axis NO_AXIS = {1, 1, 1, 1, 1, 0};

// A convolution of `groups` groups, each of `wide` channels of the wide tensor and `narrow` of the narrow one.
struct Problem {
  int64_t batch, groups, wide, narrow;
  Axis axis[3];
};

// Of all axes together.
static inline __attribute__((always_inline)) int64_t taps_of(const Problem& problem) {
  return problem.axis[0].taps * problem.axis[1].taps * problem.axis[2].taps;
}

// Element (narrow channel n, wide channel w, both within group g; tap k, row-major) of the weights lies at
// data + head(g) * group + n * narrow + w * wide + k, where head(g) is g, g / share or g % heads: several groups may
// share weights.
struct Weights {
  void* data;
  Type type;
  int64_t group, narrow, wide;
  int64_t share, heads;  // share: groups in a row with the same weights, or 0 for every heads-th group

  __attribute__((always_inline)) int64_t head(int64_t g) const { return share > 0 ? g / share : g % heads; }

  __attribute__((always_inline)) float at(int64_t offset) const {
    return type == Type::float32 ? static_cast<const float*>(data)[offset]
                                 : widened(static_cast<const bf16*>(data)[offset]);
  }

  __attribute__((always_inline)) void set(int64_t offset, float value) const {
    if (type == Type::float32) {
      static_cast<float*>(data)[offset] = value;
    } else {
      static_cast<bf16*>(data)[offset] = rounded(value);
    }
  }
};

// Runs body(context, begin, end) over pieces of 0 … count on the threads of the caller's library.
using Body = void (*)(void* context, int64_t begin, int64_t end);
struct Host {
  void (*parallel)(int64_t count, Body body, void* context);
  void* (*scratch)(int64_t bytes);  // at least so many, aligned to 64, of the calling thread until it asks again
  void* (*held)(int64_t bytes);     // other memory of the kind, for kernels that run others meanwhile
  int64_t threads;
};

}  // namespace omniconv
