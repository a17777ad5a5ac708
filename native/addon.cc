// The addon's entry: one environment per Node thread, and the functions of each file.
#include "call.h"

namespace {

void initialize(napi_env env, napi_value exports) {
  using namespace diffcoder;
  auto owned = std::make_unique<Environment>();
  Environment* environment = owned.get();
  auto destroy = [](napi_env, void* data, void*) { std::unique_ptr<Environment>(static_cast<Environment*>(data)); };
  check(env, napi_set_instance_data(env, owned.release(), destroy, nullptr));
  napi_value buffer;
  napi_value scratch;
  // The memory belongs to the environment, which outlives every JavaScript value of it.
  check(env, napi_create_external_arraybuffer(env, environment->scratch.data(),
                                              Environment::kScratchSize * sizeof(double), nullptr, nullptr, &buffer));
  check(env, napi_create_typedarray(env, napi_float64_array, Environment::kScratchSize, buffer, 0, &scratch));
  check(env, napi_set_named_property(env, exports, "scratch", scratch));
  defineTensors(env, exports);
  defineCollector(env, exports);
  defineIndexing(env, exports);
  defineOperators(env, exports);
  defineAutograd(env, exports);
  defineRandom(env, exports);
  defineFiles(env, exports);
  defineDevices(env, exports);
  defineCudaGraphs(env, exports);
  defineStores(env, exports);
  defineGroups(env, exports);
  defineCollectives(env, exports);
}

}  // namespace

// Node calls this through C: no exception may leave. A worker that is ended here fails at any of its calls.
NAPI_MODULE_INIT() {
  try {
    initialize(env, exports);
  } catch (const diffcoder::JsException&) {
    return nullptr;
  } catch (const std::exception& e) {
    napi_throw_error(env, "TORCH_LOAD", e.what());  // does nothing where no JavaScript runs any more
    return nullptr;
  }
  return exports;
}
