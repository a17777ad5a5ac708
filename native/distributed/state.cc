#include "state.h"

#include <cmath>

namespace diffcoder {

namespace {

// A destructor that waits for a peer which is gone would keep the process from ending: what is still under way is left
// to the end of the process.
template <typename T>
void abandon(HandleTable<c10::intrusive_ptr<T>>& table) {
  table.forEach([](const c10::intrusive_ptr<T>& item) { c10::intrusive_ptr<T>(item).release(); });
}

}  // namespace

DistributedState::~DistributedState() {
  bool busy = *numUnderWay_ > 0;
  works.forEach([&](const PendingWork& pending) { busy |= !pending.work->isCompleted(); });
  if (!busy) return;
  works.forEach([](const PendingWork& pending) {
    if (!pending.work->isCompleted()) new PendingWork(pending);  // the transport may still write to its memory
  });
  abandon(groups);
  abandon(stores);
}

std::shared_ptr<void> DistributedState::underWay() const {
  auto count = numUnderWay_;
  ++*count;
  return {nullptr, [count](void*) { --*count; }};
}

DistributedState& DistributedState::of(const Environment& environment) { return *environment.distributed; }

StorePtr& storeArgument(const Call& call, size_t i) {
  StorePtr* store = DistributedState::of(*call.environment).stores.find(call.number(i));
  if (!store) throw CodedError("TORCH_DISPOSED", "the store was closed");
  return *store;
}

BackendPtr& groupArgument(const Call& call, size_t i) {
  BackendPtr* group = DistributedState::of(*call.environment).groups.find(call.number(i));
  if (!group) throw CodedError("TORCH_DISPOSED", "the process group was destroyed");
  return *group;
}

std::vector<uint8_t> bytesOf(const Call& call, size_t i) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (i < call.count &&
      napi_get_typedarray_info(call.env, call[i], &type, &length, &data, nullptr, nullptr) == napi_ok) {
    if (type != napi_uint8_array) throw CodedError("TORCH_ARGUMENT", "a value is a string or a Uint8Array");
    const auto* bytes = static_cast<const uint8_t*>(data);
    return std::vector<uint8_t>(bytes, bytes + length);
  }
  const std::string text = call.string(i);
  return std::vector<uint8_t>(text.begin(), text.end());
}

std::vector<std::string> stringsOf(const Call& call, size_t i) {
  uint32_t length = 0;
  if (i >= call.count || napi_get_array_length(call.env, call[i], &length) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "expected an array of strings");
  }
  std::vector<std::string> result;
  for (uint32_t j = 0; j < length; ++j) {
    napi_value element;
    check(call.env, napi_get_element(call.env, call[i], j, &element));
    result.push_back(Napi::Value(call.env, element).ToString().Utf8Value());
  }
  return result;
}

std::chrono::milliseconds secondsOf(const Call& call, size_t i) {
  const double seconds = call.number(i);
  if (!(seconds > 0)) throw CodedError("TORCH_VALUE", "a timeout is a positive number of seconds");
  return std::chrono::milliseconds(static_cast<int64_t>(std::ceil(std::min(seconds, 1e9) * 1000)));
}

}  // namespace diffcoder
