#pragma once

// Attention that returns its log-sum-exp, and a backward pass that takes one: libtorch's flash attention where it has a
// kernel (CPU: every floating dtype; CUDA: bfloat16 and float16), plain operators elsewhere. Tensors are [b, s, h, d];
// h may be a multiple of k's heads.

#include <ATen/core/Tensor.h>

#include <optional>

#include "packed_documents.h"

namespace diffcoder {

struct AttentionResult {
  at::Tensor out;  // [b, s, h, d]
  at::Tensor
      lse;  // [b, h, s], natural logarithm of the scaled scores' sum of exponentials, float32 (float64 for float64)
};

struct AttentionGradients {
  at::Tensor q, k, v;
};

/// softmax(scale * q k^T + causal mask) v with as many queries as keys.
AttentionResult causal_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale);

/// Gradients for the probabilities exp(scale * q k^T - lse); out and lse may be those of a softmax over more keys
/// (merged results).
AttentionGradients causal_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse, double scale);

/// The same without a mask, for any number of queries and keys.
AttentionResult full_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale);

AttentionGradients full_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& out, const at::Tensor& lse, double scale);

/// Whether causal_forward on these tensors, packed or not, is CUDA's flash kernel.
bool uses_cuda_flash(const at::Tensor& q);

/// The same for packed segments: q, k, v and out [n, h, d], lse [h, n]; no position sees another segment. One call on
/// CUDA's flash kernel, elsewhere one per segment.
AttentionResult causal_forward_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const Segments& segments, double scale);

/// A query whose lse is +infinity gets and gives no gradient.
AttentionGradients causal_backward_packed(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                          const Segments& segments, double scale);

/// What scores, sums and log-sum-exps of q's attention are kept in: float32, or float64 for float64.
at::ScalarType accumulate_dtype(const at::Tensor& q);

/// 1 / sqrt(d) unless given.
double attention_scale(const at::Tensor& q, std::optional<double> scale);

/// The [b, s, h, d] tensor laid out as the kernels take it: contiguous d, and for CUDA's flash kernel aligned rows.
/// Mostly the tensor itself.
at::Tensor with_contiguous_rows(const at::Tensor& t);

}  // namespace diffcoder
