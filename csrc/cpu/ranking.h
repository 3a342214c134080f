// The reservoir that holds the best of a stream. For drivers only: kernels must not
// include it (see kernel_table.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/rank.h"

namespace salience::cpu {

using salience::Rank;

// Moves the k largest of `count` keys to the front, the k-th of them to its end: std::nth_element for
// integers, without branches that depend on them (which cost more than all else on random keys).
template <class Key>
void partition_largest(Key* keys, size_t count, size_t k) {
  for (int round = 0; count > 8 && round < 48; ++round) {
    Key a = keys[count / 4], b = keys[count / 2], c = keys[count - count / 4];
    if (a < b) std::swap(a, b);
    if (b < c) std::swap(b, c);
    const Key pivot = std::max(std::min(a, b), c);
    size_t larger = 0;
    for (size_t n = 0; n < count; ++n) {
      const Key key = keys[n];
      keys[n] = keys[larger];
      keys[larger] = key;
      larger += key > pivot;
    }
    if (larger >= k) {
      count = larger;
    } else if (larger > 0) {
      keys += larger;
      count -= larger;
      k -= larger;
    } else {
      break;  // the pivot is the largest: keys repeat, or luck is out
    }
  }
  std::nth_element(keys, keys + (k - 1), keys + count, std::greater<Key>());
}

// The k largest keys of everything offered, kept in a buffer about twice that size: `bound` is a key
// that at least k offered keys reach, so whatever is below it is out.
template <class Key>
class Reservoir {
 public:
  explicit Reservoir(int64_t k) : k_(static_cast<size_t>(k)), capacity_(k_ + std::max<size_t>(64, k_)) {}

  size_t k() const { return k_; }
  bool full() const { return bounded_; }
  Key bound() const { return bound_; }
  size_t fresh() const { return keys_.size() - settled_; }

  void offer(Key key) {
    if (bounded_ && key <= bound_) return;
    if (keys_.capacity() == 0) keys_.reserve(capacity_);
    keys_.push_back(key);
    if (keys_.size() >= capacity_) compact();
  }

  // Drops all but the k best and raises the bound; nothing to do while fewer than k are held.
  void compact() {
    if (keys_.size() < k_) return;
    partition_largest(keys_.data(), keys_.size(), k_);
    keys_.resize(k_);
    bound_ = keys_.back();
    bounded_ = true;
    settled_ = k_;
  }

  const std::vector<Key>& keys() const { return keys_; }

 private:
  size_t k_;
  size_t capacity_;
  size_t settled_ = 0;
  std::vector<Key> keys_;
  Key bound_ = 0;
  bool bounded_ = false;
};

// Leaves the k best of `keys`, in no order.
template <class Key>
void keep_best(std::vector<Key>& keys, int64_t k) {
  const auto wanted = static_cast<size_t>(k);
  if (keys.size() <= wanted) return;
  partition_largest(keys.data(), keys.size(), wanted);
  keys.resize(wanted);
}

}  // namespace salience::cpu
