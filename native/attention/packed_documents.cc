#include "packed_documents.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>

namespace diffcoder {
namespace {

/// Host values on the device by way of pinned memory, which the caching host allocator keeps until the copy is done.
template <typename T>
at::Tensor to_device(const std::vector<T>& values, at::ScalarType dtype, c10::Device device) {
  const auto options = at::TensorOptions(dtype).pinned_memory(device.is_cuda());
  const at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, options);
  std::memcpy(host.data_ptr(), values.data(), values.size() * sizeof(T));
  return host.to(device, dtype, /*non_blocking=*/true);
}

Segments segments_of(const std::vector<int32_t>& starts, c10::Device device) {
  Segments segments{to_device(starts, at::kInt, device), starts, 0};
  for (size_t i = 1; i < starts.size(); ++i)
    segments.longest = std::max<int64_t>(segments.longest, starts[i] - starts[i - 1]);
  return segments;
}

PackedDocuments pack(const std::vector<Document>& documents, int64_t batch, int64_t length, int64_t block_size,
                     c10::Device device) {
  const auto total = static_cast<size_t>(batch * length);
  std::vector<int32_t> starts{0}, shifted{0}, places(2 * total);
  const int64_t pairs = batch * length - block_size;
  std::vector<uint8_t> has_earlier(static_cast<size_t>(std::max<int64_t>(pairs, 0)));
  // A boundary of the shifted sequence, where it lies in it and adds something.
  const auto cut = [&](int64_t at) {
    if (at > shifted.back() && at <= pairs) shifted.push_back(static_cast<int32_t>(at));
  };
  for (const Document& d : documents) {
    const int64_t first = d.row * length + d.start, last = first + d.length;
    starts.push_back(static_cast<int32_t>(last));
    for (int64_t i = first; i < last; ++i) {
      places[static_cast<size_t>(i)] = static_cast<int32_t>(d.start);
      places[total + static_cast<size_t>(i)] = static_cast<int32_t>(d.start + d.length);
    }
    if (block_size == 0) continue;
    cut(first);
    cut(last - block_size);
    for (int64_t i = first; i < last - block_size; ++i) has_earlier[static_cast<size_t>(i)] = 1;
  }
  PackedDocuments packed;
  packed.documents = segments_of(starts, device);
  if (block_size == 0) return packed;
  packed.places = to_device(places, at::kInt, device).view({2, batch * length});
  if (pairs <= 0) return packed;
  cut(pairs);
  packed.shifted = segments_of(shifted, device);
  packed.has_earlier = to_device(has_earlier, at::kBool, device);
  return packed;
}

struct Request {
  std::vector<int64_t> documents;
  int64_t batch, length, block_size;
  c10::Device device;
  c10::Stream stream;  // what was copied on one stream may not be there yet on another

  bool operator==(const Request& other) const {
    return batch == other.batch && length == other.length && block_size == other.block_size && device == other.device &&
           stream == other.stream && documents == other.documents;
  }
};

}  // namespace

PackedDocuments pack_documents(const std::vector<Document>& documents, int64_t batch, int64_t length,
                               int64_t block_size, c10::Device device) {
  struct Latest {
    std::mutex mutex;
    std::optional<Request> request;
    PackedDocuments result;
  };
  static Latest& latest = *new Latest;  // never destroyed: its tensors must not outlive the driver at exit
  const Request request{flatten(documents), batch,  length,
                        block_size,         device, c10::impl::VirtualGuardImpl(device.type()).getStream(device)};
  const std::lock_guard lock(latest.mutex);
  if (!latest.request.has_value() || !(*latest.request == request)) {
    latest.result = pack(documents, batch, length, block_size, device);
    latest.request = request;
  }
  return latest.result;
}

}  // namespace diffcoder
