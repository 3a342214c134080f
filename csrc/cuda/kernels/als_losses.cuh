// What a half-step needs beside its solvers: the design in 16 bits and as explicit feedback reads it, losses,
// and what all rows came to.
//
// A 16-bit copy holds element / scale as a half, with a power of two for each column that brings its largest
// element to [2^14, 2^15): in the Gramian's eigenbasis columns differ by orders of magnitude. Elements keep a
// relative precision of 2^-11 down to 2^-29 of their column's largest.
#pragma once

#include "cuda/kernels/als_factors.cuh"

namespace salience::cuda {

inline constexpr int64_t kMeasuredRows = 1024;  // of a block

struct EncodeFactorsArguments {
  Matrix<const float> design;
  uint64_t* largest;  // of each column, as the bits of a float
  float* scales;
  uint16_t* halves;
};

SALIENCE_KERNEL(kFactorThreads, 2) measure_columns(EncodeFactorsArguments a) {
  const int64_t stride = a.design.row_stride, first = block() * kMeasuredRows;
  const int64_t end = first + kMeasuredRows < a.design.rows ? first + kMeasuredRows : a.design.rows;
  const int64_t across = stride < kFactorThreads ? stride : kFactorThreads;
  const int64_t together = kFactorThreads / across;  // rows
  if (thread() >= across * together) return;
  for (int64_t c = thread() % across; c < stride; c += across) {
    uint32_t largest = 0;
    for (int64_t r = first + thread() / across; r < end; r += together) {
      uint32_t bits;
      std::memcpy(&bits, a.design.row(r) + c, sizeof bits);
      bits &= 0x7FFFFFFFu;
      if (bits > largest) largest = bits;
    }
    atomic_max(&a.largest[c], largest);
  }
}

SALIENCE_DEVICE float power_of_two(uint32_t biased_exponent) {
  const uint32_t bits = biased_exponent << 23;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

SALIENCE_KERNEL(kFactorThreads, 2) encode_factors(EncodeFactorsArguments a) {
  const int64_t stride = a.design.row_stride, count = a.design.rows * stride;
  for (int64_t n = block() * kFactorThreads + thread(); n < count; n += blocks() * kFactorThreads) {
    const int64_t c = n % stride;
    const auto exponent = static_cast<uint32_t>(a.largest[c]) >> 23;
    const uint32_t scale = exponent > 15 ? exponent - 14 : 1;
    a.halves[n] = half_bits(a.design.data[n] * power_of_two(254 - scale));
    if (n < stride) a.scales[c] = power_of_two(scale);
  }
}

struct LiftBiasArguments {
  Matrix<const float> design;
  float mean;
  float* out;    // as the design, the last column ones
  float* shift;  // what targets are relative to: that column, and the mean
};

SALIENCE_KERNEL(kFactorThreads, 2) lift_bias(LiftBiasArguments a) {
  const int64_t stride = a.design.row_stride, count = a.design.rows * stride, last = a.design.columns - 1;
  for (int64_t n = block() * kFactorThreads + thread(); n < count; n += blocks() * kFactorThreads) {
    const float value = a.design.data[n];
    a.out[n] = n % stride == last ? 1.0f : value;
    if (n % stride == last) a.shift[n / stride] = value + a.mean;
  }
}

// --- Losses ---

struct LossArguments {
  AlsView data;
  const float* diagonal;
  const float* ridge;
  Matrix<const float> prior;
  Matrix<const float> solution;
  const Segment* segments;
  int64_t count;
  bool with_data;
  double* data_loss;   // one for each segment
  double* ridge_loss;  // likewise
};

// The sum of w (t - x.y)^2 over a segment, by groups of eight lanes; the same for all lanes.
SALIENCE_DEVICE double loss_of_segment(const LossArguments& a, const Segment& segment) {
  const float* const x = a.solution.row(segment.row);
  const int64_t stride = a.solution.row_stride;
  double total = 0.0;
  for (int64_t start = 0; start < segment.count; start += 4) {
    const int64_t k = start + lane() / 8;
    const bool there = k < segment.count;
    const int64_t entry = segment.begin + (there ? k : 0);
    const float* const y = a.data.design.row(a.data.indices[entry]);
    float product = 0.0f;
    for (int64_t c = lane() % 8 * 4; c < stride; c += 32) {
      SALIENCE_UNROLL
      for (int i = 0; i < 4; ++i) product = multiply_add(y[c + i], x[c + i], product);
    }
    for (int mask = 4; mask > 0; mask /= 2) product += shuffle_xor(product, mask);
    const Weighed w = weigh(a.data, entry);
    const double error = static_cast<double>(w.target) - static_cast<double>(product);
    if (there && lane() % 8 == 0) total += static_cast<double>(w.weight) * error * error;
  }
  return sum_over_warp(total);
}

// A warp takes a segment; the first of a row takes what the row's factors cost by themselves.
SALIENCE_KERNEL(kLossThreads, 4) measure_loss(LossArguments a) {
  const int64_t number = block() * (kLossThreads / 32) + warp();
  if (number >= a.count) return;
  const Segment segment = a.segments[number];
  const bool first = segment.begin == a.data.indptr[segment.row];
  double data = a.with_data ? loss_of_segment(a, segment) : 0.0, ridge = 0.0;
  if (first) {
    ridge = static_cast<double>(a.ridge[segment.row]) * deviation_of(a.solution, a.prior, segment.row);
    double dense = 0.0;
    for (int64_t c = lane(); c < a.solution.columns; c += 32) {
      const double x = static_cast<double>(a.solution.row(segment.row)[c]);
      dense += static_cast<double>(a.diagonal[c]) * x * x;
    }
    data += a.with_data ? sum_over_warp(dense) : 0.0;
  }
  if (lane() != 0) return;
  a.data_loss[number] = data;
  a.ridge_loss[number] = ridge;
}

// What a block's share of the rows and segments came to.
struct Summary {
  double worst_residual;
  double sum_residual;
  double data_loss;
  double ridge_loss;
  int64_t iterated;
  int64_t steps;
  int64_t failed;  // rows that are not sound
  int64_t first_failed;
};

struct SummaryArguments {
  const int32_t* order;  // of the rows with observations
  const RowResult* results;
  int64_t rows;
  const double* data_loss;
  const double* ridge_loss;
  int64_t segments;
  Summary* out;  // one for each block
};

SALIENCE_HOST_DEVICE inline void join(const Summary& part, Summary& total) {
  if (part.worst_residual > total.worst_residual) total.worst_residual = part.worst_residual;
  total.sum_residual += part.sum_residual;
  total.data_loss += part.data_loss;
  total.ridge_loss += part.ridge_loss;
  total.iterated += part.iterated;
  total.steps += part.steps;
  total.failed += part.failed;
  if (part.first_failed < total.first_failed) total.first_failed = part.first_failed;
}

inline constexpr int kSummaryThreads = 128;
inline constexpr int64_t kNoRow = int64_t{1} << 62;

SALIENCE_KERNEL(kSummaryThreads, 2) summarize_rows(SummaryArguments a) {
  auto& parts = shared_memory<Summary[kSummaryThreads]>();
  Summary mine{0.0, 0.0, 0.0, 0.0, 0, 0, 0, kNoRow};
  const int64_t first = block() * kSummaryThreads + thread(), step = blocks() * kSummaryThreads;
  for (int64_t n = first; n < a.rows; n += step) {
    const int64_t row = a.order[n];
    const RowResult found = a.results[row];
    const bool sound = found.outcome == RowOutcome::sound, iterated = found.residual >= 0.0f;
    const double residual = iterated ? static_cast<double>(found.residual) : 0.0;
    join({residual, residual, 0.0, 0.0, iterated, found.steps, !sound, sound ? kNoRow : row}, mine);
  }
  for (int64_t n = first; n < a.segments; n += step)
    join({0.0, 0.0, a.data_loss[n], a.ridge_loss[n], 0, 0, 0, kNoRow}, mine);
  parts[thread()] = mine;
  block_barrier();  // all parts are there
  if (thread() != 0) return;
  for (int t = 1; t < kSummaryThreads; ++t) join(parts[t], mine);
  a.out[block()] = mine;
}

}  // namespace salience::cuda
