#pragma once

// The arithmetic of local_blocks.h for one query or one key, written once for CUDA (a warp's lanes share a row) and the
// CPU (one lane).
//
// `Lanes` says how a row is shared: lanes.count lanes, this one is lanes.index, lanes.sum(x) adds a value over all of
// them. Each lane holds the elements index, index + count, .. of a row. Accumulation in A: float, or double for double.

#include <cmath>

#include "local_blocks.h"

#if defined(__CUDACC__)
#define DIFFCODER_HOST_DEVICE __host__ __device__ __forceinline__
#define DIFFCODER_UNROLL _Pragma("unroll")
#else
#define DIFFCODER_HOST_DEVICE inline
#define DIFFCODER_UNROLL
#endif

namespace diffcoder::local {

template <typename T>
DIFFCODER_HOST_DEVICE T* row_of(const Strided& t, int64_t b, int64_t s, int64_t h) {
  return static_cast<T*>(t.data) + b * t.b + s * t.s + h * t.h;
}

/// A row of up to kLargestHeadDim elements, this lane's share of it. Loops are unrolled with constant indices, so on
/// CUDA it stays in registers.
template <typename A, typename Lanes>
struct Row {
  static constexpr int share = kLargestHeadDim / Lanes::count;
  A value[share];

  /// body(n, k): element k of the row is this lane's n-th.
  template <typename Body>
  static DIFFCODER_HOST_DEVICE void each(const Lanes& lanes, int64_t d, const Body& body) {
    DIFFCODER_UNROLL
    for (int n = 0; n < share; ++n) {
      const int64_t k = lanes.index + n * Lanes::count;
      if (k >= d) break;
      body(n, k);
    }
  }

  template <typename T>
  DIFFCODER_HOST_DEVICE void load(const Lanes& lanes, const T* p, int64_t d, A factor = A(1)) {
    each(lanes, d, [&](int n, int64_t k) { value[n] = static_cast<A>(p[k]) * factor; });
  }
  template <typename T>
  DIFFCODER_HOST_DEVICE void store(const Lanes& lanes, T* p, int64_t d, A factor = A(1)) const {
    each(lanes, d, [&](int n, int64_t k) { p[k] = static_cast<T>(value[n] * factor); });
  }
  DIFFCODER_HOST_DEVICE void clear() {
    DIFFCODER_UNROLL
    for (int n = 0; n < share; ++n) value[n] = 0;
  }
  /// this = this * keep + x * factor
  template <typename T>
  DIFFCODER_HOST_DEVICE void add(const Lanes& lanes, const T* x, int64_t d, A factor, A keep = A(1)) {
    each(lanes, d, [&](int n, int64_t k) { value[n] = value[n] * keep + static_cast<A>(x[k]) * factor; });
  }
  template <typename T>
  DIFFCODER_HOST_DEVICE A dot(const Lanes& lanes, const T* x, int64_t d) const {
    A sum = 0;
    each(lanes, d, [&](int n, int64_t k) { sum += value[n] * static_cast<A>(x[k]); });
    return lanes.sum(sum);
  }
};

/// sum_k a[k] b[k] of two stored rows.
template <typename A, typename T, typename Lanes>
DIFFCODER_HOST_DEVICE A dot_rows(const Lanes& lanes, const T* a, const T* b, int64_t d) {
  A sum = 0;
  for (int64_t k = lanes.index; k < d; k += Lanes::count) sum += static_cast<A>(a[k]) * static_cast<A>(b[k]);
  return lanes.sum(sum);
}

/// A position's document [first, last), its block [block_first, block_last), and its place in the block.
struct Place {
  int64_t first, last, block_first, block_last, place;

  DIFFCODER_HOST_DEVICE Place(const LocalBlocks& a, int64_t b, int64_t i) {
    first = a.documents == nullptr ? 0 : a.documents[b * a.length + i];
    last = a.documents == nullptr ? a.length : a.documents[(a.batch + b) * a.length + i];
    block_first = first + (i - first) / a.block * a.block;
    block_last = block_first + a.block < last ? block_first + a.block : last;
    place = i - block_first;
  }
};

/// The keys a query sees besides those of its causal part, as rows of k: [first, last) and [own_first, own_last).
struct LocalKeys {
  int64_t first, last, own_first, own_last;

  DIFFCODER_HOST_DEVICE LocalKeys(const LocalBlocks& a, const Place& at, bool noisy, int64_t i) {
    if (noisy) {
      const bool has_previous = at.block_first > at.first;
      first = a.half + at.block_first - a.block + at.place + 1;
      last = has_previous ? a.half + at.block_first : first;
      own_first = at.block_first;
      own_last = at.block_last;
    } else {
      first = a.half + i + 1;
      last = a.half + at.block_last;
      own_first = own_last = 0;
    }
  }
  DIFFCODER_HOST_DEVICE int64_t count() const { return last - first + own_last - own_first; }
  DIFFCODER_HOST_DEVICE int64_t row(int64_t n) const {
    return n < last - first ? first + n : own_first + n - (last - first);
  }
};

/// Merges query i's causal part with its local keys into out and lse.
template <typename T, typename A, typename Lanes>
DIFFCODER_HOST_DEVICE void forward_query(const LocalBlocks& a, const Lanes& lanes, int64_t b, int64_t h, bool noisy,
                                         int64_t i) {
  const Place at(a, b, i);
  const int64_t row = noisy ? i : a.half + i, kv_head = h / (a.heads / a.kv_heads), d = a.head_dim;
  const Strided &part_out = noisy ? a.noisy_out : a.clean_out, &part_lse = noisy ? a.noisy_lse : a.clean_lse;
  const int64_t part = noisy ? i - a.block : i;
  Row<A, Lanes> q, o;
  q.load(lanes, row_of<T>(a.q, b, row, h), d, static_cast<A>(a.scale));
  A highest = static_cast<A>(-INFINITY), total = 0;
  if (!noisy || i - at.first >= a.block) {
    highest = *row_of<A>(part_lse, b, part, h);
    total = 1;
    o.load(lanes, row_of<T>(part_out, b, part, h), d);
  } else {
    o.clear();
  }
  const LocalKeys keys(a, at, noisy, i);
  for (int64_t n = 0; n < keys.count(); ++n) {
    const A score = q.dot(lanes, row_of<T>(a.k, b, keys.row(n), kv_head), d);
    const A higher = score > highest ? score : highest;
    const A keep = total > 0 ? std::exp(highest - higher) : A(0), p = std::exp(score - higher);
    o.add(lanes, row_of<T>(a.v, b, keys.row(n), kv_head), d, p, keep);
    total = total * keep + p;
    highest = higher;
  }
  o.store(lanes, row_of<T>(a.out, b, row, h), d, A(1) / total);
  if (lanes.index == 0) *row_of<A>(a.lse, b, row, h) = highest + std::log(total);
}

/// dq of query i: its causal part's, plus sum over local keys of P (D - delta) scale k.
template <typename T, typename A, typename Lanes>
DIFFCODER_HOST_DEVICE void backward_query(const LocalBlocksBackward& a, const Lanes& lanes, int64_t b, int64_t h,
                                          bool noisy, int64_t i) {
  const Place at(a, b, i);
  const int64_t row = noisy ? i : a.half + i, kv_head = h / (a.heads / a.kv_heads), d = a.head_dim;
  Row<A, Lanes> q, grad, dq;
  q.load(lanes, row_of<T>(a.q, b, row, h), d, static_cast<A>(a.scale));
  grad.load(lanes, row_of<T>(a.grad_out, b, row, h), d);
  if (!noisy || i - at.first >= a.block) {
    dq.load(lanes, noisy ? row_of<T>(a.noisy_dq, b, i - a.block, h) : row_of<T>(a.clean_dq, b, i, h), d);
  } else {
    dq.clear();
  }
  const A lse = *row_of<A>(a.lse, b, row, h), delta = grad.dot(lanes, row_of<T>(a.out, b, row, h), d);
  const LocalKeys keys(a, at, noisy, i);
  for (int64_t n = 0; n < keys.count(); ++n) {
    const T* k = row_of<T>(a.k, b, keys.row(n), kv_head);
    const A p = std::exp(q.dot(lanes, k, d) - lse);
    const A ds = p * (grad.dot(lanes, row_of<T>(a.v, b, keys.row(n), kv_head), d) - delta);
    dq.add(lanes, k, d, ds * static_cast<A>(a.scale));
  }
  dq.store(lanes, row_of<T>(a.dq, b, row, h), d);
}

/// dk and dv of key j of key head g: the causal parts', plus those of the local queries that see it, over the head's
/// group.
template <typename T, typename A, typename Lanes>
DIFFCODER_HOST_DEVICE void backward_key(const LocalBlocksBackward& a, const Lanes& lanes, int64_t b, int64_t g,
                                        bool noisy, int64_t j) {
  const Place at(a, b, j);
  const int64_t row = noisy ? j : a.half + j, d = a.head_dim, group = a.heads / a.kv_heads;
  Row<A, Lanes> k, v, dk, dv;
  k.load(lanes, row_of<T>(a.k, b, row, g), d, static_cast<A>(a.scale));
  v.load(lanes, row_of<T>(a.v, b, row, g), d);
  dk.clear();
  dv.clear();
  if (!noisy && a.clean_queries) {
    dk.add(lanes, row_of<T>(a.clean_dk, b, j, g), d, A(1));
    dv.add(lanes, row_of<T>(a.clean_dv, b, j, g), d, A(1));
  }
  if (!noisy && j + a.block < at.last) {
    dk.add(lanes, row_of<T>(a.noisy_dk, b, j, g), d, A(1));
    dv.add(lanes, row_of<T>(a.noisy_dv, b, j, g), d, A(1));
  }
  // Rows of the queries: clean ones of the same block before j, then noisy ones: the own block's for a noisy key, for a
  // clean key those of the next block with a smaller place.
  const int64_t clean_first = a.half + at.block_first, clean_count = !noisy && a.clean_queries ? at.place : 0;
  const int64_t noisy_first = noisy ? at.block_first : at.block_last;
  const int64_t next_last = at.block_last + at.place < at.last ? at.block_last + at.place : at.last;
  const int64_t noisy_count = noisy ? at.block_last - at.block_first : next_last - at.block_last;
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (int64_t n = 0; n < clean_count + noisy_count; ++n) {
      const int64_t query = n < clean_count ? clean_first + n : noisy_first + n - clean_count;
      const T *q = row_of<T>(a.q, b, query, h), *grad = row_of<T>(a.grad_out, b, query, h);
      const A p = std::exp(k.dot(lanes, q, d) - *row_of<A>(a.lse, b, query, h));
      const A delta = dot_rows<A>(lanes, grad, row_of<T>(a.out, b, query, h), d);
      const A ds = p * (v.dot(lanes, grad, d) - delta);
      dv.add(lanes, grad, d, p);
      dk.add(lanes, q, d, ds * static_cast<A>(a.scale));
    }
  }
  dk.store(lanes, row_of<T>(a.dk, b, row, g), d);
  dv.store(lanes, row_of<T>(a.dv, b, row, g), d);
}

/// The index-th of all queries (or, with kv_heads, keys): heads innermost, then positions, noisy half first.
struct Item {
  int64_t b, h, i;
  bool noisy;

  DIFFCODER_HOST_DEVICE Item(const LocalBlocks& a, int64_t index, int64_t heads, bool both_halves) {
    const int64_t rows = both_halves ? 2 * a.length : a.length;
    h = index % heads;
    i = index / heads % rows;
    b = index / heads / rows;
    noisy = i < a.length;
    if (!noisy) i -= a.length;
  }
};

inline int64_t query_items(const LocalBlocks& a) { return a.batch * a.heads * a.length * (a.clean_queries ? 2 : 1); }
inline int64_t key_items(const LocalBlocks& a) { return a.batch * a.kv_heads * a.length * 2; }

}  // namespace diffcoder::local
