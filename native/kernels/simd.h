#pragma once

// Portable vectors for the CPU kernels.
//
// A kernel is written once as an always-inline template over the instruction set, with GCC and Clang vector extensions
// of that set's width. DIFFCODER_KERNEL makes one function per set and picks the best for the machine when it is first
// called. So a single binary runs on any x86-64, and the same code compiles on arm64 (NEON is its baseline).

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#define DIFFCODER_INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are passed between always-inline functions only, so their calling convention never matters.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define DIFFCODER_SHUFFLE 1
#endif
#endif

namespace diffcoder::simd {

// Instruction sets: the vectors' bytes and the rows of four-by-something micro-kernels (tile.h) that its registers
// allow.
struct Baseline {  // SSE2, NEON
  static constexpr int bytes = 16, rows = 4;
};
struct Avx2 {
  static constexpr int bytes = 32, rows = 4;
};
struct Avx512 {
  static constexpr int bytes = 64, rows = 8;
};

// DIFFCODER_KERNEL(name, (parameters), (arguments), body): void name(parameters), which calls body<I>(arguments)
// compiled for the best instruction set I. `body` may be a template-id's beginning: DIFFCODER_KERNEL(f, (int n), (n),
// work<DIFFCODER_ISA, float>).
#if defined(__x86_64__) && defined(__GNUC__)
/// 0 baseline, 1 AVX2, 2 AVX-512: the machine's best, or less where the environment's DIFFCODER_CPU says "baseline" or
/// "avx2".
inline int instruction_set() {
  static const int best = [] {
    const char* limit = std::getenv("DIFFCODER_CPU");
    const int most = limit == nullptr                      ? 2
                     : std::strcmp(limit, "baseline") == 0 ? 0
                     : std::strcmp(limit, "avx2") == 0     ? 1
                                                           : 2;
    __builtin_cpu_init();
    if (most == 0) return 0;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    return most == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               ? 2
               : 1;
  }();
  return best;
}
#define DIFFCODER_KERNEL(name, parameters, arguments, body, ...)                                              \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) void name##_avx512 parameters {      \
    body<::diffcoder::simd::Avx512 __VA_OPT__(, ) __VA_ARGS__> arguments;                                     \
  }                                                                                                           \
  __attribute__((target("avx2,fma"))) void name##_avx2 parameters {                                           \
    body<::diffcoder::simd::Avx2 __VA_OPT__(, ) __VA_ARGS__> arguments;                                       \
  }                                                                                                           \
  void name##_baseline parameters { body<::diffcoder::simd::Baseline __VA_OPT__(, ) __VA_ARGS__> arguments; } \
  void name parameters {                                                                                      \
    const int best = ::diffcoder::simd::instruction_set();                                                    \
    best == 2 ? name##_avx512 arguments : best == 1 ? name##_avx2 arguments : name##_baseline arguments;      \
  }
#else
#define DIFFCODER_KERNEL(name, parameters, arguments, body, ...) \
  void name parameters { body<::diffcoder::simd::Baseline __VA_OPT__(, ) __VA_ARGS__> arguments; }
#endif

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

namespace detail {

template <typename T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};

/// v with lane i exchanged with lane i ^ width.
template <typename V, size_t... i>
DIFFCODER_INLINE V exchange(V v, int width, std::index_sequence<i...>) {
#ifdef DIFFCODER_SHUFFLE
  constexpr int lanes = sizeof...(i);
  if (lanes > 8 && width == 8) return __builtin_shufflevector(v, v, (static_cast<int>(i) ^ 8) % lanes...);
  if (lanes > 4 && width == 4) return __builtin_shufflevector(v, v, (static_cast<int>(i) ^ 4) % lanes...);
  if (lanes > 2 && width == 2) return __builtin_shufflevector(v, v, (static_cast<int>(i) ^ 2) % lanes...);
  return __builtin_shufflevector(v, v, (static_cast<int>(i) ^ 1)...);
#else
  V other = v;
  ((other[i] = v[i ^ static_cast<size_t>(width)]), ...);
  return other;
#endif
}

/// Groups of 2 * width lanes of a, then of b, each folded to `width` lanes: upper half onto lower half.
template <typename V, size_t... i>
DIFFCODER_INLINE V fold(V a, V b, int width, std::index_sequence<i...>) {
  constexpr int lanes = sizeof...(i);
#ifdef DIFFCODER_SHUFFLE
#define DIFFCODER_FOLD(w)                                                                                        \
  if (lanes > w && width == w)                                                                                   \
    return __builtin_shufflevector(a, b, (static_cast<int>(i) + static_cast<int>(i) / w * w) % (2 * lanes)...) + \
           __builtin_shufflevector(a, b, (static_cast<int>(i) + static_cast<int>(i) / w * w + w) % (2 * lanes)...);
  DIFFCODER_FOLD(8)
  DIFFCODER_FOLD(4)
  DIFFCODER_FOLD(2)
  DIFFCODER_FOLD(1)
#undef DIFFCODER_FOLD
  return a;
#else
  V sum{};
  const auto lane = [&](size_t j) { return j < lanes ? a[j] : b[j - lanes]; };
  const size_t w = static_cast<size_t>(width);
  ((sum[i] = lane(i + i / w * w) + lane(i + i / w * w + w)), ...);
  return sum;
#endif
}

}  // namespace detail

/// Vectors of A (float or double) on instruction set I. Lanes of bfloat16 and float16 are computed in float.
template <typename I, typename A>
struct Simd {
  static constexpr int lanes = I::bytes / static_cast<int>(sizeof(A));
  using Vec = typename detail::VectorOf<A, I::bytes>::type;
  using Lanes = std::make_index_sequence<static_cast<size_t>(lanes)>;

  static DIFFCODER_INLINE Vec splat(A value) { return value - Vec{}; }

  static DIFFCODER_INLINE Vec load(const A* p) {
    Vec v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static DIFFCODER_INLINE void store(A* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

  static DIFFCODER_INLINE Vec load(const c10::BFloat16* p) { return load_bfloat16(p, Lanes()); }
  /// Rounds to nearest even; NaN stays NaN.
  static DIFFCODER_INLINE void store(c10::BFloat16* p, Vec v) { store_bfloat16(p, v, Lanes()); }

  static DIFFCODER_INLINE Vec load(const c10::Half* p) {
    Vec v;
    for (int i = 0; i < lanes; ++i) v[i] = static_cast<float>(p[i]);
    return v;
  }
  static DIFFCODER_INLINE void store(c10::Half* p, Vec v) {
    for (int i = 0; i < lanes; ++i) p[i] = static_cast<c10::Half>(static_cast<float>(v[i]));
  }

  /// The first n lanes from memory, the rest zero (n < lanes).
  template <typename S>
  static DIFFCODER_INLINE Vec load_tail(const S* p, int64_t n) {
    S buffer[lanes] = {};
    for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  template <typename S>
  static DIFFCODER_INLINE void store_tail(S* p, Vec v, int64_t n) {
    S buffer[lanes];
    store(buffer, v);
    for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
  }

  /// body(load, store, offset) for every whole vector of a row of n elements, then once for the tail. `load(p)` and
  /// `store(p, v)` take pointers to the vector's first element and deal with the tail; lanes beyond the end read as
  /// zero.
  template <typename Body>
  static DIFFCODER_INLINE void for_each(int64_t n, Body&& body) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      body([](const auto* p) __attribute__((always_inline)) { return load(p); },
           [](auto* p, Vec v) __attribute__((always_inline)) { store(p, v); }, i);
    }
    if (i < n) {
      const int64_t rest = n - i;
      body([rest](const auto* p) __attribute__((always_inline)) { return load_tail(p, rest); },
           [rest](auto* p, Vec v) __attribute__((always_inline)) { store_tail(p, v, rest); }, i);
    }
  }

  static DIFFCODER_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

  static DIFFCODER_INLINE A reduce_add(Vec v) {
    for (int width = lanes / 2; width > 0; width /= 2) v = v + detail::exchange(v, width, Lanes());
    return v[0];
  }
  static DIFFCODER_INLINE A reduce_max(Vec v) {
    for (int width = lanes / 2; width > 0; width /= 2) v = max(v, detail::exchange(v, width, Lanes()));
    return v[0];
  }

  /// Lane i of the result is the sum of v[i], for as many vectors as there are lanes. Each sum is taken in the same
  /// order.
  static DIFFCODER_INLINE Vec reduce_add_each(Vec (&v)[lanes]) {
    for (int width = lanes / 2, count = lanes; width > 0; width /= 2, count /= 2) {
      for (int i = 0; i < count / 2; ++i) v[i] = detail::fold(v[2 * i], v[2 * i + 1], width, Lanes());
    }
    return v[0];
  }

  /// exp(x) within 2 units in the last place: 0 below -88, infinity above 88.4, NaN stays NaN.
  /// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by a polynomial of degree 6 (Cephes' coefficients), times 2^n by its
  /// exponent bits.
  static DIFFCODER_INLINE Vec exp(Vec x) {
    if constexpr (sizeof(A) == 4) {
      using Int = typename detail::VectorOf<int32_t, I::bytes>::type;
      const Vec magic = splat(12582912.0f);  // adding 1.5 * 2^23 rounds to an integer
      x = max(splat(-88.02f), x);            // n = -127: the exponent bits are zero, and so is the result
      const Vec high = splat(89.0f);         // n = 128: infinity
      x = high < x ? high : x;
      const Vec shifted = x * 1.44269504088896341f + magic;
      const Vec n = shifted - magic;
      const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
      Vec p = splat(1.9875691500e-4f);
      p = p * r + 1.3981999507e-3f;
      p = p * r + 8.3334519073e-3f;
      p = p * r + 4.1665795894e-2f;
      p = p * r + 1.6666665459e-1f;
      p = p * r + 5.0000001201e-1f;
      p = p * r * r + r + 1.0f;
      return p * (Vec)(((Int)shifted << 23) + (127 << 23));  // the magic number's own bits leave by the shift
    } else {
      Vec y;
      for (int i = 0; i < lanes; ++i) y[i] = std::exp(x[i]);
      return y;
    }
  }

 private:
  using Bits = typename detail::VectorOf<uint32_t, I::bytes>::type;
  using Shorts = typename detail::VectorOf<uint16_t, I::bytes>::type;
  using Half = typename detail::VectorOf<uint16_t, I::bytes / 2>::type;

  template <size_t... i>
  static DIFFCODER_INLINE Vec load_bfloat16(const c10::BFloat16* p, std::index_sequence<i...>) {
    Half half;
    std::memcpy(&half, p, sizeof(half));
#ifdef DIFFCODER_SHUFFLE  // zeros between: one or two instructions, where GCC makes a conversion and a shift five
    return interleave(half, std::make_index_sequence<2 * sizeof...(i)>());
#else
    return (Vec)(__builtin_convertvector(half, Bits) << 16);
#endif
  }

  template <size_t... i>
  static DIFFCODER_INLINE void store_bfloat16(c10::BFloat16* p, Vec v, std::index_sequence<i...>) {
    const Bits bits = (Bits)v;
    const Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const Bits result = v == v ? rounded : (Bits)(bits | 0x400000u);
#ifdef DIFFCODER_SHUFFLE
    const Half half = __builtin_shufflevector((Shorts)result, (Shorts)result, static_cast<int>(2 * i + 1)...);
#else
    const Half half = __builtin_convertvector(result >> 16, Half);
#endif
    std::memcpy(p, &half, sizeof(half));
  }

#ifdef DIFFCODER_SHUFFLE
  /// A zero before each element.
  template <size_t... i>
  static DIFFCODER_INLINE Vec interleave(Half half, std::index_sequence<i...>) {
    return (Vec)__builtin_shufflevector(Half{}, half, static_cast<int>(i % 2 == 0 ? 0 : lanes + i / 2)...);
  }
#endif
};

}  // namespace diffcoder::simd
