#include "flash.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include <cmath>

namespace diffcoder {
namespace {

/// Keys or values [b, s, key heads, d] to [b, key heads * group, s, d]: repeated, as a copy, for every query head of
/// the group that reads them.
at::Tensor grouped_heads(const at::Tensor& t, int64_t group) {
  return t.transpose(1, 2)
      .unsqueeze(2)
      .expand({-1, -1, group, -1, -1})
      .reshape({t.size(0), t.size(2) * group, t.size(1), t.size(3)});
}

at::Tensor scores_of(const at::Tensor& q, const at::Tensor& k, double scale, bool causal) {
  const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) * scale;
  if (!causal) return scores;
  const at::Tensor hidden = at::ones({q.size(2), k.size(2)}, q.options().dtype(at::kBool)).triu(1);
  return scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
}

/// The scores exist here: for dtypes that no flash kernel takes. Computed in float32, or float64 for float64.
AttentionResult plain_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale,
                              bool causal) {
  const at::ScalarType acc = accumulate_dtype(q);
  const int64_t group = q.size(2) / k.size(2);
  const at::Tensor scores = scores_of(q.transpose(1, 2).to(acc), grouped_heads(k.to(acc), group), scale, causal);
  const at::Tensor lse = scores.logsumexp(-1);
  const at::Tensor out = at::matmul((scores - lse.unsqueeze(-1)).exp(), grouped_heads(v.to(acc), group));
  return {out.to(q.scalar_type()).transpose(1, 2), lse};
}

AttentionGradients plain_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& out, const at::Tensor& lse, double scale, bool causal) {
  const at::ScalarType acc = accumulate_dtype(q);
  const int64_t group = q.size(2) / k.size(2);
  const at::Tensor qh = q.transpose(1, 2).to(acc), kh = grouped_heads(k.to(acc), group),
                   vh = grouped_heads(v.to(acc), group);
  const at::Tensor g = grad.transpose(1, 2).to(acc), o = out.transpose(1, 2).to(acc);
  const at::Tensor p = (scores_of(qh, kh, scale, causal) - lse.unsqueeze(-1)).exp();
  const at::Tensor delta = (g * o).sum(-1, true);
  const at::Tensor ds = p * (at::matmul(g, vh.transpose(2, 3)) - delta) * scale;
  const auto per_key_head = [&](const at::Tensor& t) {
    return t.view({k.size(0), k.size(2), group, k.size(1), k.size(3)}).sum(2).to(k.scalar_type()).transpose(1, 2);
  };
  return {at::matmul(ds, kh).to(q.scalar_type()).transpose(1, 2), per_key_head(at::matmul(ds.transpose(2, 3), qh)),
          per_key_head(at::matmul(p.transpose(2, 3), g))};
}

/// CUDA's flash backward, dense rows (undefined starts) or packed segments. It reads the log-sum-exp as contiguous
/// without checking, and its random state only with dropout.
AttentionGradients cuda_flash_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                       const at::Tensor& starts, int64_t longest_q, int64_t longest_k, double scale,
                                       bool causal) {
  const at::Tensor no_state = at::empty({2}, q.options().dtype(at::kUInt64));
  auto [dq, dk, dv] =
      at::_flash_attention_backward(grad.contiguous(), q, k, v, out.contiguous(), lse.contiguous(), starts, starts,
                                    longest_q, longest_k, 0.0, causal, no_state, no_state, scale);
  return {dq, dk, dv};
}

/// Attention over rows of [b, s, h, d], causal or without a mask.
AttentionResult dense_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale,
                              bool causal) {
  if (q.is_cpu()) {
    const auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q.transpose(1, 2), k.transpose(1, 2),
                                                                            v.transpose(1, 2), 0.0, causal, {}, scale);
    return {out.transpose(1, 2), lse};
  }
  if (uses_cuda_flash(q)) {
    auto [out, lse, rng_state, unused, debug_mask] = at::_flash_attention_forward(
        q, k, v, {}, {}, q.size(1), k.size(1), 0.0, causal, /*return_debug_mask=*/false, scale);
    return {out, lse};
  }
  return plain_forward(q, k, v, scale, causal);
}

AttentionGradients dense_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& out, const at::Tensor& lse, double scale, bool causal) {
  if (q.is_cpu()) {
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        grad.transpose(1, 2), q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), out.transpose(1, 2), lse, 0.0,
        causal, {}, scale);
    return {dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)};
  }
  if (uses_cuda_flash(q)) return cuda_flash_backward(grad, q, k, v, out, lse, {}, q.size(1), k.size(1), scale, causal);
  return plain_backward(grad, q, k, v, out, lse, scale, causal);
}

/// body(first, length) for every segment.
template <typename Body>
void for_segments(const Segments& segments, const Body& body) {
  for (size_t i = 1; i < segments.host.size(); ++i) body(segments.host[i - 1], segments.host[i] - segments.host[i - 1]);
}

}  // namespace

bool uses_cuda_flash(const at::Tensor& q) {
  const at::ScalarType dtype = q.scalar_type();
  return q.is_cuda() && (dtype == at::kBFloat16 || dtype == at::kHalf) && q.size(-1) % 8 == 0 && q.size(-1) <= 256;
}

at::ScalarType accumulate_dtype(const at::Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

double attention_scale(const at::Tensor& q, std::optional<double> scale) {
  return scale.has_value() ? *scale : 1.0 / std::sqrt(static_cast<double>(q.size(3)));
}

at::Tensor with_contiguous_rows(const at::Tensor& t) {
  bool usable = t.stride(-1) == 1 || t.size(-1) <= 1;
  if (uses_cuda_flash(t)) {  // its loads are 16 bytes wide
    usable = usable && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
    for (int64_t i = 0; i < 3; ++i) usable = usable && (t.size(i) <= 1 || t.stride(i) % 8 == 0);
  }
  return usable ? t : t.clone(at::MemoryFormat::Contiguous);
}

AttentionResult causal_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  return dense_forward(q, k, v, scale, /*causal=*/true);
}

AttentionGradients causal_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                   const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse, double scale) {
  return dense_backward(grad, q, k, v, out, lse, scale, /*causal=*/true);
}

AttentionResult full_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  return dense_forward(q, k, v, scale, /*causal=*/false);
}

AttentionGradients full_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& out, const at::Tensor& lse, double scale) {
  return dense_backward(grad, q, k, v, out, lse, scale, /*causal=*/false);
}

AttentionResult causal_forward_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const Segments& segments, double scale) {
  if (uses_cuda_flash(q)) {
    auto [out, lse, rng_state, unused, debug_mask] =
        at::_flash_attention_forward(q, k, v, segments.starts, segments.starts, segments.longest, segments.longest, 0.0,
                                     /*is_causal=*/true, /*return_debug_mask=*/false, scale);
    return {out, lse};
  }
  const at::ScalarType acc = accumulate_dtype(q);
  const AttentionResult result{at::empty(q.sizes(), q.options()),
                               at::empty({q.size(1), q.size(0)}, q.options().dtype(acc))};
  for_segments(segments, [&](int64_t first, int64_t n) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, n).unsqueeze(0); };
    const AttentionResult one = causal_forward(part(q), part(k), part(v), scale);
    part(result.out).copy_(one.out);
    result.lse.narrow(1, first, n).copy_(one.lse.squeeze(0));
  });
  return result;
}

AttentionGradients causal_backward_packed(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                          const Segments& segments, double scale) {
  if (uses_cuda_flash(q)) {
    return cuda_flash_backward(grad, q, k, v, out, lse, segments.starts, segments.longest, segments.longest, scale,
                               /*causal=*/true);
  }
  const AttentionGradients total{at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
                                 at::empty(v.sizes(), v.options())};
  for_segments(segments, [&](int64_t first, int64_t n) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, n).unsqueeze(0); };
    const AttentionGradients one =
        causal_backward(part(grad), part(q), part(k), part(v), part(out), lse.narrow(1, first, n).unsqueeze(0), scale);
    part(total.q).copy_(one.q);
    part(total.k).copy_(one.k);
    part(total.v).copy_(one.v);
  });
  return total;
}

}  // namespace diffcoder
