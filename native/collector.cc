#include "collector.h"

#include <algorithm>
#include <utility>

#include "call.h"

namespace diffcoder {

namespace {

constexpr int64_t kReportStep = int64_t{16} << 20;  // telling V8 of every tensor would cost more than small operators
constexpr int64_t kTensorBytes = 512;               // of a tensor without its elements, about

int64_t bytesOf(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.has_storage()) return kTensorBytes;
  // Views and graphs share a storage: the first tensor over it counts it.
  const bool shared = tensor.storage().use_count() > 1;
  return kTensorBytes + (shared ? 0 : static_cast<int64_t>(tensor.storage().nbytes()));
}

}  // namespace

Collector::Entry* Collector::find(double handle) {
  const size_t slot = HandleTable<at::Tensor>::slotOf(handle);
  if (slot >= entries_.size()) return nullptr;
  Entry& entry = entries_[slot];
  return entry.object && entry.handle == handle ? &entry : nullptr;
}

bool Collector::watch(napi_env env, double handle, napi_value object, const at::Tensor& tensor) {
  const size_t slot = HandleTable<at::Tensor>::slotOf(handle);
  if (slot >= entries_.size()) entries_.resize(std::max(slot + 1, entries_.size() * 2));
  Entry& entry = entries_[slot];
  if (entry.object) drop(env, entry);
  check(env, napi_create_reference(env, object, 0, &entry.object));
  entry.handle = handle;
  entry.bytes = bytesOf(tensor);
  ++watched_;
  bytes_ += entry.bytes;
  report(env);
  return bytes_ > mark_;
}

void Collector::forget(napi_env env, double handle) {
  if (Entry* entry = find(handle)) {
    drop(env, *entry);
    report(env);
  }
}

void Collector::drop(napi_env env, Entry& entry) {
  napi_delete_reference(env, std::exchange(entry.object, nullptr));
  --watched_;
  bytes_ -= entry.bytes;
}

size_t Collector::sweep(napi_env env, HandleTable<at::Tensor>& tensors) {
  constexpr size_t kBatch = 1024;  // what is alive takes a V8 handle until the scope ends
  size_t freed = 0;
  for (size_t begin = 0; begin < entries_.size() && watched_ > 0; begin += kBatch) {
    napi_handle_scope scope;
    check(env, napi_open_handle_scope(env, &scope));
    for (size_t i = begin; i < std::min(begin + kBatch, entries_.size()); ++i) {
      if (!entries_[i].object) continue;
      napi_value object = nullptr;
      if (napi_get_reference_value(env, entries_[i].object, &object) != napi_ok || object) continue;
      const double handle = entries_[i].handle;
      drop(env, entries_[i]);
      tensors.free(handle);
      ++freed;
    }
    napi_close_handle_scope(env, scope);
  }
  report(env);
  return freed;
}

void Collector::settle() { mark_ = bytes_ + std::max(kStep, bytes_ / 2); }

void Collector::report(napi_env env) {
  const int64_t change = bytes_ - reported_;
  if (std::abs(change) < kReportStep) return;
  int64_t total = 0;
  reported_ = bytes_;
  napi_adjust_external_memory(env, change, &total);
}

namespace {

// (object, handle) -> true when it is time to collect garbage and to sweep.
napi_value watch(Call& call) {
  const bool full = call.environment->collector->watch(call.env, call.number(1), call[0], call.tensor(1));
  return full ? call.make(true) : nullptr;
}

// () -> how many tensors were freed.
napi_value sweep(Call& call) {
  return call.make(static_cast<double>(call.environment->collector->sweep(call.env, call.environment->tensors)));
}

// () -> bytes of the tensors that are watched.
napi_value watchedBytes(Call& call) { return call.make(static_cast<double>(call.environment->collector->bytes())); }

napi_value settle(Call& call) {
  call.environment->collector->settle();
  return nullptr;
}

}  // namespace

void defineCollector(napi_env env, napi_value exports) {
  define<watch>(env, exports, "watch");
  define<sweep>(env, exports, "sweep");
  define<settle>(env, exports, "settle");
  define<watchedBytes>(env, exports, "watchedBytes");
}

}  // namespace diffcoder
