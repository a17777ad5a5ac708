// Stores: the small key-value memory through which processes find each other (torch.distributed.Store).
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "../background.h"
#include "state.h"

namespace diffcoder {

namespace {

napi_value add(Environment& environment, Napi::Env env, StorePtr store) {
  return Napi::Number::New(env, DistributedState::of(environment).stores.add(std::move(store)));
}

napi_value toUint8Array(Environment&, Napi::Env env, const std::vector<uint8_t>& bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(array.Data(), bytes.data(), bytes.size());
  return array;
}

// (host, port, isServer, timeout in seconds) -> promise of a store. Connecting waits for the server.
napi_value tcpStore(Call& call) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(call.integer(1));
  options.isServer = call.boolean(2);
  options.waitWorkers = false;
  options.timeout = secondsOf(call, 3);
  return inBackground<StorePtr>(
      call, "diffcoder.tcpStore",
      [host = call.string(0), options]() -> StorePtr { return c10::make_intrusive<c10d::TCPStore>(host, options); },
      add);
}

napi_value tcpStorePort(Call& call) {
  auto* store = dynamic_cast<c10d::TCPStore*>(storeArgument(call, 0).get());
  if (!store) throw CodedError("TORCH_VALUE", "the store is no TCPStore");
  return call.make(static_cast<double>(store->getPort()));
}

// (path, number of processes, 0: not known)
napi_value fileStore(Call& call) {
  const int workers = static_cast<int>(call.integer(1));
  StorePtr store = c10::make_intrusive<c10d::FileStore>(call.string(0), workers > 0 ? workers : -1);
  return add(*call.environment, call.env, std::move(store));
}

napi_value hashStore(Call& call) { return add(*call.environment, call.env, c10::make_intrusive<c10d::HashStore>()); }

// (prefix, store)
napi_value prefixStore(Call& call) {
  return add(*call.environment, call.env,
             c10::make_intrusive<c10d::PrefixStore>(call.string(0), storeArgument(call, 1)));
}

napi_value closeStore(Call& call) {
  return call.make(DistributedState::of(*call.environment).stores.free(call.number(0)));
}

napi_value storeSet(Call& call) {
  storeArgument(call, 0)->set(call.string(1), bytesOf(call, 2));
  return nullptr;
}

// A connection of its own for a wait, which would block the store's others. A server that is gone is noticed before:
// connecting waits for as long as the store was told to, whatever this wait may take.
StorePtr ownConnection(const StorePtr& store) {
  store->check({"a server that answers"});
  return store->clone();
}

// (store, key, timeout) -> promise of the value
napi_value storeGet(Call& call) {
  return inBackground<std::vector<uint8_t>>(
      call, "diffcoder.storeGet",
      [store = storeArgument(call, 0), key = call.string(1), timeout = secondsOf(call, 2)] {
        const StorePtr own = ownConnection(store);
        own->wait({key}, timeout);
        return own->get(key);
      },
      toUint8Array);
}

// (store, keys, timeout) -> promise
napi_value storeWait(Call& call) {
  return inBackground<bool>(
      call, "diffcoder.storeWait",
      [store = storeArgument(call, 0), keys = stringsOf(call, 1), timeout = secondsOf(call, 2)] {
        ownConnection(store)->wait(keys, timeout);
        return true;
      },
      [](Environment&, Napi::Env env, bool) { return env.Undefined(); });
}

napi_value storeCheck(Call& call) { return call.make(storeArgument(call, 0)->check(stringsOf(call, 1))); }

napi_value storeAdd(Call& call) {
  return call.make(static_cast<double>(storeArgument(call, 0)->add(call.string(1), call.integer(2))));
}

napi_value storeDelete(Call& call) { return call.make(storeArgument(call, 0)->deleteKey(call.string(1))); }

// (store, key, expected, desired) -> what the key holds afterwards
napi_value storeCompareSet(Call& call) {
  return toUint8Array(*call.environment, call.env,
                      storeArgument(call, 0)->compareSet(call.string(1), bytesOf(call, 2), bytesOf(call, 3)));
}

napi_value storeNumKeys(Call& call) { return call.make(static_cast<double>(storeArgument(call, 0)->getNumKeys())); }

}  // namespace

void defineStores(napi_env env, napi_value exports) {
  define<tcpStore>(env, exports, "tcpStore");
  define<tcpStorePort>(env, exports, "tcpStorePort");
  define<fileStore>(env, exports, "fileStore");
  define<hashStore>(env, exports, "hashStore");
  define<prefixStore>(env, exports, "prefixStore");
  define<closeStore>(env, exports, "closeStore");
  define<storeSet>(env, exports, "storeSet");
  define<storeGet>(env, exports, "storeGet");
  define<storeWait>(env, exports, "storeWait");
  define<storeCheck>(env, exports, "storeCheck");
  define<storeAdd>(env, exports, "storeAdd");
  define<storeDelete>(env, exports, "storeDelete");
  define<storeCompareSet>(env, exports, "storeCompareSet");
  define<storeNumKeys>(env, exports, "storeNumKeys");
}

}  // namespace diffcoder
