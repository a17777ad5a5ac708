// What one Node environment (the main thread or one worker) owns: its tensors and generators, scratch memory shared
// with JavaScript, and the thread that may call into JavaScript.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <napi.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "handle_table.h"

namespace diffcoder {

// Lets other threads use the JavaScript thread while that one waits for them: autograd's device threads call gradient
// functions written in JavaScript.
class JsThread {
 public:
  using Work = std::function<void()>;

  bool isCurrent() const { return std::this_thread::get_id() == id_; }

  // Runs `work` on the JavaScript thread and waits; its exception is thrown here. Throws when that thread is not in
  // `serve`, where nobody would answer.
  void call(const Work& work);

  // On the JavaScript thread: runs `work` on another thread, and serves `call` requests of all threads until it ends;
  // an exception of `work` is thrown here. When called from within such a request, `work` runs on the requesting
  // thread, so that autograd sees a nested backward pass. On a new thread its nodes would wait for ever.
  void serve(const Work& work);

  // Deletes a reference here or, from another thread, at the next `releaseCollected`.
  void release(napi_env env, napi_ref reference);
  void releaseCollected(napi_env env);

  // The environment ends. Graphs may hold callbacks beyond it, and another thread may get this one's id.
  void close();

 private:
  struct Job {
    explicit Job(const Work& work) : work(work) {}
    void run() noexcept;
    const Work& work;
    std::exception_ptr failure;
    bool done = false;
    Job* nested = nullptr;  // for the thread that waits for this one
  };
  void finish(std::unique_lock<std::mutex>& lock, Job& job);

  const std::thread::id id_ = std::this_thread::get_id();
  std::mutex mutex_;
  std::condition_variable condition_;
  std::queue<Job*> calls_;
  std::vector<napi_ref> collected_;
  int servers_ = 0;
  bool closed_ = false;
  Job* answering_ = nullptr;  // of the JavaScript thread alone
};

class Collector;
class CudaGraph;  // defined where CUDA is
class OperatorRegistry;
struct DistributedState;

struct Environment {
  Environment();
  ~Environment();

  static Environment& of(napi_env env);

  // A JavaScript exception on its way through C++ frames: kept by the callback, thrown again at the boundary.
  void keepPendingError(napi_env env);
  napi_value takePendingError(napi_env env);  // null when there is none

  HandleTable<at::Tensor> tensors;
  HandleTable<at::Generator> generators;
  HandleTable<std::shared_ptr<CudaGraph>> cudaGraphs;
  std::unique_ptr<Collector> collector;
  std::unique_ptr<OperatorRegistry> operators;
  std::unique_ptr<DistributedState> distributed;
  // Shared with JavaScript as a Float64Array: shapes, strides and lists pass through it without allocation.
  static constexpr size_t kScratchSize = 4096;
  std::vector<double> scratch;
  std::shared_ptr<JsThread> jsThread = std::make_shared<JsThread>();

 private:
  napi_ref pendingError_ = nullptr;  // an array around it: a reference takes objects only, and anything can be thrown
};

}  // namespace diffcoder
