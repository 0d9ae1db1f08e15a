#include "fat_binary.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace ptxemu {
namespace {

// As nvcc writes it; the machine code, or PTX, lies behind the header.
struct Wrapper {
  int magic, version;
  const u8* data;
  void* name;
};
struct Header {
  u32 magic;
  u16 version, bytes;
  u64 following;
};

}  // namespace

string ptx_of_fat_binary(const void* wrapper) {
  if (const char* path = getenv("PTXEMU_PTX")) {
    std::ifstream file(path);
    if (!file) stop(string("PTXEMU_PTX: no file ") + path);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
  }
  const u8* data = static_cast<const Wrapper*>(wrapper)->data;
  Header header;
  memcpy(&header, data, sizeof header);
  const void* begin = memmem(data, header.bytes + header.following, ".version ", 9);
  if (!begin) stop("no PTX as plain text: compile for compute_90 alone, with --compress-mode=none");
  return static_cast<const char*>(begin);
}

}  // namespace ptxemu
