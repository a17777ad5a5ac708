#include "reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/silu.h>

namespace diffcoder {
namespace {

/// float64 computes in float64, every other dtype in float32.
at::ScalarType compute_dtype(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::ScalarType acc = compute_dtype(x);
  const at::Tensor wide = x.to(acc);
  const at::Tensor mean_square = wide.square().mean(-1, /*keepdim=*/true);
  return (wide * (mean_square + eps).rsqrt() * weight.to(acc)).to(x.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm_reference(const at::Tensor& x, const at::Tensor& residual,
                                                          const at::Tensor& weight, double eps) {
  const at::Tensor sum = x + residual;
  return {rms_norm_reference(sum, weight, eps), sum};
}

at::Tensor rotary_reference(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const at::ScalarType acc = compute_dtype(x);
  const at::Tensor c = cos.to(acc).unsqueeze(-2), s = sin.to(acc).unsqueeze(-2);  // over the heads
  const int64_t half = x.size(-1) / 2;
  const at::Tensor x1 = x.narrow(-1, 0, half).to(acc), x2 = x.narrow(-1, half, half).to(acc);
  return at::cat({x1 * c - x2 * s, x2 * c + x1 * s}, -1).to(x.scalar_type());
}

at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up) {
  const at::ScalarType acc = compute_dtype(gate);
  return (at::silu(gate.to(acc)) * up.to(acc)).to(at::result_type(gate, up));
}

std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight,
                                                                  const at::Tensor& targets,
                                                                  const std::optional<at::Tensor>& row_weights,
                                                                  int64_t) {
  const at::ScalarType acc = compute_dtype(hidden);
  const at::Tensor log_probability = at::matmul(hidden, weight.t()).to(acc).log_softmax(-1);
  const at::Tensor nll = -log_probability.gather(1, targets.unsqueeze(1)).squeeze(1);
  const at::Tensor loss = row_weights.has_value() ? (nll * row_weights->to(acc)).sum() : nll.sum();
  return {loss, nll.detach()};
}

}  // namespace diffcoder
