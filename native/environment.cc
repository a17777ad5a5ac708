#include "environment.h"

#include <utility>

#include "call.h"
#include "collector.h"
#include "distributed/state.h"
#include "operator_registry.h"

namespace diffcoder {

void JsThread::Job::run() noexcept {
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
}

// Runs a job without the lock, and tells who waits for it.
void JsThread::finish(std::unique_lock<std::mutex>& lock, Job& job) {
  lock.unlock();
  job.run();
  lock.lock();
  job.done = true;
  condition_.notify_all();
}

void JsThread::call(const Work& work) {
  if (isCurrent()) return work();
  Job job(work);
  std::unique_lock<std::mutex> lock(mutex_);
  if (servers_ == 0) throw CodedError("TORCH_INTERNAL", "the JavaScript thread is not waiting for a backward pass");
  calls_.push(&job);
  condition_.notify_all();
  for (;;) {
    condition_.wait(lock, [&] { return job.done || job.nested; });
    if (job.done) break;
    Job* nested = std::exchange(job.nested, nullptr);
    finish(lock, *nested);
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

void JsThread::serve(const Work& work) {
  Job job(work);
  std::thread fresh;
  std::unique_lock<std::mutex> lock(mutex_);
  if (answering_) {
    answering_->nested = &job;
    condition_.notify_all();
  } else {
    fresh = std::thread([&] {
      std::unique_lock<std::mutex> own(mutex_);
      finish(own, job);
    });
  }
  ++servers_;
  for (;;) {
    condition_.wait(lock, [&] { return job.done || !calls_.empty(); });
    if (calls_.empty()) break;
    Job* asked = calls_.front();
    calls_.pop();
    Job* before = std::exchange(answering_, asked);
    finish(lock, *asked);
    answering_ = before;
  }
  --servers_;
  lock.unlock();
  if (fresh.joinable()) fresh.join();
  if (job.failure) std::rethrow_exception(job.failure);
}

void JsThread::release(napi_env env, napi_ref reference) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;  // the environment took its references with it
  if (isCurrent()) {
    napi_delete_reference(env, reference);
  } else {
    collected_.push_back(reference);
  }
}

void JsThread::releaseCollected(napi_env env) {
  std::vector<napi_ref> references;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    references.swap(collected_);
  }
  for (napi_ref reference : references) napi_delete_reference(env, reference);
}

void JsThread::close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  collected_.clear();
}

Environment::Environment()
    : collector(std::make_unique<Collector>()),
      operators(std::make_unique<OperatorRegistry>()),
      distributed(std::make_unique<DistributedState>()),
      scratch(kScratchSize) {}

Environment::~Environment() {
  tensors = {};  // with them go their graphs, whose callbacks still belong to this thread
  jsThread->close();
}

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Environment*>(data);
}

void Environment::keepPendingError(napi_env env) {
  napi_value thrown = nullptr;
  napi_value holder = nullptr;
  // Nothing can be taken from a thread that is being terminated.
  if (napi_get_and_clear_last_exception(env, &thrown) != napi_ok || !thrown || pendingError_) return;
  if (napi_create_array_with_length(env, 1, &holder) != napi_ok || napi_set_element(env, holder, 0, thrown) != napi_ok)
    return;
  napi_create_reference(env, holder, 1, &pendingError_);
}

napi_value Environment::takePendingError(napi_env env) {
  if (!pendingError_) return nullptr;
  napi_value holder = nullptr;
  napi_value thrown = nullptr;
  napi_get_reference_value(env, pendingError_, &holder);
  napi_delete_reference(env, std::exchange(pendingError_, nullptr));
  if (holder) napi_get_element(env, holder, 0, &thrown);
  return thrown;
}

}  // namespace diffcoder
