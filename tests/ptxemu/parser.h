// From the words of PTX to a Module: declarations and scopes here (parser.cpp), instructions in decode.cpp.
#pragma once

#include "tokens.h"

namespace ptxemu {

int bits_of_type(const string& type);  // "f32" -> 32; "pred" -> 1; 0 for what is no type

class Parser {
 public:
  Parser(Module& module, const string& source) : module_(module), tokens_(tokens_of(source)) {}
  void read();

 private:
  struct Register {
    int size;
    s32 number;
    u32 at;
  };
  struct Slot {
    u32 at, bytes;
  };
  struct Declared {
    string name;
    u32 bytes, align;
  };

  // Words.
  const string& peek(int ahead = 0) const;
  string next();
  bool take(const string& word);  // the next word, if it is this one
  void expect(const string& word);
  [[noreturn]] void refuse(const string& what) const;  // with the line of the last word
  vector<string> list(const string& open, const string& close);

  // Declarations.
  Declared declared();
  void variable();  // .global, .const
  void shared_variable();
  void function(bool kernel);
  vector<Slot> slots_of_list();
  void body();
  void registers();
  u32 room(u32 bytes);  // in the frame

  // Operands.
  u64 number(const string& word) const;
  Operand constant(u64 value, int size);
  Operand operand(const string& word, int size);
  const Register* find_register(const string& name) const;
  const Slot* find_slot(const string& name) const;
  vector<string> vector_of_names();  // {a, b} or a
  Address address(Instruction& now);

  // Instructions.
  void instruction();
  struct Decoder;

  Module& module_;
  vector<Token> tokens_;
  size_t at_ = 0;
  Function* function_ = nullptr;
  // A scope each: { } nest.
  vector<std::map<string, Register>> registers_;
  vector<std::map<string, Slot>> slots_;
  std::map<string, u32> locals_, params_;  // by name: where in a lane's local memory, in the block of parameters
  std::map<string, int> labels_;
  vector<std::pair<size_t, string>> branches_;  // whose labels are not known yet
  std::map<string, u64> shared_, globals_;      // addresses by name
  vector<string> dynamic_;                      // extern shared memory: it begins after what is static
  u32 shared_bytes_ = 0;
  std::map<std::pair<u64, int>, Operand> constants_;
};

}  // namespace ptxemu
