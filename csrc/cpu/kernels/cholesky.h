// Symmetric systems of one row, in float64: sums of outer products, the Cholesky factor, its solutions.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::cpu::RowOutcome;

// The lower triangle of a matrix of `order` (a multiple of 8), and room for the inverses of its pivots.
struct System {
  double* data;
  int64_t row_stride;
  int64_t order;
  double* inverse_pivots;

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

// Lower triangle of the inner products of `system.order` rows.
inline void products_of_rows(const double* rows, int64_t stride, const System& system) {
  for (int64_t i = 0; i < system.order; i += 2) {
    for (int64_t j = 0; j <= i; j += 4) {
      F64x8 sums[2][4];
      for (int r = 0; r < 2; ++r)
        for (int s = 0; s < 4; ++s) sums[r][s] = zero8();
      for (int64_t c = 0; c < stride; c += 8) {
        F64x8 right[4];
        for (int s = 0; s < 4; ++s) right[s] = load8(rows + (j + s) * stride + c);
        for (int r = 0; r < 2; ++r) {
          const F64x8 left = load8(rows + (i + r) * stride + c);
          for (int s = 0; s < 4; ++s) sums[r][s] = multiply_add8(left, right[s], sums[r][s]);
        }
      }
      for (int r = 0; r < 2; ++r)
        for (int s = 0; s < 4; ++s) system.row(i + r)[j + s] = lane_tree(sums[r][s]);
    }
  }
}

// L in place of the lower triangle, left-looking, eight columns at a time.
inline RowOutcome factorize(const System& system) {
  for (int64_t block = 0; block < system.order; block += 8) {
    for (int64_t i = block; i < system.order; ++i) {
      double* const row = system.row(i);
      F64x8 sums[8];
      for (int r = 0; r < 8; ++r) sums[r] = zero8();
      for (int64_t k = 0; k < block; k += 8) {
        const F64x8 left = load8(row + k);
        for (int r = 0; r < 8; ++r) sums[r] = multiply_add8(left, load8(system.row(block + r) + k), sums[r]);
      }
      for (int r = 0; r < 8 && block + r <= i; ++r) {
        const int64_t j = block + r;
        const double whole = row[j];
        double value = whole - lane_tree(sums[r]);
        for (int q = 0; q < r; ++q) value -= row[block + q] * system.row(j)[block + q];
        if (i > j) {
          row[j] = value * system.inverse_pivots[j];
          continue;
        }
        if (value - value != 0.0) return RowOutcome::not_finite;
        if (!(value > kLeastPivot * whole)) return RowOutcome::singular;
        row[j] = __builtin_sqrt(value);
        system.inverse_pivots[j] = 1.0 / row[j];
      }
    }
  }
  return RowOutcome::sound;
}

// right <- (L L^T)^-1 right.
inline void solve(const System& system, double* right) {
  for (int64_t i = 0; i < system.order; ++i) {
    const double* const row = system.row(i);
    const int64_t whole = i / 8 * 8;
    F64x8 sums = zero8();
    for (int64_t k = 0; k < whole; k += 8) sums = multiply_add8(load8(row + k), load8(right + k), sums);
    double value = right[i] - lane_tree(sums);
    for (int64_t k = whole; k < i; ++k) value -= row[k] * right[k];
    right[i] = value * system.inverse_pivots[i];
  }
  for (int64_t i = system.order - 1; i >= 0; --i) {
    const double* const row = system.row(i);
    right[i] *= system.inverse_pivots[i];
    const double found = right[i];
    for (int64_t k = 0; k < i; ++k) right[k] -= found * row[k];
  }
}

}  // namespace
