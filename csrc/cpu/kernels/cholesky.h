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
      F64x8 sums[8];  // row i with rows j .. j + 4, then row i + 1
      for (int s = 0; s < 8; ++s) sums[s] = zero8();
      for (int64_t c = 0; c < stride; c += 8) {
        const F64x8 first = load8(rows + i * stride + c), second = load8(rows + (i + 1) * stride + c);
        for (int s = 0; s < 4; ++s) {
          const F64x8 other = load8(rows + (j + s) * stride + c);
          sums[s] = multiply_add8(first, other, sums[s]);
          sums[4 + s] = multiply_add8(second, other, sums[4 + s]);
        }
      }
      double found[8];
      store8(found, sum_eight(sums));
      for (int s = 0; s < 4; ++s) {
        system.row(i)[j + s] = found[s];
        system.row(i + 1)[j + s] = found[4 + s];
      }
    }
  }
}

// Row i of the eight columns from `block` on, less what the columns before them explain.
inline F64x8 remainder_of(const System& system, int64_t i, int64_t block) {
  const double* const row = system.row(i);
  F64x8 sums[8];
  for (int r = 0; r < 8; ++r) sums[r] = zero8();
  for (int64_t k = 0; k < block; k += 8) {
    const F64x8 left = load8(row + k);
    for (int r = 0; r < 8; ++r) sums[r] = multiply_add8(left, load8(system.row(block + r) + k), sums[r]);
  }
  return subtract8(load8(row + block), sum_eight(sums));
}

// The factor of the eight rows and columns from `block` on.
inline RowOutcome factorize_block(const System& system, int64_t block) {
  for (int i = 0; i < 8; ++i) {
    double* const row = system.row(block + i) + block;
    const double whole = row[i];
    double rest[8];
    store8(rest, remainder_of(system, block + i, block));
    for (int j = 0; j <= i; ++j) {
      double value = rest[j];
      for (int q = 0; q < j; ++q) value -= row[q] * system.row(block + j)[block + q];
      if (j < i) {
        row[j] = value * system.inverse_pivots[block + j];
        continue;
      }
      if (value - value != 0.0) return RowOutcome::not_finite;
      if (!(value > kLeastPivot * whole)) return RowOutcome::singular;
      row[i] = __builtin_sqrt(value);
      system.inverse_pivots[block + i] = 1.0 / row[i];
    }
  }
  return RowOutcome::sound;
}

// The inverse of that factor's transpose, by rows.
inline void invert_block(const System& system, int64_t block, double (&inverse)[8][8]) {
  for (int j = 0; j < 8; ++j) {  // column j of L^-1 is row j of its transpose
    for (int i = 0; i < 8; ++i) {
      double value = i == j ? 1.0 : 0.0;
      for (int q = j; q < i; ++q) value -= system.row(block + i)[block + q] * inverse[j][q];
      inverse[j][i] = i < j ? 0.0 : value * system.inverse_pivots[block + i];
    }
  }
}

// L in place of the lower triangle, left-looking, eight columns at a time.
inline RowOutcome factorize(const System& system) {
  for (int64_t block = 0; block < system.order; block += 8) {
    const RowOutcome outcome = factorize_block(system, block);
    if (outcome != RowOutcome::sound) return outcome;
    if (block + 8 == system.order) break;
    double inverse[8][8];
    invert_block(system, block, inverse);
    for (int64_t i = block + 8; i < system.order; ++i) {
      double rest[8];
      store8(rest, remainder_of(system, i, block));
      // rest = (row of L) (block's L)^T, so the row of L is rest (block's L)^-T.
      F64x8 found = zero8();
      for (int q = 0; q < 8; ++q) found = multiply_add8(broadcast8(rest[q]), load8(inverse[q]), found);
      store8(system.row(i) + block, found);
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
