// Vectors to halves with a measured residual: what cuda/packed.h describes.
#pragma once

#include "cuda/kernels/canonical.cuh"

namespace salience::cuda {

inline constexpr int kEncodeThreads = 256;

// The power of two that takes `norm` to [128, 256).
SALIENCE_DEVICE double scale_of(double norm) {
  if (norm == 0.0) return 1.0;
  uint64_t bits;
  std::memcpy(&bits, &norm, sizeof bits);
  bits &= uint64_t{0x7FF} << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return power * 0x1.0p-7;
}

SALIENCE_DEVICE double weight_of(Metric metric, double squares) {
  if (metric != Metric::cosine) return 1.0;
  return squares == 0.0 ? 0.0 : divide_rn(1.0, square_root_rn(squares));
}

SALIENCE_DEVICE double warp_sum(double value) {
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

struct MeasureArguments {
  VectorsView vectors;
  Metric metric;
  const double* centre;  // or null
  double* squares;       // canonical squared norms of the rows
  double* norms;         // |z|, rounded up; NaN or infinite where a row is not finite. Or null
  uint64_t* largest;     // the bits of the largest finite norm
};

// Eight lanes measure a row.
SALIENCE_KERNEL(kEncodeThreads, 2) measure_rows(MeasureArguments a) {
  const int64_t row = block() * (kEncodeThreads / 8) + thread() / 8;
  const bool valid = row < a.vectors.rows;
  double total = 0.0, centred = 0.0;
  if (valid) {
    for (int64_t j = lane() & 7; j < a.vectors.columns; j += 8) {
      const double x = element(a.vectors, row, j);
      total = exact_multiply_add(x, x, total);
      if (a.centre == nullptr) continue;
      const double z = subtract_rn(x, a.centre[j]);
      centred = add_rn(centred, multiply_rn(z, z));
    }
  }
  total = lane_tree(total);
  centred = lane_tree(centred);
  if (!valid || (lane() & 7) != 0) return;
  a.squares[row] = total;
  if (a.norms == nullptr) return;
  double norm = square_root_rn(a.centre == nullptr ? total : centred) * kRoundedUp;
  if (a.metric == Metric::cosine) norm = total < kLargestNorm ? (total == 0.0 ? 0.0 : kRoundedUp) : total;
  a.norms[row] = norm;
  if (!(norm < kLargestNorm)) return;
  uint64_t bits;
  std::memcpy(&bits, &norm, sizeof bits);  // of numbers that are not negative: in their order
  atomic_max(a.largest, bits);
}

// Row `row` as `depth` halves, by a warp; returns |z - scale z^| in units of `scale`, not yet rounded up.
SALIENCE_DEVICE double encode_row(const VectorsView& vectors, int64_t row, double weight,
                                  const double* centre, double scale, int64_t depth, bool zero,
                                  uint16_t* out) {
  double sum = 0.0;
  const double inverse = 1.0 / scale;  // exact
  for (int64_t j = lane(); j < depth; j += 32) {
    double z = 0.0;
    if (!zero && j < vectors.columns) {
      z = multiply_rn(weight, element(vectors, row, j));
      if (centre != nullptr) z = subtract_rn(z, centre[j]);
      z *= inverse;
    }
    uint16_t bits = half_bits(float_rn(z));
    if ((bits & 0x7C00) == 0) bits = 0;
    out[j] = bits;
    const double lost = subtract_rn(z, half_value(bits));
    sum += lost * lost;
  }
  return square_root_rn(warp_sum(sum));
}

struct EncodeItemsArguments {
  VectorsView items;
  Metric metric;
  const double* centre;
  const double* squares;
  const double* norms;
  const uint64_t* largest;
  int64_t depth;
  uint16_t* halves;
  TileBound* bounds;
  uint32_t* regular;
  float* half_squares;  // euclidean, or null
  double* scale;
  uint32_t* irregular;
  uint32_t* irregular_count;
};

struct EncodeShared {
  double found[kEncodeThreads / 32];
};

// The largest of what each warp brings.
SALIENCE_DEVICE double block_largest(double value, EncodeShared& shared) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const double other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  if (lane() == 0) shared.found[warp()] = value;
  block_barrier();
  for (int w = 0; w < kEncodeThreads / 32; ++w) value = shared.found[w] > value ? shared.found[w] : value;
  block_barrier();
  return value;
}

// A block encodes a tile.
SALIENCE_KERNEL(kEncodeThreads, 2) encode_items(EncodeItemsArguments a) {
  auto& shared = shared_memory<EncodeShared>();
  const int64_t tile = block(), first = tile * kTileRows;
  double largest;
  std::memcpy(&largest, a.largest, sizeof largest);
  const double whole = scale_of(largest);
  double longest = 0.0;
  bool is_regular = false, is_item = false;
  if (thread() < kTileRows) {
    is_item = first + thread() < a.items.rows;
    const double norm = is_item ? a.norms[first + thread()] : 0.0;
    is_regular = is_item && norm < kLargestNorm;
    if (is_regular) longest = norm;
    if (a.half_squares != nullptr) {
      const double unit = longest / whole;
      a.half_squares[first + thread()] = float_rn(unit * unit * 0.5);
    }
  }
  const uint32_t bits = ballot(is_regular);
  if (thread() < kTileRows) {
    if (lane() == 0) a.regular[tile * kWordsPerTile + warp()] = bits;
    if (is_item && !is_regular) {
      const uint32_t slot = atomic_add(a.irregular_count, 1);
      if (slot < kMostIrregular) a.irregular[slot] = static_cast<uint32_t>(first + thread());
    }
  }
  longest = block_largest(longest, shared);
  double scale = scale_of(longest);
  if (longest == 0.0 || scale < whole * kSmallestTileScale) scale = whole * kSmallestTileScale;
  double residual = 0.0;
  for (int r = warp(); r < kTileRows; r += kEncodeThreads / 32) {
    const int64_t row = first + r;
    const bool zero = row >= a.items.rows || !(a.norms[row] < kLargestNorm);
    const double weight = zero ? 0.0 : weight_of(a.metric, a.squares[row]);
    const double lost =
        encode_row(a.items, row, weight, a.centre, scale, a.depth, zero, a.halves + row * a.depth);
    residual = lost > residual ? lost : residual;
  }
  residual = block_largest(residual, shared);
  if (thread() != 0) return;
  a.bounds[tile] = {float_up(longest / whole), float_up(residual * kRoundedUp * (scale / whole)),
                    float_rn(whole / scale), float_rn(scale / whole)};
  if (tile == 0) *a.scale = whole;
}

struct EncodeQueriesArguments {
  Matrix<const float> queries;
  Metric metric;
  const double* centre;
  const double* squares;
  const double* norms;
  int64_t depth;
  uint16_t* halves;  // padded to whole panels
  QueryFacts* facts;
  uint32_t* flags;
  const uint64_t* best;  // sorted keys of items that were scored before, k per query; or null
  int64_t k;
  const double* gate_scales;  // 0 where the scan cannot serve the query; null where scores are not gated
};

// A warp encodes a query.
SALIENCE_KERNEL(kEncodeThreads, 2) encode_queries(EncodeQueriesArguments a) {
  const int64_t query = block() * (kEncodeThreads / 32) + warp();
  const bool padding = query >= a.queries.rows;
  const double norm = padding ? 0.0 : a.norms[query], squares = padding ? 0.0 : a.squares[query];
  const double gate_scale = a.gate_scales == nullptr || padding ? 1.0 : a.gate_scales[query];
  // A zero query scores 0 with every finite item, which no bound can part.
  const bool hopeless =
      !(norm < kLargestNorm) || (a.metric != Metric::euclidean && squares == 0.0) || gate_scale == 0.0;
  const double scale = hopeless ? 1.0 : scale_of(norm);
  const VectorsView rows{a.queries.data, ElementType::float32, a.queries.rows, a.queries.columns,
                         a.queries.row_stride};
  const double lost = encode_row(rows, query, weight_of(a.metric, squares), a.centre, scale, a.depth,
                                 hopeless || padding, a.halves + query * a.depth);
  if (padding || lane() != 0) return;
  const Encoded encoded{scale, norm, lost * kRoundedUp * scale};
  const double centre_norm = a.centre == nullptr ? 0.0 : a.centre[a.queries.columns];
  const ScreeningBound bound(a.metric, accumulation_error(a.depth), centre_norm);
  a.facts[query] = {bound.coefficients(encoded), scale,     norm, squares,
                    -ScreeningBound::kInfinity,  gate_scale};
  const uint64_t worst = a.best == nullptr ? 0 : a.best[query * a.k + a.k - 1];
  if (worst != 0 && !hopeless) a.facts[query].level = level_of_key(a.metric, worst, a.facts[query]);
  a.flags[query] = hopeless ? uint32_t{kExhaustive} : 0u;
}

struct CentreArguments {
  VectorsView items;
  int64_t sample;
  double* centre;
};

inline constexpr int64_t kCentreSample = 513;

// Per dimension the median of three means over a sample of the items: one huge row must not pull the centre
// away. By one block.
SALIENCE_KERNEL(kEncodeThreads, 2) find_centre(CentreArguments a) {
  auto& shared = shared_memory<EncodeShared>();
  const int64_t step = a.items.rows / a.sample;
  double squares = 0.0;
  for (int64_t j = thread(); j < a.items.columns; j += kEncodeThreads) {
    double sums[3] = {};
    for (int64_t n = 0; n + 3 <= a.sample; n += 3) {
      SALIENCE_UNROLL
      for (int i = 0; i < 3; ++i) {
        const double x = element(a.items, (n + i) * step, j);
        sums[i] += x < 1e30 && x > -1e30 ? x : 0.0;
      }
    }
    const double low = sums[0] < sums[1] ? sums[0] : sums[1], high = sums[0] < sums[1] ? sums[1] : sums[0];
    const double middle = sums[2] < low ? low : sums[2] > high ? high : sums[2];
    const double mean = middle / static_cast<double>(a.sample / 3);
    a.centre[j] = mean;
    squares += mean * mean;
  }
  squares = warp_sum(squares);
  if (lane() == 0) shared.found[warp()] = squares;
  block_barrier();
  if (thread() != 0) return;
  double sum = 0.0;
  for (int w = 0; w < kEncodeThreads / 32; ++w) sum += shared.found[w];
  a.centre[a.items.columns] = square_root_rn(sum) * kRoundedUp;
}

struct UsableArguments {
  const uint32_t* regular;
  const uint8_t* allowed;
  int64_t rows;
  int64_t words;
  uint32_t* usable;
};

// The items that are finite and allowed, a bit each.
SALIENCE_KERNEL(kEncodeThreads, 2) mark_usable(UsableArguments a) {
  const int64_t word = block() * kEncodeThreads + thread();
  if (word >= a.words) return;
  uint32_t bits = a.regular[word];
  for (int i = 0; i < 32; ++i) {
    const int64_t row = word * 32 + i;
    if (row < a.rows && a.allowed[row] == 0) bits &= ~(1u << i);
  }
  a.usable[word] = bits;
}

}  // namespace salience::cuda
