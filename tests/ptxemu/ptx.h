// A program of PTX as the parser leaves it: modules, functions, instructions, operands.
#pragma once

#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ptxemu {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using std::string;
using std::vector;

constexpr int LANES = 32;

// Generic addresses: the kind of memory is in the upper bits. Device memory lies in the host's; its address there is
// the host's plus GLOBAL. Within its kind, memory does not begin at 0, so that a null pointer is out of bounds.
constexpr u64 GLOBAL = 1ull << 56, SHARED = 1ull << 60, LOCAL = 2ull << 60, PARAMS = 3ull << 60;
constexpr u64 SHARED_BASE = 1024, LOCAL_BASE = 64, PARAMS_BASE = 256;

// What ends the reading of a program, or a launch.
struct Stop : std::runtime_error {
  using runtime_error::runtime_error;
};
// printf into a string, and the same as a Stop.
string text(const char* format, ...);
[[noreturn]] void stop(const string& why);

// The lanes of a mask: for (int lane : Lanes(mask)).
struct Lanes {
  struct Iterator {
    u32 left;
    int operator*() const { return std::countr_zero(left); }
    Iterator& operator++() {
      left &= left - 1;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return left != other.left; }
  };
  u32 mask;
  explicit Lanes(u32 of) : mask(of) {}
  Iterator begin() const { return {mask}; }
  Iterator end() const { return {0}; }
};

// Where an operand's numbers are: [LANES] of `size` bytes each, at byte `at` of the frame (registers), of the
// function's constants, or of the warp's special registers. A predicate has size 1 and is one mask of 32 bits.
enum Base : u8 { FRAME, CONSTANTS, SPECIAL };
struct Operand {
  Base base = FRAME;
  u8 size = 0;         // 0: none
  s32 register_ = -1;  // its number, to see whether it was ever written
  u32 at = 0;
};

enum Space : u8 {
  GENERIC,
  GLOBAL_SPACE,
  SHARED_SPACE,
  LOCAL_SPACE,
  PARAM_SPACE,
  SLOT_SPACE  // a function's own parameters and results, which are in its frame
};
struct Address {
  Operand base;
  s64 offset = 0;
  u32 slot_bytes = 0;  // of a lane, in SLOT_SPACE
};

enum Order : u8 { WEAK, VOLATILE, RELAXED, ACQUIRE, RELEASE, ACQUIRE_RELEASE, READ_ONLY };

// What the scheduler does with an instruction. WARP: it waits until all lanes that the instruction names are there.
enum Kind : u8 { PLAIN, BRANCH, RETURN, EXIT, CALL, BARRIER, WARP, YIELD };

// cvt: the types' letters (s, u, f) and bytes, and how it rounds to a whole number (z, m, p, i; n: not at all).
struct Conversion {
  char to, from;
  int to_bytes, from_bytes;
  char round;
  bool saturate, flush;
};

struct Warp;
struct Instruction;
using Run = void (*)(Warp&, const Instruction&, u32 mask);

struct Instruction {
  Run run = nullptr;
  Kind kind = PLAIN;
  bool guarded = false, negated = false;
  Operand guard;
  vector<Operand> out, in;
  vector<int> reads;        // registers, the guard not among them
  Address address, source;  // source: cp.async's
  Space space = GENERIC;
  Order order = WEAK;
  int bytes = 0;    // of an element
  char sign = 'b';  // of an element: b, u, s, f
  char mode = 0;    // which of several instructions of one name
  int number = 0;   // a barrier's, or how many groups cp.async.wait_group leaves
  bool aligned = false;
  u32 members = ~0u;  // the lanes that a WARP instruction names, unless `mask` does
  Operand mask;
  int target = -1, callee = -1;                    // of a branch, of a call
  vector<std::pair<u32, u32>> arguments, results;  // of a call: (where in the frame, bytes of a lane)
  Conversion conversion{};
  string text;
  int line = 0;
  u64 runs = 0;
};

struct Function {
  string name;
  bool complete = false;  // not only declared
  int number = 0;
  vector<Instruction> code;
  u32 frame = 0, registers = 0, local = 0;  // bytes of the frame, registers, bytes of a lane's local memory
  // A kernel's: (offset, bytes) in the launch's block of parameters. A function's: (where in the frame, bytes).
  vector<std::pair<u32, u32>> params, results;
  u32 param_bytes = 0;
  vector<u8> constants;
  u32 static_shared = 0;
};

struct Module {
  vector<std::unique_ptr<Function>> functions;
  std::map<string, int> by_name;
};

// Reads a program. Throws Stop, with the line, for whatever this interpreter does not know.
std::unique_ptr<Module> read_ptx(const string& source);

}  // namespace ptxemu
