// The seam between drivers (compiled once) and kernel bodies (compiled once per instruction set).
//
// Everything crosses it as plain pointers and numbers: an inline function or template shared between
// objects built with different flags would be merged by the linker, and the merged copy might use
// instructions that this machine lacks. csrc/cmake/check_symbols.cmake enforces it.
#pragma once

#include <cstdint>

#include "core/operations.h"

namespace salience::cpu {

// How the scan holds vectors in 16 bits. Both are multiplied as pairs of neighbouring dimensions.
enum class Encoding {
  fixed_point,  // integers of at most 32767 in magnitude, summed exactly in 32 bits
  bfloat16,     // summed in fp32, subnormals read as zero
};

// Items are screened in blocks of this many rows: whole tiles of every kernel. Storage of a block is
// padded with zeros to full size.
inline constexpr int64_t kBlockRows = 192;

// A row of 16-bit numbers is padded to a multiple of this: a cache line, a step of a matrix tile.
inline constexpr int64_t kDepthPadding = 32;

// The most queries for which each item is read once, as a matrix-vector product.
inline constexpr int64_t kFewQueries = 4;

// Rows in 16 bits: element j of row r becomes (weights[r] * x_rj - centre[j]) * scale, rounded.
struct EncodeArguments {
  const float* const* rows;
  const double* weights;  // one per row; where NaN, the row is stored as zeros
  const double* centre;   // `dimensions` rounded up to 8, zero padded
  int64_t count;
  int64_t dimensions;
  int64_t depth;    // elements stored per row: `dimensions` rounded up to kDepthPadding
  double scale;     // encode: no scaled element exceeds 32767 (fixed point), no row a norm of 1 (bfloat16)
  uint16_t* out;    // encode: count x depth
  double* squares;  // encode: squared norm of what rounding lost, in scaled units;
                    // centred_squares: squared norm of weights[r] * x_r - centre;
                    // largest_squares: its largest element, squared
};

// The same in 8 bits, with a scale for each row.
struct EncodeBytesArguments {
  EncodeArguments rows;  // scale and out are not used; squares in each row's scaled units
  const double* scales;  // no scaled element rounds to more than 127
  int8_t* out;           // count x depth
};

// A block of items against a panel of queries.
struct ScreenArguments {
  const void* items;  // kBlockRows x depth: of 16 bits, or for screen_bytes of 8
  int64_t rows;       // how many of them count; kernels may report padding rows
  int64_t depth;
  const uint16_t* panel;    // screen: depth / 2 x lanes (or 2 lanes) x pairs; others: queries x depth
  int64_t queries;          // screen: at most 2 lanes; others: at most kFewQueries
  const float* thresholds;  // one per lane: padding lanes too
  const float* terms;       // null, or one per row: terms[row] * factors[lane] is subtracted
  const float* factors;     // one per lane
  const void* next;         // null, or the block that will be wanted next
  // For screen alone: null, or where the largest value of each tile (tile_rows rows that lie together) and
  // lane goes, and nothing is screened; and then null, or where all values of the tiles with such a maximum
  // are kept, as many as rows x lanes. For sift: what screen left there.
  float* maxima;
  float* kept;
  // What passes, with room for (kBlockRows + 1) x lanes of the panel: lane << 16 | row, and its value.
  uint32_t* positions;
  float* values;
  // For screen_bytes alone, whose value is (sum + slack[lane]) * scales[row].
  const float* scales;
  const float* slack;
};

// Rows that are wanted next, to be pulled towards the cache meanwhile.
struct Ahead {
  const char* const* rows = nullptr;
  int64_t count = 0;
  int64_t element_bytes = 0;
};

// Canonical scores of a few queries against a list of items.
struct CanonicalArguments {
  Metric metric;
  const double* queries;  // count x dimensions rounded up to 8, zero padded
  int64_t query_stride;
  int64_t query_count;
  const double* query_norms;  // squared, canonical (cosine only)
  const float* const* items;  // one pointer per item
  const double* item_norms;   // squared, canonical (cosine only)
  int64_t item_count;
  int64_t dimensions;
  float* out;  // out[q * out_stride + i]
  int64_t out_stride;
  Ahead ahead = {};
};

inline constexpr float kNoProduct = -2.0f;  // below every unit product

// Per-thread memory of the ALS row solvers. What a solver does not need may be null.
struct AlsScratch {
  float* vectors;         // kAlsVectors rows of `row_stride`
  const float* zeros;     // a row of zeros
  double* matrix;         // order x order
  double* gathered;       // gathered_rows x max(row_stride, block rounded up to 16)
  double* doubles;        // kAlsDoubles rows of max(order, row_stride)
  double* products;       // one for each observation of the longest row
  int64_t order;          // a multiple of 16
  int64_t gathered_rows;  // at most `order`
};

inline constexpr int64_t kAlsVectors = 6;
inline constexpr int64_t kAlsDoubles = 4;
inline constexpr int64_t kAlsChunk = 64;      // rows of a rank-k update of a system
inline constexpr int64_t kLongRow = 1 << 16;  // observations from which a row is summed in segments
inline constexpr int64_t kLongSegment = 1 << 13;

using salience::RowOutcome;

struct AlsRowsOutcome {
  double worst_residual = 0.0;
  double sum_residual = 0.0;
  int64_t iterated_rows = 0;
  int64_t steps = 0;
  double data_loss = 0.0;
  double ridge_loss = 0.0;
};

// The passes over a long row, which the driver cuts into segments and deals to threads.
struct AlsPasses {
  void* self;
  // Adds over the row: w y y to `square`, w t y to `right`, w (t - x.y) y to `residual`.
  void (*prepare)(void* self, const float* x, float* square, float* right, float* residual);
  // Adds w (y . direction) y, and returns the sum of w (y . direction)^2.
  float (*apply)(void* self, const float* direction, float* image);
  double (*loss)(void* self, const float* x);  // sum of w (t - x.y)^2
};

struct KernelTable {
  int64_t lanes;  // floats in a vector: what a panel of queries is packed for
  Encoding encoding;
  int64_t tile_rows;     // items that `screen` compares at once
  int64_t byte_columns;  // for each query, from which on reading 8 bits repays what widening them costs

  void (*encode)(const EncodeArguments& arguments);
  void (*encode_fixed)(const EncodeArguments& arguments);  // in fixed point, whatever `encoding` is
  void (*encode_bytes)(const EncodeBytesArguments& arguments);
  void (*centred_squares)(const EncodeArguments& arguments);
  void (*largest_squares)(const EncodeArguments& arguments);
  void (*widen_half)(const uint16_t* row, int64_t count, float* out);
  void (*widen_bfloat)(const uint16_t* row, int64_t count, float* out);

  // Writes the pairs whose screened value is not below the threshold, in no order, and returns how
  // many. A thread calls them between enter_scan and leave_scan.
  void (*enter_scan)();
  void (*leave_scan)();
  int64_t (*screen)(const ScreenArguments& arguments);
  int64_t (*sift)(const ScreenArguments& arguments);  // values that were kept, once
  int64_t (*screen_few)(const ScreenArguments& arguments);
  int64_t (*screen_bytes)(const ScreenArguments& arguments);  // queries in fixed point

  // For benchmarks: the arithmetic of the scan alone (returns the multiply-adds), memory alone.
  int64_t (*bare_products)(const uint16_t* data, int64_t steps);
  void (*bare_read)(const uint16_t* data, int64_t count);

  void (*canonical)(const CanonicalArguments& arguments);

  // out[i] = squared norm of row i, canonical order.
  void (*squared_norms)(const float* rows, int64_t row_stride, int64_t count, int64_t dimensions,
                        double* out);

  // out[i] = rows[i] times float32(1 / |row|), `padded` elements (a multiple of 16), zeros beyond
  // `dimensions`. Returns the first row that is not finite, or -1.
  int64_t (*unit_rows)(const float* const* rows, int64_t count, int64_t dimensions, float* out,
                       int64_t padded);

  // out[a * out_stride + b] = unit product of left[a] and right[b]; `padded` as above.
  void (*unit_products)(const float* const* left, int64_t left_count, const float* const* right,
                        int64_t right_count, int64_t padded, float* out, int64_t out_stride);

  // Attention of `count` candidates: products[j * stride + i], kNoProduct where j is not looked at; sums and
  // weights: room for `count` each.
  void (*attend)(const float* products, int64_t history, int64_t count, int64_t stride,
                 const double* log_weights, double temperature, double smoothing, double* sums,
                 double* weights, float* out);

  // Writes the positions in values[0 .. count) that are not below the threshold, NaN included.
  int64_t (*select_float)(const float* values, int64_t count, float threshold, uint32_t* out);
  int64_t (*select_double)(const double* values, int64_t count, double threshold, uint32_t* out);

  // out = the keys, no two of them equal, from the largest to the smallest. Only for up to most_sorted of
  // them.
  void (*sort_keys)(const uint64_t* keys, int64_t count, uint64_t* out);
  int64_t most_sorted;

  // below[b] = how many of values[0 .. count) are smaller than bounds[b]; NaN is not.
  void (*count_below_float)(const float* values, int64_t count, const float* bounds, int64_t bound_count,
                            int64_t* below);
  void (*count_below_double)(const double* values, int64_t count, const double* bounds, int64_t bound_count,
                             int64_t* below);

  // sums += upper blocks of rows^T rows, float32 products, over `count` <= 128 rows. rows and sums
  // are padded: row_stride and sum_stride leave room for gramian_padding more columns.
  void (*gramian)(const float* rows, int64_t row_stride, int64_t count, int64_t factors, double* sums,
                  int64_t sum_stride);
  int64_t gramian_padding;

  // out = rows * rotation; rotation is padded to `width` columns, a multiple of 2 * lanes, and so is out.
  void (*rotate)(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
                 int64_t width, float* out, int64_t out_stride);
  // The same on matrix tiles, where there are any; `memory` has turning_memory(count, factors) numbers.
  void (*turn)(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
               int64_t width, float* out, int64_t out_stride, uint16_t* memory);
  int64_t (*turning_memory)(int64_t count, int64_t factors);

  // Rows begin .. end of a half-step; outcomes holds one for every row of the half-step.
  void (*als_solve)(const HalfStepArguments& arguments, int64_t begin, int64_t end, const AlsScratch& scratch,
                    AlsRowsOutcome& outcome, RowOutcome* outcomes);
  // One row by conjugate gradients whose passes the driver makes, from the segments below.
  void (*als_solve_long)(const HalfStepArguments& arguments, int64_t row, const AlsPasses& passes,
                         const AlsScratch& scratch, AlsRowsOutcome& outcome, RowOutcome* outcomes);
  // As the passes of AlsPasses, over entries begin .. end of the observations.
  void (*als_prepare)(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                      const float* x, float* square, float* right, float* residual);
  float (*als_apply)(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                     const float* direction, float* image);
  double (*als_loss)(const AlsObservations& data, int64_t begin, int64_t end, const float* zeros,
                     const float* x);
};

}  // namespace salience::cpu
