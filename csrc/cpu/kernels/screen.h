// The scan: 16-bit inner products of a block of items with queries, compared with the queries'
// thresholds while still in registers. Only what passes is written.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/pairs.h"

namespace {

using salience::cpu::kBlockRows;
using salience::cpu::ScreenArguments;

static_assert(kBlockRows % kScreenRows == 0 && kBlockRows % kLanes == 0, "blocks are whole tiles");

// Pulls a line towards the cache.
inline void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// What lies where `items` does in the block that follows (null: none does), to be fetched a line at a time
// while `items` are multiplied: of many lines at once, some CPUs lose most.
inline const uint16_t* following(const ScreenArguments& a, const uint16_t* items) {
  if (a.next == nullptr) return nullptr;
  return static_cast<const uint16_t*>(a.next) + (items - static_cast<const uint16_t*>(a.items));
}

// What passed so far.
struct Passed {
  uint32_t* positions;
  float* values;
};

#if defined(SALIENCE_TILES)
constexpr int64_t kTileRows = 16;
#else
constexpr int64_t kTileRows = kScreenRows;
#endif

// Of a vector of lanes with the tile of items that begins at `row`.
template <int Vectors>
inline float* maxima_of(const ScreenArguments& a, int64_t row, int64_t vector) {
  return a.maxima + (row / kTileRows * Vectors + vector) * kLanes;
}
template <int Vectors>
inline float (*kept_values(const ScreenArguments& a, int64_t row, int64_t vector)) [kLanes] {
  return reinterpret_cast<float (*)[kLanes]>(a.kept + (row * Vectors + vector * kTileRows) * kLanes);
}

// Appends the lanes of `mask`: lane i stands for position first + i.
inline void append(Passed& passed, uint32_t mask, F32 values, uint32_t first) {
#if defined(__AVX512F__)
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i positions = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), count);
  const __mmask16 lanes = static_cast<__mmask16>(mask);
  _mm512_storeu_ps(passed.values, _mm512_maskz_compress_ps(lanes, values));
  _mm512_storeu_si512(passed.positions, _mm512_maskz_compress_epi32(lanes, positions));
  const int found = __builtin_popcount(mask);
  passed.values += found;
  passed.positions += found;
#else
  float value[kLanes];
  store(value, values);
  for (; mask != 0; mask &= mask - 1) {
    const int i = __builtin_ctz(mask);
    *passed.positions++ = first + static_cast<uint32_t>(i);
    *passed.values++ = value[i];
  }
#endif
}

// Values of queries in lanes, `Rows` items from `row` on, of which at least one probably passes. Comparisons
// go to words of bits, where rarely more than two are set: two are written, set or not, since a branch on how
// many would be a toss-up.
template <bool Shifted, int Rows>
inline void report(const ScreenArguments& a, float (*values)[kLanes], int64_t row, int64_t vector,
                   Passed& passed) {
  constexpr int kWordRows = 64 / kLanes;
  const F32 thresholds = load(a.thresholds + vector * kLanes);
#pragma GCC unroll 4
  for (int first = 0; first < Rows; first += kWordRows) {
    const int rows = Rows - first < kWordRows ? Rows - first : kWordRows;
    uint64_t word = 0;
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      F32 value = load(values[first + i]);
      if (Shifted) {
        const F32 terms = broadcast(a.terms[row + first + i]);
        value = subtract(value, multiply(terms, load(a.factors + vector * kLanes)));
        store(values[first + i], value);
      }
      word |= static_cast<uint64_t>(not_below(value, thresholds)) << (i * kLanes);
    }
    const float* const word_values = values[first];
    const uint64_t last = uint64_t{1} << (rows * kLanes - 1);
    const auto write_lowest = [&](int n) {
      const auto bit = static_cast<uint32_t>(__builtin_ctzll(word | last));
      const auto place = static_cast<uint32_t>(vector * kLanes << 16 | (row + first));
      passed.positions[n] = place + (bit % kLanes << 16) + bit / kLanes;
      passed.values[n] = word_values[bit];
      word &= word - 1;
    };
    const int found = __builtin_popcountll(word);
    write_lowest(0);
    write_lowest(1);
    for (int n = 2; n < found; ++n) write_lowest(n);
    passed.positions += found;
    passed.values += found;
  }
}

// What passes of values that were kept.
template <bool Shifted, int Vectors>
int64_t sift_panel(const ScreenArguments& a) {
  Passed passed{a.positions, a.values};
  for (int64_t row = 0; row < a.rows; row += kTileRows) {
    for (int64_t v = 0; v < Vectors; ++v) {
      const F32 best = load(maxima_of<Vectors>(a, row, v));
      if (not_below(best, load(a.thresholds + v * kLanes)) == 0) continue;
      report<Shifted, kTileRows>(a, kept_values<Vectors>(a, row, v), row, v, passed);
    }
  }
  return passed.values - a.values;
}

#if !defined(SALIENCE_TILES)

// sums[i][v] = inner products of item row i with the kLanes queries of vector v. The loops over
// registers must be unrolled for the sums to be registers at all. As many rows of `next` are fetched: items
// themselves, which are at hand, cost less than a branch.
template <int Rows, int Vectors>
inline __attribute__((always_inline)) void pair_product(const uint16_t* items, const uint16_t* panel,
                                                        int64_t depth, const uint16_t* next,
                                                        Sums (&sums)[Rows][Vectors]) {
#pragma GCC unroll 32
  for (int n = 0; n < Rows * Vectors; ++n) sums[n / Vectors][n % Vectors] = zero_sums();
  for (int64_t j = 0; j < depth; j += 2) {
    fetch(next);
    next += 2 * Rows;
    Pairs query[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) query[v] = load_pairs(panel + (j * Vectors + 2 * v) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Pairs item = broadcast_pair(items + i * depth + j);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sums[i][v] = add_products(sums[i][v], item, query[v]);
    }
  }
}

template <bool Shifted, int Vectors>
int64_t screen_panel(const ScreenArguments& a) {
  Passed passed{a.positions, a.values};
  for (int64_t row = 0; row < a.rows; row += kScreenRows) {
    Sums sums[kScreenRows][Vectors];
    const uint16_t* const items = static_cast<const uint16_t*>(a.items) + row * a.depth;
    const uint16_t* const next = following(a, items);
    pair_product<kScreenRows, Vectors>(items, a.panel, a.depth, next != nullptr ? next : items, sums);
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      F32 best;
      if (Shifted) {
        const F32 factors = load(a.factors + v * kLanes);
        best = subtract(as_float(sums[0][v]), multiply(broadcast(a.terms[row]), factors));
#pragma GCC unroll 16
        for (int i = 1; i < kScreenRows; ++i)
          best = larger(best, subtract(as_float(sums[i][v]), multiply(broadcast(a.terms[row + i]), factors)));
      } else {
        Sums most = sums[0][v];
#pragma GCC unroll 16
        for (int i = 1; i < kScreenRows; ++i) most = maximum(most, sums[i][v]);
        best = as_float(most);
      }
      if (__builtin_expect(not_below(best, load(a.thresholds + v * kLanes)) == 0, 1)) continue;
      alignas(64) float memory[kScreenRows][kLanes];
      float (*const values)[kLanes] = a.kept != nullptr ? kept_values<Vectors>(a, row, v) : memory;
      if (a.maxima != nullptr) store(maxima_of<Vectors>(a, row, v), best);
      if (a.maxima != nullptr && a.kept == nullptr) continue;
#pragma GCC unroll 16
      for (int i = 0; i < kScreenRows; ++i) store(values[i], as_float(sums[i][v]));
      if (a.maxima == nullptr) report<Shifted, kScreenRows>(a, values, row, v, passed);
    }
  }
  return passed.values - a.values;
}

void enter_scan() {}
void leave_scan() {}

#endif

// What a few queries meet: items in the encoding of 16 bits, or in 8 bits with a scale for each row.
struct Words {
  using Element = uint16_t;
  using Total = Sums;
  static Pairs load(const uint16_t* p) { return load_pairs(p); }
  static Total zero() { return zero_sums(); }
  static Total add(Total sums, Pairs item, Pairs query) { return add_products(sums, item, query); }
  static constexpr bool kScaled = false;
};
struct Bytes {
  using Element = int8_t;
  using Total = Counts;
  static Pairs load(const int8_t* p) { return load_bytes(p); }
  static Total zero() { return zero_counts(); }
  static Total add(Total sums, Pairs item, Pairs query) { return add_counts(sums, item, query); }
  static constexpr bool kScaled = true;
};

// A few queries, held as plain rows: a matrix-vector product that reads each item once. kLanes items are
// compared together.
template <class Items, bool Shifted, int Queries>
int64_t screen_rows(const ScreenArguments& a) {
  constexpr int kAtOnce = 4;
  Passed passed{a.positions, a.values};
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    typename Items::Total folded[Queries][kLanes / kAtOnce];
    for (int64_t group = 0; group < kLanes / kAtOnce; ++group) {
      const int64_t first = row + group * kAtOnce;
      const auto* const items = static_cast<const typename Items::Element*>(a.items) + first * a.depth;
      if (a.next != nullptr) {
        const auto* const next = static_cast<const typename Items::Element*>(a.next) + first * a.depth;
        for (int64_t j = 0; j < kAtOnce * a.depth; j += 64 / sizeof(*next)) fetch(next + j);
      }
      typename Items::Total sums[kAtOnce][Queries];
#pragma GCC unroll 16
      for (int n = 0; n < kAtOnce * Queries; ++n) sums[n / Queries][n % Queries] = Items::zero();
      for (int64_t j = 0; j < a.depth; j += 2 * kLanes) {
        Pairs query[Queries];
#pragma GCC unroll 4
        for (int q = 0; q < Queries; ++q) query[q] = load_pairs(a.panel + q * a.depth + j);
#pragma GCC unroll 4
        for (int i = 0; i < kAtOnce; ++i) {
          const Pairs item = Items::load(items + i * a.depth + j);
#pragma GCC unroll 4
          for (int q = 0; q < Queries; ++q) sums[i][q] = Items::add(sums[i][q], item, query[q]);
        }
      }
#pragma GCC unroll 4
      for (int q = 0; q < Queries; ++q)
        folded[q][group] = fold_four(sums[0][q], sums[1][q], sums[2][q], sums[3][q]);
    }
    for (int q = 0; q < Queries; ++q) {
      F32 value = totals(folded[q]);
      if (Items::kScaled) value = multiply(add(value, broadcast(a.slack[q])), load(a.scales + row));
      if (Shifted) value = subtract(value, multiply(load(a.terms + row), broadcast(a.factors[q])));
      const uint32_t mask = not_below(value, broadcast(a.thresholds[q]));
      if (__builtin_expect(mask != 0, 0)) append(passed, mask, value, static_cast<uint32_t>(q << 16 | row));
    }
  }
  return passed.values - a.values;
}

template <class Items, bool Shifted>
int64_t screen_rows(const ScreenArguments& a) {
  switch (a.queries) {
    case 1:
      return screen_rows<Items, Shifted, 1>(a);
    case 2:
      return screen_rows<Items, Shifted, 2>(a);
    case 3:
      return screen_rows<Items, Shifted, 3>(a);
    default:
      return screen_rows<Items, Shifted, 4>(a);
  }
}

int64_t screen_few(const ScreenArguments& a) {
  return a.terms != nullptr ? screen_rows<Words, true>(a) : screen_rows<Words, false>(a);
}

int64_t screen_bytes(const ScreenArguments& a) {
  return a.terms != nullptr ? screen_rows<Bytes, true>(a) : screen_rows<Bytes, false>(a);
}

}  // namespace
