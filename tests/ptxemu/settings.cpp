#include "settings.h"

#include <cstdarg>
#include <cstdio>
#include <sstream>

namespace ptxemu {

Settings settings;

string text(const char* format, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}
void stop(const string& why) { throw Stop(why); }

void Settings::set(const string& words) {
  *this = Settings();
  std::istringstream stream(words);
  for (string word; stream >> word;) {
    const size_t equals = word.find('=');
    const string name = word.substr(0, equals), value = equals == string::npos ? "" : word.substr(equals + 1);
    const auto one_of = [&](std::initializer_list<const char*> values) {
      for (const char* known : values) {
        if (value == known) return value;
      }
      stop("setting not known: " + word);
    };
    const auto number = [&] {
      size_t used = 0;
      u64 n = 0;
      try {
        n = std::stoull(value, &used);
      } catch (const std::exception&) {
      }
      if (value.empty() || used != value.size()) stop("expected a number: " + word);
      return n;
    };
    if (name == "schedule") {
      random = one_of({"orderly", "random"}) == "random";
    } else if (name == "mma") {
      sums = one_of({"nearest", "truncate", "sequential"})[0];
    } else if (name == "approx") {
      perturb = one_of({"exact", "perturb"}) == "perturb";
    } else if (name == "races") {
      races = one_of({"0", "1"}) == "1";
    } else if (name == "seed") {
      seed = number();
    } else if (name == "resident") {
      resident = static_cast<int>(number());
    } else if (name == "sms") {
      multiprocessors = static_cast<int>(number());
    } else if (name == "shared") {
      shared = static_cast<int>(number());
    } else if (name == "most") {
      most = number();
    } else {
      stop("setting not known: " + word);
    }
  }
}

}  // namespace ptxemu
