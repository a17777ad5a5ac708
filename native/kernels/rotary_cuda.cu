// Rotary position embedding on CUDA; the formulas are those of rotary_cpu.cc. One thread turns one pair of elements.

#include <ATen/ops/empty.h>

#include "cuda_common.cuh"
#include "registry.h"

namespace diffcoder {
namespace {

using namespace cuda;

struct Sizes {
  int64_t b, s, h, half;
  int64_t x_b, x_s, x_h;
  int64_t angle_b;  // distance between rows of cos and sin, 0 if shared
};

template <typename T>
__global__ void turn_pairs(const T* x, const Acc<T>* cos, const Acc<T>* sin, Acc<T> sign, T* y, Sizes z) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= z.b * z.s * z.h * z.half) return;
  const int64_t k = index % z.half, h = index / z.half % z.h, s = index / z.half / z.h % z.s,
                b = index / z.half / z.h / z.s;
  const T* row = x + b * z.x_b + s * z.x_s + h * z.x_h;
  T* out = y + ((b * z.s + s) * z.h + h) * 2 * z.half;
  const int64_t angle = b * z.angle_b + s * z.half + k;
  const Acc<T> x1 = row[k], x2 = row[k + z.half], c = cos[angle], si = sin[angle] * sign;
  out[k] = static_cast<T>(x1 * c - x2 * si);
  out[k + z.half] = static_cast<T>(x2 * c + x1 * si);
}

at::Tensor rotary(const at::Tensor& x_any, const at::Tensor& cos_any, const at::Tensor& sin_any, bool inverse) {
  const c10::cuda::CUDAGuard on_device(x_any.device());
  const at::Tensor x = x_any.stride(3) == 1 ? x_any : x_any.contiguous();
  const at::ScalarType acc = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor cos = cos_any.to(acc).contiguous(), sin = sin_any.to(acc).contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) return y;
  const int64_t half = x.size(3) / 2;
  const Sizes sizes{x.size(0),   x.size(1),   x.size(2),   half,
                    x.stride(0), x.stride(1), x.stride(2), cos.size(0) == 1 ? 0 : x.size(1) * half};
  with_dtype(x.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    turn_pairs<T><<<blocks_for(y.numel() / 2), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        x.const_data_ptr<T>(), cos.const_data_ptr<Acc<T>>(), sin.const_data_ptr<Acc<T>>(),
        static_cast<Acc<T>>(inverse ? -1 : 1), y.mutable_data_ptr<T>(), sizes);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

const bool registered = [] {
  kernels(c10::DeviceType::CUDA).rotary = &rotary;
  return true;
}();

}  // namespace
}  // namespace diffcoder
