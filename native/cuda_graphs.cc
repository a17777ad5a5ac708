// CUDA graphs: the kernels of a piece of work, recorded once and launched again as one, over the same memory.
#ifdef DIFFCODER_CUDA
#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <functional>
#include <map>
#endif

#include "devices.h"

namespace diffcoder {

#ifdef DIFFCODER_CUDA

namespace {

// Where work is warmed up and recorded, as it cannot be on the default stream. One for each thread and device: cuBLAS
// keeps a workspace for every stream it has met.
c10::cuda::CUDAStream sideStream(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  auto found = streams.find(device);
  if (found == streams.end()) {
    found = streams.emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)).first;
  }
  return found->second;
}

void waitFor(const c10::cuda::CUDAStream& before, const c10::cuda::CUDAStream& after) {
  at::cuda::CUDAEvent event;
  event.record(before);
  event.block(after);
}

// Makes the side stream the current one. Its work comes after all that the current one was given before, and before all
// that it is given later: so memory may go from one to the other, and back, without being marked.
class OnSideStream {
 public:
  explicit OnSideStream(c10::DeviceIndex device)
      : outer_(c10::cuda::getCurrentCUDAStream(device)), side_(sideStream(device)), guard_(side_) {
    waitFor(outer_, side_);
  }
  OnSideStream(const OnSideStream&) = delete;
  OnSideStream& operator=(const OnSideStream&) = delete;
  ~OnSideStream() {
    try {
      waitFor(side_, outer_);
    } catch (const std::exception&) {  // the device is lost: the next call will say so
    }
  }

 private:
  c10::cuda::CUDAStream outer_;
  c10::cuda::CUDAStream side_;
  c10::cuda::CUDAStreamGuard guard_;
};

// The memory pool that all graphs of one device share. libtorch destroys a pool with its last graph, and the pool's id
// cannot be reused, so that the next capture allocates a new pool.
struct GraphPool {
  c10::MempoolId_t id{};
  int64_t recordings = 0;
};

// Pools by the numbers JavaScript has for them.
std::map<int64_t, std::shared_ptr<GraphPool>>& pools() {
  thread_local std::map<int64_t, std::shared_ptr<GraphPool>> all;
  return all;
}

}  // namespace

class CudaGraph {
 public:
  using Work = std::function<void()>;

  CudaGraph(c10::DeviceIndex device, std::shared_ptr<GraphPool> pool) : device_(device), pool_(std::move(pool)) {}
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  ~CudaGraph() {
    if (graph_) --pool_->recordings;
  }

  // Runs the work as it would be recorded: libraries make handles, workspaces and plans at first use.
  void warmUp(const Work& work) {
    const OnSideStream side(device_);
    work();
  }

  // Records the work, which does not run. A graph whose recording failed is as it was before.
  void capture(const Work& work) {
    if (graph_) throw CodedError("TORCH_VALUE", "the graph holds a recording already");
    const OnSideStream side(device_);
    if (pool_->recordings == 0) pool_->id = at::cuda::graph_pool_handle();
    auto graph = std::make_unique<at::cuda::CUDAGraph>();
    try {
      // Other threads may train, load or watch NCCL meanwhile: what they do is no part of this.
      graph->capture_begin(pool_->id, cudaStreamCaptureModeThreadLocal);
      work();
      graph->capture_end();
    } catch (...) {
      abandon(*graph);
      throw;
    }
    graph_ = std::move(graph);
    ++pool_->recordings;
  }

  // Launches what was recorded, on the current stream.
  void replay() {
    if (!graph_) throw CodedError("TORCH_VALUE", "nothing was recorded: call capture() first");
    graph_->replay();
  }

 private:
  // Ends a recording that failed somewhere. Where the stream lost it, libtorch leaves both allocators in the pool.
  void abandon(at::cuda::CUDAGraph& graph) noexcept {
    try {
      graph.capture_end();
      return;
    } catch (const std::exception&) {
    }
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, pool_->id);
      c10::cuda::CUDACachingAllocator::releasePool(device_, pool_->id);
      at::HostAllocator* host = at::getHostAllocator(at::kCUDA);
      host->end_allocate_to_pool(pool_->id);
      host->release_pool(pool_->id);
    } catch (const std::exception&) {  // they were out of it
    }
  }

  c10::DeviceIndex device_;
  std::shared_ptr<GraphPool> pool_;
  std::unique_ptr<at::cuda::CUDAGraph> graph_;
};

namespace {

std::shared_ptr<CudaGraph> graphArgument(const Call& call, size_t i) {
  std::shared_ptr<CudaGraph>* graph = call.environment->cudaGraphs.find(call.number(i));
  if (!graph) throw CodedError("TORCH_DISPOSED", "the graph was disposed");
  return *graph;  // a copy: the work may dispose of it
}

// Argument i, a function without arguments.
CudaGraph::Work workArgument(const Call& call, size_t i) {
  return [&call, i] {
    Napi::HandleScope scope(call.env);
    napi_value returned;
    if (napi_call_function(call.env, call.undefined(), call[i], 0, nullptr, &returned) != napi_ok) {
      call.environment->keepPendingError(call.env);
      throw JsException();
    }
  };
}

// () -> the number of a new pool.
napi_value cudaGraphPool(Call& call) {
  if (!at::globalContext().hasCUDA()) throw CodedError("TORCH_CUDA_UNAVAILABLE", "no CUDA device is available");
  const int64_t number = static_cast<int64_t>(pools().size()) + 1;
  pools().emplace(number, std::make_shared<GraphPool>());
  return call.make(static_cast<double>(number));
}

// (device, pool; 0: its own) -> handle
napi_value cudaGraphCreate(Call& call) {
  const c10::DeviceIndex device = cudaDeviceArgument(call, 0);
  const int64_t number = call.integer(1);
  const auto pool = pools().find(number);
  if (number != 0 && pool == pools().end()) {
    throw CodedError("TORCH_VALUE", "there is no pool " + std::to_string(number));
  }
  auto shared = number == 0 ? std::make_shared<GraphPool>() : pool->second;
  return call.make(call.environment->cudaGraphs.add(std::make_shared<CudaGraph>(device, std::move(shared))));
}

// (graph, function)
napi_value cudaGraphWarmUp(Call& call) {
  graphArgument(call, 0)->warmUp(workArgument(call, 1));
  return nullptr;
}

// (graph, function)
napi_value cudaGraphCapture(Call& call) {
  graphArgument(call, 0)->capture(workArgument(call, 1));
  return nullptr;
}

napi_value cudaGraphReplay(Call& call) {
  graphArgument(call, 0)->replay();
  return nullptr;
}

// (graph) -> whether there was one
napi_value cudaGraphFree(Call& call) { return call.make(call.environment->cudaGraphs.free(call.number(0))); }

}  // namespace

void defineCudaGraphs(napi_env env, napi_value exports) {
  define<cudaGraphPool>(env, exports, "cudaGraphPool");
  define<cudaGraphCreate>(env, exports, "cudaGraphCreate");
  define<cudaGraphWarmUp>(env, exports, "cudaGraphWarmUp");
  define<cudaGraphCapture>(env, exports, "cudaGraphCapture");
  define<cudaGraphReplay>(env, exports, "cudaGraphReplay");
  define<cudaGraphFree>(env, exports, "cudaGraphFree");
}

#else

namespace {

napi_value unavailable(Call&) {
  throw CodedError("TORCH_CUDA_UNAVAILABLE", "CUDA graphs need an addon that was built with CUDA");
}

}  // namespace

void defineCudaGraphs(napi_env env, napi_value exports) {
  for (const char* name : {"cudaGraphPool", "cudaGraphCreate", "cudaGraphWarmUp", "cudaGraphCapture", "cudaGraphReplay",
                           "cudaGraphFree"}) {
    define<unavailable>(env, exports, name);
  }
}

#endif

}  // namespace diffcoder
