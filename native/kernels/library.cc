// The operators' schemas and their place in the dispatcher: torch.ops.diffcoder.*, from JavaScript as from Python.

#include <torch/library.h>

#include "../attention/reference.h"
#include "../autocast.h"
#include "ops.h"
#include "reference.h"

namespace diffcoder {
namespace {

// Under autocast each operator has its own rule:
//
// - rms_norm, add_rms_norm: float32 as always. The normed result is in autocast's dtype, for the matrix product that
//   follows; the sum keeps the dtype of the residual stream.
// - linear_cross_entropy: the three matrix products are in autocast's dtype, statistics and the weight's gradient in
//   float32.
// - attention, swiglu: autocast's dtype.
// - rotary: the dtype of x. It does not cast, because attention does.

at::Tensor plain_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return rms_norm(x, weight, eps, {});
}

std::tuple<at::Tensor, at::Tensor> plain_add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                      const at::Tensor& weight, double eps) {
  return add_rms_norm(x, residual, weight, eps, {});
}

std::tuple<at::Tensor, at::Tensor> plain_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                              const at::Tensor& targets,
                                                              const std::optional<at::Tensor>& row_weights,
                                                              int64_t chunk_size) {
  return linear_cross_entropy(hidden, weight, targets, row_weights, chunk_size, {});
}

template <c10::DeviceType device>
struct Autocast {
  static constexpr c10::DispatchKey key =
      device == c10::DeviceType::CUDA ? c10::DispatchKey::AutocastCUDA : c10::DispatchKey::AutocastCPU;

  static at::ScalarType dtype() { return at::autocast::get_autocast_dtype(device); }
  /// float32, float16 and bfloat16 go to autocast's dtype; float64 stays.
  static at::Tensor cast(const at::Tensor& t) { return at::autocast::cached_cast(dtype(), t, device); }
  static OptionalDtype narrowed(const at::Tensor& t) {
    return t.scalar_type() == at::kDouble ? OptionalDtype() : OptionalDtype(dtype());
  }

  static at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::rms_norm(x, weight, eps, narrowed(x));
  }
  static std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                         const at::Tensor& weight, double eps) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::add_rms_norm(x, residual, weight, eps, narrowed(x));
  }
  static at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::swiglu(cast(gate), cast(up));
  }
  static std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                                 const at::Tensor& targets,
                                                                 const std::optional<at::Tensor>& row_weights,
                                                                 int64_t chunk_size) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::linear_cross_entropy(hidden, weight, targets, row_weights, chunk_size, narrowed(hidden));
  }
  static at::Tensor block_diffusion_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                              int64_t block_size, c10::OptionalIntArrayRef documents,
                                              std::optional<double> scale) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::block_diffusion_attention(cast(q), cast(k), cast(v), block_size, documents, scale);
  }
  static at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     c10::OptionalIntArrayRef documents, std::optional<double> scale) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
    return diffcoder::causal_attention(cast(q), cast(k), cast(v), documents, scale);
  }

  static void implement(torch::Library& m) {
    m.impl("rms_norm", &rms_norm);
    m.impl("add_rms_norm", &add_rms_norm);
    m.impl("swiglu", &swiglu);
    m.impl("linear_cross_entropy", &linear_cross_entropy);
    m.impl("block_diffusion_attention", &block_diffusion_attention);
    m.impl("causal_attention", &causal_attention);
  }
};

}  // namespace

TORCH_LIBRARY(diffcoder, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", &plain_rms_norm);
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor normed, Tensor sum)",
        &plain_add_rms_norm);
  m.def("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor", &rotary);
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor", &swiglu);
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, Tensor? row_weights, int chunk_size) -> "
      "(Tensor loss, Tensor nll)",
      &plain_linear_cross_entropy);
  m.def(
      "block_diffusion_attention(Tensor q, Tensor k, Tensor v, int block_size, int[]? documents=None, float? "
      "scale=None) -> Tensor",
      &block_diffusion_attention);
  m.def(
      "block_diffusion_attention_merged(Tensor q, Tensor k, Tensor v, int block_size, int[]? documents=None, float? "
      "scale=None) -> Tensor",
      &block_diffusion_attention_merged);
  m.def("causal_attention(Tensor q, Tensor k, Tensor v, int[]? documents=None, float? scale=None) -> Tensor",
        &causal_attention);

  // Parts of a larger softmax. No autograd, no autocast: TypeScript composes them into differentiable functions.
  m.def(
      "block_diffusion_attention_forward(Tensor q, Tensor k, Tensor v, int block_size, int[]? documents=None, float? "
      "scale=None) -> (Tensor out, Tensor lse)",
      &block_diffusion_attention_forward);
  m.def(
      "block_diffusion_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, int "
      "block_size, int[]? documents=None, float? scale=None) -> (Tensor dq, Tensor dk, Tensor dv)",
      &block_diffusion_attention_backward);
  m.def(
      "block_diffusion_attention_merged_forward(Tensor q, Tensor k, Tensor v, int block_size, int[]? documents=None, "
      "float? scale=None) -> (Tensor out, Tensor lse)",
      &block_diffusion_attention_merged_forward);
  m.def(
      "block_diffusion_attention_merged_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "int block_size, int[]? documents=None, float? scale=None) -> (Tensor dq, Tensor dk, Tensor dv)",
      &block_diffusion_attention_merged_backward);
  m.def(
      "causal_attention_forward(Tensor q, Tensor k, Tensor v, int[]? documents=None, float? scale=None) -> (Tensor "
      "out, Tensor lse)",
      &causal_attention_forward);
  m.def(
      "causal_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, int[]? "
      "documents=None, float? scale=None) -> (Tensor dq, Tensor dk, Tensor dv)",
      &causal_attention_backward);
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, float? scale=None) -> (Tensor out, Tensor lse)",
        &attention_forward);
  m.def(
      "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float? scale=None) -> "
      "(Tensor dq, Tensor dk, Tensor dv)",
      &attention_backward);

  m.def("rms_norm_reference(Tensor x, Tensor weight, float eps) -> Tensor", &rms_norm_reference);
  m.def("add_rms_norm_reference(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor normed, Tensor sum)",
        &add_rms_norm_reference);
  m.def("rotary_reference(Tensor x, Tensor cos, Tensor sin) -> Tensor", &rotary_reference);
  m.def("swiglu_reference(Tensor gate, Tensor up) -> Tensor", &swiglu_reference);
  m.def(
      "linear_cross_entropy_reference(Tensor hidden, Tensor weight, Tensor targets, Tensor? row_weights, int "
      "chunk_size) -> (Tensor loss, "
      "Tensor nll)",
      &linear_cross_entropy_reference);
  m.def(
      "block_diffusion_attention_reference(Tensor q, Tensor k, Tensor v, int block_size, int[]? documents=None, float? "
      "scale=None) -> Tensor",
      &block_diffusion_attention_reference);
  m.def("causal_attention_reference(Tensor q, Tensor k, Tensor v, int[]? documents=None, float? scale=None) -> Tensor",
        &causal_attention_reference);
}

TORCH_LIBRARY_IMPL(diffcoder, AutocastCPU, m) { Autocast<c10::DeviceType::CPU>::implement(m); }
TORCH_LIBRARY_IMPL(diffcoder, AutocastCUDA, m) { Autocast<c10::DeviceType::CUDA>::implement(m); }

}  // namespace diffcoder
