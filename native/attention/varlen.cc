// Attention of many short runs of queries, each over a range of keys of its own: what decoding asks for. On CUDA in 16
// bits libtorch's flash kernel does all runs in one call; on the CPU each is one plain product, to compare with.

#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "flash.h"

namespace diffcoder {
namespace {

/// What every run is about; see varlen_attention.
struct Runs {
  at::Tensor query_starts, key_starts, key_counts;
  int64_t max_queries, max_keys;
  std::optional<at::Tensor> table;
  bool causal;
  double scale;
};

/// Whether libtorch's operator can be told in which pages the keys are: 2.13's can, 2.11's cannot.
template <typename T>
concept reads_pages = requires(const T& t) {
  at::_flash_attention_forward(t, t, t, t, t, 1, 1, 0.0, false, false, std::optional<double>(),
                               std::optional<int64_t>(), std::optional<int64_t>(), std::optional<T>(t),
                               std::optional<T>(), std::optional<T>(t), std::optional<int64_t>(1));
};

template <typename T>
at::Tensor flash(const T& q, const T& k, const T& v, const Runs& r) {
  // With more than one query allowed the kernel never takes its path for single ones, which needs exactly one per run.
  const int64_t max_queries = std::max<int64_t>(2, r.max_queries);
  constexpr std::optional<int64_t> no_window;
  const auto call = [&](auto... pages) {
    return std::get<0>(at::_flash_attention_forward(q, k, v, r.query_starts, r.key_starts, max_queries, r.max_keys, 0.0,
                                                    r.causal, /*return_debug_mask=*/false, r.scale, no_window,
                                                    no_window, std::optional<T>(r.key_counts), pages...));
  };
  if (!r.table.has_value()) return call();
  // One split of the keys: else how many there are, and so the rounding, depends on the runs beside.
  if constexpr (reads_pages<T>) return call(std::optional<T>(), r.table, std::optional<int64_t>(1));
  TORCH_CHECK_NOT_IMPLEMENTED(false, "varlen_attention: this libtorch's flash attention does not read pages");
}

/// The queries come last: the last one of a causal run sees all of the run's keys.
at::Tensor causal_mask(int64_t queries, int64_t keys, const at::Tensor& q) {
  const at::Tensor last = at::arange(keys - queries, keys, q.options().dtype(at::kLong)).unsqueeze(1);
  return at::arange(keys, last.options()) <= last;
}

at::Tensor one_by_one(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Runs& r) {
  at::Tensor out = at::zeros_like(q);
  const auto* starts = r.query_starts.const_data_ptr<int32_t>();
  const auto* key_starts = r.key_starts.const_data_ptr<int32_t>();
  const auto* counts = r.key_counts.const_data_ptr<int32_t>();
  const auto heads_first = [](const at::Tensor& t) { return t.transpose(0, 1).unsqueeze(0); };
  for (int64_t i = 0; i < r.key_counts.numel(); ++i) {
    const int64_t queries = starts[i + 1] - starts[i], count = counts[i];
    if (queries == 0 || count == 0) continue;
    const auto held = [&](const at::Tensor& all) {
      if (!r.table.has_value()) return all.narrow(0, key_starts[i], count);
      const int64_t pages = (count + all.size(1) - 1) / all.size(1);
      return all.index_select(0, r.table->select(0, i).narrow(0, 0, pages)).flatten(0, 1).narrow(0, 0, count);
    };
    const std::optional<at::Tensor> mask =
        r.causal ? std::optional<at::Tensor>(causal_mask(queries, count, q)) : std::nullopt;
    const at::Tensor one = at::scaled_dot_product_attention(heads_first(q.narrow(0, starts[i], queries)),
                                                            heads_first(held(k)), heads_first(held(v)), mask, 0.0,
                                                            /*is_causal=*/false, r.scale, /*enable_gqa=*/true);
    out.narrow(0, starts[i], queries).copy_(one.squeeze(0).transpose(0, 1));
  }
  return out;
}

void check_runs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Runs& r) {
  const int64_t page_dims = r.table.has_value() ? 1 : 0;
  TORCH_CHECK_VALUE(k.dim() == 3 + page_dims && v.sizes() == k.sizes() && k.size(-1) == q.size(2) && k.size(-2) > 0 &&
                        q.size(1) % k.size(-2) == 0,
                    "varlen_attention: k and v must be [keys, key heads, d] or, with a table, [pages, page size, key "
                    "heads, d], with the d and a divisor of the heads of q ",
                    q.sizes(), ", got ", k.sizes(), " and ", v.sizes());
  TORCH_CHECK_TYPE(k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type(),
                   "varlen_attention: q, k and v must have one dtype");
  const int64_t runs = r.key_counts.numel();
  TORCH_CHECK_VALUE(r.query_starts.numel() == runs + 1 && r.key_starts.numel() == runs + 1 &&
                        (!r.table.has_value() || (r.table->dim() == 2 && r.table->size(0) == runs)),
                    "varlen_attention: query_starts and key_starts must have one entry more than key_counts, and the "
                    "table a row for each of those");
  for (const at::Tensor* t : {&r.query_starts, &r.key_starts, &r.key_counts}) {
    TORCH_CHECK_TYPE(t->scalar_type() == at::kInt && t->dim() == 1 && t->is_contiguous() && t->device() == q.device(),
                     "varlen_attention: starts and counts must be contiguous int32 lists on the device of q");
  }
  TORCH_CHECK_TYPE(!r.table.has_value() || (r.table->scalar_type() == at::kInt && r.table->is_contiguous()),
                   "varlen_attention: the table must be contiguous int32");
}

/// Run i is the queries from query_starts[i] to query_starts[i + 1]. Each sees the key_counts[i] keys from
/// key_starts[i] on, or with a table those that begin the pages table[i]; causal: the last query all of them, and each
/// before it one less. Runs may share keys. Without keys the result is 0. No autograd.
at::Tensor varlen_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& query_starts, const at::Tensor& key_starts, const at::Tensor& key_counts,
                            int64_t max_queries, int64_t max_keys, const std::optional<at::Tensor>& table, bool causal,
                            std::optional<double> scale) {
  TORCH_CHECK_VALUE(q.dim() == 3, "varlen_attention: q must be [tokens, heads, d], got ", q.sizes());
  const double factor = scale.has_value() ? *scale : 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const Runs runs{query_starts, key_starts, key_counts, max_queries, max_keys, table, causal, factor};
  check_runs(q, k, v, runs);
  const c10::DeviceGuard on_device(q.device());
  if (q.is_cpu()) return one_by_one(q, k, v, runs);
  TORCH_CHECK_NOT_IMPLEMENTED(uses_cuda_flash(q), "varlen_attention: on ", q.device(), " flash attention takes 16 bits",
                              " and heads of a multiple of 8 up to 256, not ", q.scalar_type(), " and ", q.size(2));
  return flash(q, k, v, runs);
}

/// Whether varlen_attention on CUDA takes a table of pages of this size.
bool varlen_attention_reads_pages(int64_t page_size) { return reads_pages<at::Tensor> && page_size % 256 == 0; }

TORCH_LIBRARY_FRAGMENT(diffcoder, m) {
  m.def(
      "varlen_attention(Tensor q, Tensor k, Tensor v, Tensor query_starts, Tensor key_starts, Tensor key_counts, int "
      "max_queries, int max_keys, Tensor? table=None, bool causal=False, float? scale=None) -> Tensor",
      &varlen_attention);
  m.def("varlen_attention_reads_pages(int page_size) -> bool", &varlen_attention_reads_pages);
}

}  // namespace
}  // namespace diffcoder
