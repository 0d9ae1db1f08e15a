// A part of a program for some windows: one product after the other, by all warps of a block.
#pragma once

#include "cuda/spmd.h"
#include "cuda/view.h"

namespace spx::cuda {

// Windows that a block runs side by side.
struct Windows {
  float* arena;  // [count][stride]
  int stride;    // words
  int count;
  const float* code;  // U z [L] of the first window; those of the next are code_stride further
  int64_t code_stride;
};

// concat_elu (Shang et al. 2016) of y: elu(y) and elu(-y), with one exponential.
SPX_DEVICE void concat_elu(float y, float* of_y, float* of_minus_y) {
  const float tail = expf(-fabsf(y)) - 1.0f;
  *of_y = y > 0.0f ? y : tail;
  *of_minus_y = y > 0.0f ? tail : -y;
}

// y in a form of one number, so any but FORM_PAIRS.
SPX_DEVICE float seen_as(int32_t /*form*/, float y) {
  return y < 0.0f ? 0.0f : y;  // FORM_RELU; NaN stays NaN
}

SPX_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// An fp32 number as (high, low) in one word of two bf16: 16 bits of mantissa in all.
SPX_DEVICE uint32_t split_bf16(float x) {
  const float high = float_of(pack_bf16(x, 0.0f) << 16);
  return pack_bf16(high, x - high);
}

// The result of number c of a place, in the forms that are read.
template <Precision P>
SPX_DEVICE void store_result(float* arena, const Place& place, int c, float y) {
  if (place.raw >= 0) arena[place.raw + c] = y;
  if (place.activated < 0) return;
  if (place.form != FORM_PAIRS) {
    arena[place.activated + c] = seen_as(place.form, y);
    return;
  }
  float of_y, of_minus_y;
  concat_elu(y, &of_y, &of_minus_y);
  if constexpr (P == Precision::bf16) {
    arena[place.activated + c] = float_of(pack_bf16(of_y, of_minus_y));
  } else {
    const bool round = P == Precision::tf32;
    arena[place.activated + 2 * c] = round ? float_of(to_tf32(of_y)) : of_y;
    arena[place.activated + 2 * c + 1] = round ? float_of(to_tf32(of_minus_y)) : of_minus_y;
  }
}

// What a tile of a product stands on: rows first_row ... of places x windows, columns first_column ... of the outputs.
struct Tile {
  int first_row, first_column;
};

// The window and the place of a row of a product; rows of a window stand together.
struct TileRow {
  int window, place;
  bool there;
};
SPX_DEVICE TileRow tile_row(const Product& product, const Windows& windows, int row) {
  const int window = row / product.places;
  return {window, row - window * product.places, window < windows.count};
}

// Four weights at a time that a lane reads of a chunk and a tile: in fp32 those of its two columns and of two words, in
// the other precisions all that it has.
template <Precision P>
constexpr int FOURS = P == Precision::fp32 ? CHUNK_WORDS / 2 : 1;

// One chunk of a tile's inputs: where they are, and their weights.
template <Precision P, int MT, int NT>
struct Inputs {
  int32_t kind;
  int32_t word[2 * MT][LOCAL_LANES];  // of all arenas, where rows g, g + 8, ... begin; ~word: they read zeros
  Four weights[NT][FOURS<P>][LOCAL_LANES];
};

// MT x NT products of [16][inputs] [inputs][8] by one warp. Lane 4 g + t sums columns 2 t and 2 t + 1 of rows g and g +
// 8 of each, as the tensor cores do. DEPTH chunks are being loaded while one is multiplied: the cache is hundreds of
// cycles away. A lane without a row computes the first one again; no load depends on whether there is something.
template <Precision P, Space S, int MT, int NT, int DEPTH>
SPX_DEVICE void tile(const Block& block, const NetView& net, const Product& product, const Windows& windows, Tile at) {
  const int tiles = (product.columns + TILE_COLUMNS - 1) / TILE_COLUMNS, first_tile = at.first_column / TILE_COLUMNS;
  float* const arenas = windows.arena;
  assume_in<S>(arenas);
  assume_in<Space::global>(net.places), assume_in<Space::global>(net.bias);
  block.converge();

  int32_t place[2 * MT][LOCAL_LANES], offset[2 * MT][LOCAL_LANES];  // of the rows
  bool there[2 * MT][LOCAL_LANES];
  for (int l = 0; l < LOCAL_LANES; ++l) {
    SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) {
      const TileRow r = tile_row(product, windows, at.first_row + 8 * i + block.lane(l) / 4);
      there[i][l] = r.there;
      place[i][l] = r.there ? r.place : 0;
      offset[i][l] = r.there ? r.window * windows.stride : 0;
    }
  }
  const auto load = [&](int q, Inputs<P, MT, NT>& to) {
    to.kind = load_index(net.kinds + product.kinds + q);
    const int32_t* sources = net.sources + product.sources + q * product.places;
    for (int l = 0; l < LOCAL_LANES; ++l) {
      SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) {
        const int32_t source = load_index(sources + place[i][l]);
        to.word[i][l] = source < 0 ? source - offset[i][l] : source + offset[i][l];
      }
      const int lane = P == Precision::fp32 ? block.lane(l) % 4 : block.lane(l);
      SPX_UNROLL for (int j = 0; j < NT; ++j) {
        const int number = first_tile + j < tiles ? first_tile + j : tiles - 1;
        const uint32_t* of_tile = net.weights + product.weights + (q * tiles + number) * TILE_WORDS + 4 * lane;
        SPX_UNROLL for (int f = 0; f < FOURS<P>; ++f) to.weights[j][f][l] = load_four(of_tile + 16 * f);
      }
    }
  };
  Inputs<P, MT, NT> inputs[DEPTH];
  SPX_UNROLL for (int d = 0; d < DEPTH; ++d) {
    if (d < product.chunks) load(d, inputs[d]);
  }

  // What the sums start from.
  float acc[MT][NT][4][LOCAL_LANES];
  for (int l = 0; l < LOCAL_LANES; ++l) {
    const int t = block.lane(l) % 4;
    SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) {
      const Place row = net.places[product.place + place[i][l]];
      const float* arena = arenas + offset[i][l];
      const float* code = windows.code + (offset[i][l] > 0 ? offset[i][l] / windows.stride * windows.code_stride : 0);
      SPX_UNROLL for (int j = 0; j < 2 * NT; ++j) {
        const int column = at.first_column + TILE_COLUMNS * (j / 2) + 2 * t + j % 2;
        float start = 0.0f;
        if (there[i][l] && column < product.columns) {
          if (row.partial_in >= 0) {
            start = arena[row.partial_in + column];
          } else {
            start = net.bias[row.bias + column];
            if (row.code >= 0) start += code[row.code + column];
          }
        }
        acc[i / 2][j / 2][i % 2 * 2 + j % 2][l] = start;
      }
    }
  }

  // The sum over the inputs.
  for (int begin = 0; begin < product.chunks; begin += DEPTH) {
    SPX_UNROLL for (int d = 0; d < DEPTH; ++d) {
      const int q = begin + d;
      if (q < product.chunks) {
        const Inputs<P, MT, NT>& now = inputs[d];
        const int words = now.kind & ~RAW;
        const bool raw = now.kind & RAW;
        // Number k of a row's chunk; what is beyond the last word meets weights that are zero, but may be no number.
        const auto number = [&](int i, int k, int l) {
          const int32_t word = now.word[i][l];
          const float x = arenas[(word < 0 ? ~word : word) + (k < words ? k : words - 1)];
          const bool nothing = (word < 0) | (k >= words);  // `||` would make the load wait for a branch
          return nothing ? 0.0f : x;
        };
        constexpr int STEP = P == Precision::fp32 ? 4 : 8;  // words at a time
        SPX_UNROLL for (int first = 0; first < CHUNK_WORDS; first += STEP) {
          if (first >= words) continue;
          if constexpr (P == Precision::fp32) {
            for (int l = 0; l < LOCAL_LANES; ++l) {
              SPX_UNROLL for (int k = first; k < first + STEP; ++k) {
                float x[2 * MT];
                SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) x[i] = number(i, k, l);
                SPX_UNROLL for (int j = 0; j < 2 * NT; ++j) {
                  const float w = float_of(now.weights[j / 2][k / 2][l].at[k % 2 * 2 + j % 2]);
                  SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) {
                    float& sum = acc[i / 2][j / 2][i % 2 * 2 + j % 2][l];
                    sum = fmaf(x[i], w, sum);
                  }
                }
              }
            }
          } else {
            uint32_t a[MT][4][LOCAL_LANES], rest[MT][4][LOCAL_LANES];
            for (int l = 0; l < LOCAL_LANES; ++l) {
              SPX_UNROLL for (int i = 0; i < 4 * MT; ++i) {
                const float x = number(i / 4 * 2 + i % 2, first + i % 4 / 2 * 4 + block.lane(l) % 4, l);
                uint32_t& word = a[i / 4][i % 4][l];
                word = bits_of(x);
                if (raw) {
                  word = P == Precision::bf16 ? split_bf16(x) : to_tf32(x);
                  if constexpr (P == Precision::tf32) rest[i / 4][i % 4][l] = to_tf32(x - float_of(word));
                }
              }
            }
            SPX_UNROLL for (int j = 0; j < NT; ++j) {
              uint32_t b[2][LOCAL_LANES];
              for (int l = 0; l < LOCAL_LANES; ++l) {
                b[0][l] = now.weights[j][0][l].at[first / 4], b[1][l] = now.weights[j][0][l].at[first / 4 + 1];
              }
              SPX_UNROLL for (int i = 0; i < MT; ++i) {
                multiply<P == Precision::bf16>(acc[i][j], a[i], b);
                if constexpr (P == Precision::tf32) {
                  if (raw) multiply<false>(acc[i][j], rest[i], b);
                }
              }
            }
          }
        }
        if (q + DEPTH < product.chunks) load(q + DEPTH, inputs[d]);
      }
    }
  }

  // The gate, the residual, and the result in the forms that are read.
  for (int l = 0; l < LOCAL_LANES; ++l) {
    const int t = block.lane(l) % 4;
    SPX_UNROLL for (int i = 0; i < 2 * MT; ++i) {
      if (!there[i][l]) continue;
      const Place row = net.places[product.place + place[i][l]];
      float* arena = arenas + offset[i][l];
      SPX_UNROLL for (int j = 0; j < NT; ++j) {
        const int column = at.first_column + TILE_COLUMNS * j + 2 * t;
        const float first = acc[i / 2][j][i % 2 * 2][l], second = acc[i / 2][j][i % 2 * 2 + 1][l];
        if (column >= product.columns) continue;
        const bool both = column + 1 < product.columns;
        if (row.partial_out >= 0) {
          arena[row.partial_out + column] = first;
          if (both) arena[row.partial_out + column + 1] = second;
          continue;
        }
        if (product.gate == GATE_SIGMOID) {
          const int c = column / 2;
          const float y =
              row.residual < 0 ? first * sigmoid(second) : fmaf(first, sigmoid(second), arena[row.residual + c]);
          store_result<P>(arena, row, c, y);
        } else {
          const bool add = row.residual >= 0;
          store_result<P>(arena, row, column, add ? first + arena[row.residual + column] : first);
          if (both) store_result<P>(arena, row, column + 1, add ? second + arena[row.residual + column + 1] : second);
        }
      }
    }
  }
}

// Runs all products of a part. The caller must sync the block before reading results; the first product syncs by
// itself. The network and the windows are copied into registers: no store can change them.
template <Precision P, Space S>
SPX_DEVICE_CALL void run_part(const Block& block, const NetView& network, int part, const Windows& given) {
  const NetView net = network;
  const Windows windows = given;
  const int warps = block.warps();
  int turn = 0;  // the warp that takes the next tile, so that small products go to different warps
  const int begin = net.parts[part], end = net.parts[part + 1];
  if (begin == end) return;
  Product next = net.products[begin];
  for (int number = begin; number < end; ++number) {
    const Product product = next;
    if (number + 1 < end) next = net.products[number + 1];
    if (product.sync) block.sync(), turn = 0;
    const int rows = product.places * windows.count;
    const int across = (product.columns + TILE_COLUMNS - 1) / TILE_COLUMNS, down = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int pairs_across = (across + 1) / 2, pairs_down = (down + 1) / 2;
    // Two by two tiles read their inputs and weights half as often, if there are enough of them for all warps.
    const bool large = pairs_across * pairs_down >= warps;
    const int tiles = large ? pairs_across * pairs_down : across * down;
    int mine = block.warp() - turn;
    for (mine += mine < 0 ? warps : 0; mine < tiles; mine += warps) {
      if (large) {
        const int i = mine / pairs_across, j = mine - i * pairs_across;
        tile<P, S, 2, 2, P == Precision::fp32 ? 1 : 2>(block, net, product, windows,
                                                       {2 * TILE_ROWS * i, 2 * TILE_COLUMNS * j});
      } else {
        const int i = mine / across, j = mine - i * across;
        tile<P, S, 1, 1, P == Precision::fp32 ? 1 : 4>(block, net, product, windows, {TILE_ROWS * i, TILE_COLUMNS * j});
      }
    }
    turn = (turn + tiles) % warps;
  }
}

}  // namespace spx::cuda
