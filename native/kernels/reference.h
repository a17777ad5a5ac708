#pragma once

// Plain-operator twins of the fused operators: readable, differentiable by autograd, on any device.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace diffcoder {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps);

std::tuple<at::Tensor, at::Tensor> add_rms_norm_reference(const at::Tensor& x, const at::Tensor& residual,
                                                          const at::Tensor& weight, double eps);

at::Tensor rotary_reference(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

at::Tensor swiglu_reference(const at::Tensor& gate, const at::Tensor& up);

std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight,
                                                                  const at::Tensor& targets,
                                                                  const std::optional<at::Tensor>& row_weights,
                                                                  int64_t chunk_size);

}  // namespace diffcoder
