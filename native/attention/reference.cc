// The attention operators written with plain tensor operations and dense masks: the oracle of the tests, and what runs
// on devices without a kernel. Scores in float32 (float64 for float64). Memory grows with the square of the length.

#include "reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "documents.h"

namespace diffcoder {
namespace {

/// Each position's document and its place in it, [b, s] int64.
struct Places {
  at::Tensor document, offset;
};

Places places_of(const std::vector<Document>& documents, int64_t b, int64_t s, const at::Tensor& like) {
  std::vector<int64_t> document(static_cast<size_t>(b * s)), offset(static_cast<size_t>(b * s));
  for (int64_t row = 0; row < b; ++row) {
    for (size_t n = 0; n < documents.size(); ++n) {
      const Document& d = documents[n];
      if (d.row >= 0 && d.row != row) continue;
      for (int64_t i = 0; i < d.length; ++i) {
        const auto at = static_cast<size_t>(row * s + d.start + i);
        document[at] = static_cast<int64_t>(n);
        offset[at] = i;
      }
    }
  }
  const auto as_tensor = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::TensorOptions(at::kLong)).view({b, s}).to(like.device());
  };
  return {as_tensor(document), as_tensor(offset)};
}

/// softmax(scale * q k^T where visible) v; visible [b, sq, sk].
at::Tensor masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& visible,
                            double scale) {
  const at::ScalarType acc = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t group = q.size(2) / k.size(2);
  const at::Tensor qh = q.transpose(1, 2).to(acc);
  const at::Tensor kh = k.transpose(1, 2).to(acc).repeat_interleave(group, 1);
  const at::Tensor vh = v.transpose(1, 2).to(acc).repeat_interleave(group, 1);
  const at::Tensor scores = at::matmul(qh, kh.transpose(2, 3)) * scale;
  const at::Tensor p =
      scores.masked_fill(visible.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity()).softmax(-1);
  return at::matmul(p, vh).transpose(1, 2).to(q.scalar_type());
}

double default_scale(const at::Tensor& q, std::optional<double> scale) {
  return scale.has_value() ? *scale : 1.0 / std::sqrt(static_cast<double>(q.size(3)));
}

}  // namespace

void check_attention(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK_VALUE(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, op,
                    ": q, k and v must be [batch, positions, heads, head_dim], got ", q.sizes(), ", ", k.sizes(),
                    " and ", v.sizes());
  TORCH_CHECK_VALUE(k.sizes() == v.sizes(), op, ": k and v differ in shape: ", k.sizes(), " and ", v.sizes());
  TORCH_CHECK_VALUE(q.size(0) == k.size(0) && q.size(3) == k.size(3), op, ": q ", q.sizes(), " and k ", k.sizes(),
                    " differ in batch or head_dim");
  TORCH_CHECK_VALUE(k.size(2) > 0 && q.size(2) > 0 && q.size(2) % k.size(2) == 0, op, ": ", q.size(2),
                    " query heads are no multiple of ", k.size(2), " key heads");
  TORCH_CHECK_VALUE(q.size(3) > 0, op, ": head_dim is 0");
  TORCH_CHECK_TYPE(
      at::isFloatingType(q.scalar_type()) && q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
      op, ": q, k and v must have one floating dtype, got ", q.scalar_type(), ", ", k.scalar_type(), " and ",
      v.scalar_type());
  TORCH_CHECK_VALUE(q.device() == k.device() && q.device() == v.device(), op, ": q, k and v are on different devices");
}

void check_block_diffusion_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     int64_t block_size) {
  constexpr const char* op = "block_diffusion_attention";
  check_attention(op, q, k, v);
  TORCH_CHECK_VALUE(k.size(1) % 2 == 0, op, ": k holds a noisy and a clean half, so its ", k.size(1),
                    " positions must be even");
  TORCH_CHECK_VALUE(q.size(1) == k.size(1) || 2 * q.size(1) == k.size(1), op, ": q must have all ", k.size(1),
                    " positions or the noisy half's ", k.size(1) / 2, ", got ", q.size(1));
  TORCH_CHECK_VALUE(block_size >= 1, op, ": block_size must be at least 1, got ", block_size);
}

void check_causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  check_attention("causal_attention", q, k, v);
  TORCH_CHECK_VALUE(q.size(1) == k.size(1), "causal_attention: q has ", q.size(1), " positions and k ", k.size(1));
}

at::Tensor causal_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      c10::OptionalIntArrayRef boundaries, std::optional<double> scale) {
  check_causal_attention(q, k, v);
  const int64_t b = q.size(0), s = q.size(1);
  const Places at = places_of(documents_of("causal_attention_reference", boundaries, b, s), b, s, q);
  const at::Tensor visible = at.document.unsqueeze(2)
                                 .eq(at.document.unsqueeze(1))
                                 .logical_and(at.offset.unsqueeze(2).ge(at.offset.unsqueeze(1)));
  return masked_attention(q, k, v, visible, default_scale(q, scale));
}

at::Tensor block_diffusion_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               int64_t block_size, c10::OptionalIntArrayRef boundaries,
                                               std::optional<double> scale) {
  check_block_diffusion_attention(q, k, v, block_size);
  const int64_t b = k.size(0), half = k.size(1) / 2;
  const Places at = places_of(documents_of("block_diffusion_attention_reference", boundaries, b, half), b, half, q);
  const at::Tensor block = at.offset.floor_divide(block_size);
  const at::Tensor same = at.document.unsqueeze(2).eq(at.document.unsqueeze(1));
  const at::Tensor own = same.logical_and(block.unsqueeze(2).eq(block.unsqueeze(1)));
  const at::Tensor before = same.logical_and(block.unsqueeze(2).gt(block.unsqueeze(1)));
  at::Tensor visible = at::cat({own, before}, 2);  // noisy queries: own noisy block, clean blocks before it
  if (q.size(1) == k.size(1)) {                    // clean queries: no noisy key, clean blocks up to their own
    visible = at::cat({visible, at::cat({own.logical_and(own.logical_not()), own.logical_or(before)}, 2)}, 1);
  }
  return masked_attention(q, k, v, visible, default_scale(q, scale));
}

}  // namespace diffcoder
