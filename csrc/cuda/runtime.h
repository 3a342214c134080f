// What drivers need of a device: memory, copies, streams, launches. Implemented over the CUDA runtime in
// runtime.cu, and over host memory in tests/cuda_on_cpu. Everything is ordered by a stream, and every
// failure is an exception that names it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace salience::cuda {

using Stream = void*;  // a cudaStream_t

class DeviceError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
class OutOfDeviceMemory : public DeviceError {
  using DeviceError::DeviceError;
};

struct DeviceLimits {
  int multiprocessors = 0;
  int64_t shared_bytes = 0;  // that one block may use
};

struct DeviceDescription {
  int number = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  DeviceLimits limits;
  int64_t total_bytes = 0, free_bytes = 0;
  int driver = 0, runtime = 0;  // versions, as 1000 major + 10 minor
};

// Why no device can be used, or an empty string. Never throws.
std::string unavailable();
DeviceDescription describe_device();  // takes a while
DeviceLimits device_limits();         // of the current device; takes no time

// The stream for callers that have none: one of the thread's own.
Stream default_stream();

// Makes the device that holds `pointer` (null: device 0) current until the end of the scope.
class DeviceScope {
 public:
  explicit DeviceScope(const void* pointer);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_;
};

void synchronize(Stream stream);
// Between any two of host and device memory. Host memory that is not pinned is done with on return.
void copy(void* to, const void* from, int64_t bytes, Stream stream);
// The same for rows of `bytes` that lie `to_pitch` and `from_pitch` bytes apart, neither less than `bytes`.
void copy_rows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t bytes, int64_t rows,
               Stream stream);
void fill(void* at, uint8_t byte, int64_t bytes, Stream stream);

void* allocate(int64_t bytes, Stream stream, const char* what);
// Gives memory back in the order of `stream`; with kNoStream, after everything on its device.
void release(void* memory, Stream stream) noexcept;
inline const Stream kNoStream = reinterpret_cast<Stream>(~uintptr_t{0});
void* allocate_pinned(int64_t bytes);
void release_pinned(void* memory) noexcept;

// `count` elements on the device, uninitialized, given back in the order of the stream.
template <class T>
class Array {
 public:
  Array() = default;
  Array(int64_t count, Stream stream, const char* what)
      : count_(count), stream_(stream), data_(static_cast<T*>(allocate(bytes(), stream, what))) {}
  ~Array() { release(data_, stream_); }
  Array(Array&& other) noexcept { *this = std::move(other); }
  Array& operator=(Array&& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    return *this;
  }
  T* data() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

  // From now on it may live longer than the stream it was made for.
  void outlive_stream() { stream_ = kNoStream; }

  void fill_bytes(uint8_t byte) { fill(data_, byte, bytes(), stream_); }

 private:
  int64_t count_ = 0;
  Stream stream_ = nullptr;
  T* data_ = nullptr;
};

// A copy of host memory, which may go on return.
template <class T>
Array<T> to_device(const T* from, int64_t count, Stream stream, const char* what) {
  Array<T> made(count, stream, what);
  copy(made.data(), from, made.bytes(), stream);
  return made;
}

// Page-locked host memory, which copies overlap with kernels.
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(int64_t bytes) : data_(allocate_pinned(bytes)) {}
  ~Pinned() { release_pinned(data_); }
  Pinned(Pinned&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Pinned& operator=(Pinned&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// A point in one stream that others wait for.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream stream);
  void hold(Stream stream) const;  // later work of `stream` waits
  void wait() const;               // the caller waits

 private:
  void* event_ = nullptr;
};

// A stream of our own, for copies beside the caller's kernels.
class SideStream {
 public:
  SideStream();
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  Stream get() const { return stream_; }
  void finish() noexcept;  // waits for it

 private:
  Stream stream_ = nullptr;
};

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 0;
  int64_t shared_bytes = 0;
};

// The seam under launch().
void launch_kernel(const char* name, void (*kernel)(), const LaunchShape& shape, Stream stream,
                   const void* arguments, void (*call)(void (*kernel)(), const void* arguments));

// Runs kernel(arguments) on `stream`; nothing where there are no blocks.
template <class Arguments>
void launch(const char* name, void (*kernel)(Arguments), const LaunchShape& shape, Stream stream,
            const Arguments& arguments) {
  if (shape.blocks == 0) return;
  // Only an emulator calls kernels as functions.
  const auto call = [](void (*erased)(), const void* held) {
#if defined(SALIENCE_CUDA_ON_CPU)
    reinterpret_cast<void (*)(Arguments)>(erased)(*static_cast<const Arguments*>(held));
#else
    static_cast<void>(erased);
    static_cast<void>(held);
#endif
  };
  launch_kernel(name, reinterpret_cast<void (*)()>(kernel), shape, stream, &arguments, call);
}

}  // namespace salience::cuda

#define SALIENCE_LAUNCH(kernel, shape, stream, arguments) \
  ::salience::cuda::launch(#kernel, kernel, shape, stream, arguments)
