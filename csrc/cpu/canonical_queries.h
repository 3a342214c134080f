// A block of queries in the form the canonical kernel reads: float64, padded to eight.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/instruction_sets.h"

namespace salience::cpu {

struct CanonicalQueries {
  int64_t stride = 0;
  std::vector<double> values;
  std::vector<double> norms;  // squared

  void assign(const Matrix<const float>& queries, int64_t first, int64_t count) {
    stride = (queries.columns + 7) / 8 * 8;
    values.assign(static_cast<size_t>(stride * count), 0.0);
    norms.resize(static_cast<size_t>(count));
    for (int64_t q = 0; q < count; ++q)
      std::copy_n(queries.row(first + q), queries.columns, values.data() + q * stride);
    kernels().squared_norms(queries.row(first), queries.row_stride, count, queries.columns, norms.data());
  }
};

}  // namespace salience::cpu
