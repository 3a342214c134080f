// The k largest of a row of keys, by one block, whatever k: a radix selection that stops as soon as a digit
// decides, then a bitonic sort of what was selected. Keys differ from each other (they hold the item), so the
// answer does not depend on the order in which threads arrive. Key 0 is nobody's.
#pragma once

#include "core/operations.h"
#include "core/rank.h"
#include "cuda/simt.cuh"

namespace salience::cuda {

inline constexpr int kSelectThreads = 256;
inline constexpr int64_t kSharedKeys = 1024;  // that are sorted in shared memory; more in global memory

template <class Key>
struct SelectShared {
  Key sorted[kSharedKeys];
  uint32_t histogram[256];
  int64_t wanted;
  uint32_t digit;
  uint32_t in_digit;
  uint32_t found;
};

template <class Key>
inline constexpr int kKeyBits = sizeof(Key) == 8 ? 64 : 96;

// Chooses the digit that holds the wanted-th largest key, by the first warp. Lane i owns digits 255 - 8i and
// the seven below, so that a running sum over lanes goes from large to small.
template <class Key>
SALIENCE_DEVICE void choose_digit(SelectShared<Key>& shared) {
  uint32_t mine = 0;
  for (int i = 0; i < 8; ++i) mine += shared.histogram[255 - 8 * lane() - i];
  uint64_t sum = mine;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = shuffle(sum, lane() - offset);
    if (lane() >= offset) sum += other;
  }
  const auto wanted = static_cast<uint64_t>(shared.wanted);
  warp_barrier();
  uint64_t before = sum - mine;
  if (wanted <= before || wanted > sum) return;
  int digit = 255 - 8 * lane();
  while (before + shared.histogram[digit] < wanted) before += shared.histogram[digit--];
  shared.digit = static_cast<uint32_t>(digit);
  shared.in_digit = shared.histogram[digit];
  shared.wanted = static_cast<int64_t>(wanted - before);
}

// A key that exactly k of the `count` >= k keys reach, or 0 where fewer than k are somebody's.
template <class Key, class Source>
SALIENCE_DEVICE Key kth_largest(const Source& key_at, int64_t count, int64_t k, SelectShared<Key>& shared) {
  Key prefix = 0, mask = 0;
  if (thread() == 0) shared.wanted = k;
  for (int shift = kKeyBits<Key> - 8; shift >= 0; shift -= 8) {
    for (int i = thread(); i < 256; i += threads()) shared.histogram[i] = 0;
    block_barrier();
    for (int64_t i = thread(); i < count; i += threads()) {
      const Key key = key_at(i);
      if ((key & mask) == prefix)
        atomic_add(&shared.histogram[static_cast<uint32_t>(key >> shift) & 255u], 1);
    }
    block_barrier();
    if (warp() == 0) choose_digit(shared);
    block_barrier();
    prefix |= static_cast<Key>(shared.digit) << shift;
    mask |= static_cast<Key>(255) << shift;
    if (static_cast<int64_t>(shared.in_digit) == shared.wanted) break;
  }
  return prefix;
}

// Sorts `count` keys at `keys` downwards; `count` is a power of two.
template <class Key>
SALIENCE_DEVICE void sort_down(Key* keys, int64_t count) {
  for (int64_t width = 2; width <= count; width *= 2) {
    for (int64_t stride = width / 2; stride > 0; stride /= 2) {
      for (int64_t i = thread(); i < count / 2; i += threads()) {
        const int64_t low = i / stride * 2 * stride + i % stride, high = low + stride;
        const Key a = keys[low], b = keys[high];
        if ((a < b) == ((low & width) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      block_barrier();
    }
  }
}

SALIENCE_HOST_DEVICE inline int64_t power_of_two(int64_t least) {
  int64_t power = 1;
  while (power < least) power *= 2;
  return power;
}

// The k largest of `count` keys, sorted, at the returned place: shared memory, or `scratch` with room for
// power_of_two(k) keys. shared.found says how many are somebody's.
template <class Key, class Source>
SALIENCE_DEVICE const Key* select_sorted(const Source& key_at, int64_t count, int64_t k, Key* scratch,
                                         SelectShared<Key>& shared) {
  const Key bound = count > k ? kth_largest(key_at, count, k, shared) : 0;
  Key* const place = k <= kSharedKeys ? shared.sorted : scratch;
  if (thread() == 0) shared.found = 0;
  block_barrier();
  for (int64_t i = thread(); i < count; i += threads()) {
    const Key key = key_at(i);
    if (key != 0 && key >= bound) place[atomic_add(&shared.found, 1)] = key;
  }
  block_barrier();
  const int64_t found = shared.found, size = power_of_two(found);
  for (int64_t i = found + thread(); i < size; i += threads()) place[i] = 0;
  block_barrier();
  sort_down(place, size);
  return place;
}

// --- Of a score matrix ---

inline constexpr int kMostSampled = 4096;
inline constexpr int64_t kGateValues = 8192;  // that one block looks at

template <class T>
using KeyOf = typename Rank<T>::Key;

template <class T>
struct SelectRowsArguments {
  Matrix<const T> scores;
  int64_t k;
  int64_t sampled;   // values of each row that are sampled; 0: none, all are candidates
  int64_t rank;      // in the sample, of the floor
  T* floors;         // one per row
  int64_t capacity;  // candidates of a row
  KeyOf<T>* candidates;
  uint32_t* counts;   // beyond the capacity where it did not suffice
  uint32_t* numbers;  // of the candidates, those that are no NaN
  KeyOf<T>* scratch;  // power_of_two(k) per row where k > kSharedKeys
  Matrix<int64_t> ids;
  Matrix<T> values;
};

// A value that k of the row almost surely reach, from runs of 16 neighbours.
template <class T>
SALIENCE_KERNEL(kSelectThreads, 2)
sample_floors(SelectRowsArguments<T> a) {
  auto& shared = shared_memory<SelectShared<KeyOf<T>>>();
  const T* const row = a.scores.row(block());
  const int64_t runs = a.sampled / 16, step = a.scores.columns / runs;
  const auto key_at = [&](int64_t i) {
    const int64_t at = i / 16 * step + i % 16;
    return Rank<T>::key(row[at], at);
  };
  const KeyOf<T> key = kth_largest(key_at, a.sampled, a.rank, shared);
  // The digits that were decided, then zeros: no more than the wanted key, so its score is a floor as well;
  // where that is NaN everything passes.
  if (thread() == 0) a.floors[block()] = Rank<T>::score(key);
}

// Keeps the keys of what is not below the floor. A block looks at kGateValues of one row.
template <class T>
SALIENCE_KERNEL(kSelectThreads, 4)
gate_values(SelectRowsArguments<T> a) {
  const int64_t parts = (a.scores.columns + kGateValues - 1) / kGateValues;
  const int64_t r = block() / parts, first = block() % parts * kGateValues;
  const int64_t end = first + kGateValues < a.scores.columns ? first + kGateValues : a.scores.columns;
  const T* const row = a.scores.row(r);
  const T floor = a.floors[r];
  for (int64_t i = first + thread(); i < end; i += kSelectThreads) {
    const T value = row[i];
    if (value < floor) continue;
    const uint32_t slot = atomic_add(&a.counts[r], 1);
    if (value == value) atomic_add(&a.numbers[r], 1);
    if (slot < a.capacity) a.candidates[r * a.capacity + slot] = Rank<T>::key(value, i);
  }
}

// A block finishes a row, from its candidates where those suffice, else from all its values.
template <class T>
SALIENCE_KERNEL(kSelectThreads, 2)
finish_rows(SelectRowsArguments<T> a) {
  using Key = KeyOf<T>;
  auto& shared = shared_memory<SelectShared<Key>>();
  const int64_t r = block();
  const T* const row = a.scores.row(r);
  const int64_t size = power_of_two(a.k);
  Key* const scratch = a.k <= kSharedKeys ? nullptr : a.scratch + r * size;
  const Key* best;
  if (a.sampled > 0 && a.counts[r] <= a.capacity && a.numbers[r] >= a.k) {
    const Key* const candidates = a.candidates + r * a.capacity;
    best = select_sorted<Key>([&](int64_t i) { return candidates[i]; }, a.counts[r], a.k, scratch, shared);
  } else {
    best = select_sorted<Key>([&](int64_t i) { return Rank<T>::key(row[i], i); }, a.scores.columns, a.k,
                              scratch, shared);
  }
  for (int64_t j = thread(); j < a.k; j += kSelectThreads) {
    a.ids.row(r)[j] = Rank<T>::item(best[j]);
    a.values.row(r)[j] = Rank<T>::score(best[j]);
  }
}

}  // namespace salience::cuda
