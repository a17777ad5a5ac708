// The backward pass of range_attention. With P = V::exp(scale q k^T - lse), delta = sum(grad * out) per query and D =
// grad v^T:
//   dS = P (D - delta)      dv = P^T grad      dq = scale dS k      dk = scale dS^T q
//
// A head's query tiles are cut in portions that depend on the length alone. A portion adds up its own dk and dv,
// portions are then summed in order. So the bits depend neither on the number of threads nor on the rest of the batch,
// and nothing needs atomics.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <utility>
#include <vector>

#include "range_attention.h"
#include "range_attention_cpu.h"

namespace diffcoder {
namespace {

using namespace simd;

/// dk and dv of all key tiles in the making: [key_tiles][kTile][dp] each. A tile's numbers count once it is touched.
template <typename A>
struct KeySums {
  A *dk, *dv;
  uint8_t* touched;  // [key_tiles]

  /// The tile's sums, zero when first asked for.
  DIFFCODER_INLINE std::pair<A*, A*> tile(int64_t t, int64_t size) const {
    if (!touched[t]) {
      touched[t] = 1;
      std::fill(dk + t * size, dk + (t + 1) * size, A(0));
      std::fill(dv + t * size, dv + (t + 1) * size, A(0));
    }
    return {dk + t * size, dv + t * size};
  }

  /// Adds what `more` has touched.
  DIFFCODER_INLINE void add(const KeySums& more, int64_t first, int64_t last, int64_t size) const {
    for (int64_t t = first; t < last; ++t) {
      if (!more.touched[t]) continue;
      const auto [to_k, to_v] = tile(t, size);
      for (int64_t i = 0; i < size; ++i) to_k[i] += more.dk[t * size + i];
      for (int64_t i = 0; i < size; ++i) to_v[i] += more.dv[t * size + i];
    }
  }
};

struct BackwardProblem : RangeProblem {
  at::Tensor grad, out, lse;
  at::Tensor dq, dk, dv;
  int64_t portions = 1;  // of a head's query tiles
  bool apart = false;    // whether portions are pieces of work of their own: where there are few heads for the threads
  at::Tensor dk_sums, dv_sums, touched;  // [b * hkv * (apart ? portions : 1), ...]
  using RangeProblem::RangeProblem;

  int64_t tile_size() const { return simd::kTile * dp; }

  template <typename A>
  KeySums<A> sums(int64_t index) const {
    const int64_t size = key_tiles * tile_size();
    return {static_cast<A*>(dk_sums.data_ptr()) + index * size, static_cast<A*>(dv_sums.data_ptr()) + index * size,
            touched.data_ptr<uint8_t>() + index * key_tiles};
  }
};

template <typename I, typename A>
DIFFCODER_INLINE void pack_backward_keys(const RangeProblem& p, int64_t begin, int64_t end) {
  std::vector<A> buffer(static_cast<size_t>(kTile * p.dp));
  for (int64_t index = begin; index < end; ++index) {
    const int64_t tile = index % p.key_tiles, key_head = index / p.key_tiles;
    const int64_t first = tile * kTile, n = std::min(kTile, p.keys - first);
    const int64_t b = key_head / p.kv_heads, h = key_head % p.kv_heads;
    A* k_rows = RangeProblem::tile_of<A>(p.k_rows, key_head, tile);
    pack_rows<I, A>(HeadRows(p.k, b, h), first, n, kTile, p.d, p.dp, A(1), k_rows);
    pack_transposed<A>(k_rows, n, p.d, p.dp, RangeProblem::tile_of<A>(p.k_transposed, key_head, tile));
    pack_rows<I, A>(HeadRows(p.v, b, h), first, n, n, p.d, p.dp, A(1), buffer.data());
    pack_transposed<A>(buffer.data(), n, p.d, p.dp, RangeProblem::tile_of<A>(p.v_transposed, key_head, tile));
  }
}

/// A thread's working set.
template <typename A>
struct Workspace {
  std::vector<A> memory;
  A *q, *grad, *dq, *out, *p, *ds;

  explicit Workspace(int64_t dp) : memory(static_cast<size_t>(4 * kTile * dp + 2 * kTile * kTile)) {
    q = memory.data();
    grad = q + kTile * dp;
    dq = grad + kTile * dp;
    out = dq + kTile * dp;
    p = out + kTile * dp;
    ds = p + kTile * kTile;
  }
};

/// Probabilities and dS of the group's rows: p holds scores, ds the products grad v^T.
template <typename I, typename A>
DIFFCODER_INLINE void differentiate(A* p, A* ds, int64_t j0, int64_t j1, const A* lse, const A* delta) {
  using V = Simd<I, A>;
  constexpr int64_t kRows = I::rows;
  for (int64_t r = 0; r < kRows; ++r, p += kTile, ds += kTile) {
    for (int64_t j = j0; j < j1; j += V::lanes) {
      const typename V::Vec e = V::exp(V::load(p + j) - lse[r]);
      V::store(p + j, e);
      V::store(ds + j, e * (V::load(ds + j) - delta[r]));
    }
  }
}

/// Adds the tile's share to dk and dv, a few keys at a time over the queries that see them.
template <typename I, typename A>
DIFFCODER_INLINE void add_key_gradients(const TileView<I>& view, const Workspace<A>& w, int64_t dp, A* dk, A* dv) {
  constexpr int64_t kRows = I::rows;
  for (int64_t key = 0; key < kTile; key += kRows) {
    int64_t first = view.groups, last = -1;
    for (int64_t g = 0; g < view.groups; ++g) {
      if (view.j0[g] > key || key >= view.j1[g]) continue;
      first = std::min(first, g);
      last = g;
    }
    if (last < 0) continue;
    const int64_t row = first * kRows, terms = (last + 1) * kRows - row;
    row_product<I, A, true>(w.p + row * kTile + key, 1, kTile, w.grad + row * dp, dp, terms, dp, dv + key * dp, dp);
    row_product<I, A, true>(w.ds + row * kTile + key, 1, kTile, w.q + row * dp, dp, terms, dp, dk + key * dp, dp);
  }
}

template <typename I, typename A>
DIFFCODER_INLINE void backward_tile(const BackwardProblem& p, const QueryTile& tile, int64_t b, int64_t h,
                                    const KeySums<A>& sums, const Workspace<A>& w) {
  using V = Simd<I, A>;
  constexpr int64_t kRows = I::rows;
  const int64_t dp = p.dp, padded = round_up(tile.rows, kRows), first = tile.ranges->first + tile.first;
  const int64_t key_head = b * p.kv_heads + h / (p.heads / p.kv_heads);
  pack_rows<I, A>(HeadRows(p.q, b, h), first, tile.rows, padded, p.d, dp, static_cast<A>(p.scale), w.q);
  pack_rows<I, A>(HeadRows(p.grad, b, h), first, tile.rows, padded, p.d, dp, A(1), w.grad);
  pack_rows<I, A>(HeadRows(p.out, b, h), first, tile.rows, padded, p.d, dp, A(1), w.out);
  std::fill(w.dq, w.dq + padded * dp, A(0));
  A delta[kTile], lse[kTile] = {};
  const A* lse_row = static_cast<const A*>(p.lse.const_data_ptr()) + (b * p.heads + h) * p.queries + first;
  std::copy(lse_row, lse_row + tile.rows, lse);
  for (int64_t i = 0; i < padded; ++i) {
    typename V::Vec sum = {};
    for (int64_t k = 0; k < dp; k += V::lanes) sum += V::load(w.grad + i * dp + k) * V::load(w.out + i * dp + k);
    delta[i] = V::reduce_add(sum);
  }
  TileView<I> view;
  for (size_t range = 0; range < tile.ranges->lo.size(); ++range) {
    view.read(tile, range, b);
    for (int64_t t = view.first_key / kTile; t * kTile < view.last_key; ++t) {
      const int32_t base = static_cast<int32_t>(t * kTile);
      const A* k_transposed = RangeProblem::tile_of<A>(p.k_transposed, key_head, t);
      const A* v_transposed = RangeProblem::tile_of<A>(p.v_transposed, key_head, t);
      const A* k_rows = RangeProblem::tile_of<A>(p.k_rows, key_head, t);
      view.template enter<A>(base);
      for (int64_t g = 0; g < view.groups; ++g) {
        const int64_t j0 = view.j0[g], j1 = view.j1[g], row = g * kRows;
        A *s = w.p + row * kTile, *ds = w.ds + row * kTile;
        if (j0 >= j1) {  // sees nothing here, but the groups around it may
          std::fill(s, s + kRows * kTile, A(0));
          std::fill(ds, ds + kRows * kTile, A(0));
          continue;
        }
        row_product<I, A, false>(w.q + row * dp, dp, 1, k_transposed + j0, kTile, p.d, j1 - j0, s + j0, kTile);
        row_product<I, A, false>(w.grad + row * dp, dp, 1, v_transposed + j0, kTile, p.d, j1 - j0, ds + j0, kTile);
        if (!view.all_seen(g, base)) hide(view, g, base, -std::numeric_limits<A>::infinity(), s);
        differentiate<I, A>(s, ds, j0, j1, lse + row, delta + row);
        row_product<I, A, true>(ds + j0, kTile, 1, k_rows + j0 * dp, dp, j1 - j0, dp, w.dq + row * dp, dp);
      }
      const auto [dk, dv] = sums.tile(t, p.tile_size());
      add_key_gradients<I, A>(view, w, dp, dk, dv);
    }
  }
  const int64_t row_bytes = p.heads * p.d * static_cast<int64_t>(p.dq.element_size());
  char* dq = static_cast<char*>(p.dq.data_ptr()) +
             ((b * p.queries + first) * p.heads + h) * p.d * static_cast<int64_t>(p.dq.element_size());
  for (int64_t i = 0; i < tile.rows; ++i, dq += row_bytes) {
    A* row = w.dq + i * dp;
    for (int64_t k = 0; k < p.d; ++k) row[k] *= static_cast<A>(p.scale);
    write_any<I, A>(row, p.dq.scalar_type(), dq, p.d);
  }
}

/// One portion: a run of the query tiles, for every query head of the key head.
template <typename I, typename A>
DIFFCODER_INLINE void backward_portion(const BackwardProblem& p, int64_t key_head, int64_t portion,
                                       const KeySums<A>& sums, const Workspace<A>& w) {
  const int64_t tiles = static_cast<int64_t>(p.tiles.size()), group = p.heads / p.kv_heads;
  const int64_t first = portion * tiles / p.portions, last = (portion + 1) * tiles / p.portions;
  for (int64_t t = first; t < last; ++t) {
    for (int64_t i = 0; i < group; ++i) {
      backward_tile<I, A>(p, p.tiles[static_cast<size_t>(t)], key_head / p.kv_heads, key_head % p.kv_heads * group + i,
                          sums, w);
    }
  }
}

template <typename I, typename A>
DIFFCODER_INLINE void backward_worker(const BackwardProblem& p, std::atomic<int64_t>& next) {
  const Workspace<A> w(p.dp);
  const int64_t size = p.key_tiles * p.tile_size(), per_piece = p.apart ? 1 : p.portions;
  const int64_t pieces = p.batch * p.kv_heads * p.portions / per_piece;
  std::vector<A> memory(static_cast<size_t>(per_piece > 1 ? 2 * size : 0));
  std::vector<uint8_t> touched(static_cast<size_t>(p.key_tiles));
  const KeySums<A> own{memory.data(), memory.data() + size, touched.data()};
  for (int64_t piece = next++; piece < pieces; piece = next++) {
    const KeySums<A> total = p.template sums<A>(piece);
    for (int64_t n = 0; n < per_piece; ++n) {
      const int64_t index = piece * per_piece + n;
      std::fill(touched.begin(), touched.end(), 0);
      backward_portion<I, A>(p, index / p.portions, index % p.portions, n == 0 ? total : own, w);
      if (n > 0) total.add(own, 0, p.key_tiles, p.tile_size());
    }
  }
}

/// Stores key tiles begin..end (over all key heads) as dk and dv, their portions summed.
template <typename I, typename A>
DIFFCODER_INLINE void store_key_gradients(const BackwardProblem& p, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const int64_t tile = index % p.key_tiles, key_head = index / p.key_tiles;
    const int64_t first = tile * kTile, n = std::min(kTile, p.keys - first);
    const KeySums<A> total = p.template sums<A>(p.apart ? key_head * p.portions : key_head);
    for (int64_t portion = 1; p.apart && portion < p.portions; ++portion) {
      total.add(p.template sums<A>(key_head * p.portions + portion), tile, tile + 1, p.tile_size());
    }
    const auto [dk, dv] = total.tile(tile, p.tile_size());
    for (const auto& [sum, target] : {std::pair{dk, &p.dk}, std::pair{dv, &p.dv}}) {
      const int64_t element = static_cast<int64_t>(target->element_size());
      const int64_t b = key_head / p.kv_heads, h = key_head % p.kv_heads;
      char* row = static_cast<char*>(target->data_ptr()) + ((b * p.keys + first) * p.kv_heads + h) * p.d * element;
      for (int64_t i = 0; i < n; ++i, row += p.kv_heads * p.d * element)
        write_any<I, A>(sum + i * p.dp, target->scalar_type(), row, p.d);
    }
  }
}

DIFFCODER_KERNEL(pack_backward_float, (const RangeProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 pack_backward_keys, float)
DIFFCODER_KERNEL(pack_backward_double, (const RangeProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 pack_backward_keys, double)
DIFFCODER_KERNEL(work_float, (const BackwardProblem& p, std::atomic<int64_t>& next), (p, next), backward_worker, float)
DIFFCODER_KERNEL(work_double, (const BackwardProblem& p, std::atomic<int64_t>& next), (p, next), backward_worker,
                 double)
DIFFCODER_KERNEL(store_float, (const BackwardProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 store_key_gradients, float)
DIFFCODER_KERNEL(store_double, (const BackwardProblem& p, int64_t begin, int64_t end), (p, begin, end),
                 store_key_gradients, double)

}  // namespace

AttentionGradients range_attention_backward(const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k,
                                            const at::Tensor& v, const AttentionResult& result,
                                            const std::vector<KeyRanges>& ranges, double scale) {
  BackwardProblem p(q, k, v, ranges, scale);
  p.grad = grad;
  p.out = result.out;
  p.lse = result.lse;
  p.dq = at::empty(q.sizes(), q.options());
  p.dk = at::empty(k.sizes(), k.options());
  p.dv = at::empty(v.sizes(), v.options());
  if (q.numel() == 0) return {p.dq, p.dk, p.dv};
  const auto options = q.options().dtype(p.acc());
  const int64_t key_heads = p.batch * p.kv_heads, key_tiles = key_heads * p.key_tiles;
  p.portions = std::clamp<int64_t>(static_cast<int64_t>(p.tiles.size()) / 16, 1, 4);
  p.apart = p.portions > 1 && key_heads < 2 * at::get_num_threads();
  p.k_transposed = at::empty({key_heads, p.key_tiles, p.d * kTile}, options);
  p.v_transposed = at::empty({key_heads, p.key_tiles, p.d * kTile}, options);
  p.k_rows = at::empty({key_heads, p.key_tiles, kTile * p.dp}, options);
  const int64_t sums = p.apart ? key_heads * p.portions : key_heads;
  p.dk_sums = at::empty({sums, p.key_tiles * p.tile_size()}, options);
  p.dv_sums = at::empty({sums, p.key_tiles * p.tile_size()}, options);
  p.touched = at::empty({sums, p.key_tiles}, options.dtype(at::kByte)).zero_();
  const bool wide = p.acc() == at::kDouble;
  at::parallel_for(0, key_tiles, 4, [&](int64_t begin, int64_t end) {
    wide ? pack_backward_double(p, begin, end) : pack_backward_float(p, begin, end);
  });
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1,
                   [&](int64_t, int64_t) { wide ? work_double(p, next) : work_float(p, next); });
  at::parallel_for(0, key_tiles, 4, [&](int64_t begin, int64_t end) {
    wide ? store_double(p, begin, end) : store_float(p, begin, end);
  });
  return {p.dq, p.dk, p.dv};
}

}  // namespace diffcoder
