// SwiGLU on the CPU: y = silu(g) * u with silu(g) = g * s, s = 1 / (1 + exp(-g)).
//   dg = dy * u * s * (1 + g * (1 - s))        du = dy * g * s

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "registry.h"
#include "rows.h"

namespace diffcoder {
namespace {

using namespace simd;

/// Rows of gate, up and the incoming gradient (backward only), and of the one or two results.
struct Spans {
  RowSpan gate, up, grad, out, out_up;
  int64_t d;
};

template <typename S>
DIFFCODER_INLINE void forward_rows(const Spans& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  for (int64_t i = begin; i < end; ++i) {
    const S* gate = reinterpret_cast<const S*>(a.gate.row(i));
    const S* up = reinterpret_cast<const S*>(a.up.row(i));
    S* out = reinterpret_cast<S*>(a.out.row(i));
    for_each_vector<A>(a.d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
      const Vec<A> g = load(gate + k);
      store(out + k, g / (A(1) + exp(-g)) * load(up + k));
    });
  }
}

template <typename S>
DIFFCODER_INLINE void backward_rows(const Spans& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  for (int64_t i = begin; i < end; ++i) {
    const S* gate = reinterpret_cast<const S*>(a.gate.row(i));
    const S* up = reinterpret_cast<const S*>(a.up.row(i));
    const S* grad = reinterpret_cast<const S*>(a.grad.row(i));
    S* dgate = reinterpret_cast<S*>(a.out.row(i));
    S* dup = reinterpret_cast<S*>(a.out_up.row(i));
    for_each_vector<A>(a.d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
      const Vec<A> g = load(gate + k), dy = load(grad + k);
      const Vec<A> s = A(1) / (A(1) + exp(-g));
      store(dgate + k, dy * load(up + k) * s * (A(1) + g * (A(1) - s)));
      store(dup + k, dy * g * s);
    });
  }
}

#define DIFFCODER_SWIGLU(S)                                                                                       \
  DIFFCODER_CLONES void forward_rows_of(const Spans& a, int64_t begin, int64_t end, S*) { forward_rows<S>(a, begin, end); } \
  DIFFCODER_CLONES void backward_rows_of(const Spans& a, int64_t begin, int64_t end, S*) { backward_rows<S>(a, begin, end); }
DIFFCODER_SWIGLU(float)
DIFFCODER_SWIGLU(double)
DIFFCODER_SWIGLU(c10::BFloat16)
DIFFCODER_SWIGLU(c10::Half)

int64_t grain(int64_t d) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(d, 1)); }

at::Tensor forward(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  const Spans spans{RowSpan(gate), RowSpan(up), RowSpan(), RowSpan(out), RowSpan(), gate.size(1)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate.scalar_type(), "swiglu", [&] {
    at::parallel_for(0, gate.size(0), grain(spans.d),
                     [&](int64_t begin, int64_t end) { forward_rows_of(spans, begin, end, static_cast<scalar_t*>(nullptr)); });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(up.sizes(), up.options());
  const Spans spans{RowSpan(gate), RowSpan(up), RowSpan(grad), RowSpan(dgate), RowSpan(dup), gate.size(1)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate.scalar_type(), "swiglu_backward", [&] {
    at::parallel_for(0, gate.size(0), grain(spans.d),
                     [&](int64_t begin, int64_t end) { backward_rows_of(spans, begin, end, static_cast<scalar_t*>(nullptr)); });
  });
  return {dgate, dup};
}

const bool registered = [] {
  kernels(c10::DeviceType::CPU).swiglu_forward = &forward;
  kernels(c10::DeviceType::CPU).swiglu_backward = &backward;
  return true;
}();

}  // namespace
}  // namespace diffcoder
