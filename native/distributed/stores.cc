// Stores: the small key-value memory through which processes find each other (torch.distributed.Store).
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

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

// A listening socket that nobody has taken over yet.
class Listener {
 public:
  Listener(int fd, uint16_t port) : fd_(fd), port_(port) {}
  Listener(Listener&& other) noexcept : fd_(std::exchange(other.fd_, -1)), port_(other.port_) {}
  Listener(const Listener&) = delete;
  ~Listener() {
    if (fd_ >= 0) ::close(fd_);
  }

  uint16_t port() const { return port_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
  uint16_t port_;
};

bool isLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return (ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24) == 127;
  }
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

uint16_t portOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
}

// Listens on one address; errno says why not.
std::optional<Listener> listenOn(const addrinfo& address) {
  const int fd = ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (::bind(fd, address.ai_addr, address.ai_addrlen) != 0 || ::listen(fd, SOMAXCONN) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    const int why = errno;
    ::close(fd);
    errno = why;
    return std::nullopt;
  }
  return Listener(fd, portOf(bound));
}

// c10d itself would listen on every address. Where a name means the loopback on its own machine only, as Debian's
// /etc/hosts has it for the machine's name, others know it by another address: then every address it is.
Listener listenAt(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const std::string service = std::to_string(port);
  addrinfo* found = nullptr;
  const auto lookUp = [&](const char* name) {
    if (const int failure = ::getaddrinfo(name, service.c_str(), &hints, &found); failure != 0) {
      throw CodedError("TORCH_VALUE", "'" + host + "' is no address and no known name: " + ::gai_strerror(failure));
    }
    return std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>(found, &::freeaddrinfo);
  };
  auto addresses = lookUp(host.c_str());
  in6_addr literal{};
  const bool isName = host != "localhost" && ::inet_pton(AF_INET, host.c_str(), &literal) != 1 &&
                      ::inet_pton(AF_INET6, host.c_str(), &literal) != 1;
  if (isName && isLoopback(addresses->ai_addr)) addresses = lookUp(nullptr);
  int why = 0;
  for (const addrinfo* each = addresses.get(); each != nullptr; each = each->ai_next) {
    if (auto listener = listenOn(*each)) return std::move(*listener);
    why = errno;
  }
  const std::string hint =
      why == EADDRNOTAVAIL ? " (no address of this machine; listenHost or DIFFCODER_STORE_HOST says where to listen)"
                           : "";
  throw std::runtime_error("the server socket cannot listen: " + std::string(std::strerror(why)) + hint);
}

// (host, port, isServer, timeout in seconds, host to listen on) -> promise of a store. Connecting waits for the server.
napi_value tcpStore(Call& call) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(call.integer(1));
  options.isServer = call.boolean(2);
  options.waitWorkers = false;
  options.timeout = secondsOf(call, 3);
  return inBackground<StorePtr>(
      call, "diffcoder.tcpStore",
      [host = call.string(0), listenHost = call.string(4), options]() mutable -> StorePtr {
        if (options.isServer) {
          Listener listener = listenAt(listenHost, options.port);
          options.port = listener.port();
          options.masterListenFd = listener.release();
        }
        return c10::make_intrusive<c10d::TCPStore>(host, options);
      },
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
