// One row of an ALS half-step: conjugate gradients where a matrix-vector product costs one pass over
// the row's own observations, because the dense part of the matrix is diagonal.
//
// The observed items' factors are gathered into contiguous memory once per row where they fit, and
// chunk by chunk on every pass where they do not. Rows are worked on four at a time, so that four
// horizontal sums overlap.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::AlsObservations;
using salience::Feedback;
using salience::HalfStepArguments;
using salience::RowLossArguments;
using salience::cpu::AlsRowsOutcome;
using salience::cpu::AlsScratch;

constexpr int kRowsAtOnce = 4;
constexpr int64_t kPrefetchAhead = 8;

// The observations of one row, as the passes see them.
struct AlsRow {
  const AlsObservations& data;
  const AlsScratch& scratch;
  int64_t begin;
  int64_t count;
  int64_t stride;
  bool resident;  // gathered once, valid for every pass
};

inline void prefetch_row(const float* row, int64_t stride) {
  for (int64_t c = 0; c < stride; c += 16) __builtin_prefetch(row + c);
}

// Fills scratch rows [0, count) with observations from `first` on and their weights and targets, and
// clears the rows up to the next multiple of four (weight 0: they add nothing).
inline int64_t gather(const AlsRow& row, int64_t first, int64_t count) {
  const auto& [data, scratch, begin, total, stride, resident] = row;
  const bool is_explicit = data.feedback == Feedback::explicit_feedback;
  const int64_t bias = data.design.columns - 1;
  float* const weights = scratch.coefficients;
  float* const targets = scratch.coefficients + scratch.gathered_rows;
  const int32_t* const indices = data.observations.indices + begin + first;
  const float* const values = data.observations.values + begin + first;
  for (int64_t n = 0; n < count; ++n) {
    if (n + kPrefetchAhead < count)
      prefetch_row(data.design.data + indices[n + kPrefetchAhead] * data.design.row_stride, stride);
    float* const out = scratch.gathered + n * stride;
    const float* const in = data.design.data + indices[n] * data.design.row_stride;
    for (int64_t c = 0; c < stride; c += kLanes) store(out + c, load(in + c));
    weights[n] = is_explicit ? 1.0f : data.alpha * values[n];
    targets[n] = is_explicit ? values[n] - data.offset - out[bias] : 1.0f;
    if (is_explicit) out[bias] = 1.0f;
  }
  int64_t padded = count;
  for (; padded % kRowsAtOnce != 0; ++padded) {
    float* const out = scratch.gathered + padded * stride;
    for (int64_t c = 0; c < stride; c += kLanes) store(out + c, zero());
    weights[padded] = 0.0f;
    targets[padded] = 0.0f;
  }
  return padded;
}

// Calls pass(rows, weights, targets) for every four gathered observations.
template <class Pass>
inline void for_each_four(const AlsRow& row, bool first_pass, Pass pass) {
  const AlsScratch& scratch = row.scratch;
  for (int64_t first = 0; first < row.count; first += scratch.gathered_rows) {
    const int64_t left = row.count - first;
    const int64_t count = left < scratch.gathered_rows ? left : scratch.gathered_rows;
    const int64_t padded = first_pass || !row.resident
                               ? gather(row, first, count)
                               : (count + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
    for (int64_t n = 0; n < padded; n += kRowsAtOnce)
      pass(scratch.gathered + n * row.stride, scratch.coefficients + n,
           scratch.coefficients + scratch.gathered_rows + n);
  }
}

inline void products_of_four(const float* rows, int64_t stride, const float* x,
                             float (&products)[kRowsAtOnce]) {
  F32 acc[kRowsAtOnce];
  for (int i = 0; i < kRowsAtOnce; ++i) acc[i] = zero();
  for (int64_t c = 0; c < stride; c += kLanes) {
    const F32 xc = load(x + c);
    for (int i = 0; i < kRowsAtOnce; ++i) acc[i] = multiply_add(load(rows + i * stride + c), xc, acc[i]);
  }
  for (int i = 0; i < kRowsAtOnce; ++i) products[i] = sum(acc[i]);
}

// out += sum_i coefficients[i] * row_i.
inline void add_four(const float* rows, int64_t stride, const float (&coefficients)[kRowsAtOnce],
                     float* out) {
  F32 scale[kRowsAtOnce];
  for (int i = 0; i < kRowsAtOnce; ++i) scale[i] = broadcast(coefficients[i]);
  for (int64_t c = 0; c < stride; c += kLanes) {
    F32 total = load(out + c);
    for (int i = 0; i < kRowsAtOnce; ++i) total = multiply_add(load(rows + i * stride + c), scale[i], total);
    store(out + c, total);
  }
}

inline float dot_product(const float* a, const float* b, int64_t stride) {
  F32 acc = zero();
  for (int64_t c = 0; c < stride; c += kLanes) acc = multiply_add(load(a + c), load(b + c), acc);
  return sum(acc);
}

// The vectors of one solve, all `stride` long.
struct AlsVectors {
  float* residual;
  float* direction;
  float* image;       // matrix times direction
  float* right_side;  // only its norm is used
  float* inverse;     // 1 / diagonal of the matrix
};

// residual = b - A x, right_side = b and inverse = 1 / diag(A), in one pass over the observations.
inline void prepare(const AlsRow& row, const float* diagonal, float ridge, const float* x,
                    const AlsVectors& v) {
  const int64_t stride = row.stride;
  for (int64_t c = 0; c < stride; c += kLanes) {
    const F32 dense = add(load(diagonal + c), broadcast(ridge));
    store(v.inverse + c, dense);
    store(v.residual + c, subtract(zero(), multiply(dense, load(x + c))));
    store(v.right_side + c, zero());
  }
  for_each_four(row, true, [&](const float* rows, const float* weights, const float* targets) {
    float products[kRowsAtOnce];
    products_of_four(rows, stride, x, products);
    F32 weight[kRowsAtOnce], pull[kRowsAtOnce], error[kRowsAtOnce];
    for (int i = 0; i < kRowsAtOnce; ++i) {
      weight[i] = broadcast(weights[i]);
      pull[i] = broadcast(weights[i] * targets[i]);
      error[i] = broadcast(weights[i] * (targets[i] - products[i]));
    }
    for (int64_t c = 0; c < stride; c += kLanes) {
      F32 square = load(v.inverse + c), right = load(v.right_side + c), residual = load(v.residual + c);
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const F32 y = load(rows + i * stride + c);
        square = multiply_add(multiply(weight[i], y), y, square);
        right = multiply_add(pull[i], y, right);
        residual = multiply_add(error[i], y, residual);
      }
      store(v.inverse + c, square);
      store(v.right_side + c, right);
      store(v.residual + c, residual);
    }
  });
  for (int64_t c = 0; c < stride; ++c) v.inverse[c] = v.inverse[c] > 0.0f ? 1.0f / v.inverse[c] : 0.0f;
}

// image = A * direction.
inline void apply(const AlsRow& row, const float* diagonal, float ridge, const AlsVectors& v) {
  const int64_t stride = row.stride;
  for (int64_t c = 0; c < stride; c += kLanes)
    store(v.image + c, multiply(add(load(diagonal + c), broadcast(ridge)), load(v.direction + c)));
  for_each_four(row, false, [&](const float* rows, const float* weights, const float*) {
    float products[kRowsAtOnce];
    products_of_four(rows, stride, v.direction, products);
    for (int i = 0; i < kRowsAtOnce; ++i) products[i] *= weights[i];
    add_four(rows, stride, products, v.image);
  });
}

// direction = inverse * residual + beta * direction.
inline void turn(const AlsVectors& v, float beta, int64_t stride) {
  const F32 scale = broadcast(beta);
  for (int64_t c = 0; c < stride; c += kLanes) {
    const F32 z = multiply(load(v.inverse + c), load(v.residual + c));
    store(v.direction + c, multiply_add(scale, load(v.direction + c), z));
  }
}

inline float preconditioned_norm(const AlsVectors& v, int64_t stride) {
  F32 acc = zero();
  for (int64_t c = 0; c < stride; c += kLanes) {
    const F32 r = load(v.residual + c);
    acc = multiply_add(multiply(load(v.inverse + c), r), r, acc);
  }
  return sum(acc);
}

// x += a * direction, residual -= a * image; returns the squared norm of the new residual.
inline float advance(const AlsVectors& v, float a, float* x, int64_t stride) {
  const F32 forward = broadcast(a), backward = broadcast(-a);
  F32 acc = zero();
  for (int64_t c = 0; c < stride; c += kLanes) {
    store(x + c, multiply_add(forward, load(v.direction + c), load(x + c)));
    const F32 r = multiply_add(backward, load(v.image + c), load(v.residual + c));
    store(v.residual + c, r);
    acc = multiply_add(r, r, acc);
  }
  return sum(acc);
}

struct RowResult {
  float residual;  // |r| / |b|
  float start;     // the same before the first step
  int64_t steps;
};

inline RowResult solve_row(const AlsRow& row, const HalfStepArguments& a, float ridge, float* x,
                           const AlsVectors& v) {
  const int64_t stride = row.stride;
  prepare(row, a.diagonal, ridge, x, v);
  const float right = __builtin_sqrtf(dot_product(v.right_side, v.right_side, stride));
  const float scale = right > 0.0f ? 1.0f / right : 1.0f;
  float norm = __builtin_sqrtf(dot_product(v.residual, v.residual, stride)) * scale;
  RowResult result{norm, norm, 0};
  float rho = preconditioned_norm(v, stride);
  for (int64_t c = 0; c < stride; ++c) v.direction[c] = 0.0f;
  float beta = 0.0f;
  while (result.steps < a.steps && result.residual > a.tolerance) {
    turn(v, beta, stride);
    apply(row, a.diagonal, ridge, v);
    const float curvature = dot_product(v.direction, v.image, stride);
    if (!(curvature > 0.0f)) break;  // nothing left to gain, or NaN: the caller sees the residual
    result.residual = __builtin_sqrtf(advance(v, rho / curvature, x, stride)) * scale;
    ++result.steps;
    const float next = preconditioned_norm(v, stride);
    beta = rho > 0.0f ? next / rho : 0.0f;
    rho = next;
  }
  return result;
}

void als_solve(const HalfStepArguments& a, int64_t begin, int64_t end, const AlsScratch& scratch,
               AlsRowsOutcome& outcome) {
  const int64_t stride = a.data.design.row_stride;
  const AlsVectors vectors{scratch.vectors, scratch.vectors + stride, scratch.vectors + 2 * stride,
                           scratch.vectors + 3 * stride, scratch.vectors + 4 * stride};
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = a.data.observations.indptr[u];
    const int64_t count = a.data.observations.indptr[u + 1] - first;
    float* const x = a.solution.data + u * a.solution.row_stride;
    if (count == 0) {
      for (int64_t c = 0; c < stride; ++c) x[c] = 0.0f;
      continue;
    }
    const AlsRow row{a.data, scratch, first, count, stride, count <= scratch.gathered_rows};
    const RowResult result = solve_row(row, a, a.ridge[u], x, vectors);
    // Conjugate gradients may raise the residual's norm for a while as they lower the error, never
    // by orders of magnitude; x - x is 0 unless x is infinite or NaN.
    const float size = dot_product(x, x, stride);
    const bool sound =
        size - size == 0.0f && result.residual <= 100.0f * (result.start > 1.0f ? result.start : 1.0f);
    if (!sound && outcome.first_bad_row < 0) outcome.first_bad_row = u;
    if (result.residual > outcome.worst_residual) outcome.worst_residual = result.residual;
    outcome.sum_residual += result.residual;
    outcome.solved_rows += 1;
    outcome.steps += result.steps;
  }
}

void als_loss(const RowLossArguments& a, int64_t begin, int64_t end, const AlsScratch& scratch) {
  const int64_t stride = a.data.design.row_stride;
  for (int64_t u = begin; u < end; ++u) {
    const int64_t first = a.data.observations.indptr[u];
    const int64_t count = a.data.observations.indptr[u + 1] - first;
    const AlsRow row{a.data, scratch, first, count, stride, false};
    const float* const x = a.solution.data + u * a.solution.row_stride;
    double total = 0.0;
    for_each_four(row, true, [&](const float* rows, const float* weights, const float* targets) {
      float products[kRowsAtOnce];
      products_of_four(rows, stride, x, products);
      for (int i = 0; i < kRowsAtOnce; ++i) {
        const double error = static_cast<double>(targets[i]) - static_cast<double>(products[i]);
        total += static_cast<double>(weights[i]) * error * error;
      }
    });
    a.out[u] = total;
  }
}

}  // namespace
