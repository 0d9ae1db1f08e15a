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

// Runs `work` on so many threads; `poll` on this one, some twenty times a second, until all are done, and once after.
// What a thread throws stops the others (through `stop`) and is thrown again here.
template <typename Work, typename Poll>
void in_threads(int threads, std::atomic<bool>& stop, Work work, Poll poll) {
  std::mutex mutex;
  std::condition_variable finished;
  int running = threads;
  std::exception_ptr error;
  const auto body = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      stop.store(true);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    --running;
    finished.notify_one();
  };
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    try {
      pool.emplace_back(body);
    } catch (...) {  // no more threads to be had: go on with those there are, if any
      const std::lock_guard<std::mutex> lock(mutex);
      running -= threads - t;
      if (t == 0) error = std::current_exception();
      break;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
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
