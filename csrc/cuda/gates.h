// Gates and labels of Blend (core/operations.h) on the device, and which of them the scan can use.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/operations.h"
#include "cuda/catalogue.h"
#include "cuda/kernels/blend.cuh"
#include "cuda/runtime.h"

namespace salience::cuda {

// Beyond these every item is scored: within them no product of gates or quotient leaves float32, nor is
// anything lost below it that matters (kernels/blend.cuh).
inline constexpr double kLargestItemGate = 0x1.0p40;
inline constexpr double kLargestDenominator = 0x1.0p120, kSmallestDenominator = 0x1.0p-120;
inline constexpr double kLeastShare = 0x1.0p-60;  // of the largest denominator that the least may be
inline constexpr int64_t kMostGates = 1024;

inline Elements elements_of(const Matrix<const float>& rows) {
  return {rows.data, ElementType::float32, rows.rows, rows.columns, rows.row_stride};
}

// Of all items of a call.
class ItemBlend {
 public:
  ItemBlend(const Blend& blend, int64_t items, Stream stream)
      : columns_(blend.item_gates.columns),
        smallest_(static_cast<size_t>(columns_), std::numeric_limits<double>::infinity()),
        largest_(static_cast<size_t>(columns_), 0.0) {
    if (blend.labels != nullptr) {
      const std::vector<uint32_t> labels(blend.labels, blend.labels + items);
      labels_ = to_device(labels.data(), items, stream, "labels");
      synchronize(stream);  // the vector goes
    }
    if (columns_ == 0) return;
    const Matrix<const float>& gates = blend.item_gates;
    for (int64_t i = 0; i < items; ++i) {
      for (int64_t g = 0; g < columns_; ++g) {
        const auto n = static_cast<size_t>(g);
        smallest_[n] = std::min(smallest_[n], static_cast<double>(gates.row(i)[g]));
        largest_[n] = std::max(largest_[n], static_cast<double>(gates.row(i)[g]));
      }
    }
    gates_ = {items * columns_, stream, "item_gates"};
    upload(elements_of(gates), gates_.data(), stream);
  }

  bool gated() const { return columns_ > 0; }
  bool scannable() const {
    return columns_ <= kMostGates &&
           std::all_of(largest_.begin(), largest_.end(), [](double g) { return g <= kLargestItemGate; });
  }
  Matrix<const float> gates(int64_t first, int64_t rows) const {
    return {gates_.data() + first * columns_, rows, columns_, columns_};
  }
  const uint32_t* labels(int64_t first) const {
    return labels_.data() == nullptr ? nullptr : labels_.data() + first;
  }
  const std::vector<double>& smallest() const { return smallest_; }
  const std::vector<double>& largest() const { return largest_; }

 private:
  int64_t columns_;
  std::vector<double> smallest_, largest_;
  Array<float> gates_;
  Array<uint32_t> labels_;
};

// Of a group of queries.
class QueryGates {
 public:
  QueryGates(const Blend& blend, const ItemBlend& items, int64_t first, int64_t count, Stream stream)
      : columns_(blend.query_gates.columns), count_(count) {
    if (columns_ == 0) return;
    const Matrix<const float> mine{blend.query_gates.row(first), count, columns_,
                                   blend.query_gates.row_stride};
    gates_ = {count * columns_, stream, "query_gates"};
    upload(elements_of(mine), gates_.data(), stream);
    const auto padded = static_cast<size_t>(tiles_of(count) * kTileRows * columns_);
    std::vector<float> scaled(padded, 0.0f);
    std::vector<double> scales(static_cast<size_t>(count), 0.0);
    for (int64_t q = 0; q < count; ++q) {
      const double scale = scale_of_gates(mine.row(q), items);
      scales[static_cast<size_t>(q)] = scale;
      for (int64_t g = 0; scale > 0.0 && g < columns_; ++g)
        scaled[static_cast<size_t>(q * columns_ + g)] = static_cast<float>(mine.row(q)[g] / scale);
    }
    scaled_ = to_device(scaled.data(), static_cast<int64_t>(padded), stream, "query_gates");
    scales_ = to_device(scales.data(), count, stream, "query_gates");
    synchronize(stream);  // the vectors go
  }

  Matrix<const float> gates() const { return {gates_.data(), count_, columns_, columns_}; }
  const float* scaled() const { return scaled_.data(); }
  // 2^e of every query, 0 where the scan cannot serve it; null where there are no gates.
  const double* scales() const { return scales_.data(); }

 private:
  static double scale_of_gates(const float* gates, const ItemBlend& items) {
    double low = 0.0, high = 0.0;
    for (size_t g = 0; g < items.largest().size(); ++g) {
      low += gates[g] * items.smallest()[g];
      high += gates[g] * items.largest()[g];
    }
    if (!(high <= kLargestDenominator && low >= kSmallestDenominator && low >= high * kLeastShare))
      return 0.0;
    int exponent;
    std::frexp(high, &exponent);
    return std::ldexp(1.0, exponent);
  }

  int64_t columns_;
  int64_t count_;
  Array<float> gates_, scaled_;
  Array<double> scales_;
};

}  // namespace salience::cuda
