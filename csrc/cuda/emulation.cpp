#include "cuda/emulation.h"

#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <stdexcept>
#include <utility>

#include "sizes.h"

namespace spx::cuda {

Emulation::Emulation(CudaTables tables, Options options) : tables_(std::move(tables)), options_(options) {
  net_ = tables_.view([](const auto& table) { return table.data(); });
  if (options_.blocks == 0) options_.blocks = 1;
  if (options_.warps == 0) options_.warps = 1;
  if (options_.windows == 0) options_.windows = 2;
  if (options_.patience == 0) options_.patience = PATIENCE;
  const auto at_most = [](const char* what, int64_t most, int64_t got) {
    if (got <= most) return;
    throw std::invalid_argument(std::string(what) + ": expected at most " + std::to_string(most) + ", got " +
                                std::to_string(got));
  };
  at_most("blocks and warps", 1 << 10, int64_t{options_.blocks} * options_.warps);  // each is a thread
  at_most("words and windows", INT32_MAX, int64_t{net_.words} * options_.windows);  // kernels count them in int32
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
  const size_t recent = static_cast<size_t>(net_.side) * net_.pixel;
  const size_t arena = static_cast<size_t>(net_.words) * options_.windows;
  require_memory("blocks", product_of({sizeof(float), static_cast<size_t>(options_.blocks), recent + arena}));
  std::vector<std::unique_ptr<Memory>> memory;
  for (int b = 0; b < options_.blocks; ++b) {
    memory.push_back(std::make_unique<Memory>(recent, arena, options_.poison ? NAN : 0.0f, options_.warps));
  }
  // Warps wait for each other: none starts before all are there.
  std::promise<bool> all_there;
  const std::shared_future<bool> go = all_there.get_future().share();
  std::vector<std::thread> threads;
  const auto run = [&](bool start) {
    all_there.set_value(start);
    for (std::thread& thread : threads) thread.join();
  };
  try {
    for (int b = 0; b < options_.blocks; ++b) {
      for (int w = 0; w < options_.warps; ++w) {
        threads.emplace_back([&own = *memory[b], b, w, go, &work, this] {
          if (!go.get()) return;
          const Block block{b, options_.blocks, w, options_.warps, &own.barrier};
          work(block, &own.scratch, own.recent.data(),
               Windows{own.arena.data(), net_.words, options_.windows, nullptr, 0});
        });
      }
    }
  } catch (...) {
    run(false);
    throw;
  }
  run(true);
}

void Emulation::draw(const Job& job, const Report& report) const {
  Counter next{0};
  std::vector<Flag> drawn(static_cast<size_t>(job.count) * job.height);
  Flag stop{0}, stuck{0};
  std::vector<Counter> pixels(options_.blocks);
  const Shared shared{&next, drawn.data(), &stop, &stuck, pixels.data(), options_.patience};
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
  std::future<void> grid = std::async(std::launch::async, [&] {
    in_blocks([&](const Block& block, Scratch* scratch, float* recent, const Windows& windows) {
      switch (tables_.precision) {
        case Precision::fp32:
          return Worker<Precision::fp32, Space::shared>(block, net_, job, shared, scratch, recent, windows).run();
        case Precision::tf32:
          return Worker<Precision::tf32, Space::shared>(block, net_, job, shared, scratch, recent, windows).run();
        case Precision::bf16:
          return Worker<Precision::bf16, Space::shared>(block, net_, job, shared, scratch, recent, windows).run();
      }
    });
  });
  while (grid.wait_for(std::chrono::milliseconds(2)) != std::future_status::ready) tell();
  grid.get();  // throws what the grid threw
  tell();
  check_stuck(stuck.load() != 0);
}

void Emulation::evaluate(const Known& known) const {
  in_blocks([&](const Block& block, Scratch*, float*, const Windows& windows) {
    switch (tables_.precision) {
      case Precision::fp32:
        return cuda::evaluate<Precision::fp32, Space::shared>(block, net_, known, windows);
      case Precision::tf32:
        return cuda::evaluate<Precision::tf32, Space::shared>(block, net_, known, windows);
      case Precision::bf16:
        return cuda::evaluate<Precision::bf16, Space::shared>(block, net_, known, windows);
    }
  });
}

}  // namespace spx::cuda
