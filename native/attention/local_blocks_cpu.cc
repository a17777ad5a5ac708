// The block parts of block-diffusion attention on the CPU (see local_blocks.h for the mathematics).
//
// One unit of work is a clean block u with the queries that need its keys: the clean queries of block u and the noisy queries of block
// u + 1, the latter with their own noisy block as well. Units write disjoint rows, so they run in parallel without atomics, in the
// backward pass too: nothing is computed twice and the result does not depend on the threads.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "../kernels/simd.h"
#include "local_blocks.h"
#include "tile.h"

namespace diffcoder {
namespace {

using namespace simd;

constexpr int64_t kTile = 16;  // queries handled together

template <typename S>
DIFFCODER_INLINE S* at_row(const Strided& t, int64_t b, int64_t s, int64_t h) {
  return static_cast<S*>(t.data) + b * t.b + s * t.s + h * t.h;
}

/// Scores' working set of one thread; rows are padded to dp elements and groups of four.
template <typename A>
struct Workspace {
  std::vector<A> memory;
  A *k, *v, *dk, *dv, *q, *o, *grad, *dq, *s, *ds;
  int64_t score_stride;

  Workspace(int64_t block, int64_t dp, bool backward) {
    const int64_t keys = round_up(2 * block, 8);
    score_stride = keys;
    const int64_t rows = keys * dp, tile = kTile * dp, scores = kTile * keys;
    memory.resize(static_cast<size_t>((backward ? 4 : 2) * rows + (backward ? 4 : 2) * tile + (backward ? 2 : 1) * scores));
    A* next = memory.data();
    const auto take = [&next](int64_t n) { return std::exchange(next, next + n); };
    k = take(rows), v = take(rows), q = take(tile), o = take(tile), s = take(scores);
    dk = dv = grad = dq = ds = nullptr;
    if (backward) dk = take(rows), dv = take(rows), grad = take(tile), dq = take(tile), ds = take(scores);
  }
};

/// Queries of one block and the local keys they see: key j < upper only if j > i (i the query's place in its block), the others always.
struct Job {
  int64_t b, head;
  int64_t first;        // position of the block's first query in its half
  int64_t rows;         // queries
  int64_t row_offset;   // 0 in the noisy half, `half` in the clean one
  int64_t upper, keys;  // keys: all local keys, a prefix of the packed ones
  bool noisy;
};

/// Scaled scores of queries i0..i0+rows (packed in w.q) against keys from..keys, hidden ones at -inf, up to a multiple of eight.
template <typename A>
DIFFCODER_INLINE void scores(const Workspace<A>& w, const Job& job, int64_t i0, int64_t rows, int64_t from, int64_t dp, A scale) {
  const A hidden = -std::numeric_limits<A>::infinity();
  for (int64_t r = 0; r < rows; r += 4) {
    for (int64_t j = from; j < job.keys; j += 4) {
      dots_4x4(w.q + r * dp, w.k + j * dp, dp, scale, w.s + r * w.score_stride + j, w.score_stride);
    }
  }
  for (int64_t r = 0; r < round_up(rows, 4); ++r) {
    A* s = w.s + r * w.score_stride;
    const int64_t unseen = r < rows ? std::min(job.upper, i0 + r + 1) : job.keys;
    for (int64_t j = from; j < unseen; ++j) s[j] = hidden;
    for (int64_t j = job.keys; j < round_up(job.keys, 8); ++j) s[j] = hidden;
  }
}

/// The first key (rounded down to a vector) that a tile starting at query i0 can see.
inline int64_t first_key(const Job& job, int64_t i0) { return std::min(job.upper, i0 + 1) / 8 * 8; }

template <typename S>
DIFFCODER_INLINE void forward_job(const LocalBlocks& a, const Workspace<Acc<S>>& w, const Job& job, int64_t dp) {
  using A = Acc<S>;
  const A none = -std::numeric_limits<A>::infinity();
  const Strided& part_out = job.noisy ? a.noisy_out : a.clean_out;
  const Strided& part_lse = job.noisy ? a.noisy_lse : a.clean_lse;
  const int64_t part_first = job.noisy ? job.first - a.block : job.first;  // its row in the causal part, negative: it has none
  const int64_t keys8 = round_up(job.keys, 8);
  for (int64_t i0 = 0; i0 < job.rows; i0 += kTile) {
    const int64_t rows = std::min(kTile, job.rows - i0), rows4 = round_up(rows, 4), from = first_key(job, i0);
    pack_rows(at_row<S>(a.q, job.b, job.row_offset + job.first + i0, job.head), a.q.s, rows, rows4, a.head_dim, dp, w.q);
    scores(w, job, i0, rows, from, dp, static_cast<A>(a.scale));
    if (part_first >= 0) {
      pack_rows(at_row<S>(part_out, job.b, part_first + i0, job.head), part_out.s, rows, rows4, a.head_dim, dp, w.o);
    } else {
      for (int64_t k = 0; k < rows4 * dp; ++k) w.o[k] = 0;
    }
    A inverse[kTile];
    for (int64_t r = 0; r < rows4; ++r) {
      A* s = w.s + r * w.score_stride;
      const A part = part_first >= 0 && r < rows ? *at_row<A>(part_lse, job.b, part_first + i0 + r, job.head) : none;
      Vec<A> top = splat(part);
      for (int64_t j = from; j < keys8; j += kLanes<A>) top = max(top, load(s + j));
      const A highest = reduce_max<A>(top);
      if (highest == none) {  // padding, or a query that sees nothing
        for (int64_t j = from; j < keys8; ++j) s[j] = 0;
        inverse[r] = 0;
        continue;
      }
      Vec<A> sums = {};
      for (int64_t j = from; j < keys8; j += kLanes<A>) {
        const Vec<A> p = exp(load(s + j) - highest);
        sums += p;
        store(s + j, p);
      }
      const A part_weight = std::exp(part - highest);
      const A total = part_weight + reduce_add<A>(sums);
      inverse[r] = A(1) / total;
      *at_row<A>(a.lse, job.b, job.row_offset + job.first + i0 + r, job.head) = highest + std::log(total);
      for (int64_t k = 0; k < dp; k += kLanes<A>) store(w.o + r * dp + k, load(w.o + r * dp + k) * part_weight);
    }
    accumulate_rows(w.s + from, w.score_stride, int64_t(1), w.v + from * dp, job.keys - from, rows4, dp, w.o);
    for (int64_t r = 0; r < rows; ++r) {
      S* out = at_row<S>(a.out, job.b, job.row_offset + job.first + i0 + r, job.head);
      const A* o = w.o + r * dp;
      const A factor = inverse[r];
      for_each_vector<A>(a.head_dim, [&](auto, auto put, int64_t k) __attribute__((always_inline)) { put(out + k, load(o + k) * factor); });
    }
  }
}

template <typename S>
DIFFCODER_INLINE void backward_job(const LocalBlocksBackward& a, const Workspace<Acc<S>>& w, const Job& job, int64_t dp) {
  using A = Acc<S>;
  const Strided& part_dq = job.noisy ? a.noisy_dq : a.clean_dq;
  const int64_t part_first = job.noisy ? job.first - a.block : job.first;
  const int64_t keys4 = round_up(job.keys, 4), keys8 = round_up(job.keys, 8);
  for (int64_t i0 = 0; i0 < job.rows; i0 += kTile) {
    const int64_t rows = std::min(kTile, job.rows - i0), rows4 = round_up(rows, 4), from = first_key(job, i0);
    const int64_t row = job.row_offset + job.first + i0;
    pack_rows(at_row<S>(a.q, job.b, row, job.head), a.q.s, rows, rows4, a.head_dim, dp, w.q);
    pack_rows(at_row<S>(a.out, job.b, row, job.head), a.out.s, rows, rows4, a.head_dim, dp, w.o);
    pack_rows(at_row<S>(a.grad_out, job.b, row, job.head), a.grad_out.s, rows, rows4, a.head_dim, dp, w.grad);
    if (part_first >= 0) {
      pack_rows(at_row<S>(part_dq, job.b, part_first + i0, job.head), part_dq.s, rows, rows4, a.head_dim, dp, w.dq);
    } else {
      for (int64_t k = 0; k < rows4 * dp; ++k) w.dq[k] = 0;
    }
    scores(w, job, i0, rows, from, dp, static_cast<A>(a.scale));
    for (int64_t r = 0; r < rows4; r += 4) {
      for (int64_t j = from; j < keys4; j += 4) {
        dots_4x4(w.grad + r * dp, w.v + j * dp, dp, A(1), w.ds + r * w.score_stride + j, w.score_stride);
      }
    }
    for (int64_t r = 0; r < rows4; ++r) {
      A *s = w.s + r * w.score_stride, *ds = w.ds + r * w.score_stride;
      Vec<A> products = {};
      for (int64_t k = 0; k < dp; k += kLanes<A>) products += load(w.grad + r * dp + k) * load(w.o + r * dp + k);
      const A delta = reduce_add<A>(products);
      const A lse = r < rows ? *at_row<A>(a.lse, job.b, row + r, job.head) : A(0);
      for (int64_t j = keys4; j < keys8; ++j) ds[j] = 0;
      for (int64_t j = from; j < keys8; j += kLanes<A>) {
        const Vec<A> p = exp(load(s + j) - lse);
        store(s + j, p);
        store(ds + j, p * (load(ds + j) - delta) * static_cast<A>(a.scale));
      }
    }
    accumulate_rows(w.ds + from, w.score_stride, int64_t(1), w.k + from * dp, job.keys - from, rows4, dp, w.dq);
    accumulate_rows(w.ds + from, int64_t(1), w.score_stride, w.q, rows, keys4 - from, dp, w.dk + from * dp);
    accumulate_rows(w.s + from, int64_t(1), w.score_stride, w.grad, rows, keys4 - from, dp, w.dv + from * dp);
    for (int64_t r = 0; r < rows; ++r) {
      S* dq = at_row<S>(a.dq, job.b, row + r, job.head);
      const A* total = w.dq + r * dp;
      for_each_vector<A>(a.head_dim, [&](auto, auto put, int64_t k) __attribute__((always_inline)) { put(dq + k, load(total + k)); });
    }
  }
}

/// A unit: clean block u (-1: none before the first noisy block) of one key head, and the sizes that follow from it.
struct Unit {
  int64_t b, kv_head, clean_first, clean_rows, noisy_first, noisy_rows, upper;

  Unit(const LocalBlocks& a, int64_t index) {
    const int64_t blocks = (a.length + a.block - 1) / a.block;
    const int64_t u = index % (blocks + 1) - 1;
    kv_head = index / (blocks + 1) % a.kv_heads;
    b = index / (blocks + 1) / a.kv_heads;
    clean_first = u * a.block;
    clean_rows = u < 0 ? 0 : std::min(a.block, a.length - clean_first);
    noisy_first = clean_first + a.block;
    noisy_rows = std::clamp<int64_t>(a.length - noisy_first, 0, a.block);
    upper = clean_rows;
  }
};

template <typename S>
DIFFCODER_INLINE void pack_unit_keys(const LocalBlocks& a, const Workspace<Acc<S>>& w, const Unit& unit, int64_t dp) {
  const int64_t keys = unit.clean_rows + unit.noisy_rows, padded = round_up(keys, 8);
  for (const auto& [source, target] : {std::pair{&a.k, w.k}, std::pair{&a.v, w.v}}) {
    if (unit.clean_rows > 0) {
      pack_rows(at_row<S>(*source, unit.b, a.half + unit.clean_first, unit.kv_head), source->s, unit.clean_rows, unit.clean_rows, a.head_dim, dp,
                target);
    }
    if (unit.noisy_rows > 0) {
      pack_rows(at_row<S>(*source, unit.b, unit.noisy_first, unit.kv_head), source->s, unit.noisy_rows, unit.noisy_rows, a.head_dim, dp,
                target + unit.clean_rows * dp);
    }
    for (int64_t k = keys * dp; k < padded * dp; ++k) target[k] = 0;
  }
}

Job clean_job(const LocalBlocks& a, const Unit& unit, int64_t head) {
  return {unit.b, head, unit.clean_first, unit.clean_rows, a.half, unit.clean_rows, unit.clean_rows, false};
}
Job noisy_job(const LocalBlocks&, const Unit& unit, int64_t head) {
  return {unit.b, head, unit.noisy_first, unit.noisy_rows, 0, unit.clean_rows, unit.clean_rows + unit.noisy_rows, true};
}

template <typename S>
DIFFCODER_INLINE void forward_units(const LocalBlocks& a, int64_t begin, int64_t end) {
  const int64_t dp = round_up(a.head_dim, 8), group = a.heads / a.kv_heads;
  const Workspace<Acc<S>> w(std::min(a.block, a.length), dp, false);
  for (int64_t index = begin; index < end; ++index) {
    const Unit unit(a, index);
    pack_unit_keys<S>(a, w, unit, dp);
    for (int64_t head = unit.kv_head * group; head < (unit.kv_head + 1) * group; ++head) {
      if (unit.clean_rows > 0 && a.clean_out.data != nullptr) forward_job<S>(a, w, clean_job(a, unit, head), dp);
      if (unit.noisy_rows > 0) forward_job<S>(a, w, noisy_job(a, unit, head), dp);
    }
  }
}

/// Rows of the flash gradients (up to two parts) as the start of a block's total; zero where there are none.
template <typename S>
DIFFCODER_INLINE void start_total(const Strided& first, int64_t first_rows, const Strided& second, int64_t second_rows, const Unit& unit,
                                  int64_t head_dim, int64_t dp, Acc<S>* total) {
  for (int64_t i = 0; i < unit.clean_rows; ++i) {
    Acc<S>* row = total + i * dp;
    for (int64_t k = 0; k < dp; ++k) row[k] = 0;
    for (const auto& [part, rows] : {std::pair{&first, first_rows}, std::pair{&second, second_rows}}) {
      if (part->data == nullptr || unit.clean_first + i >= rows) continue;
      const S* p = at_row<S>(*part, unit.b, unit.clean_first + i, unit.kv_head);
      for_each_vector<Acc<S>>(head_dim, [&](auto get, auto, int64_t k) __attribute__((always_inline)) { store(row + k, load(row + k) + get(p + k)); });
    }
  }
}

template <typename S>
DIFFCODER_INLINE void backward_units(const LocalBlocksBackward& a, int64_t begin, int64_t end) {
  using A = Acc<S>;
  const int64_t dp = round_up(a.head_dim, 8), group = a.heads / a.kv_heads;
  const Workspace<A> w(std::min(a.block, a.length), dp, true);
  for (int64_t index = begin; index < end; ++index) {
    const Unit unit(a, index);
    pack_unit_keys<S>(a, w, unit, dp);
    start_total<S>(a.clean_dk, a.length, a.noisy_dk, a.length - a.block, unit, a.head_dim, dp, w.dk);
    start_total<S>(a.clean_dv, a.length, a.noisy_dv, a.length - a.block, unit, a.head_dim, dp, w.dv);
    const int64_t padded = round_up(unit.clean_rows + unit.noisy_rows, 8);
    std::fill(w.dk + unit.clean_rows * dp, w.dk + padded * dp, A(0));
    std::fill(w.dv + unit.clean_rows * dp, w.dv + padded * dp, A(0));
    for (int64_t head = unit.kv_head * group; head < (unit.kv_head + 1) * group; ++head) {
      if (unit.clean_rows > 0 && a.clean_dq.data != nullptr) backward_job<S>(a, w, clean_job(a, unit, head), dp);
      if (unit.noisy_rows > 0) backward_job<S>(a, w, noisy_job(a, unit, head), dp);
    }
    for (int64_t i = 0; i < unit.clean_rows + unit.noisy_rows; ++i) {
      const int64_t row = i < unit.clean_rows ? a.half + unit.clean_first + i : unit.noisy_first + i - unit.clean_rows;
      S *dk = at_row<S>(a.dk, unit.b, row, unit.kv_head), *dv = at_row<S>(a.dv, unit.b, row, unit.kv_head);
      for_each_vector<A>(a.head_dim, [&](auto, auto put, int64_t k) __attribute__((always_inline)) {
        put(dk + k, load(w.dk + i * dp + k));
        put(dv + k, load(w.dv + i * dp + k));
      });
    }
  }
}

#define DIFFCODER_LOCAL_BLOCKS(S)                                                                                                          \
  DIFFCODER_CLONES void forward_units_of(const LocalBlocks& a, int64_t begin, int64_t end, S*) { forward_units<S>(a, begin, end); }         \
  DIFFCODER_CLONES void backward_units_of(const LocalBlocksBackward& a, int64_t begin, int64_t end, S*) { backward_units<S>(a, begin, end); }
DIFFCODER_LOCAL_BLOCKS(float)
DIFFCODER_LOCAL_BLOCKS(double)
DIFFCODER_LOCAL_BLOCKS(c10::BFloat16)
DIFFCODER_LOCAL_BLOCKS(c10::Half)

/// fn(begin, end) over all units in parallel, in pieces worth a thread's while.
template <typename F>
void for_units(const LocalBlocks& a, const F& fn) {
  const int64_t units = a.batch * a.kv_heads * ((a.length + a.block - 1) / a.block + 1);
  const int64_t work = 2 * a.block * a.block * a.head_dim * (a.heads / a.kv_heads);
  at::parallel_for(0, units, std::max<int64_t>(1, 32768 / work), fn);
}

void forward(const LocalBlocks& a, at::ScalarType dtype) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention", [&] {
    for_units(a, [&](int64_t begin, int64_t end) { forward_units_of(a, begin, end, static_cast<scalar_t*>(nullptr)); });
  });
}

void backward(const LocalBlocksBackward& a, at::ScalarType dtype) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, dtype, "block_diffusion_attention_backward", [&] {
    for_units(a, [&](int64_t begin, int64_t end) { backward_units_of(a, begin, end, static_cast<scalar_t*>(nullptr)); });
  });
}

const bool registered = [] {
  local_blocks_kernels(c10::DeviceType::CPU) = {&forward, &backward};
  return true;
}();

}  // namespace
}  // namespace diffcoder
