// Symmetric systems of one row, in float64, by one block: sums of outer products, the Cholesky factor, the
// solution. The right-hand side is a last row of the matrix: it takes part in what makes and eliminates the
// matrix, and comes out as the forward solution.
#pragma once

#include "cuda/kernels/als_passes.cuh"

namespace salience::cuda {

inline constexpr int64_t kPanel = 8;      // columns that are eliminated together; orders are multiples of it
inline constexpr int64_t kBlockRows = 4;  // of a thread's tile; and rows that the right-hand side takes
inline constexpr double kLeastPivot = 1e-13;  // of the diagonal element it is left of

// Everything belongs to one block. Staged rows are `pitch` long: the columns of the system, then its
// right-hand side and three that are zero.
struct System {
  double* matrix;    // (order + kBlockRows) x order, the lower triangle
  double* stage;     // depth x pitch; in elimination, the panel
  double* pivots;    // order: their inverse roots
  double* whole;     // order: the diagonal before elimination; afterwards the solution
  double* answer;    // order
  double* extra[2];  // for the caller: as long as it asked for
  BlockSums* sums;
  int64_t order;
  int64_t pitch;
  int64_t depth;  // rows that are staged at once, at least kPanel

  SALIENCE_HOST_DEVICE double* row(int64_t i) const { return matrix + i * order; }
  SALIENCE_HOST_DEVICE double* staged(int64_t i) const { return stage + i * pitch; }
};

inline constexpr int64_t kSumsDoubles = static_cast<int64_t>((sizeof(BlockSums) + 7) / 8);

// Doubles of the matrix, and of the rest.
SALIENCE_HOST_DEVICE inline int64_t matrix_doubles(int64_t order) { return (order + kBlockRows) * order; }
SALIENCE_HOST_DEVICE inline int64_t work_doubles(int64_t order, int64_t depth, int64_t extra) {
  return depth * (order + kBlockRows) + 3 * order + 2 * extra + kSumsDoubles;
}

SALIENCE_DEVICE System make_system(double* matrix, double* work, int64_t order, int64_t depth,
                                   int64_t extra) {
  System s;
  s.order = order;
  s.pitch = order + kBlockRows;
  s.depth = depth;
  s.matrix = matrix;
  s.stage = work;
  s.pivots = work + depth * s.pitch;
  s.whole = s.pivots + order;
  s.answer = s.whole + order;
  s.extra[0] = s.answer + order;
  s.extra[1] = s.extra[0] + extra;
  s.sums = reinterpret_cast<BlockSums*>(s.extra[1] + extra);
  return s;
}

// matrix (from `first` on) += sign * sum of staged rows' outer products: a thread makes tiles of 4 x 4.
SALIENCE_DEVICE void add_outer_products(const System& s, int64_t first, int64_t count, double sign) {
  const int64_t columns = (s.order - first) / kBlockRows;
  // The last row of tiles is the right-hand side's, and has none on the diagonal.
  const int64_t tiles = columns * (columns + 1) / 2 + columns;
  for (int64_t t = thread(); t < tiles; t += threads()) {
    auto i = static_cast<int64_t>((square_root_rn(8.0 * static_cast<double>(t) + 1.0) - 1.0) / 2.0);
    if (i * (i + 1) / 2 > t) --i;
    if ((i + 1) * (i + 2) / 2 <= t) ++i;
    const int64_t row = first + i * kBlockRows, column = first + (t - i * (i + 1) / 2) * kBlockRows;
    double sums[kBlockRows][kBlockRows] = {};
    for (int64_t k = 0; k < count; ++k) {
      const double* const left = s.staged(k) + row;
      const double* const right = s.staged(k) + column;
      SALIENCE_UNROLL
      for (int x = 0; x < kBlockRows; ++x) SALIENCE_UNROLL
      for (int y = 0; y < kBlockRows; ++y) sums[x][y] = multiply_add(left[x], right[y], sums[x][y]);
    }
    SALIENCE_UNROLL
    for (int x = 0; x < kBlockRows; ++x) {
      double* const out = s.row(row + x) + column;
      SALIENCE_UNROLL
      for (int y = 0; y < kBlockRows; ++y) out[y] += sign * sums[x][y];
    }
  }
}

// L in place of the lower triangle and the forward solution in place of the right-hand side. The same outcome
// for all threads. A barrier comes before.
SALIENCE_DEVICE RowOutcome factorize(const System& s) {
  const int64_t rows = s.order + 1;
  for (int64_t c = thread(); c < s.order; c += threads()) s.whole[c] = s.row(c)[c];
  for (int64_t first = 0; first < s.order; first += kPanel) {
    for (int64_t n = thread(); n < (s.pitch - first) * kPanel; n += threads()) {
      const int64_t i = first + n / kPanel, q = n % kPanel;
      s.staged(q)[i] = s.row(i)[first + q];
    }
    block_barrier();  // the panel is there
    for (int64_t q = 0; q < kPanel; ++q) {
      const int64_t column = first + q;
      double pivot = s.staged(q)[column];
      for (int64_t r = 0; r < q; ++r) pivot -= s.staged(r)[column] * s.staged(r)[column];
      if (pivot - pivot != 0.0) return RowOutcome::not_finite;
      if (!(pivot > kLeastPivot * s.whole[column])) return RowOutcome::singular;
      const double inverse = 1.0 / square_root_rn(pivot);
      for (int64_t i = column + 1 + thread(); i < rows; i += threads()) {
        double value = s.staged(q)[i];
        for (int64_t r = 0; r < q; ++r) value -= s.staged(r)[i] * s.staged(r)[column];
        s.staged(q)[i] = value * inverse;
        s.row(i)[column] = value * inverse;
      }
      if (thread() == 0) s.pivots[column] = inverse;
      block_barrier();  // so is the column
    }
    add_outer_products(s, first + kPanel, kPanel, -1.0);
    block_barrier();  // the next panel is less what this one explains
  }
  return RowOutcome::sound;
}

// The solution, in s.whole, for all threads.
SALIENCE_DEVICE void solve_backward(const System& s) {
  for (int64_t c = thread(); c < s.order; c += threads()) s.answer[c] = s.row(s.order)[c];
  for (int64_t i = s.order - 1; i >= 0; --i) {
    block_barrier();  // element i is less what those after it explain
    const double found = s.answer[i] * s.pivots[i];
    for (int64_t k = thread(); k < i; k += threads()) s.answer[k] -= s.row(i)[k] * found;
    if (thread() == 0) s.whole[i] = found;
  }
  block_barrier();  // the last of the solution
}

}  // namespace salience::cuda
