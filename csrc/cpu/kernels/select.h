// What a threshold cannot rule out of a row of scores, and sorting what remains.
#pragma once

#include "cpu/kernels/simd.h"

namespace {

inline uint32_t* emit(uint32_t mask, int64_t base, uint32_t* out) {
  for (; mask != 0; mask &= mask - 1)
    *out++ = static_cast<uint32_t>(base) + static_cast<uint32_t>(__builtin_ctz(mask));
  return out;
}

int64_t select_float(const float* values, int64_t count, float threshold, uint32_t* out) {
  uint32_t* const first = out;
  const F32 bound = broadcast(threshold);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) out = emit(not_below(load(values + i), bound), i, out);
  for (; i < count; ++i) out = emit(!(values[i] < threshold), i, out);
  return out - first;
}

int64_t select_double(const double* values, int64_t count, double threshold, uint32_t* out) {
  uint32_t* const first = out;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) out = emit(not_below(values + i, threshold), i, out);
  for (; i < count; ++i) out = emit(!(values[i] < threshold), i, out);
  return out - first;
}

#if defined(__AVX512F__)

// Each key goes where as many others are larger: quadratic, without branches.
void sort_keys(const uint64_t* keys, int64_t count, uint64_t* out) {
  const __m512i one = _mm512_set1_epi64(1);
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t rest = count - i;
    const auto lanes = static_cast<__mmask16>(rest < 16 ? (1u << rest) - 1 : 0xFFFFu);
    const auto low = static_cast<__mmask8>(lanes), high = static_cast<__mmask8>(lanes >> 8);
    const __m512i a = _mm512_maskz_loadu_epi64(low, keys + i);
    const __m512i b = _mm512_maskz_loadu_epi64(high, keys + i + 8);
    __m512i above_a = _mm512_setzero_si512(), above_b = above_a;
    for (int64_t j = 0; j < count; ++j) {
      const __m512i key = _mm512_set1_epi64(static_cast<int64_t>(keys[j]));
      above_a = _mm512_mask_add_epi64(above_a, _mm512_cmplt_epu64_mask(a, key), above_a, one);
      above_b = _mm512_mask_add_epi64(above_b, _mm512_cmplt_epu64_mask(b, key), above_b, one);
    }
    _mm512_mask_i64scatter_epi64(out, low, above_a, a, 8);
    _mm512_mask_i64scatter_epi64(out, high, above_b, b, 8);
  }
}

constexpr int64_t kMostSorted = 256;

#else

void sort_keys(const uint64_t* /*keys*/, int64_t /*count*/, uint64_t* /*out*/) {}
constexpr int64_t kMostSorted = 0;

#endif

}  // namespace
