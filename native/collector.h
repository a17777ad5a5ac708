// Tensors outside every scope, which live as long as their JavaScript objects.
//
// A weak reference for each, asked by `sweep`. A FinalizationRegistry would be told of them between tasks only, so a
// synchronous loop could fill the memory with tensors that nobody can reach.
#pragma once

#include <cstdint>
#include <vector>

#include "environment.h"

namespace diffcoder {

class Collector {
 public:
  // Frees the tensor in a `sweep` after its object was collected. True when so much memory was taken since the last
  // `settle` that now is the time for one.
  bool watch(napi_env env, double handle, napi_value object, const at::Tensor& tensor);

  // The tensor is freed by somebody else.
  void forget(napi_env env, double handle);

  // Frees the tensors whose objects were collected, and returns how many.
  size_t sweep(napi_env env, HandleTable<at::Tensor>& tensors);

  // Garbage was collected: what is alive now is needed. Sets the mark at which `watch` asks again.
  void settle();

  int64_t bytes() const { return bytes_; }
  size_t watched() const { return watched_; }

 private:
  struct Entry {
    napi_ref object = nullptr;
    double handle = 0;
    int64_t bytes = 0;
  };
  Entry* find(double handle);
  void drop(napi_env env, Entry& entry);
  void report(napi_env env);  // tells V8

  std::vector<Entry> entries_;  // by the handle's slot
  size_t watched_ = 0;
  int64_t bytes_ = 0;
  int64_t reported_ = 0;
  int64_t mark_ = kStep;

  static constexpr int64_t kStep = int64_t{256} << 20;
};

}  // namespace diffcoder
