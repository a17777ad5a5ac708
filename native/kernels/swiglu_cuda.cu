// SwiGLU on CUDA; the formulas are those of swiglu_cpu.cc. One thread, one element.

#include <ATen/ops/empty.h>

#include "cuda_common.cuh"
#include "registry.h"

namespace diffcoder {
namespace {

using namespace cuda;

template <typename T>
__global__ void forward_elements(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* out, int64_t n,
                                 int64_t d) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= n * d) return;
  const int64_t row = index / d, k = index % d;
  const Acc<T> g = gate[row * gate_stride + k], u = up[row * up_stride + k];
  out[index] = static_cast<T>(g / (1 + ::exp(-g)) * u);
}

template <typename T>
__global__ void backward_elements(const T* grad, int64_t grad_stride, const T* gate, int64_t gate_stride, const T* up,
                                  int64_t up_stride, T* dgate, T* dup, int64_t n, int64_t d) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= n * d) return;
  const int64_t row = index / d, k = index % d;
  const Acc<T> g = gate[row * gate_stride + k], u = up[row * up_stride + k], dy = grad[row * grad_stride + k];
  const Acc<T> s = 1 / (1 + ::exp(-g));
  dgate[index] = static_cast<T>(dy * u * s * (1 + g * (1 - s)));
  dup[index] = static_cast<T>(dy * g * s);
}

at::Tensor forward(const at::Tensor& gate, const at::Tensor& up) {
  const c10::cuda::CUDAGuard on_device(gate.device());
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  if (out.numel() == 0) return out;
  with_dtype(gate.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    forward_elements<T><<<blocks_for(out.numel()), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        gate.const_data_ptr<T>(), gate.stride(0), up.const_data_ptr<T>(), up.stride(0), out.mutable_data_ptr<T>(),
        gate.size(0), gate.size(1));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up) {
  const c10::cuda::CUDAGuard on_device(gate.device());
  at::Tensor dgate = at::empty(gate.sizes(), gate.options()), dup = at::empty(up.sizes(), up.options());
  if (dgate.numel() == 0) return {dgate, dup};
  with_dtype(gate.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward_elements<T><<<blocks_for(dgate.numel()), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        grad.const_data_ptr<T>(), grad.stride(0), gate.const_data_ptr<T>(), gate.stride(0), up.const_data_ptr<T>(),
        up.stride(0), dgate.mutable_data_ptr<T>(), dup.mutable_data_ptr<T>(), gate.size(0), gate.size(1));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {dgate, dup};
}

const bool registered = [] {
  kernels(c10::DeviceType::CUDA).swiglu_forward = &forward;
  kernels(c10::DeviceType::CUDA).swiglu_backward = &backward;
  return true;
}();

}  // namespace
}  // namespace diffcoder
