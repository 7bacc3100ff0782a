// SPDX-License-Identifier: Apache-2.0
// Tiles of sums whose lanes are neighbouring columns: several rows, one long row, or several channels of a group.
//
// A vector at an odd place crosses a cache line and costs a core two of the two loads it can start in a cycle, in which
// it could finish two multiply-adds: each loaded vector must feed more than two of them.
#pragma once

#include "planar_pack.h"
#include "planar_plan.h"

namespace omniconv {
namespace {
namespace planar {

// What is alike for all tiles of a part of the columns; strides in floats.
struct Plan {
  bool direct;  // whether inputs stand at the direct places of strands, else at the packed ones
  int64_t variants, input_variant;
  int64_t hop;          // between rows of inputs that neighbouring lines meet
  int64_t line;         // between lines of outputs
  int64_t line_weight;  // between the weights of neighbouring channels

  const float* first(const float* input, const Strand& strand) const {
    return input + (direct ? strand.direct : strand.packed);
  }
};

struct Piece;

// Sums the outputs of a tile within a piece of its rows.
using TileFunction = void (*)(const Plan&, const Tile&, const Piece&, const float* input, const float* weights,
                              const float* start, float* sums);

// Vectors side by side, of one phase of the columns.
struct Piece {
  TileFunction run;
  const int64_t* offsets;  // of the taps along the columns
  int64_t taps;
  int64_t weights, weight_variant;  // floats to the weights of the phase, and between those of channels met
  int64_t begin, vectors;           // of the part
  int64_t last;                     // lanes of the last vector that are wanted
  int64_t sums;                     // floats to its first output, where phases are apart
  int64_t apart;                    // see planar_comb.h

  const float* first(const float* weights, const Strand& strand) const {
    return weights + strand.before * taps + strand.first;
  }
};

// sum[j][v] += weight[m] · input row (j + m), for each column tap.
template <int R, int NV, int TAPS>
OMNICONV_INLINE void meet_rows(vec (&sum)[R][NV], const float* input, const float* weights, const int64_t* offsets,
                               int64_t taps, int64_t pitch, int64_t hop) {
  for (int64_t tap = 0; tap < taps; ++tap, weights += pitch) {
    const float* row = input + offsets[tap];
    vec weight[TAPS];
#pragma GCC unroll 16
    for (int m = 0; m < TAPS; ++m) weight[m] = held(everywhere(weights[m]));
#pragma GCC unroll 32
    for (int i = 0; i < R + TAPS - 1; ++i, row += hop) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) {
        const vec loaded = held(load(row + v * V));
#pragma GCC unroll 16
        for (int m = 0; m < TAPS; ++m)
          if (i - m >= 0 && i - m < R) sum[i - m][v] += weight[m] * loaded;
      }
    }
  }
}

template <int R, int NV, int TAPS = MOST_STRAND>
OMNICONV_INLINE void meet_strand(int64_t count, vec (&sum)[R][NV], const float* input, const float* weights,
                                 const int64_t* offsets, int64_t taps, int64_t pitch, int64_t hop) {
  if constexpr (TAPS > 1) {
    if (count < TAPS) return meet_strand<R, NV, TAPS - 1>(count, sum, input, weights, offsets, taps, pitch, hop);
  }
  meet_rows<R, NV, TAPS>(sum, input, weights, offsets, taps, pitch, hop);
}

template <int R, int NV>
OMNICONV_INLINE void put(const vec (&sum)[R][NV], float* to, int64_t line, int64_t lines, int64_t last) {
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j, to += line) {
    if (j >= lines) break;
#pragma GCC unroll 16
    for (int v = 0; v < NV - 1; ++v) store(to + v * V, sum[j][v]);
    if (last == V) {
      store(to + (NV - 1) * V, sum[j][NV - 1]);
    } else {
      store_first(to + (NV - 1) * V, sum[j][NV - 1], last);
    }
  }
}

// R rows of NV vectors.
template <int R, int NV>
__attribute__((noinline)) void tile_of_rows(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                                            const float* weights, const float* start, float* sums) {
  vec sum[R][NV];
  const vec begin = everywhere(*start);
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j)
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) sum[j][v] = begin;
  for (const Strand *strand = tile.strands, *end = strand + tile.count; strand < end; ++strand) {
    const float* from = plan.first(input, *strand);
    const float* weight = piece.first(weights, *strand);
    for (int64_t variant = 0; variant < plan.variants; ++variant) {
      meet_strand<R, NV>(strand->taps, sum, from, weight, piece.offsets, piece.taps, strand->pitch, plan.hop);
      from += plan.input_variant;
      weight += piece.weight_variant;
    }
  }
  put(sum, sums, plan.line, tile.lines, piece.last);
}

// R channels of NV vectors of one row. Channels that are not wanted repeat the last one.
template <int R, int NV>
__attribute__((noinline)) void tile_of_channels(const Plan& plan, const Tile& tile, const Piece& piece,
                                                const float* input, const float* weights, const float* start,
                                                float* sums) {
  vec sum[R][NV];
  int64_t at[R];
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j) {
    const int64_t channel = least(j, tile.lines - 1);
    at[j] = channel * plan.line_weight;
#pragma GCC unroll 16
    for (int v = 0; v < NV; ++v) sum[j][v] = everywhere(start[channel]);
  }
  for (const Strand *strand = tile.strands, *end = strand + tile.count; strand < end; ++strand) {
    const float* from = plan.first(input, *strand);
    const float* weight = piece.first(weights, *strand);
    for (int64_t variant = 0; variant < plan.variants; ++variant) {
      const float* own = weight;
      for (int64_t tap = 0; tap < piece.taps; ++tap, own += strand->pitch) {
        const float* row = from + piece.offsets[tap];
        vec loaded[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) loaded[v] = held(load(row + v * V));
#pragma GCC unroll 16
        for (int j = 0; j < R; ++j) {
          const vec factor = everywhere(own[at[j]]);
#pragma GCC unroll 16
          for (int v = 0; v < NV; ++v) sum[j][v] += factor * loaded[v];
        }
      }
      from += plan.input_variant;
      weight += piece.weight_variant;
    }
  }
  put(sum, sums, plan.line, tile.lines, piece.last);
}

// NV vectors of one row, whose strands have one tap each, at any offsets along the columns.
template <int NV>
__attribute__((noinline)) void tile_of_row(const Plan& plan, const Tile& tile, const Piece& piece, const float* input,
                                           const float* weights, const float* start, float* sums) {
  vec sum[1][NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; ++v) sum[0][v] = everywhere(*start);
  for (const Strand *strand = tile.strands, *end = strand + tile.count; strand < end; ++strand) {
    const float* from = plan.first(input, *strand);
    const float* weight = piece.first(weights, *strand);
    for (int64_t variant = 0; variant < plan.variants; ++variant) {
      const float* own = weight;
      for (int64_t tap = 0; tap < piece.taps; ++tap, own += strand->pitch) {
        const float* row = from + piece.offsets[tap];
        const vec factor = everywhere(*own);
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) sum[0][v] += factor * load(row + v * V);
      }
      from += plan.input_variant;
      weight += piece.weight_variant;
    }
  }
  put(sum, sums, plan.line, tile.lines, piece.last);
}

// Vectors of a tile along the columns.
constexpr int MOST_WIDE = V == 16 ? 4 : 2;  // of rows or channels
constexpr int MOST_LONG = V == 16 ? 12 : 8;  // of one row

template <int NV = MOST_LONG>
inline TileFunction long_tile(int64_t vectors) {
  if constexpr (NV > 1) {
    if (vectors < NV) return long_tile<NV - 1>(vectors);
  }
  return tile_of_row<NV>;
}

constexpr int CHANNELS = 4;  // of a tile

template <int NV = MOST_WIDE>
inline TileFunction channel_tile(int64_t vectors) {
  if constexpr (NV > 1) {
    if (vectors < NV) return channel_tile<NV - 1>(vectors);
  }
  return tile_of_channels<CHANNELS, NV>;
}

// Fewer vectors leave registers for more lines.
inline int64_t lines_of_tile(int64_t vectors, int64_t rows) {
  int64_t best = 4;
  if (V < 16) {
    if (vectors == 1 && ceil_div(rows, 8) * 8 <= ceil_div(rows, 4) * 4) best = 8;
    return best;
  }
  if (vectors > 2) return best;
  if (vectors == 2) return ceil_div(rows, 7) * 7 <= ceil_div(rows, 4) * 4 ? 7 : 4;
  const int64_t able[] = {14, 8, 4};
  int64_t least_work = INT64_MAX;
  for (const int64_t lines : able) {
    const int64_t work = ceil_div(rows, lines) * (lines + 2);
    if (work < least_work) {
      least_work = work;
      best = lines;
    }
  }
  return best;
}

inline TileFunction row_tile(int64_t lines, int64_t vectors) {
  if (V == 16) {
    if (lines == 14) return tile_of_rows<V == 16 ? 14 : 1, 1>;
    if (lines == 7) return vectors == 2 ? tile_of_rows<V == 16 ? 7 : 1, 2> : tile_of_rows<V == 16 ? 7 : 1, 1>;
    if (lines == 4 && vectors == 4) return tile_of_rows<4, V == 16 ? 4 : 1>;
    if (lines == 4 && vectors == 3) return tile_of_rows<4, V == 16 ? 3 : 1>;
  }
  if (lines == 8) return tile_of_rows<8, 1>;
  return vectors == 2 ? tile_of_rows<4, 2> : tile_of_rows<4, 1>;
}

}  // namespace planar
}  // namespace
}  // namespace omniconv
