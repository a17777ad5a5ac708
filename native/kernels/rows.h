#pragma once

// Rows of any floating dtype seen as rows of the accumulation type: float rows are used where they lie, others go
// through a buffer that stays in the first-level cache. This keeps kernels with mixed dtypes free of a template for
// every combination.

#include <ATen/core/Tensor.h>

#include <cstring>

#include "simd.h"

namespace diffcoder {

/// The tensor as [n, d] with contiguous rows (any distance between them); copies only if its layout leaves no other
/// way.
inline at::Tensor as_rows(const at::Tensor& t) {
  const int64_t d = t.size(-1);
  at::Tensor rows = t.dim() == 2 ? t : t.reshape({d == 0 ? 0 : t.numel() / d, d});
  return rows.stride(1) == 1 || d == 1 ? rows : rows.contiguous();
}

/// The address, dtype and row distance (in elements) of an [n, d] tensor.
struct RowSpan {
  char* data = nullptr;
  at::ScalarType dtype = at::kFloat;
  int64_t stride = 0;
  int64_t element_size = 4;

  RowSpan() = default;
  explicit RowSpan(const at::Tensor& t)
      : data(static_cast<char*>(const_cast<void*>(t.const_data_ptr()))),
        dtype(t.scalar_type()),
        stride(t.stride(0)),
        element_size(static_cast<int64_t>(t.element_size())) {}

  explicit operator bool() const { return data != nullptr; }
  char* row(int64_t i) const { return data + i * stride * element_size; }
};

/// The kernel of a storage dtype.
template <typename F>
F by_dtype(at::ScalarType dtype, F for_float, F for_double, F for_bfloat16, F for_half) {
  if (dtype == at::kFloat) return for_float;
  if (dtype == at::kDouble) return for_double;
  if (dtype == at::kBFloat16) return for_bfloat16;
  TORCH_CHECK_TYPE(dtype == at::kHalf, "no kernel for ", dtype);
  return for_half;
}

namespace simd {

template <typename I, typename S>
DIFFCODER_INLINE void widen(const char* source, Acc<S>* out, int64_t n) {
  const S* p = reinterpret_cast<const S*>(source);
  Simd<I, Acc<S>>::for_each(
      n, [&](auto load, auto store, int64_t i) __attribute__((always_inline)) { store(out + i, load(p + i)); });
}

template <typename I, typename S>
DIFFCODER_INLINE void narrow(const Acc<S>* in, char* target, int64_t n) {
  S* p = reinterpret_cast<S*>(target);
  Simd<I, Acc<S>>::for_each(
      n, [&](auto load, auto store, int64_t i) __attribute__((always_inline)) { store(p + i, load(in + i)); });
}

template <typename A>
inline constexpr at::ScalarType kDtype = at::kFloat;
template <>
inline constexpr at::ScalarType kDtype<double> = at::kDouble;

/// n elements of `dtype` at `row` in the accumulation type A: in place if they are stored so, else converted into
/// `buffer`.
template <typename I, typename A>
DIFFCODER_INLINE const A* read_any(const char* row, at::ScalarType dtype, A* buffer, int64_t n) {
  if (dtype == kDtype<A>) return reinterpret_cast<const A*>(row);
  if constexpr (std::is_same_v<A, float>) {
    if (dtype == at::kBFloat16) widen<I, c10::BFloat16>(row, buffer, n);
    if (dtype == at::kHalf) widen<I, c10::Half>(row, buffer, n);
    if (dtype == at::kDouble) {
      for (int64_t k = 0; k < n; ++k) buffer[k] = static_cast<float>(reinterpret_cast<const double*>(row)[k]);
    }
  } else {
    for (int64_t k = 0; k < n; ++k) {
      buffer[k] = dtype == at::kFloat      ? reinterpret_cast<const float*>(row)[k]
                  : dtype == at::kBFloat16 ? static_cast<float>(reinterpret_cast<const c10::BFloat16*>(row)[k])
                                           : static_cast<float>(reinterpret_cast<const c10::Half*>(row)[k]);
    }
  }
  return buffer;
}

/// The reverse: n computed elements to `row` in `dtype`. Nothing to do if they were computed there.
template <typename I, typename A>
DIFFCODER_INLINE void write_any(const A* computed, at::ScalarType dtype, char* row, int64_t n) {
  if (dtype == kDtype<A>) {
    if (reinterpret_cast<const char*>(computed) != row) std::memcpy(row, computed, static_cast<size_t>(n) * sizeof(A));
    return;
  }
  if constexpr (std::is_same_v<A, float>) {
    if (dtype == at::kBFloat16) narrow<I, c10::BFloat16>(computed, row, n);
    if (dtype == at::kHalf) narrow<I, c10::Half>(computed, row, n);
    if (dtype == at::kDouble) {
      for (int64_t k = 0; k < n; ++k) reinterpret_cast<double*>(row)[k] = computed[k];
    }
  } else {
    for (int64_t k = 0; k < n; ++k) {
      const float value = static_cast<float>(computed[k]);
      if (dtype == at::kFloat) reinterpret_cast<float*>(row)[k] = value;
      if (dtype == at::kBFloat16) reinterpret_cast<c10::BFloat16*>(row)[k] = value;
      if (dtype == at::kHalf) reinterpret_cast<c10::Half*>(row)[k] = value;
    }
  }
}

/// Row i of a span, see read_any.
template <typename I, typename A>
DIFFCODER_INLINE const A* read_row(const RowSpan& span, int64_t i, A* buffer, int64_t n) {
  return read_any<I, A>(span.row(i), span.dtype, buffer, n);
}

/// Where to compute row i: the row itself if stored in A, else `buffer`; finish with write_row.
template <typename A>
DIFFCODER_INLINE A* row_target(const RowSpan& span, int64_t i, A* buffer) {
  return span.dtype == kDtype<A> ? reinterpret_cast<A*>(span.row(i)) : buffer;
}

/// Stores what was computed at row_target.
template <typename I, typename A>
DIFFCODER_INLINE void write_row(const RowSpan& span, int64_t i, const A* computed, int64_t n) {
  write_any<I, A>(computed, span.dtype, span.row(i), n);
}

}  // namespace simd
}  // namespace diffcoder
