#pragma once

// The library's operators as C++ functions: each picks the autograd path when a gradient is wanted and the plain kernel
// otherwise. The dispatcher's public operators and their autocast forms (library.cc) both lead here.

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <optional>
#include <tuple>

namespace diffcoder {

using OptionalDtype = std::optional<at::ScalarType>;

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, OptionalDtype out_dtype);

std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                const at::Tensor& weight, double eps, OptionalDtype out_dtype);

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                        const at::Tensor& targets,
                                                        const std::optional<at::Tensor>& row_weights,
                                                        int64_t chunk_size, OptionalDtype compute_dtype);

at::Tensor block_diffusion_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t block_size,
                                     c10::OptionalIntArrayRef documents, std::optional<double> scale);

/// The same by causal flash calls and block parts on any device: what CUDA runs, testable on the CPU.
at::Tensor block_diffusion_attention_merged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                            int64_t block_size, c10::OptionalIntArrayRef documents,
                                            std::optional<double> scale);

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            c10::OptionalIntArrayRef documents, std::optional<double> scale);

// Parts of a larger softmax, without autograd (attention/parts.h). Forward: (out, lse [b, h, s] in float32, or float64
// for float64). Backward: `out` and `lse` may be those of more keys than k holds; (dq, dk, dv).

std::tuple<at::Tensor, at::Tensor> block_diffusion_attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                                     const at::Tensor& v, int64_t block_size,
                                                                     c10::OptionalIntArrayRef documents,
                                                                     std::optional<double> scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor> block_diffusion_attention_backward(
    const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
    const at::Tensor& lse, int64_t block_size, c10::OptionalIntArrayRef documents, std::optional<double> scale);

/// The same as CUDA computes them, on any device.
std::tuple<at::Tensor, at::Tensor> block_diffusion_attention_merged_forward(const at::Tensor& q, const at::Tensor& k,
                                                                            const at::Tensor& v, int64_t block_size,
                                                                            c10::OptionalIntArrayRef documents,
                                                                            std::optional<double> scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor> block_diffusion_attention_merged_backward(
    const at::Tensor& grad, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
    const at::Tensor& lse, int64_t block_size, c10::OptionalIntArrayRef documents, std::optional<double> scale);

std::tuple<at::Tensor, at::Tensor> causal_attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                            const at::Tensor& v, c10::OptionalIntArrayRef documents,
                                                            std::optional<double> scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor> causal_attention_backward(const at::Tensor& grad, const at::Tensor& q,
                                                                         const at::Tensor& k, const at::Tensor& v,
                                                                         const at::Tensor& out, const at::Tensor& lse,
                                                                         c10::OptionalIntArrayRef documents,
                                                                         std::optional<double> scale);

/// No mask: q [b, sq, h, d], k and v [b, sk, hkv, d].
std::tuple<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                     std::optional<double> scale);
std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& grad, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const at::Tensor& out, const at::Tensor& lse,
                                                                  std::optional<double> scale);

}  // namespace diffcoder
