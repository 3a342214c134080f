// Factor matrices of ALS on the device: rows without observations, how far rows are from their prior, and
// what features say.
#pragma once

#include "cuda/kernels/als_passes.cuh"

namespace salience::cuda {

inline constexpr int kFactorThreads = 256;
inline constexpr int kLossThreads = 128;
inline constexpr int64_t kLossSegment = 512;  // observations of a warp

SALIENCE_DEVICE double sum_over_warp(double value) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// |x - prior|^2 of a row, for all lanes of a warp.
SALIENCE_DEVICE double deviation_of(const Matrix<const float>& solution, const Matrix<const float>& prior,
                                    int64_t row) {
  double total = 0.0;
  for (int64_t c = lane(); c < solution.columns; c += 32) {
    const double from = prior.data == nullptr ? 0.0 : static_cast<double>(prior.row(row)[c]);
    const double deviation = static_cast<double>(solution.row(row)[c]) - from;
    total += deviation * deviation;
  }
  return sum_over_warp(total);
}

}  // namespace salience::cuda
