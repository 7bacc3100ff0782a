// SPDX-License-Identifier: Apache-2.0
// Vectors of floats on the compiler's own vector extensions: one source, compiled once for each instruction set.
//
// Everything is in an anonymous namespace: a symbol of a file compiled for a wide instruction set must never be the
// copy that the linker keeps for a narrow one.
#pragma once

#include <cstdint>
#include <cstring>

#include "geometry.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)  // x86-64-v4
#include <immintrin.h>
#define OMNICONV_AVX512
#define OMNICONV_LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define OMNICONV_LANES 8
#else
#define OMNICONV_LANES 4
#endif

#define OMNICONV_INLINE inline __attribute__((always_inline))

namespace omniconv {
namespace {

constexpr int V = OMNICONV_LANES;
// Accumulators that leave room for a weight and an input among the registers: 32 with AVX-512 and NEON, 16 elsewhere.
#if defined(OMNICONV_AVX512) || defined(__aarch64__)
constexpr int MAX_TILE = 14;
#else
constexpr int MAX_TILE = 10;
#endif

inline int64_t whole_vectors(int64_t count) { return (count + V - 1) / V * V; }

typedef float vec __attribute__((vector_size(V * 4)));
typedef int32_t ivec __attribute__((vector_size(V * 4)));
typedef uint32_t uvec __attribute__((vector_size(V * 4)));
typedef uint16_t hvec __attribute__((vector_size(V * 2)));

// By name where that is one load: the compiler would first add the zero that makes a vector of the number.
OMNICONV_INLINE vec splat(float value) {
#if defined(OMNICONV_AVX512)
  return (vec)_mm512_set1_ps(value);
#elif defined(__AVX2__)
  return (vec)_mm256_set1_ps(value);
#else
  return vec{value, value, value, value};
#endif
}

OMNICONV_INLINE vec load(const float* from) {
  vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

OMNICONV_INLINE void store(float* to, vec value) { std::memcpy(to, &value, sizeof value); }

// To the upper half of each lane, in one step where one instruction both moves and clears.
OMNICONV_INLINE vec widen_lanes(hvec half) {
#if defined(OMNICONV_AVX512)
  typedef int16_t Places __attribute__((vector_size(64)));
  Places places;
  for (int i = 0; i < 32; ++i) places[i] = int16_t(i / 2);
  return (vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)places, _mm512_castsi256_si512((__m256i)half));
#else
  return (vec)(__builtin_convertvector(half, uvec) << 16);
#endif
}

OMNICONV_INLINE vec load(const bf16* from) {
  hvec half;
  std::memcpy(&half, from, sizeof half);
  return widen_lanes(half);
}

OMNICONV_INLINE vec load_lanes(const float* from) { return load(from); }
OMNICONV_INLINE vec load_lanes(const bf16* from) { return load(from); }

// Rounded to bf16, to nearest and ties to even, in the upper half of each lane. Unlike those that `store` looks for, a
// NaN that bf16 numbers lead to has no lower bits that could carry.
OMNICONV_INLINE uvec round_lanes(vec value) {
  const uvec bits = (uvec)value;
  return bits + 0x7fff + ((bits >> 16) & 1);
}

OMNICONV_INLINE hvec upper_halves(uvec lanes) {
#if defined(OMNICONV_AVX512)
  typedef uint16_t Words __attribute__((vector_size(64)));
  Words upper;
  for (int i = 0; i < 32; ++i) upper[i] = uint16_t(2 * i + 1);
  return (hvec)_mm512_castsi512_si256((__m512i)__builtin_shuffle((Words)lanes, upper));
#else
  return __builtin_convertvector(lanes >> 16, hvec);
#endif
}

OMNICONV_INLINE hvec halves(vec value) { return upper_halves(round_lanes(value)); }

OMNICONV_INLINE hvec halves_or_nan(vec value) {
  const uvec nan = (uvec)(value != value);
  return upper_halves((round_lanes(value) & ~nan) | (0x7fc00000 & nan));
}

OMNICONV_INLINE void store(bf16* to, vec value) {
  const hvec half = halves_or_nan(value);
  std::memcpy(to, &half, sizeof half);
}

OMNICONV_INLINE void store_lanes(float* to, vec value) { store(to, value); }
OMNICONV_INLINE void store_lanes(bf16* to, vec value) {
  const hvec half = halves(value);
  std::memcpy(to, &half, sizeof half);
}

OMNICONV_INLINE float widen(float value) { return value; }
OMNICONV_INLINE float widen(bf16 value) { return widened(value); }
OMNICONV_INLINE void narrow(float* to, float value) { *to = value; }
OMNICONV_INLINE void narrow(bf16* to, float value) { *to = rounded(value); }

// The first `count` lanes, the others zero. Nothing behind them is read.
OMNICONV_INLINE vec load_first(const float* from, int64_t count) {
#if defined(OMNICONV_AVX512)
  return (vec)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
#else
  vec value = {};
  for (int64_t lane = 0; lane < count && lane < V; ++lane) value[lane] = from[lane];
  return value;
#endif
}

OMNICONV_INLINE vec load_first(const bf16* from, int64_t count) {
#if defined(OMNICONV_AVX512)
  return widen_lanes((hvec)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from));
#else
  vec value = {};
  for (int64_t lane = 0; lane < count && lane < V; ++lane) value[lane] = widen(from[lane]);
  return value;
#endif
}

// The first `count` lanes written, and nothing behind them.
OMNICONV_INLINE void store_first(float* to, vec value, int64_t count) {
#if defined(OMNICONV_AVX512)
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)value);
#else
  for (int64_t lane = 0; lane < count; ++lane) to[lane] = value[lane];
#endif
}

OMNICONV_INLINE void store_first(bf16* to, vec value, int64_t count) {
#if defined(OMNICONV_AVX512)
  _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), (__m256i)halves_or_nan(value));
#else
  for (int64_t lane = 0; lane < count; ++lane) narrow(to + lane, value[lane]);
#endif
}

// The first `count` lanes of up to V.
template <class T>
OMNICONV_INLINE vec load_count(const T* from, int64_t count) {
  return count == V ? load(from) : load_first(from, count);
}

template <class T>
OMNICONV_INLINE void store_count(T* to, vec value, int64_t count) {
  count == V ? store(to, value) : store_first(to, value, count);
}

// Calls each(first, count) for the vectors of `count` numbers, the last of which may be shorter.
template <class Each>
OMNICONV_INLINE void each_vector(int64_t count, const Each& each) {
  int64_t first = 0;
  for (; first + V <= count; first += V) each(first, int64_t(V));
  if (first < count) each(first, count - first);
}

OMNICONV_INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
OMNICONV_INLINE vec floats(ivec value) { return __builtin_convertvector(value, vec); }

// Keeps a loaded vector in a register: the compiler would rather load it again for each use, and loads are scarce.
OMNICONV_INLINE void keep(vec& value) {
#if defined(OMNICONV_AVX512)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#endif
}

// Keeps an index or an address that steps in one register: the compiler would rather compute all its values ahead, and
// spill them.
OMNICONV_INLINE void keep(int64_t& index) { asm("" : "+r"(index)); }
OMNICONV_INLINE void keep(const float*& at) { asm("" : "+r"(at)); }

// The sum of the lanes.
OMNICONV_INLINE float total_of(vec value) {
#if defined(OMNICONV_AVX512)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float total = 0;
  for (int lane = 0; lane < V; ++lane) total += value[lane];
  return total;
#endif
}

// Of two rows `STEP` apart, the lanes that belong in the one (or, HIGH, in the other) when lanes so far apart change
// places. Indices that the compiler knows: it would build others anew for each pair.
template <int STEP, bool HIGH, int... LANE>
OMNICONV_INLINE vec exchanged(vec one, vec other) {
  return __builtin_shufflevector(one, other, ((LANE & STEP) ? LANE + (HIGH ? V : V - STEP) : LANE + (HIGH ? STEP : 0))...);
}

template <int STEP, int... LANE>
OMNICONV_INLINE void exchange(vec (&rows)[V]) {
#pragma GCC unroll 16
  for (int row = 0; row < V; ++row) {
    if (row & STEP) continue;
    const vec one = rows[row], other = rows[row + STEP];
    rows[row] = exchanged<STEP, false, LANE...>(one, other);
    rows[row + STEP] = exchanged<STEP, true, LANE...>(one, other);
  }
}

template <int STEP, int COUNT = V, int... LANE>
OMNICONV_INLINE void exchange_all(vec (&rows)[V]) {
  if constexpr (COUNT > 0) {
    exchange_all<STEP, COUNT - 1, COUNT - 1, LANE...>(rows);
  } else {
    exchange<STEP, LANE...>(rows);
    if constexpr (2 * STEP < V) exchange_all<2 * STEP>(rows);
  }
}

// Lane j of rows[i] changes places with lane i of rows[j]: in each of log2(V) rounds, rows 2^r apart exchange lanes 2^r
// apart.
OMNICONV_INLINE void transpose(vec (&rows)[V]) { exchange_all<1>(rows); }

}  // namespace
}  // namespace omniconv
