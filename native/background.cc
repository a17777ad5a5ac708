#include "background.h"

#include <dlfcn.h>

#include <thread>

namespace diffcoder {

namespace {

// A thread that ends takes the addons with it which only it had loaded. Not this one, while others may run in it.
void stayLoaded() {
  static const bool done = [] {
    Dl_info here;
    return dladdr(reinterpret_cast<void*>(&stayLoaded), &here) != 0 &&
           dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE) != nullptr;
  }();
  (void)done;
}

using Held = std::shared_ptr<BackgroundJob>;  // by the JavaScript thread

}  // namespace

void BackgroundJob::start(napi_env env, const char* name, std::shared_ptr<BackgroundJob> job) {
  stayLoaded();
  napi_value title;
  check(env, napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &title));
  auto held = std::make_unique<Held>(job);
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, title, 0, 1, nullptr, nullptr, held.get(), comeBack,
                                             &job->wayBack_));
  check(env, napi_add_env_cleanup_hook(env, environmentEnds, held.get()));
  held.release();
  std::thread([job = std::move(job)] {
    job->execute();
    std::lock_guard<std::mutex> lock(job->mutex_);
    if (job->wayBack_) napi_call_threadsafe_function(job->wayBack_, nullptr, napi_tsfn_nonblocking);
  }).detach();
}

void BackgroundJob::comeBack(napi_env env, napi_value, void* data, void*) {
  if (!env) return;  // the environment ends: environmentEnds was here
  std::unique_ptr<Held> held(static_cast<Held*>(data));
  napi_remove_env_cleanup_hook(env, environmentEnds, held.get());
  BackgroundJob& job = **held;
  {
    std::lock_guard<std::mutex> lock(job.mutex_);
    napi_release_threadsafe_function(std::exchange(job.wayBack_, nullptr), napi_tsfn_release);
  }
  job.settle(env);
}

// Node deletes the way back, whoever still holds it. Called before that: hooks go in reverse order.
void BackgroundJob::environmentEnds(void* data) {
  const std::unique_ptr<Held> held(static_cast<Held*>(data));
  BackgroundJob& job = **held;
  std::lock_guard<std::mutex> lock(job.mutex_);
  job.wayBack_ = nullptr;
}

}  // namespace diffcoder
