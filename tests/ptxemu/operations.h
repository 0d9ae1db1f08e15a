// What instructions do: a function for each, which the decoder chooses. A mask says for which lanes.
#pragma once

#include "machine.h"

namespace ptxemu {

// access.cpp
void load(Warp&, const Instruction&, u32 mask);
void store(Warp&, const Instruction&, u32 mask);
void atomic(Warp&, const Instruction&, u32 mask);  // mode: a add, e exchange, c compare and swap, m min, M max, & | ^
void copy_async(Warp&, const Instruction&, u32 mask);
void commit_copies(Warp&, const Instruction&, u32 mask);
void wait_for_copies(Warp&, const Instruction&, u32 mask);  // mode a: for all, committed or not
void fence(Warp&, const Instruction&, u32 mask);

// integers.cpp, floats.cpp, convert.cpp; a null pointer for what is not known.
Run integer(const string& name, const string& which, const string& type);  // which: "lo", "hi", "wide" or ""
Run integer_comparison(const string& how, const string& type);
Run predicate(const string& name);
Run bits_of_words(const string& name, const string& which);  // shf, prmt
Run float_operation(const string& name, const string& rounding, bool flush);
Run float_comparison(const string& how, int bytes);
Run move(int size);
Run select(int size);
Run shift_address(u64 by);
Run in_shared_memory();  // isspacep
void convert(Warp&, const Instruction&, u32 mask);
void convert_to_tf32(Warp&, const Instruction&, u32 mask);
void pack_bf16(Warp&, const Instruction&, u32 mask);    // the first operand in the upper half
void pack_unpack(Warp&, const Instruction&, u32 mask);  // mov with a vector on either side
void local_address(Warp&, const Instruction&, u32 mask);

// warp_wide.cpp
void sync_warp(Warp&, const Instruction&, u32 mask);
void shuffle(Warp&, const Instruction&, u32 mask);  // mode: u up, d down, b butterfly, i index
void reduce(Warp&, const Instruction&, u32 mask);   // mode: a add, m min, M max, & | ^
void vote(Warp&, const Instruction&, u32 mask);     // mode: b ballot, l all, y any, u uniform

// matrices.cpp
void mma_tf32(Warp&, const Instruction&, u32 mask);      // m16n8k8
void mma_bf16(Warp&, const Instruction&, u32 mask);      // m16n8k16
void load_matrix(Warp&, const Instruction&, u32 mask);   // mode t: transposed
void store_matrix(Warp&, const Instruction&, u32 mask);  // mode t: transposed

}  // namespace ptxemu
