// Symmetric systems of one row, in float64: sums of outer products, and solutions by Cholesky factors.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::cpu::RowOutcome;

// The lower triangle of a matrix of `order`, a multiple of 8.
struct System {
  double* data;
  int64_t row_stride;
  int64_t order;

  double* row(int64_t i) const { return data + i * row_stride; }
};

constexpr double kLeastPivot = 1e-13;  // of the diagonal element it is left of

// Rows i .. i + 4 of the lower triangle, columns j .. j + 16, of sum_k y_k y_k^T.
inline void outer_tile(const double* rows, int64_t width, int64_t count, int64_t i, int64_t j,
                       const System& system) {
  F64x8 sums[4][2];
  for (int r = 0; r < 4; ++r)
    for (int v = 0; v < 2; ++v) sums[r][v] = load8(system.row(i + r) + j + 8 * v);
  for (int64_t k = 0; k < count; ++k) {
    const double* const y = rows + k * width;
    const F64x8 low = load8(y + j), high = load8(y + j + 8);
    for (int r = 0; r < 4; ++r) {
      const F64x8 scale = broadcast8(y[i + r]);
      sums[r][0] = multiply_add8(scale, low, sums[r][0]);
      sums[r][1] = multiply_add8(scale, high, sums[r][1]);
    }
  }
  for (int r = 0; r < 4; ++r)
    for (int v = 0; v < 2; ++v) store8(system.row(i + r) + j + 8 * v, sums[r][v]);
}

// system += sum_k y_k y_k^T over `count` rows of `width`, a multiple of 16. Tiles across the diagonal write
// above it too, where nothing is read.
inline void add_outer_products(const double* rows, int64_t width, int64_t count, const System& system) {
  for (int64_t i = 0; i < width; i += 4)
    for (int64_t j = 0; j <= i; j += 16) outer_tile(rows, width, count, i, j, system);
}

// Rows i .. i + Rows of the inner products with rows j .. j + 4.
template <int Rows>
inline void product_tile(const double* rows, int64_t stride, int64_t i, int64_t j, const System& system) {
  F64x8 sums[Rows / 2][8];  // of two rows each
  for (int r = 0; r < Rows; ++r)
    for (int s = 0; s < 4; ++s) sums[r / 2][r % 2 * 4 + s] = zero8();
  for (int64_t c = 0; c < stride; c += 8) {
    F64x8 own[Rows];
    for (int r = 0; r < Rows; ++r) own[r] = load8(rows + (i + r) * stride + c);
    for (int s = 0; s < 4; ++s) {
      const F64x8 other = load8(rows + (j + s) * stride + c);
      for (int r = 0; r < Rows; ++r) {
        F64x8& total = sums[r / 2][r % 2 * 4 + s];
        total = multiply_add8(own[r], other, total);
      }
    }
  }
  for (int r = 0; r < Rows; r += 2) {
    double found[8];
    store8(found, sum_eight(sums[r / 2]));
    for (int s = 0; s < 4; ++s) {
      system.row(i + r)[j + s] = found[s];
      system.row(i + r + 1)[j + s] = found[4 + s];
    }
  }
}

// Lower triangle of the inner products of `system.order` rows.
inline void products_of_rows(const double* rows, int64_t stride, const System& system) {
  constexpr int kRows = kLanes == 16 ? 4 : 2;  // as many sums as registers hold
  for (int64_t i = 0; i < system.order; i += kRows)
    for (int64_t j = 0; j < i + kRows; j += 4) product_tile<kRows>(rows, stride, i, j, system);
}

// A row's eight columns from `block` on, less what the columns before them explain.
inline F64x8 remainder_of(const System& system, const double* row, int64_t block) {
  F64x8 sums[8];
  for (int r = 0; r < 8; ++r) sums[r] = zero8();
  for (int64_t k = 0; k < block; k += 8) {
    const F64x8 left = load8(row + k);
    for (int r = 0; r < 8; ++r) sums[r] = multiply_add8(left, load8(system.row(block + r) + k), sums[r]);
  }
  return subtract8(load8(row + block), sum_eight(sums));
}

// The inverse of the factor of the eight rows and columns from `block` on, in their place and transposed in
// `across`: nothing else needs the factor itself.
inline RowOutcome factorize_block(const System& system, int64_t block, double (&across)[8][8]) {
  double rest[8][8], whole[8];
  for (int i = 0; i < 8; ++i) {
    whole[i] = system.row(block + i)[block + i];
    store8(rest[i], remainder_of(system, system.row(block + i), block));
    for (int j = 0; j < i; ++j) rest[j][i] = rest[i][j];
    for (int j = 0; j < 8; ++j) across[i][j] = i == j ? 1.0 : 0.0;
  }
  F64x8 left[8], inverse[8];
  for (int i = 0; i < 8; ++i) left[i] = load8(rest[i]), inverse[i] = load8(across[i]);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    double column[8];
    store8(column, left[j]);
    const double pivot = column[j];
    if (pivot - pivot != 0.0) return RowOutcome::not_finite;
    if (!(pivot > kLeastPivot * whole[j])) return RowOutcome::singular;
    const F64x8 scale = broadcast8(1.0 / __builtin_sqrt(pivot));
    left[j] = multiply8(scale, left[j]);  // column j of the factor, from row j on
    inverse[j] = multiply8(scale, inverse[j]);
    store8(column, left[j]);
#pragma GCC unroll 8
    for (int i = j + 1; i < 8; ++i) {
      const F64x8 less = broadcast8(-column[i]);
      left[i] = multiply_add8(less, left[j], left[i]);
      inverse[i] = multiply_add8(less, inverse[j], inverse[i]);
    }
  }
  for (int i = 0; i < 8; ++i) {
    double* const row = system.row(block + i) + block;
    store8(row, inverse[i]);
    for (int j = 0; j < 8; ++j) across[j][i] = row[j];
  }
  return RowOutcome::sound;
}

// right <- (matrix)^-1 right by Cholesky factors, left-looking, eight columns at a time; what is to be solved
// goes through as one more row. The lower triangle is lost.
inline RowOutcome solve(const System& system, double* right) {
  for (int64_t block = 0; block < system.order; block += 8) {
    double across[8][8];
    const RowOutcome outcome = factorize_block(system, block, across);
    if (outcome != RowOutcome::sound) return outcome;
    for (int64_t i = block + 8; i <= system.order; ++i) {
      double* const row = i < system.order ? system.row(i) : right;
      double rest[8];
      store8(rest, remainder_of(system, row, block));
      F64x8 found = zero8();
      for (int q = 0; q < 8; ++q) found = multiply_add8(broadcast8(rest[q]), load8(across[q]), found);
      store8(row + block, found);
    }
  }
  for (int64_t block = system.order - 8; block >= 0; block -= 8) {
    double* const row = system.row(block);
    F64x8 found = zero8();
    for (int q = 0; q < 8; ++q)
      found = multiply_add8(broadcast8(right[block + q]), load8(row + q * system.row_stride + block), found);
    store8(right + block, found);
    for (int64_t k = 0; k < block; k += 8) {
      F64x8 left = load8(right + k);
      for (int q = 0; q < 8; ++q)
        left = multiply_add8(broadcast8(-right[block + q]), load8(row + q * system.row_stride + k), left);
      store8(right + k, left);
    }
  }
  return RowOutcome::sound;
}

}  // namespace
