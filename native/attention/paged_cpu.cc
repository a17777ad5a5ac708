// Paged attention on the CPU. One item of work is a sequence, a key head and up to 64 of its queries: the queries of
// all heads that share the key head are rows of one tile, so a page is read once for all of them.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <vector>

#include "flash.h"
#include "online_softmax.h"
#include "paged.h"

namespace diffcoder {
namespace {

using namespace simd;

struct Item {
  int64_t sequence, head, first, rows;  // rows first.. of the sequence's queries times the head's group
};

struct PagedProblem {
  const char *q, *k, *v;
  at::ScalarType dtype;
  char* out;
  void *key_pages, *value_pages;
  const int64_t* slots;
  const int32_t *table, *starts, *visible;
  int64_t tokens, heads, kv_heads, group, d, dp, element, pages_each, page_size, width;
  double scale;
  std::vector<Item> items;
};

template <typename I, typename A>
DIFFCODER_INLINE void store_tokens(const PagedProblem& p, int64_t begin, int64_t end) {
  std::vector<A> buffer(static_cast<size_t>(p.d));
  for (int64_t t = begin; t < end; ++t) {
    const int64_t page = p.slots[t] / p.page_size, at = p.slots[t] % p.page_size;
    for (int64_t h = 0; h < p.kv_heads; ++h) {
      const int64_t source = (t * p.kv_heads + h) * p.d * p.element;
      const A* key = read_any<I, A>(p.k + source, p.dtype, buffer.data(), p.d);
      A* column = static_cast<A*>(p.key_pages) + (page * p.kv_heads + h) * p.d * p.width + at;
      for (int64_t i = 0; i < p.d; ++i) column[i * p.width] = key[i];
      const A* value = read_any<I, A>(p.v + source, p.dtype, buffer.data(), p.d);
      std::copy(value, value + p.d, static_cast<A*>(p.value_pages) + ((page * p.kv_heads + h) * p.width + at) * p.dp);
    }
  }
}

template <typename I, typename A>
DIFFCODER_INLINE void attend_item(const PagedProblem& p, const Item& item, A* memory) {
  constexpr int64_t kRows = I::rows;
  const A none = -std::numeric_limits<A>::infinity();
  A *q = memory, *o = q + kTile * p.dp, *s = o + kTile * p.dp;
  const int64_t padded = round_up(item.rows, kRows), start = p.starts[item.sequence];
  int64_t seen[kTile];
  const auto token_of = [&](int64_t row) { return start + (item.first + row) / p.group; };
  const auto offset_of = [&](int64_t row) {
    return (token_of(row) * p.heads + item.head * p.group + (item.first + row) % p.group) * p.d * p.element;
  };
  for (int64_t r = 0; r < padded; ++r) {
    A* row = q + r * p.dp;
    seen[r] = 0;
    std::fill(row, row + p.dp, A(0));
    if (r >= item.rows) continue;
    seen[r] = p.visible[token_of(r)];
    const A* source = read_any<I, A>(p.q + offset_of(r), p.dtype, row, p.d);
    for (int64_t i = 0; i < p.d; ++i) row[i] = source[i] * static_cast<A>(p.scale);
  }
  std::fill(o, o + padded * p.dp, A(0));
  Softmax<A> state;
  std::fill(state.highest, state.highest + padded, none);
  std::fill(state.total, state.total + padded, A(0));
  const int64_t last = seen[item.rows - 1];
  for (int64_t n = 0; n * p.page_size < last; ++n) {
    const int64_t page = p.table[item.sequence * p.pages_each + n];
    const A* keys = static_cast<const A*>(p.key_pages) + (page * p.kv_heads + item.head) * p.d * p.width;
    const A* values = static_cast<const A*>(p.value_pages) + (page * p.kv_heads + item.head) * p.width * p.dp;
    for (int64_t j = 0; j < p.page_size; j += kTile) {
      const int64_t base = n * p.page_size + j, here = std::min(kTile, p.page_size - j);
      for (int64_t row = 0; row < padded; row += kRows) {
        int64_t most = 0, least = here;
        for (int64_t r = row; r < row + kRows; ++r) {
          most = std::max(most, seen[r]);
          least = std::min(least, seen[r] - base);
        }
        const int64_t columns = std::min(most - base, here);
        if (columns <= 0) continue;
        // What columns beyond these hold is never multiplied with values: it may be anything.
        const int64_t computed = round_up(columns, kColumns<A>);
        row_product<I, A, false>(q + row * p.dp, p.dp, 1, keys + j, p.width, p.d, computed, s, kTile);
        if (least < computed) {
          for (int64_t r = 0; r < kRows; ++r) {
            const int64_t from = std::clamp<int64_t>(std::min(seen[row + r] - base, here), 0, computed);
            std::fill(s + r * kTile + from, s + r * kTile + computed, none);
          }
        }
        update<I, A>(s, 0, computed, row, p.dp, state, o + row * p.dp);
        row_product<I, A, true>(s, kTile, 1, values + j * p.dp, p.dp, columns, p.dp, o + row * p.dp, p.dp);
      }
    }
  }
  for (int64_t r = 0; r < item.rows; ++r) {
    A* row = o + r * p.dp;
    const A inverse = A(1) / state.total[r];
    for (int64_t i = 0; i < p.d; ++i) row[i] *= inverse;
    write_any<I, A>(row, p.dtype, p.out + offset_of(r), p.d);
  }
}

template <typename I, typename A>
DIFFCODER_INLINE void attend(const PagedProblem& p, std::atomic<int64_t>& next) {
  std::vector<A> memory(static_cast<size_t>(2 * kTile * p.dp + I::rows * kTile));
  const int64_t count = static_cast<int64_t>(p.items.size());
  for (int64_t i = next++; i < count; i = next++) attend_item<I, A>(p, p.items[static_cast<size_t>(i)], memory.data());
}

#define DIFFCODER_STORE (const PagedProblem& p, int64_t begin, int64_t end)
#define DIFFCODER_ATTEND (const PagedProblem& p, std::atomic<int64_t>& next)
DIFFCODER_KERNEL(store_float, DIFFCODER_STORE, (p, begin, end), store_tokens, float)
DIFFCODER_KERNEL(store_double, DIFFCODER_STORE, (p, begin, end), store_tokens, double)
DIFFCODER_KERNEL(attend_float, DIFFCODER_ATTEND, (p, next), attend, float)
DIFFCODER_KERNEL(attend_double, DIFFCODER_ATTEND, (p, next), attend, double)

void check_integers(const char* name, const at::Tensor& t, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(t.scalar_type() == dtype && t.is_cpu() && t.is_contiguous(), "paged_attention: ", name,
                   " must be a contiguous ", dtype, " tensor on the CPU");
}

/// Every page and token that will be touched is within bounds: after this the kernels need no check.
void check_bounds(const PagedProblem& p, int64_t sequences, int64_t pages) {
  for (int64_t t = 0; t < p.tokens; ++t) {
    TORCH_CHECK_INDEX(p.slots[t] >= 0 && p.slots[t] < pages * p.page_size, "paged_attention: slot ", p.slots[t],
                      " is outside ", pages, " pages of ", p.page_size);
  }
  TORCH_CHECK_VALUE(p.starts[0] == 0 && p.starts[sequences] == p.tokens, "paged_attention: starts must run from 0 to ",
                    p.tokens);
  for (int64_t s = 0; s < sequences; ++s) {
    TORCH_CHECK_VALUE(p.starts[s] <= p.starts[s + 1], "paged_attention: starts must not fall");
    int32_t before = 1;
    for (int64_t t = p.starts[s]; t < p.starts[s + 1]; ++t) {
      TORCH_CHECK_VALUE(p.visible[t] >= before && p.visible[t] <= p.pages_each * p.page_size, "paged_attention: token ",
                        t, " of sequence ", s, " sees ", p.visible[t],
                        " keys: at least one, not fewer than the token before, and within the table");
      before = p.visible[t];
    }
  }
  for (int64_t i = 0; i < sequences * p.pages_each; ++i) {
    TORCH_CHECK_INDEX(p.table[i] >= 0 && p.table[i] < pages, "paged_attention: page ", p.table[i], " is outside ",
                      pages);
  }
}

}  // namespace

at::Tensor paged_attention(const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                           at::Tensor& key_pages, at::Tensor& value_pages, const at::Tensor& slots,
                           const at::Tensor& table, const at::Tensor& starts, const at::Tensor& visible,
                           int64_t page_size, std::optional<double> scale) {
  TORCH_CHECK_VALUE(q_any.dim() >= 3 && k_any.dim() == q_any.dim() && v_any.sizes() == k_any.sizes(),
                    "paged_attention: q must be [.., tokens, heads, d], k and v alike");
  TORCH_CHECK_TYPE(q_any.is_cpu() && k_any.is_cpu() && v_any.is_cpu() && k_any.scalar_type() == q_any.scalar_type() &&
                       v_any.scalar_type() == q_any.scalar_type(),
                   "paged_attention: q, k and v must have one dtype and be on the CPU");
  const at::Tensor q = q_any.contiguous(), k = k_any.contiguous(), v = v_any.contiguous();
  PagedProblem p;
  p.d = q.size(-1);
  p.heads = q.size(-2);
  p.kv_heads = k.size(-2);
  p.tokens = k.numel() / std::max<int64_t>(1, p.kv_heads * p.d);
  p.group = p.heads / std::max<int64_t>(1, p.kv_heads);
  p.dp = round_up(p.d, 16);
  p.page_size = page_size;
  p.width = round_up(page_size, 16);
  const at::ScalarType acc = accumulate_dtype(q);
  TORCH_CHECK_VALUE(
      page_size > 0 && k.size(-1) == p.d && p.kv_heads > 0 && p.heads % p.kv_heads == 0 && key_pages.dim() == 4 &&
          key_pages.sizes() == at::IntArrayRef({key_pages.size(0), p.kv_heads, p.d, p.width}) &&
          value_pages.sizes() == at::IntArrayRef({key_pages.size(0), p.kv_heads, p.width, p.dp}) &&
          key_pages.scalar_type() == acc && value_pages.scalar_type() == acc && key_pages.is_contiguous() &&
          value_pages.is_contiguous() && key_pages.is_cpu() && value_pages.is_cpu(),
      "paged_attention: key_pages must be [pages, ", p.kv_heads, ", ", p.d, ", ", p.width, "] and value_pages [pages, ",
      p.kv_heads, ", ", p.width, ", ", p.dp, "] in ", acc, ", got ", key_pages.sizes(), " and ", value_pages.sizes());
  check_integers("slots", slots, at::kLong);
  check_integers("table", table, at::kInt);
  check_integers("starts", starts, at::kInt);
  check_integers("visible", visible, at::kInt);
  const int64_t sequences = starts.numel() - 1;
  TORCH_CHECK_VALUE(sequences >= 1 && table.dim() == 2 && table.size(0) == sequences && slots.numel() == p.tokens &&
                        visible.numel() == p.tokens,
                    "paged_attention: table, starts, slots and visible do not fit together");
  p.pages_each = table.size(1);
  p.q = static_cast<const char*>(q.const_data_ptr());
  p.k = static_cast<const char*>(k.const_data_ptr());
  p.v = static_cast<const char*>(v.const_data_ptr());
  p.dtype = q.scalar_type();
  p.element = static_cast<int64_t>(q.element_size());
  p.key_pages = key_pages.data_ptr();
  p.value_pages = value_pages.data_ptr();
  p.slots = slots.const_data_ptr<int64_t>();
  p.table = table.const_data_ptr<int32_t>();
  p.starts = starts.const_data_ptr<int32_t>();
  p.visible = visible.const_data_ptr<int32_t>();
  p.scale = attention_scale(q, scale);
  check_bounds(p, sequences, key_pages.size(0));
  const bool wide = acc == at::kDouble;
  at::parallel_for(0, p.tokens, 64, [&](int64_t begin, int64_t end) {
    wide ? store_double(p, begin, end) : store_float(p, begin, end);
  });
  if (q.numel() < p.tokens * p.heads * p.d) return q_any;
  at::Tensor out = at::empty(q.sizes(), q.options());
  p.out = static_cast<char*>(out.data_ptr());
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t rows = (p.starts[s + 1] - p.starts[s]) * p.group;
    for (int64_t head = 0; head < p.kv_heads; ++head) {
      for (int64_t first = 0; first < rows; first += kTile)
        p.items.push_back({s, head, first, std::min(kTile, rows - first)});
    }
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1,
                   [&](int64_t, int64_t) { wide ? attend_double(p, next) : attend_float(p, next); });
  return out;
}

TORCH_LIBRARY_FRAGMENT(diffcoder, m) {
  m.def(
      "paged_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) key_pages, Tensor(b!) value_pages, Tensor slots, "
      "Tensor "
      "table, Tensor starts, Tensor visible, int page_size, float? scale=None) -> Tensor",
      &paged_attention);
}

}  // namespace diffcoder
