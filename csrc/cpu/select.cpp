#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"
#include "cpu/ranking.h"

namespace salience::cpu {
namespace {

constexpr int64_t kChunk = 4096;

int64_t screen_values(const float* values, int64_t count, float threshold, uint32_t* out) {
  return kernels().select_float(values, count, threshold, out);
}
int64_t screen_values(const double* values, int64_t count, double threshold, uint32_t* out) {
  return kernels().select_double(values, count, threshold, out);
}

// Chunks are visited in order, so ties with the bound lose and are turned away by key.
template <class T>
void select_row(const SelectArguments<T>& arguments, int64_t row) {
  using R = Rank<T>;
  const T* const values = arguments.scores.row(row);
  Reservoir<typename R::Key> best(arguments.k);
  uint32_t survivors[kChunk];
  int64_t width = 64;  // small at first, so that a bound exists early
  for (int64_t start = 0; start < arguments.scores.columns; start += width, width = kChunk) {
    const int64_t count = std::min(width, arguments.scores.columns - start);
    // A NaN bound (nothing better seen) compares false with everything: all survive.
    const T bound = best.full() ? R::score(best.bound()) : -std::numeric_limits<T>::infinity();
    const int64_t found = screen_values(values + start, count, bound, survivors);
    for (int64_t n = 0; n < found; ++n)
      best.offer(R::key(values[start + survivors[n]], start + survivors[n]));
    if (best.fresh() > 0) best.compact();
  }
  std::vector<typename R::Key> keys = best.keys();
  sort_best(keys, arguments.k);
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
