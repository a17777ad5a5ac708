// Entry points and autograd of the elementwise operators: RMSNorm, rotary embedding, SwiGLU. Gradients are first order:
// asking for a gradient of a gradient is an error, not a wrong number.

#include <ATen/ops/result_type.h>
#include <torch/csrc/autograd/custom_function.h>

#include "gradients.h"
#include "ops.h"
#include "reference.h"
#include "registry.h"
#include "rows.h"

namespace diffcoder {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_kernels(const at::Tensor& x) { return x.is_cpu() || x.is_cuda(); }

Kernels& kernels_of(const at::Tensor& x) { return kernels(x.device().type()); }

void check_floating(const char* op, const at::Tensor& t) {
  TORCH_CHECK_TYPE(at::isFloatingType(t.scalar_type()), op, ": needs floating tensors, got ", t.scalar_type());
}

void check_norm(const char* op, const at::Tensor& x, const at::Tensor& weight) {
  check_floating(op, x);
  TORCH_CHECK_VALUE(x.dim() >= 1 && x.size(-1) > 0 && weight.dim() == 1 && weight.size(0) == x.size(-1), op,
                    ": weight ", weight.sizes(), " does not fit the last dimension of ", x.sizes());
}

// --- RMSNorm
// -----------------------------------------------------------------------------------------------------------------------

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight, double eps,
                            at::ScalarType dtype) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor rows = as_rows(x);
    auto [y, sum, rstd] = kernels_of(x).rms_norm_forward(rows, {}, weight, eps, dtype);
    ctx->save_for_backward({rows, weight, rstd});
    ctx->saved_data["shape"] = x.sizes();
    return y.view(x.sizes());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("rms_norm");
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [dx, dweight] = kernels_of(saved[0]).rms_norm_backward(as_rows(grads[0]), {}, saved[0], saved[1], saved[2],
                                                                ctx->needs_input_grad(1));
    return {dx.view(ctx->saved_data["shape"].toIntVector()), dweight, {}, {}};
  }
};

struct AddRmsNorm : torch::autograd::Function<AddRmsNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& residual,
                               const at::Tensor& weight, double eps, OptionalDtype dtype) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [y, sum, rstd] = kernels_of(x).rms_norm_forward(as_rows(x), as_rows(residual), weight, eps,
                                                         dtype.value_or(at::result_type(x, residual)));
    sum = sum.view(x.sizes());
    ctx->save_for_backward({sum, weight, rstd});
    ctx->saved_data["x_dtype"] = x.scalar_type();
    ctx->saved_data["residual_dtype"] = residual.scalar_type();
    ctx->set_materialize_grads(false);
    return {y.view(x.sizes()), sum};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("add_rms_norm");
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    at::Tensor dsum = grads[1], dweight;
    if (grads[0].defined()) {
      std::tie(dsum, dweight) = kernels_of(saved[0]).rms_norm_backward(
          as_rows(grads[0]), grads[1].defined() ? as_rows(grads[1]) : at::Tensor(), as_rows(saved[0]), saved[1],
          saved[2], ctx->needs_input_grad(2));
      dsum = dsum.view(saved[0].sizes());
    }
    if (!dsum.defined()) return {{}, {}, {}, {}, {}};
    return {dsum.to(ctx->saved_data["x_dtype"].toScalarType()),
            dsum.to(ctx->saved_data["residual_dtype"].toScalarType()),
            dweight,
            {},
            {}};
  }
};

// --- Rotary embedding
// --------------------------------------------------------------------------------------------------------------

struct Rotary : torch::autograd::Function<Rotary> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    ctx->save_for_backward({cos, sin});
    return kernels_of(x).rotary(x, cos, sin, false);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("rotary");
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return {kernels_of(grads[0]).rotary(grads[0], saved[0], saved[1], true), {}, {}};
  }
};

// --- SwiGLU
// ------------------------------------------------------------------------------------------------------------------------

struct Swiglu : torch::autograd::Function<Swiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    ctx->save_for_backward({gate, up});
    return kernels_of(gate).swiglu_forward(as_rows(gate), as_rows(up)).view(gate.sizes());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("swiglu");
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [dgate, dup] =
        kernels_of(saved[0]).swiglu_backward(as_rows(grads[0]), as_rows(saved[0]), as_rows(saved[1]));
    return {dgate.view(saved[0].sizes()), dup.view(saved[1].sizes())};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, OptionalDtype out_dtype) {
  check_norm("rms_norm", x, weight);
  const at::ScalarType dtype = out_dtype.value_or(x.scalar_type());
  if (!has_kernels(x)) return rms_norm_reference(x, weight, eps).to(dtype);
  if (wants_gradient(x, weight)) return RmsNorm::apply(x, weight, eps, dtype);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return std::get<0>(kernels_of(x).rms_norm_forward(as_rows(x), {}, weight, eps, dtype)).view(x.sizes());
}

std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                const at::Tensor& weight, double eps, OptionalDtype out_dtype) {
  check_norm("add_rms_norm", x, weight);
  check_floating("add_rms_norm", residual);
  TORCH_CHECK_VALUE(x.sizes() == residual.sizes(), "add_rms_norm: x ", x.sizes(), " and residual ", residual.sizes(),
                    " differ in shape");
  if (!has_kernels(x)) {
    auto [y, sum] = add_rms_norm_reference(x, residual, weight, eps);
    return {y.to(out_dtype.value_or(y.scalar_type())), sum};
  }
  if (wants_gradient(x, residual, weight)) {
    const variable_list results = AddRmsNorm::apply(x, residual, weight, eps, out_dtype);
    return {results[0], results[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto [y, sum, rstd] = kernels_of(x).rms_norm_forward(as_rows(x), as_rows(residual), weight, eps,
                                                       out_dtype.value_or(at::result_type(x, residual)));
  return {y.view(x.sizes()), sum.view(x.sizes())};
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  check_floating("rotary", x);
  TORCH_CHECK_VALUE(x.dim() == 4 && x.size(3) % 2 == 0,
                    "rotary: x must be [batch, positions, heads, even head_dim], got ", x.sizes());
  TORCH_CHECK_VALUE(cos.sizes() == sin.sizes() && (cos.dim() == 2 || cos.dim() == 3) && cos.size(-2) == x.size(1) &&
                        cos.size(-1) == x.size(3) / 2 &&
                        (cos.dim() == 2 || cos.size(0) == x.size(0) || cos.size(0) == 1),
                    "rotary: cos ", cos.sizes(), " and sin ", sin.sizes(),
                    " must be [positions, head_dim / 2] or [batch, positions, head_dim / 2] for x ", x.sizes());
  TORCH_CHECK_VALUE(!wants_gradient(cos, sin), "rotary: no gradient is made for cos and sin");
  if (!has_kernels(x)) return rotary_reference(x, cos, sin);
  const at::Tensor c = cos.dim() == 2 ? cos.unsqueeze(0) : cos, s = sin.dim() == 2 ? sin.unsqueeze(0) : sin;
  if (wants_gradient(x)) return Rotary::apply(x, c, s);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return kernels_of(x).rotary(x, c, s, false);
}

at::Tensor swiglu(const at::Tensor& gate_any, const at::Tensor& up_any) {
  check_floating("swiglu", gate_any);
  check_floating("swiglu", up_any);
  TORCH_CHECK_VALUE(gate_any.sizes() == up_any.sizes() && gate_any.dim() >= 1, "swiglu: gate ", gate_any.sizes(),
                    " and up ", up_any.sizes(), " differ in shape");
  const at::ScalarType dtype = at::result_type(gate_any, up_any);
  const at::Tensor gate = gate_any.to(dtype), up = up_any.to(dtype);
  if (!has_kernels(gate)) return swiglu_reference(gate, up);
  if (wants_gradient(gate, up)) return Swiglu::apply(gate, up);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return kernels_of(gate).swiglu_forward(as_rows(gate), as_rows(up)).view(gate.sizes());
}

}  // namespace diffcoder
