#pragma once

// Portable vectors for the CPU kernels.
//
// A kernel is written once, with fixed-width vectors of 32 bytes (GCC and Clang vector extensions), as an always-inline template.
// A thin function marked DIFFCODER_CLONES instantiates it; the compiler then makes one clone per instruction set and the loader
// picks the best one for the machine. So a single binary runs on any x86-64, and on arm64 the same code compiles to NEON.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

// Clones need ifunc, which glibc has and musl, macOS and Windows do not. x86-64-v3 is AVX2 + FMA, x86-64-v4 adds AVX-512.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !defined(DIFFCODER_NO_CLONES) && \
    ((defined(__clang__) && __clang_major__ >= 18) || (!defined(__clang__) && __GNUC__ >= 12))
#define DIFFCODER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DIFFCODER_CLONES
#endif

#define DIFFCODER_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are passed between always-inline functions only, so their calling convention never matters.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace diffcoder::simd {

typedef float F32x8 __attribute__((vector_size(32)));
typedef double F64x4 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef uint32_t U32x8 __attribute__((vector_size(32)));
typedef uint16_t U16x8 __attribute__((vector_size(16)));

/// The vector of an accumulation type: 8 floats or 4 doubles.
template <typename A>
struct VecOf;
template <>
struct VecOf<float> {
  using type = F32x8;
};
template <>
struct VecOf<double> {
  using type = F64x4;
};
template <typename A>
using Vec = typename VecOf<A>::type;

template <typename A>
inline constexpr int64_t kLanes = 32 / sizeof(A);

/// The type a storage type is computed in: double for double, float for everything else.
template <typename S>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <typename S>
using Acc = typename AccOf<S>::type;

template <typename A>
DIFFCODER_INLINE Vec<A> splat(A value) {
  return value - Vec<A>{};
}

DIFFCODER_INLINE F32x8 load(const float* p) {
  F32x8 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
DIFFCODER_INLINE F64x4 load(const double* p) {
  F64x4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
DIFFCODER_INLINE F32x8 load(const c10::BFloat16* p) {
  U16x8 half;
  std::memcpy(&half, p, sizeof(half));
  return (F32x8)(__builtin_convertvector(half, U32x8) << 16);
}
DIFFCODER_INLINE F32x8 load(const c10::Half* p) {
  F32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}

DIFFCODER_INLINE void store(float* p, F32x8 v) { std::memcpy(p, &v, sizeof(v)); }
DIFFCODER_INLINE void store(double* p, F64x4 v) { std::memcpy(p, &v, sizeof(v)); }
/// Rounds to nearest even; NaN stays NaN.
DIFFCODER_INLINE void store(c10::BFloat16* p, F32x8 v) {
  const U32x8 bits = (U32x8)v;
  const U32x8 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32x8 is_nan = (U32x8)(v != v);
  const U32x8 result = (rounded & ~is_nan) | (is_nan & 0x7fc0u);
  const U16x8 half = __builtin_convertvector(result, U16x8);
  std::memcpy(p, &half, sizeof(half));
}
DIFFCODER_INLINE void store(c10::Half* p, F32x8 v) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<c10::Half>(v[i]);
}

/// The first n lanes from memory, the rest zero (n < lanes).
template <typename S>
DIFFCODER_INLINE Vec<Acc<S>> load_tail(const S* p, int64_t n) {
  S buffer[kLanes<Acc<S>>] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
template <typename S>
DIFFCODER_INLINE void store_tail(S* p, Vec<Acc<S>> v, int64_t n) {
  S buffer[kLanes<Acc<S>>];
  store(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

/// body(load, store, offset) for every whole vector of a row of n elements, then once for the tail. `load(p)` and `store(p, v)` take
/// pointers to the vector's first element and deal with the tail; lanes beyond the end read as zero.
template <typename A, typename Body>
DIFFCODER_INLINE void for_each_vector(int64_t n, Body&& body) {
  constexpr int64_t lanes = kLanes<A>;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    body([](const auto* p) __attribute__((always_inline)) { return load(p); },
         [](auto* p, Vec<A> v) __attribute__((always_inline)) { store(p, v); }, i);
  }
  if (i < n) {
    const int64_t rest = n - i;
    body([rest](const auto* p) __attribute__((always_inline)) { return load_tail(p, rest); },
         [rest](auto* p, Vec<A> v) __attribute__((always_inline)) { store_tail(p, v, rest); }, i);
  }
}

template <typename A>
DIFFCODER_INLINE A reduce_add(Vec<A> v) {
  A lane[kLanes<A>];
  std::memcpy(lane, &v, sizeof(v));
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

template <typename A>
DIFFCODER_INLINE A reduce_max(Vec<A> v) {
  A lane[kLanes<A>];
  std::memcpy(lane, &v, sizeof(v));
  for (int64_t width = kLanes<A> / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  }
  return lane[0];
}

template <typename V>
DIFFCODER_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

/// exp(x) within 2 units in the last place; exp(-inf) = 0, overflow saturates near 2e38, NaN stays NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by a polynomial of degree 6 (Cephes' coefficients), times 2^n by its exponent bits.
DIFFCODER_INLINE F32x8 exp(F32x8 x) {
  const F32x8 low = splat(-87.33654f), high = splat(88.37626f), magic = splat(12582912.0f);
  const I32x8 underflow = x < low;
  x = x > high ? high : x;
  x = underflow ? low : x;
  const F32x8 shifted = x * 1.44269504088896341f + magic;  // adding 1.5 * 2^23 rounds to an integer
  const F32x8 n = shifted - magic;
  const F32x8 r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  F32x8 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I32x8 exponent = ((I32x8)shifted - (I32x8)magic + 127) << 23;
  const F32x8 y = p * (F32x8)exponent;
  return underflow ? splat(0.0f) : y;
}
DIFFCODER_INLINE F64x4 exp(F64x4 x) {
  F64x4 y;
  for (int i = 0; i < 4; ++i) y[i] = std::exp(x[i]);
  return y;
}

}  // namespace diffcoder::simd
