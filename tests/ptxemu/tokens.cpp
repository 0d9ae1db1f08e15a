#include "tokens.h"

#include <cctype>

namespace ptxemu {
namespace {

bool digit(char c) { return c >= '0' && c <= '9'; }
bool part_of_word(char c) { return std::isalnum(static_cast<u8>(c)) || c == '_' || c == '$' || c == '.' || c == '%'; }

}  // namespace

vector<Token> tokens_of(const string& source) {
  vector<Token> result;
  int line = 1;
  const size_t size = source.size();
  const auto at = [&](size_t i) { return i < size ? source[i] : '\0'; };
  const auto skip_line = [&](size_t i) {
    const size_t end = source.find('\n', i);
    return end == string::npos ? size : end;
  };
  for (size_t i = 0; i < size;) {
    const char c = source[i];
    if (c == '\n') line++;
    if (std::isspace(static_cast<u8>(c))) {
      i++;
    } else if (c == '/' && at(i + 1) == '/') {
      i = skip_line(i);
    } else if (c == '/' && at(i + 1) == '*') {
      const size_t end = source.find("*/", i);
      for (; i < size && i != end; i++) line += source[i] == '\n';
      i += 2;
    } else if (c == '"') {
      const size_t end = source.find('"', i + 1);
      if (end == string::npos) stop(text("PTX line %d: a quotation without an end", line));
      result.push_back({source.substr(i, end - i + 1), line});
      i = end + 1;
    } else if (part_of_word(c) || (c == '-' && digit(at(i + 1)))) {
      size_t end = i + 1;
      while (part_of_word(at(end)) || (at(end) == ':' && at(end + 1) == ':')) end += at(end) == ':' ? 2 : 1;
      const string word = source.substr(i, end - i);
      if (word == ".section") return result;
      if (word == ".loc" || word == ".file") {
        i = skip_line(i);
        continue;
      }
      result.push_back({word, line});
      i = end;
    } else {
      result.push_back({string(1, c), line});
      i++;
    }
  }
  return result;
}

}  // namespace ptxemu
