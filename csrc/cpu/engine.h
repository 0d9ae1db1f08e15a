// What the cpp engine does with a compiled network: draw by windows, and evaluate known inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "job.h"
#include "program.h"

namespace spx {

// Draws a job on so many threads. model.programs: spxcore.lower.window.window_programs of a square window.
//
// `report` is called on the calling thread now and then with the number of pixels drawn since the last call, after
// job.finished was written; if it returns false the drawing stops soon, and so does the function.
void draw(const Model& model, const Job& job, int threads, const std::function<bool(int64_t)>& report);

// Runs one program on windows, or images, that are known.
//
// inputs  [N][places][channels] for each of model.inputs
// code    [N][Z], or null
// narrow  with the kernels for one window instead of those for LANES; the bits are the same
// params  out, [N][T][P]
void evaluate(const Model& model, const Program& program, int64_t windows, const std::vector<const float*>& inputs,
              const float* code, bool narrow, int threads, float* params);

}  // namespace spx
