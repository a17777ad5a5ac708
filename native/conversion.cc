#include "conversion.h"

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <c10/core/Device.h>

#include <cmath>

namespace diffcoder {

namespace {

[[noreturn]] void wrongType(const char* wanted) {
  throw CodedError("TORCH_ARGUMENT", std::string("must be ") + wanted);
}

napi_valuetype typeOf(const Call& call, napi_value value) {
  napi_valuetype type;
  check(call.env, napi_typeof(call.env, value, &type));
  return type;
}

double toNumber(const Call& call, napi_value value, const char* wanted) {
  double number = 0;
  if (napi_get_value_double(call.env, value, &number) != napi_ok) wrongType(wanted);
  return number;
}

constexpr const char* kInteger = "an integer below 2^53, or a bigint below 2^63";

int64_t toInt(const Call& call, napi_value value) {
  int64_t integer = 0;
  double number = 0;
  if (napi_get_value_double(call.env, value, &number) == napi_ok) {
    if (std::trunc(number) != number || std::abs(number) > 9007199254740991.0) wrongType(kInteger);
    return static_cast<int64_t>(number);
  }
  bool lossless = false;
  if (napi_get_value_bigint_int64(call.env, value, &integer, &lossless) == napi_ok && lossless) return integer;
  wrongType(kInteger);
}

bool toBool(const Call& call, napi_value value) {
  bool boolean = false;
  if (napi_get_value_bool(call.env, value, &boolean) != napi_ok) wrongType("a boolean");
  return boolean;
}

std::string toString(const Call& call, napi_value value) {
  size_t length = 0;
  if (napi_get_value_string_utf8(call.env, value, nullptr, 0, &length) != napi_ok) wrongType("a string");
  std::string text(length, '\0');
  check(call.env, napi_get_value_string_utf8(call.env, value, text.data(), length + 1, &length));
  return text;
}

at::Tensor toTensor(const Call& call, napi_value value) {
  const double handle = toNumber(call, value, "a Tensor");
  at::Tensor* tensor = call.environment->tensors.find(handle);
  if (!tensor) throw CodedError("TORCH_DISPOSED", "is a tensor that was disposed");
  return *tensor;
}

c10::IValue toElement(const Call& call, napi_value value, Kind kind) {
  switch (kind) {
    case Kind::Tensor:
      return toTensor(call, value);
    case Kind::Scalar:
      return toScalar(call, value);
    case Kind::Int:
      return toInt(call, value);
    case Kind::Float:
      return toNumber(call, value, "a number");
    case Kind::Bool:
      return toBool(call, value);
    case Kind::String:
      return toString(call, value);
    case Kind::DType:
      return toInt(call, value);  // its code: lib/torch/dtype.ts knows the names
    case Kind::Device:
      return toDevice(toString(call, value));
    case Kind::Layout: {
      const std::string name = toString(call, value);
      if (name == "strided") return static_cast<int64_t>(c10::Layout::Strided);
      if (name == "sparse_coo") return static_cast<int64_t>(c10::Layout::Sparse);
      if (name == "sparse_csr") return static_cast<int64_t>(c10::Layout::SparseCsr);
      wrongType("one of 'strided', 'sparse_coo', 'sparse_csr'");
    }
    case Kind::MemoryFormat: {
      const std::string name = toString(call, value);
      if (name == "contiguous_format") return static_cast<int64_t>(c10::MemoryFormat::Contiguous);
      if (name == "preserve_format") return static_cast<int64_t>(c10::MemoryFormat::Preserve);
      if (name == "channels_last") return static_cast<int64_t>(c10::MemoryFormat::ChannelsLast);
      if (name == "channels_last_3d") return static_cast<int64_t>(c10::MemoryFormat::ChannelsLast3d);
      wrongType("one of 'contiguous_format', 'preserve_format', 'channels_last', 'channels_last_3d'");
    }
    case Kind::Generator: {
      at::Generator* generator = call.environment->generators.find(toNumber(call, value, "a Generator"));
      if (!generator) throw CodedError("TORCH_DISPOSED", "is a generator that was disposed");
      return *generator;
    }
    case Kind::Unsupported:
      break;
  }
  throw CodedError("TORCH_NOT_IMPLEMENTED", "has a type that cannot come from JavaScript");
}

// A list whose elements JavaScript put into scratch: no call per element.
c10::IValue fromScratch(const Call& call, size_t length, const ArgumentType& type, size_t& used) {
  if (length > Environment::kScratchSize - used) wrongType("a list that fits into scratch");
  const double* begin = call.environment->scratch.data() + used;
  used += length;
  auto collect = [&](auto list, auto element) {
    list.reserve(length);
    for (const double* value = begin; value != begin + length; ++value) list.push_back(element(*value));
    return c10::IValue(std::move(list));
  };
  switch (type.kind) {
    case Kind::Int:
      return collect(c10::List<int64_t>(), [](double value) { return static_cast<int64_t>(value); });
    case Kind::Float:
      return collect(c10::List<double>(), [](double value) { return value; });
    case Kind::Tensor: {
      auto tensor = [&](double handle) {
        at::Tensor* found = call.environment->tensors.find(handle);
        if (!found) throw CodedError("TORCH_DISPOSED", "holds a tensor that was disposed");
        return *found;
      };
      if (!type.elementOptional) return collect(c10::List<at::Tensor>(), tensor);
      return collect(c10::List<std::optional<at::Tensor>>(),
                     [&](double handle) { return handle == 0 ? std::optional<at::Tensor>() : tensor(handle); });
    }
    default:
      wrongType("an array");
  }
}

template <typename T, typename F>
c10::IValue toList(const Call& call, napi_value value, c10::List<T> list, F element) {
  uint32_t length = 0;
  check(call.env, napi_get_array_length(call.env, value, &length));
  list.reserve(length);
  for (uint32_t i = 0; i < length; ++i) {
    napi_value item;
    check(call.env, napi_get_element(call.env, value, i, &item));
    list.push_back(element(item));
  }
  return list;
}

}  // namespace

c10::Device toDevice(const std::string& name) {
  std::optional<c10::Device> device;
  try {
    device.emplace(name);
  } catch (const c10::Error& e) {
    throw CodedError("TORCH_ARGUMENT", std::string("is no device: ") + e.what_without_backtrace());
  }
  if (device->is_cuda() && !at::globalContext().hasCUDA()) {
    throw CodedError("TORCH_CUDA_UNAVAILABLE", "is '" + name + "', but no CUDA device is available");
  }
  return *device;
}

at::Scalar toScalar(const Call& call, napi_value value) {
  switch (typeOf(call, value)) {
    case napi_number: {
      const double number = toNumber(call, value, "a number");
      // JavaScript has one number type: an integral value is an int Scalar, as `2` is in Python.
      const bool integral = std::trunc(number) == number && std::abs(number) <= 9007199254740991.0 &&
                            !(number == 0 && std::signbit(number));
      return integral ? at::Scalar(static_cast<int64_t>(number)) : at::Scalar(number);
    }
    case napi_boolean:
      return at::Scalar(toBool(call, value));
    case napi_bigint:
      return at::Scalar(toInt(call, value));
    default:
      wrongType("a number");
  }
}

c10::IValue toIValue(const Call& call, napi_value value, const ArgumentType& type, size_t& scratchUsed) {
  const napi_valuetype given = typeOf(call, value);
  if (type.optional && (given == napi_null || given == napi_undefined)) return c10::IValue();
  if (!type.list) return toElement(call, value, type.kind);
  if (given == napi_number) return fromScratch(call, static_cast<size_t>(toInt(call, value)), type, scratchUsed);

  bool isArray = false;
  check(call.env, napi_is_array(call.env, value, &isArray));
  if (!isArray) wrongType("an array");
  switch (type.kind) {
    case Kind::Tensor:
      if (type.elementOptional) {
        return toList(call, value, c10::List<std::optional<at::Tensor>>(), [&](napi_value item) {
          return typeOf(call, item) == napi_null ? std::optional<at::Tensor>() : toTensor(call, item);
        });
      }
      return toList(call, value, c10::List<at::Tensor>(), [&](napi_value item) { return toTensor(call, item); });
    case Kind::Int:
      return toList(call, value, c10::List<int64_t>(), [&](napi_value item) { return toInt(call, item); });
    case Kind::Float:
      return toList(call, value, c10::List<double>(),
                    [&](napi_value item) { return toNumber(call, item, "an array of numbers"); });
    case Kind::Bool:
      return toList(call, value, c10::List<bool>(), [&](napi_value item) { return toBool(call, item); });
    case Kind::String:
      return toList(call, value, c10::List<std::string>(), [&](napi_value item) { return toString(call, item); });
    case Kind::Scalar: {
      auto list = c10::impl::GenericList(c10::NumberType::get());
      uint32_t length = 0;
      check(call.env, napi_get_array_length(call.env, value, &length));
      for (uint32_t i = 0; i < length; ++i) {
        napi_value item;
        check(call.env, napi_get_element(call.env, value, i, &item));
        list.push_back(toScalar(call, item));
      }
      return list;
    }
    default:
      return toElement(call, value, Kind::Unsupported);
  }
}

napi_value fromIValue(const Call& call, c10::IValue value) {
  if (value.isTensor()) return call.handle(std::move(value).toTensor());
  if (value.isNone()) return call.null();
  if (value.isBool()) return call.make(value.toBool());
  if (value.isInt()) return call.exact(value.toInt());
  if (value.isDouble()) return call.make(value.toDouble());
  if (value.isString()) return call.make(value.toStringRef());
  if (value.isTensorList()) return call.handles(std::move(value).toTensorVector());
  if (value.isList()) {
    auto list = value.toListRef();
    napi_value array;
    check(call.env, napi_create_array_with_length(call.env, list.size(), &array));
    for (size_t i = 0; i < list.size(); ++i) {
      check(call.env, napi_set_element(call.env, array, static_cast<uint32_t>(i), fromIValue(call, list[i])));
    }
    return array;
  }
  if (value.isSymInt()) return call.make(static_cast<double>(value.toSymInt().guard_int(__FILE__, __LINE__)));
  if (value.isDevice()) return call.make(value.toDevice().str());
  throw CodedError("TORCH_NOT_IMPLEMENTED", "a result of type " + value.tagKind() + " has no JavaScript form");
}

}  // namespace diffcoder
