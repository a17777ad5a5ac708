// The operators that JavaScript has asked for, each with its schema worked out once.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace diffcoder {

enum class Kind : uint8_t {
  Tensor,
  Scalar,
  Int,
  Float,
  Bool,
  String,
  DType,
  Layout,
  Device,
  MemoryFormat,
  Generator,
  Unsupported
};

struct ArgumentType {
  Kind kind = Kind::Unsupported;
  bool list = false;
  bool optional = false;         // T? or T[]?
  bool elementOptional = false;  // T?[]
};

// The type as the schema writes it: a dtype is an int to the interpreter, but a dtype to us.
ArgumentType argumentType(const c10::TypePtr& real);

const char* kindName(Kind kind);

struct Operator {
  c10::OperatorHandle handle;
  std::vector<ArgumentType> arguments;
  // For each result, the argument that it aliases and writes (in-place and out= forms), or -1.
  std::vector<int> written;
  bool returnsOnlyWritten = false;
  bool returnsConvertible = true;
};

class OperatorRegistry {
 public:
  // Ids of all overloads of a qualified name ("aten::add"), in the dispatcher's order; empty when there is none.
  const std::vector<uint32_t>& overloads(const std::string& name);
  const Operator& get(uint32_t id) const;
  std::vector<std::string> names() const;
  torch::jit::Stack stack;  // reused from call to call

 private:
  void index();
  std::unordered_map<std::string, std::vector<c10::OperatorName>> names_;
  std::unordered_map<std::string, std::vector<uint32_t>> ids_;
  std::vector<std::unique_ptr<Operator>> operators_;
};

}  // namespace diffcoder
