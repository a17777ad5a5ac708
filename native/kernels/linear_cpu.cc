// y = x W^T + b in float32 on the CPU for inference, where rows are few: as many as a batch denoises at once.
//
// A tile is four rows by as many outputs as fill a vector with its sums. Weights are read where they lie, in the order
// in which they lie, and the next tile's are fetched meanwhile: with few rows a product takes as long as its weights
// take from memory. Every output is summed over the inputs in one order, whatever rows are beside it: a row's numbers
// are the same alone and in any batch, bit for bit, which a library's choice of kernels by size does not give.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../autocast.h"
#include "simd.h"

namespace diffcoder::linear_cpu {
namespace {

using namespace simd;

constexpr int kRows = 4;
constexpr int64_t kDepth = 1024;  // inputs of a tile: its weights stay in the first-level cache for all rows
constexpr int64_t kSecondLevel = 128 * 1024;  // numbers of x that stay in the second-level cache
constexpr int64_t kFew = 16;                  // rows that stay in the first-level cache

struct Product {
  const float *x, *weight, *bias;
  float* y;
  int64_t rows, inputs, outputs;
};

/// Adds the products of `depth` inputs from `from` to y, which they begin with the bias: `rows` rows from `row` by the
/// outputs of a tile from `first`, of which `count` are there. `fetch`: whether to fetch the next tile's weights.
template <typename I, int rows, bool fetch>
DIFFCODER_INLINE void tile(const Product& p, int64_t row, int64_t first, int64_t count, int64_t from, int64_t depth) {
  using V = Simd<I, float>;
  constexpr int lanes = V::lanes, outputs = lanes / kRows;
  const float* x[rows];
  const float* w[outputs];
  for (int r = 0; r < rows; ++r) x[r] = p.x + (row + r) * p.inputs + from;
  for (int o = 0; o < outputs; ++o) w[o] = p.weight + (first + std::min<int64_t>(o, count - 1)) * p.inputs + from;
  typename V::Vec sum[lanes] = {};  // [kRows][outputs]
  V::for_each(depth, [&](auto load, auto, int64_t k) __attribute__((always_inline)) {
    typename V::Vec wk[outputs];
    for (int o = 0; o < outputs; ++o) {
      wk[o] = load(w[o] + k);
      if constexpr (fetch) __builtin_prefetch(w[o] + outputs * p.inputs + k);
    }
    for (int r = 0; r < rows; ++r) {
      const typename V::Vec xk = load(x[r] + k);
      for (int o = 0; o < outputs; ++o) sum[r * outputs + o] += xk * wk[o];
    }
  });
  float sums[lanes];
  V::store(sums, V::reduce_add_each(sum));
  const auto add_to = [&](int64_t wanted) __attribute__((always_inline)) {
    for (int r = 0; r < rows; ++r) {
      float* y = p.y + (row + r) * p.outputs + first;
      for (int64_t o = 0; o < wanted; ++o) {
        const float before = from > 0 ? y[o] : p.bias != nullptr ? p.bias[first + o] : 0.0f;
        y[o] = before + sums[r * outputs + o];
      }
    }
  };
  count == outputs ? add_to(outputs) : add_to(count);  // the whole tile's loop has a length that the compiler knows
}

/// Rows row .. last by the outputs of one tile.
template <typename I>
DIFFCODER_INLINE void tiles(const Product& p, int64_t row, int64_t last, int64_t first, int64_t count, int64_t from) {
  const int64_t depth = std::min(kDepth, p.inputs - from);
  if (last - row >= kRows) {
    tile<I, kRows, true>(p, row, first, count, from, depth);
    for (row += kRows; last - row >= kRows; row += kRows) tile<I, kRows, false>(p, row, first, count, from, depth);
  }
  if (last - row == 3) tile<I, 3, true>(p, row, first, count, from, depth);
  if (last - row == 2) tile<I, 2, true>(p, row, first, count, from, depth);
  if (last - row == 1) tile<I, 1, true>(p, row, first, count, from, depth);
}

/// Outputs begin .. end, for all rows.
template <typename I>
DIFFCODER_INLINE void multiply(const Product& p, int64_t begin, int64_t end) {
  constexpr int64_t outputs = Simd<I, float>::lanes / kRows;
  const int64_t most = std::max<int64_t>(kRows, kSecondLevel / std::min(kDepth, p.inputs));
  const int64_t blocks = (p.rows + most - 1) / most;
  const int64_t rows = ((p.rows + blocks - 1) / blocks + kRows - 1) / kRows * kRows;
  for (int64_t row = 0; row < p.rows; row += rows) {
    const int64_t last = std::min(p.rows, row + rows);
    const auto tiles_at = [&](int64_t first, int64_t from) __attribute__((always_inline)) {
      tiles<I>(p, row, last, first, std::min(outputs, end - first), from);
    };
    // Few rows: weights in the order in which they lie. Many: some inputs of all outputs, while x is near. The sums are
    // the same.
    if (last - row <= kFew) {
      for (int64_t first = begin; first < end; first += outputs) {
        for (int64_t from = 0; from < p.inputs; from += kDepth) tiles_at(first, from);
      }
    } else {
      for (int64_t from = 0; from < p.inputs; from += kDepth) {
        for (int64_t first = begin; first < end; first += outputs) tiles_at(first, from);
      }
    }
  }
}

DIFFCODER_KERNEL(multiply_outputs, (const Product& p, int64_t begin, int64_t end), (p, begin, end), multiply)

at::Tensor linear_rows(const at::Tensor& x_any, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const at::Tensor x = x_any.contiguous();
  const int64_t inputs = weight.size(1), outputs = weight.size(0);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = outputs;
  at::Tensor y = at::empty(sizes, x.options());
  if (y.numel() == 0) return y;
  const at::Tensor held = bias && bias->defined() ? bias->contiguous() : at::Tensor();
  const Product p{x.const_data_ptr<float>(),
                  weight.const_data_ptr<float>(),
                  held.defined() ? held.const_data_ptr<float>() : nullptr,
                  y.mutable_data_ptr<float>(),
                  y.numel() / outputs,
                  inputs,
                  outputs};
  // Threads begin at a multiple of every tile's outputs: which outputs share a tile changes nothing, but whole tiles
  // are faster.
  const int64_t groups = (outputs + 3) / 4;
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, 4 * p.rows * inputs));
  at::parallel_for(0, groups, grain,
                   [&](int64_t begin, int64_t end) { multiply_outputs(p, 4 * begin, std::min(outputs, 4 * end)); });
  return y;
}

/// Whether the product is one of inference in float32 on the CPU, with weights as they lie in a model.
bool is_plain(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const auto plain = [](const at::Tensor& t) {
    return t.is_cpu() && t.scalar_type() == at::kFloat && t.layout() == at::kStrided && !t.is_conj() && !t.is_neg();
  };
  const bool has_bias = bias && bias->defined();
  if (!plain(x) || !plain(weight) || (has_bias && !plain(*bias))) return false;
  if (x.dim() < 1 || weight.dim() != 2 || x.size(-1) != weight.size(1) || weight.size(1) == 0) return false;
  if (has_bias && (bias->dim() != 1 || bias->size(0) != weight.size(0))) return false;
  if (!weight.is_contiguous() || at::autocast::is_autocast_enabled(at::kCPU)) return false;
  return !at::GradMode::is_enabled() ||
         !(x.requires_grad() || weight.requires_grad() || (has_bias && bias->requires_grad()));
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return is_plain(x, weight, bias) ? linear_rows(x, weight, bias) : at::linear(x, weight, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(diffcoder, m) { m.def("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", &linear); }

}  // namespace diffcoder::linear_cpu
