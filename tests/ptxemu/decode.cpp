// From the words of one instruction to what runs it. Whatever is not in the table at the end is refused: a name, and
// every part of it between dots.
#include <algorithm>
#include <sstream>

#include "operations.h"
#include "parser.h"

namespace ptxemu {

struct Parser::Decoder {
  Parser& p;
  Instruction now;
  string full, name, type;  // such as add.rn.f32, add, f32
  vector<string> parts;     // what follows the name
  int size = 0;             // bytes of the type; 1 of a predicate

  explicit Decoder(Parser& parser) : p(parser) {}

  bool has(const char* part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }
  // The first of some words that is among the parts, else "".
  string which(const char* words) const {
    std::istringstream stream(words);
    for (string word; stream >> word;) {
      if (has(word.c_str())) return word;
    }
    return "";
  }
  [[noreturn]] void refuse() const { p.refuse("no such instruction here: " + full); }

  // Operands.
  void output() {
    const Operand o = p.operand(p.next(), 4);
    if (o.base != FRAME) p.refuse("a result goes to a register");
    now.out.push_back(o);
  }
  void outputs() {
    for (const string& word : p.vector_of_names()) {
      const Operand o = p.operand(word, 4);
      if (o.base != FRAME) p.refuse("a result goes to a register");
      now.out.push_back(o);
    }
  }
  void input_of(const string& word, int bytes, bool any_size) {
    const Operand o = p.operand(word, bytes);
    if (o.register_ >= 0) now.reads.push_back(o.register_);
    if (o.size != bytes && !any_size) p.refuse(text("%s has %d bytes, not %d", word.c_str(), o.size, bytes));
    now.in.push_back(o);
  }
  void input(int bytes, bool any_size = false) { input_of(p.next(), bytes, any_size); }
  void another(int bytes) {
    p.expect(",");
    input(bytes);
  }
  void inputs(int bytes) {
    for (const string& word : p.vector_of_names()) input_of(word, bytes, false);
  }
  // out, in, in ... of so many bytes each
  void operands(std::initializer_list<int> bytes) {
    output();
    for (int each : bytes) another(each);
  }
  void members() {
    const Operand o = p.operand(p.next(), 4);
    if (o.base == CONSTANTS) {
      memcpy(&now.members, &p.function_->constants[o.at], 4);
    } else {
      now.mask = o;
      if (o.register_ >= 0) now.reads.push_back(o.register_);
    }
  }
  void space_and_order() {
    if (has("global") || has("const")) now.space = GLOBAL_SPACE;
    if (has("shared") || has("shared::cta")) now.space = SHARED_SPACE;
    if (has("local")) now.space = LOCAL_SPACE;
    if (has("param")) now.space = PARAM_SPACE;
    if (has("volatile")) now.order = VOLATILE;
    if (has("relaxed")) now.order = RELAXED;
    if (has("acquire")) now.order = ACQUIRE;
    if (has("release")) now.order = RELEASE;
    if (has("acq_rel")) now.order = ACQUIRE_RELEASE;
    if (has("nc")) now.order = READ_ONLY;
  }

  // Control.
  void branch() {
    now.kind = BRANCH;
    p.branches_.push_back({p.function_->code.size(), p.next()});
  }
  void return_() { now.kind = RETURN; }
  void exit() { now.kind = EXIT; }
  void call() {
    now.kind = CALL;
    const auto slots = [&](const vector<string>& names) {
      vector<std::pair<u32, u32>> result;
      for (const string& of : names) {
        const Slot* slot = p.find_slot(of);
        if (!slot) p.refuse("no parameter " + of);
        result.push_back({slot->at, slot->bytes});
      }
      return result;
    };
    if (p.peek() == "(") {
      now.results = slots(p.list("(", ")"));
      p.expect(",");
    }
    const string callee = p.next();
    if (!p.module_.by_name.count(callee)) p.refuse("call of " + callee);
    now.callee = p.module_.by_name[callee];
    if (p.take(",")) now.arguments = slots(p.list("(", ")"));
    const Function& to = *p.module_.functions[now.callee];
    if (to.params.size() != now.arguments.size() || to.results.size() != now.results.size()) {
      p.refuse("another number of parameters than that of " + callee);
    }
  }
  void barrier() {
    if (!has("sync")) refuse();
    if (has("warp")) {
      now.kind = WARP, now.run = sync_warp;
      return members();
    }
    now.kind = BARRIER, now.number = static_cast<int>(p.number(p.next()));
    now.aligned = name == "bar" || has("aligned");
    if (p.peek() == ",") p.refuse("a barrier of some of the threads");
  }
  void sleep() {
    now.kind = YIELD;
    input(4);
  }

  // Memory.
  void load_() {
    space_and_order();
    now.run = load;
    outputs();
    p.expect(",");
    now.address = p.address(now);
  }
  void store_() {
    space_and_order();
    now.run = store;
    now.address = p.address(now);
    p.expect(",");
    for (const string& word : p.vector_of_names()) input_of(word, size, true);
  }
  void atomic_() {
    space_and_order();
    if (now.order == WEAK) now.order = RELAXED;
    now.run = atomic;
    static const std::map<string, char> modes = {{"add", 'a'}, {"exch", 'e'}, {"cas", 'c'}, {"min", 'm'},
                                                 {"max", 'M'}, {"and", '&'},  {"or", '|'},  {"xor", '^'}};
    const auto mode = modes.find(which("add exch cas min max and or xor"));
    if (mode == modes.end()) refuse();
    now.mode = mode->second;
    if (name == "atom") {
      output();
      p.expect(",");
    }
    now.address = p.address(now);
    while (p.peek() == ",") another(size);
  }
  void copy() {
    if (!has("async")) refuse();
    if (has("commit_group")) {
      now.run = commit_copies;
    } else if (has("wait_group") || has("wait_all")) {
      now.run = wait_for_copies;
      if (has("wait_all")) now.mode = 'a';
      if (has("wait_group")) now.number = static_cast<int>(p.number(p.next()));
    } else {
      now.run = copy_async;
      now.address = p.address(now);
      p.expect(",");
      now.source = p.address(now);
      p.expect(",");
      now.bytes = static_cast<int>(p.number(p.next()));
      if (p.peek() == ",") another(4);
    }
  }
  void fence_() { now.run = fence; }

  // A whole warp.
  void matrix_product() {
    now.kind = WARP, now.aligned = true;
    if (has("m16n8k8") && parts.size() == 9 && std::count(parts.begin(), parts.end(), "tf32") == 2) now.run = mma_tf32;
    if (has("m16n8k16") && parts.size() == 9 && std::count(parts.begin(), parts.end(), "bf16") == 2) now.run = mma_bf16;
    if (!now.run) refuse();
    outputs();
    for (int i = 0; i < 3; i++) {
      p.expect(",");
      inputs(4);
    }
  }
  void matrix_access() {
    now.kind = WARP, now.aligned = true, now.mode = has("trans") ? 't' : 0;
    if (name == "ldmatrix") {
      now.run = load_matrix;
      outputs();
      p.expect(",");
      now.address = p.address(now);
    } else {
      now.run = store_matrix;
      now.address = p.address(now);
      p.expect(",");
      inputs(4);
    }
  }
  void shuffle_() {
    now.kind = WARP, now.run = shuffle;
    now.mode = has("up") ? 'u' : has("down") ? 'd' : has("bfly") ? 'b' : 'i';
    output();
    if (p.take("|")) output();
    for (int i = 0; i < 3; i++) another(4);
    p.expect(",");
    members();
  }
  void reduce_() {
    now.kind = WARP, now.run = reduce;
    now.mode = has("add") ? 'a' : has("min") ? 'm' : has("max") ? 'M' : has("and") ? '&' : has("or") ? '|' : '^';
    operands({4});
    p.expect(",");
    members();
  }
  void vote_() {
    now.kind = WARP, now.run = vote;
    now.mode = has("ballot") ? 'b' : has("all") ? 'l' : has("any") ? 'y' : 'u';
    operands({1});
    p.expect(",");
    members();
  }

  // Numbers.
  void move_() {
    if (p.peek() == "{") {
      now.run = pack_unpack;
      outputs();
      another(size);
      return;
    }
    output();
    p.expect(",");
    if (p.peek() == "{") {
      now.run = pack_unpack;
      const vector<string> words = p.vector_of_names();
      for (const string& word : words) input_of(word, size / static_cast<int>(words.size()), false);
    } else if (p.locals_.count(p.peek())) {
      now.run = local_address;
      now.address.offset = p.locals_[p.next()];
    } else {
      input(size);
      now.run = size == 1 ? predicate("mov") : move(size);
    }
    if (now.out[0].size != size) refuse();
  }
  void generic_address() {
    operands({8});
    const u64 window = has("shared") ? SHARED : has("local") ? LOCAL : has("param") ? PARAMS : 0;
    now.run = shift_address(has("to") ? 0 - window : window);
  }
  void in_space() {
    operands({8});
    now.run = in_shared_memory();
  }
  void convert_() {
    const string to = parts.size() > 1 ? parts[parts.size() - 2] : "";
    const auto plain = [](const string& t) { return t != "bf16" && t != "f16" && t != "bf16x2" && t != "tf32"; };
    if (to == "bf16x2" && type == "f32" && full == "cvt.rn.bf16x2.f32") {
      operands({4, 4});
      now.run = ptxemu::pack_bf16;
    } else if (full == "cvt.rna.tf32.f32") {
      operands({4});
      now.run = convert_to_tf32;
    } else {
      if (!plain(to) || !plain(type) || has("rz") || has("rm") || has("rp") || has("rna")) refuse();
      output();
      p.expect(",");
      input(bits_of_type(type) / 8, true);
      now.run = convert;
      const char round = has("rzi") ? 'z' : has("rmi") ? 'm' : has("rpi") ? 'p' : has("rni") ? 'i' : 'n';
      const auto letter = [](const string& t) { return t[0] == 'b' ? 'u' : t[0]; };
      now.conversion = {letter(to), letter(type), bits_of_type(to) / 8, bits_of_type(type) / 8, round,
                        has("sat"), has("ftz")};
    }
  }
  void select_() {
    operands({size, size, 1});
    now.run = select(size);
  }
  void compare_() {
    operands({size, size});
    if (has("and") || has("or") || has("xor")) {
      now.mode = has("and") ? '&' : has("or") ? '|' : '^';
      another(1);
    }
    now.run = type[0] == 'f' ? float_comparison(parts[0], size) : integer_comparison(parts[0], type);
  }
  void words_of_bits() {
    operands({4, 4, 4});
    now.run = bits_of_words(name, parts[0]);
  }
  void arithmetic() {
    if (size == 1) {
      operands({1});
      if (name != "not") another(1);
      now.run = predicate(name);
      return;
    }
    const string how = which("lo hi wide"), rounding = which("rn rz rm approx full");
    if (type == "f32" ? how != "" : rounding != "") refuse();
    const bool one = name == "not" || name == "neg" || name == "abs" || name == "popc" || name == "clz" ||
                     name == "rcp" || name == "ex2" || name == "lg2" || name == "sqrt";
    operands({size});
    if (name == "shl" || name == "shr") {
      another(4);
    } else if (name == "bfe") {
      another(4), another(4);
    } else if (!one) {
      another(size);
    }
    if (name == "fma") another(size);
    if (name == "mad") another(how == "wide" ? 2 * size : size);
    now.run = type == "f32" ? float_operation(name, rounding, has("ftz")) : integer(name, how, type);
  }

  void decode();
};

namespace {

#define WHOLE " u16 u32 u64 s16 s32 s64 b16 b32 b64 "
#define MEMORY " b8 b16 b32 b64 u8 u16 u32 u64 s8 s16 s32 s64 f32 f64 "
#define SPACES " global shared shared::cta local param gpu sys cta "

}  // namespace

void Parser::Decoder::decode() {
  struct Known {
    const char* parts;
    void (Decoder::*decode)();
  };
  using D = Decoder;
  static const std::map<string, Known> table = {
      {"bra", {"uni", &D::branch}},
      {"ret", {"uni", &D::return_}},
      {"exit", {"", &D::exit}},
      {"call", {"uni", &D::call}},
      {"bar", {"sync warp cta", &D::barrier}},
      {"barrier", {"sync cta aligned", &D::barrier}},
      {"nanosleep", {"u32", &D::sleep}},
      {"ld",
       {SPACES MEMORY "const volatile relaxed acquire nc v2 v4 L1::evict_first L1::evict_last L2::128B L2::256B",
        &D::load_}},
      {"st", {SPACES MEMORY "volatile relaxed release v2 v4", &D::store_}},
      {"atom",
       {SPACES "relaxed acquire release acq_rel add exch cas min max and or xor u32 u64 s32 s64 b32 b64 f32 f64",
        &D::atomic_}},
      {"red", {SPACES "relaxed release add min max and or xor u32 u64 s32 s64 b32 b64 f32 f64", &D::atomic_}},
      {"cp", {"async ca cg shared shared::cta global L2::128B L2::256B commit_group wait_group wait_all", &D::copy}},
      {"fence", {"acq_rel sc gpu sys cta", &D::fence_}},
      {"membar", {"gl cta sys", &D::fence_}},
      {"mma", {"sync aligned m16n8k8 m16n8k16 row col f32 tf32 bf16", &D::matrix_product}},
      {"ldmatrix", {"sync aligned m8n8 x1 x2 x4 trans shared shared::cta b16", &D::matrix_access}},
      {"stmatrix", {"sync aligned m8n8 x1 x2 x4 trans shared shared::cta b16", &D::matrix_access}},
      {"shfl", {"sync up down bfly idx b32", &D::shuffle_}},
      {"redux", {"sync add min max and or xor u32 s32 b32", &D::reduce_}},
      {"vote", {"sync ballot all any uni pred b32", &D::vote_}},
      {"mov", {WHOLE "pred f32 f64", &D::move_}},
      {"cvta", {"to shared local param global u64", &D::generic_address}},
      {"isspacep", {"shared", &D::in_space}},
      {"cvt", {WHOLE "u8 s8 f32 f64 bf16x2 tf32 rn rna rzi rmi rpi rni sat ftz", &D::convert_}},
      {"selp", {WHOLE "f32 f64", &D::select_}},
      {"setp",
       {WHOLE "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan and or xor f32 f64", &D::compare_}},
      {"shf", {"l r wrap b32", &D::words_of_bits}},
      {"prmt", {"b32", &D::words_of_bits}},
      {"add", {WHOLE "f32 rn rz", &D::arithmetic}},
      {"sub", {WHOLE "f32 rn", &D::arithmetic}},
      {"mul", {WHOLE "f32 rn lo hi wide", &D::arithmetic}},
      {"mad", {WHOLE "lo wide", &D::arithmetic}},
      {"fma", {"f32 rn rm rz ftz", &D::arithmetic}},
      {"div", {WHOLE "f32 rn full approx", &D::arithmetic}},
      {"rem", {WHOLE, &D::arithmetic}},
      {"min", {WHOLE "f32", &D::arithmetic}},
      {"max", {WHOLE "f32", &D::arithmetic}},
      {"neg", {WHOLE "f32", &D::arithmetic}},
      {"abs", {WHOLE "f32", &D::arithmetic}},
      {"copysign", {"f32", &D::arithmetic}},
      {"rcp", {"f32 rn approx ftz", &D::arithmetic}},
      {"ex2", {"f32 approx ftz", &D::arithmetic}},
      {"lg2", {"f32 approx ftz", &D::arithmetic}},
      {"sqrt", {"f32 rn", &D::arithmetic}},
      {"not", {WHOLE "pred", &D::arithmetic}},
      {"and", {WHOLE "pred", &D::arithmetic}},
      {"or", {WHOLE "pred", &D::arithmetic}},
      {"xor", {WHOLE "pred", &D::arithmetic}},
      {"shl", {WHOLE, &D::arithmetic}},
      {"shr", {WHOLE, &D::arithmetic}},
      {"bfe", {WHOLE, &D::arithmetic}},
      {"popc", {WHOLE, &D::arithmetic}},
      {"clz", {WHOLE, &D::arithmetic}},
  };

  const size_t begin = p.at_;
  now.line = p.tokens_[p.at_].line;
  if (p.take("@")) {
    now.guarded = true, now.negated = p.take("!");
    now.guard = p.operand(p.next(), 1);
    if (now.guard.register_ < 0) p.refuse("a guard is a predicate");
  }
  full = p.next();
  std::istringstream words(full);
  std::getline(words, name, '.');
  for (string part; std::getline(words, part, '.');) parts.push_back(part);
  const auto known = table.find(name);
  if (known == table.end()) refuse();
  const string allowed = string(" ") + known->second.parts + " ";
  for (const string& part : parts) {
    if (allowed.find(" " + part + " ") == string::npos) refuse();
  }
  type = parts.empty() ? "" : parts.back();
  size = type == "pred" ? 1 : bits_of_type(type) / 8;
  now.bytes = size, now.sign = type.empty() ? 'b' : type[0];
  (this->*known->second.decode)();
  if (!now.run && (now.kind == PLAIN || now.kind == WARP)) refuse();
  for (size_t i = begin; i < p.at_ && now.text.size() < 160; i++)
    now.text += (i > begin ? " " : "") + p.tokens_[i].word;
  if (!p.take(";")) p.refuse("more operands than those of " + full);
  p.function_->code.push_back(std::move(now));
}

void Parser::instruction() { Decoder(*this).decode(); }

}  // namespace ptxemu
