// Users go through the device in parts: their histories and candidates up, their scores down.
#include <algorithm>

#include "core/validate.h"
#include "cuda/kernels/attention.cuh"
#include "cuda/operations.h"
#include "cuda/segments.h"

namespace salience::cuda {
namespace {

constexpr int64_t kPartPairs = int64_t{1} << 24;  // of users and candidates, 12 bytes each on the device
constexpr int64_t kPartWork = int64_t{1} << 33;   // of candidates and past items: less than a second

// Where the part that begins with user `first` ends.
int64_t end_of_part(const AttentionArguments& arguments, int64_t first) {
  const int64_t columns = arguments.candidates.columns;
  const int64_t* const indptr = arguments.history.indptr;
  int64_t end = first + 1;
  while (end < arguments.history.rows && (end + 1 - first) * columns <= kPartPairs &&
         (indptr[end + 1] - indptr[first]) <= kPartWork / columns)
    ++end;
  return end;
}

void attend_part(const AttentionArguments& arguments, int64_t first, int64_t count, Stream stream) {
  const Csr& history = arguments.history;
  const int64_t columns = arguments.candidates.columns, begin = history.indptr[first];
  const int64_t entries = history.indptr[first + count] - begin;
  std::vector<int64_t> pointers(history.indptr + first, history.indptr + first + count + 1);
  for (int64_t& pointer : pointers) pointer -= begin;
  const Array<int64_t> indptr = to_device(pointers.data(), count + 1, stream, "the histories");
  const Array<int32_t> indices = to_device(history.indices + begin, entries, stream, "the histories");
  Array<double> log_weights;
  if (arguments.log_weights != nullptr)
    log_weights = to_device(arguments.log_weights + begin, entries, stream, "the histories");
  const Array<int64_t> candidates(count * columns, stream, "the candidates");
  const Matrix<const int64_t>& lists = arguments.candidates;
  const auto row_bytes = columns * static_cast<int64_t>(sizeof(int64_t));
  if (lists.row_stride == columns) {
    copy(candidates.data(), lists.row(first), count * row_bytes, stream);
  } else {
    for (int64_t i = 0; i < count; ++i)
      copy(candidates.data() + i * columns, lists.row(first + i), row_bytes, stream);
  }
  const Array<float> out(count * columns, stream, "the scores");
  SALIENCE_LAUNCH(
      attend_candidates,
      (LaunchShape{count * blocks_of(columns, kAttendItems), kAttendThreads, sizeof(AttendShared)}), stream,
      (AttendArguments{arguments.units, indptr.data(), indices.data(), log_weights.data(), candidates.data(),
                       count, columns, arguments.temperature, arguments.smoothing, out.data()}));
  copy(arguments.out.row(first), out.data(), out.bytes(), stream);
  synchronize(stream);
}

}  // namespace

Status attend(const AttentionArguments& arguments, Stream stream, const std::function<bool()>& interrupted) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  if (arguments.candidates.columns == 0) return {};
  for (int64_t first = 0; first < arguments.history.rows;) {
    const int64_t end = end_of_part(arguments, first);
    attend_part(arguments, first, end - first, stream);
    if (interrupted && interrupted()) return Status::interrupted();
    first = end;
  }
  return {};
}

}  // namespace salience::cuda
