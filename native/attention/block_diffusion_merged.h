#pragma once

// Block-diffusion attention taken apart: two causal flash calls and the small block parts (local_blocks.h). What CUDA
// runs.

#include <vector>

#include "documents.h"
#include "flash.h"

namespace diffcoder {

/// q [b, 2L or L, h, d], k and v [b, 2L, hkv, d] with contiguous d <= 256.
AttentionResult block_diffusion_merged_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               int64_t block_size, const std::vector<Document>& documents,
                                               double scale);

AttentionGradients block_diffusion_merged_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                                   const at::Tensor& v, const AttentionResult& result,
                                                   int64_t block_size, const std::vector<Document>& documents,
                                                   double scale);

}  // namespace diffcoder
