// Files read into tensors. Not mapped: a map whose file shrinks ends the process with SIGBUS, at any later use.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "call.h"

namespace diffcoder {

namespace {

// Reads `size` bytes from `offset` on. The file may be cut meanwhile.
void readAt(int fd, char* target, size_t size, size_t offset) {
  while (size > 0) {
    const ssize_t count = ::pread(fd, target, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw CodedError("TORCH_IO", std::strerror(errno));
    if (count == 0) {
      throw CodedError("TORCH_IO", "the file ends at byte " + std::to_string(offset) + ", " + std::to_string(size) +
                                       " bytes before the end of the tensor: it was truncated while it was open");
    }
    target += count;
    offset += static_cast<size_t>(count);
    size -= static_cast<size_t>(count);
  }
}

// (file descriptor, offset, dtype code, ndim: shape in scratch) -> handle of a CPU tensor with the bytes from there on.
napi_value readFile(Call& call) {
  const int fd = static_cast<int>(call.integer(0));
  const size_t offset = static_cast<size_t>(call.number(1));
  const size_t ndim = static_cast<size_t>(call.number(3));
  if (ndim > Environment::kScratchSize) throw CodedError("TORCH_VALUE", "too many dimensions");
  const double* scratch = call.environment->scratch.data();
  const std::vector<int64_t> shape(scratch, scratch + ndim);
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(static_cast<at::ScalarType>(call.integer(2))));
  constexpr int64_t kChunk = int64_t{8} << 20;
  const int64_t size = static_cast<int64_t>(tensor.nbytes());
  char* data = static_cast<char*>(tensor.data_ptr());
  // In parallel: much of the time is the system's, which finds pages for the new memory.
  at::parallel_for(0, (size + kChunk - 1) / kChunk, 1, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * kChunk;
    readAt(fd, data + from, static_cast<size_t>(std::min(end * kChunk, size) - from),
           offset + static_cast<size_t>(from));
  });
  return call.handle(std::move(tensor));
}

}  // namespace

void defineFiles(napi_env env, napi_value exports) { define<readFile>(env, exports, "readFile"); }

}  // namespace diffcoder
