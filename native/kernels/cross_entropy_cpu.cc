// Softmax cross-entropy over the rows of a chunk of logits, in place, on the CPU. Statistics in float32 (float64 for
// float64).
//   nll_i = logsumexp(z_i) - z_i[t_i]        dz_i = w_i * (exp(z_i - logsumexp(z_i)) - one_hot(t_i))

#include <ATen/Parallel.h>

#include "registry.h"
#include "rows.h"

namespace diffcoder::cross_entropy_cpu {
namespace {

using namespace simd;

struct Chunk {
  void* logits;
  int64_t stride, v;
  const int64_t* targets;
  const void* row_weights;  // accumulation type, or null for ones
  void* nll;
  bool gradient;
};

template <typename I, typename S>
DIFFCODER_INLINE void chunk_rows(const Chunk& c, int64_t begin, int64_t end) {
  using A = Acc<S>;
  using V = Simd<I, A>;
  using Vec = typename V::Vec;
  const int64_t whole = c.v - c.v % V::lanes;
  for (int64_t i = begin; i < end; ++i) {
    S* z = static_cast<S*>(c.logits) + i * c.stride;
    const int64_t target = c.targets[i];
    const A picked = static_cast<A>(z[target]);
    Vec top = V::splat(-std::numeric_limits<A>::infinity());
    for (int64_t k = 0; k < whole; k += V::lanes) top = V::max(top, V::load(z + k));
    A highest = V::reduce_max(top);
    for (int64_t k = whole; k < c.v; ++k) highest = static_cast<A>(z[k]) > highest ? static_cast<A>(z[k]) : highest;
    Vec sums = {};
    for (int64_t k = 0; k < whole; k += V::lanes) sums += V::exp(V::load(z + k) - highest);
    A total = V::reduce_add(sums);
    for (int64_t k = whole; k < c.v; ++k) total += std::exp(static_cast<A>(z[k]) - highest);
    const A lse = highest + std::log(total);
    static_cast<A*>(c.nll)[i] = lse - picked;
    if (!c.gradient) continue;
    const A w = c.row_weights == nullptr ? A(1) : static_cast<const A*>(c.row_weights)[i];
    V::for_each(c.v, [&](auto load, auto store, int64_t k)
                         __attribute__((always_inline)) { store(z + k, V::exp(load(z + k) - lse) * w); });
    z[target] = static_cast<S>((std::exp(picked - lse) - A(1)) * w);
  }
}

DIFFCODER_KERNEL(rows_float, (const Chunk& c, int64_t begin, int64_t end), (c, begin, end), chunk_rows, float)
DIFFCODER_KERNEL(rows_double, (const Chunk& c, int64_t begin, int64_t end), (c, begin, end), chunk_rows, double)
DIFFCODER_KERNEL(rows_bfloat16, (const Chunk& c, int64_t begin, int64_t end), (c, begin, end), chunk_rows,
                 c10::BFloat16)
DIFFCODER_KERNEL(rows_half, (const Chunk& c, int64_t begin, int64_t end), (c, begin, end), chunk_rows, c10::Half)

void cross_entropy_rows(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& row_weights,
                        bool gradient, const at::Tensor& nll) {
  const Chunk chunk{logits.data_ptr(),
                    logits.stride(0),
                    logits.size(1),
                    targets.const_data_ptr<int64_t>(),
                    row_weights.defined() ? row_weights.const_data_ptr() : nullptr,
                    nll.data_ptr(),
                    gradient};
  for (int64_t i = 0; i < targets.size(0); ++i) {
    TORCH_CHECK_INDEX(chunk.targets[i] >= 0 && chunk.targets[i] < chunk.v, "linear_cross_entropy: target ",
                      chunk.targets[i], " is outside the vocabulary of ", chunk.v);
  }
  const auto kernel = by_dtype(logits.scalar_type(), &rows_float, &rows_double, &rows_bfloat16, &rows_half);
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) { kernel(chunk, begin, end); });
}

const bool registered = [] {
  kernels(c10::DeviceType::CPU).cross_entropy_rows = &cross_entropy_rows;
  return true;
}();

}  // namespace
}  // namespace diffcoder::cross_entropy_cpu
