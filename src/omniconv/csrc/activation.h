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

OMNICONV_INLINE vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }

// Each with its way back: the gradient of x from that of its result. ReLU and ReLU6, whose results tell enough of x, are
// given these in its place.
struct Identity {
  static OMNICONV_INLINE vec of(vec x) { return x; }
  static OMNICONV_INLINE vec back(vec grad, vec) { return grad; }
};

struct Relu {
  static OMNICONV_INLINE vec of(vec x) { return clamped(x, 0, __builtin_inff()); }
  static OMNICONV_INLINE vec back(vec grad, vec found) { return found <= 0 ? vec{} : grad; }
};

struct Relu6 {
  static OMNICONV_INLINE vec of(vec x) { return clamped(x, 0, 6); }
  static OMNICONV_INLINE vec back(vec grad, vec found) {
    const vec above = found <= 0 ? vec{} : grad;
    return found >= 6 ? vec{} : above;
  }
};

struct Silu {
  static OMNICONV_INLINE vec of(vec x) { return x / (1 + exponential(-x)); }
  static OMNICONV_INLINE vec back(vec grad, vec x) {
    const vec share = sigmoid(x);
    return grad * share * (1 + x * (1 - share));
  }
};

struct Gelu {
  static OMNICONV_INLINE vec of(vec x) { return x * normal_share(x); }
  static OMNICONV_INLINE vec back(vec grad, vec x) {
    const vec density = 0x1.988454p-2f * exponential(-0.5f * x * x);  // 1/√(2π)
    return grad * (normal_share(x) + x * density);
  }
};

struct GeluTanh {
  static OMNICONV_INLINE vec of(vec x) { return x / (1 + exponential(-twice_tanh(x))); }
  static OMNICONV_INLINE vec back(vec grad, vec x) {
    x = clamped(x, -30, 30);  // where the slope is 0 and 1; the cube of a larger number may be infinite
    const vec share = sigmoid(twice_tanh(x)), steep = 0x1.988454p+0f + 3 * 0x1.2444f2p-4f * x * x;
    return grad * share * (1 + x * (1 - share) * steep);
  }
};

struct Hardswish {
  static OMNICONV_INLINE vec of(vec x) { return x * clamped(x + 3, 0, 6) / 6; }
  static OMNICONV_INLINE vec back(vec grad, vec x) {
    const vec between = x <= -3 ? vec{} : grad * (x / 3 + 0.5f);
    return x >= 3 ? grad : between;
  }
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
