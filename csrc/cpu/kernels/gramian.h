// Gramian and rotation of factor matrices: dense products on the shared tile.
#pragma once

#include "cpu/kernels/simd.h"

namespace {

constexpr int64_t kGramianPadding = 2 * kLanes + kScreenRows;

// Tiles below the diagonal are skipped; tiles across it are computed whole.
void gramian(const float* rows, int64_t row_stride, int64_t count, int64_t factors, double* sums,
             int64_t sum_stride) {
  for (int64_t j = 0; j < factors; j += 2 * kLanes) {
    for (int64_t i = 0; i < factors && i < j + 2 * kLanes; i += kScreenRows) {
      F32 acc[kScreenRows][2];
      tile_product<kScreenRows, 2>(rows + i, 1, row_stride, rows + j, row_stride, count, acc);
      for (int r = 0; r < kScreenRows; ++r) {
        float values[2 * kLanes];
        for (int v = 0; v < 2; ++v) store(values + v * kLanes, acc[r][v]);
        double* const out = sums + (i + r) * sum_stride + j;
        for (int64_t c = 0; c < 2 * kLanes; ++c) out[c] += static_cast<double>(values[c]);
      }
    }
  }
}

template <int Rows>
inline void rotate_tile(const float* rows, int64_t row_stride, int64_t factors, const float* rotation,
                        int64_t width, float* out, int64_t out_stride) {
  for (int64_t j = 0; j < width; j += 2 * kLanes) {
    F32 acc[Rows][2];
    tile_product<Rows, 2>(rows, row_stride, 1, rotation + j, width, factors, acc);
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < 2; ++v) store(out + r * out_stride + j + v * kLanes, acc[r][v]);
  }
}

void rotate(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
            int64_t width, float* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + kScreenRows <= count; r += kScreenRows)
    rotate_tile<kScreenRows>(rows + r * row_stride, row_stride, factors, rotation, width,
                             out + r * out_stride, out_stride);
  for (; r < count; ++r)
    rotate_tile<1>(rows + r * row_stride, row_stride, factors, rotation, width, out + r * out_stride,
                   out_stride);
}

#if !defined(SALIENCE_TILES)

void turn(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
          int64_t width, float* out, int64_t out_stride, uint16_t*) {
  rotate(rows, row_stride, count, factors, rotation, width, out, out_stride);
}

int64_t turning_memory(int64_t, int64_t) { return 0; }

#endif

}  // namespace
