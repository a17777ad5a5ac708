#include "block_diffusion_merged.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <limits>

#include "local_blocks.h"

namespace diffcoder {
namespace {

/// The halves of [b, 2L (or L), h, d] tensors and of [b, h, 2L (or L)] log-sum-exps.
struct Halves {
  int64_t length;  // L

  at::Tensor noisy(const at::Tensor& t) const { return t.narrow(1, 0, length); }
  at::Tensor clean(const at::Tensor& t) const { return t.narrow(1, length, length); }
  at::Tensor noisy_lse(const at::Tensor& t) const { return t.narrow(2, 0, length); }
  at::Tensor clean_lse(const at::Tensor& t) const { return t.narrow(2, length, length); }
};

/// Results or gradients of the two causal calls, and how to find a row and position in them.
template <typename T>
struct Parts {
  T clean, noisy;
};

// --- Every row one document: the causal calls take the halves as they lie. ---

Parts<AttentionResult> forward_rows(const Halves& halves, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    int64_t block_size, double scale, bool clean_queries) {
  Parts<AttentionResult> parts;
  if (clean_queries) parts.clean = causal_forward(halves.clean(q), halves.clean(k), halves.clean(v), scale);
  const int64_t shifted = halves.length - block_size;  // noisy queries that a clean block precedes
  if (shifted <= 0) return parts;
  const auto earlier = [&](const at::Tensor& t) { return halves.clean(t).narrow(1, 0, shifted); };
  parts.noisy = causal_forward(halves.noisy(q).narrow(1, block_size, shifted), earlier(k), earlier(v), scale);
  return parts;
}

Parts<AttentionGradients> backward_rows(const Halves& halves, const at::Tensor& grad, const at::Tensor& q,
                                        const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                                        int64_t block_size, double scale, bool clean_queries) {
  Parts<AttentionGradients> parts;
  if (clean_queries) {
    parts.clean = causal_backward(halves.clean(grad), halves.clean(q), halves.clean(k), halves.clean(v),
                                  halves.clean(result.out), halves.clean_lse(result.lse), scale);
  }
  const int64_t shifted = halves.length - block_size;
  if (shifted <= 0) return parts;
  const auto later = [&](const at::Tensor& t) { return halves.noisy(t).narrow(1, block_size, shifted); };
  const auto earlier = [&](const at::Tensor& t) { return halves.clean(t).narrow(1, 0, shifted); };
  parts.noisy = causal_backward(later(grad), later(q), earlier(k), earlier(v), later(result.out),
                                halves.noisy_lse(result.lse).narrow(2, block_size, shifted), scale);
  return parts;
}

// --- Documents: the halves are packed to [b * L, h, d], a view for one row, a copy for more. ---

struct Packing {
  Halves halves;
  int64_t batch, block_size;
  PackedDocuments documents;

  int64_t pairs() const { return std::max<int64_t>(batch * halves.length - block_size, 0); }  // of the shifted sequence
  at::Tensor flat(const at::Tensor& half) const {
    return half.reshape({batch * halves.length, half.size(2), half.size(3)});
  }
  at::Tensor clean(const at::Tensor& t) const { return flat(halves.clean(t)); }
  at::Tensor later(const at::Tensor& t) const { return flat(halves.noisy(t)).narrow(0, block_size, pairs()); }
  at::Tensor earlier(const at::Tensor& t) const { return clean(t).narrow(0, 0, pairs()); }
  /// [b, h, L] to [h, b * L].
  at::Tensor flat_lse(const at::Tensor& half) const {
    return half.transpose(0, 1).reshape({half.size(1), batch * halves.length});
  }
};

Parts<AttentionResult> forward_packed(const Packing& pack, const at::Tensor& q, const at::Tensor& k,
                                      const at::Tensor& v, double scale, bool clean_queries) {
  Parts<AttentionResult> parts;
  if (clean_queries) {
    parts.clean = causal_forward_packed(pack.clean(q), pack.clean(k), pack.clean(v), pack.documents.documents, scale);
  }
  if (pack.pairs() > 0) {
    parts.noisy = causal_forward_packed(pack.later(q), pack.earlier(k), pack.earlier(v), pack.documents.shifted, scale);
  }
  return parts;
}

Parts<AttentionGradients> backward_packed(const Packing& pack, const at::Tensor& grad, const at::Tensor& q,
                                          const at::Tensor& k, const at::Tensor& v, const AttentionResult& result,
                                          double scale, bool clean_queries) {
  Parts<AttentionGradients> parts;
  if (clean_queries) {
    parts.clean =
        causal_backward_packed(pack.clean(grad), pack.clean(q), pack.clean(k), pack.clean(v), pack.clean(result.out),
                               pack.flat_lse(pack.halves.clean_lse(result.lse)), pack.documents.documents, scale);
  }
  if (pack.pairs() > 0) {
    // Pairs between documents: a log-sum-exp of +infinity makes their probabilities zero.
    const at::Tensor lse =
        pack.flat_lse(pack.halves.noisy_lse(result.lse))
            .narrow(1, pack.block_size, pack.pairs())
            .masked_fill(pack.documents.has_earlier.logical_not(), std::numeric_limits<double>::infinity());
    parts.noisy = causal_backward_packed(pack.later(grad), pack.later(q), pack.earlier(k), pack.earlier(v),
                                         pack.later(result.out), lse, pack.documents.shifted, scale);
  }
  return parts;
}

// --- Addresses for the block kernel. ---

/// A part by row and position: [b, s, h, d] as it is, packed [b * s, h, d] by rows of `length`.
Strided part(const at::Tensor& t, int64_t length) {
  if (!t.defined() || t.dim() == 4) return strided(t);
  return {const_cast<void*>(t.const_data_ptr()), length * t.stride(0), t.stride(0), t.stride(1)};
}
/// The same for [b, h, s] and [h, b * s] log-sum-exps.
Strided part_lse(const at::Tensor& t, int64_t length) {
  if (!t.defined() || t.dim() == 3) return strided_lse(t);
  return {const_cast<void*>(t.const_data_ptr()), length * t.stride(1), t.stride(1), t.stride(0)};
}

void describe(LocalBlocks& a, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
              const AttentionResult& result, int64_t block_size, double scale) {
  a.q = strided(q);
  a.k = strided(k);
  a.v = strided(v);
  a.out = strided(result.out);
  a.lse = strided_lse(result.lse);
  a.batch = q.size(0);
  a.length = a.half = k.size(1) / 2;
  a.heads = q.size(2);
  a.kv_heads = k.size(2);
  a.head_dim = q.size(3);
  a.block = block_size;
  a.scale = scale;
  a.clean_queries = q.size(1) == k.size(1);
}

bool has_boundaries(const std::vector<Document>& documents) { return documents.front().row >= 0; }

Packing packing(const at::Tensor& k, int64_t block_size, const std::vector<Document>& documents) {
  const int64_t length = k.size(1) / 2;
  return {{length}, k.size(0), block_size, pack_documents(documents, k.size(0), length, block_size, k.device())};
}

}  // namespace

AttentionResult block_diffusion_merged_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               int64_t block_size, const std::vector<Document>& documents,
                                               double scale) {
  const at::ScalarType acc = accumulate_dtype(q);
  const AttentionResult result{at::empty(q.sizes(), q.options()),
                               at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(acc))};
  if (q.numel() == 0) return result;
  const c10::DeviceGuard on_device(q.device());
  LocalBlocks a;
  describe(a, q, k, v, result, block_size, scale);
  Packing pack{{a.length}, a.batch, block_size, {}};
  Parts<AttentionResult> parts;
  if (has_boundaries(documents)) {
    pack = packing(k, block_size, documents);
    a.documents = pack.documents.places.const_data_ptr<int32_t>();
    parts = forward_packed(pack, q, k, v, scale, a.clean_queries);
  } else {
    parts = forward_rows(pack.halves, q, k, v, block_size, scale, a.clean_queries);
  }
  a.clean_out = part(parts.clean.out, a.length);
  a.clean_lse = part_lse(parts.clean.lse, a.length);
  a.noisy_out = part(parts.noisy.out, a.length);
  a.noisy_lse = part_lse(parts.noisy.lse, a.length);
  local_blocks_kernels(q.device().type()).forward(a, q.scalar_type());
  return result;
}

AttentionGradients block_diffusion_merged_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                                   const at::Tensor& v, const AttentionResult& result,
                                                   int64_t block_size, const std::vector<Document>& documents,
                                                   double scale) {
  const AttentionGradients total{at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
                                 at::empty(v.sizes(), v.options())};
  if (q.numel() == 0) return total;
  const c10::DeviceGuard on_device(q.device());
  LocalBlocksBackward a;
  describe(a, q, k, v, result, block_size, scale);
  a.grad_out = strided(grad);
  a.dq = strided(total.q);
  a.dk = strided(total.k);
  a.dv = strided(total.v);
  Packing pack{{a.length}, a.batch, block_size, {}};
  Parts<AttentionGradients> parts;
  if (has_boundaries(documents)) {
    pack = packing(k, block_size, documents);
    a.documents = pack.documents.places.const_data_ptr<int32_t>();
    parts = backward_packed(pack, grad, q, k, v, result, scale, a.clean_queries);
  } else {
    parts = backward_rows(pack.halves, grad, q, k, v, result, block_size, scale, a.clean_queries);
  }
  a.clean_dq = part(parts.clean.q, a.length);
  a.clean_dk = part(parts.clean.k, a.length);
  a.clean_dv = part(parts.clean.v, a.length);
  a.noisy_dq = part(parts.noisy.q, a.length);
  a.noisy_dk = part(parts.noisy.k, a.length);
  a.noisy_dv = part(parts.noisy.v, a.length);
  local_blocks_kernels(q.device().type()).backward(a, q.scalar_type());
  return total;
}

}  // namespace diffcoder
