// What a Node thread owns of c10d: stores, process groups and the work under way, by number.
#pragma once

#include <atomic>
#include <memory>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "../call.h"

namespace diffcoder {

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

/// A collective under way. The tensors are held until it has ended, whatever JavaScript does with theirs.
struct PendingWork {
  c10::intrusive_ptr<c10d::Work> work;
  std::vector<at::Tensor> tensors;
};

struct DistributedState {
  ~DistributedState();

  HandleTable<StorePtr> stores;
  HandleTable<BackendPtr> groups;
  HandleTable<PendingWork> works;

  /// For a thread to hold while it waits for something of a group: at its end the process leaves that behind.
  std::shared_ptr<void> underWay() const;

  static DistributedState& of(const Environment& environment);

 private:
  std::shared_ptr<std::atomic<int>> numUnderWay_ = std::make_shared<std::atomic<int>>(0);
};

StorePtr& storeArgument(const Call& call, size_t i);
BackendPtr& groupArgument(const Call& call, size_t i);
std::vector<uint8_t> bytesOf(const Call& call, size_t i);  // of a string or a Uint8Array
std::vector<std::string> stringsOf(const Call& call, size_t i);
std::chrono::milliseconds secondsOf(const Call& call, size_t i);

}  // namespace diffcoder
