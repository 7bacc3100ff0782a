// SPDX-License-Identifier: Apache-2.0
// Between rows of a tensor, whose positions lie side by side, and packed rows in float32 with zeros around them.
#pragma once

#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {
namespace planar {

// A number in every lane, straight from memory: unlike `0 + value`, it needs no addition that would keep a zero's sign.
OMNICONV_INLINE vec everywhere(float value) { return value - vec{}; }

// A vector that stays in a register. Compilers like to repeat a load as the memory operand of each of its uses, and at
// an odd place each costs two loads.
OMNICONV_INLINE vec held(vec value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));
#elif defined(__aarch64__)
  __asm__("" : "+w"(value));
#endif
  return value;
}

// Which lanes of a vector lie inside a row.
#if defined(OMNICONV_AVX512)
typedef uint16_t Inside;
OMNICONV_INLINE Inside lanes_inside(int64_t begin, int64_t end) { return Inside((1u << end) - (1u << begin)); }
#else
typedef ivec Inside;
OMNICONV_INLINE Inside lanes_inside(int64_t begin, int64_t end) {
  ivec inside;
  for (int lane = 0; lane < V; ++lane) inside[lane] = lane >= begin && lane < end ? -1 : 0;
  return inside;
}
#endif

// Which lanes of the vector that begins at `from` lie in 0 … width - 1.
inline Inside inside_of(int64_t from, int64_t width) {
  const int64_t begin = least(most(-from, 0), V);
  return lanes_inside(begin, most(least(width - from, V), begin));
}

// Where a tensor's elements lie, and which of them may be read; strides are not negative.
struct Bounds {
  const float *lowest, *highest;

  Bounds(const View& view, int64_t batch, int64_t channels, int64_t depth, int64_t height, int64_t width) {
    lowest = static_cast<const float*>(view.data);
    highest = lowest + (batch - 1) * view.batch + (channels - 1) * view.channel + (depth - 1) * view.axis[0] +
              (height - 1) * view.axis[1] + width;
  }
  bool hold(const float* begin, const float* end) const { return lowest <= begin && end <= highest; }
};

// Those lanes of from[0 … V - 1], the others zero; nothing else is read.
OMNICONV_INLINE vec load_inside(const float* from, Inside inside) {
#if defined(OMNICONV_AVX512)
  return (vec)_mm512_maskz_loadu_ps(inside, from);
#elif defined(__AVX2__)
  return (vec)_mm256_maskload_ps(from, (__m256i)inside);
#else
  vec value = {};
  for (int64_t lane = 0; lane < V; ++lane)
    if (inside[lane]) value[lane] = from[lane];
  return value;
#endif
}

OMNICONV_INLINE vec load_inside(const bf16* from, Inside inside) {
#if defined(OMNICONV_AVX512)
  return widen_lanes((hvec)_mm256_maskz_loadu_epi16(inside, from));
#else
  vec value = {};
  for (int64_t lane = 0; lane < V; ++lane)
    if (inside[lane]) value[lane] = widen(from[lane]);
  return value;
#endif
}

OMNICONV_INLINE void store_some(float* to, vec value, int64_t count) { store_first(to, value, count); }

OMNICONV_INLINE void store_some(bf16* to, vec value, int64_t count) {
#if defined(OMNICONV_AVX512)
  _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), (__m256i)halves(value));
#else
  store_first(to, value, count);
#endif
}

// to[i] = row[first + i] inside 0 … inside - 1, else 0, for i < count, a multiple of V. All rows of a plane are alike:
// vectors `partial` have lanes on both sides of a border, `whole` … whole_end - 1 lie inside, and the rest are zeros.
struct Neighbours {
  int64_t first, count;
  int64_t whole, whole_end;
  int64_t partial[2] = {}, partials;
  Inside inside[2] = {};

  Neighbours(int64_t first, int64_t width, int64_t count) : first(first), count(count), partials(0) {
    const int64_t begin = least(most(-first, 0), count), end = most(least(width - first, count), begin);
    whole = ceil_div(begin, V) * V;
    whole_end = most(end / V * V, whole);
    if (begin < end && begin % V) add(begin / V * V, begin, end);
    if (begin < end && end % V && end / V * V >= whole) add(end / V * V, begin, end);
  }

  void add(int64_t at, int64_t begin, int64_t end) {
    partial[partials] = at;
    inside[partials++] = lanes_inside(most(begin - at, 0), least(end - at, V));
  }

  // Where nothing lies inside, zeros stay from one plane to the next.
  void clear(float* to) const { std::memset(to, 0, count * sizeof(float)); }

  // `rows` rows, `line` apart in the tensor and `pitch` apart where they are packed.
  template <class T>
  __attribute__((noinline)) void pack(float* to, int64_t pitch, const T* from, int64_t line, int64_t rows) const {
    from += first;
    const int64_t begin = whole, end = whole_end;
    const int64_t low = partial[0], high = partial[1];
    const Inside low_lanes = inside[0], high_lanes = inside[1];
    if (partials == 2) {
      for (int64_t row = 0; row < rows; ++row, to += pitch, from += line) {
        store(to + low, load_inside(from + low, low_lanes));
        for (int64_t i = begin; i < end; i += V) store(to + i, load_lanes(from + i));
        store(to + high, load_inside(from + high, high_lanes));
      }
    } else {
      for (int64_t row = 0; row < rows; ++row, to += pitch, from += line) {
        for (int64_t i = begin; i < end; i += V) store(to + i, load_lanes(from + i));
        if (partials) store(to + low, load_inside(from + low, low_lanes));
      }
    }
  }
};

constexpr ivec every_other(int first) {
  ivec index = {};
  for (int lane = 0; lane < V; ++lane) index[lane] = first + 2 * lane;
  return index;
}

// even[i] = row[first + 2 i] and odd[i] = row[first + 2 i + 1], where there is an `odd`.
template <class T>
void pack_pairs(float* even, float* odd, const T* row, int64_t first, int64_t inside, int64_t count) {
  for (int64_t i = 0; i < count; i += V) {
    const int64_t at = first + 2 * i;
    vec low, high;
    if (at >= 0 && at + 2 * V <= inside) {
      low = load_lanes(row + at);
      high = load_lanes(row + at + V);
    } else {
      const int64_t begin = least(most(-at, 0), 2 * V), end = most(least(inside - at, 2 * V), begin);
      low = load_inside(row + at, lanes_inside(least(begin, V), least(end, V)));
      high = load_inside(row + at + V, lanes_inside(most(begin - V, 0), most(end - V, 0)));
    }
    store(even + i, __builtin_shuffle(low, high, every_other(0)));
    if (odd) store(odd + i, __builtin_shuffle(low, high, every_other(1)));
  }
}

// to[i] = from[i], in the tensor's type.
template <class T>
void unpack_neighbours(T* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + V <= count; i += V) store_lanes(to + i, load(from + i));
  if (i < count) store_some(to + i, load(from + i), count - i);
}

constexpr ivec woven(int first) {
  ivec index = {};
  for (int lane = 0; lane < V; ++lane) index[lane] = first + lane / 2 + (lane % 2 ? V : 0);
  return index;
}

// to[2 i] = even[i] and to[2 i + 1] = odd[i], in the tensor's type.
template <class T>
void unpack_pairs(T* to, const float* even, const float* odd, int64_t count) {
  for (int64_t i = 0; i < count; i += 2 * V) {
    const vec first = load(even + i / 2), second = load(odd + i / 2);
    const vec low = __builtin_shuffle(first, second, woven(0)), high = __builtin_shuffle(first, second, woven(V / 2));
    if (i + 2 * V <= count) {
      store_lanes(to + i, low);
      store_lanes(to + i + V, high);
    } else {
      store_some(to + i, low, least(count - i, V));
      if (count - i > V) store_some(to + i + V, high, count - i - V);
    }
  }
}

}  // namespace planar
}  // namespace
}  // namespace omniconv
