// local_blocks_body.h on the CPU, one row at a time. CPU tensors take range_attention instead; this serves
// block_diffusion_attention_merged, so that what CUDA runs can be tested without a GPU.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "local_blocks_body.h"

namespace diffcoder::local_blocks_cpu {
namespace {

struct OneLane {
  static constexpr int count = 1;
  int64_t index = 0;
  template <typename A>
  A sum(A x) const {
    return x;
  }
};

void forward(const LocalBlocks& a, at::ScalarType dtype) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention_merged", [&] {
    using A = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    at::parallel_for(0, local::query_items(a), 64, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const local::Item item(a, index, a.heads, a.clean_queries);
        local::forward_query<scalar_t, A>(a, OneLane(), item.b, item.h, item.noisy, item.i);
      }
    });
  });
}

void backward(const LocalBlocksBackward& a, at::ScalarType dtype) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention_merged_backward", [&] {
    using A = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    at::parallel_for(0, local::query_items(a), 64, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const local::Item item(a, index, a.heads, a.clean_queries);
        local::backward_query<scalar_t, A>(a, OneLane(), item.b, item.h, item.noisy, item.i);
      }
    });
    at::parallel_for(0, local::key_items(a), 64, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const local::Item item(a, index, a.kv_heads, true);
        local::backward_key<scalar_t, A>(a, OneLane(), item.b, item.h, item.noisy, item.i);
      }
    });
  });
}

const bool registered = [] {
  local_blocks_kernels(c10::DeviceType::CPU) = {&forward, &backward};
  return true;
}();

}  // namespace
}  // namespace diffcoder::local_blocks_cpu
