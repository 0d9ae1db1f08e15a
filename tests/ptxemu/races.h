// Data races, by vector clocks: every thread counts its releases, and knows of every other thread how far it is ordered
// after it. Barriers, bar.warp.sync, and a release that an acquire reads are the only order; fences alone are none.
#pragma once

#include "memory.h"

namespace ptxemu {

// A clock for each thread of the grid. What is known of another block is mostly nothing, which takes no room.
class Clocks {
 public:
  Clocks() = default;
  Clocks(size_t blocks, size_t threads) : threads_(threads), blocks_(blocks) {}
  u32 of(u32 thread) const {
    const vector<u32>& block = blocks_[thread / threads_];
    return block.empty() ? 0 : block[thread % threads_];
  }
  u32& at(u32 thread) {
    vector<u32>& block = blocks_[thread / threads_];
    if (block.empty()) block.resize(threads_);
    return block[thread % threads_];
  }
  // Everything that `from` is ordered after, this is from now on.
  void join(const Clocks& from);
  // A thread whose clock here is later than there, not `me`; -1: none.
  int later_than(const Clocks& there, u32 me) const;
  bool empty() const { return blocks_.empty(); }

 private:
  size_t threads_ = 1;  // of a block
  vector<vector<u32>> blocks_;
};

// One byte is read or written: a finding if an earlier access of another thread is not ordered before it.
void note(Warp& warp, int lane, Cell& cell, u64 address, const Access& how);
// The threads of some lanes wait for each other.
void meet(Warp& warp, u32 mask);
void acquire(Warp& warp, int lane, u64 address);
// keep: a read-modify-write, which goes on what was released there before.
void release(Warp& warp, int lane, u64 address, bool keep);
// A weak store ends what was released at an address.
void overwrite(Warp& warp, u64 address);

}  // namespace ptxemu
