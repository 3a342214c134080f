// Positions of a row of scores that a threshold cannot rule out.
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

}  // namespace
