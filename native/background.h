// Work that blocks, off the JavaScript thread, as a promise.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <utility>

#include "call.h"

namespace diffcoder {

template <typename T>
class BackgroundWork : public Napi::AsyncWorker {
 public:
  using Work = std::function<T()>;
  using Finish = std::function<napi_value(Environment&, Napi::Env, T)>;

  BackgroundWork(Napi::Env env, const char* name, Work work, Finish finish)
      : Napi::AsyncWorker(env, name),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        finish_(std::move(finish)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void OnOK() override {
    Environment& environment = Environment::of(Env());
    try {
      if (failure_) std::rethrow_exception(failure_);
      deferred_.Resolve(finish_(environment, Env(), std::move(result_)));
    } catch (...) {
      rethrowToJs(Env(), environment);
      deferred_.Reject(Env().GetAndClearPendingException().Value());
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  Finish finish_;
  T result_{};
  std::exception_ptr failure_;
};

// Runs `work` on a thread of libuv's pool; `finish` makes the promise's value of its result on the JavaScript thread.
template <typename T>
napi_value inBackground(Call& call, const char* name, std::function<T()> work,
                        typename BackgroundWork<T>::Finish finish) {
  auto* background = new BackgroundWork<T>(call.env, name, std::move(work), std::move(finish));  // deletes itself
  napi_value promise = background->promise();
  background->Queue();
  return promise;
}

}  // namespace diffcoder
