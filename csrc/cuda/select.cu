#include <algorithm>
#include <cmath>

#include "core/validate.h"
#include "cuda/kernels/select.cuh"
#include "cuda/operations.h"

namespace salience::cuda {
namespace {

constexpr int64_t kShortRow = 8192;  // not worth a sample

// The rank in a sample that about twice k of the row reach, and k almost surely: four standard deviations
// above what k corresponds to. 0 where sampling would not pay.
int64_t sample_rank(int64_t columns, int64_t k, int64_t sampled) {
  if (columns <= kShortRow || 16 * k > columns) return 0;
  const double expected =
      static_cast<double>(k) * static_cast<double>(sampled) / static_cast<double>(columns);
  const auto rank = static_cast<int64_t>(expected + 4.0 * std::sqrt(expected) + 4.0);
  return 2 * rank <= sampled ? rank : 0;
}

}  // namespace

template <class T>
Status select(const SelectArguments<T>& arguments, Stream stream) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [scores, k, ids, values] = arguments;
  if (scores.rows == 0) return {};
  const int64_t sampled = std::min<int64_t>(kMostSampled, scores.columns / 64 * 16);
  const int64_t rank = sample_rank(scores.columns, k, sampled);
  const auto expected = static_cast<double>(rank) * static_cast<double>(scores.columns) /
                        static_cast<double>(std::max<int64_t>(1, sampled));
  SelectRowsArguments<T> a{};
  a.scores = scores;
  a.k = k;
  a.rank = rank;
  a.sampled = rank > 0 ? sampled : 0;
  a.capacity = rank > 0 ? static_cast<int64_t>(2.0 * expected) + 1024 : 0;
  a.ids = ids;
  a.values = values;
  const Array<T> floors(rank > 0 ? scores.rows : 0, stream, "the selection");
  const Array<KeyOf<T>> candidates(scores.rows * a.capacity, stream, "the selection");
  Array<uint32_t> counts(2 * scores.rows, stream, "the selection");
  const Array<KeyOf<T>> scratch(k > kSharedKeys ? scores.rows * power_of_two(k) : 0, stream, "the selection");
  a.floors = floors.data();
  a.candidates = candidates.data();
  a.counts = counts.data();
  a.numbers = counts.data() + scores.rows;
  a.scratch = scratch.data();
  counts.fill_bytes(0);
  const int64_t shared = sizeof(SelectShared<KeyOf<T>>);
  if (rank > 0) {
    const int64_t parts = (scores.columns + kGateValues - 1) / kGateValues;
    SALIENCE_LAUNCH(sample_floors<T>, (LaunchShape{scores.rows, kSelectThreads, shared}), stream, a);
    SALIENCE_LAUNCH(gate_values<T>, (LaunchShape{scores.rows * parts, kSelectThreads, 0}), stream, a);
  }
  SALIENCE_LAUNCH(finish_rows<T>, (LaunchShape{scores.rows, kSelectThreads, shared}), stream, a);
  return {};
}

template Status select(const SelectArguments<float>&, Stream);
template Status select(const SelectArguments<double>&, Stream);

}  // namespace salience::cuda
