// Automatic differentiation: backward, grad, the thread's modes, and functions whose backward is written in JavaScript.
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <atomic>

#include "autocast.h"
#include "call.h"

namespace diffcoder {

namespace {

using at::Tensor;
using torch::autograd::variable_list;

// Custom functions alive in graphs: only then may a device's thread need the JavaScript thread.
std::atomic<int64_t> liveCallbacks{0};

// What libtorch keeps per thread: grad mode, inference mode, autocast, and the accelerator's stream.
class ThreadContext {
 public:
  ThreadContext() {
    if (at::globalContext().hasCUDA()) stream_ = at::accelerator::getCurrentStream(at::accelerator::getDeviceIndex());
  }

  // Makes another thread's context this one's for a while.
  class Guard {
   public:
    explicit Guard(const ThreadContext& context) : state_(context.state_), stream_(context.stream_) {}

   private:
    at::ThreadLocalStateGuard state_;
    c10::OptionalStreamGuard stream_;
  };

 private:
  at::ThreadLocalState state_;
  std::optional<c10::Stream> stream_;
};

// A JavaScript function (…gradient handles, …saved handles) -> array of new handles of gradients, 0 for none. A node of
// the graph keeps it. Called on the JavaScript thread, or by a device's thread through JsThread.
class BackwardCallback : public torch::CustomClassHolder {
 public:
  BackwardCallback(napi_env env, napi_value function)
      : env_(env), environment_(&Environment::of(env)), jsThread_(environment_->jsThread) {
    check(env, napi_create_reference(env, function, 1, &function_));
    ++liveCallbacks;
  }
  ~BackwardCallback() override {
    jsThread_->release(env_, function_);
    --liveCallbacks;
  }

  variable_list operator()(const variable_list& arguments) {
    if (jsThread_->isCurrent()) return invoke(arguments);
    // The modes and the stream belong to the thread that runs the node.
    const ThreadContext context;
    variable_list result;
    jsThread_->call([&] {
      const ThreadContext::Guard guard(context);
      result = invoke(arguments);
    });
    return result;
  }

 private:
  variable_list invoke(const variable_list& tensors) {
    Napi::HandleScope scope(env_);
    napi_value function;
    napi_value undefined;
    napi_value returned;
    std::vector<napi_value> arguments;
    variable_list result;
    check(env_, napi_get_reference_value(env_, function_, &function));
    check(env_, napi_get_undefined(env_, &undefined));
    for (const Tensor& tensor : tensors) {
      napi_value value;
      if (tensor.defined()) {
        check(env_, napi_create_double(env_, environment_->tensors.add(tensor), &value));
      } else {
        check(env_, napi_get_null(env_, &value));
      }
      arguments.push_back(value);
    }
    if (napi_call_function(env_, undefined, function, arguments.size(), arguments.data(), &returned) != napi_ok) {
      environment_->keepPendingError(env_);
      throw JsException();
    }
    uint32_t length = 0;
    check(env_, napi_get_array_length(env_, returned, &length));
    for (uint32_t i = 0; i < length; ++i) {
      napi_value element;
      double handle = 0;
      check(env_, napi_get_element(env_, returned, i, &element));
      check(env_, napi_get_value_double(env_, element, &handle));
      result.push_back(environment_->tensors.take(handle));  // made for us: nobody else frees them
    }
    return result;
  }

  napi_env env_;
  Environment* environment_;
  std::shared_ptr<JsThread> jsThread_;
  napi_ref function_ = nullptr;
};

// What JavaScript's forward left: its outputs, made without recording, and the function for their gradients.
struct ForwardResult {
  variable_list outputs;
  variable_list saved;
  c10::intrusive_ptr<BackwardCallback> callback;
};

struct JsFunction : public torch::autograd::Function<JsFunction> {
  static variable_list forward(torch::autograd::AutogradContext* ctx, at::TensorList inputs,
                               const ForwardResult& result) {
    ctx->saved_data["callback"] = c10::IValue::make_capsule(result.callback);
    ctx->saved_data["inputs"] = static_cast<int64_t>(inputs.size());
    ctx->set_materialize_grads(false);
    variable_list outputs;
    for (const Tensor& output : result.outputs) outputs.push_back(output.detach());
    // Freed with the graph, and checked for writes in place. A saved output must be the one that gets this node as its
    // history: then a backward through the backward finds its way.
    variable_list saved = result.saved;
    for (Tensor& tensor : saved) {
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (tensor.is_same(result.outputs[i])) tensor = outputs[i];
      }
    }
    ctx->save_for_backward(std::move(saved));
    return outputs;
  }

  static variable_list backward(torch::autograd::AutogradContext* ctx, variable_list gradients) {
    auto callback = c10::static_intrusive_pointer_cast<BackwardCallback>(ctx->saved_data["callback"].toCapsule());
    const size_t inputs = static_cast<size_t>(ctx->saved_data["inputs"].toInt());
    for (const Tensor& saved : ctx->get_saved_variables()) gradients.push_back(saved);
    variable_list result = (*callback)(gradients);
    if (result.size() != inputs) {
      throw CodedError("TORCH_ARGUMENT", "backward returned " + std::to_string(result.size()) + " gradients for " +
                                             std::to_string(inputs) + " inputs");
    }
    result.emplace_back();  // the ForwardResult has none
    return result;
  }
};

// (inputs[], outputs[], saved[], backward) -> outputs that call `backward` when differentiated.
napi_value customFunction(Call& call) {
  const ForwardResult result{call.tensors(1), call.tensors(2),
                             c10::make_intrusive<BackwardCallback>(call.env, call[3])};
  const variable_list inputs = call.tensors(0);
  return call.handles(JsFunction::apply(at::TensorList(inputs), result));  // a list: a vector would count as no input
}

std::atomic<bool> alwaysServe{false};  // for tests on a machine without a device

// Runs a backward pass. Devices run their part on threads of their own, which may need this one for JavaScript
// callbacks: then the pass runs on another thread, and this one answers. The outputs' device tells nothing: a graph can
// span devices.
void runBackward(Call& call, const std::function<void()>& run) {
  JsThread& jsThread = *call.environment->jsThread;
  if (liveCallbacks > 0 && (alwaysServe || at::globalContext().hasCUDA())) {
    const ThreadContext context;
    jsThread.serve([&] {
      const ThreadContext::Guard guard(context);
      run();
    });
  } else {
    run();
  }
  jsThread.releaseCollected(call.env);
}

// (on): runs every backward pass with JavaScript callbacks as on a machine with devices.
napi_value serveBackward(Call& call) {
  alwaysServe = call.boolean(0);
  return nullptr;
}

std::optional<bool> optionalBoolean(const Call& call, size_t i) {
  if (call.isNullish(i)) return std::nullopt;
  return call.boolean(i);
}

// (tensors[], gradients[] with 0 for none, retainGraph?, createGraph)
napi_value backward(Call& call) {
  const variable_list tensors = call.tensors(0);
  variable_list gradients = call.tensors(1);
  const auto retain = optionalBoolean(call, 2);
  const bool create = call.boolean(3);
  runBackward(call, [&] { torch::autograd::backward(tensors, gradients, retain, create); });
  return nullptr;
}

// (outputs[], inputs[], gradients[], retainGraph?, createGraph, allowUnused) -> handles
napi_value grad(Call& call) {
  const variable_list outputs = call.tensors(0);
  const variable_list inputs = call.tensors(1);
  const variable_list gradients = call.tensors(2);
  const auto retain = optionalBoolean(call, 3);
  const bool create = call.boolean(4);
  const bool allowUnused = call.boolean(5);
  variable_list result;
  runBackward(call, [&] { result = torch::autograd::grad(outputs, inputs, gradients, retain, create, allowUnused); });
  return call.handles(std::move(result));
}

napi_value requiresGrad(Call& call) { return call.make(call.tensor(0).requires_grad()); }

napi_value setRequiresGrad(Call& call) {
  call.tensor(0).requires_grad_(call.boolean(1));
  return nullptr;
}

napi_value isLeaf(Call& call) { return call.make(call.tensor(0).is_leaf()); }

napi_value retainGrad(Call& call) {
  call.tensor(0).retain_grad();
  return nullptr;
}

napi_value getGrad(Call& call) { return call.handle(call.tensor(0).grad()); }

// (tensor, gradient handle, or 0 for none)
napi_value setGrad(Call& call) {
  Tensor& tensor = call.tensor(0);
  if (call.number(1) == 0) {
    tensor.mutable_grad().reset();
    return nullptr;
  }
  const Tensor& gradient = call.tensor(1);
  TORCH_CHECK(gradient.sizes() == tensor.sizes(), "assigned grad has data of a different size: ", gradient.sizes(),
              " for a tensor of ", tensor.sizes());
  TORCH_CHECK(gradient.device() == tensor.device(), "assigned grad has data on ", gradient.device(),
              " for a tensor on ", tensor.device());
  TORCH_CHECK(gradient.scalar_type() == tensor.scalar_type(), "assigned grad is ", gradient.scalar_type(),
              " for a tensor of ", tensor.scalar_type());
  tensor.mutable_grad() = gradient;
  return nullptr;
}

napi_value gradFunctionName(Call& call) {
  const auto& function = call.tensor(0).grad_fn();
  return function ? call.make(function->name()) : call.null();
}

napi_value versionOf(Call& call) { return call.make(static_cast<double>(call.tensor(0)._version())); }

napi_value isGradEnabled(Call& call) { return call.make(at::GradMode::is_enabled()); }

napi_value setGradEnabled(Call& call) {
  at::GradMode::set_enabled(call.boolean(0));
  return nullptr;
}

// Inference mode is a guard in C++: JavaScript opens and closes it like a bracket.
std::vector<std::unique_ptr<c10::InferenceMode>>& inferenceGuards() {
  thread_local std::vector<std::unique_ptr<c10::InferenceMode>> guards;
  return guards;
}

napi_value enterInferenceMode(Call&) {
  inferenceGuards().push_back(std::make_unique<c10::InferenceMode>(true));
  return nullptr;
}

napi_value leaveInferenceMode(Call&) {
  if (!inferenceGuards().empty()) inferenceGuards().pop_back();
  return nullptr;
}

// (device type, enabled, dtype code or -1) -> the state before.
napi_value enterAutocast(Call& call) {
  const c10::DeviceType type = c10::Device(call.string(0)).type();
  Napi::Object before = Napi::Object::New(call.env);
  before.Set("enabled", at::autocast::is_autocast_enabled(type));
  before.Set("dtype", static_cast<double>(static_cast<int>(at::autocast::get_autocast_dtype(type))));
  at::autocast::set_autocast_enabled(type, call.boolean(1));
  if (call.number(2) >= 0) at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(call.integer(2)));
  at::autocast::increment_nesting();
  return before;
}

napi_value leaveAutocast(Call& call) {
  const c10::DeviceType type = c10::Device(call.string(0)).type();
  // The last one out drops the cached casts of the weights.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(type, call.boolean(1));
  at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(call.integer(2)));
  return nullptr;
}

}  // namespace

void defineAutograd(napi_env env, napi_value exports) {
  define<customFunction>(env, exports, "customFunction");
  define<backward>(env, exports, "backward");
  define<grad>(env, exports, "grad");
  define<serveBackward>(env, exports, "serveBackward");
  define<requiresGrad>(env, exports, "requiresGrad");
  define<setRequiresGrad>(env, exports, "setRequiresGrad");
  define<isLeaf>(env, exports, "isLeaf");
  define<retainGrad>(env, exports, "retainGrad");
  define<getGrad>(env, exports, "getGrad");
  define<setGrad>(env, exports, "setGrad");
  define<gradFunctionName>(env, exports, "gradFunctionName");
  define<versionOf>(env, exports, "version");
  define<isGradEnabled>(env, exports, "isGradEnabled");
  define<setGradEnabled>(env, exports, "setGradEnabled");
  define<enterInferenceMode>(env, exports, "enterInferenceMode");
  define<leaveInferenceMode>(env, exports, "leaveInferenceMode");
  define<enterAutocast>(env, exports, "enterAutocast");
  define<leaveAutocast>(env, exports, "leaveAutocast");
}

}  // namespace diffcoder
