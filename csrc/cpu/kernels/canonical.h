// Canonical scores (core/operations.h): float64, one fixed order of summation everywhere.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/simd.h"

namespace {

using salience::Metric;
using salience::cpu::CanonicalArguments;

inline int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

// Rounds to float32, with one zero and one NaN.
inline float canonical_float(double score) {
  const float rounded = static_cast<float>(score) + 0.0f;
  return rounded == rounded ? rounded : __builtin_nanf("");
}

template <bool Euclidean>
inline F64x8 canonical_term(F64x8 query, F64x8 item, F64x8 total) {
  if (Euclidean) {
    const F64x8 difference = subtract8(query, item);
    return add8(total, multiply8(difference, difference));
  }
  return exact_multiply_add8(query, item, total);
}

// Fetches the lines of `ahead` (null: none) as it goes: of many at once, some CPUs lose most.
template <bool Euclidean, int Queries, int Items>
inline void canonical_totals(const double* queries, int64_t query_stride, const float* const* items,
                             int64_t dimensions, const char* const* ahead, int64_t ahead_bytes,
                             double (&totals)[Queries][Items]) {
  F64x8 acc[Queries][Items];
  for (int q = 0; q < Queries; ++q)
    for (int i = 0; i < Items; ++i) acc[q][i] = zero8();
  int64_t j = 0;
  for (; j + 8 <= dimensions; j += 8) {
    for (int i = 0; i < Items; ++i) {
      if (ahead != nullptr && j % 16 == 0) __builtin_prefetch(ahead[i] + j * ahead_bytes);
      const F64x8 x = widen8(items[i] + j);
      for (int q = 0; q < Queries; ++q)
        acc[q][i] = canonical_term<Euclidean>(load8(queries + q * query_stride + j), x, acc[q][i]);
    }
  }
  if (j < dimensions) {
    for (int i = 0; i < Items; ++i) {
      const F64x8 x = widen8(items[i] + j, dimensions - j);
      for (int q = 0; q < Queries; ++q)
        acc[q][i] = canonical_term<Euclidean>(load8(queries + q * query_stride + j), x, acc[q][i]);
    }
  }
  for (int q = 0; q < Queries; ++q)
    for (int i = 0; i < Items; ++i) totals[q][i] = lane_tree(acc[q][i]);
}

inline double canonical_finish(const CanonicalArguments& a, int64_t query, int64_t item, double total) {
  switch (a.metric) {
    case Metric::dot:
      return total;
    case Metric::euclidean:
      return __builtin_sqrt(total);
    case Metric::cosine:
      break;
  }
  const double norms = a.query_norms[query] * a.item_norms[item];
  return norms == 0.0 ? 0.0 : total / __builtin_sqrt(norms);
}

template <bool Euclidean, int Queries, int Items>
inline void canonical_tile(const CanonicalArguments& a, int64_t query, int64_t item) {
  double totals[Queries][Items];
  const char* const* const ahead = item + Items <= a.ahead.count ? a.ahead.rows + item : nullptr;
  canonical_totals<Euclidean, Queries, Items>(a.queries + query * a.query_stride, a.query_stride,
                                              a.items + item, a.dimensions, ahead, a.ahead.element_bytes,
                                              totals);
  for (int q = 0; q < Queries; ++q)
    for (int i = 0; i < Items; ++i)
      a.out[(query + q) * a.out_stride + item + i] =
          canonical_float(canonical_finish(a, query + q, item + i, totals[q][i]));
}

template <bool Euclidean, int Queries>
inline void canonical_rows(const CanonicalArguments& a, int64_t query) {
  int64_t item = 0;
  for (; item + kCanonicalItems <= a.item_count; item += kCanonicalItems)
    canonical_tile<Euclidean, Queries, kCanonicalItems>(a, query, item);
  for (; item < a.item_count; ++item) canonical_tile<Euclidean, Queries, 1>(a, query, item);
}

template <bool Euclidean>
inline void canonical_all(const CanonicalArguments& a) {
  int64_t query = 0;
  for (; query + kCanonicalQueries <= a.query_count; query += kCanonicalQueries)
    canonical_rows<Euclidean, kCanonicalQueries>(a, query);
  for (; query < a.query_count; ++query) canonical_rows<Euclidean, 1>(a, query);
}

void canonical(const CanonicalArguments& a) {
  if (a.metric == Metric::euclidean) {
    canonical_all<true>(a);
  } else {
    canonical_all<false>(a);
  }
}

void squared_norms(const float* rows, int64_t row_stride, int64_t count, int64_t dimensions, double* out) {
  for (int64_t r = 0; r < count; ++r) {
    const float* row = rows + r * row_stride;
    F64x8 acc = zero8();
    int64_t j = 0;
    for (; j + 8 <= dimensions; j += 8) {
      const F64x8 x = widen8(row + j);
      acc = exact_multiply_add8(x, x, acc);
    }
    if (j < dimensions) {
      const F64x8 x = widen8(row + j, dimensions - j);
      acc = exact_multiply_add8(x, x, acc);
    }
    out[r] = lane_tree(acc);
  }
}

}  // namespace
