#include "memory.h"

#include <cstring>

#include "machine.h"
#include "races.h"

namespace ptxemu {

std::mutex allocations_lock;
std::map<u64, std::unique_ptr<Allocation>> allocations;

Allocation* find_allocation(u64 address) {
  auto it = allocations.upper_bound(address);
  if (it == allocations.begin()) return nullptr;
  Allocation* found = std::prev(it)->second.get();
  return address < found->base + found->size ? found : nullptr;
}

Allocation* add_allocation(u8* host, size_t size, bool written) {
  auto fresh = std::make_unique<Allocation>();
  fresh->base = reinterpret_cast<u64>(host) + GLOBAL, fresh->size = size, fresh->host = host;
  fresh->written.assign(size, written ? YES : NEVER);
  Allocation* result = fresh.get();
  std::lock_guard<std::mutex> guard(allocations_lock);
  allocations[result->base] = std::move(fresh);
  return result;
}

namespace {

[[noreturn]] void illegal(Warp& warp, int lane, const char* what, u64 address, int bytes) {
  warp.launch->find(what, warp, lane, text("%llx, %d bytes", static_cast<unsigned long long>(address), bytes));
  stop("illegal address");
}

Allocation* allocation_of(Warp& warp, u64 address, int bytes) {
  Allocation* last = warp.last_allocation;
  if (last && address >= last->base && address + bytes <= last->base + last->size) return last;
  std::lock_guard<std::mutex> guard(allocations_lock);
  Allocation* found = find_allocation(address);
  if (!found || address + bytes > found->base + found->size) return nullptr;
  return warp.last_allocation = found;
}

}  // namespace

Place resolve(Warp& warp, int lane, Space space, u64 address, int bytes, bool write) {
  Launch& launch = *warp.launch;
  if (space == GENERIC) {
    const u64 window = address >> 60;
    space = window == 1 ? SHARED_SPACE : window == 2 ? LOCAL_SPACE : window == 3 ? PARAM_SPACE : GLOBAL_SPACE;
    if (window) address -= window << 60;
  }
  if (address % std::min(bytes, 16)) illegal(warp, lane, "misaligned address", address, bytes);
  if (space == GLOBAL_SPACE) {
    Allocation* of = allocation_of(warp, address, bytes);
    if (!of) illegal(warp, lane, "global address out of bounds", address, bytes);
    const u64 at = address - of->base;
    // Reads before the first write count for nothing, so memory that is only read needs no cells.
    if (write && launch.races && of->cells.empty()) of->cells.resize(of->size);
    return {of->host + at, of->written.data() + at, of->cells.empty() ? nullptr : of->cells.data() + at, of};
  }
  if (space == SHARED_SPACE) {
    Block& block = *warp.block;
    const u64 at = address - SHARED_BASE;
    if (address < SHARED_BASE || at + bytes > block.shared.size()) {
      illegal(warp, lane, "shared address out of bounds", at, bytes);
    }
    return {block.shared.data() + at, block.written.data() + at, launch.races ? block.cells.data() + at : nullptr,
            nullptr};
  }
  if (space == LOCAL_SPACE) {
    const u64 at = address - LOCAL_BASE;
    if (address < LOCAL_BASE || at + bytes > warp.local[lane].size()) {
      illegal(warp, lane, "local address out of bounds", at, bytes);
    }
    return {warp.local[lane].data() + at, warp.local_written[lane].data() + at, nullptr, nullptr};
  }
  const u64 at = address - PARAMS_BASE;
  if (address < PARAMS_BASE || at + bytes > launch.params.size() || write) {
    illegal(warp, lane, "parameter address out of bounds", at, bytes);
  }
  return {launch.params.data() + at, nullptr, nullptr, nullptr};
}

void touch(Warp& warp, int lane, const Place& place, u64 address, int bytes, Access how) {
  Launch& launch = *warp.launch;
  const auto found = [&](const char* what) {
    launch.find(what, warp, lane, text("address %llx", static_cast<unsigned long long>(address)));
  };
  if (place.written) {
    for (int i = 0; i < bytes; i++) {
      if (place.written[i] == YES || (how.write && place.written[i] == NEVER)) continue;
      found(place.written[i] == NEVER ? "uninitialised memory read" : "memory used while cp.async writes it");
      break;
    }
    if (how.write) memset(place.written, YES, bytes);
  }
  if (Allocation* of = place.allocation) {
    if (how.write) {
      of->stored = true;
      if (of->read_only) launch.find("memory read by ld.global.nc is written", warp, lane, of->read_only_where);
    }
    if (how.read_only && !of->read_only) {
      of->read_only = true, of->read_only_where = text("read at line %d", warp.instruction->line);
      if (of->stored) found("memory written by the kernel is read by ld.global.nc");
    }
  }
  if (launch.races && place.cells && (how.write || !place.allocation || place.allocation->stored)) {
    for (int i = 0; i < bytes; i++) note(warp, lane, place.cells[i], address + i, how);
  }
}

u64 read_bytes(const u8* from, int bytes) {
  switch (bytes) {
    case 1:
      return __atomic_load_n(from, __ATOMIC_RELAXED);
    case 2:
      return __atomic_load_n(reinterpret_cast<const u16*>(from), __ATOMIC_RELAXED);
    case 4:
      return __atomic_load_n(reinterpret_cast<const u32*>(from), __ATOMIC_RELAXED);
    default:
      return __atomic_load_n(reinterpret_cast<const u64*>(from), __ATOMIC_RELAXED);
  }
}

void write_bytes(u8* to, int bytes, u64 value) {
  switch (bytes) {
    case 1:
      return __atomic_store_n(to, static_cast<u8>(value), __ATOMIC_RELAXED);
    case 2:
      return __atomic_store_n(reinterpret_cast<u16*>(to), static_cast<u16>(value), __ATOMIC_RELAXED);
    case 4:
      return __atomic_store_n(reinterpret_cast<u32*>(to), static_cast<u32>(value), __ATOMIC_RELAXED);
    default:
      return __atomic_store_n(reinterpret_cast<u64*>(to), value, __ATOMIC_RELAXED);
  }
}

u64 sign_extended(u64 value, int bytes, char sign) {
  if (sign != 's' || bytes == 8) return value;
  const int unused = 64 - 8 * bytes;
  return static_cast<u64>(static_cast<s64>(value << unused) >> unused);
}

}  // namespace ptxemu
