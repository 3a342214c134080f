// What this core can do at most: the arithmetic of the scan alone, and reading memory alone. Benchmarks
// report the scan as a share of these.
#pragma once

#include "cpu/kernels/pairs.h"
#if defined(SALIENCE_TILES)
#include "cpu/kernels/tiles.h"
#endif

namespace {

#if !defined(SALIENCE_TILES)
// Keeps the compiler from noticing that it computes the same thing over and over.
inline __attribute__((always_inline)) void hide(Pairs& a, Sums& sums) {
#if defined(__AVX512F__)
  __asm__ volatile("" : "+v"(a), "+v"(sums));
#elif defined(__x86_64__)
  __asm__ volatile("" : "+x"(a), "+x"(sums));
#else
  static_cast<void>(a);
  static_cast<void>(sums);
#endif
}
#endif

// Multiplies `data` (some 8 KiB of it) over and over without storing; returns the multiply-adds done.
int64_t bare_products(const uint16_t* data, int64_t steps) {
#if defined(SALIENCE_TILES)
  for (int i = 0; i < 2; ++i) {
    const uint16_t* const from = data + i * 1024;
    if (i == 0) {
      tile_read(4, from, 64);
      tile_read(6, from + 512, 64);
    } else {
      tile_read(5, from, 64);
      tile_read(7, from + 512, 64);
    }
  }
  tile_clear(0);
  tile_clear(1);
  tile_clear(2);
  tile_clear(3);
  for (int64_t n = 0; n < steps; ++n) {
    tile_multiply_add(0, 4, 6);
    tile_multiply_add(1, 4, 7);
    tile_multiply_add(2, 5, 6);
    tile_multiply_add(3, 5, 7);
  }
  return steps * 4 * 16 * 16 * 32;
#else
  constexpr int kSums = kLanes == 16 ? 24 : 12;
  Sums sums[kSums];
  Pairs a = load_pairs(data), b = load_pairs(data + 2 * kLanes);
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sums[i] = zero_sums();
  for (int64_t n = 0; n < steps; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      hide(a, sums[i]);
      sums[i] = add_products(sums[i], a, b);
    }
  }
  float sink = 0.0f;
#pragma GCC unroll 32
  for (int i = 0; i < kSums; ++i) sink += total(sums[i]);
  volatile float keep = sink;
  static_cast<void>(keep);
  return steps * kSums * kLanes * 2;
#endif
}

// Reads `count` elements, a multiple of 256, and nothing more.
void bare_read(const uint16_t* data, int64_t count) {
  constexpr int64_t kStep = 2 * kLanes;
  Sums a = zero_sums(), b = a, c = a, d = a;
  for (int64_t j = 0; j < count; j += 4 * kStep) {
    __builtin_prefetch(data + j + 2048);
    a = maximum(a, add_products(zero_sums(), load_pairs(data + j), load_pairs(data + j)));
    b = maximum(b, add_products(zero_sums(), load_pairs(data + j + kStep), load_pairs(data + j)));
    c = maximum(c, add_products(zero_sums(), load_pairs(data + j + 2 * kStep), load_pairs(data + j)));
    d = maximum(d, add_products(zero_sums(), load_pairs(data + j + 3 * kStep), load_pairs(data + j)));
  }
  volatile float keep = total(maximum(maximum(a, b), maximum(c, d)));
  static_cast<void>(keep);
}

}  // namespace
