// Work that is cut into fixed pieces, so that sums have one order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace salience::cuda {

// Entries begin .. begin + count of a sparse row: of row `row`, or of the `row`-th of a list.
struct Segment {
  int64_t begin;
  int32_t count;
  int32_t row;
};

inline int64_t blocks_of(int64_t count, int64_t per_block) { return (count + per_block - 1) / per_block; }

// Appends the segments of a row.
template <class Segments>
void cut_row(int64_t begin, int64_t count, int64_t longest, int64_t row, Segments& to) {
  for (int64_t start = 0; start < count; start += longest)
    to.push_back(
        {begin + start, static_cast<int32_t>(std::min(longest, count - start)), static_cast<int32_t>(row)});
}

}  // namespace salience::cuda
