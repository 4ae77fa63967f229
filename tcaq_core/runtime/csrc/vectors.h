// Arithmetic shared by the loops: written so that the compiler makes vectors of it.
//
// Codes follow tcaq_core/functional.py operation for operation: between rounding and
// the products before it there is nothing that fused multiply-adds could change.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// One binary for old and new processors: the loader picks the widest vectors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif
#define ALWAYS inline __attribute__((always_inline))

namespace tcaq {


// Cody and Waite's reduction with a polynomial of degree 6: within 2 ulp.
ALWAYS float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float k = rintf(x * 1.44269504088896341f);
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r * r + r) + 1.0f;
  const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// log2 by the series of atanh on a mantissa in [sqrt(1/2), sqrt(2)); 0 gives -inf.
ALWAYS float logarithm2(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t shifted = bits - 0x3f3504f3;  // sqrt(1/2)
  const float exponent = static_cast<float>(shifted >> 23);
  bits = (shifted & 0x007fffff) + 0x3f3504f3;
  float m;
  std::memcpy(&m, &bits, sizeof m);
  const float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  float p = 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  p = p * s2 + 1.0f;
  const float value = exponent + (s * p) * 2.885390081777927f;
  return x > 1.17549435e-38f ? value : -INFINITY;
}

ALWAYS float sigmoid_linear(float x) { return x / (1.0f + exponential(-x)); }

// A code, still as float: rounds half to even, as torch does.
ALWAYS float code_of(float x, float inverse, float zero_point, float top) {
  return std::min(std::max(rintf(x * inverse) + zero_point, 0.0f), top);
}

}  // namespace tcaq
