// `self[indices]` of Python, read and written, by libtorch's own rules.
#include <ATen/ScalarOps.h>
#include <ATen/TensorIndexing.h>
#include <ATen/ops/full.h>

#include <cmath>

#include "call.h"
#include "conversion.h"

namespace diffcoder {

namespace {

using at::indexing::TensorIndex;

// An index takes four numbers of scratch: what it is, and its value. Kept in step with lib/torch/indexing.ts.
enum class IndexKind { Integer, Slice, NewDimension, Ellipsis, Boolean, Tensor };
constexpr size_t kWidth = 4;

std::optional<c10::SymInt> sliceEnd(double value) {
  if (std::isnan(value)) return std::nullopt;
  return c10::SymInt(static_cast<int64_t>(value));
}

std::vector<TensorIndex> readIndices(const Call& call, size_t argument) {
  const size_t count = static_cast<size_t>(call.number(argument));
  if (count > Environment::kScratchSize / kWidth) throw CodedError("TORCH_INDEX", "too many indices");
  std::vector<TensorIndex> indices;
  indices.reserve(count);
  const double* entry = call.environment->scratch.data();
  for (size_t i = 0; i < count; ++i, entry += kWidth) {
    switch (static_cast<IndexKind>(static_cast<int>(entry[0]))) {
      case IndexKind::Integer:
        indices.emplace_back(static_cast<int64_t>(entry[1]));
        break;
      case IndexKind::Slice:
        indices.emplace_back(
            at::indexing::Slice(sliceEnd(entry[1]), sliceEnd(entry[2]), c10::SymInt(static_cast<int64_t>(entry[3]))));
        break;
      case IndexKind::NewDimension:
        indices.emplace_back(at::indexing::None);
        break;
      case IndexKind::Ellipsis:
        indices.emplace_back(at::indexing::Ellipsis);
        break;
      case IndexKind::Boolean:
        indices.emplace_back(entry[1] != 0);
        break;
      case IndexKind::Tensor: {
        at::Tensor* tensor = call.environment->tensors.find(entry[1]);
        if (!tensor)
          throw CodedError("TORCH_DISPOSED", "index " + std::to_string(i) + " is a tensor that was disposed");
        indices.emplace_back(*tensor);
      }
    }
  }
  return indices;
}

// (tensor, count: indices in scratch) -> the part: a view where Python gives one.
napi_value index(Call& call) {
  const std::vector<TensorIndex> indices = readIndices(call, 1);
  return call.handle(at::indexing::get_item(call.tensor(0), indices));
}

// Adds the value; entries that indices name twice get it twice.
void accumulate(const at::Tensor& self, const std::vector<TensorIndex>& indices, const at::Tensor& value) {
  std::vector<at::Tensor> byTensor;
  at::Tensor part = at::indexing::impl::applySlicing(self, indices, byTensor, /*disable_slice_optimization=*/false,
                                                     self.device(), self.sym_sizes());
  if (byTensor.empty()) {
    part.add_(value);
  } else {
    part.index_put_(at::indexing::impl::typeConvertIndices(part, std::move(byTensor)), value, /*accumulate=*/true);
  }
}

// (tensor, count, value, is the value a tensor?, accumulate?): writes into the tensor.
napi_value indexPut(Call& call) {
  const std::vector<TensorIndex> indices = readIndices(call, 1);
  const at::Tensor& self = call.tensor(0);
  const at::Tensor value =
      call.boolean(3) ? call.tensor(2) : at::full({}, toScalar(call, call[2]), self.options().requires_grad(false));
  if (call.boolean(4)) {
    accumulate(self, indices, value);
  } else {
    at::indexing::set_item(self, indices, value);
  }
  return nullptr;
}

}  // namespace

void defineIndexing(napi_env env, napi_value exports) {
  define<index>(env, exports, "index");
  define<indexPut>(env, exports, "indexPut");
}

}  // namespace diffcoder
