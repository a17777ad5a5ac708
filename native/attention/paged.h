#pragma once

// Attention over key/value memory in pages, for serving: tokens of many sequences in one pass.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace diffcoder {

/// Writes the keys and values of new tokens into their pages, then lets every token attend to its own sequence's keys.
/// CPU only, no autograd.
///
/// q [.., T, h, d], k and v [.., T, hkv, d]: the tokens of all sequences, one after the other. q may hold fewer tokens
/// than k (those of the last layer that are asked for): then none attends and q is returned as it is.
/// key_pages [pages, hkv, d, width] and value_pages [pages, hkv, width, dp]: a page's keys lie transposed, so that a
/// product with queries reads them as they are. width: page_size rounded up to 16; dp: d rounded up to 16. float32,
/// or float64 for float64 tokens.
/// slots int64 [T]: page * page_size + offset to write to. table int32 [n, most]: the pages of each sequence.
/// starts int32 [n + 1]: where each sequence's tokens begin. visible int32 [T]: how many keys a token sees, never
/// falling within a sequence.
at::Tensor paged_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor& key_pages,
                           at::Tensor& value_pages, const at::Tensor& slots, const at::Tensor& table,
                           const at::Tensor& starts, const at::Tensor& visible, int64_t page_size,
                           std::optional<double> scale);

}  // namespace diffcoder
