// local_blocks_body.h on CUDA: a warp takes one query or one key, its lanes share the row. No atomics: every output row
// has one writer.

#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "local_blocks_body.h"

namespace diffcoder {
namespace {

constexpr int kWarpsPerBlock = 4;

struct Warp {
  static constexpr int count = 32;
  int64_t index;
  template <typename A>
  __device__ __forceinline__ A sum(A x) const {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
  }
};

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
}

template <typename T, typename A>
__global__ void __launch_bounds__(kWarpsPerBlock * 32) forward_queries(LocalBlocks a, int64_t items) {
  const int64_t index = warp_index();
  if (index >= items) return;
  const local::Item item(a, index, a.heads, a.clean_queries);
  local::forward_query<T, A>(a, Warp{threadIdx.x % 32}, item.b, item.h, item.noisy, item.i);
}

template <typename T, typename A>
__global__ void __launch_bounds__(kWarpsPerBlock * 32) backward_queries(LocalBlocksBackward a, int64_t items) {
  const int64_t index = warp_index();
  if (index >= items) return;
  const local::Item item(a, index, a.heads, a.clean_queries);
  local::backward_query<T, A>(a, Warp{threadIdx.x % 32}, item.b, item.h, item.noisy, item.i);
}

template <typename T, typename A>
__global__ void __launch_bounds__(kWarpsPerBlock * 32) backward_keys(LocalBlocksBackward a, int64_t items) {
  const int64_t index = warp_index();
  if (index >= items) return;
  const local::Item item(a, index, a.kv_heads, true);
  local::backward_key<T, A>(a, Warp{threadIdx.x % 32}, item.b, item.h, item.noisy, item.i);
}

unsigned int blocks_for(int64_t items) {
  return static_cast<unsigned int>((items + kWarpsPerBlock - 1) / kWarpsPerBlock);
}

void forward(const LocalBlocks& a, at::ScalarType dtype) {
  const int64_t queries = local::query_items(a);
  if (queries == 0) return;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention", [&] {
    using A = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    forward_queries<scalar_t, A><<<blocks_for(queries), kWarpsPerBlock * 32, 0, stream>>>(a, queries);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void backward(const LocalBlocksBackward& a, at::ScalarType dtype) {
  const int64_t queries = local::query_items(a), keys = local::key_items(a);
  if (queries == 0) return;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention_backward", [&] {
    using A = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    backward_queries<scalar_t, A><<<blocks_for(queries), kWarpsPerBlock * 32, 0, stream>>>(a, queries);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    backward_keys<scalar_t, A><<<blocks_for(keys), kWarpsPerBlock * 32, 0, stream>>>(a, keys);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

const bool registered = [] {
  local_blocks_kernels(c10::DeviceType::CUDA) = {&forward, &backward};
  return true;
}();

}  // namespace
}  // namespace diffcoder
