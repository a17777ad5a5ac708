// What this build and this machine can do: versions, threads, accelerators and their memory.
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#ifdef DIFFCODER_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

#include "devices.h"

namespace diffcoder {

c10::DeviceIndex cudaDeviceArgument(const Call& call, size_t i) {
  if (!at::globalContext().hasCUDA()) throw CodedError("TORCH_CUDA_UNAVAILABLE", "no CUDA device is available");
  const int64_t index = call.integer(i);
  if (index < 0 || index >= at::accelerator::deviceCount()) {
    throw CodedError("TORCH_VALUE", "there is no CUDA device " + std::to_string(index));
  }
  at::globalContext().lazyInitDevice(at::kCUDA);  // the allocator knows no device before the first tensor
  return static_cast<c10::DeviceIndex>(index);
}

namespace {

napi_value build(Call& call) {
  Napi::Object result = Napi::Object::New(call.env);
  result.Set("torch", TORCH_VERSION);
#ifdef DIFFCODER_CUDA
  result.Set("cuda", true);
#else
  result.Set("cuda", false);
#endif
  result.Set("cpuCapability", at::get_cpu_capability());
  result.Set("config", at::show_config());
  return result;
}

napi_value getNumThreads(Call& call) { return call.make(static_cast<double>(at::get_num_threads())); }

napi_value setNumThreads(Call& call) {
  const int64_t threads = call.integer(0);
  if (threads < 1 || threads > 4096) throw CodedError("TORCH_VALUE", "the number of threads is a positive integer");
  at::set_num_threads(static_cast<int>(threads));
  return nullptr;
}

napi_value setDeterministic(Call& call) {
  at::globalContext().setDeterministicAlgorithms(call.boolean(0), /*warn_only=*/false);
  return nullptr;
}

napi_value setFloat32MatmulPrecision(Call& call) {
  const std::string precision = call.string(0);
  if (precision != "highest" && precision != "high" && precision != "medium") {  // libtorch would only warn
    throw CodedError("TORCH_VALUE", "the precision is 'highest', 'high' or 'medium', not '" + precision + "'");
  }
  at::globalContext().setFloat32MatmulPrecision(precision);
  return nullptr;
}

napi_value cudaDeviceCount(Call& call) {
  if (!at::globalContext().hasCUDA()) return call.make(0.0);
  return call.make(static_cast<double>(at::accelerator::deviceCount()));
}

napi_value cudaSynchronize(Call& call) {
  at::accelerator::synchronizeDevice(cudaDeviceArgument(call, 0));
  return nullptr;
}

napi_value cudaSetDevice(Call& call) {
  at::accelerator::setDeviceIndex(cudaDeviceArgument(call, 0));
  return nullptr;
}

napi_value cudaCurrentDevice(Call& call) {
  if (!at::globalContext().hasCUDA()) throw CodedError("TORCH_CUDA_UNAVAILABLE", "no CUDA device is available");
  return call.make(static_cast<double>(at::accelerator::getDeviceIndex()));
}

napi_value cudaEmptyCache(Call& call) {
  if (at::globalContext().hasCUDA()) at::accelerator::emptyCache();
  return call.undefined();
}

// (index) -> bytes { allocated, reserved, peakAllocated, peakReserved, free, total, allocationRetries, outOfMemory }
napi_value cudaMemoryStats(Call& call) {
  const c10::DeviceIndex index = cudaDeviceArgument(call, 0);
  const auto stats = at::accelerator::getDeviceStats(index);
  const auto [free, total] = at::accelerator::getMemoryInfo(index);
  constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  Napi::Object result = Napi::Object::New(call.env);
  auto set = [&](const char* name, double value) { result.Set(name, value); };
  set("allocated", static_cast<double>(stats.allocated_bytes[all].current));
  set("reserved", static_cast<double>(stats.reserved_bytes[all].current));
  set("peakAllocated", static_cast<double>(stats.allocated_bytes[all].peak));
  set("peakReserved", static_cast<double>(stats.reserved_bytes[all].peak));
  set("free", static_cast<double>(free));
  set("total", static_cast<double>(total));
  set("allocationRetries", static_cast<double>(stats.num_alloc_retries));
  set("outOfMemory", static_cast<double>(stats.num_ooms));
  return result;
}

napi_value cudaResetPeakStats(Call& call) {
  at::accelerator::resetPeakStats(cudaDeviceArgument(call, 0));
  return nullptr;
}

napi_value cudaDeviceProperties(Call& call) {
  const c10::DeviceIndex index = cudaDeviceArgument(call, 0);
  Napi::Object result = Napi::Object::New(call.env);
#ifdef DIFFCODER_CUDA
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(index);
  result.Set("name", properties->name);
  result.Set("major", properties->major);
  result.Set("minor", properties->minor);
  result.Set("totalMemory", static_cast<double>(properties->totalGlobalMem));
  result.Set("multiProcessorCount", properties->multiProcessorCount);
#else
  result.Set("index", static_cast<double>(index));
#endif
  return result;
}

}  // namespace

void defineDevices(napi_env env, napi_value exports) {
  define<build>(env, exports, "build");
  define<getNumThreads>(env, exports, "getNumThreads");
  define<setNumThreads>(env, exports, "setNumThreads");
  define<setDeterministic>(env, exports, "setDeterministic");
  define<setFloat32MatmulPrecision>(env, exports, "setFloat32MatmulPrecision");
  define<cudaDeviceCount>(env, exports, "cudaDeviceCount");
  define<cudaSynchronize>(env, exports, "cudaSynchronize");
  define<cudaSetDevice>(env, exports, "cudaSetDevice");
  define<cudaCurrentDevice>(env, exports, "cudaCurrentDevice");
  define<cudaEmptyCache>(env, exports, "cudaEmptyCache");
  define<cudaMemoryStats>(env, exports, "cudaMemoryStats");
  define<cudaResetPeakStats>(env, exports, "cudaResetPeakStats");
  define<cudaDeviceProperties>(env, exports, "cudaDeviceProperties");
}

}  // namespace diffcoder
