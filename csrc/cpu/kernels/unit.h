// Rows of length 1 and their products (core/operations.h): float32 in one fixed order, sixteen lanes
// everywhere.
#pragma once

#include "cpu/kernels/canonical.h"
#include "cpu/kernels/simd.h"

namespace {

constexpr int kUnitParts = static_cast<int>(16 / kLanes);
constexpr int64_t kUnitAhead = 4;
constexpr int kUnitLeft = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1;
constexpr int kUnitRight = kLanes == 16 ? 4 : 2;

int64_t unit_rows(const float* const* rows, int64_t count, int64_t dimensions, float* out, int64_t padded) {
  for (int64_t i = 0; i < count; ++i) {
    // Rows lie all over the memory: ask for several before they are wanted.
    if (i + kUnitAhead < count)
      for (int64_t j = 0; j < dimensions; j += 16) __builtin_prefetch(rows[i + kUnitAhead] + j);
    double square;
    squared_norms(rows[i], 0, 1, dimensions, &square);
    if (!(square < __builtin_inf())) return i;
    const float scale = square > 0.0 ? static_cast<float>(1.0 / __builtin_sqrt(square)) : 0.0f;
    float* const unit = out + i * padded;
    for (int64_t j = 0; j < dimensions; ++j) unit[j] = rows[i][j] * scale;
    for (int64_t j = dimensions; j < padded; ++j) unit[j] = 0.0f;
  }
  return -1;
}

template <int Left, int Right>
inline void unit_tile(const float* const* left, const float* const* right, int64_t padded, float* out,
                      int64_t out_stride) {
  F32 sums[Left][Right][kUnitParts];
  for (int a = 0; a < Left; ++a)
    for (int b = 0; b < Right; ++b)
      for (int p = 0; p < kUnitParts; ++p) sums[a][b][p] = zero();
  for (int64_t j = 0; j < padded; j += 16) {
    for (int p = 0; p < kUnitParts; ++p) {
      const int64_t at = j + p * kLanes;
      F32 x[Left];
      for (int a = 0; a < Left; ++a) x[a] = load(left[a] + at);
      for (int b = 0; b < Right; ++b) {
        const F32 y = load(right[b] + at);
        for (int a = 0; a < Left; ++a) sums[a][b][p] = add(sums[a][b][p], multiply(x[a], y));
      }
    }
  }
  for (int a = 0; a < Left; ++a)
    for (int b = 0; b < Right; ++b) out[a * out_stride + b] = tree_sixteen(sums[a][b]);
}

template <int Left>
inline void unit_strip(const float* const* left, const float* const* right, int64_t right_count,
                       int64_t padded, float* out, int64_t out_stride) {
  int64_t b = 0;
  for (; b + kUnitRight <= right_count; b += kUnitRight)
    unit_tile<Left, kUnitRight>(left, right + b, padded, out + b, out_stride);
  for (; b < right_count; ++b) unit_tile<Left, 1>(left, right + b, padded, out + b, out_stride);
}

void unit_products(const float* const* left, int64_t left_count, const float* const* right,
                   int64_t right_count, int64_t padded, float* out, int64_t out_stride) {
  int64_t a = 0;
  for (; a + kUnitLeft <= left_count; a += kUnitLeft)
    unit_strip<kUnitLeft>(left + a, right, right_count, padded, out + a * out_stride, out_stride);
  for (; a < left_count; ++a)
    unit_strip<1>(left + a, right, right_count, padded, out + a * out_stride, out_stride);
}

}  // namespace
