#pragma once

// The small block parts of block-diffusion attention, merged with causal flash results (paper section 3.1's mask, taken
// apart).
//
// Positions of each half are cut in blocks of B. With causal flash attention
//   clean query i  sees clean keys <= i                  noisy query i  sees clean keys <= i - B
// what is missing from the mask is
//   clean query i  the later keys of its own clean block             (strictly upper part, B x B)
//   noisy query i  the later keys of the previous clean block        (strictly upper part, B x B)
//                  all keys of its own noisy block                   (B x B)
// Merge by log-sum-exp: lse = log(sum_p exp(lse_p)), o = sum_p exp(lse_p - lse) o_p. In the backward pass every part is
// handed the merged o and lse; its probabilities exp(s - lse) are then the final ones and the parts' gradients add up,
// as in ring attention.

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

#include <cstdint>

namespace diffcoder {

/// Where a [b, s, h, d] tensor lies (or a [b, h, s] log-sum-exp): distances in elements, d contiguous. Null if absent.
struct Strided {
  void* data = nullptr;
  int64_t b = 0, s = 0, h = 0;
};

/// Address of a [b, s, h, d] tensor with contiguous d.
inline Strided strided(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

/// Address of a [b, h, s] log-sum-exp.
inline Strided strided_lse(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(2), t.stride(1)};
}

struct LocalBlocks {
  Strided q, k, v;               // noisy rows 0..length; the clean row of position i is row i + half
  Strided out, lse;              // merged results: out in q's dtype and order, lse float32 (float64 for float64)
  Strided clean_out, clean_lse;  // causal result of the clean half; null if only the noisy half has queries
  Strided noisy_out,
      noisy_lse;  // causal result of the shifted noisy half: row i belongs to position i + block; null if none has one
  int64_t batch = 0, length = 0, half = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t block = 0;
  double scale = 1;
  bool clean_queries = false;
  /// On the device: the first position of each position's document, then the one after its last: [2, batch * length],
  /// counted within the row. Null: every row is one document.
  const int32_t* documents = nullptr;
};

/// With out and lse the merged forward results. The flash gradients are inputs, dq, dk and dv (all rows of both halves)
/// the totals.
struct LocalBlocksBackward : LocalBlocks {
  Strided grad_out, dq, dk, dv;
  Strided clean_dq, clean_dk, clean_dv;  // null if only the noisy half has queries
  Strided noisy_dq, noisy_dk, noisy_dv;  // dq: row i belongs to position i + block; dk, dv: row i is clean position i
};

/// Head dimensions the kernels take.
inline constexpr int64_t kLargestHeadDim = 256;

struct LocalBlocksKernels {
  void (*forward)(const LocalBlocks&, at::ScalarType dtype) = nullptr;
  void (*backward)(const LocalBlocksBackward&, at::ScalarType dtype) = nullptr;
};

inline LocalBlocksKernels& local_blocks_kernels(c10::DeviceType device) {
  static LocalBlocksKernels cpu, cuda;
  return device == c10::DeviceType::CUDA ? cuda : cpu;
}

}  // namespace diffcoder
