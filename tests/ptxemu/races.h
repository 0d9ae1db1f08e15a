// Data races, by vector clocks: every thread counts its releases, and knows of every other thread how far it is ordered
// after it. Barriers, bar.warp.sync, and a release that an acquire reads are the only order; fences alone are none.
#pragma once

#include "memory.h"

namespace ptxemu {

using Clocks = vector<u32>;

// One byte is read or written: a finding if an earlier access of another thread is not ordered before it.
void note(Warp& warp, int lane, Cell& cell, u64 address, const Access& how);
// Everything that `from` is ordered after, `to` is from now on.
void join(Clocks& to, const Clocks& from);
// The threads of some lanes wait for each other.
void meet(Warp& warp, u32 mask);
void acquire(Warp& warp, int lane, u64 address);
// keep: a read-modify-write, which goes on what was released there before.
void release(Warp& warp, int lane, u64 address, bool keep);
// A weak store ends what was released at an address.
void overwrite(Warp& warp, u64 address);

}  // namespace ptxemu
