// Rows of an ALS half-step exactly, in float64, a block for each: a row of n < factors observations by its n
// x n system (Woodbury), others by the factors x factors one. As cpu/kernels/als_exact.h.
#pragma once

#include "cuda/kernels/cholesky.cuh"

namespace salience::cuda {

struct ExactArguments {
  AlsSystems systems;
  const int32_t* order;  // rows; the launch is for `rows` from `first` on
  int64_t first;
  int64_t rows;
  int64_t system_order;  // of the largest system
  int64_t depth;
  double* matrices;  // one for every block; null: in shared memory
  double* work;      // likewise
  // Of rows that were cut: partial sums as add_observations leaves them, and which are whose; null: none.
  const double* partial;
  const int32_t* first_segment;  // counted from order[first]
};

SALIENCE_DEVICE int64_t columns_of(const AlsSystems& s) { return s.solution.columns; }

SALIENCE_DEVICE double dense_of(const AlsSystems& s, int64_t row, int64_t column) {
  return static_cast<double>(s.diagonal[column]) + static_cast<double>(s.ridge[row]);
}
SALIENCE_DEVICE double pull_of(const AlsSystems& s, int64_t row, int64_t column) {
  return static_cast<double>(s.ridge[row]) * static_cast<double>(prior_of(s, row, column));
}

SALIENCE_DEVICE int64_t round_to_panel(int64_t order) { return (order + kPanel - 1) / kPanel * kPanel; }

// The system of a block, `order` of `a.system_order` in use.
SALIENCE_DEVICE System system_of(const ExactArguments& a, int64_t order, int64_t extra) {
  auto* shared = &shared_memory<double>();
  double* const matrix =
      a.matrices == nullptr ? shared : a.matrices + block() * matrix_doubles(a.system_order);
  if (a.matrices == nullptr) shared += matrix_doubles(a.system_order);
  double* const work =
      a.work == nullptr ? shared : a.work + block() * work_doubles(a.system_order, a.depth, extra);
  return make_system(matrix, work, order, a.depth, extra);
}

// matrix += sum of w y y^T and, where there are targets, right-hand side += sum of w t y over some
// observations. The matrix may have been begun without a barrier, and one is the last thing to happen, even
// where there are none.
template <bool Targets>
SALIENCE_DEVICE void add_observations(const AlsView& data, int64_t columns, int64_t begin, int64_t count,
                                      const System& s) {
  for (int64_t start = 0; start == 0 || start < count; start += s.depth) {
    const int64_t left = count - start, some = left < s.depth ? left : s.depth;
    for (int64_t k = warp(); k < some; k += threads() / 32) {
      const int64_t entry = begin + start + k;
      const float* const y = data.design.row(data.indices[entry]);
      const Weighed w = weigh(data, entry);
      const double root = square_root_rn(static_cast<double>(w.weight));
      for (int64_t c = lane(); c < s.pitch; c += 32) {
        const double value = c < columns ? static_cast<double>(y[c]) : static_cast<double>(w.target);
        s.staged(k)[c] = c < columns || (Targets && c == s.order) ? root * value : 0.0;
      }
    }
    block_barrier();  // the rows are staged
    add_outer_products(s, 0, some, 1.0);
    block_barrier();  // others may take their place
  }
}

// diag(diagonal) + ridge I, with right(column) as the right-hand side; factors that are only padding stay 0.
template <class Right>
SALIENCE_DEVICE void begin_system(const AlsSystems& a, int64_t row, const System& s, Right right) {
  const int64_t columns = columns_of(a);
  for (int64_t n = thread(); n < matrix_doubles(s.order); n += threads()) {
    const int64_t i = n / s.order, c = n % s.order;
    double value = 0.0;
    if (i == c) value = c < columns ? dense_of(a, row, c) : 1.0;
    if (i == s.order && c < columns) value = right(c);
    s.matrix[n] = value;
  }
}

// Writes the answer x(column) where it is finite; a row that is not sound stays where it was.
template <class Solution>
SALIENCE_DEVICE void finish_exact(const AlsSystems& a, int64_t row, RowOutcome outcome, Solution x,
                                  BlockSums& shared) {
  float* const out = a.solution.row(row);
  float missing[1] = {};
  if (outcome == RowOutcome::sound)
    for (int64_t c = thread(); c < columns_of(a); c += threads())
      if (!is_finite(relaxed(a, out[c], float_rn(x(c))))) missing[0] = 1.0f;
  sum_over_block(missing, shared, 2);
  if (outcome == RowOutcome::sound && missing[0] != 0.0f) outcome = RowOutcome::not_finite;
  if (thread() == 0) a.results[row] = {-1.0f, 0, outcome};
  if (outcome != RowOutcome::sound) return;
  for (int64_t c = thread(); c < columns_of(a); c += threads()) out[c] = relaxed(a, out[c], float_rn(x(c)));
}

SALIENCE_KERNEL(kAlsThreads, 1) exact_rows(ExactArguments a) {
  const AlsSystems& systems = a.systems;
  const int64_t columns = columns_of(systems);
  const System s = system_of(a, round_to_panel(columns), 0);
  for (int64_t n = block(); n < a.rows; n += blocks()) {
    const int64_t row = a.order[a.first + n];
    begin_system(systems, row, s, [&](int64_t c) { return pull_of(systems, row, c); });
    if (a.partial == nullptr) {
      const int64_t begin = systems.data.indptr[row];
      add_observations<true>(systems.data, columns, begin, systems.data.indptr[row + 1] - begin, s);
    } else {
      const int64_t size = matrix_doubles(s.order);
      for (int64_t i = thread(); i < size; i += threads())
        for (int64_t p = a.first_segment[n]; p < a.first_segment[n + 1]; ++p)
          s.matrix[i] += a.partial[p * size + i];
      block_barrier();  // all of it is there
    }
    const RowOutcome outcome = factorize(s);
    if (outcome == RowOutcome::sound) solve_backward(s);
    // Its barrier is the last that the next row needs.
    finish_exact(systems, row, outcome, [&](int64_t c) { return s.whole[c]; }, *s.sums);
  }
}

struct ExactSegmentArguments {
  AlsView data;
  int64_t columns;
  const Segment* segments;
  double* partial;
  double* work;  // as of ExactArguments
  int64_t depth;
};

SALIENCE_KERNEL(kAlsThreads, 1) exact_segment(ExactSegmentArguments a) {
  const int64_t order = round_to_panel(a.columns), size = matrix_doubles(order);
  double* const work =
      a.work == nullptr ? &shared_memory<double>() : a.work + block() * work_doubles(order, a.depth, 0);
  const System s = make_system(a.partial + block() * size, work, order, a.depth, 0);
  const Segment segment = a.segments[block()];
  for (int64_t i = thread(); i < size; i += threads()) s.matrix[i] = 0.0;
  add_observations<true>(a.data, a.columns, segment.begin, segment.count, s);
}

// --- Short rows ---

// What Woodbury needs of a row: roots of weights, D^-1/2, and D^-1 ridge prior, where the solution goes as
// well.
struct ShortRow {
  int64_t begin;
  int64_t count;
  double* roots;         // s.answer, until the system is solved
  double* inverse_root;  // of the dense part
  double* centre;
};

// I + Z Z^T for Z = W^1/2 Y D^-1/2, and W^1/2 (t - Y D^-1 ridge prior) as the right-hand side.
SALIENCE_DEVICE void make_short_system(const AlsSystems& a, int64_t row, const ShortRow& r, const System& s) {
  const int64_t columns = columns_of(a);
  for (int64_t c = thread(); c < columns; c += threads()) {
    r.inverse_root[c] = 1.0 / square_root_rn(dense_of(a, row, c));
    r.centre[c] = pull_of(a, row, c) / dense_of(a, row, c);
  }
  for (int64_t n = thread(); n < matrix_doubles(s.order); n += threads())
    s.matrix[n] = n / s.order == n % s.order ? 1.0 : 0.0;
  for (int64_t k = thread(); k < r.count; k += threads())
    r.roots[k] = square_root_rn(static_cast<double>(weigh(a.data, r.begin + k).weight));
  block_barrier();  // the system is begun
  for (int64_t k = thread(); k < r.count; k += threads()) {
    double rest = static_cast<double>(weigh(a.data, r.begin + k).target);
    if (a.prior.data != nullptr) {
      const float* const y = a.data.design.row(a.data.indices[r.begin + k]);
      for (int64_t c = 0; c < columns; ++c) rest -= static_cast<double>(y[c]) * r.centre[c];
    }
    s.row(s.order)[k] = r.roots[k] * rest;
  }
  for (int64_t start = 0; start < columns; start += s.depth) {
    const int64_t left = columns - start, some = left < s.depth ? left : s.depth;
    for (int64_t k = warp(); k < s.pitch; k += threads() / 32) {
      const float* const y = k < r.count ? a.data.design.row(a.data.indices[r.begin + k]) + start : nullptr;
      for (int64_t d = lane(); d < some; d += 32)
        s.staged(d)[k] =
            y == nullptr ? 0.0 : r.roots[k] * r.inverse_root[start + d] * static_cast<double>(y[d]);
    }
    block_barrier();  // some columns of all rows are staged
    add_outer_products(s, 0, some, 1.0);
    block_barrier();  // others may take their place
  }
}

SALIENCE_KERNEL(kAlsThreads, 1) exact_short_rows(ExactArguments a) {
  const AlsSystems& systems = a.systems;
  const int64_t columns = columns_of(systems);
  for (int64_t n = block(); n < a.rows; n += blocks()) {
    const int64_t row = a.order[a.first + n], begin = systems.data.indptr[row],
                  count = systems.data.indptr[row + 1] - begin;
    const System s = system_of(a, round_to_panel(count), systems.solution.row_stride);
    const ShortRow r{begin, count, s.answer, s.extra[0], s.extra[1]};
    make_short_system(systems, row, r, s);
    const RowOutcome outcome = factorize(s);
    if (outcome == RowOutcome::sound) {
      solve_backward(s);
      for (int64_t k = thread(); k < count; k += threads())
        s.answer[k] = s.whole[k] * square_root_rn(static_cast<double>(weigh(systems.data, begin + k).weight));
      block_barrier();  // what each observation's factors count for
      for (int64_t c = thread(); c < columns; c += threads()) {
        double sum = 0.0;
        for (int64_t k = 0; k < count; ++k) {
          const float* const y = systems.data.design.row(systems.data.indices[begin + k]);
          sum = multiply_add(s.answer[k], static_cast<double>(y[c]), sum);
        }
        r.centre[c] += r.inverse_root[c] * r.inverse_root[c] * sum;
      }
    }
    finish_exact(systems, row, outcome, [&](int64_t c) { return r.centre[c]; }, *s.sums);
    block_barrier();  // the next row's system, of another order, lies elsewhere in the same memory
  }
}

// --- Explanations ---

struct ExplainArguments {
  ExactArguments exact;         // `order`: the history of each; systems.prior, ridge: one for each history
  Matrix<const float> targets;  // what is scored: one row for each
  const int64_t* first_part;    // where the parts of each begin
  double* parts;                // what every observation adds
  double* rest;                 // what the prior adds
  int32_t* outcomes;            // written where not sound
};

// For each target y: A z = y, so that its score is the sum of w t (y_k . z) over the row's observations, and
// ridge (z . prior).
SALIENCE_KERNEL(kAlsThreads, 1) explain_scores(ExplainArguments e) {
  const AlsSystems& a = e.exact.systems;
  const int64_t columns = columns_of(a);
  const System s = system_of(e.exact, round_to_panel(columns), 0);
  for (int64_t n = block(); n < e.exact.rows; n += blocks()) {
    const int64_t row = e.exact.order[n], begin = a.data.indptr[row], count = a.data.indptr[row + 1] - begin;
    begin_system(a, row, s, [&](int64_t c) { return static_cast<double>(e.targets.row(n)[c]); });
    add_observations<false>(a.data, columns, begin, count, s);
    const RowOutcome outcome = factorize(s);
    if (outcome != RowOutcome::sound) {  // then nothing that follows is asked for
      if (thread() == 0) e.outcomes[n] = static_cast<int32_t>(outcome);
      return;
    }
    solve_backward(s);
    for (int64_t k = thread(); k < count; k += threads()) {
      const float* const y = a.data.design.row(a.data.indices[begin + k]);
      const Weighed w = weigh(a.data, begin + k);
      double sum = 0.0;
      for (int64_t c = 0; c < columns; ++c) sum = multiply_add(static_cast<double>(y[c]), s.whole[c], sum);
      e.parts[e.first_part[n] + k] = sum * static_cast<double>(w.weight) * static_cast<double>(w.target);
    }
    if (thread() == 0) {
      double sum = 0.0;
      for (int64_t c = 0; c < columns; ++c) sum += s.whole[c] * pull_of(a, row, c);
      e.rest[n] = sum;
    }
  }
}

}  // namespace salience::cuda
