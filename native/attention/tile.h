#pragma once

// Small dense products for blocks that fit in the first-level cache: rows are packed, zero-padded to whole vectors and groups of four.

#include "../kernels/simd.h"

namespace diffcoder::simd {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define DIFFCODER_HAS_SHUFFLEVECTOR 1
#endif
#endif

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// Rows of d elements, `stride` apart, to float (or double) rows of dp elements; rows beyond n up to padded_n become zero.
template <typename S>
DIFFCODER_INLINE void pack_rows(const S* source, int64_t stride, int64_t n, int64_t padded_n, int64_t d, int64_t dp, Acc<S>* out) {
  for (int64_t i = 0; i < n; ++i) {
    const S* p = source + i * stride;
    Acc<S>* row = out + i * dp;
    for_each_vector<Acc<S>>(d, [&](auto load, auto, int64_t k) __attribute__((always_inline)) { store(row + k, load(p + k)); });
  }
  for (int64_t k = n * dp; k < padded_n * dp; ++k) out[k] = 0;
}

template <typename A>
struct Dots4x4 {
  A value[4][4];
};

#ifdef DIFFCODER_HAS_SHUFFLEVECTOR
DIFFCODER_INLINE F32x8 add_pairs(F32x8 a, F32x8 b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}
/// The sums of eight vectors' lanes, in order.
DIFFCODER_INLINE F32x8 sums_of_eight(const F32x8* a) {
  const F32x8 x = add_pairs(add_pairs(a[0], a[1]), add_pairs(a[2], a[3]));
  const F32x8 y = add_pairs(add_pairs(a[4], a[5]), add_pairs(a[6], a[7]));
  return __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15);
}
#endif

/// out[r * out_stride + c] = factor * a_r . b_c for four rows a and four rows b of dp elements.
template <typename A>
DIFFCODER_INLINE void dots_4x4(const A* a, const A* b, int64_t dp, A factor, A* out, int64_t out_stride) {
  Vec<A> sum[16] = {};
  for (int64_t k = 0; k < dp; k += kLanes<A>) {
    Vec<A> bs[4];
    for (int c = 0; c < 4; ++c) bs[c] = load(b + c * dp + k);
    for (int r = 0; r < 4; ++r) {
      const Vec<A> ar = load(a + r * dp + k);
      for (int c = 0; c < 4; ++c) sum[r * 4 + c] += ar * bs[c];
    }
  }
#ifdef DIFFCODER_HAS_SHUFFLEVECTOR
  if constexpr (sizeof(A) == 4) {
    for (int r = 0; r < 4; r += 2) {
      A two_rows[8];
      store(two_rows, sums_of_eight(sum + r * 4) * factor);
      std::memcpy(out + r * out_stride, two_rows, 4 * sizeof(A));
      std::memcpy(out + (r + 1) * out_stride, two_rows + 4, 4 * sizeof(A));
    }
    return;
  }
#endif
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) out[r * out_stride + c] = factor * reduce_add<A>(sum[r * 4 + c]);
  }
}

/// out[r] += sum_t coefficient[r * row_step + t * term_step] * m[t] for `rows` rows (a multiple of four) of dp elements, t < terms.
template <typename A>
DIFFCODER_INLINE void accumulate_rows(const A* coefficient, int64_t row_step, int64_t term_step, const A* m, int64_t terms, int64_t rows,
                                      int64_t dp, A* out) {
  for (int64_t r = 0; r < rows; r += 4) {
    const A* c0 = coefficient + r * row_step;
    int64_t k = 0;
    for (; k + 2 * kLanes<A> <= dp; k += 2 * kLanes<A>) {
      Vec<A> sum[8];
      for (int i = 0; i < 4; ++i) {
        for (int u = 0; u < 2; ++u) sum[i * 2 + u] = load(out + (r + i) * dp + k + u * kLanes<A>);
      }
      for (int64_t t = 0; t < terms; ++t) {
        const Vec<A> m0 = load(m + t * dp + k), m1 = load(m + t * dp + k + kLanes<A>);
        for (int i = 0; i < 4; ++i) {
          const A c = c0[i * row_step + t * term_step];
          sum[i * 2] += m0 * c;
          sum[i * 2 + 1] += m1 * c;
        }
      }
      for (int i = 0; i < 4; ++i) {
        for (int u = 0; u < 2; ++u) store(out + (r + i) * dp + k + u * kLanes<A>, sum[i * 2 + u]);
      }
    }
    for (; k < dp; k += kLanes<A>) {
      Vec<A> sum[4];
      for (int i = 0; i < 4; ++i) sum[i] = load(out + (r + i) * dp + k);
      for (int64_t t = 0; t < terms; ++t) {
        const Vec<A> m0 = load(m + t * dp + k);
        for (int i = 0; i < 4; ++i) sum[i] += m0 * c0[i * row_step + t * term_step];
      }
      for (int i = 0; i < 4; ++i) store(out + (r + i) * dp + k, sum[i]);
    }
  }
}

}  // namespace diffcoder::simd
