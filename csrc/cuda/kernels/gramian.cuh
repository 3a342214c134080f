// Gramian and rotation of factor matrices: dense products in tiles of 64 x 64, as cpu/kernels/gramian.h.
#pragma once

#include "core/operations.h"
#include "cuda/simt.cuh"

namespace salience::cuda {

inline constexpr int kDenseThreads = 256;  // 16 x 16, of 4 x 4 elements each
inline constexpr int kDenseTile = 64;      // rows and columns
inline constexpr int kDenseStep = 16;      // of the dimension that is summed over
inline constexpr int kDensePitch = kDenseTile + 4;
inline constexpr int64_t kFloatRows = 128;  // that are summed in float32 before they join a float64

struct DenseTile {
  float left[kDenseStep][kDensePitch];
  float right[kDenseStep][kDensePitch];
};

SALIENCE_HOST_DEVICE inline int64_t dense_tiles(int64_t n) { return (n + kDenseTile - 1) / kDenseTile; }

// sums[i][j] += over k in [begin, end) of left(k, 4 y + i) right(k, 4 x + j), for the thread at (y, x).
// Staging reads along the tile where Along is true, else along k.
template <bool LeftAlong, class Left, class Right>
SALIENCE_DEVICE void multiply_tile(int64_t begin, int64_t end, Left left, Right right, DenseTile& tile,
                                   float (&sums)[4][4]) {
  const int x = thread() % 16, y = thread() / 16;
  for (int64_t start = begin; start < end; start += kDenseStep) {
    for (int n = thread(); n < kDenseStep * kDenseTile; n += kDenseThreads) {
      const int along = n / kDenseTile, across = n % kDenseTile;
      tile.right[along][across] = start + along < end ? right(start + along, across) : 0.0f;
      const int k = LeftAlong ? along : n % kDenseStep, i = LeftAlong ? across : n / kDenseStep;
      tile.left[k][i] = start + k < end ? left(start + k, i) : 0.0f;
    }
    block_barrier();  // the step is staged
    SALIENCE_UNROLL
    for (int k = 0; k < kDenseStep; ++k) {
      float a[4], b[4];
      SALIENCE_UNROLL
      for (int i = 0; i < 4; ++i) {
        a[i] = tile.left[k][4 * y + i];
        b[i] = tile.right[k][4 * x + i];
      }
      SALIENCE_UNROLL
      for (int i = 0; i < 4; ++i) SALIENCE_UNROLL
      for (int j = 0; j < 4; ++j) sums[i][j] = multiply_add(a[i], b[j], sums[i][j]);
    }
    block_barrier();  // another may take its place
  }
}

struct GramianTileArguments {
  Matrix<const float> factors;
  int64_t segments;  // of rows
  double* partial;   // segments x f x f
};

// A block makes one tile of the lower triangle of one segment's Gramian.
SALIENCE_KERNEL(kDenseThreads, 2) gramian_tile(GramianTileArguments a) {
  auto& tile = shared_memory<DenseTile>();
  const int64_t f = a.factors.columns, across = dense_tiles(f), tiles = across * (across + 1) / 2;
  const int64_t segment = block() / tiles;
  int64_t i = 0, j = block() % tiles;
  while (j > i) j -= ++i;
  const int64_t begin = a.factors.rows * segment / a.segments,
                end = a.factors.rows * (segment + 1) / a.segments;
  const auto element = [&](int64_t first) {
    return [&a, first, f](int64_t row, int64_t n) {
      return first + n < f ? a.factors.row(row)[first + n] : 0.0f;
    };
  };
  double totals[4][4] = {};
  for (int64_t start = begin; start < end; start += kFloatRows) {
    float sums[4][4] = {};
    multiply_tile<true>(start, start + kFloatRows < end ? start + kFloatRows : end, element(i * kDenseTile),
                        element(j * kDenseTile), tile, sums);
    SALIENCE_UNROLL
    for (int n = 0; n < 16; ++n) totals[n / 4][n % 4] += static_cast<double>(sums[n / 4][n % 4]);
  }
  double* const out = a.partial + segment * f * f;
  for (int n = 0; n < 16; ++n) {
    const int64_t row = i * kDenseTile + thread() / 16 * 4 + n / 4,
                  column = j * kDenseTile + thread() % 16 * 4 + n % 4;
    if (row < f && column < f) out[row * f + column] = totals[n / 4][n % 4];
  }
}

struct GramianSumArguments {
  const double* partial;
  int64_t segments;
  int64_t f;
  double* out;  // f x f
};

SALIENCE_KERNEL(kDenseThreads, 2) sum_gramian(GramianSumArguments a) {
  for (int64_t n = block() * kDenseThreads + thread(); n < a.f * a.f; n += blocks() * kDenseThreads) {
    const int64_t i = n / a.f, j = n % a.f, where = i < j ? j * a.f + i : n;
    double total = 0.0;
    for (int64_t s = 0; s < a.segments; ++s) total += a.partial[s * a.f * a.f + where];
    a.out[n] = total;
  }
}

struct RotateTileArguments {
  Matrix<const float> factors;
  const float* rotation;  // f x f
  float* out;             // rows x f
};

SALIENCE_KERNEL(kDenseThreads, 2) rotate_tile(RotateTileArguments a) {
  auto& tile = shared_memory<DenseTile>();
  const int64_t f = a.factors.columns, across = dense_tiles(f);
  const int64_t first = block() / across * kDenseTile, column = block() % across * kDenseTile;
  float sums[4][4] = {};
  multiply_tile<false>(
      0, f,
      [&](int64_t k, int64_t i) { return first + i < a.factors.rows ? a.factors.row(first + i)[k] : 0.0f; },
      [&](int64_t k, int64_t j) { return column + j < f ? a.rotation[k * f + column + j] : 0.0f; }, tile,
      sums);
  for (int n = 0; n < 16; ++n) {
    const int64_t r = first + thread() / 16 * 4 + n / 4, c = column + thread() % 16 * 4 + n % 4;
    if (r < a.factors.rows && c < f) a.out[r * f + c] = sums[n / 4][n % 4];
  }
}

}  // namespace salience::cuda
