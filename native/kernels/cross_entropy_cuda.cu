// Softmax cross-entropy over the rows of a chunk of logits, in place, on CUDA; the formulas are those of
// cross_entropy_cpu.cc. A block takes one row: it reads the row twice (maximum and sum in one pass) and writes it once.

#include <c10/macros/Macros.h>

#include "cuda_common.cuh"
#include "registry.h"

namespace diffcoder {
namespace {

using namespace cuda;

template <typename T>
__global__ void __launch_bounds__(kThreads) row_kernel(T* logits, int64_t stride, int64_t v, const int64_t* targets,
                                                       const Acc<T>* row_weights, Acc<T>* nll, bool gradient) {
  using A = Acc<T>;
  __shared__ A shared[kThreads / 32];
  const int64_t row = blockIdx.x, target = targets[row];
  CUDA_KERNEL_ASSERT(target >= 0 && target < v && "linear_cross_entropy: target outside the vocabulary");
  T* z = logits + row * stride;
  const A none = static_cast<A>(-INFINITY);
  A highest = none, total = 0;  // of this thread's elements, the sum relative to the maximum
  for (int64_t k = threadIdx.x; k < v; k += kThreads) {
    const A value = static_cast<A>(z[k]);
    if (value > highest) {
      total = total * ::exp(highest - value) + 1;
      highest = value;
    } else if (value != none) {
      total += ::exp(value - highest);
    }
  }
  const A top = block_reduce(highest, Max(), shared);
  total = block_reduce(highest == none ? total : total * ::exp(highest - top), Add(), shared);
  const A lse = top + ::log(total);
  const A picked = static_cast<A>(z[target]);
  __syncthreads();  // everybody has read the target's logit
  if (threadIdx.x == 0) nll[row] = lse - picked;
  if (!gradient) return;
  const A w = row_weights == nullptr ? A(1) : row_weights[row];
  for (int64_t k = threadIdx.x; k < v; k += kThreads) {
    const A p = ::exp(static_cast<A>(z[k]) - lse);
    z[k] = static_cast<T>((k == target ? p - A(1) : p) * w);
  }
}

void cross_entropy_rows(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& row_weights,
                        bool gradient, const at::Tensor& nll) {
  const c10::cuda::CUDAGuard on_device(logits.device());
  if (logits.size(0) == 0) return;
  with_dtype(logits.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    row_kernel<T><<<static_cast<unsigned int>(logits.size(0)), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        logits.mutable_data_ptr<T>(), logits.stride(0), logits.size(1), targets.const_data_ptr<int64_t>(),
        row_weights.defined() ? row_weights.const_data_ptr<Acc<T>>() : nullptr, nll.mutable_data_ptr<Acc<T>>(),
        gradient);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

const bool registered = [] {
  kernels(c10::DeviceType::CUDA).cross_entropy_rows = &cross_entropy_rows;
  return true;
}();

}  // namespace
}  // namespace diffcoder
