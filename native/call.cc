#include "call.h"

#include <c10/util/Exception.h>

#include <sstream>
#include <string_view>

namespace diffcoder {

void throwStatus(napi_env env) {
  // First: any other call, even the question about a pending exception, takes the message away.
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  const napi_status status = info ? info->error_code : napi_generic_failure;
  const std::string message = info && info->error_message ? info->error_message : "a call of Node-API failed";
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  // Of a thread that is being ended nothing is pending, but no JavaScript runs in it any more.
  if (pending || status == napi_pending_exception || status == napi_closing) throw JsException();
  throw CodedError("TORCH_ARGUMENT", message);
}

double Call::number(size_t i) const {
  double value = 0;
  if (i >= count || napi_get_value_double(env, values[i], &value) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "argument " + std::to_string(i) + " must be a number");
  }
  return value;
}

bool Call::boolean(size_t i) const {
  bool value = false;
  if (i >= count || napi_get_value_bool(env, values[i], &value) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "argument " + std::to_string(i) + " must be a boolean");
  }
  return value;
}

bool Call::isNullish(size_t i) const {
  if (i >= count) return true;
  napi_valuetype type;
  check(env, napi_typeof(env, values[i], &type));
  return type == napi_undefined || type == napi_null;
}

std::string Call::string(size_t i) const {
  size_t length = 0;
  if (i >= count || napi_get_value_string_utf8(env, values[i], nullptr, 0, &length) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "argument " + std::to_string(i) + " must be a string");
  }
  std::string text(length, '\0');
  check(env, napi_get_value_string_utf8(env, values[i], text.data(), length + 1, &length));
  return text;
}

at::Tensor& Call::tensorOf(double handle, size_t argument) const {
  at::Tensor* tensor = environment->tensors.find(handle);
  if (!tensor) {
    throw CodedError("TORCH_DISPOSED", "argument " + std::to_string(argument) + " is a tensor that was disposed");
  }
  return *tensor;
}

std::vector<at::Tensor> Call::tensors(size_t i) const {
  uint32_t length = 0;
  if (i >= count || napi_get_array_length(env, values[i], &length) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "argument " + std::to_string(i) + " must be an array of tensors");
  }
  std::vector<at::Tensor> result;
  result.reserve(length);
  for (uint32_t j = 0; j < length; ++j) {
    napi_value element;
    double handle = 0;
    check(env, napi_get_element(env, values[i], j, &element));
    check(env, napi_get_value_double(env, element, &handle));
    result.push_back(handle == 0 ? at::Tensor() : tensorOf(handle, i));
  }
  return result;
}

napi_value Call::undefined() const {
  napi_value value;
  check(env, napi_get_undefined(env, &value));
  return value;
}

napi_value Call::null() const {
  napi_value value;
  check(env, napi_get_null(env, &value));
  return value;
}

napi_value Call::make(double number) const {
  napi_value value;
  check(env, napi_create_double(env, number, &value));
  return value;
}

napi_value Call::make(bool boolean) const {
  napi_value value;
  check(env, napi_get_boolean(env, boolean, &value));
  return value;
}

napi_value Call::make(const std::string& text) const {
  napi_value value;
  check(env, napi_create_string_utf8(env, text.data(), text.size(), &value));
  return value;
}

napi_value Call::exact(int64_t value) const {
  constexpr int64_t kLargest = int64_t{1} << 53;
  if (value > kLargest || value < -kLargest) {
    throw CodedError("TORCH_VALUE", "the integer " + std::to_string(value) + kNotExact);
  }
  return make(static_cast<double>(value));
}

napi_value Call::handle(at::Tensor tensor) const {
  if (!tensor.defined()) return null();
  return make(environment->tensors.add(std::move(tensor)));
}

napi_value Call::handles(std::vector<at::Tensor> tensors) const {
  napi_value array;
  check(env, napi_create_array_with_length(env, tensors.size(), &array));
  for (size_t i = 0; i < tensors.size(); ++i) {
    check(env, napi_set_element(env, array, static_cast<uint32_t>(i), handle(std::move(tensors[i]))));
  }
  return array;
}

namespace {

constexpr std::string_view kNoMemory = "can't allocate memory";

// What libtorch says to its users, without what it says to its builders.
std::string plainMessage(const c10::Error& error) {
  std::string message = error.what_without_backtrace();
  const size_t advice = message.find(" This could be because the operator doesn't exist");
  if (advice != std::string::npos) message.resize(advice);
  const size_t memory = message.find(kNoMemory);
  if (memory != std::string::npos) message.erase(0, memory);
  // Some operators quote an inner error with its stack.
  if (message.find("Exception raised from ") != std::string::npos) {
    std::string kept;
    std::istringstream lines(message);
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("Exception raised from ") && !line.starts_with("frame #")) kept += line + "\n";
    }
    message = kept.substr(0, kept.find_last_not_of('\n') + 1);
  }
  return message;
}

}  // namespace

void rethrowToJs(napi_env env, Environment& environment) {
  // A callback's own exception goes through unchanged.
  if (napi_value thrown = environment.takePendingError(env)) {
    napi_throw(env, thrown);
    return;
  }
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) return;
  auto raise = [&](const char* code, const std::string& message) { napi_throw_error(env, code, message.c_str()); };
  try {
    throw;
  } catch (const JsException&) {
    raise("TORCH_INTERNAL", "a JavaScript exception was lost");
  } catch (const CodedError& e) {
    raise(e.code, e.what());
  } catch (const c10::OutOfMemoryError& e) {
    raise("TORCH_OUT_OF_MEMORY", plainMessage(e));
  } catch (const c10::IndexError& e) {
    raise("TORCH_INDEX", plainMessage(e));
  } catch (const c10::ValueError& e) {
    raise("TORCH_VALUE", plainMessage(e));
  } catch (const c10::TypeError& e) {
    raise("TORCH_TYPE", plainMessage(e));
  } catch (const c10::NotImplementedError& e) {
    raise("TORCH_NOT_IMPLEMENTED", plainMessage(e));
  } catch (const c10::Error& e) {
    // The CPU's allocator has no class of its own for it.
    const std::string message = plainMessage(e);
    raise(message.starts_with(kNoMemory) ? "TORCH_OUT_OF_MEMORY" : "TORCH_ERROR", message);
  } catch (const std::bad_alloc&) {
    raise("TORCH_OUT_OF_MEMORY", "the host is out of memory");
  } catch (const std::exception& e) {
    raise("TORCH_ERROR", e.what());
  } catch (...) {
    raise("TORCH_INTERNAL", "unknown C++ exception");
  }
}

}  // namespace diffcoder
