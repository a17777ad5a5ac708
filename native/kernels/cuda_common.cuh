#pragma once

// What the CUDA kernels share: reductions, and rows of any floating dtype.

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

namespace diffcoder::cuda {

inline constexpr int kThreads = 256;

/// The type a storage type is computed in.
template <typename T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

struct Add {
  template <typename A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct Max {
  template <typename A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a > b ? a : b;
  }
};

/// Combines a value over the block's kThreads threads; every thread gets the result. `shared` holds kThreads / 32
/// values.
template <typename A, typename Combine>
__device__ __forceinline__ A block_reduce(A value, Combine combine, A* shared) {
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();  // the last use of `shared` is over
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) value = combine(value, shared[warp]);
  return value;
}

/// Calls fn with a null pointer of the dtype's C++ type.
template <typename F>
void with_dtype(at::ScalarType dtype, const F& fn) {
  switch (dtype) {
    case at::kFloat:
      return fn(static_cast<float*>(nullptr));
    case at::kDouble:
      return fn(static_cast<double*>(nullptr));
    case at::kBFloat16:
      return fn(static_cast<c10::BFloat16*>(nullptr));
    default:
      TORCH_CHECK_TYPE(dtype == at::kHalf, "no CUDA kernel for ", dtype);
      return fn(static_cast<c10::Half*>(nullptr));
  }
}

/// Blocks of kThreads threads for n elements.
inline unsigned int blocks_for(int64_t n) { return static_cast<unsigned int>((n + kThreads - 1) / kThreads); }

}  // namespace diffcoder::cuda
