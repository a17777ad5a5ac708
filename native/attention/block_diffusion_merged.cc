#include "block_diffusion_merged.h"

#include <ATen/ops/empty.h>

#include <limits>

#include "local_blocks.h"

namespace diffcoder {
namespace {

/// Positions start..start+length of one row, or of every row, in both halves.
struct Halves {
  const Document& document;
  int64_t half;  // L

  at::Tensor rows(const at::Tensor& t) const { return document.row < 0 ? t : t.narrow(0, document.row, 1); }
  at::Tensor noisy(const at::Tensor& t) const { return rows(t).narrow(1, document.start, document.length); }
  at::Tensor clean(const at::Tensor& t) const { return rows(t).narrow(1, half + document.start, document.length); }
  /// The same for a [b, h, s] log-sum-exp.
  at::Tensor noisy_lse(const at::Tensor& t) const { return rows(t).narrow(2, document.start, document.length); }
  at::Tensor clean_lse(const at::Tensor& t) const { return rows(t).narrow(2, half + document.start, document.length); }
};

/// A packed [b * s, h, d] tensor, or an [h, b * s] log-sum-exp, addressed by row and position.
Strided packed(const at::Tensor& t, int64_t length) {
  if (!t.defined()) return {};
  return {const_cast<void*>(t.const_data_ptr()), length * t.stride(0), t.stride(0), t.stride(1)};
}
Strided packed_lse(const at::Tensor& t, int64_t length) {
  if (!t.defined()) return {};
  return {const_cast<void*>(t.const_data_ptr()), length * t.stride(1), t.stride(1), t.stride(0)};
}

/// The sizes, and the tensors of a call as seen from one document's first noisy position.
void describe(LocalBlocks& a, const Halves& halves, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
              const AttentionResult& result, int64_t block_size, double scale) {
  a.q = strided(halves.noisy(q));
  a.k = strided(halves.noisy(k));
  a.v = strided(halves.noisy(v));
  a.out = strided(halves.noisy(result.out));
  a.lse = strided_lse(halves.noisy_lse(result.lse));
  a.batch = halves.document.row < 0 ? q.size(0) : 1;
  a.length = halves.document.length;
  a.half = halves.half;
  a.heads = q.size(2);
  a.kv_heads = k.size(2);
  a.head_dim = q.size(3);
  a.block = block_size;
  a.scale = scale;
  a.clean_queries = q.size(1) == k.size(1);
}

void describe_gradients(LocalBlocksBackward& a, const Halves& halves, const at::Tensor& grad,
                        const AttentionGradients& total) {
  a.grad_out = strided(halves.noisy(grad));
  a.dq = strided(halves.noisy(total.q));
  a.dk = strided(halves.noisy(total.k));
  a.dv = strided(halves.noisy(total.v));
}

/// Each document by its own two causal calls; without boundaries that is two calls in all.
void forward_documents(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                       const std::vector<Document>& documents, double scale, const AttentionResult& result) {
  for (const Document& document : documents) {
    const Halves halves{document, k.size(1) / 2};
    const int64_t shifted = document.length - block_size;  // noisy queries that a clean block precedes
    LocalBlocks a;
    describe(a, halves, q, k, v, result, block_size, scale);
    AttentionResult clean, noisy;
    if (a.clean_queries) clean = causal_forward(halves.clean(q), halves.clean(k), halves.clean(v), scale);
    if (shifted > 0) {
      noisy = causal_forward(halves.noisy(q).narrow(1, block_size, shifted), halves.clean(k).narrow(1, 0, shifted),
                             halves.clean(v).narrow(1, 0, shifted), scale);
    }
    a.clean_out = strided(clean.out);
    a.clean_lse = strided_lse(clean.lse);
    a.noisy_out = strided(noisy.out);
    a.noisy_lse = strided_lse(noisy.lse);
    local_blocks_kernels(q.device().type()).forward(a, q.scalar_type());
  }
}

void backward_documents(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const AttentionResult& result, int64_t block_size, const std::vector<Document>& documents,
                        double scale, const AttentionGradients& total) {
  for (const Document& document : documents) {
    const Halves halves{document, k.size(1) / 2};
    const int64_t shifted = document.length - block_size;
    LocalBlocksBackward a;
    describe(a, halves, q, k, v, result, block_size, scale);
    describe_gradients(a, halves, grad, total);
    AttentionGradients clean, noisy;
    if (a.clean_queries) {
      clean = causal_backward(halves.clean(grad), halves.clean(q), halves.clean(k), halves.clean(v),
                              halves.clean(result.out), halves.clean_lse(result.lse), scale);
    }
    if (shifted > 0) {
      const auto later = [&](const at::Tensor& t) { return halves.noisy(t).narrow(1, block_size, shifted); };
      const auto earlier = [&](const at::Tensor& t) { return halves.clean(t).narrow(1, 0, shifted); };
      noisy = causal_backward(later(grad), later(q), earlier(k), earlier(v), later(result.out),
                              halves.noisy_lse(result.lse).narrow(2, block_size, shifted), scale);
    }
    a.clean_dq = strided(clean.q);
    a.clean_dk = strided(clean.k);
    a.clean_dv = strided(clean.v);
    a.noisy_dq = strided(noisy.q);
    a.noisy_dk = strided(noisy.k);
    a.noisy_dv = strided(noisy.v);
    local_blocks_kernels(q.device().type()).backward(a, q.scalar_type());
  }
}

/// A call whose documents are packed: all of them in two variable-length causal calls.
struct PackedCall {
  const Document rows{-1, 0, 0};
  int64_t batch, length, block_size, pairs;  // pairs: length of the shifted sequence
  PackedDocuments documents;
  Halves halves;

  PackedCall(const at::Tensor& k, int64_t block, const std::vector<Document>& boundaries)
      : rows{-1, 0, k.size(1) / 2},
        batch(k.size(0)),
        length(k.size(1) / 2),
        block_size(block),
        pairs(batch * length - block),
        documents(pack_documents(boundaries, batch, length, block, k.device())),
        halves{rows, length} {}

  /// [b, L, h, d] to [b * L, h, d]: a view for one row, a copy of the half for more.
  at::Tensor flat(const at::Tensor& half) const { return half.reshape({batch * length, half.size(2), half.size(3)}); }
  at::Tensor clean(const at::Tensor& t) const { return flat(halves.clean(t)); }
  at::Tensor later(const at::Tensor& t) const { return flat(halves.noisy(t)).narrow(0, block_size, pairs); }
  at::Tensor earlier(const at::Tensor& t) const { return clean(t).narrow(0, 0, pairs); }
  /// [b, h, L] to [h, b * L].
  at::Tensor flat_lse(const at::Tensor& half) const {
    return half.transpose(0, 1).reshape({half.size(1), batch * length});
  }
};

void forward_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                    const std::vector<Document>& documents, double scale, const AttentionResult& result) {
  const PackedCall call(k, block_size, documents);
  LocalBlocks a;
  describe(a, call.halves, q, k, v, result, block_size, scale);
  a.documents = call.documents.places.const_data_ptr<int32_t>();
  AttentionResult clean, noisy;
  if (a.clean_queries)
    clean = causal_forward_packed(call.clean(q), call.clean(k), call.clean(v), call.documents.documents, scale);
  if (call.pairs > 0)
    noisy = causal_forward_packed(call.later(q), call.earlier(k), call.earlier(v), call.documents.shifted, scale);
  a.clean_out = packed(clean.out, call.length);
  a.clean_lse = packed_lse(clean.lse, call.length);
  a.noisy_out = packed(noisy.out, call.length);
  a.noisy_lse = packed_lse(noisy.lse, call.length);
  local_blocks_kernels(q.device().type()).forward(a, q.scalar_type());
}

void backward_packed(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionResult& result, int64_t block_size, const std::vector<Document>& documents,
                     double scale, const AttentionGradients& total) {
  const PackedCall call(k, block_size, documents);
  LocalBlocksBackward a;
  describe(a, call.halves, q, k, v, result, block_size, scale);
  describe_gradients(a, call.halves, grad, total);
  a.documents = call.documents.places.const_data_ptr<int32_t>();
  AttentionGradients clean, noisy;
  if (a.clean_queries) {
    clean =
        causal_backward_packed(call.clean(grad), call.clean(q), call.clean(k), call.clean(v), call.clean(result.out),
                               call.flat_lse(call.halves.clean_lse(result.lse)), call.documents.documents, scale);
  }
  if (call.pairs > 0) {
    // Pairs between documents: a log-sum-exp of +infinity makes their probabilities zero.
    const at::Tensor lse =
        call.flat_lse(call.halves.noisy_lse(result.lse))
            .narrow(1, block_size, call.pairs)
            .masked_fill(call.documents.has_earlier.logical_not(), std::numeric_limits<double>::infinity());
    noisy = causal_backward_packed(call.later(grad), call.later(q), call.earlier(k), call.earlier(v),
                                   call.later(result.out), lse, call.documents.shifted, scale);
  }
  a.clean_dq = packed(clean.q, call.length);
  a.clean_dk = packed(clean.k, call.length);
  a.clean_dv = packed(clean.v, call.length);
  a.noisy_dq = packed(noisy.q, call.length);
  a.noisy_dk = packed(noisy.k, call.length);
  a.noisy_dv = packed(noisy.v, call.length);
  local_blocks_kernels(q.device().type()).backward(a, q.scalar_type());
}

bool has_boundaries(const std::vector<Document>& documents) { return !documents.empty() && documents.front().row >= 0; }

}  // namespace

AttentionResult block_diffusion_merged_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               int64_t block_size, const std::vector<Document>& documents,
                                               double scale) {
  const at::ScalarType acc = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const AttentionResult result{at::empty(q.sizes(), q.options()),
                               at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(acc))};
  if (q.numel() == 0) return result;
  if (uses_cuda_flash(q) && has_boundaries(documents)) {
    forward_packed(q, k, v, block_size, documents, scale, result);
  } else {
    forward_documents(q, k, v, block_size, documents, scale, result);
  }
  return result;
}

AttentionGradients block_diffusion_merged_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                                   const at::Tensor& v, const AttentionResult& result,
                                                   int64_t block_size, const std::vector<Document>& documents,
                                                   double scale) {
  const AttentionGradients total{at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
                                 at::empty(v.sizes(), v.options())};
  if (q.numel() == 0) return total;
  if (uses_cuda_flash(q) && has_boundaries(documents)) {
    backward_packed(grad, q, k, v, result, block_size, documents, scale, total);
  } else {
    backward_documents(grad, q, k, v, result, block_size, documents, scale, total);
  }
  return total;
}

}  // namespace diffcoder
