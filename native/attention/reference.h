#pragma once

// Plain-operator twins of the attention operators, and their argument checks.

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>

namespace diffcoder {

at::Tensor block_diffusion_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                               int64_t block_size, c10::OptionalIntArrayRef documents,
                                               std::optional<double> scale);

at::Tensor causal_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      c10::OptionalIntArrayRef documents, std::optional<double> scale);

/// q [b, sq, h, d], k and v [b, sk, hkv, d], h a multiple of hkv, one floating dtype, one device.
void check_attention(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// q [b, 2L or L, h, d], k and v [b, 2L, hkv, d], otherwise as above; block_size >= 1.
void check_block_diffusion_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size);

/// q [b, s, h, d], k and v [b, s, hkv, d], otherwise as above.
void check_causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace diffcoder
