// Block-diffusion attention over [x_t ; x_0] (paper section 3.1): exact, from two causal flash calls and the small block parts.
//
// Position i of either half lies in block floor((i - document start) / B). A noisy query sees its own noisy block and the clean blocks before
// it; a clean query sees clean blocks up to its own. local_blocks.h says how this mask is taken apart and put together again.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "../kernels/ops.h"
#include "documents.h"
#include "flash.h"
#include "local_blocks.h"
#include "range_attention.h"
#include "reference.h"

namespace diffcoder {
namespace {

/// One document's halves as views: positions start..start+length of its row, or of every row.
struct Halves {
  const Document& document;
  int64_t half;  // L

  at::Tensor rows(const at::Tensor& t, int64_t dim0 = 0) const { return document.row < 0 ? t : t.narrow(dim0, document.row, 1); }
  at::Tensor noisy(const at::Tensor& t) const { return rows(t).narrow(1, document.start, document.length); }
  at::Tensor clean(const at::Tensor& t) const { return rows(t).narrow(1, half + document.start, document.length); }
  /// The same for a [b, h, s] log-sum-exp.
  at::Tensor noisy_lse(const at::Tensor& t) const { return rows(t).narrow(2, document.start, document.length); }
  at::Tensor clean_lse(const at::Tensor& t) const { return rows(t).narrow(2, half + document.start, document.length); }
};

void set_shape(LocalBlocks& a, const Halves& halves, const at::Tensor& q, const at::Tensor& k, int64_t block_size, double scale) {
  a.batch = halves.document.row < 0 ? q.size(0) : 1;
  a.length = halves.document.length;
  a.half = halves.half;
  a.heads = q.size(2);
  a.kv_heads = k.size(2);
  a.head_dim = q.size(3);
  a.block = block_size;
  a.scale = scale;
}

AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                        const std::vector<Document>& documents, double scale) {
  const int64_t half = k.size(1) / 2;
  const bool clean_queries = q.size(1) == k.size(1);
  if (q.is_cpu() && !getenv("MERGED")) {
    return range_attention_forward(q, k, v, block_diffusion_ranges(documents, q.size(0), half, block_size, clean_queries), scale);
  }
  const at::ScalarType acc = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  AttentionResult result{at::empty(q.sizes(), q.options()), at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(acc))};
  for (const Document& document : documents) {
    const Halves halves{document, half};
    const int64_t shifted = document.length - block_size;  // noisy queries that a clean block precedes
    AttentionResult clean, noisy;
    if (clean_queries) clean = causal_forward(halves.clean(q), halves.clean(k), halves.clean(v), scale);
    if (shifted > 0) {
      noisy = causal_forward(halves.noisy(q).narrow(1, block_size, shifted), halves.clean(k).narrow(1, 0, shifted),
                             halves.clean(v).narrow(1, 0, shifted), scale);
    }
    LocalBlocks a;
    set_shape(a, halves, q, k, block_size, scale);
    a.q = strided(halves.noisy(q));
    a.k = strided(halves.noisy(k));
    a.v = strided(halves.noisy(v));
    a.out = strided(halves.noisy(result.out));
    a.lse = strided_lse(halves.noisy_lse(result.lse));
    a.clean_out = strided(clean.out);
    a.clean_lse = strided_lse(clean.lse);
    a.noisy_out = strided(noisy.out);
    a.noisy_lse = strided_lse(noisy.lse);
    local_blocks_kernels(q.device().type()).forward(a, q.scalar_type());
  }
  return result;
}

AttentionGradients backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                            int64_t block_size, const std::vector<Document>& documents, double scale) {
  const int64_t half = k.size(1) / 2;
  const bool clean_queries = q.size(1) == k.size(1);
  if (q.is_cpu() && !getenv("MERGED")) {
    return range_attention_backward(grad, q, k, v, result, block_diffusion_ranges(documents, q.size(0), half, block_size, clean_queries), scale);
  }
  AttentionGradients total{at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()), at::empty(v.sizes(), v.options())};
  for (const Document& document : documents) {
    const Halves halves{document, half};
    const int64_t shifted = document.length - block_size;
    AttentionGradients clean, noisy;
    if (clean_queries) {
      clean = causal_backward(halves.clean(grad), halves.clean(q), halves.clean(k), halves.clean(v), halves.clean(result.out),
                              halves.clean_lse(result.lse), scale);
    }
    if (shifted > 0) {
      const auto later = [&](const at::Tensor& t) { return halves.noisy(t).narrow(1, block_size, shifted); };
      const auto earlier = [&](const at::Tensor& t) { return halves.clean(t).narrow(1, 0, shifted); };
      noisy = causal_backward(later(grad), later(q), earlier(k), earlier(v), later(result.out),
                              halves.noisy_lse(result.lse).narrow(2, block_size, shifted), scale);
    }
    LocalBlocksBackward a;
    set_shape(a, halves, q, k, block_size, scale);
    a.q = strided(halves.noisy(q));
    a.k = strided(halves.noisy(k));
    a.v = strided(halves.noisy(v));
    a.out = strided(halves.noisy(result.out));
    a.lse = strided_lse(halves.noisy_lse(result.lse));
    a.grad_out = strided(halves.noisy(grad));
    a.dq = strided(halves.noisy(total.q));
    a.dk = strided(halves.noisy(total.k));
    a.dv = strided(halves.noisy(total.v));
    a.clean_dq = strided(clean.q);
    a.clean_dk = strided(clean.k);
    a.clean_dv = strided(clean.v);
    a.noisy_dq = strided(noisy.q);
    a.noisy_dk = strided(noisy.k);
    a.noisy_dv = strided(noisy.v);
    local_blocks_kernels(q.device().type()).backward(a, q.scalar_type());
  }
  return total;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct BlockDiffusionAttention : torch::autograd::Function<BlockDiffusionAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                            const std::vector<Document>& documents, double scale) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    AttentionResult result = diffcoder::forward(q, k, v, block_size, documents, scale);
    ctx->save_for_backward({q, k, v, result.out, result.lse});
    ctx->saved_data["documents"] = flatten(documents);
    ctx->saved_data["block_size"] = block_size;
    ctx->saved_data["scale"] = scale;
    return result.out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const AttentionGradients g =
        diffcoder::backward(with_contiguous_rows(grads[0]), saved[0], saved[1], saved[2], {saved[3], saved[4]},
                            ctx->saved_data["block_size"].toInt(), unflatten(ctx->saved_data["documents"].toIntVector()), ctx->saved_data["scale"].toDouble());
    return {g.q, g.k, g.v, {}, {}, {}};
  }
};

}  // namespace

at::Tensor block_diffusion_attention(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any, int64_t block_size,
                                     at::OptionalIntArrayRef boundaries, std::optional<double> scale) {
  check_block_diffusion_attention(q_any, k_any, v_any, block_size);
  if (!q_any.is_cpu() && !q_any.is_cuda()) return block_diffusion_attention_reference(q_any, k_any, v_any, block_size, boundaries, scale);
  const std::vector<Document> documents =
      documents_of("block_diffusion_attention", boundaries, k_any.size(0), k_any.size(1) / 2);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
    return BlockDiffusionAttention::apply(q, k, v, block_size, documents, attention_scale(q, scale));
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return forward(q, k, v, block_size, documents, attention_scale(q, scale)).out;
}

}  // namespace diffcoder
