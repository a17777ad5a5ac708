// Names of dtypes as PyTorch prints them, without "torch.".
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

namespace diffcoder {

struct DTypeName {
  const char* name;
  at::ScalarType type;
};

inline constexpr DTypeName kDTypes[] = {
    {"float32", at::kFloat},      {"int64", at::kLong},
    {"bool", at::kBool},          {"bfloat16", at::kBFloat16},
    {"float16", at::kHalf},       {"float64", at::kDouble},
    {"int32", at::kInt},          {"int16", at::kShort},
    {"int8", at::kChar},          {"uint8", at::kByte},
    {"uint16", at::kUInt16},      {"uint32", at::kUInt32},
    {"uint64", at::kUInt64},      {"float8_e4m3fn", at::kFloat8_e4m3fn},
    {"float8_e5m2", at::kFloat8_e5m2}, {"complex64", at::kComplexFloat},
    {"complex128", at::kComplexDouble},
};

inline std::optional<at::ScalarType> dtypeFromName(const std::string& name) {
  for (const DTypeName& entry : kDTypes) {
    if (name == entry.name) return entry.type;
  }
  return std::nullopt;
}

inline const char* dtypeName(at::ScalarType type) {
  for (const DTypeName& entry : kDTypes) {
    if (type == entry.type) return entry.name;
  }
  return c10::toString(type);
}

}  // namespace diffcoder
