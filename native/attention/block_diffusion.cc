// Block-diffusion attention over [x_t ; x_0] (paper section 3.1).
//
// Position i of either half lies in block floor((i - document start) / B). A noisy query sees its own noisy block and
// the clean blocks before it; a clean query sees clean blocks up to its own. On the CPU these are ranges of keys for
// one fused kernel (range_attention.h); on CUDA two causal flash calls and small block parts
// (block_diffusion_merged.h). No 2L x 2L mask anywhere, and B is a run-time number.

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "../kernels/gradients.h"
#include "../kernels/ops.h"
#include "block_diffusion_merged.h"
#include "local_blocks.h"
#include "parts.h"
#include "range_attention.h"
#include "reference.h"

namespace diffcoder {
namespace {

struct Options {
  int64_t block_size;
  std::vector<Document> documents;
  double scale;
  bool merged;  // by causal flash calls, also on the CPU

  std::vector<KeyRanges> ranges(const at::Tensor& q, const at::Tensor& k) const {
    return block_diffusion_ranges(documents, k.size(0), k.size(1) / 2, block_size, q.size(1) == k.size(1));
  }
};

AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Options& options) {
  if (options.merged)
    return block_diffusion_merged_forward(q, k, v, options.block_size, options.documents, options.scale);
  return range_attention_forward(q, k, v, options.ranges(q, k), options.scale);
}

AttentionGradients backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const AttentionResult& result, const Options& options) {
  if (options.merged) {
    return block_diffusion_merged_backward(grad, q, k, v, result, options.block_size, options.documents, options.scale);
  }
  return range_attention_backward(grad, q, k, v, result, options.ranges(q, k), options.scale);
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct BlockDiffusionAttention : torch::autograd::Function<BlockDiffusionAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Options& options) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const AttentionResult result = diffcoder::forward(q, k, v, options);
    ctx->save_for_backward({q, k, v, result.out, result.lse});
    ctx->saved_data["documents"] = flatten(options.documents);
    ctx->saved_data["block_size"] = options.block_size;
    ctx->saved_data["scale"] = options.scale;
    ctx->saved_data["merged"] = options.merged;
    return result.out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("block_diffusion_attention");
    const variable_list saved = ctx->get_saved_variables();
    const Options options{ctx->saved_data["block_size"].toInt(), unflatten(ctx->saved_data["documents"].toIntVector()),
                          ctx->saved_data["scale"].toDouble(), ctx->saved_data["merged"].toBool()};
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const AttentionGradients g = diffcoder::backward(with_contiguous_rows(grads[0]), saved[0], saved[1], saved[2],
                                                     {saved[3], saved[4]}, options);
    return {g.q, g.k, g.v, {}};
  }
};

at::Tensor attend(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any, int64_t block_size,
                  c10::OptionalIntArrayRef boundaries, std::optional<double> scale, bool merged) {
  check_block_diffusion_attention(q_any, k_any, v_any, block_size);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const Options options{block_size, documents_of("block_diffusion_attention", boundaries, k.size(0), k.size(1) / 2),
                        attention_scale(q, scale), merged};
  if (wants_gradient(q, k, v)) return BlockDiffusionAttention::apply(q, k, v, options);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return forward(q, k, v, options).out;
}

void check_head_dim(const char* op, const at::Tensor& q, bool merged) {
  TORCH_CHECK_NOT_IMPLEMENTED(!merged || q.size(3) <= kLargestHeadDim, op, ": head_dim up to ", kLargestHeadDim,
                              ", got ", q.size(3));
}

AttentionParts part_forward(const char* op, const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                            int64_t block_size, c10::OptionalIntArrayRef boundaries, std::optional<double> scale,
                            bool merged) {
  check_block_diffusion_attention(q_any, k_any, v_any, block_size);
  check_part(op, q_any, k_any, v_any);
  check_head_dim(op, q_any, merged);
  const PartScope scope(q_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const Options options{block_size, documents_of(op, boundaries, k.size(0), k.size(1) / 2), attention_scale(q, scale),
                        merged};
  if (is_empty(q, k)) return empty_part(q);
  const AttentionResult result = forward(q, k, v, options);
  return {result.out, result.lse};
}

AttentionPartGradients part_backward(const char* op, const at::Tensor& grad, const at::Tensor& q_any,
                                     const at::Tensor& k_any, const at::Tensor& v_any, const at::Tensor& out,
                                     const at::Tensor& lse, int64_t block_size, c10::OptionalIntArrayRef boundaries,
                                     std::optional<double> scale, bool merged) {
  check_block_diffusion_attention(q_any, k_any, v_any, block_size);
  check_part(op, q_any, k_any, v_any);
  check_head_dim(op, q_any, merged);
  check_merged(op, grad, q_any, out, lse);
  const PartScope scope(q_any);
  const at::Tensor q = with_contiguous_rows(q_any), k = with_contiguous_rows(k_any), v = with_contiguous_rows(v_any);
  const Options options{block_size, documents_of(op, boundaries, k.size(0), k.size(1) / 2), attention_scale(q, scale),
                        merged};
  if (is_empty(q, k)) return empty_gradients(q, k, v);
  const AttentionGradients g =
      backward(with_contiguous_rows(grad), q, k, v, {with_contiguous_rows(out), lse.contiguous()}, options);
  return {g.q, g.k, g.v};
}

/// CUDA's kernels hold a row in registers; longer ones take plain operators.
bool has_kernel(const at::Tensor& q) {
  return q.dim() == 4 && q.size(3) <= kLargestHeadDim && (q.is_cpu() || q.is_cuda());
}

}  // namespace

at::Tensor block_diffusion_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                                     c10::OptionalIntArrayRef documents, std::optional<double> scale) {
  if (!q.is_cpu() && !has_kernel(q)) return block_diffusion_attention_reference(q, k, v, block_size, documents, scale);
  return attend(q, k, v, block_size, documents, scale, !q.is_cpu());
}

at::Tensor block_diffusion_attention_merged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                            int64_t block_size, c10::OptionalIntArrayRef documents,
                                            std::optional<double> scale) {
  TORCH_CHECK_NOT_IMPLEMENTED(has_kernel(q), "block_diffusion_attention_merged: on CPU and CUDA, head_dim up to ",
                              kLargestHeadDim, ", got ", q.device(), " and ", q.sizes());
  return attend(q, k, v, block_size, documents, scale, true);
}

AttentionParts block_diffusion_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                 int64_t block_size, c10::OptionalIntArrayRef documents,
                                                 std::optional<double> scale) {
  return part_forward("block_diffusion_attention_forward", q, k, v, block_size, documents, scale, !q.is_cpu());
}

AttentionPartGradients block_diffusion_attention_backward(const at::Tensor& grad, const at::Tensor& q,
                                                          const at::Tensor& k, const at::Tensor& v,
                                                          const at::Tensor& out, const at::Tensor& lse,
                                                          int64_t block_size, c10::OptionalIntArrayRef documents,
                                                          std::optional<double> scale) {
  return part_backward("block_diffusion_attention_backward", grad, q, k, v, out, lse, block_size, documents, scale,
                       !q.is_cpu());
}

AttentionParts block_diffusion_attention_merged_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                        int64_t block_size, c10::OptionalIntArrayRef documents,
                                                        std::optional<double> scale) {
  return part_forward("block_diffusion_attention_merged_forward", q, k, v, block_size, documents, scale, true);
}

AttentionPartGradients block_diffusion_attention_merged_backward(const at::Tensor& grad, const at::Tensor& q,
                                                                 const at::Tensor& k, const at::Tensor& v,
                                                                 const at::Tensor& out, const at::Tensor& lse,
                                                                 int64_t block_size, c10::OptionalIntArrayRef documents,
                                                                 std::optional<double> scale) {
  return part_backward("block_diffusion_attention_merged_backward", grad, q, k, v, out, lse, block_size, documents,
                       scale, true);
}

}  // namespace diffcoder
