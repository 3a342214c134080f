// Blended scores (core/operations.h) on the device: exact scores divided by gates, and gates in the scan.
//
// In the scan a score is a quotient r = S / p, and a query's level is one of r. Its gates come divided by the
// power of two 2^e that brings the largest p of all items to at most 1; with p' = p / 2^e the scan compares
// r' = r 2^e / (s T) = (S / (s T)) / p' in float32. Products p' round to nearest, each quotient and canonical
// score a few times more: `rounding` is (16 + columns) 2^-22, beyond all of these together. Canonical
// quotients below float32 lose 2^-149, twice which every level gives way (kQuotientSlack). Queries whose
// gates could leave the range in which that holds are scored exhaustively (cuda/gates.h).
//
// Of a tile the scan knows the least and largest of each gate. An item of it reaches the level L only with
// S >= L p, so at least L times the least p of the tile, or the largest where L is negative.
#pragma once

#include "cuda/kernels/canonical.cuh"

namespace salience::cuda {

inline constexpr double kQuotientSlack = 0x1.0p-148;

// Of one group of queries and one block of items; rows count from their first.
struct BlendView {
  Matrix<const float> query_gates;   // no columns: there are none
  Matrix<const float> item_gates;    // likewise
  const uint32_t* labels = nullptr;  // one per item, or null
  const float* scaled = nullptr;  // the query's gates / 2^e, padded to whole panels; null where not scanned
  const float* ranges = nullptr;  // of each tile: the least of every gate, then the largest
  float rounding = 0.0f;
};

// The canonical inner product of the gates, by one thread.
SALIENCE_DEVICE float canonical_denominator(const BlendView& blend, int64_t query, int64_t item) {
  const float* const a = blend.query_gates.row(query);
  const float* const b = blend.item_gates.row(item);
  double l[8] = {};
  for (int64_t j = 0; j < blend.item_gates.columns; j += 8) {
    SALIENCE_UNROLL
    for (int n = 0; n < 8; ++n)
      if (j + n < blend.item_gates.columns) l[n] = exact_multiply_add(a[j + n], b[j + n], l[n]);
  }
  SALIENCE_UNROLL
  for (int n = 0; n < 4; ++n) l[n] = add_rn(l[n], l[n + 4]);
  return canonical_float(add_rn(add_rn(l[0], l[2]), add_rn(l[1], l[3])));
}

// The key of a canonical score, with what the item adds to it in it already.
SALIENCE_DEVICE uint64_t blended_key(const BlendView& blend, Metric metric, float score, int64_t query,
                                     int64_t item, int64_t first_item) {
  if (blend.item_gates.columns > 0) score = divide_floats(score, canonical_denominator(blend, query, item));
  return canonical_key(metric, score, blend.labels == nullptr ? first_item + item : blend.labels[item]);
}

// The exact path of top-k: keys of all items, 0 for what is left out.
struct KeyArguments {
  PairArguments pairs;
  BlendView blend;
  uint64_t* keys;  // row_count x stride
  int64_t stride;
  Filters filters;
};

template <bool Euclidean>
SALIENCE_KERNEL(kPairThreads, 2)
key_tile(KeyArguments k) {
  score_pairs<Euclidean>(k.pairs, [&](int64_t number, int64_t a, int64_t b, float score) {
    k.keys[number * k.stride + b] =
        admits(k.filters, a, b) ? blended_key(k.blend, k.pairs.metric, score, a, b, k.filters.first_item) : 0;
  });
}

// --- The scan ---

// p' of a query and an item, or the edge of a tile, from its gates.
SALIENCE_DEVICE float denominator(const BlendView& blend, int64_t query, const float* gates) {
  const auto columns = static_cast<int>(blend.item_gates.columns);
  const float* const mine = blend.scaled + query * columns;
  float sum = 0.0f;
  for (int g = 0; g < columns; ++g) sum = multiply_add(mine[g], gates[g], sum);
  return sum;
}

SALIENCE_DEVICE const float* edge_of(const BlendView& blend, int64_t tile, bool largest) {
  return blend.ranges + (2 * tile + largest) * blend.item_gates.columns;
}

SALIENCE_DEVICE float magnitude(float x) { return x < 0.0f ? -x : x; }

// S that an item of the tile must have to reach the query's level.
SALIENCE_DEVICE float level_in_tile(const BlendView& blend, float level, int64_t query, int64_t tile) {
  if (!(level < bits_to_float(0x7F800000u))) return level;  // takes no part
  const float least = level * denominator(blend, query, edge_of(blend, tile, level < 0.0f));
  return least - magnitude(least) * blend.rounding - 0x1.0p-110f;
}

// At least this much is the quotient where S is at least `lower` and p' the denominator.
SALIENCE_DEVICE float lower_quotient(const BlendView& blend, float lower, float denominator) {
  const float quotient = divide_floats(lower, denominator);
  return quotient - magnitude(quotient) * blend.rounding - 0x1.0p-100f;
}

struct RangeArguments {
  Matrix<const float> gates;
  float* ranges;
};

// The least and largest of every gate over a tile, a warp for each tile and gate.
SALIENCE_KERNEL(kPairThreads, 2) find_ranges(RangeArguments a) {
  const int64_t n = block() * (kPairThreads / 32) + warp(), columns = a.gates.columns;
  const int64_t tile = n / columns, gate = n % columns;
  if (tile * kTileRows >= a.gates.rows) return;
  float least = bits_to_float(0x7F800000u), largest = 0.0f;
  for (int row = lane(); row < kTileRows; row += 32) {
    if (tile * kTileRows + row >= a.gates.rows) continue;
    const float value = a.gates.row(tile * kTileRows + row)[gate];
    least = value < least ? value : least;
    largest = value > largest ? value : largest;
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    const float low = shuffle_xor(least, mask), high = shuffle_xor(largest, mask);
    least = low < least ? low : least;
    largest = high > largest ? high : largest;
  }
  if (lane() != 0) return;
  a.ranges[2 * tile * columns + gate] = least;
  a.ranges[(2 * tile + 1) * columns + gate] = largest;
}

// Items with additions of some queries, ascending in each.
struct AdditionsView {
  const int64_t* pointers = nullptr;
  const int32_t* items = nullptr;
  const float* values = nullptr;
};

}  // namespace salience::cuda
