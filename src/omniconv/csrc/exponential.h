// SPDX-License-Identifier: Apache-2.0
// The exponential function of vectors.
#pragma once

#include "simd.h"

namespace omniconv {
namespace {

OMNICONV_INLINE vec two_to(ivec exponent) { return (vec)((exponent + 127) << 23); }

// Within 2 units in the last place; 0 below -87.3 (where numbers lose bits), infinity past 128 · ln 2, NaN of NaN.
OMNICONV_INLINE vec exponential(vec x) {
  constexpr float LEAST = -87.3f, PAST = 89;
  const vec low = splat(LEAST), high = splat(PAST);
  vec bounded = low > x ? low : x;
  bounded = high < bounded ? high : bounded;
  // x = n · ln 2 + rest, where ln 2 is taken in two parts, the first of which times n is exact
  constexpr float ROUNDS = 0x1.8p23f;  // a sum with it is a whole number in its lower bits
  const vec shifted = bounded * 0x1.715476p+0f + ROUNDS, n = shifted - ROUNDS;
  const vec rest = (bounded - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  // the series of Taylor, whose next term is under 2^-27 at ln 2 / 2
  constexpr float FACTORS[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f};
  vec sum = splat(1.f / 5040);
#pragma GCC unroll 8
  for (const float factor : FACTORS) sum = sum * rest + factor;
  // 2^n in two factors: n may be 128
  const ivec exponent = (ivec)shifted - int32_t(0x4b400000), half = exponent >> 1;
  const vec value = sum * two_to(half) * two_to(exponent - half);
  return low > x ? vec{} : value;
}

}  // namespace
}  // namespace omniconv
