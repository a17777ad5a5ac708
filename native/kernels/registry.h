#pragma once

// The device kernels behind the operators: one table of functions per device type, filled by the *_cpu.cc and *_cuda.cu
// files when they are loaded. Kernels take checked arguments, run below autograd and never synchronise with the host.

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>

#include <optional>
#include <tuple>
#include <utility>

namespace diffcoder {

struct Kernels {
  /// (x [n, d], residual [n, d] or undefined, weight [d], eps, dtype of y) -> (y, sum = x + residual (undefined without
  /// one), rstd [n]).
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*rms_norm_forward)(const at::Tensor& x, const at::Tensor& residual,
                                                                     const at::Tensor& weight, double eps,
                                                                     at::ScalarType dtype) = nullptr;
  /// Gradients of rms_norm at x; `grad_sum`, where defined, is added to dx. -> (dx like x, dweight like weight,
  /// undefined unless wanted).
  std::tuple<at::Tensor, at::Tensor> (*rms_norm_backward)(const at::Tensor& grad, const at::Tensor& grad_sum,
                                                          const at::Tensor& x, const at::Tensor& weight,
                                                          const at::Tensor& rstd, bool want_weight) = nullptr;
  /// x [b, s, h, d] turned by the angles of cos, sin [b or 1, s, d/2]; `inverse` turns back (the gradient).
  at::Tensor (*rotary)(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) = nullptr;
  /// silu(gate) * up, over [n, d] rows of one dtype.
  at::Tensor (*swiglu_forward)(const at::Tensor& gate, const at::Tensor& up) = nullptr;
  std::tuple<at::Tensor, at::Tensor> (*swiglu_backward)(const at::Tensor& grad, const at::Tensor& gate,
                                                        const at::Tensor& up) = nullptr;
  /// nll [c] of logits [c, v] at targets [c]; with `gradient` the logits are overwritten by row_weight * (softmax -
  /// one_hot).
  void (*cross_entropy_rows)(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& row_weights,
                             bool gradient, const at::Tensor& nll) = nullptr;
};

/// The table of a device type; entries are null where the device has no kernel.
inline Kernels& kernels(c10::DeviceType device) {
  static Kernels cpu, cuda, none;
  return device == c10::DeviceType::CPU ? cpu : device == c10::DeviceType::CUDA ? cuda : none;
}

}  // namespace diffcoder
