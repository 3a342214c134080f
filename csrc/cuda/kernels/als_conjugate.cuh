// Rows of an ALS half-step by conjugate gradients, preconditioned with the diagonal of their matrices, as in
// cpu/kernels/als_conjugate.h. In the eigenbasis of the design's Gramian a step is two passes over the row's
// factors.
//
// conjugate_rows gives a block a row whose factors fit its shared memory, and gathers them once. Longer rows
// are cut into segments: conjugate_segment makes a pass over one, conjugate_combine adds the segments of a
// row in order and takes a step.
#pragma once

#include "cuda/kernels/als_passes.cuh"

namespace salience::cuda {

// The vectors of a solve, `stride` long. Every element belongs to one thread.
struct ConjugateVectors {
  float* x;
  float* residual;
  float* direction;
  float* image;
  float* inverse;  // of the diagonal of the matrix
};
inline constexpr int64_t kConjugateVectors = 5;

SALIENCE_HOST_DEVICE inline ConjugateVectors conjugate_vectors(float* memory, int64_t stride) {
  return {memory, memory + stride, memory + 2 * stride, memory + 3 * stride, memory + 4 * stride};
}

// Where a solve stands: the same for all threads.
struct ConjugateState {
  float rho;       // residual . inverse . residual
  float scale;     // 1 / |b|
  float start;     // relative residual at the start
  float residual;  // and now
  int32_t steps;
  bool active;
};

struct ConjugateArguments {
  AlsSystems systems;
  const int32_t* order;  // rows; the launch is for those from `first` on
  int64_t first;
  int32_t steps;
  float tolerance;
  int64_t capacity;  // observations that are staged at once
  int parts;
};

SALIENCE_DEVICE float square_root(float x) { return float_rn(square_root_rn(x)); }

// From the sums of a prepare pass, sum(number, column), to the first direction. advance(column, direction) is
// told of it.
template <class Sum, class Advance>
SALIENCE_DEVICE ConjugateState begin_solve(const ConjugateArguments& a, int64_t row,
                                           const ConjugateVectors& v, Sum sum, Advance advance,
                                           BlockSums& shared) {
  const AlsSystems& s = a.systems;
  const float ridge = s.ridge[row];
  float totals[3] = {};
  for (int64_t c = thread(); c < s.solution.row_stride; c += threads()) {
    const float scale = scale_of(s.data, c), dense = s.diagonal[c] + ridge,
                pull = ridge * prior_of(s, row, c);
    const float right = multiply_add(scale, sum(1, c), pull);
    const float residual = multiply_add(scale, sum(2, c), pull - dense * v.x[c]);
    const float whole = multiply_add(scale * scale, sum(0, c), dense);
    const float inverse = whole == 0.0f ? 0.0f : 1.0f / whole;
    v.inverse[c] = inverse;
    v.residual[c] = residual;
    v.direction[c] = inverse * residual;
    advance(c, inverse * residual);
    totals[0] = multiply_add(inverse * residual, residual, totals[0]);
    totals[1] = multiply_add(right, right, totals[1]);
    totals[2] = multiply_add(residual, residual, totals[2]);
  }
  sum_over_block(totals, shared, 1);
  ConjugateState state{};
  const float size = square_root(totals[1]);
  state.rho = totals[0];
  state.scale = size > 0.0f ? 1.0f / size : 1.0f;
  state.start = state.residual = square_root(totals[2]) * state.scale;
  state.active = state.residual > a.tolerance;
  return state;
}

// One step from the sum of an apply pass.
template <class Sum, class Advance>
SALIENCE_DEVICE void take_step(const ConjugateArguments& a, int64_t row, const ConjugateVectors& v, Sum sum,
                               Advance advance, ConjugateState& state, BlockSums& shared) {
  const AlsSystems& s = a.systems;
  const int64_t stride = s.solution.row_stride;
  const float ridge = s.ridge[row];
  float curvature[1] = {};
  for (int64_t c = thread(); c < stride; c += threads()) {
    const float dense = (s.diagonal[c] + ridge) * v.direction[c];
    v.image[c] = multiply_add(scale_of(s.data, c), sum(0, c), dense);
    curvature[0] = multiply_add(v.direction[c], v.image[c], curvature[0]);
  }
  sum_over_block(curvature, shared, 0);
  if (!(curvature[0] > 0.0f)) {  // nothing left to gain, or NaN: the residual says which
    state.active = false;
    return;
  }
  const float step = state.rho / curvature[0];
  float totals[2] = {};
  for (int64_t c = thread(); c < stride; c += threads()) {
    v.x[c] = multiply_add(step, v.direction[c], v.x[c]);
    const float residual = multiply_add(-step, v.image[c], v.residual[c]);
    v.residual[c] = residual;
    totals[0] = multiply_add(residual, residual, totals[0]);
    totals[1] = multiply_add(v.inverse[c] * residual, residual, totals[1]);
  }
  sum_over_block(totals, shared, 1);
  state.residual = square_root(totals[0]) * state.scale;
  ++state.steps;
  state.active = state.steps < a.steps && state.residual > a.tolerance;
  const float beta = state.rho > 0.0f ? totals[1] / state.rho : 0.0f;
  for (int64_t c = thread(); c < stride; c += threads()) {
    v.direction[c] = multiply_add(beta, v.direction[c], v.inverse[c] * v.residual[c]);
    advance(c, v.direction[c]);
  }
  state.rho = totals[1];
}

// Relaxes and writes what is sound; a row that is not stays where it was.
SALIENCE_DEVICE void finish_solve(const ConjugateArguments& a, int64_t row, const ConjugateVectors& v,
                                  const ConjugateState& state, BlockSums& shared) {
  const AlsSystems& s = a.systems;
  float* const x = s.solution.row(row);
  float missing[1] = {};
  for (int64_t c = thread(); c < s.solution.columns; c += threads()) {
    v.x[c] = relaxed(s, x[c], v.x[c]);
    if (!is_finite(v.x[c])) missing[0] = 1.0f;
  }
  sum_over_block(missing, shared, 2);
  RowOutcome found = RowOutcome::sound;
  if (missing[0] != 0.0f || !is_finite(state.residual)) {
    found = RowOutcome::not_finite;
  } else if (!(state.residual <= 100.0f * (state.start > 1.0f ? state.start : 1.0f))) {
    found = RowOutcome::grew;
  }
  if (thread() == 0) s.results[row] = {state.residual, state.steps, found};
  if (found != RowOutcome::sound) return;
  for (int64_t c = thread(); c < s.solution.columns; c += threads()) x[c] = v.x[c];
}

inline constexpr int64_t kBlockSumsFloats = static_cast<int64_t>(sizeof(BlockSums) / sizeof(float));

inline int64_t conjugate_row_bytes(bool half, int64_t stride, int64_t capacity, int threads) {
  return 4 * (kBlockSumsFloats + kConjugateVectors * stride) + pass_bytes(half, stride, capacity, threads);
}

template <bool Half>
SALIENCE_KERNEL(kAlsThreads, 2)
conjugate_rows(ConjugateArguments a) {
  auto& sums = shared_memory<BlockSums>();
  const AlsSystems& s = a.systems;
  const int64_t stride = s.solution.row_stride, row = a.order[a.first + block()];
  const int64_t begin = s.data.indptr[row], count = s.data.indptr[row + 1] - begin;
  auto* const memory = reinterpret_cast<float*>(&sums + 1);
  const ConjugateVectors v = conjugate_vectors(memory, stride);
  const PassMemory m = pass_memory<Half>(memory + kConjugateVectors * stride, stride, a.capacity, a.parts);
  stage<Half>(s.data, begin, count, m);
  for (int64_t c = thread(); c < stride; c += threads()) {
    v.x[c] = s.solution.row(row)[c];
    m.scaled[c] = v.x[c] * scale_of(s.data, c);
  }
  const auto sum = [&](int number, int64_t c) { return sum_of(m, number, c); };
  const auto advance = [&](int64_t c, float direction) { m.scaled[c] = direction * scale_of(s.data, c); };
  clear_sums<Half, kPassSums>(m);
  block_barrier();  // the row is staged
  pass_over<Half, Pass::prepare>(s.data, begin, count, m);
  block_barrier();  // its sums are there
  ConjugateState state = begin_solve(a, row, v, sum, advance, sums);
  while (state.active) {
    clear_sums<Half, 1>(m);
    block_barrier();  // so is the direction
    pass_over<Half, Pass::apply>(s.data, begin, count, m);
    block_barrier();  // and its image
    take_step(a, row, v, sum, advance, state, sums);
  }
  finish_solve(a, row, v, state, sums);
}

// --- Rows in segments ---

// The long rows of a batch: row n of them has segments first_segment[n] .. first_segment[n + 1], the vectors
// and the state of a solve in global memory.
struct LongRows {
  const Segment* segments;  // `row` counts from 0 in the batch
  const int32_t* first_segment;
  float* partial;  // segments x kPassSums x stride
  float* vectors;  // rows x kConjugateVectors x stride
  ConjugateState* states;
};

struct SegmentArguments {
  ConjugateArguments conjugate;
  LongRows rows;
};

template <bool Half, Pass P>
SALIENCE_KERNEL(kAlsThreads, 2)
conjugate_segment(SegmentArguments a) {
  const AlsSystems& s = a.conjugate.systems;
  const int64_t stride = s.solution.row_stride;
  const Segment segment = a.rows.segments[block()];
  if (P == Pass::apply && !a.rows.states[segment.row].active) return;
  const PassMemory m =
      pass_memory<Half>(&shared_memory<float>(), stride, a.conjugate.capacity, a.conjugate.parts);
  const float* const from =
      P == Pass::prepare
          ? s.solution.row(a.conjugate.order[a.conjugate.first + segment.row])
          : conjugate_vectors(a.rows.vectors + segment.row * kConjugateVectors * stride, stride).direction;
  for (int64_t c = thread(); c < stride; c += threads()) m.scaled[c] = from[c] * scale_of(s.data, c);
  clear_sums<Half, kSumsOf<P>>(m);
  for (int64_t start = 0; start < segment.count; start += m.capacity) {
    const int64_t left = segment.count - start, count = left < m.capacity ? left : m.capacity;
    stage<Half>(s.data, segment.begin + start, count, m);
    block_barrier();  // the rows are staged
    pass_over<Half, P>(s.data, segment.begin + start, count, m);
    block_barrier();  // others may take their place, and the sums are there
  }
  float* const out = a.rows.partial + block() * kPassSums * stride;
  for (int64_t c = thread(); c < stride; c += threads())
    for (int number = 0; number < kSumsOf<P>; ++number) out[number * stride + c] = sum_of(m, number, c);
}

struct CombineArguments {
  ConjugateArguments conjugate;
  LongRows rows;
  Pass pass;  // whose sums are there
  bool last;
};

SALIENCE_KERNEL(kAlsThreads, 2) conjugate_combine(CombineArguments a) {
  auto& shared = shared_memory<BlockSums>();
  const AlsSystems& s = a.conjugate.systems;
  const int64_t stride = s.solution.row_stride, row = a.conjugate.order[a.conjugate.first + block()];
  const ConjugateVectors v = conjugate_vectors(a.rows.vectors + block() * kConjugateVectors * stride, stride);
  const int32_t first = a.rows.first_segment[block()], end = a.rows.first_segment[block() + 1];
  const auto sum = [&](int number, int64_t c) {
    float total = 0.0f;
    for (int64_t n = first; n < end; ++n) total += a.rows.partial[(n * kPassSums + number) * stride + c];
    return total;
  };
  const auto advance = [](int64_t, float) {};
  ConjugateState state{};
  if (a.pass == Pass::prepare) {
    for (int64_t c = thread(); c < stride; c += threads()) v.x[c] = s.solution.row(row)[c];
    state = begin_solve(a.conjugate, row, v, sum, advance, shared);
  } else {
    state = a.rows.states[block()];
    if (state.active) take_step(a.conjugate, row, v, sum, advance, state, shared);
  }
  if (a.last) {
    finish_solve(a.conjugate, row, v, state, shared);
  } else if (thread() == 0) {
    a.rows.states[block()] = state;
  }
}

}  // namespace salience::cuda
