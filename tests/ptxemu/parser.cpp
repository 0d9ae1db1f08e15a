#include "parser.h"

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace ptxemu {
namespace {

bool numeric(const string& word) {
  return !word.empty() && ((word[0] >= '0' && word[0] <= '9') || (word[0] == '-' && word.size() > 1));
}
u32 aligned(u32 at, u32 align) { return align ? (at + align - 1) / align * align : at; }

}  // namespace

int bits_of_type(const string& type) {
  if (type == "pred") return 1;
  int bits = 0;
  for (char c : type) {
    if (c >= '0' && c <= '9') bits = bits * 10 + c - '0';
  }
  return bits;
}

// ---- words
// -----------------------------------------------------------------------------------------------------------

const string& Parser::peek(int ahead) const {
  static const string end;
  return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead].word : end;
}
string Parser::next() {
  if (at_ >= tokens_.size()) stop("PTX ends too soon");
  return tokens_[at_++].word;
}
bool Parser::take(const string& word) {
  if (peek() != word) return false;
  at_++;
  return true;
}
void Parser::expect(const string& word) {
  if (next() != word) refuse("expected " + word + ", got " + tokens_[at_ - 1].word);
}
void Parser::refuse(const string& what) const { stop(text("PTX line %d: ", tokens_[at_ ? at_ - 1 : 0].line) + what); }
vector<string> Parser::list(const string& open, const string& close) {
  vector<string> result;
  expect(open);
  while (!take(close)) {
    const string word = next();
    if (word != ",") result.push_back(word);
  }
  return result;
}

// ---- declarations
// ----------------------------------------------------------------------------------------------------

void Parser::read() {
  while (at_ < tokens_.size()) {
    const string word = next();
    if (word == ".version" || word == ".address_size") {
      next();
    } else if (word == ".target") {
      for (next(); take(",");) next();
    } else if (word == ".shared") {
      shared_variable();
    } else if (word == ".global" || word == ".const") {
      variable();
    } else if (word == ".entry" || word == ".func") {
      function(word == ".entry");
    } else if (word != ".visible" && word != ".weak" && word != ".extern" && word != ".common" && word != ";") {
      refuse("not known: " + word);
    }
  }
  for (auto& f : module_.functions) f->static_shared = aligned(shared_bytes_, 128);
}

// Such as .param .align 8 .b8 name[112], up to the name and the size.
Parser::Declared Parser::declared() {
  u32 align = 0, each = 0, count = 1;
  bool pointee = false;
  string word = next();
  for (; word[0] == '.'; word = next()) {
    if (word == ".align") {
      const u32 value = static_cast<u32>(number(next()));
      if (!pointee) align = value;
    } else if (word == ".ptr") {
      pointee = true;  // the alignment that follows is that of what it points to
    } else if (word != ".param" && word != ".global" && word != ".shared" && word != ".local" && word != ".const") {
      if (bits_of_type(word.substr(1)) % 8) refuse("not known: " + word);
      each = static_cast<u32>(bits_of_type(word.substr(1)) / 8);
    }
  }
  while (take("[")) {
    count = peek() == "]" ? 0 : count * static_cast<u32>(number(next()));
    expect("]");
  }
  return {word, each * count, align ? align : each};
}

void Parser::variable() {
  const Declared d = declared();
  const size_t bytes = std::max<size_t>((d.bytes + 255) / 256 * 256, 256);
  u8* host = static_cast<u8*>(aligned_alloc(256, bytes));
  memset(host, 0, bytes);
  if (take("=")) {
    if (peek() != "{" || d.bytes == 0) refuse("an initial value that is no list");
    size_t i = 0;
    for (const string& value : list("{", "}")) {
      if (!numeric(value) || i >= d.bytes) refuse("an initial value that is no list of bytes");
      host[i++] = static_cast<u8>(number(value));
    }
  }
  globals_[d.name] = add_allocation(host, d.bytes, true)->base;
  expect(";");
}

void Parser::shared_variable() {
  const Declared d = declared();
  if (d.bytes == 0) {
    dynamic_.push_back(d.name);
  } else {
    shared_bytes_ = aligned(shared_bytes_, d.align);
    shared_[d.name] = SHARED_BASE + shared_bytes_;
    shared_bytes_ += d.bytes;
  }
  expect(";");
}

u32 Parser::room(u32 bytes) {
  const u32 at = aligned(function_->frame, 64);
  function_->frame = at + bytes;
  return at;
}

// ( .param ... , .param ... ) of a function that is no kernel.
vector<Parser::Slot> Parser::slots_of_list() {
  vector<Slot> result;
  expect("(");
  while (!take(")")) {
    const Declared d = declared();
    result.push_back({room(d.bytes * LANES), d.bytes});
    slots_[0][d.name] = result.back();
    take(",");
  }
  return result;
}

void Parser::function(bool kernel) {
  auto fresh = std::make_unique<Function>();
  function_ = fresh.get();
  registers_.assign(1, {}), slots_.assign(1, {});
  locals_.clear(), params_.clear(), labels_.clear(), branches_.clear(), constants_.clear();
  if (peek() == "(") {
    for (const Slot& slot : slots_of_list()) fresh->results.push_back({slot.at, slot.bytes});
  }
  fresh->name = next();
  if (peek() == "(" && !kernel) {
    for (const Slot& slot : slots_of_list()) fresh->params.push_back({slot.at, slot.bytes});
  }
  if (take("(")) {
    while (!take(")")) {
      const Declared d = declared();
      const u32 at = params_[d.name] = aligned(fresh->param_bytes, d.align);
      fresh->params.push_back({at, d.bytes});
      fresh->param_bytes = at + d.bytes;
      take(",");
    }
  }
  while (peek() != "{" && peek() != ";") next();  // .maxntid 256, 1, 1 and the like
  // A function that was declared before keeps its number.
  const auto [it, first] = module_.by_name.try_emplace(fresh->name, static_cast<int>(module_.functions.size()));
  fresh->number = it->second;
  if (first) module_.functions.emplace_back();
  const bool declared_only = take(";");
  if (first || !declared_only) module_.functions[fresh->number] = std::move(fresh);
  if (!declared_only) body();
}

void Parser::body() {
  // What is extern begins after what is static.
  const auto place_dynamic = [&] {
    for (const string& name : dynamic_) shared_[name] = SHARED_BASE + aligned(shared_bytes_, 128);
  };
  place_dynamic();
  expect("{");
  for (int depth = 1; depth;) {
    if (take("{")) {
      depth++, registers_.emplace_back(), slots_.emplace_back();
    } else if (take("}")) {
      depth--, registers_.pop_back(), slots_.pop_back();
    } else if (take(".reg")) {
      registers();
    } else if (take(".local")) {
      const Declared d = declared();
      const u32 at = locals_[d.name] = aligned(function_->local, d.align);
      function_->local = at + d.bytes;
      expect(";");
    } else if (take(".param")) {
      const Declared d = declared();
      slots_.back()[d.name] = {room(d.bytes * LANES), d.bytes};
      expect(";");
    } else if (take(".shared")) {
      shared_variable();
      place_dynamic();
    } else if (take(".pragma")) {
      while (!take(";")) next();
    } else if (peek(1) == ":") {
      labels_[next()] = static_cast<int>(function_->code.size());
      expect(":");
    } else if (!take(";")) {
      instruction();
    }
  }
  function_->complete = true;
  for (const auto& [number, label] : branches_) {
    if (!labels_.count(label)) refuse("no label " + label);
    function_->code[number].target = labels_[label];
  }
}

// .reg .b32 %r<7>, %x;
void Parser::registers() {
  const int bits = bits_of_type(next().substr(1)), size = bits == 1 ? 1 : bits / 8;
  if (size != 1 && size != 2 && size != 4 && size != 8) refuse(text("registers of %d bits", bits));
  do {
    const string name = next();
    const bool many = take("<");
    const int count = many ? static_cast<int>(number(next())) : 1;
    if (many) expect(">");
    for (int i = 0; i < count; i++) {
      const s32 number_of_it = static_cast<s32>(function_->registers++);
      registers_.back()[many ? name + std::to_string(i) : name] = {size, number_of_it,
                                                                   room(size == 1 ? 4 : size * LANES)};
    }
  } while (take(","));
  expect(";");
}

// ---- operands
// --------------------------------------------------------------------------------------------------------

u64 Parser::number(const string& word) const {
  if (!numeric(word)) refuse("expected a number, got " + word);
  const bool bits = word.size() > 2 && word[0] == '0' && strchr("fFdD", word[1]);  // 0f3F800000, 0d...
  if (bits) return std::stoull(word.substr(2), nullptr, 16);
  if (word[0] == '-') return static_cast<u64>(-static_cast<s64>(std::stoull(word.substr(1), nullptr, 0)));
  return std::stoull(word, nullptr, 0);
}

Operand Parser::constant(u64 value, int size) {
  Operand& o = constants_[{value, size}];
  if (o.size) return o;
  vector<u8>& all = function_->constants;
  o.base = CONSTANTS, o.size = static_cast<u8>(size), o.at = aligned(static_cast<u32>(all.size()), 64);
  all.resize(o.at + (size == 1 ? 4 : size * LANES));
  const u64 bits = size == 1 && value ? ~0ull : value;
  if (size == 1) memcpy(&all[o.at], &bits, 4);
  for (int lane = 0; size > 1 && lane < LANES; lane++) memcpy(&all[o.at + lane * size], &bits, size);
  return o;
}

const Parser::Register* Parser::find_register(const string& name) const {
  for (auto scope = registers_.rbegin(); scope != registers_.rend(); ++scope) {
    const auto it = scope->find(name);
    if (it != scope->end()) return &it->second;
  }
  return nullptr;
}
const Parser::Slot* Parser::find_slot(const string& name) const {
  for (auto scope = slots_.rbegin(); scope != slots_.rend(); ++scope) {
    const auto it = scope->find(name);
    if (it != scope->end()) return &it->second;
  }
  return nullptr;
}

// A register, or what a number or the name of a variable stands for in so many bytes; none for "_".
Operand Parser::operand(const string& word, int size) {
  if (word == "_") return {};
  if (const Register* r = find_register(word)) {
    Operand o;
    o.size = static_cast<u8>(r->size), o.register_ = r->number, o.at = r->at;
    return o;
  }
  const auto special = std::find(std::begin(SPECIALS), std::end(SPECIALS), word);
  if (special != std::end(SPECIALS)) {
    Operand o;
    o.base = SPECIAL, o.size = 4, o.at = static_cast<u32>((special - std::begin(SPECIALS)) * LANES * sizeof(u32));
    return o;
  }
  if (numeric(word)) {
    const u64 bits = size == 8 ? ~0ull : size == 1 ? 1 : (1ull << 8 * size) - 1;
    return constant(number(word) & bits, size);
  }
  if (const auto it = shared_.find(word); it != shared_.end()) return constant(it->second, size);
  if (const auto it = globals_.find(word); it != globals_.end()) return constant(it->second, size);
  if (const auto it = params_.find(word); it != params_.end()) return constant(PARAMS_BASE + it->second, size);
  refuse("operand not known: " + word);
}

vector<string> Parser::vector_of_names() {
  if (peek() == "{") return list("{", "}");
  return {next()};
}

Address Parser::address(Instruction& now) {
  Address result;
  expect("[");
  const string word = next();
  if (const Register* r = find_register(word)) {
    result.base = operand(word, 8);
    now.reads.push_back(r->number);
  } else if (const Slot* slot = find_slot(word)) {
    result.base.at = slot->at, result.slot_bytes = slot->bytes;
    now.space = SLOT_SPACE;
  } else if (numeric(word)) {
    result.offset = static_cast<s64>(number(word));
  } else {
    result.base = operand(word, 8);
  }
  while (take("+")) result.offset += static_cast<s64>(number(next()));
  if (numeric(peek())) result.offset += static_cast<s64>(number(next()));  // [%r1 -4]
  expect("]");
  return result;
}

std::unique_ptr<Module> read_ptx(const string& source) {
  auto module = std::make_unique<Module>();
  Parser(*module, source).read();
  return module;
}

}  // namespace ptxemu
