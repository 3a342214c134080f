// One row of an ALS half-step exactly, in float64: by its n x n system (Woodbury) where it is short, by
// blocks of factors (all at once: Cholesky; fewer: iALS++) or by coordinate descent where factors may not be
// negative.
#pragma once

#include "cpu/kernels/als_passes.h"
#include "cpu/kernels/cholesky.h"

namespace {

using salience::HalfStepArguments;
using salience::cpu::AlsScratch;
using salience::cpu::kAlsChunk;
using salience::cpu::RowOutcome;

struct ExactRow {
  const HalfStepArguments& a;
  const AlsScratch& scratch;
  int64_t row;
  int64_t begin;
  int64_t count;

  int64_t stride() const { return a.data.design.row_stride; }
  int64_t columns() const { return a.data.design.columns; }
  double dense(int64_t c) const {
    return static_cast<double>(a.diagonal[c]) + static_cast<double>(a.ridge[row]);
  }
  // ridge * prior, what pulls factor c.
  double pull(int64_t c) const {
    return a.prior.data == nullptr
               ? 0.0
               : static_cast<double>(a.ridge[row]) * static_cast<double>(a.prior.row(row)[c]);
  }
  double* vector(int n) const {
    const int64_t length = scratch.order > stride() ? scratch.order : stride();
    return scratch.doubles + n * length;
  }
};

inline void weigh(const ExactRow& r, int64_t n, double& root, double& target) {
  float weight, wanted;
  weigh(r.a.data, r.begin + n, weight, wanted);
  root = __builtin_sqrt(static_cast<double>(weight));
  target = static_cast<double>(wanted);
}

inline double product(const float* y, const double* x, int64_t width) {
  F64x8 total = zero8();
  for (int64_t c = 0; c < width; c += 8) total = multiply_add8(widen8(y + c), load8(x + c), total);
  return lane_tree(total);
}

// out = scale * y, in float64.
inline void widen_row(const float* y, int64_t width, double scale, double* out) {
  const F64x8 s = broadcast8(scale);
  for (int64_t c = 0; c < width; c += 8) store8(out + c, multiply8(s, widen8(y + c)));
}

inline void add_scaled(const double* y, double scale, int64_t width, double* out) {
  const F64x8 s = broadcast8(scale);
  for (int64_t c = 0; c < width; c += 8) store8(out + c, multiply_add8(s, load8(y + c), load8(out + c)));
}

// x = D^-1 (ridge prior) + D^-1/2 Z^T (I + Z Z^T)^-1 W^1/2 (t - Y D^-1 ridge prior), Z = W^1/2 Y D^-1/2: the
// Woodbury identity on a system that is never worse conditioned than I.
inline RowOutcome solve_short(const ExactRow& r, float* x) {
  constexpr int64_t kDistance = 8;  // of the factors that are fetched, across the ends of rows
  const int64_t stride = r.stride(), n = r.count, order = (n + 7) / 8 * 8;
  double* const centre = r.vector(0);   // D^-1 ridge prior
  double* const inverse = r.vector(1);  // D^-1/2
  double* const right = r.vector(2);
  const F64x8 ridge = broadcast8(static_cast<double>(r.a.ridge[r.row]));
  for (int64_t c = 0; c < stride; c += 8) {
    const F64x8 dense = c < r.columns() ? add8(ridge, widen8(r.a.diagonal + c)) : broadcast8(1.0);
    store8(inverse + c, inverse_root8(dense));
    for (int64_t i = c; i < c + 8; ++i)
      centre[i] = i < r.columns() ? r.pull(i) * inverse[i] * inverse[i] : 0.0;
  }
  for (int64_t c = r.columns(); c < stride; ++c) inverse[c] = 0.0;
  double* const z = r.scratch.gathered;
  for (int64_t k = 0; k < order; ++k) {
    double* const out = z + k * stride;
    right[k] = 0.0;
    if (k >= n) {
      for (int64_t c = 0; c < stride; ++c) out[c] = 0.0;
      continue;
    }
    double root, target;
    weigh(r, k, root, target);
    const float* const y = factors_of(r.a.data, r.begin + k);
    right[k] = root * (r.a.prior.data == nullptr ? target : target - product(y, centre, stride));
    const F64x8 scale = broadcast8(root);
    const float* const soon = factors_ahead(r.a.data, r.begin + k + kDistance, r.scratch.zeros);
    for (int64_t c = 0; c < stride; c += 16) {
      __builtin_prefetch(soon + c);
      for (int64_t i = c; i < c + 16; i += 8)
        store8(out + i, multiply8(multiply8(scale, load8(inverse + i)), widen8(y + i)));
    }
  }
  const System system{r.scratch.matrix, r.scratch.order, order};
  products_of_rows(z, stride, system);
  for (int64_t k = 0; k < order; ++k) system.row(k)[k] += 1.0;
  const RowOutcome outcome = solve(system, right);
  if (outcome != RowOutcome::sound) return outcome;
  double* const sum = r.vector(3);
  for (int64_t c = 0; c < stride; ++c) sum[c] = 0.0;
  for (int64_t k = 0; k < n; ++k) add_scaled(z + k * stride, right[k], stride, sum);
  for (int64_t c = 0; c < r.columns(); ++c) x[c] = static_cast<float>(centre[c] + inverse[c] * sum[c]);
  return RowOutcome::sound;
}

// Adds sum_k w y y^T (lower triangle) and sum_k w (t - p) y of factors first .. first + width.
inline void add_observations(const ExactRow& r, int64_t first, int64_t width, const double* products,
                             const System& system, double* right) {
  double* const chunk = r.scratch.gathered;
  for (int64_t start = 0; start < r.count; start += kAlsChunk) {
    const int64_t left = r.count - start, count = left < kAlsChunk ? left : kAlsChunk;
    for (int64_t k = 0; k < count; ++k) {
      double root, target;
      weigh(r, start + k, root, target);
      widen_row(factors_of(r.a.data, r.begin + start + k) + first, width, root, chunk + k * width);
      add_scaled(chunk + k * width, root * (target - products[start + k]), width, right);
    }
    add_outer_products(chunk, width, count, system);
  }
}

// Minimizes over `block` factors at a time, each block given the others as they are by then. `from_zero`:
// start there, not from x, so that one block's answer depends on nothing else.
inline RowOutcome solve_blocks(const ExactRow& r, int64_t block, bool from_zero, float* x) {
  const int64_t stride = r.stride(), columns = r.columns();
  double* const wide = r.vector(0);
  for (int64_t c = 0; c < stride; ++c) wide[c] = from_zero ? 0.0 : static_cast<double>(x[c]);
  double* const p = r.scratch.products;
  for (int64_t k = 0; k < r.count; ++k)
    p[k] = from_zero ? 0.0 : product(factors_of(r.a.data, r.begin + k), wide, stride);
  for (int64_t first = 0; first < columns; first += block) {
    const int64_t left = stride - first, width = left < block ? left : block;
    double* const right = r.vector(1);
    const System system{r.scratch.matrix, r.scratch.order, width};
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t j = 0; j <= c; ++j) system.row(c)[j] = 0.0;
      const bool real = first + c < columns;
      system.row(c)[c] = real ? r.dense(first + c) : 1.0;
      right[c] = real ? r.pull(first + c) - r.dense(first + c) * wide[first + c] : 0.0;
    }
    add_observations(r, first, width, p, system, right);
    const RowOutcome outcome = solve(system, right);
    if (outcome != RowOutcome::sound) return outcome;
    for (int64_t c = 0; c < width; ++c) wide[first + c] += right[c];
    if (first + block < columns)
      for (int64_t k = 0; k < r.count; ++k)
        p[k] += product(factors_of(r.a.data, r.begin + k) + first, right, width);
  }
  for (int64_t c = 0; c < columns; ++c) x[c] = static_cast<float>(wide[c]);
  return RowOutcome::sound;
}

// Coordinate descent on the objective with factors held at 0 or above (an explicit bias is free).
inline RowOutcome solve_nonnegative(const ExactRow& r, float* x) {
  constexpr int kSweeps = 1000;
  constexpr double kTolerance = 1e-9;  // of the largest factor
  const int64_t stride = r.stride(), columns = r.columns();
  const int64_t held = r.a.data.feedback == Feedback::explicit_feedback ? columns - 1 : columns;
  double* const wide = r.vector(0);
  double* const slope = r.vector(1);  // b - A x
  double* const p = r.scratch.products;
  for (int64_t k = 0; k < r.count; ++k) p[k] = 0.0;
  const System system{r.scratch.matrix, r.scratch.order, stride};
  for (int64_t c = 0; c < stride; ++c) {
    for (int64_t j = 0; j <= c; ++j)
      system.row(c)[j] = c < columns && r.a.dense != nullptr ? r.a.dense[c * columns + j] : 0.0;
    system.row(c)[c] += static_cast<double>(r.a.ridge[r.row]);
    slope[c] = c < columns ? r.pull(c) : 0.0;
    wide[c] = 0.0;
  }
  add_observations(r, 0, stride, p, system, slope);
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t j = 0; j < c; ++j) system.row(j)[c] = system.row(c)[j];
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    double largest = 0.0, moved = 0.0;
    for (int64_t c = 0; c < columns; ++c) {
      const double curvature = system.row(c)[c];
      if (curvature - curvature != 0.0 || slope[c] - slope[c] != 0.0) return RowOutcome::not_finite;
      if (!(curvature > 0.0)) continue;  // this factor changes nothing
      double next = wide[c] + slope[c] / curvature;
      if (c < held && next < 0.0) next = 0.0;
      const double move = next - wide[c];
      wide[c] = next;
      if (move != 0.0)
        for (int64_t j = 0; j < columns; ++j) slope[j] -= move * system.row(c)[j];
      const double size = __builtin_fabs(next), shift = __builtin_fabs(move);
      if (size > largest) largest = size;
      if (shift > moved) moved = shift;
    }
    if (moved <= kTolerance * largest) break;
  }
  for (int64_t c = 0; c < columns; ++c) x[c] = static_cast<float>(wide[c]);
  return RowOutcome::sound;
}

// Whether the dense part has an inverse, which the short way needs.
inline bool has_dense_inverse(const ExactRow& r) {
  for (int64_t c = 0; c < r.columns(); ++c)
    if (!(r.dense(c) > 0.0)) return false;
  return true;
}

inline RowOutcome exact_solve(const ExactRow& r, salience::Solver solver, float* x) {
  if (solver == salience::Solver::nonnegative) return solve_nonnegative(r, x);
  const int64_t block = solver == salience::Solver::subspace ? r.a.block : r.stride();
  if (r.count < r.columns() && r.count <= r.scratch.gathered_rows && has_dense_inverse(r))
    return solve_short(r, x);
  return solve_blocks(r, block, solver != salience::Solver::subspace, x);
}

}  // namespace
