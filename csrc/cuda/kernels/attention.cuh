// Attention of candidates over histories (core/operations.h): products of unit rows in float32 in the order
// of the contract, then weights and sums in float64, to the bit what a CPU gets.
#pragma once

#include "core/elementary.h"
#include "cuda/kernels/canonical.cuh"

namespace salience::cuda {

inline constexpr int kAttendThreads = 256;  // each multiplies 2 x 2 pairs
inline constexpr int kAttendItems = 32;     // candidates, and items of the history, in a block's tile
inline constexpr int kAttendStep = 32;      // dimensions that are staged at a time
inline constexpr int kUnitLanes = 16;

struct AttendArguments {
  Matrix<const float> units;  // padded
  const int64_t* indptr;      // of the histories of `users`
  const int32_t* indices;
  const double* log_weights;  // one per entry, or null
  const int64_t* candidates;  // users x columns
  int64_t users;
  int64_t columns;
  double temperature;
  double smoothing;
  float* out;  // users x columns
};

struct AttendShared {
  float candidates[kAttendItems][kAttendStep + 1];
  float past[kAttendItems][kAttendStep + 1];
  float products[kAttendItems][kAttendItems + 1];
  double weights[kAttendItems][kAttendItems + 1];  // 0 where an item is not looked at
  int64_t candidate_items[kAttendItems];           // -1: none
  int64_t past_items[kAttendItems];
};

SALIENCE_DEVICE float unit_element(const Matrix<const float>& units, int64_t item, int64_t j) {
  return item >= 0 && j < units.row_stride ? units.row(item)[j] : 0.0f;
}

// products[i][j] = the unit product of candidate thread / 16 + 16 i and past item thread % 16 + 16 j. Zeros
// beyond the padding change no sum: none of them is ever -0.
SALIENCE_DEVICE void unit_products(const Matrix<const float>& units, AttendShared& shared,
                                   float (&products)[2][2]) {
  float lanes[2][2][kUnitLanes] = {};
  const int x = thread() % 16, y = thread() / 16;
  int64_t start = 0;
  do {
    for (int n = thread(); n < kAttendItems * kAttendStep; n += kAttendThreads) {
      const int row = n / kAttendStep, j = n % kAttendStep;
      shared.candidates[row][j] = unit_element(units, shared.candidate_items[row], start + j);
      shared.past[row][j] = unit_element(units, shared.past_items[row], start + j);
    }
    block_barrier();
    for (int j = 0; j < kAttendStep; j += kUnitLanes) {
      SALIENCE_UNROLL
      for (int l = 0; l < kUnitLanes; ++l) {
        const float a0 = shared.candidates[y][j + l], a1 = shared.candidates[y + 16][j + l];
        const float b0 = shared.past[x][j + l], b1 = shared.past[x + 16][j + l];
        lanes[0][0][l] = add_floats(lanes[0][0][l], multiply_floats(a0, b0));
        lanes[0][1][l] = add_floats(lanes[0][1][l], multiply_floats(a0, b1));
        lanes[1][0][l] = add_floats(lanes[1][0][l], multiply_floats(a1, b0));
        lanes[1][1][l] = add_floats(lanes[1][1][l], multiply_floats(a1, b1));
      }
    }
    block_barrier();
    start += kAttendStep;
  } while (start < units.row_stride);
  SALIENCE_UNROLL
  for (int n = 0; n < 4; ++n) {
    float (&l)[kUnitLanes] = lanes[n / 2][n % 2];
    SALIENCE_UNROLL
    for (int i = 0; i < 8; ++i) l[i] = add_floats(l[i], l[i + 8]);
    SALIENCE_UNROLL
    for (int i = 0; i < 4; ++i) l[i] = add_floats(l[i], l[i + 4]);
    products[n / 2][n % 2] = add_floats(add_floats(l[0], l[2]), add_floats(l[1], l[3]));
  }
}

// Weighs the pairs of a thread, into shared memory.
SALIENCE_DEVICE void weigh(const AttendArguments& a, int64_t first, int count, const float (&products)[2][2],
                           AttendShared& shared) {
  SALIENCE_UNROLL
  for (int n = 0; n < 4; ++n) {
    const int i = thread() / 16 + n / 2 * 16, j = thread() % 16 + n % 2 * 16;
    const double product = products[n / 2][n % 2];
    double weight = 0.0;
    if (j < count && shared.candidate_items[i] != shared.past_items[j]) {
      const double log_weight = a.log_weights == nullptr ? 0.0 : a.log_weights[first + j];
      const double exponent = add_rn(divide_rn(subtract_rn(product, 1.0), a.temperature), log_weight);
      weight = fixed_exp(exponent < -700.0 ? -700.0 : exponent);
    }
    shared.products[i][j] = products[n / 2][n % 2];
    shared.weights[i][j] = weight;
  }
}

// A block takes kAttendItems candidates of a user through the whole history; then each lane of the first warp
// has the sums of one.
SALIENCE_KERNEL(kAttendThreads, 2) attend_candidates(AttendArguments a) {
  auto& shared = shared_memory<AttendShared>();
  const int64_t tiles = (a.columns + kAttendItems - 1) / kAttendItems;
  const int64_t user = block() / tiles, column = block() % tiles * kAttendItems + thread();
  if (thread() < kAttendItems)
    shared.candidate_items[thread()] = column < a.columns ? a.candidates[user * a.columns + column] : -1;
  double sum = 0.0, weights = 0.0;
  const int64_t end = a.indptr[user + 1];
  for (int64_t first = a.indptr[user]; first < end; first += kAttendItems) {
    const int count = end - first < kAttendItems ? static_cast<int>(end - first) : kAttendItems;
    if (thread() < kAttendItems)
      shared.past_items[thread()] = thread() < count ? a.indices[first + thread()] : -1;
    block_barrier();
    float products[2][2];
    unit_products(a.units, shared, products);
    weigh(a, first, count, products, shared);
    block_barrier();
    if (warp() != 0) continue;  // to what the first warp does not read
    for (int j = 0; j < count; ++j) {
      const double weight = shared.weights[lane()][j], product = shared.products[lane()][j];
      sum = add_rn(sum, multiply_rn(weight, product));
      weights = add_rn(weights, weight);
    }
  }
  if (warp() != 0 || column >= a.columns) return;
  const double total = weights > 0.0 ? weights : 1.0;
  const double pooled = multiply_rn(sum, fixed_exp(multiply_rn(-a.smoothing, fixed_log(total))));
  // Read from memory: without a history no barrier has shown the first warp what is in shared memory.
  const bool is_item = a.candidates[user * a.columns + column] >= 0;
  a.out[user * a.columns + column] = is_item ? float_rn(pooled) : -bits_to_float(0x7F800000u);
}

}  // namespace salience::cuda
