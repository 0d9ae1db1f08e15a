// What a launch has done and found, as JSON.
#include <cstdio>
#include <set>

#include "machine.h"

namespace ptxemu {
namespace {

std::mutex lock;
string lines;

string quoted(const string& s) {
  string result = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<u8>(c) >= 32) result += c;
  }
  return result + '"';
}

}  // namespace

void Launch::find(const string& kind, const Warp& warp, int lane, const string& more) {
  const Instruction* at = warp.instruction;
  Finding& finding = findings[kind + (at ? text(" @%d", at->line) : "")];
  if (finding.times++) return;
  finding.first = text("block %d thread %d: %s  [line %d of the PTX: %s]", warp.block->number, warp.thread(lane),
                       more.c_str(), at ? at->line : 0, at ? at->text.c_str() : "");
}

void add_report(const Launch& launch) {
  string line = "{\"kernel\": " + quoted(launch.kernel->name);
  line += text(", \"blocks\": %u, \"threads\": %d, \"races\": %s", launch.grid.x * launch.grid.y * launch.grid.z,
               launch.threads, launch.races ? "true" : "false");
  line += text(", \"instructions\": %llu, \"barriers\": %llu, \"seconds\": %.3f",
               static_cast<unsigned long long>(launch.steps), static_cast<unsigned long long>(launch.barriers),
               launch.seconds);
  line += ", \"failed\": " + quoted(launch.failed) + ", \"findings\": {";
  bool comma = false;
  for (const auto& [kind, finding] : launch.findings) {
    line += (comma ? ", " : "") + quoted(kind) + ": " + quoted(finding.first);
    comma = true;
  }
  std::lock_guard<std::mutex> guard(lock);
  lines += line + "}}\n";
}

string reports() {
  std::lock_guard<std::mutex> guard(lock);
  return std::exchange(lines, "");
}

string coverage(const vector<std::unique_ptr<Module>>& modules) {
  string result;
  for (const auto& module : modules) {
    for (const auto& function : module->functions) {
      u64 ran = 0;
      string never;
      for (const Instruction& now : function->code) {
        ran += now.runs > 0;
        if (!now.runs) never += (never.empty() ? "" : ", ") + quoted(text("%d: ", now.line) + now.text);
      }
      if (!ran) continue;
      result += "{\"function\": " + quoted(function->name);
      result +=
          text(", \"instructions\": %zu, \"ran\": %llu", function->code.size(), static_cast<unsigned long long>(ran));
      result += ", \"never\": [" + never + "]}\n";
    }
  }
  return result;
}

}  // namespace ptxemu
