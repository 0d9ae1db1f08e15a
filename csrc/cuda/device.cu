#include "cuda/device.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "cuda/memory.h"

namespace spx::cuda {
namespace {

// Of a block: few warps with many registers, so that each has enough loads in flight; one block on each multiprocessor.
constexpr int MOST_THREADS = 256;
// Windows run ahead are at most this many: more of them wait longer for the row above.
constexpr int MOST_WINDOWS = 8;

// Where a block's memory is: Scratch, the row's last pixels and the arenas in its shared memory, or the arenas in
// `global`.
struct Memory {
  float* global;    // [blocks][windows][stride], or null
  int32_t fixed;    // bytes before the arenas
  int32_t windows;  // that a block runs side by side
  int32_t stride;   // words of an arena
};

__device__ Windows windows_of(const Memory& memory, char* shared) {
  float* arena = reinterpret_cast<float*>(shared + memory.fixed);
  if (memory.global) arena = memory.global + static_cast<int64_t>(blockIdx.x) * memory.windows * memory.stride;
  return {arena, memory.stride, memory.windows, nullptr, 0};
}

template <Precision P>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    sample_kernel(const __grid_constant__ Network net, const __grid_constant__ Job job,
                  const __grid_constant__ Shared shared, const __grid_constant__ Memory memory) {
  extern __shared__ __align__(128) char own[];
  const Block block;
  Scratch* scratch = reinterpret_cast<Scratch*>(own);
  float* recent = reinterpret_cast<float*>(own + sizeof(Scratch));
  Worker<P>(block, net, job, shared, scratch, recent, windows_of(memory, own)).run();
}

template <Precision P>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    evaluate_kernel(const __grid_constant__ Network net, const __grid_constant__ Known known,
                    const __grid_constant__ Memory memory) {
  extern __shared__ __align__(128) char own[];
  const Block block;
  evaluate<P>(block, net, known, windows_of(memory, own));
}

struct Kernels {
  void (*sample)(Network, Job, Shared, Memory);
  void (*evaluate)(Network, Known, Memory);
};
Kernels kernels_of(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return {sample_kernel<Precision::fp32>, evaluate_kernel<Precision::fp32>};
    case Precision::tf32:
      return {sample_kernel<Precision::tf32>, evaluate_kernel<Precision::tf32>};
    case Precision::bf16:
      break;
  }
  return {sample_kernel<Precision::bf16>, evaluate_kernel<Precision::bf16>};
}

// Arrays on the device that live as long as this.
class DeviceArrays {
 public:
  template <typename T>
  T* copy(const T* host, size_t count) {
    void* data = nullptr;
    check(cudaMalloc(&data, std::max<size_t>(count * sizeof(T), 16)), "allocating device memory");
    all_.push_back(data);
    bytes_ += count * sizeof(T);
    if (host) check(cudaMemcpy(data, host, count * sizeof(T), cudaMemcpyHostToDevice), "copying to the device");
    if (!host) check(cudaMemset(data, 0, count * sizeof(T)), "clearing device memory");
    return static_cast<T*>(data);
  }
  template <typename T>
  T* zeros(size_t count) {
    return copy<T>(nullptr, count);
  }
  DeviceArrays() = default;
  ~DeviceArrays() {
    for (void* data : all_) cudaFree(data);
  }
  DeviceArrays(const DeviceArrays&) = delete;
  DeviceArrays& operator=(const DeviceArrays&) = delete;
  size_t bytes() const { return bytes_; }

 private:
  std::vector<void*> all_;
  size_t bytes_ = 0;
};

// Zeroed memory of the host that the kernel reads and writes too.
template <typename T>
class MappedArray {
 public:
  explicit MappedArray(size_t count) {
    check(cudaHostAlloc(&host_, count * sizeof(T), cudaHostAllocMapped), "allocating mapped memory");
    std::fill_n(static_cast<volatile T*>(host_), count, T{});
    const cudaError_t status = cudaHostGetDevicePointer(reinterpret_cast<void**>(&device_), host_, 0);
    if (status != cudaSuccess) cudaFreeHost(host_);
    check(status, "mapping memory of the host");
  }
  ~MappedArray() { cudaFreeHost(host_); }
  MappedArray(const MappedArray&) = delete;
  MappedArray& operator=(const MappedArray&) = delete;
  T get(size_t i) const { return static_cast<volatile T*>(host_)[i]; }
  void set(size_t i, T value) { static_cast<volatile T*>(host_)[i] = value; }
  T* device() const { return device_; }

 private:
  T *host_ = nullptr, *device_ = nullptr;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  bool busy() const {
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return true;
    }
    check(status, "running the kernel");
    return false;
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

int attribute(cudaDeviceAttr what, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, what, device), "asking for a device's properties");
  return value;
}

}  // namespace

struct Device::State {
  Tables tables;
  Options options;
  Kernels kernels;
  DeviceArrays arrays;
  Network net;
  Memory memory;
  size_t shared_bytes;

  State(Tables given, Options wanted)
      : tables(std::move(given)), options(wanted), kernels(kernels_of(tables.precision)) {
    check(cudaSetDevice(options.device), "choosing the device");
    net = tables.network([this](const auto& table) { return arrays.copy(table.data(), table.size()); });
    const size_t fixed = fixed_bytes(tables), arena = sizeof(float) * static_cast<size_t>(tables.words);
    const auto room = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, options.device));
    const int fitting = room > fixed ? static_cast<int>(std::min<size_t>((room - fixed) / arena, MOST_WINDOWS)) : 0;
    if (options.windows == 0) options.windows = std::max(1, std::min(fitting, tables.patch));
    if (options.patience == 0) options.patience = PATIENCE;
    if (options.warps == 0 || options.warps > MOST_THREADS / 32) options.warps = MOST_THREADS / 32;
    memory = {nullptr, static_cast<int32_t>(fixed), options.windows, tables.words};
    const bool fits = options.windows <= fitting;
    shared_bytes = fixed + (fits ? options.windows * arena : 0);
    const int resident = std::min(prepare(reinterpret_cast<const void*>(kernels.sample)),
                                  prepare(reinterpret_cast<const void*>(kernels.evaluate)));
    if (resident < 1) throw DoesNotFit("no block of " + std::to_string(threads()) + " threads is resident on this GPU");
    if (options.blocks == 0) options.blocks = resident * attribute(cudaDevAttrMultiProcessorCount, options.device);
    if (fits) return;
    // Arenas in global memory will do as long as the second-level cache holds most of what is in use of them and the
    // weights.
    const size_t arenas = arena * options.windows * options.blocks;
    const auto cache = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, options.device));
    if (arenas + arrays.bytes() > 2 * cache) {
      throw DoesNotFit("a window of the network takes " + std::to_string(arena >> 10) + " KB and its weights " +
                       std::to_string(arrays.bytes() >> 20) + " MB, more than the " + std::to_string(room >> 10) +
                       " KB of a block's memory, and with all blocks' windows more than twice the " +
                       std::to_string(cache >> 20) + " MB of this GPU's cache");
    }
    memory.global = arrays.zeros<float>(arenas / sizeof(float));
  }

  int threads() const { return 32 * options.warps; }

  // Gives a kernel its shared memory; returns how many blocks of it run on a multiprocessor at once.
  int prepare(const void* kernel) const {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "asking for shared memory");
    int resident = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads(), shared_bytes),
          "asking how many blocks are resident");
    return resident;
  }
};

Device::Device(Tables tables, Options options) : state_(std::make_unique<State>(std::move(tables), options)) {}
Device::~Device() = default;
Options Device::options() const { return state_->options; }

void Device::sample(const Job& job, const Report& report) const {
  const State& s = *state_;
  check(cudaSetDevice(s.options.device), "choosing the device");
  const size_t n = static_cast<size_t>(job.images), pixels = n * job.height * static_cast<size_t>(job.width);
  const size_t bytes = pixels * s.tables.channels;
  DeviceArrays arrays;
  Job there = job;
  there.numbers = arrays.copy(job.numbers, n);
  there.latent = arrays.copy(job.latent, n * s.tables.latents);
  if (job.maps) {
    const size_t maps = n * static_cast<size_t>(s.tables.place_inputs - 3);
    there.maps = arrays.copy(job.maps, maps * job.map_height * job.map_width);
  }
  there.y_axis = arrays.copy(job.y_axis, job.height);
  there.x_axis = arrays.copy(job.x_axis, job.width);
  there.out = arrays.zeros<uint8_t>(bytes);
  MappedArray<Flag> flags(2);  // stop, stuck
  MappedArray<Counter> drawn(s.options.blocks);
  Shared shared{};
  shared.next = arrays.zeros<Counter>(1), shared.drawn = arrays.zeros<Flag>(n * job.height);
  shared.stop = flags.device(), shared.stuck = flags.device() + 1, shared.pixels = drawn.device();
  shared.patience = s.options.patience;
  const Stream stream;
  check(cudaDeviceSynchronize(), "preparing the job");  // what was cleared and copied above is there
  s.kernels.sample<<<s.options.blocks, s.threads(), s.shared_bytes, stream.get()>>>(s.net, there, shared, s.memory);
  check(cudaGetLastError(), "launching the sampler");

  int64_t reported = 0;
  const auto tell = [&] {
    int64_t now = 0;
    for (int block = 0; block < s.options.blocks; ++block) now += static_cast<int64_t>(drawn.get(block));
    const int64_t before = std::exchange(reported, now);
    if (!report(now - before)) flags.set(0, 1);
  };
  // Often at first, for small jobs; then twenty reports a second.
  auto next_report = std::chrono::steady_clock::now();
  for (int turn = 0; stream.busy(); ++turn) {
    std::this_thread::sleep_for(std::chrono::microseconds(turn < 100 ? 50 : 1000));
    if (std::chrono::steady_clock::now() < next_report) continue;
    next_report = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    tell();
  }
  check(cudaMemcpy(job.out, there.out, bytes, cudaMemcpyDeviceToHost), "copying the images from the device");
  tell();
  check_stuck(flags.get(1) != 0);
}

void Device::evaluate(const Known& known) const {
  const State& s = *state_;
  check(cudaSetDevice(s.options.device), "choosing the device");
  const auto n = static_cast<size_t>(known.windows);
  const size_t m = s.tables.patch;
  DeviceArrays arrays;
  Known there = known;
  there.pixels = arrays.copy(known.pixels, n * m * m * s.tables.channels);
  for (int k = 0; k < 3; ++k) {
    const size_t side = m >> k;
    if (known.conditioning[k])
      there.conditioning[k] = arrays.copy(known.conditioning[k], n * side * side * s.tables.place_inputs);
  }
  there.latent = arrays.copy(known.latent, n * s.tables.latents);
  const size_t params = n * s.tables.programs[known.program].steps * s.tables.parameters;
  there.params = arrays.zeros<float>(params);
  const Stream stream;
  check(cudaDeviceSynchronize(), "preparing the windows");
  s.kernels.evaluate<<<s.options.blocks, s.threads(), s.shared_bytes, stream.get()>>>(s.net, there, s.memory);
  check(cudaGetLastError(), "launching the windows");
  check(cudaStreamSynchronize(stream.get()), "running the windows");
  check(cudaMemcpy(known.params, there.params, params * sizeof(float), cudaMemcpyDeviceToHost),
        "copying the parameters from the device");
}

}  // namespace spx::cuda
