#include <algorithm>

#include "engine.h"
#include "machine.h"
#include "threads.h"

namespace spx {

void evaluate(const Model& model, const Program& program, int64_t windows, const std::vector<const float*>& inputs,
              const float* code, bool narrow, int threads, float* params) {
  const int together = narrow ? 1 : LANES;
  const int64_t batches = (windows + together - 1) / together;
  const int workers = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, batches)));
  require_memory("threads", product_of({static_cast<size_t>(workers), Machine::bytes(model)}));
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&](int, int) {
    Machine machine(model);
    for (int64_t batch; !stop.load() && (batch = next.fetch_add(1)) < batches;) {
      const int64_t first = batch * together;
      const int count = static_cast<int>(std::min<int64_t>(together, windows - first));
      for (int lane = 0; lane < count; ++lane) {
        const int64_t window = first + lane;
        const Machine::Place to = narrow ? machine.narrow() : machine.wide(lane);
        if (model.code > 0) machine.set_code(lane, 1, code + window * model.code);
        const auto put = [&](int k, int32_t place, int32_t row) {
          const Input& input = model.inputs[k];
          const float* from = inputs[k] + (window * input.height * input.width + place) * input.channels;
          for (int c = 0; c < input.channels; ++c) to[row + c] = from[c];
        };
        for (const Pixel& pixel : program.pixels) put(0, pixel.place, pixel.row);
        for (const Told& told : program.told) put(1 + told.input, told.place, told.row);
      }
      for (int part = 0; part <= program.steps(); ++part) {
        if (narrow) {
          machine.run_narrow(program, part, 0, -1);
        } else {
          machine.run_wide(program, part);
        }
      }
      const auto targets = static_cast<int64_t>(program.targets.size());
      for (int lane = 0; lane < count; ++lane) {
        const Machine::Place from = narrow ? machine.narrow() : machine.wide(lane);
        float* to = params + (first + lane) * targets * model.parameters;
        for (const int32_t row : program.params) {
          for (int p = 0; p < model.parameters; ++p) *to++ = from[row + p];
        }
      }
    }
  };
  in_threads(workers, stop, work, [] {});
}

}  // namespace spx
