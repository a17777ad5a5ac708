// The forward pass of range_attention: online softmax over tiles of 64 queries by 64 keys.
//
// For every group of four queries and every key tile: scores S = (scale q) k^T, new maximum m', P = V::exp(S - m'), and
//   l <- l V::exp(m - m') + sum P      o <- o V::exp(m - m') + P v      m <- m'
// At the end out = o / l and lse = m + log l.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <vector>

#include "online_softmax.h"
#include "range_attention.h"
#include "range_attention_cpu.h"

namespace diffcoder {
namespace {

using namespace simd;

template <typename I, typename A>
DIFFCODER_INLINE void pack_forward_keys(const RangeProblem& p, int64_t begin, int64_t end) {
  std::vector<A> buffer(static_cast<size_t>(kTile * p.dp));
  for (int64_t index = begin; index < end; ++index) {
    const int64_t tile = index % p.key_tiles, key_head = index / p.key_tiles;
    const int64_t first = tile * kTile, n = std::min(kTile, p.keys - first);
    const int64_t b = key_head / p.kv_heads, h = key_head % p.kv_heads;
    pack_rows<I, A>(HeadRows(p.k, b, h), first, n, n, p.d, p.dp, A(1), buffer.data());
    pack_transposed<A>(buffer.data(), n, p.d, p.dp, RangeProblem::tile_of<A>(p.k_transposed, key_head, tile));
    pack_rows<I, A>(HeadRows(p.v, b, h), first, n, kTile, p.d, p.dp, A(1),
                    RangeProblem::tile_of<A>(p.v_rows, key_head, tile));
  }
}

template <typename I, typename A>
DIFFCODER_INLINE void forward_tile(const RangeProblem& p, const QueryTile& tile, int64_t b, int64_t h,
                                   const at::Tensor& out, const at::Tensor& lse, A* memory) {
  constexpr int64_t kRows = I::rows;
  A *q = memory, *o = q + kTile * p.dp, *s = o + kTile * p.dp;
  const int64_t padded = round_up(tile.rows, kRows), first = tile.ranges->first + tile.first;
  const int64_t key_head = b * p.kv_heads + h / (p.heads / p.kv_heads);
  pack_rows<I, A>(HeadRows(p.q, b, h), first, tile.rows, padded, p.d, p.dp, static_cast<A>(p.scale), q);
  std::fill(o, o + padded * p.dp, A(0));
  Softmax<A> state;
  std::fill(state.highest, state.highest + padded, -std::numeric_limits<A>::infinity());
  std::fill(state.total, state.total + padded, A(0));
  TileView<I> view;
  for (size_t range = 0; range < tile.ranges->lo.size(); ++range) {
    view.read(tile, range, b);
    for (int64_t t = view.first_key / kTile; t * kTile < view.last_key; ++t) {
      const int32_t base = static_cast<int32_t>(t * kTile);
      const A* k = RangeProblem::tile_of<A>(p.k_transposed, key_head, t);
      const A* v = RangeProblem::tile_of<A>(p.v_rows, key_head, t);
      view.template enter<A>(base);
      for (int64_t g = 0; g < view.groups; ++g) {
        const int64_t j0 = view.j0[g], j1 = view.j1[g], row = g * kRows;
        if (j0 >= j1) continue;
        row_product<I, A, false>(q + row * p.dp, p.dp, 1, k + j0, kTile, p.d, j1 - j0, s + j0, kTile);
        if (!view.all_seen(g, base)) hide(view, g, base, -std::numeric_limits<A>::infinity(), s);
        update<I, A>(s, j0, j1, row, p.dp, state, o + row * p.dp);
        row_product<I, A, true>(s + j0, kTile, 1, v + j0 * p.dp, p.dp, j1 - j0, p.dp, o + row * p.dp, p.dp);
      }
    }
  }
  char* out_row = static_cast<char*>(out.data_ptr()) +
                  ((b * p.queries + first) * p.heads + h) * p.d * static_cast<int64_t>(out.element_size());
  A* lse_row = static_cast<A*>(lse.data_ptr()) + (b * p.heads + h) * p.queries + first;
  for (int64_t i = 0; i < tile.rows; ++i, out_row += p.heads * p.d * static_cast<int64_t>(out.element_size())) {
    A* row = o + i * p.dp;
    const A inverse = state.total[i] > 0 || state.total[i] != state.total[i] ? A(1) / state.total[i] : A(0);
    for (int64_t k = 0; k < p.d; ++k) row[k] *= inverse;
    write_any<I, A>(row, out.scalar_type(), out_row, p.d);
    lse_row[i] = state.highest[i] + std::log(state.total[i]);
  }
}

/// Takes tiles from the shared counter until none is left: causal tiles differ in cost, so threads do not get fixed
/// shares.
template <typename I, typename A>
DIFFCODER_INLINE void forward_worker(const RangeProblem& p, std::atomic<int64_t>& next, const at::Tensor& out,
                                     const at::Tensor& lse) {
  constexpr int64_t kRows = I::rows;
  std::vector<A> memory(static_cast<size_t>(2 * kTile * p.dp + kRows * kTile));
  const int64_t heads = p.batch * p.heads, items = heads * static_cast<int64_t>(p.tiles.size());
  for (int64_t item = next++; item < items; item = next++) {
    const QueryTile& tile = p.tiles[p.tiles.size() - 1 - static_cast<size_t>(item / heads)];  // the costly ones first
    forward_tile<I, A>(p, tile, item % heads / p.heads, item % p.heads, out, lse, memory.data());
  }
}

#define DIFFCODER_PARAMETERS \
  (const RangeProblem& p, std::atomic<int64_t>& next, const at::Tensor& out, const at::Tensor& lse)
DIFFCODER_KERNEL(pack_forward_float, (const RangeProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 pack_forward_keys, float)
DIFFCODER_KERNEL(pack_forward_double, (const RangeProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 pack_forward_keys, double)
DIFFCODER_KERNEL(work_float, DIFFCODER_PARAMETERS, (p, next, out, lse), forward_worker, float)
DIFFCODER_KERNEL(work_double, DIFFCODER_PARAMETERS, (p, next, out, lse), forward_worker, double)

}  // namespace

AttentionResult range_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                        const std::vector<KeyRanges>& ranges, double scale) {
  RangeProblem p(q, k, v, ranges, scale);
  const auto options = q.options().dtype(p.acc());
  AttentionResult result{at::empty(q.sizes(), q.options()), at::empty({p.batch, p.heads, p.queries}, options)};
  if (q.numel() == 0) return result;
  p.k_transposed = at::empty({p.batch * p.kv_heads, p.key_tiles, p.d * kTile}, options);
  p.v_rows = at::empty({p.batch * p.kv_heads, p.key_tiles, kTile * p.dp}, options);
  const bool wide = p.acc() == at::kDouble;
  at::parallel_for(0, p.batch * p.kv_heads * p.key_tiles, 4, [&](int64_t begin, int64_t end) {
    wide ? pack_forward_double(p, begin, end) : pack_forward_float(p, begin, end);
  });
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    wide ? work_double(p, next, result.out, result.lse) : work_float(p, next, result.out, result.lse);
  });
  return result;
}

}  // namespace diffcoder
