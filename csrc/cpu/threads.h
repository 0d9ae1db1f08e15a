// Work on several threads, which stops at the first error, while the calling thread looks on.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace spx {

// Runs `work(number, count)` on so many threads, or on as many as there are to be had, count; `poll` on this one, some
// twenty times a second, until all are done, and once after. What a thread throws stops the others (through `stop`) and
// is thrown again here.
template <typename Work, typename Poll>
void in_threads(int threads, std::atomic<bool>& stop, Work work, Poll poll) {
  std::mutex mutex;
  std::condition_variable finished;
  int count = 0, running = 0;
  std::exception_ptr error;
  const auto body = [&](int number) {
    std::unique_lock<std::mutex> lock(mutex);  // until all threads are there
    const int all = count;
    lock.unlock();
    try {
      work(number, all);
    } catch (...) {
      const std::lock_guard<std::mutex> again(mutex);
      if (!error) error = std::current_exception();
      stop.store(true);
    }
    lock.lock();
    --running;
    finished.notify_one();
  };
  std::unique_lock<std::mutex> lock(mutex);
  std::vector<std::thread> pool;
  for (; count < threads; ++count) {
    try {
      pool.emplace_back(body, count);
    } catch (...) {  // no more threads to be had: go on with those there are, if any
      if (count == 0) error = std::current_exception();
      break;
    }
  }
  running = count;
  while (!finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
    lock.unlock();
    poll();
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : pool) thread.join();
  if (error) std::rethrow_exception(error);
  poll();
}

// Where the threads of a team wait for each other. They wait for microseconds, so they look all the time; one that has
// looked for long sleeps, because another process may have the core that it waits for.
class Barrier {
 public:
  using Clock = std::chrono::steady_clock;

  // Returns when all `members` are here. false: `stop` was set, and they will not come. slept: grows by how long it
  // slept.
  bool wait(int members, const std::atomic<bool>& stop, Clock::duration* slept) {
    const uint32_t turn = turn_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1);
      if (sleepers_.load() > 0) {
        const std::lock_guard<std::mutex> lock(mutex_);
        woken_.notify_all();
      }
      return true;
    }
    for (int looks = 0; looks < LOOKS; ++looks) {
      if (turn_.load(std::memory_order_acquire) != turn) return true;
      relax();
    }
    const auto began = Clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    while (turn_.load() == turn && !stop.load()) woken_.wait_for(lock, std::chrono::milliseconds(10));
    sleepers_.fetch_sub(1);
    *slept += Clock::now() - began;
    return turn_.load() != turn;
  }

 private:
  static constexpr int LOOKS = 2000;  // some 20 to 100 microseconds

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> turn_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

// `in_threads` for a drawing: `report` is told of the pixels since its last call, and stops the threads if it is false.
// shared has `stop`, the count `pixels`, and write_finished(), which tells the canvas which rows are finished.
template <typename Shared, typename Work, typename Report>
void draw_in_threads(int threads, Shared& shared, Work work, const Report& report) {
  int64_t reported = 0;
  in_threads(threads, shared.stop, work, [&] {
    const int64_t now = shared.pixels.load(std::memory_order_relaxed);
    shared.write_finished();
    if (!shared.stop.load() && !report(now - reported)) shared.stop.store(true);
    reported = now;
  });
}

}  // namespace spx
