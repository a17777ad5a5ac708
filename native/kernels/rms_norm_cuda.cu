// RMSNorm on CUDA, forward and backward, with the residual addition fused in; the formulas are those of
// rms_norm_cpu.cc. A block takes one row. The weight's gradient is summed over chunks of rows first, so that no atomics
// are needed.

#include <ATen/ops/empty.h>
#include <ATen/ops/result_type.h>

#include <algorithm>

#include "cuda_common.cuh"
#include "registry.h"

namespace diffcoder {
namespace {

using namespace cuda;

/// x in X; residual and their sum in S (S = X and no residual: the sum is x itself); y in Y.
template <typename X, typename S, typename Y>
__global__ void __launch_bounds__(kThreads)
    forward_row(const X* x, int64_t x_stride, const S* residual, int64_t residual_stride, S* sum, const Acc<S>* weight,
                Y* y, Acc<S>* rstd, int64_t d, Acc<S> eps) {
  using A = Acc<S>;
  __shared__ A shared[kThreads / 32];
  const int64_t row = blockIdx.x;
  x += row * x_stride;
  y += row * d;
  A squares = 0;
  for (int64_t k = threadIdx.x; k < d; k += kThreads) {
    A value = static_cast<A>(x[k]);
    if (residual != nullptr) {
      const S total = static_cast<S>(value + static_cast<A>(residual[row * residual_stride + k]));
      sum[row * d + k] = total;
      value = static_cast<A>(total);
    }
    squares += value * value;
  }
  squares = block_reduce(squares, Add(), shared);
  const A r = A(1) / ::sqrt(squares / static_cast<A>(d) + eps);
  if (threadIdx.x == 0) rstd[row] = r;
  for (int64_t k = threadIdx.x; k < d; k += kThreads) {
    const A value =
        residual != nullptr ? static_cast<A>(sum[row * d + k]) : static_cast<A>(x[k]);  // written by this thread above
    y[k] = static_cast<Y>(value * r * weight[k]);
  }
}

template <typename G, typename S>
__global__ void __launch_bounds__(kThreads)
    backward_row(const G* grad, int64_t grad_stride, const S* grad_sum, int64_t grad_sum_stride, const S* x,
                 int64_t x_stride, const Acc<S>* weight, const Acc<S>* rstd, S* dx, int64_t d) {
  using A = Acc<S>;
  __shared__ A shared[kThreads / 32];
  const int64_t row = blockIdx.x;
  grad += row * grad_stride;
  x += row * x_stride;
  A dot = 0;
  for (int64_t k = threadIdx.x; k < d; k += kThreads) dot += static_cast<A>(grad[k]) * weight[k] * static_cast<A>(x[k]);
  dot = block_reduce(dot, Add(), shared);
  const A r = rstd[row], c = dot / static_cast<A>(d) * r * r * r;
  for (int64_t k = threadIdx.x; k < d; k += kThreads) {
    A value = static_cast<A>(grad[k]) * weight[k] * r - static_cast<A>(x[k]) * c;
    if (grad_sum != nullptr) value += static_cast<A>(grad_sum[row * grad_sum_stride + k]);
    dx[row * d + k] = static_cast<S>(value);
  }
}

constexpr int kColumns = 32, kRowLanes = kThreads / kColumns;

/// partial[chunk][k] = sum over the chunk's rows of grad * x * rstd; a block takes kColumns columns of one chunk.
template <typename G, typename S>
__global__ void __launch_bounds__(kThreads)
    weight_partials(const G* grad, int64_t grad_stride, const S* x, int64_t x_stride, const Acc<S>* rstd,
                    Acc<S>* partial, int64_t n, int64_t d, int64_t rows) {
  using A = Acc<S>;
  __shared__ A shared[kRowLanes][kColumns];
  const int column = threadIdx.x % kColumns, lane = threadIdx.x / kColumns;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kColumns + column, chunk = blockIdx.y;
  const int64_t end = (chunk + 1) * rows < n ? (chunk + 1) * rows : n;
  A total = 0;
  if (k < d) {
    for (int64_t i = chunk * rows + lane; i < end; i += kRowLanes) {
      total += static_cast<A>(grad[i * grad_stride + k]) * static_cast<A>(x[i * x_stride + k]) * rstd[i];
    }
  }
  shared[lane][column] = total;
  __syncthreads();
  if (lane != 0 || k >= d) return;
  for (int other = 1; other < kRowLanes; ++other) total += shared[other][column];
  partial[chunk * d + k] = total;
}

at::ScalarType accumulation_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// Calls fn(x type, sum type) for the pairs that have a kernel: equal dtypes, or 16-bit x into a float32 sum.
template <typename F>
void with_pair(at::ScalarType narrow, at::ScalarType wide, const F& fn) {
  if (wide == at::kFloat && narrow == at::kBFloat16)
    return fn(static_cast<c10::BFloat16*>(nullptr), static_cast<float*>(nullptr));
  if (wide == at::kFloat && narrow == at::kHalf)
    return fn(static_cast<c10::Half*>(nullptr), static_cast<float*>(nullptr));
  with_dtype(wide, [&](auto* type) { fn(type, type); });
}

bool has_pair(at::ScalarType narrow, at::ScalarType wide) {
  return narrow == wide || (wide == at::kFloat && (narrow == at::kBFloat16 || narrow == at::kHalf));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const at::Tensor& x_any, const at::Tensor& residual_any,
                                                       const at::Tensor& weight, double eps, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard on_device(x_any.device());
  const int64_t n = x_any.size(0), d = x_any.size(1);
  const at::ScalarType sum_dtype = residual_any.defined() ? at::result_type(x_any, residual_any) : x_any.scalar_type();
  const at::ScalarType acc = accumulation_dtype(sum_dtype);
  const at::Tensor x = has_pair(x_any.scalar_type(), sum_dtype) ? x_any : x_any.to(sum_dtype);
  const at::Tensor residual = residual_any.defined() ? residual_any.to(sum_dtype) : at::Tensor();
  const at::Tensor w = weight.to(acc).contiguous();
  at::Tensor sum = residual.defined() ? at::empty({n, d}, residual.options()) : at::Tensor();
  // y's dtype: the sum's, or 16 bits from a float32 sum; any other is converted afterwards.
  const at::ScalarType y_dtype = has_pair(dtype, sum_dtype) ? dtype : sum_dtype;
  at::Tensor y = at::empty({n, d}, x.options().dtype(y_dtype));
  at::Tensor rstd = at::empty({n}, x.options().dtype(acc));
  if (n > 0) {
    with_pair(x.scalar_type(), sum_dtype, [&](auto* x_type, auto* sum_type) {
      using X = std::remove_pointer_t<decltype(x_type)>;
      using S = std::remove_pointer_t<decltype(sum_type)>;
      with_pair(y_dtype, sum_dtype, [&](auto* y_type, auto* same_type) {
        using Y = std::remove_pointer_t<decltype(y_type)>;
        if constexpr (std::is_same_v<S, std::remove_pointer_t<decltype(same_type)>>) {
          forward_row<X, S, Y><<<static_cast<unsigned int>(n), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
              x.const_data_ptr<X>(), x.stride(0), residual.defined() ? residual.const_data_ptr<S>() : nullptr,
              residual.defined() ? residual.stride(0) : 0, sum.defined() ? sum.mutable_data_ptr<S>() : nullptr,
              w.const_data_ptr<Acc<S>>(), y.mutable_data_ptr<Y>(), rstd.mutable_data_ptr<Acc<S>>(), d,
              static_cast<Acc<S>>(eps));
          C10_CUDA_KERNEL_LAUNCH_CHECK();
        }
      });
    });
  }
  return {y.to(dtype), sum, rstd};
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_any, const at::Tensor& grad_sum_any,
                                            const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd,
                                            bool want_weight) {
  const c10::cuda::CUDAGuard on_device(x.device());
  const int64_t n = x.size(0), d = x.size(1);
  const at::ScalarType dtype = x.scalar_type(), acc = rstd.scalar_type();
  const at::Tensor w = weight.to(acc).contiguous();
  const at::Tensor grad = has_pair(grad_any.scalar_type(), dtype) ? grad_any : grad_any.to(dtype);
  const at::Tensor grad_sum = grad_sum_any.defined() ? grad_sum_any.to(dtype) : at::Tensor();
  at::Tensor dx = at::empty({n, d}, x.options());
  const int64_t chunks = std::clamp<int64_t>(n / 64, 1, 64), rows = (n + chunks - 1) / chunks;
  at::Tensor partial = want_weight ? at::empty({chunks, d}, rstd.options()).zero_() : at::Tensor();
  if (n > 0) {
    with_pair(grad.scalar_type(), dtype, [&](auto* grad_type, auto* x_type) {
      using G = std::remove_pointer_t<decltype(grad_type)>;
      using S = std::remove_pointer_t<decltype(x_type)>;
      const auto stream = c10::cuda::getCurrentCUDAStream();
      backward_row<G, S><<<static_cast<unsigned int>(n), kThreads, 0, stream>>>(
          grad.const_data_ptr<G>(), grad.stride(0), grad_sum.defined() ? grad_sum.const_data_ptr<S>() : nullptr,
          grad_sum.defined() ? grad_sum.stride(0) : 0, x.const_data_ptr<S>(), x.stride(0), w.const_data_ptr<Acc<S>>(),
          rstd.const_data_ptr<Acc<S>>(), dx.mutable_data_ptr<S>(), d);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      if (!want_weight) return;
      const dim3 grid(static_cast<unsigned int>((d + kColumns - 1) / kColumns), static_cast<unsigned int>(chunks));
      weight_partials<G, S><<<grid, kThreads, 0, stream>>>(
          grad.const_data_ptr<G>(), grad.stride(0), x.const_data_ptr<S>(), x.stride(0), rstd.const_data_ptr<Acc<S>>(),
          partial.mutable_data_ptr<Acc<S>>(), n, d, rows);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }
  return {dx, want_weight ? partial.sum(0).to(weight.scalar_type()) : at::Tensor()};
}

const bool registered = [] {
  kernels(c10::DeviceType::CUDA).rms_norm_forward = &forward;
  kernels(c10::DeviceType::CUDA).rms_norm_backward = &backward;
  return true;
}();

}  // namespace
}  // namespace diffcoder
