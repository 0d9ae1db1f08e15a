// Loads, stores, atomic operations, and cp.async.
#include <algorithm>
#include <bit>

#include "operations.h"

namespace ptxemu {
namespace {

u8* slot(Warp& warp, const Address& a, int lane) {
  return warp.bases[FRAME] + a.base.at + lane * a.slot_bytes + a.offset;
}

u64 combined(const Instruction& now, u64 old, u64 by, u64 other) {
  const auto less = [&](u64 a, u64 b) {
    if (now.sign != 's') return a < b;
    return static_cast<s64>(sign_extended(a, now.bytes, 's')) < static_cast<s64>(sign_extended(b, now.bytes, 's'));
  };
  switch (now.mode) {
    case 'a':
      if (now.sign != 'f') return old + by;
      if (now.bytes == 8) return std::bit_cast<u64>(std::bit_cast<double>(old) + std::bit_cast<double>(by));
      return std::bit_cast<u32>(std::bit_cast<float>(static_cast<u32>(old)) +
                                std::bit_cast<float>(static_cast<u32>(by)));
    case 'e':
      return by;
    case 'c':
      return old == by ? other : old;
    case '&':
      return old & by;
    case '|':
      return old | by;
    case '^':
      return old ^ by;
    case 'm':
      return less(old, by) ? old : by;
    default:
      return less(by, old) ? old : by;
  }
}

}  // namespace

void load(Warp& warp, const Instruction& now, u32 mask) {
  const int count = static_cast<int>(now.out.size());
  u64 values[4] = {};
  for (int lane : Lanes(mask)) {
    if (now.space == SLOT_SPACE) {
      for (int i = 0; i < count; i++) memcpy(&values[i], slot(warp, now.address, lane) + i * now.bytes, now.bytes);
    } else {
      const u64 address = warp.address(now.address, lane);
      const Place place = resolve(warp, lane, now.space, address, now.bytes * count, false);
      for (int i = 0; i < count; i++) values[i] = read_bytes(place.data + i * now.bytes, now.bytes);
      const bool read_only = now.order == READ_ONLY;
      touch(warp, lane, place, address, now.bytes * count,
            {.strong = now.order != WEAK && !read_only, .read_only = read_only});
      if (now.order == ACQUIRE) acquire(warp, lane, address);
    }
    for (int i = 0; i < count; i++) warp.put(now.out[i], lane, sign_extended(values[i], now.bytes, now.sign));
  }
  warp.defined(now.out, mask);
}

void store(Warp& warp, const Instruction& now, u32 mask) {
  const int count = static_cast<int>(now.in.size());
  for (int lane : Lanes(mask)) {
    u64 values[4];
    for (int i = 0; i < count; i++) values[i] = warp.get(now.in[i], lane);
    if (now.space == SLOT_SPACE) {
      for (int i = 0; i < count; i++) memcpy(slot(warp, now.address, lane) + i * now.bytes, &values[i], now.bytes);
      continue;
    }
    const u64 address = warp.address(now.address, lane);
    const Place place = resolve(warp, lane, now.space, address, now.bytes * count, true);
    bool same = place.cells;
    for (int i = 0; same && i < count; i++) same = !memcmp(&values[i], place.data + i * now.bytes, now.bytes);
    touch(warp, lane, place, address, now.bytes * count, {.write = true, .strong = now.order != WEAK, .same = same});
    if (now.order == RELEASE) {
      release(warp, lane, address, false);
    } else {
      overwrite(warp, address);
    }
    for (int i = 0; i < count; i++) write_bytes(place.data + i * now.bytes, now.bytes, values[i]);
  }
}

void atomic(Warp& warp, const Instruction& now, u32 mask) {
  for (int lane : Lanes(mask)) {
    const u64 address = warp.address(now.address, lane);
    const Place place = resolve(warp, lane, now.space, address, now.bytes, true);
    touch(warp, lane, place, address, now.bytes, {.strong = true});
    touch(warp, lane, place, address, now.bytes, {.write = true, .strong = true});
    if (now.order == ACQUIRE || now.order == ACQUIRE_RELEASE) acquire(warp, lane, address);
    const u64 old = read_bytes(place.data, now.bytes), by = warp.get(now.in[0], lane);
    const u64 other = now.in.size() > 1 ? warp.get(now.in[1], lane) : 0;
    write_bytes(place.data, now.bytes, combined(now, old, by, other));
    if (now.order == RELEASE || now.order == ACQUIRE_RELEASE) release(warp, lane, address, true);
    if (!now.out.empty()) warp.put(now.out[0], lane, old);
  }
  warp.defined(now.out, mask);
}

// ---- cp.async: the copies are made as late as they may be
// ------------------------------------------------------------

void copy_async(Warp& warp, const Instruction& now, u32 mask) {
  for (int lane : Lanes(mask)) {
    const u64 to = warp.address(now.address, lane), from = warp.address(now.source, lane);
    const int filled =
        now.in.empty() ? now.bytes : std::min<int>(now.bytes, static_cast<int>(warp.get(now.in[0], lane)));
    const Place place = resolve(warp, lane, SHARED_SPACE, to, now.bytes, true);
    touch(warp, lane, place, to, now.bytes, {.write = true});
    std::fill_n(place.written, now.bytes, static_cast<u8>(IN_FLIGHT));
    auto& groups = warp.copies[lane];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({to, from, now.bytes, filled});
  }
}

void commit_copies(Warp& warp, const Instruction&, u32 mask) {
  for (int lane : Lanes(mask)) {
    if (warp.copies[lane].empty()) warp.copies[lane].emplace_back();
    warp.copies[lane].emplace_back();
  }
}

void wait_for_copies(Warp& warp, const Instruction& now, u32 mask) {
  if (now.mode == 'a') commit_copies(warp, now, mask);
  for (int lane : Lanes(mask)) {
    auto& groups = warp.copies[lane];
    while (static_cast<int>(groups.size()) - 1 > now.number) {
      for (const Copy& copy : groups.front()) {
        u8 bytes[16] = {};
        if (copy.filled) {
          const Place from = resolve(warp, lane, GLOBAL_SPACE, copy.from, copy.filled, false);
          touch(warp, lane, from, copy.from, copy.filled, {});
          memcpy(bytes, from.data, copy.filled);
        }
        const Place to = resolve(warp, lane, SHARED_SPACE, copy.to, copy.bytes, true);
        std::fill_n(to.written, copy.bytes, static_cast<u8>(YES));
        touch(warp, lane, to, copy.to, copy.bytes, {.write = true});
        memcpy(to.data, bytes, copy.bytes);
      }
      groups.erase(groups.begin());
    }
  }
}

void fence(Warp&, const Instruction&, u32) {}

}  // namespace ptxemu
