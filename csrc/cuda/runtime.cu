#include <cuda_runtime.h>

#include <limits>
#include <mutex>

#include "cuda/runtime.h"

namespace salience::cuda {
namespace {

void check(cudaError_t result, const char* doing) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // what is not sticky must not surface in a later call
  throw DeviceError(std::string("CUDA: ") + doing + ": " + cudaGetErrorName(result) + " (" +
                    cudaGetErrorString(result) + ")");
}

// A pool of our own for each device, which keeps some memory between searches: giving all of it back at every
// synchronization, as the default pool does, costs more than most searches. Null where devices have no pools.
cudaMemPool_t pool() {
  constexpr int kMostDevices = 64;
  constexpr uint64_t kKept = uint64_t{1} << 30;
  static std::mutex mutex;
  static cudaMemPool_t pools[kMostDevices];
  static bool asked[kMostDevices];
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  if (device >= kMostDevices) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (asked[device]) return pools[device];
  asked[device] = true;
  int supported = 0;
  cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device);
  if (supported == 0) return nullptr;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  uint64_t kept = kKept;
  check(cudaMemPoolCreate(&pools[device], &properties), "making a memory pool");
  check(cudaMemPoolSetAttribute(pools[device], cudaMemPoolAttrReleaseThreshold, &kept),
        "making a memory pool");
  return pools[device];
}

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }

// Bytes that our pool holds and nobody uses: to others they are taken, to us they are free.
int64_t idle_bytes() {
  const cudaMemPool_t from = pool();
  uint64_t held = 0, used = 0;
  if (from == nullptr ||
      cudaMemPoolGetAttribute(from, cudaMemPoolAttrReservedMemCurrent, &held) != cudaSuccess ||
      cudaMemPoolGetAttribute(from, cudaMemPoolAttrUsedMemCurrent, &used) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return static_cast<int64_t>(held > used ? held - used : 0);
}

// Where the device reads the host's pages itself (Grace), nothing is staged, and a copy from memory that is
// not page-locked may be under way when its call returns.
void finish_reading(const void* from, Stream stream) {
  int device = 0, direct = 0;
  cudaPointerAttributes attributes;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&direct, cudaDevAttrPageableMemoryAccessUsesHostPageTables, device) !=
          cudaSuccess ||
      direct == 0)
    return;
  if (cudaPointerGetAttributes(&attributes, from) == cudaSuccess &&
      attributes.type != cudaMemoryTypeUnregistered)
    return;
  synchronize(stream);
}

}  // namespace

std::string unavailable() {
  int driver = 0, devices = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    return "there is no NVIDIA driver on this machine";
  }
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return "the NVIDIA driver serves CUDA " + std::to_string(driver / 1000) + "." +
           std::to_string(driver % 1000 / 10) + "; expected CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " or later";
  }
  if (const cudaError_t found = cudaGetDeviceCount(&devices); found != cudaSuccess) {
    cudaGetLastError();
    return std::string("the NVIDIA driver offers no device: ") + cudaGetErrorName(found);
  }
  if (devices == 0) return "the NVIDIA driver offers no device";
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (10 * major + minor < 75) {
    return "the GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
           "; expected 7.5 or later";
  }
  return {};
}

DeviceDescription describe_device() {
  DeviceDescription found;
  check(cudaGetDevice(&found.number), "choosing a device");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, found.number), "asking for the device's properties");
  found.name = properties.name;
  found.major = properties.major;
  found.minor = properties.minor;
  found.limits = device_limits();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  found.free_bytes = static_cast<int64_t>(free) + idle_bytes();
  found.total_bytes = static_cast<int64_t>(total);
  check(cudaDriverGetVersion(&found.driver), "asking for the driver's version");
  check(cudaRuntimeGetVersion(&found.runtime), "asking for the runtime's version");
  return found;
}

DeviceLimits device_limits() {
  int device = 0, multiprocessors = 0, shared = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "asking for its size");
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for its size");
  return {multiprocessors, shared};
}

Stream default_stream() { return cudaStreamPerThread; }

DeviceScope::DeviceScope(const void* pointer) {
  int device = 0;
  if (pointer != nullptr) {
    cudaPointerAttributes attributes;
    check(cudaPointerGetAttributes(&attributes, pointer), "asking which device holds an array");
    if (attributes.type != cudaMemoryTypeHost && attributes.device >= 0) device = attributes.device;
  }
  check(cudaGetDevice(&before_), "asking for the current device");
  check(cudaSetDevice(device), "choosing a device");
}
DeviceScope::~DeviceScope() { cudaSetDevice(before_); }

void synchronize(Stream stream) { check(cudaStreamSynchronize(native(stream)), "waiting for the stream"); }

void copy(void* to, const void* from, int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, native(stream)), "copying");
  finish_reading(from, stream);
}

void copy_rows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t bytes, int64_t rows,
               Stream stream) {
  if (bytes == 0 || rows == 0) return;
  check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                          static_cast<size_t>(bytes), static_cast<size_t>(rows), cudaMemcpyDefault,
                          native(stream)),
        "copying");
  finish_reading(from, stream);
}

void fill(void* at, uint8_t byte, int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(at, byte, static_cast<size_t>(bytes), native(stream)), "filling memory");
}

void* allocate(int64_t bytes, Stream stream, const char* what) {
  void* memory = nullptr;
  if (bytes == 0) return nullptr;
  const cudaMemPool_t from = pool();
  const cudaError_t result =
      from == nullptr ? cudaMalloc(&memory, static_cast<size_t>(bytes))
                      : cudaMallocFromPoolAsync(&memory, static_cast<size_t>(bytes), from, native(stream));
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw OutOfDeviceMemory("device: too little memory for " + std::string(what) + ": " +
                            std::to_string(bytes) + " bytes wanted, " + std::to_string(free) + " of " +
                            std::to_string(total) + " bytes free");
  }
  check(result, "allocating memory");
  return memory;
}

// Errors of earlier work may surface here; they do so again at the next call that can say so.
void release(void* memory, Stream stream) noexcept {
  if (memory == nullptr) return;
  if (stream != kNoStream && cudaFreeAsync(memory, native(stream)) == cudaSuccess) return;
  int before = 0;
  cudaPointerAttributes attributes;
  cudaGetDevice(&before);
  if (cudaPointerGetAttributes(&attributes, memory) == cudaSuccess) cudaSetDevice(attributes.device);
  cudaDeviceSynchronize();
  cudaFree(memory);
  cudaSetDevice(before);
}

void* allocate_pinned(int64_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, static_cast<size_t>(bytes)), "allocating page-locked memory");
  return memory;
}
void release_pinned(void* memory) noexcept {
  if (memory != nullptr) cudaFreeHost(memory);
}

Event::Event() {
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  event_ = event;
}
Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(event_)); }
void Event::record(Stream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), native(stream)), "recording an event");
}
void Event::hold(Stream stream) const {
  check(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event_), 0), "waiting for an event");
}
void Event::wait() const {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "waiting for an event");
}

SideStream::SideStream() {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  stream_ = stream;
}
void SideStream::finish() noexcept { cudaStreamSynchronize(native(stream_)); }
SideStream::~SideStream() { cudaStreamDestroy(native(stream_)); }

void launch_kernel(const char* name, void (*kernel)(), const LaunchShape& shape, Stream stream,
                   const void* arguments, void (*)(void (*)(), const void*)) {
  constexpr int64_t kUsualSharedBytes = 48 << 10;  // more must be asked for
  auto* const function = reinterpret_cast<const void*>(kernel);
  const auto shared = static_cast<size_t>(shape.shared_bytes);
  const std::string doing = std::string("launching ") + name;
  if (shape.blocks > std::numeric_limits<int32_t>::max())
    throw DeviceError("CUDA: " + doing + ": " + std::to_string(shape.blocks) +
                      " blocks; expected fewer than 2^31");
  // The limit belongs to the kernel, so another thread must not lower it before the launch.
  static std::mutex mutex;
  std::unique_lock<std::mutex> lock(mutex, std::defer_lock);
  if (shape.shared_bytes > kUsualSharedBytes) {
    lock.lock();
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          doing.c_str());
  }
  void* parameters[] = {const_cast<void*>(arguments)};
  check(cudaLaunchKernel(function, dim3(static_cast<unsigned>(shape.blocks)),
                         dim3(static_cast<unsigned>(shape.threads)), parameters, shared, native(stream)),
        doing.c_str());
}

}  // namespace salience::cuda
