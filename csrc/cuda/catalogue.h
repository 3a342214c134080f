// Items on the device, as they came and packed for the scan.
#pragma once

#include "cuda/packed.h"
#include "cuda/runtime.h"

namespace salience::cuda {

// A packed copy; `view` points into the arrays.
class Packed {
 public:
  // In the order of `stream`.
  static Packed make(const VectorsView& items, Metric metric, Stream stream);
  // Bytes that make() takes for each item.
  static int64_t row_bytes(int64_t columns, Metric metric);

  const PackedView& view() const { return view_; }
  int64_t bytes() const;
  void outlive_stream();

 private:
  Array<uint16_t> halves_;
  Array<TileBound> bounds_;
  Array<uint32_t> regular_, irregular_, irregular_count_;
  Array<float> squares_;
  Array<double> scale_, norms_, centre_;
  PackedView view_;
};

// Queries as the scan of `items` reads them, padded to whole panels of kTileRows.
struct EncodedQueries {
  Array<uint16_t> halves;
  Array<QueryFacts> facts;
  Array<uint32_t> flags;
  int64_t padded = 0;
};
// `best`: sorted keys of items that were scored before, k per query, whence the first levels; or null.
// `gate_scales`: as in EncodeQueriesArguments.
EncodedQueries encode(const Matrix<const float>& queries, Metric metric, const PackedView& items,
                      const uint64_t* best, int64_t k, const double* gate_scales, Stream stream);

// The bits of items.regular less what is not allowed.
Array<uint32_t> usable_bits(const PackedView& items, const uint8_t* allowed, Stream stream);

// Canonical squared norms of rows.
Array<double> squared_norms(const VectorsView& rows, Stream stream);

// Copies rows, from the host or the device, side by side to `to` on the device.
void upload(const Elements& rows, void* to, Stream stream);

}  // namespace salience::cuda
