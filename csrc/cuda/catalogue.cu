#include <algorithm>

#include "cuda/catalogue.h"
#include "cuda/kernels/encode.cuh"

namespace salience::cuda {
namespace {

constexpr int64_t kMeasured = kEncodeThreads / 8;  // rows of a block

}  // namespace

int64_t Packed::row_bytes(int64_t columns, Metric metric) {
  // Halves, the squared norm and, while packing, the norm; then what a tile holds.
  return 2 * depth_of(columns) + 2 * 8 + (metric == Metric::euclidean ? 4 : 0) + 1;
}

int64_t Packed::bytes() const {
  return halves_.bytes() + bounds_.bytes() + regular_.bytes() + irregular_.bytes() + squares_.bytes() +
         norms_.bytes() + centre_.bytes();
}

void Packed::outlive_stream() {
  halves_.outlive_stream();
  bounds_.outlive_stream();
  for (Array<uint32_t>* array : {&regular_, &irregular_, &irregular_count_}) array->outlive_stream();
  squares_.outlive_stream();
  for (Array<double>* array : {&scale_, &norms_, &centre_}) array->outlive_stream();
}

Packed Packed::make(const VectorsView& items, Metric metric, Stream stream) {
  Packed packed;
  const int64_t tiles = tiles_of(items.rows), depth = depth_of(items.columns), padded = tiles * kTileRows;
  const bool euclidean = metric == Metric::euclidean;
  packed.halves_ = {padded * depth, stream, "the packed items"};
  packed.bounds_ = {tiles, stream, "the packed items"};
  packed.regular_ = {tiles * kWordsPerTile, stream, "the packed items"};
  packed.irregular_ = {kMostIrregular, stream, "the packed items"};
  packed.irregular_count_ = {1, stream, "the packed items"};
  packed.scale_ = {1, stream, "the packed items"};
  packed.norms_ = {items.rows, stream, "the norms of the items"};
  if (euclidean) packed.squares_ = {padded, stream, "the packed items"};
  const double* centre = nullptr;
  if (euclidean && items.rows >= 48) {
    packed.centre_ = {items.columns + 1, stream, "the centre of the items"};
    const int64_t sample = std::min(kCentreSample, items.rows / 16 / 3 * 3 + 3);
    SALIENCE_LAUNCH(find_centre, (LaunchShape{1, kEncodeThreads, sizeof(EncodeShared)}), stream,
                    (CentreArguments{items, sample, packed.centre_.data()}));
    centre = packed.centre_.data();
  }
  Array<double> norms(items.rows, stream, "the norms of the items");
  Array<uint64_t> largest(1, stream, "the packed items");
  largest.fill_bytes(0);
  packed.irregular_count_.fill_bytes(0);
  SALIENCE_LAUNCH(
      measure_rows, (LaunchShape{(items.rows + kMeasured - 1) / kMeasured, kEncodeThreads, 0}), stream,
      (MeasureArguments{items, metric, centre, packed.norms_.data(), norms.data(), largest.data()}));
  SALIENCE_LAUNCH(encode_items, (LaunchShape{tiles, kEncodeThreads, sizeof(EncodeShared)}), stream,
                  (EncodeItemsArguments{items, metric, centre, packed.norms_.data(), norms.data(),
                                        largest.data(), depth, packed.halves_.data(), packed.bounds_.data(),
                                        packed.regular_.data(), packed.squares_.data(), packed.scale_.data(),
                                        packed.irregular_.data(), packed.irregular_count_.data()}));
  packed.view_ = {packed.halves_.data(),
                  packed.bounds_.data(),
                  packed.regular_.data(),
                  packed.squares_.data(),
                  packed.scale_.data(),
                  packed.irregular_.data(),
                  packed.irregular_count_.data(),
                  packed.norms_.data(),
                  centre,
                  items.rows,
                  depth};
  return packed;
}

EncodedQueries encode(const Matrix<const float>& queries, Metric metric, const PackedView& items,
                      const uint64_t* best, int64_t k, const double* gate_scales, Stream stream) {
  EncodedQueries encoded;
  const int64_t count = queries.rows;
  encoded.padded = tiles_of(count) * kTileRows;
  encoded.halves = {encoded.padded * items.depth, stream, "the queries"};
  encoded.facts = {count, stream, "the queries"};
  encoded.flags = {count, stream, "the queries"};
  const Array<double> squares(count, stream, "the queries"), norms(count, stream, "the queries");
  Array<uint64_t> largest(1, stream, "the queries");
  largest.fill_bytes(0);
  const VectorsView rows{queries.data, ElementType::float32, count, queries.columns, queries.row_stride};
  SALIENCE_LAUNCH(
      measure_rows, (LaunchShape{(count + kMeasured - 1) / kMeasured, kEncodeThreads, 0}), stream,
      (MeasureArguments{rows, metric, items.centre, squares.data(), norms.data(), largest.data()}));
  SALIENCE_LAUNCH(encode_queries, (LaunchShape{encoded.padded / (kEncodeThreads / 32), kEncodeThreads, 0}),
                  stream,
                  (EncodeQueriesArguments{queries, metric, items.centre, squares.data(), norms.data(),
                                          items.depth, encoded.halves.data(), encoded.facts.data(),
                                          encoded.flags.data(), best, k, gate_scales}));
  return encoded;
}

Array<uint32_t> usable_bits(const PackedView& items, const uint8_t* allowed, Stream stream) {
  const int64_t words = tiles_of(items.rows) * kWordsPerTile;
  Array<uint32_t> usable(words, stream, "the filters");
  SALIENCE_LAUNCH(mark_usable,
                  (LaunchShape{(words + kEncodeThreads - 1) / kEncodeThreads, kEncodeThreads, 0}), stream,
                  (UsableArguments{items.regular, allowed, items.rows, words, usable.data()}));
  return usable;
}

Array<double> squared_norms(const VectorsView& rows, Stream stream) {
  Array<double> squares(rows.rows, stream, "the norms");
  SALIENCE_LAUNCH(measure_rows, (LaunchShape{(rows.rows + kMeasured - 1) / kMeasured, kEncodeThreads, 0}),
                  stream, (MeasureArguments{rows, Metric::dot, nullptr, squares.data(), nullptr, nullptr}));
  return squares;
}

void upload(const Elements& rows, void* to, Stream stream) {
  const int64_t size = element_bytes(rows.type), bytes = rows.columns * size;
  if (rows.rows == 0 || bytes == 0) return;
  const auto* const from = static_cast<const unsigned char*>(rows.data);
  if (rows.row_stride == rows.columns || rows.rows == 1) return copy(to, from, rows.rows * bytes, stream);
  auto* const there = static_cast<unsigned char*>(to);
  const int64_t pitch = rows.row_stride * size;
  if (pitch >= bytes) return copy_rows(there, bytes, from, pitch, bytes, rows.rows, stream);
  for (int64_t r = 0; r < rows.rows; ++r)  // which overlap
    copy(there + r * bytes, from + r * pitch, bytes, stream);
}

}  // namespace salience::cuda
