// Collectives and point-to-point messages. Each starts and gives the number of a work, which is then waited for.
#include <c10/core/DeviceGuard.h>

#include <array>
#include <thread>

#include "../background.h"
#include "state.h"

namespace diffcoder {

namespace {

napi_value started(Call& call, c10::intrusive_ptr<c10d::Work> work, std::vector<at::Tensor> tensors) {
  if (!work) throw CodedError("TORCH_INTERNAL", "the process group gave no work");
  return call.make(DistributedState::of(*call.environment).works.add({std::move(work), std::move(tensors)}));
}

// Backends read and write the memory as it lies.
at::Tensor dense(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_contiguous()) {
    throw CodedError("TORCH_VALUE", "a collective needs contiguous tensors");
  }
  if (tensor.is_conj() || tensor.is_neg()) {
    throw CodedError("TORCH_VALUE", "a collective needs tensors as their memory has them: resolveConj().resolveNeg()");
  }
  return tensor.detach();
}

at::Tensor dense(const Call& call, size_t i) { return dense(call.tensor(i)); }

std::vector<at::Tensor> denseList(const Call& call, size_t i) {
  std::vector<at::Tensor> tensors = call.tensors(i);
  for (at::Tensor& tensor : tensors) tensor = dense(tensor);
  return tensors;
}

std::vector<int64_t> integersOf(const Call& call, size_t i) {
  std::vector<int64_t> result;
  uint32_t length = 0;
  check(call.env, napi_get_array_length(call.env, call[i], &length));
  for (uint32_t j = 0; j < length; ++j) {
    napi_value element;
    int64_t value = 0;
    check(call.env, napi_get_element(call.env, call[i], j, &element));
    check(call.env, napi_get_value_int64(call.env, element, &value));
    result.push_back(value);
  }
  return result;
}

c10d::ReduceOp reduceOp(const Call& call, size_t i) {
  using Kind = c10d::ReduceOp::RedOpType;
  static const std::array<std::pair<const char*, Kind>, 8> kinds = {{{"sum", Kind::SUM},
                                                                     {"avg", Kind::AVG},
                                                                     {"product", Kind::PRODUCT},
                                                                     {"min", Kind::MIN},
                                                                     {"max", Kind::MAX},
                                                                     {"band", Kind::BAND},
                                                                     {"bor", Kind::BOR},
                                                                     {"bxor", Kind::BXOR}}};
  const std::string name = call.string(i);
  for (const auto& [known, kind] : kinds) {
    if (name == known) return c10d::ReduceOp(kind);
  }
  throw CodedError("TORCH_VALUE",
                   "the reduction is one of sum, avg, product, min, max, band, bor, bxor, not '" + name + "'");
}

// (group, tensors, op): one tensor, or several of one dtype as if they were one.
napi_value allReduce(Call& call) {
  std::vector<at::Tensor> tensors = denseList(call, 1);
  if (tensors.size() == 1) {
    c10d::AllreduceOptions options;
    options.reduceOp = reduceOp(call, 2);
    return started(call, groupArgument(call, 0)->allreduce(tensors, options), tensors);
  }
  c10d::AllreduceCoalescedOptions options;
  options.reduceOp = reduceOp(call, 2);
  return started(call, groupArgument(call, 0)->allreduce_coalesced(tensors, options), tensors);
}

// (group, tensor, source)
napi_value broadcast(Call& call) {
  std::vector<at::Tensor> tensors{dense(call, 1)};
  c10d::BroadcastOptions options;
  options.rootRank = call.integer(2);
  return started(call, groupArgument(call, 0)->broadcast(tensors, options), tensors);
}

// (group, tensor, destination, op)
napi_value reduce(Call& call) {
  std::vector<at::Tensor> tensors{dense(call, 1)};
  c10d::ReduceOptions options;
  options.rootRank = call.integer(2);
  options.reduceOp = reduceOp(call, 3);
  return started(call, groupArgument(call, 0)->reduce(tensors, options), tensors);
}

// (group, output, input): output holds the inputs of all ranks, one behind the other.
napi_value allGather(Call& call) {
  at::Tensor output = dense(call, 1), input = dense(call, 2);
  return started(call, groupArgument(call, 0)->_allgather_base(output, input), {output, input});
}

// (group, outputs, input): one output a rank; shapes may differ where the backend allows it.
napi_value allGatherList(Call& call) {
  std::vector<std::vector<at::Tensor>> outputs{denseList(call, 1)};
  std::vector<at::Tensor> inputs{dense(call, 2)};
  std::vector<at::Tensor> held = outputs[0];
  held.push_back(inputs[0]);
  return started(call, groupArgument(call, 0)->allgather(outputs, inputs), std::move(held));
}

// (group, output, input, op): the rank's own part of the reduced input.
napi_value reduceScatter(Call& call) {
  at::Tensor output = dense(call, 1), input = dense(call, 2);
  c10d::ReduceScatterOptions options;
  options.reduceOp = reduceOp(call, 3);
  return started(call, groupArgument(call, 0)->_reduce_scatter_base(output, input, options), {output, input});
}

// (group, outputs or [] elsewhere, input, destination)
napi_value gather(Call& call) {
  std::vector<at::Tensor> list = denseList(call, 1);
  std::vector<std::vector<at::Tensor>> outputs;
  if (!list.empty()) outputs.push_back(list);
  std::vector<at::Tensor> inputs{dense(call, 2)};
  c10d::GatherOptions options;
  options.rootRank = call.integer(3);
  list.push_back(inputs[0]);
  return started(call, groupArgument(call, 0)->gather(outputs, inputs, options), std::move(list));
}

// (group, output, inputs or [] elsewhere, source)
napi_value scatter(Call& call) {
  std::vector<at::Tensor> outputs{dense(call, 1)}, list = denseList(call, 2);
  std::vector<std::vector<at::Tensor>> inputs;
  if (!list.empty()) inputs.push_back(list);
  c10d::ScatterOptions options;
  options.rootRank = call.integer(3);
  list.push_back(outputs[0]);
  return started(call, groupArgument(call, 0)->scatter(outputs, inputs, options), std::move(list));
}

// (group, output, input, output sizes, input sizes): sizes along dimension 0, [] for equal parts.
napi_value allToAll(Call& call) {
  at::Tensor output = dense(call, 1), input = dense(call, 2);
  std::vector<int64_t> outputSizes = integersOf(call, 3), inputSizes = integersOf(call, 4);
  return started(call, groupArgument(call, 0)->alltoall_base(output, input, outputSizes, inputSizes), {output, input});
}

// (group, tensor, destination, tag)
napi_value send(Call& call) {
  std::vector<at::Tensor> tensors{dense(call, 1)};
  return started(
      call, groupArgument(call, 0)->send(tensors, static_cast<int>(call.integer(2)), static_cast<int>(call.integer(3))),
      tensors);
}

// (group, tensor, source or -1 for any, tag)
napi_value receive(Call& call) {
  std::vector<at::Tensor> tensors{dense(call, 1)};
  const int source = static_cast<int>(call.integer(2)), tag = static_cast<int>(call.integer(3));
  auto& group = groupArgument(call, 0);
  return started(call, source < 0 ? group->recvAnysource(tensors, tag) : group->recv(tensors, source, tag), tensors);
}

// (group, device index or -1)
napi_value barrier(Call& call) {
  c10d::BarrierOptions options;
  if (const int64_t index = call.integer(1); index >= 0) options.device_ids = {index};
  return started(call, groupArgument(call, 0)->barrier(options), {});
}

PendingWork& workArgument(const Call& call, size_t i) {
  PendingWork* pending = DistributedState::of(*call.environment).works.find(call.number(i));
  if (!pending) throw CodedError("TORCH_DISPOSED", "the work was waited for already");
  return *pending;
}

// (work) -> rank it came from, -1 where that means nothing. Blocks until the result is there; on CUDA the stream waits,
// not the thread.
napi_value waitForWork(Call& call) {
  const PendingWork pending = workArgument(call, 0);
  DistributedState::of(*call.environment).works.free(call.number(0));
  if (!pending.work->wait()) throw CodedError("TORCH_ERROR", "the work was aborted");
  const bool received = pending.work->retrieveOpType() == c10d::OpType::RECVANYSOURCE;
  return call.make(static_cast<double>(received ? pending.work->sourceRank() : -1));
}

napi_value isWorkDone(Call& call) { return call.make(workArgument(call, 0).work->isCompleted()); }

// (work) -> promise. The event loop goes on meanwhile.
napi_value awaitWork(Call& call) {
  const PendingWork pending = workArgument(call, 0);
  DistributedState::of(*call.environment).works.free(call.number(0));
  const bool onDevice = !pending.tensors.empty() && !pending.tensors[0].device().is_cpu();
  if (onDevice) pending.work->synchronize();  // this thread's stream waits for it; another thread's would not
  return inBackground<bool>(
      call, "diffcoder.work",
      [pending, onDevice, held = DistributedState::of(*call.environment).underWay()] {
        if (!onDevice) {
          if (!pending.work->wait()) throw CodedError("TORCH_ERROR", "the work was aborted");
          return true;
        }
        const c10::DeviceGuard here(pending.tensors[0].device());  // else asking would make a context on the first one
        while (!pending.work->isCompleted()) std::this_thread::sleep_for(std::chrono::microseconds(50));
        if (pending.work->exception()) std::rethrow_exception(pending.work->exception());
        return true;
      },
      [](Environment&, Napi::Env env, bool) { return env.Undefined(); });
}

}  // namespace

void defineCollectives(napi_env env, napi_value exports) {
  define<allReduce>(env, exports, "allReduce");
  define<broadcast>(env, exports, "broadcast");
  define<reduce>(env, exports, "reduce");
  define<allGather>(env, exports, "allGather");
  define<allGatherList>(env, exports, "allGatherList");
  define<reduceScatter>(env, exports, "reduceScatter");
  define<gather>(env, exports, "gather");
  define<scatter>(env, exports, "scatter");
  define<allToAll>(env, exports, "allToAll");
  define<send>(env, exports, "send");
  define<receive>(env, exports, "receive");
  define<barrier>(env, exports, "barrier");
  define<waitForWork>(env, exports, "waitForWork");
  define<isWorkDone>(env, exports, "isWorkDone");
  define<awaitWork>(env, exports, "awaitWork");
}

}  // namespace diffcoder
