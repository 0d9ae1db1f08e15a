// Memory, and what is checked of each access: bounds, alignment, whether anybody has written what is read, races.
#pragma once

#include <mutex>

#include "ptx.h"

namespace ptxemu {

// A byte's history, for the race check. Clocks are those of the threads that wrote and read it last.
struct Cell {
  u32 write_clock = 0, read_clock = 0;  // 0: never. read_clock is a number of Launch::many_reads if `many`
  u16 writer = 0, reader = 0;
  u8 strong = 0;  // bit 0: the write was no weak one; bit 1: so was a read
  u8 many = 0;    // several threads have read it since it was written
};

enum Written : u8 { NEVER, YES, IN_FLIGHT };  // IN_FLIGHT: cp.async is under way

// Device memory, in the host's.
struct Allocation {
  u64 base;  // its address on the device
  size_t size;
  u8* host;
  vector<u8> written;  // a Written for each byte
  vector<Cell> cells;
  bool stored = false, read_only = false;  // by the launch under way: stored to; read by ld.global.nc
  string read_only_where;
};
extern std::mutex allocations_lock;
extern std::map<u64, std::unique_ptr<Allocation>> allocations;  // by base
Allocation* find_allocation(u64 address);                       // null if it is in none; under allocations_lock
Allocation* add_allocation(u8* host, size_t size, bool written);

// Where an access goes.
struct Place {
  u8* data;
  u8* written;             // null: not looked at
  Cell* cells;             // null: not looked at
  Allocation* allocation;  // of device memory, else null
};
struct Access {
  bool write = false, strong = false, read_only = false;
  bool same = false;  // what is written is there already: two writers do not disagree
};

// Throws Stop, after a finding, for an address that is out of bounds or misaligned.
Place resolve(Warp& warp, int lane, Space space, u64 address, int bytes, bool write);
// What else can be wrong with the access; findings only.
void touch(Warp& warp, int lane, const Place& place, u64 address, int bytes, Access how);

// Device memory that the host shares is read and written as one piece.
u64 read_bytes(const u8* from, int bytes);
void write_bytes(u8* to, int bytes, u64 value);
u64 sign_extended(u64 value, int bytes, char sign);

}  // namespace ptxemu
