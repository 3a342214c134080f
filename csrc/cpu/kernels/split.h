// Rotation of factors on matrix tiles, which multiply bfloat16: a float32 is the sum of three of them.
//
// x = h + m + l with h = bf16(x), m = bf16(x - h), l = bf16(x - h - m), exactly: bfloat16 has 8 of float32's
// 24 bits, differences of neighbours are exact, and what is left after two roundings to nearest has 8 bits.
// Hence |m| <= 2^-8 |x| and |l| <= 2^-16 |x|. Of the nine products of x y the three least, m l, l m and l l,
// are left out: together less than 2.01 * 2^-24 |x y|. Products of bfloat16 are exact in float32 and are
// summed there, the least first, with a rounding each at most, so that to first order
//   |computed - sum x_k y_k| <= (6 f + 3) 2^-24 sum |x_k y_k|.
// A float32 sum of fused products promises f 2^-24. Of the 6 f roundings only those of the last f, of h h,
// are of sums of that size; those before are of sums smaller by 2^-7. Denormals, which tiles take for 0, cost
// at most 2^-126 a product; a value that rounds to infinity in bfloat16 (3.39e38) makes the result NaN, which
// half-steps report.
//
// The Gramian stays with float32: its left operand would have to be transposed, for half the products.
#pragma once

#include "cpu/kernels/tiles.h"

namespace {

constexpr int kSplitParts = 3;
constexpr int64_t kSplitBlock = 2 * kTileRows;  // rows and columns of a result at a time

inline int64_t split_round_up(int64_t n) { return (n + kSplitBlock - 1) / kSplitBlock * kSplitBlock; }

// The parts of sixteen values, in the low halves of 32-bit lanes.
inline void split(__m512 x, __m512i (&parts)[kSplitParts]) {
  for (int p = 0; p < kSplitParts; ++p) {
    parts[p] = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
    x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(parts[p], 16)));
  }
}

inline __m512 load_up_to(const float* p, int64_t count) {
  if (count >= kLanes) return load(p);
  return count <= 0 ? zero() : _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}

// out[p][r][k]: part p of rows, with zeros up to `padded_rows` rows of `depth`.
inline void split_rows(const float* rows, int64_t row_stride, int64_t count, int64_t factors, int64_t depth,
                       int64_t padded_rows, uint16_t* out) {
  for (int64_t r = 0; r < padded_rows; ++r) {
    for (int64_t k = 0; k < depth; k += kLanes) {
      __m512i parts[kSplitParts];
      split(r < count ? load_up_to(rows + r * row_stride + k, factors - k) : zero(), parts);
      for (int p = 0; p < kSplitParts; ++p)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (p * padded_rows + r) * depth + k),
                            _mm512_cvtepi32_epi16(parts[p]));
    }
  }
}

// out[p][k / 2][c]: part p of rows k and k + 1 of 32 columns of the rotation, as pairs.
inline void split_columns(const float* rotation, int64_t width, int64_t factors, int64_t depth,
                          uint16_t* out) {
  for (int64_t k = 0; k < depth; k += 2) {
    for (int64_t c = 0; c < kSplitBlock; c += kLanes) {
      __m512i first[kSplitParts], second[kSplitParts];
      split(k < factors ? load(rotation + k * width + c) : zero(), first);
      split(k + 1 < factors ? load(rotation + (k + 1) * width + c) : zero(), second);
      for (int p = 0; p < kSplitParts; ++p)
        _mm512_storeu_si512(out + p * depth * kSplitBlock + k * kSplitBlock + 2 * c,
                            _mm512_or_si512(first[p], _mm512_slli_epi32(second[p], 16)));
    }
  }
}

// sums[t]: rows 16 (t / 2) .. and columns 16 (t % 2) .. of the product.
inline void split_block(const uint16_t* rows, int64_t row_part, const uint16_t* columns, int64_t depth,
                        float (*sums)[kTileRows][kLanes]) {
  constexpr int kPairs[6][2] = {{1, 1}, {2, 0}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
  clear_block<2>();
  for (const auto& pair : kPairs)
    add_to_block<2>(rows + pair[0] * row_part, columns + pair[1] * depth * kSplitBlock, depth, nullptr);
  write_block<2>(sums[0]);
}

int64_t turning_memory(int64_t count, int64_t factors) {
  return kSplitParts * (split_round_up(count) + kSplitBlock) * split_round_up(factors);
}

void turn(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
          int64_t width, float* out, int64_t out_stride, uint16_t* memory) {
  const int64_t depth = split_round_up(factors), padded_rows = split_round_up(count);
  uint16_t* const columns = memory + kSplitParts * padded_rows * depth;
  split_rows(rows, row_stride, count, factors, depth, padded_rows, memory);
  alignas(64) float sums[4][kTileRows][kLanes];
  enter_scan();
  for (int64_t j = 0; j < width; j += kSplitBlock) {
    split_columns(rotation + j, width, factors, depth, columns);
    for (int64_t first = 0; first < count; first += kSplitBlock) {
      split_block(memory + first * depth, padded_rows * depth, columns, depth, sums);
      for (int64_t r = first; r < count && r < first + kSplitBlock; ++r)
        for (int half = 0; half < 2; ++half)
          store(out + r * out_stride + j + half * kLanes,
                load(sums[(r - first) / kTileRows * 2 + half][(r - first) % kTileRows]));
    }
  }
  leave_scan();
}

}  // namespace
