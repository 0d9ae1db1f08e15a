// Which lanes run next, and for how long: orderly, or by chance. Every lane has its own program counter, as on sm_70
// and later.
#include <algorithm>
#include <chrono>

#include "machine.h"
#include "settings.h"

namespace ptxemu {

Warp::Warp(Launch& of, Block& in, int number) : launch(&of), block(&in), number(number) {
  const int have = std::min(LANES, of.threads - number * LANES);
  exist = have == LANES ? ~0u : (1u << have) - 1;
  special.resize(SPECIAL_COUNT * LANES * sizeof(u32));
  u32* numbers = reinterpret_cast<u32*>(special.data());
  const dim3 d = of.dims, b = in.at, g = of.grid;
  for (int lane = 0; lane < LANES; lane++) {
    const u32 t = thread(lane);
    const u32 values[SPECIAL_COUNT] = {
        t % d.x, t / d.x % d.y,          t / d.x / d.y,           d.x, d.y, d.z, b.x, b.y, b.z, g.x, g.y,
        g.z,     static_cast<u32>(lane), static_cast<u32>(number)};
    for (int i = 0; i < SPECIAL_COUNT; i++) numbers[i * LANES + lane] = values[i];
    pc[lane] = 0, function[lane] = of.kernel->number, depth[lane] = 0;
    state[lane] = exist >> lane & 1 ? RUNNING : EXITED;
    local_base[lane] = {0};
    local[lane].resize(of.kernel->local), local_written[lane].assign(of.kernel->local, NEVER);
    for (u8& x : local[lane]) x = static_cast<u8>(of.random());
  }
  in.live += have;
}

u32 Warp::thread_of_grid(int lane) const { return block->number * launch->threads + thread(lane); }

bool Warp::runnable() const {
  return std::any_of(state, state + LANES, [](State s) { return s == RUNNING; });
}

void Warp::enter(int number_of_function, int at_depth) {
  Function& of = *launch->module->functions[number_of_function];
  Frame& frame = frames[{at_depth, number_of_function}];
  if (frame.data.empty()) {
    frame.data.resize(of.frame + 64), frame.valid.resize(of.registers + 1);
    for (size_t i = 0; i < frame.data.size(); i++) frame.data[i] = static_cast<u8>(0xa5 ^ i * 37);
  }
  bases[FRAME] = frame.data.data(), bases[CONSTANTS] = of.constants.data(), bases[SPECIAL] = special.data();
  valid = frame.valid.data();
}

void Launch::start(int number) {
  auto block = std::make_unique<Block>();
  block->number = number;
  block->at = dim3(number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
  block->shared.resize(kernel->static_shared + dynamic_shared);
  block->written.assign(block->shared.size(), NEVER);
  for (u8& x : block->shared) x = static_cast<u8>(random());
  if (races) block->cells.resize(block->shared.size());
  for (int n = 0; n * LANES < threads; n++) block->warps.push_back(std::make_unique<Warp>(*this, *block, n));
  blocks.push_back(std::move(block));
}

// Runs lanes of a warp that are at one place, until they part, wait, or have run for long enough.
void Launch::slice(Warp& warp) {
  int chosen = -1, running = 0;
  for (int lane = 0; lane < LANES; lane++) {
    if (warp.state[lane] != RUNNING) continue;
    running++;
    const auto behind = [&] {
      if (warp.depth[lane] != warp.depth[chosen]) return warp.depth[lane] > warp.depth[chosen];
      return warp.pc[lane] < warp.pc[chosen];
    };
    if (chosen < 0 || (settings.random ? random() % running == 0 : behind())) chosen = lane;
  }
  const int function = warp.function[chosen], depth = warp.depth[chosen];
  int pc = warp.pc[chosen], stop_at = 1 << 30;  // stop_at: others wait there
  u32 together = 0;
  for (int lane = 0; lane < LANES; lane++) {
    if (warp.state[lane] != RUNNING || warp.function[lane] != function || warp.depth[lane] != depth) continue;
    if (warp.pc[lane] == pc) together |= 1u << lane;
    if (warp.pc[lane] > pc) stop_at = std::min(stop_at, warp.pc[lane]);
  }
  u64 budget = 3000;
  if (settings.random) {
    stop_at = 1 << 30;
    budget = 1 + (random() % 8 ? random() % 400 : random() % 8);
    const u32 some = random() % 3 ? 0 : together & static_cast<u32>(random());
    if (some) together = some;
  }
  warp.enter(function, depth);
  Function& code_of = *module->functions[function];
  Instruction* code = code_of.code.data();
  const auto go = [&](u32 lanes, int to) {
    for (int lane : Lanes(lanes)) warp.pc[lane] = to;
  };
  for (; budget && pc < stop_at; budget--) {
    if (pc >= static_cast<int>(code_of.code.size())) stop("ran past the end of " + code_of.name);
    Instruction& now = code[pc];
    warp.instruction = &now;
    u32 mask = together;
    const auto check = [&](int number) {
      if ((warp.valid[number] & mask) == mask) return;
      find("uninitialised register read", warp, std::countr_zero(mask & ~warp.valid[number]), "");
      warp.valid[number] |= mask;
    };
    if (now.guarded) {
      check(now.guard.register_);
      const u32 guard = *warp.in<u32>(now.guard);
      mask &= now.negated ? ~guard : guard;
    }
    for (int number : now.reads) check(number);
    steps++, now.runs++;
    if (now.kind == PLAIN) {
      if (mask) now.run(warp, now, mask);
      pc++;
      continue;
    }
    if (now.kind == YIELD) return go(together, pc + 1);
    if (!mask) {
      pc++;
      continue;
    }
    if (now.kind == BRANCH && mask == together) {
      pc = now.target;
      continue;
    }
    go(together & ~mask, pc + 1);
    switch (now.kind) {
      case BRANCH:
        return go(mask, now.target);
      case CALL:
        return call(warp, function, depth, pc, mask);
      case RETURN:
      case EXIT:
        return leave(warp, function, now.kind == EXIT ? 0 : depth, mask);
      case BARRIER:
        for (int lane : Lanes(mask)) {
          warp.state[lane] = AT_BARRIER, warp.barrier[lane] = now.number, warp.pc[lane] = pc;
          warp.block->waiting++;
        }
        return;
      default:  // WARP
        for (int lane : Lanes(mask)) {
          warp.state[lane] = AT_WARP, warp.pc[lane] = pc;
          warp.mask[lane] = now.mask.size ? static_cast<u32>(warp.get(now.mask, lane)) : now.members;
          if (warp.mask[lane] >> lane & 1) continue;
          find("a lane that the mask leaves out", warp, lane, "");
          stop("membermask");
        }
        return gather(warp);
    }
  }
  go(together, pc);
}

void Launch::call(Warp& warp, int caller, int depth, int pc, u32 mask) {
  const Function& from = *module->functions[caller];
  const Instruction& now = from.code[pc];
  const Function& to = *module->functions[now.callee];
  if (!to.complete) stop("no body of " + to.name);
  const u8* arguments = warp.bases[FRAME];
  for (int lane : Lanes(mask)) {
    warp.returns[lane].push_back({caller, pc + 1});
    warp.function[lane] = now.callee, warp.depth[lane] = depth + 1, warp.pc[lane] = 0;
    const u32 base = (warp.local_base[lane].back() + from.local + 15) / 16 * 16;
    warp.local_base[lane].push_back(base);
    if (warp.local[lane].size() < base + to.local) {
      warp.local[lane].resize(base + to.local), warp.local_written[lane].resize(base + to.local);
    }
    std::fill_n(warp.local_written[lane].begin() + base, to.local, NEVER);
  }
  warp.enter(now.callee, depth + 1);
  for (u32 i = 0; i < to.registers; i++) warp.valid[i] &= ~mask;
  for (size_t i = 0; i < now.arguments.size(); i++) {
    const auto [at, bytes] = now.arguments[i];
    u8* param = warp.bases[FRAME] + to.params[i].first;
    for (int lane : Lanes(mask)) memcpy(param + lane * to.params[i].second, arguments + at + lane * bytes, bytes);
  }
}

// Back to the caller; from depth 0 the lanes end.
void Launch::leave(Warp& warp, int function, int depth, u32 mask) {
  for (int lane : Lanes(mask)) {
    if (depth == 0) {
      warp.state[lane] = EXITED;
      warp.block->live--;
      for (const auto& group : warp.copies[lane]) {
        if (!group.empty()) find("a thread ends with cp.async under way", warp, lane, "");
      }
      continue;
    }
    const Warp::Return back = warp.returns[lane].back();
    warp.returns[lane].pop_back(), warp.local_base[lane].pop_back();
    warp.function[lane] = back.function, warp.pc[lane] = back.pc, warp.depth[lane] = depth - 1;
    const auto& results = module->functions[function]->results;
    const Instruction& made = module->functions[back.function]->code[back.pc - 1];
    u8* to = warp.frames.at({depth - 1, back.function}).data.data();
    for (size_t i = 0; i < made.results.size(); i++) {
      const auto [at, bytes] = made.results[i];
      memcpy(to + at + lane * bytes, warp.bases[FRAME] + results[i].first + lane * results[i].second, bytes);
    }
  }
}

// Runs an instruction for which all the lanes that it names have arrived.
void Launch::gather(Warp& warp) {
  for (int lane = 0; lane < LANES; lane++) {
    if (warp.state[lane] != AT_WARP) continue;
    const Instruction& now = module->functions[warp.function[lane]]->code[warp.pc[lane]];
    u32 here = 0, exited = 0;
    for (int k = 0; k < LANES; k++) {
      if (warp.state[k] == EXITED) exited |= 1u << k;
      if (warp.state[k] == AT_WARP && warp.function[k] == warp.function[lane] && warp.pc[k] == warp.pc[lane] &&
          warp.depth[k] == warp.depth[lane] && warp.mask[k] == warp.mask[lane]) {
        here |= 1u << k;
      }
    }
    u32 wanted = warp.mask[lane] & warp.exist;
    if (!now.aligned) wanted &= ~exited;
    if ((here & wanted) != wanted) continue;
    warp.enter(warp.function[lane], warp.depth[lane]);
    warp.instruction = &now;
    now.run(warp, now, wanted);
    for (int k : Lanes(wanted)) warp.state[k] = RUNNING, warp.pc[k]++;
    return;
  }
}

// Lets a block go on whose threads all wait at a barrier.
bool Launch::barrier(Block& block) {
  if (!block.live || block.waiting < block.live) return false;
  int number = -1;
  Clocks all = no_clocks();
  for (auto& warp : block.warps) {
    int first = -1;
    for (int lane = 0; lane < LANES; lane++) {
      if (warp->state[lane] != AT_BARRIER) continue;
      warp->instruction = &module->functions[warp->function[lane]]->code[warp->pc[lane]];
      if (number < 0) number = warp->barrier[lane];
      if (number != warp->barrier[lane]) find("threads of a block wait at different barriers", *warp, lane, "");
      if (first < 0) first = lane;
      if (warp->instruction->aligned &&
          (warp->pc[lane] != warp->pc[first] || warp->function[lane] != warp->function[first])) {
        find("bar.sync that the lanes of a warp reach at different places", *warp, lane, "");
      }
      if (races) all.join(clocks[warp->thread_of_grid(lane)]);
    }
  }
  for (auto& warp : block.warps) {
    for (int lane = 0; lane < LANES; lane++) {
      if (warp->state[lane] != AT_BARRIER) continue;
      warp->state[lane] = RUNNING, warp->pc[lane]++;
      if (!races) continue;
      const u32 thread = warp->thread_of_grid(lane);
      clocks[thread] = all;
      clocks[thread].at(thread)++;
    }
  }
  block.waiting = 0, barriers++;
  return true;
}

// Runs some of a block's warps; whether any could run.
bool Launch::turn(Block& block) {
  bool ran = false;
  const size_t count = block.warps.size(), offset = settings.random ? random() % count : 0;
  for (size_t i = 0; i < count; i++) {
    Warp& warp = *block.warps[(i + offset) % count];
    if (!warp.runnable()) continue;
    ran = true;
    for (int slices = settings.random ? 1 : 8; slices && warp.runnable(); slices--) slice(warp);
    if (settings.random) break;
  }
  while (barrier(block)) ran = true;
  return ran;
}

void Launch::deadlock() {
  for (auto& block : blocks) {
    for (auto& warp : block->warps) {
      for (int lane = 0; lane < LANES; lane++) {
        if (warp->state[lane] == EXITED) continue;
        warp->instruction = &module->functions[warp->function[lane]]->code[warp->pc[lane]];
        const bool at_barrier = warp->state[lane] == AT_BARRIER;
        find(at_barrier ? "deadlock at a barrier" : "deadlock: a warp does not come together", *warp, lane, "");
      }
    }
  }
  stop("deadlock");
}

void Launch::run() {
  const auto begin = std::chrono::steady_clock::now();
  threads = static_cast<int>(dims.x * dims.y * dims.z);
  const int count = static_cast<int>(grid.x * grid.y * grid.z), all = count * threads;
  random.seed(settings.seed * 7919 + 17);
  races = settings.races && all < 65536;  // the number of a Cell's thread has 16 bits
  if (races) clocks.assign(all, no_clocks());
  for (u32 t = 0; t < clocks.size(); t++) clocks[t].at(t) = 1;
  {
    std::lock_guard<std::mutex> guard(allocations_lock);
    for (auto& [_, of] : allocations) of->stored = of->read_only = false, vector<Cell>().swap(of->cells);
  }
  for (int i = 0; i < count; i++) left.push_back(i);
  const int at_once = settings.resident > 0 ? settings.resident : count;
  try {
    size_t next = 0;
    u64 idle = 0;  // turns in which nothing ran
    while (true) {
      while (static_cast<int>(blocks.size()) < at_once && !left.empty()) start(left.front()), left.pop_front();
      if (blocks.empty()) break;
      const size_t which = (settings.random ? random() : next++) % blocks.size();
      idle = turn(*blocks[which]) ? 0 : idle + 1;
      if (blocks[which]->live == 0) blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(which)), idle = 0;
      if (idle > 64 * (blocks.size() + 1)) deadlock();
      if (steps > settings.most) stop("too many steps");
    }
  } catch (const Stop& why) {
    failed = why.what();
  }
  seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  add_report(*this);
}

}  // namespace ptxemu
