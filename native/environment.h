// What one Node environment (the main thread or one worker) owns: its tensors and generators, scratch memory shared
// with JavaScript, and the thread that may call into JavaScript.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <napi.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "handle_table.h"

namespace diffcoder {

// Work that other threads hand to the JavaScript thread: callbacks of autograd functions that run on a device thread,
// and references to JavaScript values, which only that thread may delete.
class JsThread {
 public:
  bool isCurrent() const { return std::this_thread::get_id() == id_; }

  // Runs `task` on the JavaScript thread and waits for it. Only valid while that thread is inside `serveUntil`.
  void call(const std::function<void()>& task);

  // Runs tasks posted by `call` until `done` returns true. `wake` makes it look again.
  void serveUntil(const std::function<bool()>& done);
  void wake() { condition_.notify_all(); }

  // Deletes a reference here or, from another thread, at the next opportunity on the JavaScript thread.
  void release(napi_env env, napi_ref reference);
  void releaseCollected(napi_env env);

 private:
  struct Task {
    const std::function<void()>* run;
    bool* done;
  };
  const std::thread::id id_ = std::this_thread::get_id();
  std::mutex mutex_;
  std::condition_variable condition_;
  std::queue<Task> tasks_;
  std::vector<napi_ref> collected_;
};

class OperatorRegistry;

struct Environment {
  Environment();
  ~Environment();

  static Environment& of(napi_env env);

  HandleTable<at::Tensor> tensors;
  HandleTable<at::Generator> generators;
  std::unique_ptr<OperatorRegistry> operators;
  // Shared with JavaScript as a Float64Array: shapes, strides and lists of handles pass through it without allocation.
  static constexpr size_t kScratchSize = 4096;
  std::vector<double> scratch;
  // Outlives the environment while an autograd graph still holds callbacks.
  std::shared_ptr<JsThread> jsThread = std::make_shared<JsThread>();
  // A JavaScript exception on its way through C++ frames: thrown again at the boundary.
  napi_ref pendingError = nullptr;
};

}  // namespace diffcoder
