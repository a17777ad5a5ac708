// Making tensors from JavaScript memory, reading them back, and asking what they are.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <unordered_set>

#include "call.h"
#include "collector.h"

namespace diffcoder {

namespace {

struct Bytes {
  void* data;
  size_t size;
};

Bytes bytesArgument(const Call& call, size_t i) {
  napi_typedarray_type type;
  Bytes bytes{};
  if (i >= call.count ||
      napi_get_typedarray_info(call.env, call[i], &type, &bytes.size, &bytes.data, nullptr, nullptr) != napi_ok) {
    throw CodedError("TORCH_ARGUMENT", "expected a typed array");
  }
  napi_value buffer;
  bool detached = false;
  check(call.env, napi_get_typedarray_info(call.env, call[i], nullptr, nullptr, nullptr, &buffer, nullptr));
  if (napi_is_detached_arraybuffer(call.env, buffer, &detached) == napi_ok && detached) {
    throw CodedError("TORCH_VALUE", "the typed array's memory was transferred away");
  }
  switch (type) {
    case napi_int16_array:
    case napi_uint16_array:
      bytes.size *= 2;
      break;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array:
      bytes.size *= 4;
      break;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array:
      bytes.size *= 8;
      break;
    default:
      break;
  }
  return bytes;
}

std::vector<int64_t> shapeFromScratch(const Call& call, size_t ndim) {
  if (ndim > 64) throw CodedError("TORCH_VALUE", "a tensor has at most 64 dimensions here");
  const double* scratch = call.environment->scratch.data();
  return std::vector<int64_t>(scratch, scratch + ndim);
}

// (typedArray, ndim: shape in scratch, dtype code, pinned) -> handle of a CPU tensor holding a copy.
napi_value fromBytes(Call& call) {
  const Bytes source = bytesArgument(call, 0);
  auto options = at::TensorOptions()
                     .dtype(static_cast<at::ScalarType>(call.integer(2)))
                     .pinned_memory(call.count > 3 && call.boolean(3));
  at::Tensor tensor = at::empty(shapeFromScratch(call, static_cast<size_t>(call.number(1))), options);
  if (tensor.nbytes() != source.size) {
    throw CodedError("TORCH_VALUE", "shape needs " + std::to_string(tensor.nbytes()) + " bytes, the data has " +
                                        std::to_string(source.size));
  }
  if (source.size > 0) std::memcpy(tensor.data_ptr(), source.data, source.size);
  return call.handle(std::move(tensor));
}

void copyOut(const at::Tensor& contiguous, const Bytes& target) {
  if (contiguous.nbytes() != target.size) throw CodedError("TORCH_VALUE", "the target has another size");
  if (target.size > 0) std::memcpy(target.data, contiguous.const_data_ptr(), target.size);
}

// The elements on the host as their memory has them, row-major: a negated or conjugated view keeps others.
at::Tensor plain(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU).resolve_conj().resolve_neg().contiguous();
}

// (tensor, typedArray): copies the elements, in row-major order, into the array. Waits for the device.
napi_value readInto(Call& call) {
  at::NoGradGuard guard;
  const at::Tensor source = plain(call.tensor(0));
  copyOut(source, bytesArgument(call, 1));
  return nullptr;
}

// Waits for a device's copy off the JavaScript thread.
class PendingRead : public Napi::AsyncWorker {
 public:
  PendingRead(Napi::Env env, at::Tensor host, c10::Event event, Napi::TypedArray target)
      : Napi::AsyncWorker(env, "diffcoder.read"),
        deferred_(Napi::Promise::Deferred::New(env)),
        host_(std::move(host)),
        event_(std::move(event)),
        target_(Napi::Persistent(target)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      event_.synchronize();
    } catch (const std::exception& e) {
      SetError(e.what());
    }
  }
  void OnOK() override {
    Napi::TypedArray target = target_.Value();
    if (target.ByteLength() != host_.nbytes()) {  // its memory was transferred away meanwhile
      return deferred_.Reject(Napi::Error::New(Env(), "the target of a read was detached").Value());
    }
    copyOut(host_, {static_cast<char*>(target.ArrayBuffer().Data()) + target.ByteOffset(), target.ByteLength()});
    deferred_.Resolve(target);
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  at::Tensor host_;
  c10::Event event_;
  Napi::Reference<Napi::TypedArray> target_;
};

// (tensor, typedArray) -> promise of the array. On the CPU it is read at once.
napi_value readAsync(Call& call) {
  at::NoGradGuard guard;
  Napi::Env env(call.env);
  const Bytes target = bytesArgument(call, 1);
  const at::Tensor source = call.tensor(0).detach();
  Napi::TypedArray array = Napi::Value(env, call[1]).As<Napi::TypedArray>();
  if (source.device().is_cpu()) {
    copyOut(plain(source), target);
    auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Resolve(array);
    return deferred.Promise();
  }
  at::Tensor host = at::empty(source.sizes(), source.options().device(at::kCPU).pinned_memory(true));
  host.copy_(source, /*non_blocking=*/true);
  c10::Event event(source.device().type());
  c10::impl::VirtualGuardImpl guardImpl(source.device().type());
  event.record(guardImpl.getStream(source.device()));
  auto* worker = new PendingRead(env, std::move(host), std::move(event), array);  // deletes itself when done
  napi_value promise = worker->promise();
  worker->Queue();
  return promise;
}

napi_value item(Call& call) {
  const at::Tensor& tensor = call.tensor(0);
  if (tensor.numel() != 1) {
    throw CodedError("TORCH_VALUE",
                     "a Tensor with " + std::to_string(tensor.numel()) + " elements cannot be converted to a number");
  }
  const at::Scalar scalar = tensor.item();
  if (scalar.isComplex()) throw CodedError("TORCH_VALUE", "a complex number cannot be converted to a number");
  if (scalar.isFloatingPoint()) return call.make(scalar.toDouble());
  if (scalar.type() != at::kUInt64) return call.exact(scalar.toLong());
  // The largest ones fit no int64.
  const uint64_t value = scalar.toUInt64();
  if (value > uint64_t{1} << 53) throw CodedError("TORCH_VALUE", "the integer " + std::to_string(value) + kNotExact);
  return call.make(static_cast<double>(value));
}

// Writes the sizes to scratch and returns their number.
napi_value shape(Call& call) {
  const at::Tensor& tensor = call.tensor(0);
  if (static_cast<size_t>(tensor.dim()) > Environment::kScratchSize)
    throw CodedError("TORCH_VALUE", "too many dimensions");
  double* scratch = call.environment->scratch.data();
  for (int64_t size : tensor.sizes()) *scratch++ = static_cast<double>(size);
  return call.make(static_cast<double>(tensor.dim()));
}

napi_value strides(Call& call) {
  const at::Tensor& tensor = call.tensor(0);
  if (tensor.layout() != at::kStrided) {
    throw CodedError("TORCH_VALUE", std::string("a tensor of the layout ") +
                                        (tensor.is_sparse() ? "sparse_coo" : "sparse_csr") + " has no strides");
  }
  if (static_cast<size_t>(tensor.dim()) > Environment::kScratchSize)
    throw CodedError("TORCH_VALUE", "too many dimensions");
  double* scratch = call.environment->scratch.data();
  for (int64_t stride : tensor.strides()) *scratch++ = static_cast<double>(stride);
  return call.make(static_cast<double>(tensor.dim()));
}

napi_value numel(Call& call) { return call.make(static_cast<double>(call.tensor(0).numel())); }
napi_value dtype(Call& call) { return call.make(static_cast<double>(call.tensor(0).scalar_type())); }
napi_value device(Call& call) { return call.make(call.tensor(0).device().str()); }
napi_value itemSize(Call& call) { return call.make(static_cast<double>(call.tensor(0).element_size())); }
napi_value isContiguous(Call& call) { return call.make(call.tensor(0).is_contiguous()); }
napi_value storageOffset(Call& call) { return call.make(static_cast<double>(call.tensor(0).storage_offset())); }
napi_value isSame(Call& call) { return call.make(call.tensor(0).is_same(call.tensor(1))); }

// (tensor, bytes): gives the storage's memory back, or takes new memory, whose content is anything. The tensor and its
// views stay what they are; none of them may be used while the memory is smaller than theirs.
napi_value resizeStorage(Call& call) {
  const at::Tensor& tensor = call.tensor(0);
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  const size_t bytes = static_cast<size_t>(call.number(1));
  if (storage->nbytes() == bytes) return nullptr;
  if (!storage->allocator())
    throw CodedError("TORCH_VALUE", "the storage has no allocator: it is not the tensor's own");
  const c10::OptionalDeviceGuard onDevice(tensor.device());
  // Nothing first: old and new memory must not be there at once.
  storage->set_data_ptr_noswap(at::DataPtr(nullptr, tensor.device()));
  storage->set_nbytes(0);
  if (bytes == 0) return nullptr;
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
  return nullptr;
}

// Another handle of the same tensor.
napi_value share(Call& call) { return call.handle(call.tensor(0)); }

napi_value freeTensor(Call& call) {
  const double handle = call.number(0);
  call.environment->collector->forget(call.env, handle);
  return call.make(call.environment->tensors.free(handle));
}

// (count): frees the handles in scratch.
napi_value freeMany(Call& call) {
  const size_t count = static_cast<size_t>(call.number(0));
  for (size_t i = 0; i < count && i < Environment::kScratchSize; ++i) {
    call.environment->tensors.free(call.environment->scratch[i]);
  }
  return nullptr;
}

// () -> live tensors, and the bytes of their distinct storages on the CPU and on other devices, in scratch.
napi_value memory(Call& call) {
  std::unordered_set<const void*> seen;
  double host = 0;
  double device = 0;
  call.environment->tensors.forEach([&](const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.has_storage()) return;
    if (!seen.insert(tensor.storage().unsafeGetStorageImpl()).second) return;
    (tensor.device().is_cpu() ? host : device) += static_cast<double>(tensor.storage().nbytes());
  });
  call.environment->scratch[0] = static_cast<double>(call.environment->tensors.live());
  call.environment->scratch[1] = host;
  call.environment->scratch[2] = device;
  return nullptr;
}

}  // namespace

void defineTensors(napi_env env, napi_value exports) {
  define<fromBytes>(env, exports, "fromBytes");
  define<readInto>(env, exports, "readInto");
  define<readAsync>(env, exports, "readAsync");
  define<item>(env, exports, "item");
  define<shape>(env, exports, "shape");
  define<strides>(env, exports, "strides");
  define<numel>(env, exports, "numel");
  define<dtype>(env, exports, "dtype");
  define<device>(env, exports, "device");
  define<itemSize>(env, exports, "itemSize");
  define<isContiguous>(env, exports, "isContiguous");
  define<storageOffset>(env, exports, "storageOffset");
  define<isSame>(env, exports, "isSame");
  define<resizeStorage>(env, exports, "resizeStorage");
  define<share>(env, exports, "share");
  define<freeTensor>(env, exports, "free");
  define<freeMany>(env, exports, "freeMany");
  define<memory>(env, exports, "memory");
}

}  // namespace diffcoder
