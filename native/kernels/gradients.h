#pragma once

// What the autograd functions share.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

namespace diffcoder {

/// Whether a graph has to be made for an operator on these tensors.
template <typename... Tensors>
bool wants_gradient(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (... || tensors.requires_grad());
}

/// Called in every backward: the kernels leave no graph, so a second derivative would silently be zero.
inline void refuse_double_backward(const char* op) {
  TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), op, " has no second derivative (createGraph); use ", op,
                              "_reference");
}

}  // namespace diffcoder
