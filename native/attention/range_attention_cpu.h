#pragma once

// What the forward and the backward pass of range_attention share: the tiles of queries and keys, and the scores of a
// tile.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "key_ranges.h"
#include "tile.h"

namespace diffcoder {

/// Up to 64 queries of one KeyRanges.
struct QueryTile {
  const KeyRanges* ranges;
  int64_t first;  // within the ranges' queries
  int64_t rows;
};

inline std::vector<QueryTile> query_tiles(const std::vector<KeyRanges>& ranges) {
  std::vector<QueryTile> tiles;
  for (const KeyRanges& r : ranges) {
    for (int64_t i = 0; i < r.count; i += simd::kTile) tiles.push_back({&r, i, std::min(simd::kTile, r.count - i)});
  }
  return tiles;
}

/// Sizes and packed keys of a call. Keys are cut in tiles of 64, each packed as [d][64] (transposed) and as [64][dp].
struct RangeProblem {
  at::Tensor q, k, v;
  int64_t batch, queries, keys, heads, kv_heads, d, dp, key_tiles;
  double scale;
  std::vector<QueryTile> tiles;
  at::Tensor k_transposed, v_transposed, k_rows, v_rows;  // [b, hkv, key_tiles, ...]; only those a pass needs

  RangeProblem(const at::Tensor& q_, const at::Tensor& k_, const at::Tensor& v_, const std::vector<KeyRanges>& ranges,
               double scale_)
      : q(q_),
        k(k_),
        v(v_),
        batch(q.size(0)),
        queries(q.size(1)),
        keys(k.size(1)),
        heads(q.size(2)),
        kv_heads(k.size(2)),
        d(q.size(3)),
        dp(simd::round_up(d, 16)),
        key_tiles((keys + simd::kTile - 1) / simd::kTile),
        scale(scale_),
        tiles(query_tiles(ranges)) {}

  at::ScalarType acc() const { return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

  template <typename A>
  static A* tile_of(const at::Tensor& packed, int64_t key_head_index, int64_t tile) {
    return static_cast<A*>(packed.data_ptr()) + (key_head_index * packed.size(1) + tile) * packed.size(2);
  }
};

namespace simd {

/// The part of a key tile that groups of I::rows queries see. Group g's scores are computed for keys j0[g]..j1[g] of
/// the tile (none if equal).
template <typename I>
struct TileView {
  static constexpr int64_t kRows = I::rows, kGroups = kTile / kRows;
  int32_t lo[kTile], hi[kTile];                  // of each query, absolute; equal if it sees nothing
  int32_t group_lo[kGroups], group_hi[kGroups];  // union over the group, empty if equal
  int32_t inner_lo[kGroups], inner_hi[kGroups];  // intersection
  int32_t j0[kGroups], j1[kGroups];
  int64_t groups = 0;
  int32_t first_key = 0, last_key = 0;  // union over all

  DIFFCODER_INLINE void read(const QueryTile& tile, size_t range, int64_t row) {
    const KeyRanges& r = *tile.ranges;
    const size_t offset = static_cast<size_t>((r.per_row ? row * r.count : 0) + tile.first);
    const int32_t *low = r.lo[range].data() + offset, *high = r.hi[range].data() + offset;
    groups = (tile.rows + kRows - 1) / kRows;
    first_key = std::numeric_limits<int32_t>::max();
    last_key = 0;
    for (int64_t g = 0; g < groups; ++g) {
      group_lo[g] = inner_hi[g] = std::numeric_limits<int32_t>::max();
      group_hi[g] = inner_lo[g] = 0;
      for (int64_t i = g * kRows; i < (g + 1) * kRows; ++i) {
        lo[i] = i < tile.rows ? low[i] : 0;
        hi[i] = i < tile.rows ? high[i] : 0;
        inner_lo[g] = std::max(inner_lo[g], lo[i]);
        inner_hi[g] = std::min(inner_hi[g], hi[i]);
        if (lo[i] >= hi[i]) continue;
        group_lo[g] = std::min(group_lo[g], lo[i]);
        group_hi[g] = std::max(group_hi[g], hi[i]);
      }
      if (group_lo[g] >= group_hi[g]) continue;
      first_key = std::min(first_key, group_lo[g]);
      last_key = std::max(last_key, group_hi[g]);
    }
  }

  /// Sets j0 and j1 for the tile that starts at key `base`, rounded outwards to the micro-kernel's columns.
  template <typename A>
  DIFFCODER_INLINE void enter(int32_t base) {
    constexpr int32_t step = static_cast<int32_t>(kColumns<A>), width = static_cast<int32_t>(kTile);
    for (int64_t g = 0; g < groups; ++g) {
      j0[g] = j1[g] = 0;
      if (group_lo[g] >= group_hi[g] || group_lo[g] >= base + width || group_hi[g] <= base) continue;
      j0[g] = std::max(group_lo[g] - base, 0) / step * step;
      j1[g] = (std::min(group_hi[g] - base, width) + step - 1) / step * step;
    }
  }

  /// Whether every query of the group sees every key of its part of the tile.
  DIFFCODER_INLINE bool all_seen(int64_t g, int32_t base) const {
    return inner_lo[g] <= base + j0[g] && inner_hi[g] >= base + j1[g];
  }
};

/// Puts `hidden` where a query of group g does not see the key. s: the group's rows of kTile scores.
template <typename I, typename A>
DIFFCODER_INLINE void hide(const TileView<I>& view, int64_t g, int32_t base, A hidden, A* s) {
  constexpr int64_t kRows = I::rows;
  for (int64_t r = 0; r < kRows; ++r) {
    const int32_t lo = view.lo[g * kRows + r] - base, hi = view.hi[g * kRows + r] - base;
    A* row = s + r * kTile;
    for (int32_t j = view.j0[g]; j < std::min(lo, view.j1[g]); ++j) row[j] = hidden;
    for (int32_t j = std::max(hi, view.j0[g]); j < view.j1[g]; ++j) row[j] = hidden;
  }
}

}  // namespace simd
}  // namespace diffcoder
