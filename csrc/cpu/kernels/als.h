// Rows of an ALS half-step: which solver takes a row, relaxation, losses.
#pragma once

#include "cpu/kernels/als_conjugate.h"
#include "cpu/kernels/als_exact.h"

namespace {

using salience::Solver;
using salience::cpu::AlsRowsOutcome;

// A row of n observations costs 2 (4 + 2 steps) n f operations by conjugate gradients and n^2 f, at half
// their speed, by its own n x n system, which is exact.
inline bool is_short(const HalfStepArguments& a, int64_t count) {
  const int64_t steps = a.steps < 14 ? a.steps : 14;  // about what a tolerance lets rows take
  return count <= 2 * steps && count < a.data.design.columns;
}

// answer = start + relaxation * (answer - start).
inline void relax(float relaxation, const float* start, float* answer, int64_t stride) {
  const F32 scale = broadcast(relaxation);
  for (int64_t c = 0; c < stride; c += kLanes) {
    const F32 from = load(start + c);
    store(answer + c, multiply_add(scale, subtract(load(answer + c), from), from));
  }
}

inline double quadratic_form(const double* matrix, int64_t columns, const float* x) {
  double total = 0.0;
  for (int64_t i = 0; i < columns; ++i) {
    double image = 0.0;
    for (int64_t j = 0; j < columns; ++j) image += matrix[i * columns + j] * static_cast<double>(x[j]);
    total += image * static_cast<double>(x[i]);
  }
  return total;
}

// x^T D x, D the dense part of the systems without the ridge.
inline double dense_loss(const HalfStepArguments& a, const float* x) {
  if (a.dense != nullptr) return quadratic_form(a.dense, a.data.design.columns, x);
  F64x8 total = zero8();
  for (int64_t c = 0; c < a.data.design.row_stride; c += 8) {
    const F64x8 value = widen8(x + c);
    total = multiply_add8(multiply8(widen8(a.diagonal + c), value), value, total);
  }
  return lane_tree(total);
}

// Adds a row's losses, unless its answer is not finite: whose distance from the prior is not.
template <class Passes>
inline RowOutcome add_losses(const HalfStepArguments& a, int64_t row, const Passes& passes,
                             const AlsScratch& scratch, const float* x, AlsRowsOutcome& outcome) {
  const int64_t stride = a.data.design.row_stride;
  const float* const prior = a.prior.data == nullptr ? scratch.zeros : a.prior.row(row);
  F64x8 sums[2] = {zero8(), zero8()};
  for (int64_t c = 0; c < stride; c += 16) {
    for (int i = 0; i < 2; ++i) {
      const F64x8 deviation = subtract8(widen8(x + c + 8 * i), widen8(prior + c + 8 * i));
      sums[i] = multiply_add8(deviation, deviation, sums[i]);
    }
  }
  const double distance = lane_tree(add8(sums[0], sums[1]));
  if (distance - distance != 0.0) return RowOutcome::not_finite;
  outcome.ridge_loss += static_cast<double>(a.ridge[row]) * distance;
  if (a.with_data_loss) outcome.data_loss += passes.loss(x) + dense_loss(a, x);
  return RowOutcome::sound;
}

inline void copy(const float* from, int64_t stride, float* to) {
  for (int64_t c = 0; c < stride; c += kLanes) store(to + c, load(from + c));
}

template <int N, class Passes>
inline RowOutcome solve_row(const HalfStepArguments& a, int64_t row, const Passes& passes,
                            const AlsScratch& scratch, AlsRowsOutcome& outcome) {
  const int64_t stride = a.data.design.row_stride;
  const int64_t begin = a.data.observations.indptr[row];
  const int64_t count = a.data.observations.indptr[row + 1] - begin;
  const AlsVectors vectors = vectors_of(scratch, stride);
  float* const x = a.solution.row(row);
  copy(x, stride, vectors.start);
  const ExactRow exact{a, scratch, row, begin, count};
  const bool iterate = a.solver == Solver::conjugate_gradient ||
                       (a.solver == Solver::automatic && !(is_short(a, count) && has_dense_inverse(exact)));
  RowOutcome found =
      iterate ? conjugate_solve<N>(a, row, passes, x, vectors, outcome) : exact_solve(exact, a.solver, x);
  if (found == RowOutcome::sound) {
    if (a.relaxation != 1.0f) relax(a.relaxation, vectors.start, x, stride);
    found = add_losses(a, row, passes, scratch, x, outcome);
  }
  if (found != RowOutcome::sound) copy(vectors.start, stride, x);
  return found;
}

// A row without observations is where its prior says, or nowhere.
inline void solve_empty(const HalfStepArguments& a, int64_t row) {
  float* const x = a.solution.row(row);
  for (int64_t c = 0; c < a.data.design.columns; ++c)
    x[c] = a.prior.data == nullptr ? 0.0f : a.prior.row(row)[c];
}

void als_solve(const HalfStepArguments& a, int64_t begin, int64_t end, const AlsScratch& scratch,
               AlsRowsOutcome& outcome, RowOutcome* outcomes) {
  with_width(a.data.design.row_stride, [&](auto width) {
    constexpr int N = decltype(width)::value;
    const int64_t* const indptr = a.data.observations.indptr;
    for (int64_t u = begin; u < end; ++u) {
      if (indptr[u] == indptr[u + 1]) {
        solve_empty(a, u);
        continue;
      }
      const OwnPasses<N> passes{a.data, scratch.zeros, indptr[u], indptr[u + 1]};
      outcomes[u] = solve_row<N>(a, u, passes, scratch, outcome);
    }
  });
}

void als_solve_long(const HalfStepArguments& a, int64_t row, const AlsPasses& passes,
                    const AlsScratch& scratch, AlsRowsOutcome& outcome, RowOutcome* outcomes) {
  outcomes[row] = solve_row<0>(a, row, DealtPasses{passes}, scratch, outcome);
}

}  // namespace
