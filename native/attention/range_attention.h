#pragma once

// Attention on the CPU where every query sees a few ranges of keys: exact, fused, forward and backward.

#include <vector>

#include "flash.h"
#include "key_ranges.h"

namespace diffcoder {

/// softmax over each query's ranges of scale * q k^T, times v. q [b, sq, h, d], k and v [b, sk, hkv, d], contiguous d.
/// Scores in float32 (float64 for float64), whatever the dtype; they exist in tiles of 64 x 64 only. Each row's result
/// depends on that row alone.
AttentionResult range_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const std::vector<KeyRanges>& ranges, double scale);

/// The gradients of q, k and v. Independent of the number of threads.
AttentionGradients range_attention_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                            const at::Tensor& v, const AttentionResult& result,
                                            const std::vector<KeyRanges>& ranges, double scale);

}  // namespace diffcoder
