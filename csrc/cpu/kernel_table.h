// The seam between drivers (compiled once) and kernel bodies (compiled once per instruction set).
//
// Everything crosses it as plain pointers and numbers: an inline function or template shared between
// objects built with different flags would be merged by the linker, and the merged copy might use
// instructions that this machine lacks. csrc/cmake/check_symbols.cmake enforces it.
#pragma once

#include <cstdint>

#include "core/operations.h"

namespace salience::cpu {

// How a screened value is made from the fp32 inner product `acc` of a query and item r.
enum class Screen {
  product,  // acc
  scaled,   // acc * item_terms[r]
  shifted,  // acc - item_terms[r]
};

// A block of items against one panel of queries.
struct ScreenArguments {
  const float* items;  // rows x dimensions
  int64_t row_stride;
  int64_t rows;  // at most kBlockRows
  int64_t dimensions;
  const float* panel;  // dimensions x (vectors * lanes), queries in lanes
  int64_t vectors;     // 1 or 2
  Screen screen;
  const float* item_terms;  // one per item (unused for product)
  const float* thresholds;  // one per lane
  uint32_t* survivors;      // room for rows * vectors * lanes; lane << 16 | row
};

inline constexpr int64_t kBlockRows = 240;

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
};

// Per-thread memory of the ALS row solver; the driver allocates it, see als_scratch_floats.
struct AlsScratch {
  float* vectors;         // kAlsVectors rows of `row_stride`
  float* gathered;        // gathered_rows rows of `row_stride`
  float* coefficients;    // 2 * gathered_rows: weights, then targets
  int64_t gathered_rows;  // a multiple of 4
};

inline constexpr int64_t kAlsVectors = 5;

struct AlsRowsOutcome {
  double worst_residual;
  double sum_residual;
  int64_t solved_rows;
  int64_t steps;
  int64_t first_bad_row;  // -1 where every row is finite and no worse than its start
};

struct KernelTable {
  int64_t lanes;  // floats in a vector: what a panel of queries is packed for

  // Writes survivors (those whose screened value is not below the threshold, NaN included, in
  // ascending order of row) and returns how many.
  int64_t (*screen)(const ScreenArguments& arguments);

  void (*canonical)(const CanonicalArguments& arguments);

  // out[i] = squared norm of row i, canonical order.
  void (*squared_norms)(const float* rows, int64_t row_stride, int64_t count, int64_t dimensions,
                        double* out);

  // Writes the positions in values[0 .. count) that are not below the threshold, NaN included.
  int64_t (*select_float)(const float* values, int64_t count, float threshold, uint32_t* out);
  int64_t (*select_double)(const double* values, int64_t count, double threshold, uint32_t* out);

  // sums += upper blocks of rows^T rows, float32 products, over `count` <= 128 rows. rows and sums
  // are padded: row_stride and sum_stride leave room for gramian_padding more columns.
  void (*gramian)(const float* rows, int64_t row_stride, int64_t count, int64_t factors, double* sums,
                  int64_t sum_stride);
  int64_t gramian_padding;

  // out = rows * rotation; rotation is padded to out_stride columns, a multiple of 2 * lanes.
  void (*rotate)(const float* rows, int64_t row_stride, int64_t count, int64_t factors, const float* rotation,
                 float* out, int64_t out_stride);

  // Solves rows begin .. end of a half-step.
  void (*als_solve)(const HalfStepArguments& arguments, int64_t begin, int64_t end, const AlsScratch& scratch,
                    AlsRowsOutcome& outcome);
  void (*als_loss)(const RowLossArguments& arguments, int64_t begin, int64_t end, const AlsScratch& scratch);
};

}  // namespace salience::cpu
