// What a group of queries leaves out, and what it adds to scores.
#pragma once

#include <algorithm>
#include <vector>

#include "core/operations.h"
#include "cuda/kernels/blend.cuh"
#include "cuda/runtime.h"

namespace salience::cuda {

// The exclusions of some queries, on the device, each row ascending. Items that have an addition are among
// them: they are scored apart, those of additions() that were not excluded to begin with.
class Exclusions {
 public:
  Exclusions(const Csr& exclude, const Csr& additions, int64_t first, int64_t count, Stream stream) {
    const Lists left_out(exclude, first, count), added(additions, first, count);
    if (left_out.empty() && added.empty()) return;
    std::vector<int64_t> pointers{0}, added_pointers{0};
    std::vector<int32_t> indices, items;
    std::vector<float> values;
    for (int64_t q = 0; q < count; ++q) {
      const auto begin = static_cast<std::ptrdiff_t>(indices.size());
      indices.insert(indices.end(), left_out.begin(q), left_out.end(q));
      if (!std::is_sorted(indices.begin() + begin, indices.end()))
        std::sort(indices.begin() + begin, indices.end());
      const auto middle = static_cast<std::ptrdiff_t>(indices.size());
      for (const int32_t* at = added.begin(q); at < added.end(q); ++at) {
        if (std::binary_search(indices.begin() + begin, indices.begin() + middle, *at)) continue;
        items.push_back(*at);
        values.push_back(additions.values[at - additions.indices]);
      }
      indices.insert(indices.end(), added.begin(q), added.end(q));
      std::inplace_merge(indices.begin() + begin, indices.begin() + middle, indices.end());
      longest_ = std::max(longest_, static_cast<int64_t>(indices.size()) - begin);
      pointers.push_back(static_cast<int64_t>(indices.size()));
      added_pointers.push_back(static_cast<int64_t>(items.size()));
    }
    pointers_ = sent(pointers, stream, "exclude");
    indices_ = sent(indices, stream, "exclude");
    if (!items.empty()) {
      added_pointers_ = sent(added_pointers, stream, "additions");
      added_items_ = sent(items, stream, "additions");
      added_values_ = sent(values, stream, "additions");
    }
    synchronize(stream);  // the vectors go
  }

  Filters filters(const uint8_t* allowed, int64_t first_item) const {
    return {allowed, pointers_.data(), indices_.data(), first_item};
  }
  int64_t longest() const { return longest_; }
  AdditionsView additions() const {
    return {added_pointers_.data(), added_items_.data(), added_values_.data()};
  }
  int64_t addition_count() const { return added_items_.count(); }

 private:
  // Rows of a pattern that may not be there.
  class Lists {
   public:
    Lists(const Csr& csr, int64_t first, int64_t count)
        : indptr_(csr.indptr == nullptr ? nullptr : csr.indptr + first),
          indices_(csr.indices),
          count_(count) {}
    bool empty() const { return indptr_ == nullptr || indptr_[count_] == indptr_[0]; }
    const int32_t* begin(int64_t q) const { return indptr_ == nullptr ? nullptr : indices_ + indptr_[q]; }
    const int32_t* end(int64_t q) const { return indptr_ == nullptr ? nullptr : indices_ + indptr_[q + 1]; }

   private:
    const int64_t* indptr_;
    const int32_t* indices_;
    int64_t count_;
  };

  template <class T>
  static Array<T> sent(const std::vector<T>& values, Stream stream, const char* what) {
    return to_device(values.data(), static_cast<int64_t>(values.size()), stream, what);
  }

  Array<int64_t> pointers_, added_pointers_;
  Array<int32_t> indices_, added_items_;
  Array<float> added_values_;
  int64_t longest_ = 0;
};

}  // namespace salience::cuda
