// Canonical scores (core/operations.h) on the device: float64, eight lanes, one order of summation.
#pragma once

#include "core/rank.h"
#include "cuda/packed.h"
#include "cuda/simt.cuh"

namespace salience::cuda {

SALIENCE_DEVICE float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

SALIENCE_DEVICE float element(const VectorsView& vectors, int64_t row, int64_t j) {
  const int64_t at = row * vectors.row_stride + j;
  if (vectors.type == ElementType::float32) return static_cast<const float*>(vectors.data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(vectors.data)[at];
  return vectors.type == ElementType::float16 ? half_value(bits)
                                              : bits_to_float(static_cast<uint32_t>(bits) << 16);
}

template <bool Euclidean>
SALIENCE_DEVICE double canonical_term(double query, double item, double total) {
  if (!Euclidean) return exact_multiply_add(query, item, total);
  const double difference = subtract_rn(query, item);
  return add_rn(total, multiply_rn(difference, difference));
}

// The tree over the totals of eight neighbouring lanes, which each of them gets. Sums of two commute.
SALIENCE_DEVICE double lane_tree(double total) {
  total = add_rn(total, shuffle_xor(total, 4));
  total = add_rn(total, shuffle_xor(total, 2));
  return add_rn(total, shuffle_xor(total, 1));
}

// Rounds to float32, with one zero and one NaN.
SALIENCE_DEVICE float canonical_float(double score) {
  const float rounded = float_rn(score) + 0.0f;
  return rounded == rounded ? rounded : bits_to_float(0x7FC00000u);
}

SALIENCE_DEVICE float canonical_score(Metric metric, double total, double query_squares,
                                      double item_squares) {
  if (metric == Metric::euclidean) return canonical_float(square_root_rn(total));
  if (metric == Metric::dot) return canonical_float(total);
  const double norms = multiply_rn(query_squares, item_squares);
  return canonical_float(norms == 0.0 ? 0.0 : divide_rn(total, square_root_rn(norms)));
}

// What is left out. Items are numbered from `first_item` in `excluded`, whose rows ascend.
struct Filters {
  const uint8_t* allowed = nullptr;  // one flag per item, or null
  const int64_t* exclude = nullptr;  // row pointers, or null
  const int32_t* excluded = nullptr;
  int64_t first_item = 0;
};

SALIENCE_DEVICE bool is_excluded(const Filters& filters, int64_t query, int64_t item) {
  if (filters.exclude == nullptr) return false;
  const int64_t wanted = filters.first_item + item, end = filters.exclude[query + 1];
  int64_t low = filters.exclude[query], high = end;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (filters.excluded[middle] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < end && filters.excluded[low] == wanted;
}

SALIENCE_DEVICE bool admits(const Filters& filters, int64_t query, int64_t item) {
  return (filters.allowed == nullptr || filters.allowed[item] != 0) && !is_excluded(filters, query, item);
}

SALIENCE_DEVICE uint64_t canonical_key(Metric metric, float score, int64_t id) {
  return Rank<float>::key(metric == Metric::euclidean ? -score : score, id);
}

// The level that the k-th best canonical score stands for.
SALIENCE_DEVICE double level_of_key(Metric metric, uint64_t key, const QueryFacts& facts) {
  const float score = Rank<float>::score(key);
  const ScreeningBound screening(metric, 0.0, 0.0);
  return screening.level_of_score(metric == Metric::euclidean ? -score : score, 0.0, facts.norm);
}

// The score of one pair by the eight lanes of a group; all groups of a warp come together.
template <bool Euclidean>
SALIENCE_DEVICE double group_total(const float* query, const VectorsView& items, int64_t item, bool valid) {
  double total = 0.0;
  if (valid) {
    if (items.type == ElementType::float32) {
      const float* const row = static_cast<const float*>(items.data) + item * items.row_stride;
      for (int64_t j = lane() & 7; j < items.columns; j += 8)
        total = canonical_term<Euclidean>(query[j], row[j], total);
    } else {
      for (int64_t j = lane() & 7; j < items.columns; j += 8)
        total = canonical_term<Euclidean>(query[j], element(items, item, j), total);
    }
  }
  return lane_tree(total);
}

// --- Tiles of pairs, for whole matrices ---

inline constexpr int kPairRows = 32;      // of either side, in a block's tile
inline constexpr int kPairThreads = 256;  // each scores 2 x 2 pairs
inline constexpr int kPairStep = 32;      // dimensions that are staged at a time

struct PairTile {
  float a[kPairRows][kPairStep + 1];
  float b[kPairRows][kPairStep + 1];
};

// totals[i][j]: row_a + thread / 16 + 16 i of `a` (rows[..] where given) with row_b + thread % 16 + 16 j of
// `b`.
template <bool Euclidean>
SALIENCE_DEVICE void pair_totals(const Matrix<const float>& a, const uint32_t* rows, int64_t row_a,
                                 int64_t count_a, const VectorsView& b, int64_t row_b, PairTile& tile,
                                 double (&totals)[2][2]) {
  double lanes[2][2][8] = {};
  const int x = thread() % 16, y = thread() / 16;
  for (int64_t start = 0; start < b.columns; start += kPairStep) {
    for (int n = thread(); n < kPairRows * kPairStep; n += kPairThreads) {
      const int row = n / kPairStep, j = n % kPairStep;
      const bool inside = start + j < b.columns;
      const int64_t mine = row_a + row;
      tile.a[row][j] =
          inside && mine < count_a ? a.row(rows == nullptr ? mine : rows[mine])[start + j] : 0.0f;
      tile.b[row][j] = inside && row_b + row < b.rows ? element(b, row_b + row, start + j) : 0.0f;
    }
    block_barrier();
    for (int j = 0; j < kPairStep; j += 8) {
      SALIENCE_UNROLL
      for (int l = 0; l < 8; ++l) {
        const double a0 = tile.a[y][j + l], a1 = tile.a[y + 16][j + l];
        const double b0 = tile.b[x][j + l], b1 = tile.b[x + 16][j + l];
        lanes[0][0][l] = canonical_term<Euclidean>(a0, b0, lanes[0][0][l]);
        lanes[0][1][l] = canonical_term<Euclidean>(a0, b1, lanes[0][1][l]);
        lanes[1][0][l] = canonical_term<Euclidean>(a1, b0, lanes[1][0][l]);
        lanes[1][1][l] = canonical_term<Euclidean>(a1, b1, lanes[1][1][l]);
      }
    }
    block_barrier();
  }
  SALIENCE_UNROLL
  for (int n = 0; n < 4; ++n) {
    const double (&l)[8] = lanes[n / 2][n % 2];
    const double a0 = add_rn(l[0], l[4]), a1 = add_rn(l[1], l[5]), a2 = add_rn(l[2], l[6]),
                 a3 = add_rn(l[3], l[7]);
    totals[n / 2][n % 2] = add_rn(add_rn(a0, a2), add_rn(a1, a3));
  }
}

struct PairArguments {
  Matrix<const float> a;
  VectorsView b;
  Metric metric;
  const double* a_squares;  // canonical squared norms; only for cosine
  const double* b_squares;
  const uint32_t* rows;  // of `a`, or null: all
  int64_t row_count;
  Matrix<float> out;  // of similarity
};

// Calls put(number of the row among those wanted, row of a, row of b, score) for the pairs of this block's
// tile.
template <bool Euclidean, class Put>
SALIENCE_DEVICE void score_pairs(const PairArguments& p, Put put) {
  auto& tile = shared_memory<PairTile>();
  const int64_t across = (p.b.rows + kPairRows - 1) / kPairRows;
  const int64_t row_a = block() / across * kPairRows, row_b = block() % across * kPairRows;
  double totals[2][2];
  pair_totals<Euclidean>(p.a, p.rows, row_a, p.row_count, p.b, row_b, tile, totals);
  SALIENCE_UNROLL
  for (int i = 0; i < 2; ++i) {
    SALIENCE_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int64_t number = row_a + thread() / 16 + 16 * i, b = row_b + thread() % 16 + 16 * j;
      if (number >= p.row_count || b >= p.b.rows) continue;
      const int64_t a = p.rows == nullptr ? number : p.rows[number];
      const bool cosine = p.metric == Metric::cosine;
      put(number, a, b,
          canonical_score(p.metric, totals[i][j], cosine ? p.a_squares[a] : 0.0,
                          cosine ? p.b_squares[b] : 0.0));
    }
  }
}

template <bool Euclidean>
SALIENCE_KERNEL(kPairThreads, 2)
similarity_tile(PairArguments p) {
  score_pairs<Euclidean>(
      p, [&](int64_t number, int64_t, int64_t b, float score) { p.out.row(number)[b] = score; });
}

inline int64_t pair_blocks(int64_t rows_a, int64_t rows_b) {
  return ((rows_a + kPairRows - 1) / kPairRows) * ((rows_b + kPairRows - 1) / kPairRows);
}

}  // namespace salience::cuda
