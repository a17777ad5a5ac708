#pragma once

// What the `*_attention_forward` and `*_attention_backward` operators share. They give and take a log-sum-exp, so that
// callers can merge parts of a larger softmax (ring attention): in the backward pass every part gets the merged output
// and log-sum-exp, and its gradients then add up to those of the whole.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <limits>
#include <tuple>

#include "../kernels/gradients.h"
#include "flash.h"

namespace diffcoder {

using AttentionParts = std::tuple<at::Tensor, at::Tensor>;
using AttentionPartGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// Open while a part is computed: no graph, the dtype of the arguments whatever autocast says, their device.
struct PartScope {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  c10::DeviceGuard device;

  explicit PartScope(const at::Tensor& q) : device(q.device()) {}
};

/// The operators record nothing, so a gradient would silently be missing.
inline void check_part(const char* op, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK_NOT_IMPLEMENTED(!wants_gradient(q, k, v), op, " records no graph: call it without gradients (noGrad)");
  TORCH_CHECK_NOT_IMPLEMENTED(q.is_cpu() || q.is_cuda(), op, " runs on CPU and CUDA, not on ", q.device());
}

/// The merged results that a backward pass gets. The kernels read the log-sum-exp as contiguous [b, h, s].
inline void check_merged(const char* op, const at::Tensor& grad, const at::Tensor& q, const at::Tensor& out,
                         const at::Tensor& lse) {
  for (const at::Tensor* t : {&grad, &out}) {
    TORCH_CHECK_VALUE(t->sizes() == q.sizes() && t->scalar_type() == q.scalar_type() && t->device() == q.device(), op,
                      ": grad and out must be like q, ", q.sizes(), " in ", q.scalar_type(), " on ", q.device(),
                      ", got ", t->sizes(), " in ", t->scalar_type(), " on ", t->device());
  }
  const at::IntArrayRef sizes = lse.sizes();
  TORCH_CHECK_VALUE(lse.dim() == 3 && sizes[0] == q.size(0) && sizes[1] == q.size(2) && sizes[2] == q.size(1) &&
                        lse.scalar_type() == accumulate_dtype(q) && lse.device() == q.device(),
                    op, ": lse must be [batch, heads, positions] of q in ", accumulate_dtype(q), ", got ", sizes,
                    " in ", lse.scalar_type());
}

/// Whether there is nothing to compute.
inline bool is_empty(const at::Tensor& q, const at::Tensor& k) { return q.numel() == 0 || k.numel() == 0; }

/// What a query without keys has: nothing, and a log-sum-exp that leaves any other part as it is.
inline AttentionParts empty_part(const at::Tensor& q) {
  return {at::zeros_like(q), at::full({q.size(0), q.size(2), q.size(1)}, -std::numeric_limits<double>::infinity(),
                                      q.options().dtype(accumulate_dtype(q)))};
}

inline AttentionPartGradients empty_gradients(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return {at::zeros_like(q), at::zeros_like(k), at::zeros_like(v)};
}

}  // namespace diffcoder
