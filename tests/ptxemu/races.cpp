#include "races.h"

#include <algorithm>

#include "machine.h"

namespace ptxemu {
namespace {

string who(u64 address, const char* did, size_t thread) {
  return text("address %llx, %s by thread %zu of the grid", static_cast<unsigned long long>(address), did, thread);
}

}  // namespace

void Clocks::join(const Clocks& from) {
  for (size_t b = 0; b < blocks_.size(); b++) {
    const vector<u32>& theirs = from.blocks_[b];
    if (theirs.empty()) continue;
    if (blocks_[b].empty()) {
      blocks_[b] = theirs;
      continue;
    }
    for (size_t i = 0; i < threads_; i++) blocks_[b][i] = std::max(blocks_[b][i], theirs[i]);
  }
}

int Clocks::later_than(const Clocks& there, u32 me) const {
  for (size_t b = 0; b < blocks_.size(); b++) {
    for (size_t i = 0; i < blocks_[b].size(); i++) {
      const u32 thread = static_cast<u32>(b * threads_ + i);
      if (thread != me && blocks_[b][i] > there.of(thread)) return static_cast<int>(thread);
    }
  }
  return -1;
}

void note(Warp& warp, int lane, Cell& cell, u64 address, const Access& how) {
  Launch& launch = *warp.launch;
  const u32 me = warp.thread_of_grid(lane);
  Clocks& mine = launch.clocks[me];
  const bool unordered_write = cell.write_clock && cell.writer != me && mine.of(cell.writer) < cell.write_clock;
  if (unordered_write && !(how.strong && cell.strong & 1) && !how.same) {
    launch.find(how.write ? "race: write after write" : "race: read after write", warp, lane,
                who(address, "written", cell.writer));
  }
  if (how.write) {
    if (!how.strong || !(cell.strong & 2)) {
      if (cell.many) {
        const int reader = launch.many_reads[cell.read_clock].later_than(mine, me);
        if (reader >= 0) launch.find("race: write after read", warp, lane, who(address, "read", reader));
      } else if (cell.read_clock && cell.reader != me && mine.of(cell.reader) < cell.read_clock) {
        launch.find("race: write after read", warp, lane, who(address, "read", cell.reader));
      }
    }
    if (cell.many) launch.unused_reads.push_back(cell.read_clock);
    cell.write_clock = mine.of(me), cell.writer = static_cast<u16>(me), cell.strong = how.strong ? 1 : 0;
    cell.read_clock = 0, cell.many = 0;
    return;
  }
  if (cell.many) {
    launch.many_reads[cell.read_clock].at(me) = mine.of(me);
  } else if (cell.read_clock && cell.reader != me && mine.of(cell.reader) < cell.read_clock) {
    if (launch.unused_reads.empty()) {
      launch.unused_reads.push_back(static_cast<u32>(launch.many_reads.size()));
      launch.many_reads.emplace_back();
    }
    const u32 number = launch.unused_reads.back();
    launch.unused_reads.pop_back();
    Clocks& readers = launch.many_reads[number];
    readers = launch.no_clocks();
    readers.at(cell.reader) = cell.read_clock, readers.at(me) = mine.of(me);
    cell.read_clock = number, cell.many = 1;
  } else {
    cell.read_clock = mine.of(me), cell.reader = static_cast<u16>(me);
  }
  cell.strong = static_cast<u8>((cell.strong & 1) | (how.strong ? 2 : 0));
}

void meet(Warp& warp, u32 mask) {
  Launch& launch = *warp.launch;
  if (!launch.races) return;
  Clocks all = launch.no_clocks();
  for (int lane : Lanes(mask)) all.join(launch.clocks[warp.thread_of_grid(lane)]);
  for (int lane : Lanes(mask)) {
    const u32 thread = warp.thread_of_grid(lane);
    launch.clocks[thread] = all;
    launch.clocks[thread].at(thread)++;
  }
}

void acquire(Warp& warp, int lane, u64 address) {
  Launch& launch = *warp.launch;
  if (!launch.races) return;
  const auto it = launch.released.find(address);
  if (it != launch.released.end()) launch.clocks[warp.thread_of_grid(lane)].join(it->second);
}

void release(Warp& warp, int lane, u64 address, bool keep) {
  Launch& launch = *warp.launch;
  if (!launch.races) return;
  const u32 me = warp.thread_of_grid(lane);
  Clocks& released = launch.released[address];
  if (keep && !released.empty()) {
    released.join(launch.clocks[me]);
  } else {
    released = launch.clocks[me];
  }
  launch.clocks[me].at(me)++;
}

void overwrite(Warp& warp, u64 address) {
  if (warp.launch->races && !warp.launch->released.empty()) warp.launch->released.erase(address);
}

}  // namespace ptxemu
