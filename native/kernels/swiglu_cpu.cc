// SwiGLU on the CPU: y = silu(g) * u with silu(g) = g * s, s = 1 / (1 + V::exp(-g)).
//   dg = dy * u * s * (1 + g * (1 - s))        du = dy * g * s

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "registry.h"
#include "rows.h"

namespace diffcoder::swiglu_cpu {
namespace {

using namespace simd;

/// Rows of gate, up and the incoming gradient (backward only), and of the one or two results.
struct Spans {
  RowSpan gate, up, grad, out, out_up;
  int64_t d;
};

template <typename I, typename S>
DIFFCODER_INLINE void forward_rows(const Spans& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  using V = Simd<I, A>;
  for (int64_t i = begin; i < end; ++i) {
    const S* gate = reinterpret_cast<const S*>(a.gate.row(i));
    const S* up = reinterpret_cast<const S*>(a.up.row(i));
    S* out = reinterpret_cast<S*>(a.out.row(i));
    V::for_each(a.d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
      const typename V::Vec g = load(gate + k);
      store(out + k, g / (A(1) + V::exp(-g)) * load(up + k));
    });
  }
}

template <typename I, typename S>
DIFFCODER_INLINE void backward_rows(const Spans& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  using V = Simd<I, A>;
  for (int64_t i = begin; i < end; ++i) {
    const S* gate = reinterpret_cast<const S*>(a.gate.row(i));
    const S* up = reinterpret_cast<const S*>(a.up.row(i));
    const S* grad = reinterpret_cast<const S*>(a.grad.row(i));
    S* dgate = reinterpret_cast<S*>(a.out.row(i));
    S* dup = reinterpret_cast<S*>(a.out_up.row(i));
    V::for_each(a.d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
      const typename V::Vec g = load(gate + k), dy = load(grad + k);
      const typename V::Vec s = A(1) / (A(1) + V::exp(-g));
      store(dgate + k, dy * load(up + k) * s * (A(1) + g * (A(1) - s)));
      store(dup + k, dy * g * s);
    });
  }
}

#define DIFFCODER_SWIGLU(name, S)                                                                                  \
  DIFFCODER_KERNEL(forward_##name, (const Spans& a, int64_t begin, int64_t end), (a, begin, end), forward_rows, S) \
  DIFFCODER_KERNEL(backward_##name, (const Spans& a, int64_t begin, int64_t end), (a, begin, end), backward_rows, S)
DIFFCODER_SWIGLU(float, float)
DIFFCODER_SWIGLU(double, double)
DIFFCODER_SWIGLU(bfloat16, c10::BFloat16)
DIFFCODER_SWIGLU(half, c10::Half)

int64_t grain(int64_t d) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(d, 1)); }

at::Tensor forward(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  const Spans spans{RowSpan(gate), RowSpan(up), RowSpan(), RowSpan(out), RowSpan(), gate.size(1)};
  const auto kernel = by_dtype(gate.scalar_type(), &forward_float, &forward_double, &forward_bfloat16, &forward_half);
  at::parallel_for(0, gate.size(0), grain(spans.d), [&](int64_t begin, int64_t end) { kernel(spans, begin, end); });
  return out;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(up.sizes(), up.options());
  const Spans spans{RowSpan(gate), RowSpan(up), RowSpan(grad), RowSpan(dgate), RowSpan(dup), gate.size(1)};
  const auto kernel =
      by_dtype(gate.scalar_type(), &backward_float, &backward_double, &backward_bfloat16, &backward_half);
  at::parallel_for(0, gate.size(0), grain(spans.d), [&](int64_t begin, int64_t end) { kernel(spans, begin, end); });
  return {dgate, dup};
}

const bool registered = [] {
  kernels(c10::DeviceType::CPU).swiglu_forward = &forward;
  kernels(c10::DeviceType::CPU).swiglu_backward = &backward;
  return true;
}();

}  // namespace
}  // namespace diffcoder::swiglu_cpu
