// SPDX-License-Identifier: Apache-2.0
// Products of matrices that fit the caches, in tiles of sums that stay in registers.
#pragma once

#include "simd.h"
#include "steps.h"

namespace omniconv {
namespace {

// Rows of sums in a tile, of two vectors each: with a vector of the second factor for each, all registers but a few.
constexpr int PRODUCT_ROWS = MAX_TILE == 14 ? 14 : 6;
constexpr int64_t PANEL = 2 * V;  // columns of a tile

// How the first factor lies: DEPTH numbers at most of a row side by side, and rows an odd number of cache lines apart,
// which spreads them over the cache. A distance that the compiler knows saves an address for each row.
constexpr int64_t DEPTH = 256, PITCH = DEPTH + 16;

// sums[m][n] (+)= Σ over blocks j and k < length of a[m][j][k] · b[j][k][n]
struct Product {
  const float* a;  // row m, number k of block j at a_block * j + PITCH * m + k, or (across) … + PITCH * k + m
  int64_t a_block;
  const float* b;  // panel after panel, b_panel apart; row k of block j at b_block * j + b_step * k
  int64_t b_panel, b_step, b_block;
  int64_t blocks, length;
  float* sums;  // rows sums_row apart
  int64_t sums_row;
  bool add;  // to what stands in sums
};

template <bool ACROSS, int M, int N>
void product_tile(const Product& product, const float* a, const float* b, float* sums) {
  constexpr int64_t ROW = ACROSS ? 1 : PITCH, STEP = ACROSS ? PITCH : 1;
  vec sum[M][N] = {};
  for (int64_t block = 0; block < product.blocks; ++block, a += product.a_block, b += product.b_block) {
    const float *left = a, *right = b;
    for (int64_t k = 0; k < product.length; ++k, left += STEP, right += product.b_step) {
      vec factor[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) factor[n] = load(right + n * V);
#pragma GCC unroll 14
      for (int m = 0; m < M; ++m) {
        const vec value = splat(left[m * ROW]);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) sum[m][n] += value * factor[n];
      }
    }
  }
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m, sums += product.sums_row)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) store(sums + n * V, product.add ? load(sums + n * V) + sum[m][n] : sum[m][n]);
}

using ProductTile = void (*)(const Product&, const float* a, const float* b, float* sums);
struct ProductTiles {
  ProductTile of[PRODUCT_ROWS + 1][3];
};

template <bool ACROSS, int M = PRODUCT_ROWS>
constexpr void fill_products(ProductTiles& tiles) {
  tiles.of[M][1] = product_tile<ACROSS, M, 1>;
  tiles.of[M][2] = product_tile<ACROSS, M, 2>;
  if constexpr (M > 1) fill_products<ACROSS, M - 1>(tiles);
}

template <bool ACROSS>
constexpr ProductTiles product_tiles() {
  ProductTiles tiles{};
  fill_products<ACROSS>(tiles);
  return tiles;
}

constexpr ProductTiles PRODUCTS = product_tiles<false>(), PRODUCTS_ACROSS = product_tiles<true>();

// `columns` in whole vectors, all of which are written.
template <bool ACROSS>
void multiply(const Product& product, int64_t rows, int64_t columns) {
  const ProductTiles& tiles = ACROSS ? PRODUCTS_ACROSS : PRODUCTS;
  const float* b = product.b;
  for (int64_t n = 0; n < columns; n += PANEL, b += product.b_panel) {
    const int vectors = columns - n > V ? 2 : 1;
    for (int64_t m = 0; m < rows; m += PRODUCT_ROWS) {
      const int64_t some = least(rows - m, PRODUCT_ROWS);
      const float* a = product.a + m * (ACROSS ? 1 : PITCH);
      tiles.of[some][vectors](product, a, b, product.sums + m * product.sums_row + n);
    }
  }
}

}  // namespace
}  // namespace omniconv
