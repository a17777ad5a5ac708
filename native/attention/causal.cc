// Causal self-attention, with optional isolated documents: the autoregressive stage's attention. On the CPU by ranges
// of keys (range_attention.h), on CUDA by flash attention, packed where there are documents.

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "../kernels/gradients.h"
#include "../kernels/ops.h"
#include "flash.h"
#include "parts.h"
#include "range_attention.h"
#include "reference.h"

namespace diffcoder {
namespace {

bool one_per_row(const std::vector<Document>& documents) { return documents.size() == 1 && documents[0].row < 0; }

/// [b, s, h, d] to [b * s, h, d] and back, [b, h, s] log-sum-exp to [h, b * s] and back.
at::Tensor flat(const at::Tensor& t) { return t.reshape({t.size(0) * t.size(1), t.size(2), t.size(3)}); }
at::Tensor flat_lse(const at::Tensor& t) { return t.transpose(0, 1).reshape({t.size(1), t.size(0) * t.size(2)}); }
at::Tensor unflat(const at::Tensor& t, const at::Tensor& like) {
  return t.view({like.size(0), like.size(1), t.size(1), t.size(2)});
}
at::Tensor unflat_lse(const at::Tensor& t, const at::Tensor& q) {
  return t.view({t.size(0), q.size(0), q.size(1)}).transpose(0, 1);
}

AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<Document>& documents, double scale) {
  if (q.is_cpu()) return range_attention_forward(q, k, v, causal_ranges(documents, q.size(0), q.size(1)), scale);
  if (q.numel() == 0) return {at::empty(q.sizes(), q.options()), at::empty({0}, q.options())};
  const c10::DeviceGuard on_device(q.device());
  if (one_per_row(documents)) return causal_forward(q, k, v, scale);
  const Segments segments = pack_documents(documents, q.size(0), q.size(1), 0, q.device()).documents;
  const AttentionResult packed = causal_forward_packed(flat(q), flat(k), flat(v), segments, scale);
  return {unflat(packed.out, q), unflat_lse(packed.lse, q)};
}

AttentionGradients backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionResult& result, const std::vector<Document>& documents, double scale) {
  if (q.is_cpu()) {
    return range_attention_backward(grad, q, k, v, result, causal_ranges(documents, q.size(0), q.size(1)), scale);
  }
  if (q.numel() == 0) return {at::zeros_like(q), at::zeros_like(k), at::zeros_like(v)};
  const c10::DeviceGuard on_device(q.device());
  if (one_per_row(documents)) return causal_backward(grad, q, k, v, result.out, result.lse, scale);
  const Segments segments = pack_documents(documents, q.size(0), q.size(1), 0, q.device()).documents;
  const AttentionGradients packed = causal_backward_packed(flat(grad), flat(q), flat(k), flat(v), flat(result.out),
                                                           flat_lse(result.lse), segments, scale);
  return {unflat(packed.q, q), unflat(packed.k, k), unflat(packed.v, v)};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<Document>& documents, double scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const AttentionResult result = diffcoder::forward(q, k, v, documents, scale);
    ctx->save_for_backward({q, k, v, result.out, result.lse});
    ctx->saved_data["documents"] = flatten(documents);
    ctx->saved_data["scale"] = scale;
    return result.out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("causal_attention");
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const AttentionGradients g =
        diffcoder::backward(with_contiguous_rows(grads[0]), saved[0], saved[1], saved[2], {saved[3], saved[4]},
                            unflatten(ctx->saved_data["documents"].toIntVector()), ctx->saved_data["scale"].toDouble());
    return {g.q, g.k, g.v, {}, {}};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                            c10::OptionalIntArrayRef boundaries, std::optional<double> scale) {
  check_causal_attention(q_any, k_any, v_any);
  if (!q_any.is_cpu() && !q_any.is_cuda()) return causal_attention_reference(q_any, k_any, v_any, boundaries, scale);
  const std::vector<Document> documents = documents_of("causal_attention", boundaries, q_any.size(0), q_any.size(1));
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  if (wants_gradient(q, k, v)) return CausalAttention::apply(q, k, v, documents, attention_scale(q, scale));
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return forward(q, k, v, documents, attention_scale(q, scale)).out;
}

AttentionParts causal_attention_forward(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                                        c10::OptionalIntArrayRef boundaries, std::optional<double> scale) {
  constexpr const char* op = "causal_attention_forward";
  check_causal_attention(q_any, k_any, v_any);
  check_part(op, q_any, k_any, v_any);
  const PartScope scope(q_any);
  const std::vector<Document> documents = documents_of(op, boundaries, q_any.size(0), q_any.size(1));
  if (is_empty(q_any, k_any)) return empty_part(q_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const AttentionResult result = forward(q, k, v, documents, attention_scale(q, scale));
  return {result.out, result.lse};
}

AttentionPartGradients causal_attention_backward(const at::Tensor& grad, const at::Tensor& q_any,
                                                 const at::Tensor& k_any, const at::Tensor& v_any,
                                                 const at::Tensor& out, const at::Tensor& lse,
                                                 c10::OptionalIntArrayRef boundaries, std::optional<double> scale) {
  constexpr const char* op = "causal_attention_backward";
  check_causal_attention(q_any, k_any, v_any);
  check_part(op, q_any, k_any, v_any);
  check_merged(op, grad, q_any, out, lse);
  const PartScope scope(q_any);
  const std::vector<Document> documents = documents_of(op, boundaries, q_any.size(0), q_any.size(1));
  if (is_empty(q_any, k_any)) return empty_gradients(q_any, k_any, v_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const AttentionResult merged{with_contiguous_rows(out), lse.contiguous()};
  const AttentionGradients g =
      backward(with_contiguous_rows(grad), q, k, v, merged, documents, attention_scale(q, scale));
  return {g.q, g.k, g.v};
}

}  // namespace diffcoder
