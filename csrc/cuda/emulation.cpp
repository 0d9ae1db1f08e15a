#include "cuda/emulation.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

namespace spx::cuda {

Emulation::Emulation(CudaTables tables, Options options) : tables_(std::move(tables)), options_(options) {
  net_ = tables_.view([](const auto& table) { return table.data(); });
  if (options_.blocks == 0) options_.blocks = 1;
  if (options_.warps == 0) options_.warps = 1;
  if (options_.windows == 0) options_.windows = 2;
  if (options_.patience == 0) options_.patience = PATIENCE;
}

// Runs work(block, scratch, recent, windows) as a grid; each block has its own memory, of exactly the size that it may
// use.
template <typename Work>
void Emulation::in_blocks(Work work) const {
  struct Memory {
    Scratch scratch{};
    std::vector<float> recent, arena;
    Barrier barrier;
    Memory(size_t recent, size_t arena, float fill, int warps)
        : recent(recent, fill), arena(arena, fill), barrier(warps) {}
  };
  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<std::thread> threads;
  for (int b = 0; b < options_.blocks; ++b) {
    memory.push_back(std::make_unique<Memory>(static_cast<size_t>(net_.side) * net_.pixel,
                                              static_cast<size_t>(net_.words) * options_.windows,
                                              options_.poison ? NAN : 0.0f, options_.warps));
    Memory& own = *memory.back();
    for (int w = 0; w < options_.warps; ++w) {
      threads.emplace_back([&own, b, w, &work, this] {
        const Block block{b, options_.blocks, w, options_.warps, &own.barrier};
        work(block, &own.scratch, own.recent.data(),
             Windows{own.arena.data(), net_.words, options_.windows, nullptr, 0});
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
}

void Emulation::draw(const Job& job, const Report& report) const {
  Counter next{0};
  std::vector<Flag> drawn(static_cast<size_t>(job.count) * job.height);
  Flag stop{0}, stuck{0};
  std::vector<Counter> pixels(options_.blocks);
  const Shared shared{&next, drawn.data(), &stop, &stuck, pixels.data(), options_.patience};
  std::atomic<bool> over{false};
  int64_t reported = 0;
  const auto tell = [&] {
    for (int n = 0; n < job.count; ++n) {
      job.finished[n] = finished_rows(job, n, [&](size_t row) { return acquire(&drawn[row]); });
    }
    int64_t now = 0;
    for (const Counter& counter : pixels) now += static_cast<int64_t>(counter.load());
    const int64_t before = std::exchange(reported, now);
    if (!report(now - before)) raise(&stop);
  };
  std::thread grid([&] {
    in_blocks([&](const Block& block, Scratch* scratch, float* recent, const Windows& windows) {
      switch (tables_.precision) {
        case Precision::fp32:
          return Worker<Precision::fp32>(block, net_, job, shared, scratch, recent, windows).run();
        case Precision::tf32:
          return Worker<Precision::tf32>(block, net_, job, shared, scratch, recent, windows).run();
        case Precision::bf16:
          return Worker<Precision::bf16>(block, net_, job, shared, scratch, recent, windows).run();
      }
    });
    over.store(true);
  });
  while (!over.load()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    tell();
  }
  grid.join();
  tell();
  check_stuck(stuck.load() != 0);
}

void Emulation::evaluate(const Known& known) const {
  in_blocks([&](const Block& block, Scratch*, float*, const Windows& windows) {
    switch (tables_.precision) {
      case Precision::fp32:
        return cuda::evaluate<Precision::fp32>(block, net_, known, windows);
      case Precision::tf32:
        return cuda::evaluate<Precision::tf32>(block, net_, known, windows);
      case Precision::bf16:
        return cuda::evaluate<Precision::bf16>(block, net_, known, windows);
    }
  });
}

}  // namespace spx::cuda
