// Files as tensors: a memory map, so that loading a checkpoint reads only what is used.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "call.h"

namespace diffcoder {

namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void fail(const std::string& path) { throw CodedError("TORCH_IO", path + ": " + std::strerror(errno)); }

// (path) -> uint8 tensor over the whole file. Writing to it changes this process's copy only, never the file.
napi_value mapFile(Call& call) {
  const std::string path = call.string(0);
  FileDescriptor file(path);
  struct stat status{};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) fail(path);
  if (!S_ISREG(status.st_mode)) throw CodedError("TORCH_IO", path + ": not a regular file");
  const size_t size = static_cast<size_t>(status.st_size);
  if (size == 0) return call.handle(at::empty({0}, at::kByte));
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
  if (data == MAP_FAILED) fail(path);
  return call.handle(
      at::from_blob(data, {static_cast<int64_t>(size)}, [size](void* mapped) { ::munmap(mapped, size); }, at::kByte));
}

}  // namespace

void defineFiles(napi_env env, napi_value exports) { define<mapFile>(env, exports, "mapFile"); }

}  // namespace diffcoder
