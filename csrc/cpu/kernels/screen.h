// The scan: 16-bit inner products of a block of items with queries, compared with the queries'
// thresholds while still in registers. Only what passes is written.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/pairs.h"

namespace {

using salience::cpu::kBlockRows;
using salience::cpu::ScreenArguments;
using salience::cpu::Survivor;

static_assert(kBlockRows % kScreenRows == 0 && kBlockRows % kLanes == 0, "blocks are whole tiles");

constexpr int64_t kCacheLine = 32;  // in 16-bit elements

// Pulls the counterpart of `row` in the block that follows towards the cache.
inline void prefetch_next(const ScreenArguments& a, int64_t row) {
  if (a.next == nullptr) return;
  for (int64_t j = 0; j < a.depth; j += kCacheLine) __builtin_prefetch(a.next + row * a.depth + j, 0, 2);
}

inline Survivor* emit(uint32_t mask, F32 values, int64_t lane, int64_t lane_step, int64_t row,
                      int64_t row_step, Survivor* out) {
  float value[kLanes];
  store(value, values);
  for (; mask != 0; mask &= mask - 1) {
    const int64_t i = __builtin_ctz(mask);
    *out++ = {static_cast<uint32_t>((lane + i * lane_step) << 16 | (row + i * row_step)), value[i]};
  }
  return out;
}

// One row of sums, queries in lanes.
template <bool Shifted>
inline Survivor* screen_row(const ScreenArguments& a, F32 values, int64_t row, int64_t vector,
                            Survivor* out) {
  if (Shifted)
    values = subtract(values, multiply(broadcast(a.terms[row]), load(a.factors + vector * kLanes)));
  const uint32_t mask = not_below(values, load(a.thresholds + vector * kLanes));
  return __builtin_expect(mask != 0, 0) ? emit(mask, values, vector * kLanes, 1, row, 0, out) : out;
}

#if !defined(SALIENCE_TILES)

// sums[i][v] = inner products of item row i with the kLanes queries of vector v.
template <int Rows, int Vectors>
inline __attribute__((always_inline)) void pair_product(const uint16_t* items, const uint16_t* panel,
                                                        int64_t depth, Sums (&sums)[Rows][Vectors]) {
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) sums[i][v] = zero_sums();
  for (int64_t j = 0; j < depth; j += 2) {
    Pairs query[Vectors];
    for (int v = 0; v < Vectors; ++v) query[v] = load_pairs(panel + (j * Vectors + 2 * v) * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const Pairs item = broadcast_pair(items + i * depth + j);
      for (int v = 0; v < Vectors; ++v) sums[i][v] = add_products(sums[i][v], item, query[v]);
    }
  }
}

template <bool Shifted, int Vectors>
int64_t screen_panel(const ScreenArguments& a) {
  Survivor* out = a.survivors;
  for (int64_t row = 0; row < a.rows; row += kScreenRows) {
    for (int i = 0; i < kScreenRows; ++i) prefetch_next(a, row + i);
    Sums sums[kScreenRows][Vectors];
    pair_product<kScreenRows, Vectors>(a.items + row * a.depth, a.panel, a.depth, sums);
    for (int v = 0; v < Vectors; ++v) {
      if (!Shifted) {
        Sums best = sums[0][v];
        for (int i = 1; i < kScreenRows; ++i) best = maximum(best, sums[i][v]);
        if (__builtin_expect(not_below(as_float(best), load(a.thresholds + v * kLanes)) == 0, 1)) continue;
      }
      for (int i = 0; i < kScreenRows; ++i)
        out = screen_row<Shifted>(a, as_float(sums[i][v]), row + i, v, out);
    }
  }
  return out - a.survivors;
}

void enter_scan() {}
void leave_scan() {}

#endif

// A few queries, held as plain rows: a matrix-vector product that reads each item once. Sums of kLanes
// items are compared together.
template <bool Shifted, int Queries>
int64_t screen_rows(const ScreenArguments& a) {
  constexpr int kAtOnce = 4;
  Survivor* out = a.survivors;
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    float values[Queries][kLanes];
    for (int64_t r = 0; r < kLanes; r += kAtOnce) {
      const uint16_t* const items = a.items + (row + r) * a.depth;
      Sums sums[kAtOnce][Queries];
      for (int i = 0; i < kAtOnce; ++i) {
        prefetch_next(a, row + r + i);
        for (int q = 0; q < Queries; ++q) sums[i][q] = zero_sums();
      }
      for (int64_t j = 0; j < a.depth; j += 2 * kLanes) {
        Pairs query[Queries];
        for (int q = 0; q < Queries; ++q) query[q] = load_pairs(a.panel + q * a.depth + j);
        for (int i = 0; i < kAtOnce; ++i) {
          const Pairs item = load_pairs(items + i * a.depth + j);
          for (int q = 0; q < Queries; ++q) sums[i][q] = add_products(sums[i][q], item, query[q]);
        }
      }
      for (int i = 0; i < kAtOnce; ++i)
        for (int q = 0; q < Queries; ++q) values[q][r + i] = total(sums[i][q]);
    }
    for (int q = 0; q < Queries; ++q) {
      F32 value = load(values[q]);
      if (Shifted) value = subtract(value, multiply(load(a.terms + row), broadcast(a.factors[q])));
      const uint32_t mask = not_below(value, broadcast(a.thresholds[q]));
      if (__builtin_expect(mask != 0, 0)) out = emit(mask, value, q, 0, row, 1, out);
    }
  }
  return out - a.survivors;
}

template <bool Shifted>
int64_t screen_few(const ScreenArguments& a) {
  switch (a.queries) {
    case 1:
      return screen_rows<Shifted, 1>(a);
    case 2:
      return screen_rows<Shifted, 2>(a);
    case 3:
      return screen_rows<Shifted, 3>(a);
    default:
      return screen_rows<Shifted, 4>(a);
  }
}

int64_t screen_few(const ScreenArguments& a) {
  return a.terms != nullptr ? screen_few<true>(a) : screen_few<false>(a);
}

}  // namespace
