// One row of an ALS half-step by conjugate gradients, preconditioned with the diagonal of its matrix.
#pragma once

#include "cpu/kernels/als_passes.h"

namespace {

using salience::HalfStepArguments;
using salience::cpu::AlsPasses;
using salience::cpu::AlsScratch;
using salience::cpu::RowOutcome;

// Passes that this thread makes itself.
template <int N>
struct OwnPasses {
  const AlsObservations& data;
  const float* zeros;
  int64_t begin;
  int64_t end;

  void prepare(const float* x, float* square, float* right, float* residual) const {
    prepare_pass<N>(data, begin, end, zeros, x, square, right, residual);
  }
  float apply(const float* direction, float* image) const {
    return apply_pass<N>(data, begin, end, zeros, direction, image);
  }
  double loss(const float* x) const { return loss_pass<N>(data, begin, end, zeros, x); }
};

struct DealtPasses {
  const AlsPasses& passes;

  void prepare(const float* x, float* square, float* right, float* residual) const {
    passes.prepare(passes.self, x, square, right, residual);
  }
  float apply(const float* direction, float* image) const {
    return passes.apply(passes.self, direction, image);
  }
  double loss(const float* x) const { return passes.loss(passes.self, x); }
};

// The vectors of one solve, all `stride` long.
struct AlsVectors {
  float* residual;
  float* direction;
  float* image;       // matrix times direction
  float* right_side;  // only its norm is used
  float* inverse;     // 1 / diagonal of the matrix
  float* start;
};

inline AlsVectors vectors_of(const AlsScratch& scratch, int64_t stride) {
  float* const v = scratch.vectors;
  return {v, v + stride, v + 2 * stride, v + 3 * stride, v + 4 * stride, v + 5 * stride};
}

// What a solve starts from: residual . inverse . residual, and the norms of the right side and the residual.
struct Start {
  float rho;
  float right;
  float residual;
};

// residual = b - A x, right_side = b, inverse = 1 / diag(A), direction = 0.
template <int N, class Passes>
inline Start start_solve(const HalfStepArguments& a, int64_t row, const Passes& passes, const float* x,
                         const AlsVectors& v) {
  const int64_t stride = a.data.design.row_stride;
  const F32 ridge = broadcast(a.ridge[row]);
  const float* const prior = a.prior.data == nullptr ? nullptr : a.prior.row(row);
  for_vectors<N>(stride, [&](int64_t n) __attribute__((always_inline)) {
    const int64_t c = n * kLanes;
    const F32 dense = add(load(a.diagonal + c), ridge);
    const F32 pull = prior == nullptr ? zero() : multiply(ridge, load(prior + c));
    store(v.inverse + c, dense);
    store(v.right_side + c, pull);
    store(v.residual + c, subtract(pull, multiply(dense, load(x + c))));
    store(v.direction + c, zero());
  });
  passes.prepare(x, v.inverse, v.right_side, v.residual);
  F32 rho = zero(), right = zero(), norm = zero();
  for_vectors<N>(stride, [&](int64_t n) __attribute__((always_inline)) {
    const int64_t c = n * kLanes;
    const F32 inverse = reciprocal_or_zero(load(v.inverse + c));
    const F32 r = load(v.residual + c), b = load(v.right_side + c);
    store(v.inverse + c, inverse);
    rho = multiply_add(multiply(inverse, r), r, rho);
    right = multiply_add(b, b, right);
    norm = multiply_add(r, r, norm);
  });
  return {sum(rho), __builtin_sqrtf(sum(right)), __builtin_sqrtf(sum(norm))};
}

// direction = inverse * residual + beta * direction, image = A * direction; returns direction . image, of
// which the observations' part needs their products alone: no sum waits for the image.
template <int N, class Passes>
inline float turn_and_apply(const HalfStepArguments& a, int64_t row, const Passes& passes, float beta,
                            const AlsVectors& v) {
  const F32 ridge = broadcast(a.ridge[row]), scale = broadcast(beta);
  F32 curvature = zero();
  for_vectors<N>(a.data.design.row_stride, [&](int64_t n) __attribute__((always_inline)) {
    const int64_t c = n * kLanes;
    const F32 z = multiply(load(v.inverse + c), load(v.residual + c));
    const F32 direction = multiply_add(scale, load(v.direction + c), z);
    const F32 image = multiply(add(load(a.diagonal + c), ridge), direction);
    store(v.direction + c, direction);
    store(v.image + c, image);
    curvature = multiply_add(direction, image, curvature);
  });
  return sum(curvature) + passes.apply(v.direction, v.image);
}

// x += step * direction, residual -= step * image; returns the squared norm of the residual and its
// preconditioned square.
template <int N>
inline float advance(const AlsVectors& v, float step, float* x, int64_t stride, float& rho) {
  const F32 forward = broadcast(step), backward = broadcast(-step);
  F32 norm = zero(), weighted = zero();
  for_vectors<N>(stride, [&](int64_t n) __attribute__((always_inline)) {
    const int64_t c = n * kLanes;
    store(x + c, multiply_add(forward, load(v.direction + c), load(x + c)));
    const F32 r = multiply_add(backward, load(v.image + c), load(v.residual + c));
    store(v.residual + c, r);
    norm = multiply_add(r, r, norm);
    weighted = multiply_add(multiply(load(v.inverse + c), r), r, weighted);
  });
  rho = sum(weighted);
  return sum(norm);
}

template <int N, class Passes>
inline RowOutcome conjugate_solve(const HalfStepArguments& a, int64_t row, const Passes& passes, float* x,
                                  const AlsVectors& v, salience::cpu::AlsRowsOutcome& outcome) {
  const int64_t stride = a.data.design.row_stride;
  const Start from = start_solve<N>(a, row, passes, x, v);
  const float scale = from.right > 0.0f ? 1.0f / from.right : 1.0f;
  const float start = from.residual * scale;
  float residual = start, rho = from.rho, beta = 0.0f;
  int64_t steps = 0;
  while (steps < a.steps && residual > a.tolerance) {
    const float curvature = turn_and_apply<N>(a, row, passes, beta, v);
    if (!(curvature > 0.0f)) break;  // nothing left to gain, or NaN: the residual says which
    float next;
    residual = __builtin_sqrtf(advance<N>(v, rho / curvature, x, stride, next)) * scale;
    beta = rho > 0.0f ? next / rho : 0.0f;
    rho = next;
    ++steps;
  }
  outcome.steps += steps;
  outcome.iterated_rows += 1;
  outcome.sum_residual += static_cast<double>(residual);
  if (residual > outcome.worst_residual) outcome.worst_residual = static_cast<double>(residual);
  // r - r is 0 unless r is infinite or NaN, as it is where x is. The norm may rise for a while as the error
  // falls, never by orders of magnitude.
  if (residual - residual != 0.0f) return RowOutcome::not_finite;
  return residual <= 100.0f * (start > 1.0f ? start : 1.0f) ? RowOutcome::sound : RowOutcome::grew;
}

}  // namespace
