// How programs are run. One line of words name=value: the environment variable PTXEMU, or what `set` is given.
#pragma once

#include "ptx.h"

namespace ptxemu {

struct Settings {
  bool random = false;      // schedule=random, else orderly: lanes that are behind go first
  u64 seed = 0;             // seed=N, of the schedule and of `perturb`
  bool races = false;       // races=1: look for data races
  char sums = 'n';          // mma=nearest, truncate (as tensor cores cut), sequential (as the host build sums)
  bool perturb = false;     // approx=perturb: ex2.approx and the like are off by as much as the manual allows
  int resident = 0;         // resident=N blocks at once, 0: all
  int multiprocessors = 3;  // sms=N
  int shared = 232448;      // shared=N, bytes that a block may have
  u64 most = 20000000000;   // most=N instructions of a launch

  // Everything not named is as above. Throws Stop for a word that it does not know.
  void set(const string& words);
};
extern Settings settings;

}  // namespace ptxemu
