#include "environment.h"

#include "operator_registry.h"

namespace diffcoder {

void JsThread::call(const std::function<void()>& task) {
  if (isCurrent()) return task();
  bool done = false;
  std::unique_lock<std::mutex> lock(mutex_);
  tasks_.push({&task, &done});
  condition_.notify_all();
  condition_.wait(lock, [&] { return done; });
}

void JsThread::serveUntil(const std::function<bool()>& done) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    while (!tasks_.empty()) {
      Task task = tasks_.front();
      tasks_.pop();
      lock.unlock();
      (*task.run)();
      lock.lock();
      *task.done = true;
      condition_.notify_all();
    }
    if (done()) return;
    condition_.wait(lock);
  }
}

void JsThread::release(napi_env env, napi_ref reference) {
  if (isCurrent()) {
    napi_delete_reference(env, reference);
    return;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  collected_.push_back(reference);
}

void JsThread::releaseCollected(napi_env env) {
  std::vector<napi_ref> references;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    references.swap(collected_);
  }
  for (napi_ref reference : references) napi_delete_reference(env, reference);
}

Environment::Environment() : operators(std::make_unique<OperatorRegistry>()), scratch(kScratchSize) {}
Environment::~Environment() = default;

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Environment*>(data);
}

}  // namespace diffcoder
