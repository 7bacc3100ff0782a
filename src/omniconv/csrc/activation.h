// SPDX-License-Identifier: Apache-2.0
// What follows a convolution, number by number.
#pragma once

#include "exponential.h"
#include "kernels.h"

namespace omniconv {
namespace {

OMNICONV_INLINE vec clamped(vec x, float low_, float high_) {  // NaN stays
  const vec low = splat(low_), high = splat(high_);
  x = low > x ? low : x;
  return high < x ? high : x;
}

// The share of a normal distribution below x: erfc(|x| / √2) / 2, where erfc(y) = exp(-y²) · t · polynomial(t),
// t = 1 / (1 + 0.3 y), fitted to a relative error of 3e-8.
OMNICONV_INLINE vec normal_share(vec x) {
  const vec y = (x < 0 ? -x : x) * 0x1.6a09e6p-1f, t = 1 / (1 + 0.3f * y);
  constexpr float FACTORS[] = {0.47773544f, -0.49654862f, 0.53020606f, -0.082858712f,
                               0.21002081f, 0.14956776f,  0.17054613f, 0.16919778f};
  vec sum = splat(-0.12786663f);
#pragma GCC unroll 8
  for (const float factor : FACTORS) sum = sum * t + factor;
  const vec tail = 0.5f * sum * t * exponential(-y * y);
  return x < 0 ? tail : 1 - tail;
}

// Hendrycks & Gimpel's approximation x · sigmoid(2 u), u = √(2/π) (x + 0.044715 x³), and 2 u.
OMNICONV_INLINE vec twice_tanh(vec x) { return x * (0x1.988454p+0f + 0x1.2444f2p-4f * x * x); }

struct Identity {
  static OMNICONV_INLINE vec of(vec x) { return x; }
};

struct Relu {
  static OMNICONV_INLINE vec of(vec x) { return clamped(x, 0, __builtin_inff()); }
};

struct Relu6 {
  static OMNICONV_INLINE vec of(vec x) { return clamped(x, 0, 6); }
};

struct Silu {
  static OMNICONV_INLINE vec of(vec x) { return x / (1 + exponential(-x)); }
};

struct Gelu {
  static OMNICONV_INLINE vec of(vec x) { return x * normal_share(x); }
};

struct GeluTanh {
  static OMNICONV_INLINE vec of(vec x) { return x / (1 + exponential(-twice_tanh(x))); }
};

struct Hardswish {
  static OMNICONV_INLINE vec of(vec x) { return x * clamped(x + 3, 0, 6) / 6; }
};

// Calls run with the type of an activation.
template <class Run>
OMNICONV_INLINE void with_activation(Activation activation, const Run& run) {
  switch (activation) {
    case Activation::none: return run(Identity{});
    case Activation::relu: return run(Relu{});
    case Activation::relu6: return run(Relu6{});
    case Activation::silu: return run(Silu{});
    case Activation::gelu: return run(Gelu{});
    case Activation::gelu_tanh: return run(GeluTanh{});
    case Activation::hardswish: return run(Hardswish{});
  }
}

}  // namespace
}  // namespace omniconv
