// Where features say that the factors of rows should be, and how far they are from there.
#pragma once

#include "cuda/kernels/als_factors.cuh"

namespace salience::cuda {

struct FillEmptyArguments {
  Matrix<const float> prior;  // null: zeros
  Matrix<float> solution;
  const int32_t* order;  // rows without observations come first
  int64_t count;
};

SALIENCE_KERNEL(kFactorThreads, 2) fill_empty_rows(FillEmptyArguments a) {
  const int64_t columns = a.solution.columns;
  for (int64_t n = block() * kFactorThreads + thread(); n < a.count * columns;
       n += blocks() * kFactorThreads) {
    const int64_t row = a.order[n / columns], c = n % columns;
    a.solution.row(row)[c] = a.prior.data == nullptr ? 0.0f : a.prior.row(row)[c];
  }
}

struct DeviationArguments {
  Matrix<const float> factors;
  Matrix<const float> prior;
  const float* ridge;
  double* out;  // one for each row
};

// A warp takes a row.
SALIENCE_KERNEL(kLossThreads, 4) measure_deviation(DeviationArguments a) {
  const int64_t row = block() * (kLossThreads / 32) + warp();
  if (row >= a.factors.rows) return;
  const double found = static_cast<double>(a.ridge[row]) * deviation_of(a.factors, a.prior, row);
  if (lane() == 0) a.out[row] = found;
}

inline constexpr int64_t kFeatureSegment = 1024;  // entries of a block

struct FeatureArguments {
  const int32_t* indices;
  const float* values;
  const Segment* segments;
  Matrix<const float> dense;  // what the sparse matrix is multiplied with
  const float* strength;      // of the rows of `dense`, or null
  double* partial;            // segments x columns
};

// The product of some entries of a row of a sparse matrix with a dense one.
SALIENCE_KERNEL(kFactorThreads, 2) multiply_features(FeatureArguments a) {
  const Segment segment = a.segments[block()];
  for (int64_t c = thread(); c < a.dense.columns; c += threads()) {
    double sum = 0.0;
    for (int64_t e = segment.begin; e < segment.begin + segment.count; ++e) {
      const int64_t j = a.indices[e];
      const double strength = a.strength == nullptr ? 1.0 : static_cast<double>(a.strength[j]);
      sum = multiply_add(strength * static_cast<double>(a.values[e]), static_cast<double>(a.dense.row(j)[c]),
                         sum);
    }
    a.partial[block() * a.dense.columns + c] = sum;
  }
}

struct FeatureSumArguments {
  const double* partial;
  const int32_t* first_segment;  // rows + 1
  int64_t rows;
  int64_t columns;
  int64_t row_stride;  // of the outputs
  const float* keep;   // of the rows: 0 for those that are zero; or null
  float* rounded;      // one of the two
  double* out;
};

SALIENCE_KERNEL(kFactorThreads, 2) sum_features(FeatureSumArguments a) {
  for (int64_t n = block() * kFactorThreads + thread(); n < a.rows * a.columns;
       n += blocks() * kFactorThreads) {
    const int64_t row = n / a.columns, c = n % a.columns;
    double total = 0.0;
    for (int64_t s = a.first_segment[row]; s < a.first_segment[row + 1]; ++s)
      total += a.partial[s * a.columns + c];
    if (a.keep != nullptr && a.keep[row] == 0.0f) total = 0.0;
    if (a.rounded != nullptr) a.rounded[row * a.row_stride + c] = float_rn(total);
    if (a.out != nullptr) a.out[row * a.row_stride + c] = total;
  }
}

}  // namespace salience::cuda
