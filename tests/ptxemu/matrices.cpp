// Products of matrices by a warp, and the fragments of matrices in shared memory (PTX ISA, "Warp-level matrix
// instructions").
#include <cmath>

#include "operations.h"
#include "settings.h"

namespace ptxemu {
namespace {

// c plus the products of `count` pairs, as a tensor core sums: exactly, `together` at a time, then rounded to fp32 or
// cut. The products themselves are exact in fp32.
float summed(const double* products, int count, int together, float c) {
  float sum = c;
  if (settings.sums == 's') {
    for (int i = 0; i < count; i++) sum += static_cast<float>(products[i]);
    return sum;
  }
  if (settings.sums == 'n') together = count;
  for (int begin = 0; begin < count; begin += together) {
    double exact = sum;
    for (int i = begin; i < begin + together; i++) exact += products[i];
    sum = static_cast<float>(exact);
    if (settings.sums == 't' && std::fabs(static_cast<double>(sum)) > std::fabs(exact)) sum = std::nextafter(sum, 0.0f);
  }
  return sum;
}

// D = A B + C of [16][K] [K][8]. Lane 4 group + t has of C and D the columns 2 t, 2 t + 1 of rows group and group + 8.
template <int K>
void multiply(Warp& warp, const Instruction& now, u32 mask, const float (&a)[16][K], const float (&b)[K][8]) {
  float results[4][LANES];
  for (int lane = 0; lane < LANES; lane++) {
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      double products[K];
      for (int k = 0; k < K; k++) products[k] = static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      results[i][lane] = summed(products, K, K / 2, warp.in<float>(now.in[now.in.size() - 4 + i])[lane]);
    }
  }
  for (int i = 0; i < 4; i++) memcpy(warp.out<float>(now.out[i]), results[i], sizeof results[i]);
  warp.defined(now.out, mask);
}

float tf32(Warp& warp, const Operand& o, int lane) {
  const u32 bits = warp.in<u32>(o)[lane];
  if (bits & 0x1fff)
    warp.launch->find("mma: a .tf32 operand with bits that tf32 has not", warp, lane, text("%08x", bits));
  return std::bit_cast<float>(bits & 0xffffe000u);
}
float bf16(Warp& warp, const Operand& o, int lane, int half) {
  const u32 bits = warp.in<u32>(o)[lane];
  return std::bit_cast<float>(half ? bits & 0xffff0000u : bits << 16);
}

}  // namespace

void mma_tf32(Warp& warp, const Instruction& now, u32 mask) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < LANES; lane++) {
    const int group = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[group + 8 * (i % 2)][t + 4 * (i / 2)] = tf32(warp, now.in[i], lane);
    for (int i = 0; i < 2; i++) b[t + 4 * i][group] = tf32(warp, now.in[4 + i], lane);
  }
  multiply(warp, now, mask, a, b);
}

void mma_bf16(Warp& warp, const Instruction& now, u32 mask) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < LANES; lane++) {
    const int group = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < 4; i++)
        a[group + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = bf16(warp, now.in[i], lane, half);
      for (int i = 0; i < 2; i++) b[2 * t + half + 8 * i][group] = bf16(warp, now.in[4 + i], lane, half);
    }
  }
  multiply(warp, now, mask, a, b);
}

// Matrices [8][8] of 16 bits. Lanes 8 n ... 8 n + 7 have the addresses of the rows of matrix n; lane 4 row + pair has
// its columns 2 pair and 2 pair + 1 in one register.
void load_matrix(Warp& warp, const Instruction& now, u32 mask) {
  for (size_t n = 0; n < now.out.size(); n++) {
    u16 matrix[8][8];
    for (int row = 0; row < 8; row++) {
      const int lane = static_cast<int>(8 * n) + row;
      const u64 address = warp.address(now.address, lane);
      const Place place = resolve(warp, lane, SHARED_SPACE, address, 16, false);
      touch(warp, lane, place, address, 16, {});
      memcpy(matrix[row], place.data, 16);
    }
    for (int lane = 0; lane < LANES; lane++) {
      const int row = lane / 4, column = lane % 4 * 2;
      const u32 low = now.mode == 't' ? matrix[column][row] : matrix[row][column];
      const u32 high = now.mode == 't' ? matrix[column + 1][row] : matrix[row][column + 1];
      warp.out<u32>(now.out[n])[lane] = low | high << 16;
    }
  }
  warp.defined(now.out, mask);
}

void store_matrix(Warp& warp, const Instruction& now, u32) {
  for (size_t n = 0; n < now.in.size(); n++) {
    u16 matrix[8][8];
    for (int lane = 0; lane < LANES; lane++) {
      for (int i = 0; i < 2; i++) {
        const int row = lane / 4, column = lane % 4 * 2 + i;
        const u16 value = static_cast<u16>(warp.in<u32>(now.in[n])[lane] >> 16 * i);
        (now.mode == 't' ? matrix[column][row] : matrix[row][column]) = value;
      }
    }
    for (int row = 0; row < 8; row++) {
      const int lane = static_cast<int>(8 * n) + row;
      const u64 address = warp.address(now.address, lane);
      const Place place = resolve(warp, lane, SHARED_SPACE, address, 16, true);
      touch(warp, lane, place, address, 16, {.write = true});
      memcpy(place.data, matrix[row], 16);
    }
  }
}

}  // namespace ptxemu
