// Work that blocks, off the JavaScript thread, as a promise.
//
// Each on a thread of its own and not on libuv's pool: that has four threads, which files need, too, and the end of the
// process waits for them. What still waits for other processes at the end is left behind.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "call.h"

namespace diffcoder {

class BackgroundJob {
 public:
  virtual ~BackgroundJob() = default;

  // Runs `execute` on a thread, then `settle` on the JavaScript thread, unless that has ended.
  static void start(napi_env env, const char* name, std::shared_ptr<BackgroundJob> job);

 protected:
  virtual void execute() noexcept = 0;
  virtual void settle(napi_env env) noexcept = 0;

 private:
  static void comeBack(napi_env env, napi_value, void* held, void*);
  static void environmentEnds(void* held);

  std::mutex mutex_;
  napi_threadsafe_function wayBack_ = nullptr;  // null when there is none any more
};

template <typename T>
class BackgroundWork : public BackgroundJob {
 public:
  using Work = std::function<T()>;
  using Finish = std::function<napi_value(Environment&, Napi::Env, T)>;

  BackgroundWork(Napi::Env env, Work work, Finish finish)
      : deferred_(Napi::Promise::Deferred::New(env)), work_(std::move(work)), finish_(std::move(finish)) {}

  napi_value promise() const { return deferred_.Promise(); }

 private:
  void execute() noexcept override {
    try {
      result_ = work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
    work_ = nullptr;  // what it held is free before JavaScript hears of it
  }

  void settle(napi_env raw) noexcept override {
    const Napi::Env env(raw);
    Environment& environment = Environment::of(env);
    try {
      if (failure_) std::rethrow_exception(failure_);
      deferred_.Resolve(finish_(environment, env, std::move(result_)));
    } catch (...) {
      rethrowToJs(env, environment);
      deferred_.Reject(env.GetAndClearPendingException().Value());
    }
  }

  Napi::Promise::Deferred deferred_;
  Work work_;
  Finish finish_;
  T result_{};
  std::exception_ptr failure_;
};

// Runs `work` on another thread; `finish` makes the promise's value of its result on the JavaScript thread.
template <typename T>
napi_value inBackground(Call& call, const char* name, std::function<T()> work,
                        typename BackgroundWork<T>::Finish finish) {
  auto job = std::make_shared<BackgroundWork<T>>(call.env, std::move(work), std::move(finish));
  napi_value promise = job->promise();
  BackgroundJob::start(call.env, name, std::move(job));
  return promise;
}

}  // namespace diffcoder
