// Random generators, each a stream of its own (torch.Generator), and the default one of each device.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include "call.h"
#include "conversion.h"

namespace diffcoder {

namespace {

at::Generator& generatorArgument(const Call& call, size_t i) {
  at::Generator* generator = call.environment->generators.find(call.number(i));
  if (!generator) throw CodedError("TORCH_DISPOSED", "the generator was disposed");
  return *generator;
}

uint64_t seedArgument(const Call& call, size_t i) {
  uint64_t seed = 0;
  bool lossless = false;
  const bool big = napi_get_value_bigint_uint64(call.env, call[i], &seed, &lossless) == napi_ok;
  if (big && lossless) return seed;
  const double number = big ? -1 : call.number(i);
  if (!(number >= 0) || number > 9007199254740991.0 || number != static_cast<double>(static_cast<uint64_t>(number))) {
    throw CodedError("TORCH_VALUE", "a seed is a non-negative integer below 2^53, or a bigint below 2^64");
  }
  return static_cast<uint64_t>(number);
}

// (device, seed) -> handle
napi_value createGenerator(Call& call) {
  const c10::Device device = [&] {
    try {
      return toDevice(call.string(0));
    } catch (const CodedError& e) {
      throw CodedError(e.code, std::string("the device ") + e.what());
    }
  }();
  at::Generator generator =
      device.is_cpu() ? at::detail::createCPUGenerator()
                      : at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  generator.set_current_seed(seedArgument(call, 1));
  return call.make(call.environment->generators.add(std::move(generator)));
}

napi_value freeGenerator(Call& call) { return call.make(call.environment->generators.free(call.number(0))); }

napi_value seedGenerator(Call& call) {
  at::Generator& generator = generatorArgument(call, 0);
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_current_seed(seedArgument(call, 1));
  return nullptr;
}

napi_value generatorState(Call& call) {
  at::Generator& generator = generatorArgument(call, 0);
  std::lock_guard<std::mutex> lock(generator.mutex());
  return call.handle(generator.get_state());
}

napi_value setGeneratorState(Call& call) {
  at::Generator& generator = generatorArgument(call, 0);
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(call.tensor(1));
  return nullptr;
}

// (seed): the default generators of the CPU and of every device.
napi_value manualSeed(Call& call) {
  const uint64_t seed = seedArgument(call, 0);
  at::Generator cpu = at::detail::getDefaultCPUGenerator();
  {
    std::lock_guard<std::mutex> lock(cpu.mutex());
    cpu.set_current_seed(seed);
  }
  if (at::globalContext().hasCUDA()) {
    auto& hooks = at::globalContext().getAcceleratorHooksInterface(at::kCUDA);
    for (c10::DeviceIndex i = 0; i < hooks.deviceCount(); ++i) {
      at::Generator generator = hooks.getDefaultGenerator(i);
      std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_current_seed(seed);
    }
  }
  return nullptr;
}

}  // namespace

void defineRandom(napi_env env, napi_value exports) {
  define<createGenerator>(env, exports, "createGenerator");
  define<freeGenerator>(env, exports, "freeGenerator");
  define<seedGenerator>(env, exports, "seedGenerator");
  define<generatorState>(env, exports, "generatorState");
  define<setGeneratorState>(env, exports, "setGeneratorState");
  define<manualSeed>(env, exports, "manualSeed");
}

}  // namespace diffcoder
