#pragma once

// Small dense products on tiles that fit in the first-level cache. All tiles are packed in the accumulation type, rows
// zero-padded to 64 bytes. One micro-kernel does every product: it runs at the machine's multiply-add rate.

#include "../kernels/rows.h"
#include "../kernels/simd.h"

namespace diffcoder::simd {

inline constexpr int64_t kTile = 64;  // queries or keys of a tile

/// Columns of the micro-kernel: 16 floats or 8 doubles, in one, two or four vectors.
template <typename A>
inline constexpr int64_t kColumns = 64 / sizeof(A);

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// out[r][c] (+)= sum_t coefficient[r * row_step + t * term_step] * m[t * m_stride + c] for I::rows rows and kColumns
/// columns.
template <typename I, typename A, bool add>
DIFFCODER_INLINE void micro_product(const A* coefficient, int64_t row_step, int64_t term_step, const A* m,
                                    int64_t m_stride, int64_t terms, A* out, int64_t out_stride) {
  using V = Simd<I, A>;
  constexpr int rows = I::rows, vectors = 64 / I::bytes;
  typename V::Vec sum[rows * vectors];
  for (int r = 0; r < rows; ++r) {
    for (int u = 0; u < vectors; ++u)
      sum[r * vectors + u] = add ? V::load(out + r * out_stride + u * V::lanes) : typename V::Vec{};
  }
  for (int64_t t = 0; t < terms; ++t) {
    typename V::Vec row[vectors];
    for (int u = 0; u < vectors; ++u) row[u] = V::load(m + t * m_stride + u * V::lanes);
    for (int r = 0; r < rows; ++r) {
      const A c = coefficient[r * row_step + t * term_step];
      for (int u = 0; u < vectors; ++u) sum[r * vectors + u] += row[u] * c;
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int u = 0; u < vectors; ++u) V::store(out + r * out_stride + u * V::lanes, sum[r * vectors + u]);
  }
}

/// The same over `columns` columns (a multiple of kColumns).
template <typename I, typename A, bool add>
DIFFCODER_INLINE void row_product(const A* coefficient, int64_t row_step, int64_t term_step, const A* m,
                                  int64_t m_stride, int64_t terms, int64_t columns, A* out, int64_t out_stride) {
  for (int64_t c = 0; c < columns; c += kColumns<A>) {
    micro_product<I, A, add>(coefficient, row_step, term_step, m + c, m_stride, terms, out + c, out_stride);
  }
}

/// One head of a [b, s, h, d] tensor: `row(i)` is position i.
struct HeadRows {
  const char* data;
  at::ScalarType dtype;
  int64_t stride;  // bytes

  HeadRows(const at::Tensor& t, int64_t b, int64_t h)
      : data(static_cast<const char*>(t.const_data_ptr()) +
             (b * t.stride(0) + h * t.stride(2)) * static_cast<int64_t>(t.element_size())),
        dtype(t.scalar_type()),
        stride(t.stride(1) * static_cast<int64_t>(t.element_size())) {}
};

/// Rows first..first+n times `factor` as rows of dp elements; zeros up to `padded` rows and dp columns.
template <typename I, typename A>
DIFFCODER_INLINE void pack_rows(const HeadRows& source, int64_t first, int64_t n, int64_t padded, int64_t d, int64_t dp,
                                A factor, A* out) {
  for (int64_t i = 0; i < n; ++i) {
    A* row = out + i * dp;
    const A* p = read_any<I, A>(source.data + (first + i) * source.stride, source.dtype, row, d);
    for (int64_t k = 0; k < d; ++k) row[k] = p[k] * factor;
    for (int64_t k = d; k < dp; ++k) row[k] = 0;
  }
  for (int64_t k = n * dp; k < padded * dp; ++k) out[k] = 0;
}

/// The transposed tile: out[k * kTile + i] = row (first + i)[k]; columns beyond n are zero. `buffer` holds kTile rows
/// of dp elements.
template <typename A>
DIFFCODER_INLINE void pack_transposed(const A* rows, int64_t n, int64_t d, int64_t dp, A* out) {
  for (int64_t k = 0; k < d; ++k) {
    for (int64_t i = 0; i < n; ++i) out[k * kTile + i] = rows[i * dp + k];
    for (int64_t i = n; i < kTile; ++i) out[k * kTile + i] = 0;
  }
}

}  // namespace diffcoder::simd
