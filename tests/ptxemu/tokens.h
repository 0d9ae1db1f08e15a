// The words of PTX, each with its line.
#pragma once

#include "ptx.h"

namespace ptxemu {

struct Token {
  string word;
  int line;
};

// Comments, .loc and .file are left out; so is what follows .section, the tables of a debugger.
vector<Token> tokens_of(const string& source);

}  // namespace ptxemu
