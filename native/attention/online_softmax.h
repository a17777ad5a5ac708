#pragma once

// Softmax over keys that arrive tile by tile, for groups of I::rows queries.

#include <algorithm>
#include <cmath>
#include <limits>

#include "tile.h"

namespace diffcoder::simd {

/// Running maximum and sum of up to kTile queries.
template <typename A>
struct Softmax {
  A highest[kTile], total[kTile];
};

/// Scores to probabilities, relative to the new maximum, for the group's rows; o is brought to the same maximum.
template <typename I, typename A>
DIFFCODER_INLINE void update(A* s, int64_t j0, int64_t j1, int64_t row, int64_t dp, Softmax<A>& state, A* o) {
  using V = Simd<I, A>;
  constexpr int64_t kRows = I::rows;
  const A none = -std::numeric_limits<A>::infinity();
  for (int64_t r = 0; r < kRows; ++r, s += kTile, o += dp) {
    typename V::Vec top = V::load(s + j0);
    for (int64_t j = j0 + V::lanes; j < j1; j += V::lanes) top = V::max(top, V::load(s + j));
    const A before = state.highest[row + r];
    A highest = V::reduce_max(top);
    highest = highest > before ? highest : before;
    if (highest == none) {  // nothing seen so far
      for (int64_t j = j0; j < j1; ++j) s[j] = 0;
      continue;
    }
    typename V::Vec sums = {};
    for (int64_t j = j0; j < j1; j += V::lanes) {
      const typename V::Vec e = V::exp(V::load(s + j) - highest);
      sums += e;
      V::store(s + j, e);
    }
    A total = V::reduce_add(sums);
    if (highest != before) {
      const A shrink = before == none ? A(0) : std::exp(before - highest);
      total += state.total[row + r] * shrink;
      for (int64_t k = 0; k < dp; k += V::lanes) V::store(o + k, V::load(o + k) * shrink);
    } else {
      total += state.total[row + r];
    }
    state.highest[row + r] = highest;
    state.total[row + r] = total;
  }
}

}  // namespace diffcoder::simd
