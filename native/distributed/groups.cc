// Process groups: made on a thread of their own, because every member must come before the first one goes on.
#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include "../background.h"
#include "state.h"

namespace diffcoder {

namespace {

struct GroupRequest {
  std::string backend, name;
  StorePtr store;
  int rank, size;
  std::chrono::milliseconds timeout;
};

BackendPtr makeGloo(const GroupRequest& request) {
  auto options = c10d::ProcessGroupGloo::Options::create(request.timeout);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(interface && *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                                     : c10d::ProcessGroupGloo::createDefaultDevice());
  options->group_name = request.name;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(request.store, request.rank, request.size, options);
}

BackendPtr makeNccl(const GroupRequest& request) {
#ifdef USE_C10D_NCCL
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = request.timeout;
  options->group_name = request.name;
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(request.store, request.rank, request.size, options);
  group->setSequenceNumberForGroup();
  return group;
#else
  throw CodedError("TORCH_CUDA_UNAVAILABLE", "this build has no NCCL: it was made with a CPU build of libtorch");
#endif
}

// (backend, store, rank, size, timeout in seconds, name) -> promise of a group
napi_value createGroup(Call& call) {
  GroupRequest request{call.string(0),
                       call.string(5),
                       storeArgument(call, 1),
                       static_cast<int>(call.integer(2)),
                       static_cast<int>(call.integer(3)),
                       secondsOf(call, 4)};
  if (request.backend != "gloo" && request.backend != "nccl") {
    throw CodedError("TORCH_VALUE", "the backend is 'gloo' or 'nccl', not '" + request.backend + "'");
  }
  return inBackground<BackendPtr>(
      call, "diffcoder.createGroup",
      [request] {
        // Its own connection to the store: making a group waits for keys of other members.
        GroupRequest own = request;
        own.store = request.store->clone();
        own.store->setTimeout(request.timeout);
        return own.backend == "nccl" ? makeNccl(own) : makeGloo(own);
      },
      [](Environment& environment, Napi::Env env, BackendPtr group) {
        return Napi::Number::New(env, DistributedState::of(environment).groups.add(std::move(group)));
      });
}

napi_value hasNccl(Call& call) {
#ifdef USE_C10D_NCCL
  return call.make(true);
#else
  return call.make(false);
#endif
}

// (group) -> promise. Ends the threads and connections of a group that is no longer used; not on the JavaScript thread,
// for it waits for what is under way.
napi_value destroyGroup(Call& call) {
  BackendPtr group = DistributedState::of(*call.environment).groups.take(call.number(0));
  auto held = std::make_shared<BackendPtr>(std::move(group));
  return inBackground<bool>(
      call, "diffcoder.destroyGroup",
      [held] {
        if (*held) (*held)->shutdown();
        held->reset();
        return true;
      },
      [](Environment&, Napi::Env env, bool) { return env.Undefined(); });
}

// (group): NCCL ends what is under way. Gloo cannot: the group is left behind, its waits end with their timeouts.
napi_value abortGroup(Call& call) {
  BackendPtr group = DistributedState::of(*call.environment).groups.take(call.number(0));
  if (!group) return nullptr;
  group->abort();
  group.release();
  return nullptr;
}

napi_value setGroupTimeout(Call& call) {
  groupArgument(call, 0)->setTimeout(secondsOf(call, 1));
  return nullptr;
}

// (group, timeout, all) -> promise. Rank 0 names who did not come.
napi_value monitoredBarrier(Call& call) {
  c10d::BarrierOptions options;
  options.timeout = secondsOf(call, 1);
  return inBackground<bool>(
      call, "diffcoder.monitoredBarrier",
      [group = groupArgument(call, 0), options, held = DistributedState::of(*call.environment).underWay()] {
        group->monitoredBarrier(options, /*waitAllRanks=*/true);
        return true;
      },
      [](Environment&, Napi::Env env, bool) { return env.Undefined(); });
}

}  // namespace

void defineGroups(napi_env env, napi_value exports) {
  define<createGroup>(env, exports, "createGroup");
  define<hasNccl>(env, exports, "hasNccl");
  define<destroyGroup>(env, exports, "destroyGroup");
  define<abortGroup>(env, exports, "abortGroup");
  define<setGroupTimeout>(env, exports, "setGroupTimeout");
  define<monitoredBarrier>(env, exports, "monitoredBarrier");
}

}  // namespace diffcoder
