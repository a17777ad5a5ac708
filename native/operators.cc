// Calls any operator of the dispatcher, boxed: one native function for the whole surface of libtorch.
#include "call.h"
#include "conversion.h"
#include "operator_registry.h"

namespace diffcoder {

namespace {

napi_value describe(const Call& call, uint32_t id, const Operator& op) {
  Napi::Env env(call.env);
  const c10::FunctionSchema& schema = op.handle.schema();
  Napi::Object result = Napi::Object::New(env);
  result.Set("id", Napi::Number::New(env, id));
  result.Set("overload", Napi::String::New(env, schema.overload_name()));
  result.Set("schema", Napi::String::New(env, c10::toString(schema)));
  Napi::Array arguments = Napi::Array::New(env);
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    const ArgumentType& type = op.arguments[i];
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", Napi::String::New(env, argument.name()));
    entry.Set("kind", Napi::String::New(env, kindName(type.kind)));
    entry.Set("list", Napi::Boolean::New(env, type.list));
    entry.Set("length", argument.N() ? Napi::Number::New(env, *argument.N()) : env.Null());
    entry.Set("optional", Napi::Boolean::New(env, type.optional));
    entry.Set("elementOptional", Napi::Boolean::New(env, type.elementOptional));
    entry.Set("keywordOnly", Napi::Boolean::New(env, argument.kwarg_only()));
    entry.Set("hasDefault", Napi::Boolean::New(env, argument.default_value().has_value()));
    entry.Set("writes", Napi::Boolean::New(env, argument.alias_info() && argument.alias_info()->isWrite()));
    arguments.Set(static_cast<uint32_t>(i), entry);
  }
  result.Set("arguments", arguments);
  Napi::Array returns = Napi::Array::New(env);
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    const ArgumentType type = argumentType(schema.returns()[i].real_type());
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", Napi::String::New(env, schema.returns()[i].name()));
    entry.Set("kind", Napi::String::New(env, kindName(type.kind)));
    entry.Set("list", Napi::Boolean::New(env, type.list));
    entry.Set("writes", Napi::Number::New(env, op.written[i]));
    returns.Set(static_cast<uint32_t>(i), entry);
  }
  result.Set("returns", returns);
  return result;
}

// (name: "aten::add") -> descriptions of its overloads, each with the id that `call` takes.
napi_value overloads(Call& call) {
  OperatorRegistry& registry = *call.environment->operators;
  Napi::Array result = Napi::Array::New(call.env);
  for (uint32_t id : registry.overloads(call.string(0))) {
    result.Set(result.Length(), Napi::Value(call.env, describe(call, id, registry.get(id))));
  }
  return result;
}

napi_value operatorNames(Call& call) {
  Napi::Env env(call.env);
  Napi::Array result = Napi::Array::New(env);
  for (const std::string& name : call.environment->operators->names())
    result.Set(result.Length(), Napi::String::New(env, name));
  return result;
}

// The registry's stack with its memory, emptied even when the operator throws. An operator called from within one (a
// backward pass that calls JavaScript) finds an empty one.
class StackLease {
 public:
  explicit StackLease(OperatorRegistry& registry) : registry_(registry) { stack.swap(registry.stack); }
  ~StackLease() {
    stack.clear();
    stack.swap(registry_.stack);
  }
  torch::jit::Stack stack;

 private:
  OperatorRegistry& registry_;
};

// (id, ...arguments) -> result, or an array of results; undefined for what was written in place. A list of ints, floats
// or tensors may come as its length, its elements being the next ones in scratch.
napi_value callOperator(Call& call) {
  OperatorRegistry& registry = *call.environment->operators;
  const Operator& op = registry.get(static_cast<uint32_t>(call.number(0)));
  const size_t given = call.count - 1;
  const size_t total = op.arguments.size();
  if (given > total) throw CodedError("TORCH_ARGUMENT", "too many arguments");
  if (!op.returnsConvertible) throw CodedError("TORCH_NOT_IMPLEMENTED", "its result has no JavaScript form");
  StackLease lease(registry);
  torch::jit::Stack& stack = lease.stack;
  size_t scratchUsed = 0;
  for (size_t i = 0; i < total; ++i) {
    if (i < given) {
      const ArgumentType& type = op.arguments[i];
      if (type.kind == Kind::Tensor && !type.list) {  // the commonest, without a type query
        double handle = 0;
        if (napi_get_value_double(call.env, call[i + 1], &handle) == napi_ok) {
          if (at::Tensor* tensor = call.environment->tensors.find(handle)) {
            stack.emplace_back(*tensor);
            continue;
          }
        }
      }
      napi_valuetype valueType;
      check(call.env, napi_typeof(call.env, call[i + 1], &valueType));
      if (valueType != napi_undefined) {
        try {
          stack.push_back(toIValue(call, call[i + 1], type, scratchUsed));
        } catch (const CodedError& e) {
          throw CodedError(e.code, "argument '" + op.handle.schema().arguments()[i].name() + "' " + e.what());
        }
        continue;
      }
    }
    const c10::Argument& argument = op.handle.schema().arguments()[i];
    if (argument.default_value()) {
      stack.push_back(*argument.default_value());
    } else if (op.arguments[i].optional) {
      stack.emplace_back();
    } else {
      throw CodedError("TORCH_ARGUMENT", "missing argument '" + argument.name() + "'");
    }
  }
  op.handle.callBoxed(&stack);
  if (op.returnsOnlyWritten || stack.empty()) return nullptr;
  if (stack.size() == 1) return fromIValue(call, std::move(stack[0]));
  napi_value result;
  check(call.env, napi_create_array_with_length(call.env, stack.size(), &result));
  for (size_t i = 0; i < stack.size(); ++i) {
    napi_value value = op.written[i] >= 0 ? call.undefined() : fromIValue(call, std::move(stack[i]));
    check(call.env, napi_set_element(call.env, result, static_cast<uint32_t>(i), value));
  }
  return result;
}

}  // namespace

void defineOperators(napi_env env, napi_value exports) {
  define<overloads>(env, exports, "overloads");
  define<operatorNames>(env, exports, "operatorNames");
  define<callOperator>(env, exports, "call");
}

}  // namespace diffcoder
