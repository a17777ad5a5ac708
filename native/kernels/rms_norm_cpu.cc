// RMSNorm on the CPU, forward and backward, with the residual addition fused in.
//
//   s = x + residual                      (s = x without a residual)
//   r = 1 / sqrt(mean(s^2) + eps)
//   y = s * r * weight
//
//   ds = r * (g * w - s * r^2 * mean(g * w * s)) + grad_s        dw = sum over rows of g * s * r

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/result_type.h>

#include <algorithm>
#include <vector>

#include "registry.h"
#include "rows.h"

namespace diffcoder::rms_norm_cpu {
namespace {

using namespace simd;

struct Forward {
  RowSpan x, residual, sum, y;
  const void* weight;
  void* rstd;
  int64_t d;
  double eps;
};

template <typename I, typename A>
DIFFCODER_INLINE void forward_rows(const Forward& f, int64_t begin, int64_t end) {
  using V = Simd<I, A>;
  const int64_t d = f.d;
  std::vector<A> buffers(static_cast<size_t>(3 * d));
  A *in = buffers.data(), *other = in + d, *out = other + d;
  const A* weight = static_cast<const A*>(f.weight);
  for (int64_t i = begin; i < end; ++i) {
    const A* s = read_row<I, A>(f.x, i, in, d);
    if (f.residual) {
      const A* r = read_row<I, A>(f.residual, i, other, d);
      A* sum = row_target<A>(f.sum, i, out);
      V::for_each(d, [&](auto load, auto store, int64_t k)
                         __attribute__((always_inline)) { store(sum + k, load(s + k) + load(r + k)); });
      write_row<I, A>(f.sum, i, sum, d);
      s = read_row<I, A>(f.sum, i, in, d);  // normalise what is stored: the backward sees the same numbers
    }
    typename V::Vec squares[4] = {};
    int64_t k = 0;
    for (; k + 4 * V::lanes <= d; k += 4 * V::lanes) {
      for (int u = 0; u < 4; ++u) {
        const typename V::Vec v = V::load(s + k + u * V::lanes);
        squares[u] += v * v;
      }
    }
    A total = V::reduce_add((squares[0] + squares[1]) + (squares[2] + squares[3]));
    typename V::Vec rest = {};
    V::for_each(d - k, [&](auto load, auto, int64_t j) __attribute__((always_inline)) {
      const typename V::Vec v = load(s + k + j);
      rest += v * v;
    });
    total += V::reduce_add(rest);
    const A rstd = A(1) / std::sqrt(total / static_cast<A>(d) + static_cast<A>(f.eps));
    static_cast<A*>(f.rstd)[i] = rstd;
    A* y = row_target<A>(f.y, i, out);
    V::for_each(d, [&](auto load, auto store, int64_t j)
                       __attribute__((always_inline)) { store(y + j, load(s + j) * rstd * load(weight + j)); });
    write_row<I, A>(f.y, i, y, d);
  }
}

struct Backward {
  RowSpan grad, grad_sum, x, dx;
  const void* weight;
  const void* rstd;
  void* dweight;  // [d], or null
  int64_t d;
};

template <typename I, typename A>
DIFFCODER_INLINE void backward_rows(const Backward& b, int64_t begin, int64_t end, void* dweight_partial) {
  using V = Simd<I, A>;
  const int64_t d = b.d;
  std::vector<A> buffers(static_cast<size_t>(4 * d));
  A *g_buffer = buffers.data(), *x_buffer = g_buffer + d, *s_buffer = x_buffer + d, *out = s_buffer + d;
  const A* w = static_cast<const A*>(b.weight);
  A* dw = static_cast<A*>(dweight_partial);
  for (int64_t i = begin; i < end; ++i) {
    const A* g = read_row<I, A>(b.grad, i, g_buffer, d);
    const A* x = read_row<I, A>(b.x, i, x_buffer, d);
    const A rstd = static_cast<const A*>(b.rstd)[i];
    typename V::Vec dots = {};
    if (dw != nullptr) {
      V::for_each(d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
        const typename V::Vec gx = load(g + k) * load(x + k);
        dots += gx * load(w + k);
        store(dw + k, load(dw + k) + gx * rstd);
      });
    } else {
      V::for_each(d, [&](auto load, auto, int64_t k)
                         __attribute__((always_inline)) { dots += load(g + k) * load(x + k) * load(w + k); });
    }
    const A c = V::reduce_add(dots) / static_cast<A>(d) * rstd * rstd * rstd;
    A* dx = row_target<A>(b.dx, i, out);
    if (b.grad_sum) {
      const A* s = read_row<I, A>(b.grad_sum, i, s_buffer, d);
      V::for_each(d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
        store(dx + k, load(g + k) * load(w + k) * rstd - load(x + k) * c + load(s + k));
      });
    } else {
      V::for_each(d, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
        store(dx + k, load(g + k) * load(w + k) * rstd - load(x + k) * c);
      });
    }
    write_row<I, A>(b.dx, i, dx, d);
  }
}

DIFFCODER_KERNEL(forward_float, (const Forward& f, int64_t begin, int64_t end), (f, begin, end), forward_rows, float)
DIFFCODER_KERNEL(forward_double, (const Forward& f, int64_t begin, int64_t end), (f, begin, end), forward_rows, double)
DIFFCODER_KERNEL(backward_float, (const Backward& b, int64_t begin, int64_t end, void* dw), (b, begin, end, dw),
                 backward_rows, float)
DIFFCODER_KERNEL(backward_double, (const Backward& b, int64_t begin, int64_t end, void* dw), (b, begin, end, dw),
                 backward_rows, double)

at::ScalarType accumulation_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& x, const at::Tensor& residual,
                                                       const at::Tensor& weight, double eps, at::ScalarType dtype) {
  const int64_t n = x.size(0), d = x.size(1);
  at::Tensor sum;
  if (residual.defined()) sum = at::empty({n, d}, x.options().dtype(at::result_type(x, residual)));
  const at::ScalarType acc = accumulation_dtype(residual.defined() ? sum : x);
  const at::Tensor w = weight.to(acc).contiguous();
  at::Tensor y = at::empty({n, d}, x.options().dtype(dtype));
  at::Tensor rstd = at::empty({n}, x.options().dtype(acc));
  Forward f{RowSpan(x),
            residual.defined() ? RowSpan(residual) : RowSpan(),
            residual.defined() ? RowSpan(sum) : RowSpan(),
            RowSpan(y),
            w.const_data_ptr(),
            rstd.data_ptr(),
            d,
            eps};
  at::parallel_for(0, n, std::max<int64_t>(1, 16384 / std::max<int64_t>(d, 1)), [&](int64_t begin, int64_t end) {
    acc == at::kDouble ? forward_double(f, begin, end) : forward_float(f, begin, end);
  });
  return {y, sum, rstd};
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& grad_sum, const at::Tensor& x,
                                            const at::Tensor& weight, const at::Tensor& rstd, bool want_weight) {
  const int64_t n = x.size(0), d = x.size(1);
  const at::ScalarType acc = rstd.scalar_type();
  const at::Tensor w = weight.to(acc).contiguous();
  at::Tensor dx = at::empty({n, d}, x.options());
  Backward b{RowSpan(grad),
             grad_sum.defined() ? RowSpan(grad_sum) : RowSpan(),
             RowSpan(x),
             RowSpan(dx),
             w.const_data_ptr(),
             rstd.const_data_ptr(),
             nullptr,
             d};
  // The rows are cut into a number of chunks that does not depend on the threads: the weight's gradient is the same on
  // any machine.
  const int64_t chunks = std::clamp<int64_t>(n / 32, 1, 16);
  const int64_t rows = (n + chunks - 1) / chunks;
  at::Tensor partial;
  if (want_weight) partial = at::empty({chunks, d}, rstd.options()).zero_();
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      void* dw = want_weight
                     ? static_cast<char*>(partial.data_ptr()) + c * d * static_cast<int64_t>(partial.element_size())
                     : nullptr;
      const int64_t first = std::min(n, c * rows), last = std::min(n, (c + 1) * rows);
      acc == at::kDouble ? backward_double(b, first, last, dw) : backward_float(b, first, last, dw);
    }
  });
  at::Tensor dweight;
  if (want_weight) dweight = partial.sum(0).to(weight.scalar_type());
  return {dx, dweight};
}

const bool registered = [] {
  kernels(c10::DeviceType::CPU).rms_norm_forward = &forward;
  kernels(c10::DeviceType::CPU).rms_norm_backward = &backward;
  return true;
}();

}  // namespace
}  // namespace diffcoder::rms_norm_cpu
