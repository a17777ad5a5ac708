#include "operator_registry.h"

#include <algorithm>

#include "call.h"

namespace diffcoder {

namespace {

Kind elementKind(const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      return Kind::Tensor;
    case c10::TypeKind::NumberType:
      return Kind::Scalar;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return Kind::Int;
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
      return Kind::Float;
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
      return Kind::Bool;
    case c10::TypeKind::StringType:
      return Kind::String;
    case c10::TypeKind::ScalarTypeType:
      return Kind::DType;
    case c10::TypeKind::LayoutType:
      return Kind::Layout;
    case c10::TypeKind::DeviceObjType:
      return Kind::Device;
    case c10::TypeKind::MemoryFormatType:
      return Kind::MemoryFormat;
    case c10::TypeKind::GeneratorType:
      return Kind::Generator;
    default:
      return Kind::Unsupported;
  }
}

c10::TypePtr unwrap(const c10::TypePtr& type, bool* optional) {
  if (type->kind() != c10::TypeKind::OptionalType) return type;
  *optional = true;
  return type->castRaw<c10::OptionalType>()->getElementType();
}

}  // namespace

ArgumentType argumentType(const c10::TypePtr& real) {
  ArgumentType result;
  c10::TypePtr type = unwrap(real, &result.optional);
  if (type->kind() == c10::TypeKind::ListType) {
    result.list = true;
    type = unwrap(type->castRaw<c10::ListType>()->getElementType(), &result.elementOptional);
  }
  result.kind = elementKind(type);
  return result;
}

const char* kindName(Kind kind) {
  static constexpr const char* names[] = {"Tensor", "Scalar", "int",    "float",         "bool",      "str",
                                          "dtype",  "layout", "device", "memory_format", "Generator", "unsupported"};
  return names[static_cast<size_t>(kind)];
}

void OperatorRegistry::index() {
  names_.clear();
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) names_[name.name].push_back(name);
  for (auto& [base, list] : names_) {
    // Tensor forms first, as PyTorch's argument parser tries them; out= forms last.
    auto rank = [](const c10::OperatorName& n) {
      const std::string& o = n.overload_name;
      if (o.find("out") != std::string::npos) return 3;
      if (o.find("Dimname") != std::string::npos || o.find("dimname") != std::string::npos) return 2;
      return o.empty() || o == "Tensor" ? 0 : 1;
    };
    std::sort(list.begin(), list.end(), [&](const auto& a, const auto& b) {
      return std::make_pair(rank(a), a.overload_name) < std::make_pair(rank(b), b.overload_name);
    });
  }
}

const std::vector<uint32_t>& OperatorRegistry::overloads(const std::string& name) {
  auto known = ids_.find(name);
  if (known != ids_.end()) return known->second;
  auto found = names_.find(name);
  if (found == names_.end()) {
    index();  // a library may have been loaded since
    found = names_.find(name);
  }
  static const std::vector<uint32_t> none;
  if (found == names_.end()) return none;
  std::vector<uint32_t> ids;
  for (const c10::OperatorName& overload : found->second) {
    auto handle = c10::Dispatcher::singleton().findSchema(overload);
    if (!handle) continue;
    auto op = std::make_unique<Operator>(Operator{*handle, {}, {}});
    const c10::FunctionSchema& schema = handle->schema();
    for (const c10::Argument& argument : schema.arguments())
      op->arguments.push_back(argumentType(argument.real_type()));
    for (const c10::Argument& result : schema.returns()) {
      int written = -1;
      if (result.alias_info() && result.alias_info()->isWrite()) {
        for (size_t i = 0; i < schema.arguments().size(); ++i) {
          const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
          if (alias && alias->isWrite() && alias->beforeSets() == result.alias_info()->beforeSets()) {
            written = static_cast<int>(i);
          }
        }
      }
      op->written.push_back(written);
    }
    op->returnsOnlyWritten =
        !op->written.empty() && std::all_of(op->written.begin(), op->written.end(), [](int w) { return w >= 0; });
    op->returnsConvertible = std::all_of(
        schema.returns().begin(), schema.returns().end(),
        [](const c10::Argument& result) { return argumentType(result.real_type()).kind != Kind::Unsupported; });
    ids.push_back(static_cast<uint32_t>(operators_.size()));
    operators_.push_back(std::move(op));
  }
  return ids_.emplace(name, std::move(ids)).first->second;
}

const Operator& OperatorRegistry::get(uint32_t id) const {
  if (id >= operators_.size()) throw CodedError("TORCH_ARGUMENT", "unknown operator id");
  return *operators_[id];
}

std::vector<std::string> OperatorRegistry::names() const {
  std::vector<std::string> names;
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) names.push_back(name.name);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace diffcoder
