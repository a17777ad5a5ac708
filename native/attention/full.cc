// Attention without a mask, for any number of queries and keys: what the queries of one piece of a sequence see of an
// earlier piece (ring attention). On the CPU by ranges of keys, on CUDA by flash attention.

#include "../kernels/ops.h"
#include "parts.h"
#include "range_attention.h"
#include "reference.h"

namespace diffcoder {

AttentionParts attention_forward(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                                 std::optional<double> scale_or_default) {
  check_attention("attention_forward", q_any, k_any, v_any);
  check_part("attention_forward", q_any, k_any, v_any);
  const PartScope scope(q_any);
  if (is_empty(q_any, k_any)) return empty_part(q_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const double scale = attention_scale(q, scale_or_default);
  const AttentionResult result = q.is_cpu() ? range_attention_forward(q, k, v, full_ranges(q.size(1), k.size(1)), scale)
                                            : full_forward(q, k, v, scale);
  return {result.out, result.lse};
}

AttentionPartGradients attention_backward(const at::Tensor& grad_any, const at::Tensor& q_any, const at::Tensor& k_any,
                                          const at::Tensor& v_any, const at::Tensor& out_any, const at::Tensor& lse,
                                          std::optional<double> scale_or_default) {
  check_attention("attention_backward", q_any, k_any, v_any);
  check_part("attention_backward", q_any, k_any, v_any);
  check_merged("attention_backward", grad_any, q_any, out_any, lse);
  const PartScope scope(q_any);
  if (is_empty(q_any, k_any)) return empty_gradients(q_any, k_any, v_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const at::Tensor grad = with_contiguous_rows(grad_any), out = with_contiguous_rows(out_any);
  const double scale = attention_scale(q, scale_or_default);
  const AttentionGradients g = q.is_cpu() ? range_attention_backward(grad, q, k, v, {out, lse.contiguous()},
                                                                     full_ranges(q.size(1), k.size(1)), scale)
                                          : full_backward(grad, q, k, v, out, lse, scale);
  return {g.q, g.k, g.v};
}

}  // namespace diffcoder
