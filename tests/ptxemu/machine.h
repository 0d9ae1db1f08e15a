// A launch under way: blocks, warps, and what is known of each lane.
#pragma once

#include <vector_types.h>

#include <cstring>
#include <deque>
#include <random>
#include <unordered_map>

#include "memory.h"
#include "races.h"

namespace ptxemu {

enum State : u8 { RUNNING, AT_BARRIER, AT_WARP, EXITED };

struct Block;
struct Launch;

// Registers of a warp in one function at one depth of calls.
struct Frame {
  vector<u8> data;
  vector<u32> valid;  // of each register: the lanes that have written it
};

// cp.async: copies that have not been made yet.
struct Copy {
  u64 to, from;
  int bytes, filled;  // the rest is zeros
};

// Special registers, in the order of Warp::special.
constexpr const char* SPECIALS[] = {"%tid.x",    "%tid.y",    "%tid.z",   "%ntid.x",  "%ntid.y",
                                    "%ntid.z",   "%ctaid.x",  "%ctaid.y", "%ctaid.z", "%nctaid.x",
                                    "%nctaid.y", "%nctaid.z", "%laneid",  "%warpid"};
constexpr int SPECIAL_COUNT = 14;

struct Warp {
  Launch* launch;
  Block* block;
  int number;
  u32 exist;  // lanes there are
  u8* bases[3];
  u32* valid = nullptr;
  vector<u8> special;
  // Of each lane: where it is, and what it waits for.
  int pc[LANES], function[LANES], depth[LANES], barrier[LANES];
  State state[LANES];
  u32 mask[LANES];
  struct Return {
    int function, pc;
  };
  vector<Return> returns[LANES];
  vector<u32> local_base[LANES];
  vector<u8> local[LANES], local_written[LANES];
  std::map<std::pair<int, int>, Frame> frames;  // by depth and function
  vector<vector<Copy>> copies[LANES];           // groups of cp.async; the last one is not committed
  const Instruction* instruction = nullptr;
  Allocation* last_allocation = nullptr;

  Warp(Launch& of, Block& in, int number);
  bool runnable() const;
  // Makes a function's registers the ones that operands mean.
  void enter(int function, int depth);
  int thread(int lane) const { return number * LANES + lane; }
  u32 thread_of_grid(int lane) const;

  template <class T>
  const T* in(const Operand& o) const {
    return reinterpret_cast<const T*>(bases[o.base] + o.at);
  }
  template <class T>
  T* out(const Operand& o) const {
    return reinterpret_cast<T*>(bases[FRAME] + o.at);
  }
  void defined(const Operand& o, u32 lanes) const {
    if (o.register_ >= 0) valid[o.register_] |= lanes;
  }
  void defined(const vector<Operand>& all, u32 lanes) const {
    for (const Operand& o : all) defined(o, lanes);
  }
  // An operand of one lane as bits.
  u64 get(const Operand& o, int lane) const {
    switch (o.size) {
      case 1:
        return *in<u32>(o) >> lane & 1;
      case 2:
        return in<u16>(o)[lane];
      case 4:
        return in<u32>(o)[lane];
      default:
        return in<u64>(o)[lane];
    }
  }
  void put(const Operand& o, int lane, u64 value) const {
    switch (o.size) {
      case 0:
        return;
      case 1: {
        u32& bits = *out<u32>(o);
        bits = (bits & ~(1u << lane)) | static_cast<u32>(value & 1) << lane;
        return;
      }
      case 2:
        out<u16>(o)[lane] = static_cast<u16>(value);
        return;
      case 4:
        out<u32>(o)[lane] = static_cast<u32>(value);
        return;
      default:
        out<u64>(o)[lane] = value;
    }
  }
  u64 address(const Address& a, int lane) const { return (a.base.size ? get(a.base, lane) : 0) + a.offset; }
};

struct Block {
  int number;
  dim3 at;
  vector<std::unique_ptr<Warp>> warps;
  vector<u8> shared, written;  // a Written for each byte
  vector<Cell> cells;
  int live = 0, waiting = 0;  // threads
};

struct Launch {
  Module* module;
  Function* kernel;
  dim3 grid, dims;
  u32 dynamic_shared;
  vector<u8> params;

  int threads = 0;  // of a block
  std::deque<int> left;
  vector<std::unique_ptr<Block>> blocks;  // resident
  std::mt19937_64 random;
  // The race check's.
  bool races = false;
  vector<Clocks> clocks;  // of each thread of the grid
  Clocks no_clocks() const { return Clocks(grid.x * grid.y * grid.z, static_cast<size_t>(threads)); }
  std::unordered_map<u64, Clocks> released;  // by address
  vector<Clocks> many_reads;
  vector<u32> unused_reads;
  // The report's.
  u64 steps = 0, barriers = 0;
  double seconds = 0;
  string failed;  // why it ended early
  struct Finding {
    u64 times = 0;
    string first;
  };
  std::map<string, Finding> findings;

  void find(const string& kind, const Warp& warp, int lane, const string& more);
  void run();

 private:
  void start(int number);
  bool turn(Block& block);
  void slice(Warp& warp);
  void call(Warp& warp, int caller, int depth, int pc, u32 mask);
  void leave(Warp& warp, int function, int depth, u32 mask);
  void gather(Warp& warp);
  bool barrier(Block& block);
  [[noreturn]] void deadlock();
};

// What all launches since the last call have done and found, a line of JSON for each.
string reports();
// Of every function that has run: the lines of it that have not.
string coverage(const vector<std::unique_ptr<Module>>& modules);
void add_report(const Launch& launch);

}  // namespace ptxemu
