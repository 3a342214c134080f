// How many of some scores are smaller than each of a few bounds.
#pragma once

#include "cpu/kernels/simd.h"

namespace {

inline int64_t count_bits(uint32_t mask) { return __builtin_popcount(mask); }

void count_below_float(const float* values, int64_t count, const float* bounds, int64_t bound_count,
                       int64_t* below) {
  for (int64_t b = 0; b < bound_count; ++b) {
    const F32 bound = broadcast(bounds[b]);
    int64_t reached = 0, i = 0;
    for (; i + kLanes <= count; i += kLanes) reached += count_bits(not_below(load(values + i), bound));
    for (; i < count; ++i) reached += !(values[i] < bounds[b]);
    below[b] = count - reached;
  }
}

void count_below_double(const double* values, int64_t count, const double* bounds, int64_t bound_count,
                        int64_t* below) {
  for (int64_t b = 0; b < bound_count; ++b) {
    int64_t reached = 0, i = 0;
    for (; i + 8 <= count; i += 8) reached += count_bits(not_below(values + i, bounds[b]));
    for (; i < count; ++i) reached += !(values[i] < bounds[b]);
    below[b] = count - reached;
  }
}

}  // namespace
