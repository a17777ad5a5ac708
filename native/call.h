// The boundary: every exported function is `napi_value f(Call&)`. This file reads arguments, makes results, and turns
// C++ exceptions into JavaScript errors after all C++ frames are gone.
#pragma once

#include <c10/util/ArrayRef.h>

#include <string>

#include "environment.h"

namespace diffcoder {

// An error with a code of lib/torch/errors.ts.
class CodedError : public std::runtime_error {
 public:
  CodedError(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}
  const char* code;
};

// A JavaScript exception is pending, or stored in Environment::pendingError: unwind and let it through.
class JsException : public std::exception {
 public:
  const char* what() const noexcept override { return "a JavaScript callback threw"; }
};

// Throws what a failed call of Node-API means: the pending JavaScript exception, or an error that says what it said.
void throwStatus(napi_env env);

inline void check(napi_env env, napi_status status) {
  if (status != napi_ok) throwStatus(env);
}

constexpr const char* kNotExact = " has no exact JavaScript number: toTypedArray() gives bigints";

class Call {
 public:
  static constexpr size_t kMaxArguments = 48;

  Call(napi_env env, napi_callback_info info) : env(env), count(kMaxArguments) {
    check(env, napi_get_cb_info(env, info, &count, values, nullptr, nullptr));
    if (count > kMaxArguments) count = kMaxArguments;
    void* data = nullptr;
    napi_get_instance_data(env, &data);
    environment = static_cast<Environment*>(data);
  }

  napi_value operator[](size_t i) const { return values[i]; }
  double number(size_t i) const;
  int64_t integer(size_t i) const { return static_cast<int64_t>(number(i)); }
  bool boolean(size_t i) const;
  bool isNullish(size_t i) const;
  std::string string(size_t i) const;
  // The tensor at argument i. The reference holds until the table changes.
  at::Tensor& tensor(size_t i) const { return tensorOf(number(i), i); }
  at::Tensor& tensorOf(double handle, size_t argument) const;
  std::vector<at::Tensor> tensors(size_t i) const;  // from a JavaScript array of handles (0: undefined tensor)

  napi_value undefined() const;
  napi_value null() const;
  napi_value make(double value) const;
  napi_value make(bool value) const;
  napi_value make(const std::string& value) const;
  napi_value exact(int64_t value) const;       // a number; TORCH_VALUE beyond 2^53, where it would be another one
  napi_value handle(at::Tensor tensor) const;  // null for an undefined tensor
  napi_value handles(std::vector<at::Tensor> tensors) const;

  napi_env env;
  size_t count;
  napi_value values[kMaxArguments];
  Environment* environment;
};

// Throws the C++ exception in flight as a JavaScript error with a code.
void rethrowToJs(napi_env env, Environment& environment);

template <napi_value (*F)(Call&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    Call call(env, info);
    return F(call);
  } catch (...) {
    rethrowToJs(env, Environment::of(env));
    return nullptr;
  }
}

template <napi_value (*F)(Call&)>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value function;
  check(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, guarded<F>, nullptr, &function));
  check(env, napi_set_named_property(env, exports, name, function));
}

// One per file of exported functions.
void defineTensors(napi_env env, napi_value exports);
void defineCollector(napi_env env, napi_value exports);
void defineIndexing(napi_env env, napi_value exports);
void defineOperators(napi_env env, napi_value exports);
void defineAutograd(napi_env env, napi_value exports);
void defineRandom(napi_env env, napi_value exports);
void defineFiles(napi_env env, napi_value exports);
void defineDevices(napi_env env, napi_value exports);
void defineCudaGraphs(napi_env env, napi_value exports);
void defineStores(napi_env env, napi_value exports);
void defineGroups(napi_env env, napi_value exports);
void defineCollectives(napi_env env, napi_value exports);

}  // namespace diffcoder
