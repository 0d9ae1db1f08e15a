#include "cuda/device.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "cuda/memory.h"

namespace spx::cuda {
namespace {

// Threads a block. Few warps leave each many registers, so more loads are in flight. One block runs on a
// multiprocessor.
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

template <Precision P, Space S>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    draw_kernel(const __grid_constant__ NetView net, const __grid_constant__ Job job,
                const __grid_constant__ Shared shared, const __grid_constant__ Memory memory) {
  extern __shared__ __align__(128) char own[];
  const Block block;
  Scratch* scratch = reinterpret_cast<Scratch*>(own);
  float* recent = reinterpret_cast<float*>(own + sizeof(Scratch));
  Worker<P, S>(block, net, job, shared, scratch, recent, windows_of(memory, own)).run();
}

template <Precision P, Space S>
__global__ void __launch_bounds__(MOST_THREADS, 1)
    evaluate_kernel(const __grid_constant__ NetView net, const __grid_constant__ Known known,
                    const __grid_constant__ Memory memory) {
  extern __shared__ __align__(128) char own[];
  const Block block;
  evaluate<P, S>(block, net, known, windows_of(memory, own));
}

struct Kernels {
  void (*draw)(NetView, Job, Shared, Memory);
  void (*evaluate)(NetView, Known, Memory);
};
template <Space S>
Kernels kernels_of(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return {draw_kernel<Precision::fp32, S>, evaluate_kernel<Precision::fp32, S>};
    case Precision::tf32:
      return {draw_kernel<Precision::tf32, S>, evaluate_kernel<Precision::tf32, S>};
    case Precision::bf16:
      break;
  }
  return {draw_kernel<Precision::bf16, S>, evaluate_kernel<Precision::bf16, S>};
}

int attribute(cudaDeviceAttr what, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, what, device), "asking for a device's properties");
  return value;
}

}  // namespace

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  int driver = 0;  // 0 without one
  if (status == cudaErrorInsufficientDriver) check(cudaDriverGetVersion(&driver), "asking for the driver's version");
  if (status == cudaErrorNoDevice || (status == cudaErrorInsufficientDriver && driver == 0)) {
    cudaGetLastError();
    return 0;
  }
  check(status, "counting the devices");
  return count;
}

int compute_capability(int device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

// Made, like everything below, while its device is the current one.
struct Device::State {
  CudaTables tables;
  Options options;
  Kernels kernels;
  Stream stream;
  DeviceArrays arrays;
  NetView net;
  Memory memory;
  size_t shared_bytes;

  State(CudaTables given, Options wanted) : tables(std::move(given)), options(wanted), arrays(stream) {
    net = tables.view([this](const auto& table) { return arrays.copy(table.data(), table.size()); });
    const size_t fixed = tables.fixed_bytes(), arena = sizeof(float) * static_cast<size_t>(tables.words);
    const auto room = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, options.device));
    const int fitting = room > fixed ? static_cast<int>(std::min<size_t>((room - fixed) / arena, MOST_WINDOWS)) : 0;
    const int wanted_windows = tables.side > 0 ? tables.side : MOST_WINDOWS;
    if (options.windows == 0) options.windows = std::max(1, std::min(fitting, wanted_windows));
    if (options.patience == 0) options.patience = PATIENCE;
    if (options.warps == 0 || options.warps > MOST_THREADS / 32) options.warps = MOST_THREADS / 32;
    memory = {nullptr, static_cast<int32_t>(fixed), options.windows, tables.words};
    const bool fits = options.windows <= fitting;
    kernels = fits ? kernels_of<Space::shared>(tables.precision) : kernels_of<Space::global>(tables.precision);
    shared_bytes = fixed + (fits ? options.windows * arena : 0);
    const int resident = std::min(prepare(reinterpret_cast<const void*>(kernels.draw), room),
                                  prepare(reinterpret_cast<const void*>(kernels.evaluate), room));
    if (resident < 1) throw DoesNotFit("no block of " + std::to_string(threads()) + " threads is resident on this GPU");
    if (options.blocks == 0) options.blocks = resident * attribute(cudaDevAttrMultiProcessorCount, options.device);
    if (!fits) memory.global = global_arenas(arena, room);
    stream.wait();
  }

  int threads() const { return 32 * options.warps; }

  // Returns how many blocks of a kernel run on a multiprocessor at once. The most shared memory that a launch may ask
  // for belongs to the kernel, not to this network: it is all there is, or a smaller network would take it from a
  // larger one.
  int prepare(const void* kernel, size_t room) const {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(room)),
          "asking for shared memory");
    int resident = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads(), shared_bytes),
          "asking how many blocks are resident");
    return resident;
  }

  // Before a launch: arenas in shared memory want it as large as it can be, arenas in global memory the cache. It too
  // belongs to the kernel.
  void share(const void* kernel) const {
    const int share = memory.global ? cudaSharedmemCarveoutDefault : cudaSharedmemCarveoutMaxShared;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, share), "sharing out memory");
  }

  // Arenas in global memory will do as long as the second-level cache holds most of what is in use of them and the
  // weights.
  float* global_arenas(size_t arena, size_t room) {
    const size_t all = arena * options.windows * options.blocks;
    const auto cache = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, options.device));
    if (all + arrays.bytes() > 2 * cache) {
      throw DoesNotFit("a window of the network takes " + std::to_string(arena >> 10) + " KB and its weights " +
                       std::to_string(arrays.bytes() >> 20) + " MB, more than the " + std::to_string(room >> 10) +
                       " KB of a block's memory, and with all blocks' windows more than twice the " +
                       std::to_string(cache >> 20) + " MB of this GPU's cache");
    }
    return arrays.filled<float>(all / sizeof(float), options.poison ? 255 : 0);
  }
};

Device::Device(CudaTables tables, Options options) {
  const CurrentDevice current(options.device);
  state_ = std::make_unique<State>(std::move(tables), options);
}
Device::~Device() = default;
Options Device::options() const { return state_->options; }

size_t Device::free_bytes() const {
  const CurrentDevice current(state_->options.device);
  size_t unused = 0, all = 0;
  check(cudaMemGetInfo(&unused, &all), "asking for the free memory");
  return unused;
}

void Device::draw(const Job& job, const Report& report) const {
  const State& s = *state_;
  const CurrentDevice current(s.options.device);
  const auto n = static_cast<size_t>(job.count), rows = n * job.height, pixels = rows * job.width;
  const size_t bytes_a_row = static_cast<size_t>(job.width) * job.head.channels;
  DeviceArrays arrays(s.stream);
  Job there = job;
  there.images = arrays.copy(job.images, n);
  there.code = arrays.copy(job.code, n * s.tables.code);
  if (job.maps) {
    const size_t maps = static_cast<size_t>(job.map_images) * job.map_count;
    there.maps = arrays.copy(job.maps, maps * job.map_height * job.map_width);
  }
  there.extra = arrays.copy(job.extra, job.extra_count);
  there.y_axis = arrays.copy(job.y_axis, job.height);
  there.x_axis = arrays.copy(job.x_axis, job.width);
  there.table = arrays.copy(job.table, static_cast<size_t>(job.head.levels) * job.embedding);
  const size_t of_an_image = static_cast<size_t>(job.height) * job.width;
  if (job.given) there.given = arrays.copy(job.given, job.given_images * of_an_image);
  there.pixels = arrays.copy(job.pixels, rows * bytes_a_row);
  if (job.params) there.params = arrays.filled<float>(pixels * s.tables.parameters, 255);
  there.finished = nullptr;
  MappedArray<Flag> flags(2);  // stop, stuck
  MappedArray<Counter> counts(s.options.blocks);
  Shared shared{};
  shared.next = arrays.filled<Counter>(1), shared.drawn = arrays.filled<Flag>(rows);
  shared.stop = flags.device(), shared.stuck = flags.device() + 1, shared.pixels = counts.device();
  shared.patience = s.options.patience;
  const Stream beside;  // made before the kernel runs: nothing below has to wait for it
  s.share(reinterpret_cast<const void*>(s.kernels.draw));
  s.kernels.draw<<<s.options.blocks, s.threads(), s.shared_bytes, s.stream.get()>>>(s.net, there, shared, s.memory);
  check(cudaGetLastError(), "launching the sampler");

  // Rows that have become complete come to the host beside the kernel. It has released what the flags tell.
  std::vector<Flag> drawn(rows);
  const auto fetch_rows = [&] {
    beside.fetch(drawn.data(), shared.drawn, rows);
    beside.wait();
    std::vector<int64_t> finished(n);
    for (size_t i = 0; i < n; ++i) {
      const int64_t before = job.finished[i];
      finished[i] = finished_rows(job, i, [&](size_t row) { return drawn[row]; });
      const size_t first = (i * job.height + before) * bytes_a_row;
      beside.fetch(job.pixels + first, there.pixels + first, (finished[i] - before) * bytes_a_row);
    }
    beside.wait();
    std::copy(finished.begin(), finished.end(), job.finished);
  };
  int64_t reported = 0;
  const auto tell = [&] {
    int64_t now = 0;
    for (int block = 0; block < s.options.blocks; ++block) now += static_cast<int64_t>(counts.get(block));
    const int64_t before = std::exchange(reported, now);
    if (!report(now - before)) flags.set(0, 1);
  };
  // Often at first, for small jobs; then twenty reports a second.
  auto next_report = std::chrono::steady_clock::now();
  for (int turn = 0; s.stream.busy(); ++turn) {
    std::this_thread::sleep_for(std::chrono::microseconds(turn < 100 ? 50 : 1000));
    if (std::chrono::steady_clock::now() < next_report) continue;
    next_report = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    fetch_rows();
    tell();
  }
  fetch_rows();
  s.stream.fetch(job.pixels, there.pixels, rows * bytes_a_row);  // rows in the making, too, of a drawing that stopped
  if (job.params) s.stream.fetch(job.params, there.params, pixels * s.tables.parameters);
  s.stream.wait();
  tell();
  check_stuck(flags.get(1) != 0);
}

void Device::evaluate(const Known& known) const {
  const State& s = *state_;
  const CurrentDevice current(s.options.device);
  const auto n = static_cast<size_t>(known.count);
  DeviceArrays arrays(s.stream);
  Known there = known;
  std::vector<const float*> inputs;
  for (size_t k = 0; k < s.tables.inputs.size(); ++k) {
    const Input& input = s.tables.inputs[k];
    inputs.push_back(arrays.copy(known.inputs[k], n * input.height * input.width * input.channels));
  }
  there.inputs = arrays.copy(inputs.data(), inputs.size());
  there.code = arrays.copy(known.code, n * s.tables.code);
  const size_t params = n * s.tables.programs[0].targets * s.tables.parameters;
  there.params = arrays.filled<float>(params, 255);
  s.share(reinterpret_cast<const void*>(s.kernels.evaluate));
  s.kernels.evaluate<<<s.options.blocks, s.threads(), s.shared_bytes, s.stream.get()>>>(s.net, there, s.memory);
  check(cudaGetLastError(), "launching the evaluation");
  s.stream.fetch(known.params, there.params, params);
  s.stream.wait();
}

}  // namespace spx::cuda
