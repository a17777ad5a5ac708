// Cross-entropy of a linear layer's outputs without the outputs: the rows are taken in chunks, so logits [n, v] never
// exist whole.
//
//   z = h W^T      nll_i = logsumexp(z_i) - z_i[t_i]      loss = sum_i w_i nll_i
//   dz_i = w_i (softmax(z_i) - one_hot(t_i))              dh = dz W        dW = dz^T h
//
// The loss is a scalar, so dh and dW are known up to the incoming gradient when the forward pass has the chunk's logits
// at hand: they are made there (three matrix products in all, nothing computed twice) and scaled in the backward pass.

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "gradients.h"
#include "ops.h"
#include "reference.h"
#include "registry.h"

namespace diffcoder {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Result {
  at::Tensor loss, nll;
  at::Tensor dhidden, dweight;  // for an incoming gradient of 1; undefined unless wanted. dweight in float32 or wider
};

/// hidden and weight in the dtype that the matrix products run in.
Result run(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets,
           const std::optional<at::Tensor>& row_weights, int64_t chunk_size, bool want_hidden, bool want_weight) {
  const int64_t n = hidden.size(0), v = weight.size(0), d = hidden.size(1);
  const at::ScalarType acc = hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto acc_options = hidden.options().dtype(acc);
  const bool exact = hidden.scalar_type() == acc;  // products already accumulate in acc
  Result r;
  r.nll = at::empty({n}, acc_options);
  if (want_hidden) r.dhidden = at::empty({n, d}, hidden.options());
  if (want_weight) r.dweight = n == 0 ? at::zeros({v, d}, acc_options) : at::empty({v, d}, acc_options);
  const int64_t chunk = std::min(chunk_size, n);
  const at::Tensor buffer = at::empty({chunk, v}, hidden.options());
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t rows = std::min(chunk, n - first);
    const at::Tensor h = hidden.narrow(0, first, rows);
    at::Tensor z = buffer.narrow(0, 0, rows);
    at::mm_out(z, h, weight.t());
    kernels(hidden.device().type())
        .cross_entropy_rows(z, targets.narrow(0, first, rows),
                            row_weights ? row_weights->narrow(0, first, rows) : at::Tensor(),
                            want_hidden || want_weight, r.nll.narrow(0, first, rows));
    if (want_hidden) {
      at::Tensor dh = r.dhidden.narrow(0, first, rows);
      at::mm_out(dh, z, weight);
    }
    if (!want_weight) continue;
    if (!exact) {
      // CUDA's products can write float32; the CPU's round to the operands' dtype, and are then added up in float32.
      const at::Tensor part = z.is_cuda() ? at::mm(z.t(), h, acc) : at::mm(z.t(), h);
      first == 0 ? r.dweight.copy_(part) : r.dweight.add_(part);
    } else if (first == 0) {
      at::mm_out(r.dweight, z.t(), h);
    } else {
      at::addmm_out(r.dweight, r.dweight, z.t(), h);
    }
  }
  r.loss = row_weights ? (r.nll * *row_weights).sum() : r.nll.sum();
  return r;
}

/// grad * scale in the dtype wanted. Reuses `grad` when nobody else will ask for it.
at::Tensor scaled(at::Tensor grad, const at::Tensor& scale, at::ScalarType dtype, bool keep) {
  if (grad.is_cpu() && scale.item<double>() == 1.0) return keep ? grad.to(dtype, false, /*copy=*/true) : grad.to(dtype);
  if (keep || grad.scalar_type() != dtype) return (grad * scale).to(dtype);
  return grad.mul_(scale);
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight,
                               const at::Tensor& targets, const std::optional<at::Tensor>& row_weights,
                               int64_t chunk_size, at::ScalarType compute_dtype) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    Result r = run(hidden.to(compute_dtype), weight.to(compute_dtype), targets, row_weights, chunk_size,
                   hidden.requires_grad(), weight.requires_grad());
    // Not saved variables: the backward pass may hand them on without a copy, and they hold no part of the graph.
    ctx->saved_data["dhidden"] = r.dhidden;
    ctx->saved_data["dweight"] = r.dweight;
    ctx->saved_data["hidden_dtype"] = hidden.scalar_type();
    ctx->saved_data["weight_dtype"] = weight.scalar_type();
    ctx->mark_non_differentiable({r.nll});
    return {r.loss, r.nll};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    refuse_double_backward("linear_cross_entropy");
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const bool keep = torch::autograd::get_current_graph_task_keep_graph();
    const auto take = [&](const char* name, const char* dtype) -> at::Tensor {
      c10::IValue& slot = ctx->saved_data[name];
      TORCH_CHECK(
          !slot.isNone(),
          "linear_cross_entropy: its gradients were freed by an earlier backward pass; pass retainGraph to keep them");
      at::Tensor grad = slot.toTensor();
      if (!grad.defined()) return grad;
      if (!keep) slot = c10::IValue();
      return scaled(std::move(grad), grads[0], ctx->saved_data[dtype].toScalarType(), keep);
    };
    at::Tensor dhidden = take("dhidden", "hidden_dtype"), dweight = take("dweight", "weight_dtype");
    return {dhidden, dweight, {}, {}, {}, {}};
  }
};

}  // namespace

std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                        const at::Tensor& targets,
                                                        const std::optional<at::Tensor>& row_weights,
                                                        int64_t chunk_size, OptionalDtype compute_dtype) {
  constexpr const char* op = "linear_cross_entropy";
  TORCH_CHECK_VALUE(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1), op,
                    ": hidden must be [n, d] and weight [v, d], got ", hidden.sizes(), " and ", weight.sizes());
  TORCH_CHECK_VALUE(targets.dim() == 1 && targets.size(0) == hidden.size(0) && targets.scalar_type() == at::kLong, op,
                    ": targets must be int64 [", hidden.size(0), "], got ", targets.scalar_type(), " ",
                    targets.sizes());
  TORCH_CHECK_VALUE(!row_weights.has_value() || row_weights->sizes() == targets.sizes(), op, ": row_weights must be [",
                    hidden.size(0), "]");
  TORCH_CHECK_VALUE(!row_weights.has_value() || !row_weights->requires_grad(), op,
                    ": no gradient is made for row_weights");
  TORCH_CHECK_TYPE(at::isFloatingType(hidden.scalar_type()) &&
                       (compute_dtype.has_value() || hidden.scalar_type() == weight.scalar_type()),
                   op, ": hidden and weight must have one floating dtype, got ", hidden.scalar_type(), " and ",
                   weight.scalar_type());
  TORCH_CHECK_VALUE(chunk_size >= 1, op, ": chunk_size must be at least 1, got ", chunk_size);
  const at::ScalarType dtype = compute_dtype.value_or(hidden.scalar_type());
  if (!hidden.is_cpu() && !hidden.is_cuda()) {
    return linear_cross_entropy_reference(hidden.to(dtype), weight.to(dtype), targets, row_weights, chunk_size);
  }
  std::optional<at::Tensor> row_weight;
  const at::ScalarType acc = dtype == at::kDouble ? at::kDouble : at::kFloat;
  if (row_weights.has_value()) row_weight = row_weights->to(acc).contiguous();
  const at::Tensor target = targets.contiguous();
  if (wants_gradient(hidden, weight)) {
    const variable_list results = LinearCrossEntropy::apply(hidden, weight, target, row_weight, chunk_size, dtype);
    return {results[0], results[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const Result r = run(hidden.to(dtype), weight.to(dtype), target, row_weight, chunk_size, false, false);
  return {r.loss, r.nll};
}

}  // namespace diffcoder
