#include <cmath>

#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"
#include "cpu/ranking.h"

namespace salience::cpu {
namespace {

constexpr int64_t kChunk = 4096;
constexpr int64_t kShortRow = 2048;  // not worth a pass that only rules out
constexpr int64_t kRun = 16;         // neighbours that are sampled together: a cache line

int64_t screen_values(const float* values, int64_t count, float threshold, uint32_t* out) {
  return kernels().select_float(values, count, threshold, out);
}
int64_t screen_values(const double* values, int64_t count, double threshold, uint32_t* out) {
  return kernels().select_double(values, count, threshold, out);
}

// A value that about twice k of the row reach, and k almost surely: the r-th largest of a sample, with r
// four standard deviations above what k corresponds to. -infinity where sampling would not pay.
template <class T>
T sampled_bound(const T* values, int64_t count, int64_t k) {
  const int64_t runs = std::min<int64_t>(count / (64 * kRun), 256);
  if (runs < 8 || 16 * k > count) return -std::numeric_limits<T>::infinity();
  typename Rank<T>::Key sample[256 * kRun];
  const int64_t size = runs * kRun, step = count / runs;
  for (int64_t run = 0; run < runs; ++run)
    for (int64_t i = 0; i < kRun; ++i)
      sample[run * kRun + i] = Rank<T>::key(values[run * step + i], run * step + i);
  const double expected = static_cast<double>(k) * static_cast<double>(size) / static_cast<double>(count);
  const auto rank = static_cast<int64_t>(expected + 4.0 * std::sqrt(expected) + 4.0);
  if (2 * rank > size) return -std::numeric_limits<T>::infinity();
  partition_largest(sample, static_cast<size_t>(size), static_cast<size_t>(rank));
  const T bound = Rank<T>::score(sample[rank - 1]);
  return bound == bound ? bound : -std::numeric_limits<T>::infinity();
}

// The k best of what is not below `floor`, in one pass. Chunks are visited in order, so ties with the bound
// lose and are turned away by key.
template <class T>
void offer_row(const T* values, int64_t columns, T floor, Reservoir<typename Rank<T>::Key>& best) {
  using R = Rank<T>;
  uint32_t survivors[kChunk];
  int64_t width = 64;  // small at first, so that a bound exists early
  for (int64_t start = 0; start < columns; start += width, width = kChunk) {
    const int64_t count = std::min(width, columns - start);
    // A NaN bound (nothing better seen) compares false with everything: all survive.
    const T bound = best.full() ? R::score(best.bound()) : floor;
    const int64_t found = screen_values(values + start, count, bound, survivors);
    for (int64_t n = 0; n < found; ++n)
      best.offer(R::key(values[start + survivors[n]], start + survivors[n]));
    if (best.fresh() > static_cast<size_t>(best.k() / 4)) best.compact();
  }
}

// Keys of the row, of which the k best are sure to be among.
template <class T>
std::vector<typename Rank<T>::Key> candidates(const T* values, int64_t columns, int64_t k) {
  using Key = typename Rank<T>::Key;
  if (columns <= kShortRow || 16 * k >= columns) {
    std::vector<Key> keys(static_cast<size_t>(columns));
    for (int64_t i = 0; i < columns; ++i) keys[static_cast<size_t>(i)] = Rank<T>::key(values[i], i);
    return keys;
  }
  const T floor = sampled_bound(values, columns, k);
  Reservoir<Key> best(k);
  offer_row(values, columns, floor, best);
  // NaN passes every floor, so what counts is how many numbers passed.
  const auto numbers = std::count_if(best.keys().begin(), best.keys().end(),
                                     [](Key key) { return Rank<T>::score(key) == Rank<T>::score(key); });
  if (numbers < k && floor > -std::numeric_limits<T>::infinity()) {
    best = Reservoir<Key>(k);
    offer_row(values, columns, -std::numeric_limits<T>::infinity(), best);
  }
  return best.keys();
}

template <class T>
void select_row(const SelectArguments<T>& arguments, int64_t row) {
  using R = Rank<T>;
  auto keys = candidates(arguments.scores.row(row), arguments.scores.columns, arguments.k);
  keep_best(keys, arguments.k);
  std::sort(keys.begin(), keys.end(), std::greater<typename R::Key>());
  for (int64_t j = 0; j < arguments.k; ++j) {
    arguments.ids.row(row)[j] = R::item(keys[static_cast<size_t>(j)]);
    arguments.values.row(row)[j] = R::score(keys[static_cast<size_t>(j)]);
  }
}

}  // namespace

template <class T>
Status select(const SelectArguments<T>& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const int64_t rows = arguments.scores.rows;
  const double operations = static_cast<double>(rows) * static_cast<double>(arguments.scores.columns);
  return parallel_for(context, worker_count(context, rows, operations), rows,
                      [&](int64_t row, Worker&) { select_row(arguments, row); });
}

template Status select(const SelectArguments<float>&, const Context&);
template Status select(const SelectArguments<double>&, const Context&);

}  // namespace salience::cpu
