// The part of the CUDA runtime's interface that spx uses, and what Python calls: a program that is linked with this
// library instead of NVIDIA's runs its kernels on the processor. One kernel runs at a time; the host goes on beside it.
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <thread>

#include "fat_binary.h"
#include "machine.h"
#include "settings.h"

using namespace ptxemu;

namespace {

struct Stream {
  std::thread worker;
  std::mutex joining;
  std::atomic<bool> busy{false};
  cudaError_t status = cudaSuccess;

  ~Stream() { wait(); }
  cudaError_t wait() {
    std::lock_guard<std::mutex> guard(joining);
    if (worker.joinable()) worker.join();
    return status;
  }
};
struct Kernel {
  Module* module;
  Function* function;
};
struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

vector<std::unique_ptr<Module>> modules;
std::map<const void*, Kernel> kernels;  // by the host's function
std::mutex device_lock;                 // held while a kernel runs
std::mutex streams_lock;
std::set<Stream*> streams;
Stream default_stream;
thread_local cudaError_t last_error = cudaSuccess;
thread_local vector<Configuration> configurations;

void complain(const char* what) { fprintf(stderr, "ptxemu: %s\n", what); }

void read_settings() {
  static bool once = false;
  if (std::exchange(once, true)) return;
  try {
    settings.set(getenv("PTXEMU") ? getenv("PTXEMU") : "");
  } catch (const Stop& why) {
    complain(why.what());
    abort();
  }
}

cudaError_t set(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
Stream& stream_of(cudaStream_t stream) { return stream ? *reinterpret_cast<Stream*>(stream) : default_stream; }

void launch(const Kernel& kernel, dim3 grid, dim3 block, vector<u8> params, size_t shared, Stream& stream) {
  stream.wait();
  stream.busy = true, stream.status = cudaSuccess;
  auto fresh = std::make_shared<Launch>();
  fresh->module = kernel.module, fresh->kernel = kernel.function, fresh->grid = grid, fresh->dims = block;
  fresh->params = std::move(params), fresh->dynamic_shared = static_cast<u32>(shared);
  stream.worker = std::thread([fresh, &stream] {
    std::lock_guard<std::mutex> guard(device_lock);
    fresh->run();
    if (!fresh->failed.empty()) {
      stream.status = fresh->failed == "too many steps" ? cudaErrorLaunchTimeout : cudaErrorIllegalAddress;
    }
    stream.busy = false;
  });
}

vector<u8> block_of(const Function& function, void** arguments) {
  vector<u8> result(function.param_bytes);
  for (size_t i = 0; i < function.params.size(); i++) {
    const auto [at, bytes] = function.params[i];
    if (arguments[i]) memcpy(result.data() + at, arguments[i], bytes);
  }
  return result;
}

u8* host_room(size_t bytes) { return static_cast<u8*>(aligned_alloc(256, (bytes + 256) / 256 * 256)); }

// The allocation that has all of so many bytes from an address on, else null.
Allocation* whole(const void* address, size_t bytes) {
  std::lock_guard<std::mutex> guard(allocations_lock);
  const u64 begin = reinterpret_cast<u64>(address);
  Allocation* of = find_allocation(begin);
  if (!of || begin + bytes > of->base + of->size) complain("a copy is out of bounds");
  return of && begin + bytes <= of->base + of->size ? of : nullptr;
}

cudaError_t give_back(u64 base) {
  std::lock_guard<std::mutex> kernel(device_lock);
  std::lock_guard<std::mutex> guard(allocations_lock);
  const auto it = allocations.find(base);
  if (it == allocations.end()) {
    complain("memory that is nobody's is given back");
    return set(cudaErrorInvalidValue);
  }
  free(it->second->host);
  allocations.erase(it);
  return cudaSuccess;
}

const string& kept(string text) {  // until this thread asks for the next one
  static thread_local string result;
  return result = std::move(text);
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

// ---- how kernels are registered and launched
// -------------------------------------------------------------------------

API void** __cudaRegisterFatBinary(void* wrapper) {
  read_settings();
  try {
    modules.push_back(read_ptx(ptx_of_fat_binary(wrapper)));
  } catch (const Stop& why) {
    complain(why.what());
    abort();
  }
  return reinterpret_cast<void**>(modules.back().get());
}
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*,
                                dim3*, int*) {
  Module* module = reinterpret_cast<Module*>(handle);
  const auto it = module->by_name.find(name);
  if (it != module->by_name.end()) kernels[host] = {module, module->functions[it->second].get()};
}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  const auto it = kernels.find(host);
  if (it == kernels.end()) return set(cudaErrorInvalidDeviceFunction);
  *kernel = reinterpret_cast<cudaKernel_t>(&it->second);
  return cudaSuccess;
}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t handle, dim3 grid, dim3 block, void** arguments, size_t shared,
                                   cudaStream_t stream) {
  const Kernel& kernel = *reinterpret_cast<Kernel*>(handle);
  const Function& function = *kernel.function;
  const bool too_much = shared + function.static_shared > static_cast<size_t>(settings.shared);
  if (grid.x * grid.y * grid.z == 0 || block.x * block.y * block.z > 1024 || too_much) {
    return set(cudaErrorInvalidConfiguration);
  }
  launch(kernel, grid, block, block_of(function, arguments), shared, stream_of(stream));
  return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared,
                                 cudaStream_t stream) {
  cudaKernel_t kernel;
  const cudaError_t status = __cudaGetKernel(&kernel, host);
  return status ? status : __cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

// ---- memory
// ----------------------------------------------------------------------------------------------------------

API cudaError_t cudaMalloc(void** device, size_t bytes) {
  u8* host = host_room(bytes);
  if (!host) return set(cudaErrorMemoryAllocation);
  for (size_t i = 0; i < bytes; i++) host[i] = static_cast<u8>(0xd1 ^ i * 31);
  *device = reinterpret_cast<void*>(add_allocation(host, bytes, false)->base);
  return cudaSuccess;
}
API cudaError_t cudaFree(void* device) { return device ? give_back(reinterpret_cast<u64>(device)) : cudaSuccess; }
API cudaError_t cudaHostAlloc(void** host, size_t bytes, unsigned) {
  u8* memory = host_room(bytes);
  if (!memory) return set(cudaErrorMemoryAllocation);
  add_allocation(memory, bytes, true);
  *host = memory;
  return cudaSuccess;
}
API cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = reinterpret_cast<void*>(reinterpret_cast<u64>(host) + GLOBAL);
  return cudaSuccess;
}
API cudaError_t cudaFreeHost(void* host) {
  return host ? give_back(reinterpret_cast<u64>(host) + GLOBAL) : cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t status = stream_of(stream).wait()) return set(status);
  if (!bytes) return cudaSuccess;
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost) return set(cudaErrorInvalidValue);
  const bool in = kind == cudaMemcpyHostToDevice;
  Allocation* of = whole(in ? to : from, bytes);
  if (!of) return set(cudaErrorInvalidValue);
  const u64 at = reinterpret_cast<u64>(in ? to : from) - of->base;
  if (in) {
    memcpy(of->host + at, from, bytes);
    memset(of->written.data() + at, YES, bytes);
  } else {
    memcpy(to, of->host + at, bytes);
  }
  return cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void* device, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t status = stream_of(stream).wait()) return set(status);
  if (!bytes) return cudaSuccess;
  Allocation* of = whole(device, bytes);
  if (!of) return set(cudaErrorInvalidValue);
  const u64 at = reinterpret_cast<u64>(device) - of->base;
  memset(of->host + at, value, bytes);
  memset(of->written.data() + at, YES, bytes);
  return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* unused, size_t* all) {
  *unused = *all = size_t(8) << 30;
  return cudaSuccess;
}

// ---- streams and errors
// ----------------------------------------------------------------------------------------------

API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  auto* fresh = new Stream;
  std::lock_guard<std::mutex> guard(streams_lock);
  streams.insert(fresh);
  *stream = reinterpret_cast<cudaStream_t>(fresh);
  return cudaSuccess;
}
API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(streams_lock);
  if (!streams.erase(&stream_of(stream))) return set(cudaErrorInvalidResourceHandle);
  delete &stream_of(stream);
  return cudaSuccess;
}
API cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return set(stream_of(stream).busy ? cudaErrorNotReady : stream_of(stream).wait());
}
API cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return set(stream_of(stream).wait()); }
API cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
API const char* cudaGetErrorName(cudaError_t error) {
  static thread_local char name[32];
  snprintf(name, sizeof name, "cudaError %d", static_cast<int>(error));
  return name;
}
API const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorIllegalAddress) return "an illegal memory access was encountered (ptxemu)";
  return error == cudaErrorLaunchTimeout ? "too many steps (ptxemu)" : "an error (ptxemu)";
}

// ---- the device
// ------------------------------------------------------------------------------------------------------

API cudaError_t cudaGetDeviceCount(int* count) {
  read_settings();
  *count = 1;
  return cudaSuccess;
}
API cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
API cudaError_t cudaSetDevice(int device) { return set(device ? cudaErrorInvalidDevice : cudaSuccess); }
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = settings.shared;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = settings.multiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    default:
      complain("a property of the device that is not known here");
      return set(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
API cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute, int value) {
  return set(kernels.count(host) && value <= settings.shared ? cudaSuccess : cudaErrorInvalidValue);
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* count, const void* host, int threads,
                                                              size_t shared) {
  if (!kernels.count(host)) return set(cudaErrorInvalidDeviceFunction);
  *count = threads <= 1024 && shared <= static_cast<size_t>(settings.shared) ? 1 : 0;
  return cudaSuccess;
}

// ---- what Python calls
// -----------------------------------------------------------------------------------------------

// "" or what is wrong. The text stays until the thread's next call.
API const char* ptxemu_set(const char* words) {
  read_settings();
  try {
    settings.set(words);
  } catch (const Stop& why) {
    return kept(why.what()).c_str();
  }
  return "";
}
API const char* ptxemu_reports() { return kept(reports()).c_str(); }
API const char* ptxemu_coverage() { return kept(coverage(modules)).c_str(); }

// PTX from elsewhere, such as Triton's: a module, or null and what is wrong in *why.
API void* ptxemu_load(const char* source, const char** why) {
  read_settings();
  try {
    modules.push_back(read_ptx(source));
  } catch (const Stop& stop) {
    *why = kept(stop.what()).c_str();
    return nullptr;
  }
  return modules.back().get();
}
// 0, or CUDA's number of the error. A null pointer among the arguments stands for zeros.
API int ptxemu_launch(void* handle, const char* name, const unsigned* grid, int threads, size_t shared,
                      void** arguments) {
  Module* module = static_cast<Module*>(handle);
  const auto it = module->by_name.find(name);
  if (it == module->by_name.end()) return cudaErrorInvalidDeviceFunction;
  Function* function = module->functions[it->second].get();
  const dim3 blocks(grid[0], grid[1], grid[2]);
  launch({module, function}, blocks, dim3(threads), block_of(*function, arguments), shared, default_stream);
  return default_stream.wait();
}
// Memory of the host becomes memory of the device until it is unshared: its address there.
API u64 ptxemu_share(void* host, size_t bytes) {
  const u64 base = reinterpret_cast<u64>(host) + GLOBAL;
  {
    std::lock_guard<std::mutex> guard(allocations_lock);
    const auto it = allocations.find(base);
    if (it != allocations.end() && it->second->size >= bytes) return base;
  }
  return add_allocation(static_cast<u8*>(host), bytes, true)->base;
}
API void ptxemu_unshare(void* host) {
  std::lock_guard<std::mutex> guard(allocations_lock);
  allocations.erase(reinterpret_cast<u64>(host) + GLOBAL);
}
