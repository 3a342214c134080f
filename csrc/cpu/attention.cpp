#include <algorithm>
#include <limits>
#include <vector>

#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

constexpr int64_t kRowsAUnit = 1024;
constexpr int64_t kCandidates = 256;  // looked at together

// One user's candidates, block by block, against the whole history.
class Reader {
 public:
  explicit Reader(const AttentionArguments& arguments)
      : a_(arguments), sums_(kCandidates), weights_(kCandidates), pooled_(kCandidates) {}

  void user(int64_t user, Worker& worker) {
    begin_ = a_.history.indptr[user];
    size_ = a_.history.indptr[user + 1] - begin_;
    past_.resize(static_cast<size_t>(size_));
    for (int64_t j = 0; j < size_; ++j)
      past_[static_cast<size_t>(j)] = a_.units.row(a_.history.indices[begin_ + j]);
    products_.resize(static_cast<size_t>(size_ * kCandidates));
    for (int64_t first = 0; first < a_.out.columns && !worker.should_stop(); first += kCandidates) {
      const int64_t end = std::min(a_.out.columns, first + kCandidates);
      items_.clear();
      places_.clear();
      for (int64_t c = first; c < end; ++c) {
        const int64_t item = a_.candidates.row(user)[c];
        a_.out.row(user)[c] = -std::numeric_limits<float>::infinity();
        if (item < 0) continue;
        items_.push_back(item);
        places_.push_back(c);
      }
      block(a_.out.row(user));
    }
  }

 private:
  void block(float* out) {
    const auto count = static_cast<int64_t>(items_.size());
    rows_.clear();
    for (const int64_t item : items_) rows_.push_back(a_.units.row(item));
    kernels().unit_products(past_.data(), size_, rows_.data(), count, a_.units.row_stride, products_.data(),
                            kCandidates);
    for (int64_t j = 0; j < size_; ++j)
      for (int64_t i = 0; i < count; ++i)
        if (items_[static_cast<size_t>(i)] == a_.history.indices[begin_ + j])
          products_[static_cast<size_t>(j * kCandidates + i)] = kNoProduct;
    const double* const log_weights = a_.log_weights == nullptr ? nullptr : a_.log_weights + begin_;
    kernels().attend(products_.data(), size_, count, kCandidates, log_weights, a_.temperature, a_.smoothing,
                     sums_.data(), weights_.data(), pooled_.data());
    for (int64_t i = 0; i < count; ++i)
      out[places_[static_cast<size_t>(i)]] = pooled_[static_cast<size_t>(i)];
  }

  const AttentionArguments& a_;
  int64_t begin_ = 0;  // of the user's history
  int64_t size_ = 0;
  std::vector<const float*> past_;
  std::vector<const float*> rows_;
  std::vector<int64_t> items_;
  std::vector<int64_t> places_;
  std::vector<float> products_;  // of the history by kCandidates
  std::vector<double> sums_;
  std::vector<double> weights_;
  std::vector<float> pooled_;
};

}  // namespace

Status unit_rows(const UnitRowsArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [vectors, out] = arguments;
  const int64_t units = (vectors.rows + kRowsAUnit - 1) / kRowsAUnit;
  const double operations = 4.0 * static_cast<double>(vectors.rows) * static_cast<double>(vectors.columns);
  std::vector<int64_t> wrong(static_cast<size_t>(units), -1);
  SALIENCE_RETURN_IF_ERROR(
      parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
        const int64_t first = unit * kRowsAUnit, count = std::min(kRowsAUnit, vectors.rows - first);
        std::vector<const float*> rows(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = vectors.row(first + i);
        const int64_t found =
            kernels().unit_rows(rows.data(), count, vectors.columns, out.row(first), out.row_stride);
        if (found >= 0) wrong[static_cast<size_t>(unit)] = first + found;
      }));
  return expect_finite("vectors", wrong);
}

Status attend(const AttentionArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const int64_t users = arguments.history.rows;
  const double operations = static_cast<double>(arguments.history.entries) *
                            static_cast<double>(arguments.out.columns) *
                            static_cast<double>(2 * arguments.units.columns + 40);
  const int workers = worker_count(context, users, operations);
  std::vector<Reader> readers(static_cast<size_t>(workers), Reader(arguments));
  return parallel_for(context, workers, users, [&](int64_t user, Worker& worker) {
    readers[static_cast<size_t>(worker.index())].user(user, worker);
  });
}

}  // namespace salience::cpu
