// Vectors as the GPU's scan reads them: halves with a scale of their own, and what the bound needs to know.
//
// Encoding. An item z is stored as t z^, with t a power of two chosen for its tile of kTileRows so that the
// longest |z| / t lies in [128, 256); a query likewise with its own scale s. Halves below 2^-14 are stored as
// zero, so no kernel meets subnormals. T is the scale of the tile with the longest item. Whatever the scan
// compares is in units of s T, in float32: levels rounded down, errors rounded up.
//
// Accumulation (of core/screening_bound.h). A matrix instruction adds 16 products to a sum, or 8 and 8, with
// their significands cut off below 2^-23 of the largest term in the worst design; every term and sum is at
// most |v^||z^|. Twice nine terms and two roundings: 20 2^-23 |v^||z^| for each 16 dimensions, which also
// covers fused multiply-adds in float32. The sum of all steps is g = G / (1 - G), G = 1.25 depth 2^-23.
#pragma once

#include <cstdint>

#include "core/screening_bound.h"

namespace salience::cuda {

inline constexpr int kTileRows = 128;
inline constexpr int kDepthStep = 32;                    // rows of halves are padded to a multiple of this
inline constexpr int kWordsPerTile = kTileRows / 32;     // one bit per item
inline constexpr double kLargestNorm = 1e150;            // the square is finite in float64
inline constexpr double kRoundedUp = 1.0 + 0x1.0p-40;    // over the rounding of sums in float64
inline constexpr double kLargestFactor = 0x1.0p60;       // T / s: euclidean queries beyond are scored exactly
inline constexpr double kSmallestTileScale = 0x1.0p-60;  // t / T
inline constexpr uint32_t kMostIrregular = 1024;  // items that are not finite; beyond, nothing is screened

inline int64_t depth_of(int64_t columns) { return (columns + kDepthStep - 1) / kDepthStep * kDepthStep; }
inline int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

SALIENCE_HOST_DEVICE inline double accumulation_error(int64_t depth) {
  const double each = 1.25 * static_cast<double>(depth) * 0x1.0p-23;
  return each < 0.5 ? each / (1.0 - each) : 1e30;
}

// The caller's vectors, on the device.
struct VectorsView {
  const void* data = nullptr;
  ElementType type = ElementType::float32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;
};

// Of a tile, in units of T; `ratio` is T / t.
struct TileBound {
  float norm;
  float residual;
  float ratio;
  float inverse_ratio;
};

struct PackedView {
  const uint16_t* halves = nullptr;     // tiles x kTileRows x depth
  const TileBound* bounds = nullptr;    // one per tile
  const uint32_t* regular = nullptr;    // kWordsPerTile words per tile: finite items
  const float* squares = nullptr;       // euclidean: |z|^2 / (2 T^2), one per row of every tile
  const double* scale = nullptr;        // T
  const uint32_t* irregular = nullptr;  // the other items, at most kMostIrregular of them
  const uint32_t* irregular_count = nullptr;
  const double* norms = nullptr;   // canonical squared norms of the caller's rows
  const double* centre = nullptr;  // euclidean: `columns`, and its norm; null: zero
  int64_t rows = 0;
  int64_t depth = 0;
};

// What a query knows of itself, in units of S and |z|.
struct QueryFacts {
  ErrorCoefficients error;
  double scale = 1.0;
  double norm = 0.0;
  double squares = 0.0;     // canonical squared norm of the caller's row
  double level = 0.0;       // that k items reach; infinite where nothing is screened
  double gate_scale = 1.0;  // 2^e where scores are gated: then the level is one of quotients
};

// The same in units of s T (levels of quotients: s T / 2^e), for the scan. `factor` is T / s where euclidean,
// else 0.
struct QueryBound {
  float level;
  float constant;
  float norm;
  float residual;
  float factor;
};

// States of a query.
enum : uint32_t {
  kExhaustive = 1,  // the scan cannot help: every item is scored
  kOverflowed = 2,  // more survivors than its buffer holds: to be scanned again
};

}  // namespace salience::cuda
