// Ranks of held-out items: by factors, by given scores, in given lists. One thread ranks a row, so the
// number of threads changes nothing.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "core/validate.h"
#include "cpu/canonical_queries.h"
#include "cpu/operations.h"
#include "cpu/topk.h"

namespace salience::cpu {
namespace {

constexpr int64_t kQueryBlock = 32;
constexpr int64_t kItemBlock = 256;
constexpr int64_t kListBatch = 4096;  // rows whose scores are held while their lists are made
constexpr int64_t kListUnit = 256;

void count_below(const float* values, int64_t count, const std::vector<float>& bounds, int64_t* below) {
  kernels().count_below_float(values, count, bounds.data(), static_cast<int64_t>(bounds.size()), below);
}
void count_below(const double* values, int64_t count, const std::vector<double>& bounds, int64_t* below) {
  kernels().count_below_double(values, count, bounds.data(), static_cast<int64_t>(bounds.size()), below);
}

// The columns of one row of a CSR, visited in ascending order.
class Cursor {
 public:
  Cursor(const Csr& csr, int64_t row)
      : at_(csr.indptr == nullptr ? nullptr : csr.indices + csr.indptr[row]),
        end_(csr.indptr == nullptr ? nullptr : csr.indices + csr.indptr[row + 1]) {}

  // Calls visit(column) for the columns below `limit` that were not visited yet.
  template <class Visit>
  void advance(int64_t limit, Visit visit) {
    for (; at_ != end_ && *at_ < limit; ++at_) visit(*at_);
  }

 private:
  const int32_t* at_;
  const int32_t* end_;
};

// Counts, for the held-out items of one row, the candidates that come first while scores pass in blocks.
template <class T>
class RowRanks {
 public:
  RowRanks(const Csr& exclude, const uint8_t* allowed, const HeldOutRanks& out, int64_t row)
      : allowed_(allowed), out_(out), row_(row), excluded_(exclude, row) {
    const int64_t first = out.held_out.indptr[row], last = out.held_out.indptr[row + 1];
    Cursor excluded(exclude, row);
    for (int64_t e = first; e < last; ++e) {
      const int64_t item = out.held_out.indices[e];
      bool candidate = allowed == nullptr || allowed[item] != 0;
      excluded.advance(item + 1, [&](int64_t column) { candidate = candidate && column != item; });
      if (candidate) held_out_.push_back({item, e});
    }
    below_.resize(2 * held_out_.size());
    bounds_.resize(2 * held_out_.size());
    counts_.assign(held_out_.size(), {});
  }

  int64_t size() const { return static_cast<int64_t>(held_out_.size()); }
  int64_t item(int64_t n) const { return held_out_[static_cast<size_t>(n)].item; }

  // v > s holds where v is not below the next number after s; nothing exceeds infinity.
  void set_score(int64_t n, T score) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const T next = std::nextafter(score, infinity);
    bounds_[static_cast<size_t>(2 * n)] = score;
    bounds_[static_cast<size_t>(2 * n + 1)] = score == infinity ? std::numeric_limits<T>::quiet_NaN() : next;
  }

  // Takes the scores of items start .. start + count, whose place is overwritten.
  void add(T* scores, int64_t start, int64_t count) {
    const int64_t candidates = count - drop(scores, start, count);
    candidates_ += candidates;
    if (held_out_.empty()) return;
    count_below(scores, count, bounds_, below_.data());
    for (size_t n = 0; n < held_out_.size(); ++n) {
      Counts& counts = counts_[n];
      const bool infinite = bounds_[2 * n + 1] != bounds_[2 * n + 1];
      // Dropped scores are NaN, which is below nothing.
      const int64_t reached = candidates - below_[2 * n];
      const int64_t better = infinite ? 0 : candidates - below_[2 * n + 1];
      counts.better += better;
      counts.equal += reached - better;
      if (start + count <= held_out_[n].item) {
        counts.equal_before += reached - better;
      } else if (start <= held_out_[n].item) {
        const int64_t place = held_out_[n].item - start;
        for (int64_t i = 0; i < place; ++i) counts.equal_before += scores[i] == scores[place];
      }
    }
  }

  void write() const {
    out_.lengths[row_] = candidates_;
    for (int64_t e = out_.held_out.indptr[row_]; e < out_.held_out.indptr[row_ + 1]; ++e) {
      out_.ranks[e] = 0;
      if (out_.better != nullptr) out_.better[e] = 0;
      if (out_.equal != nullptr) out_.equal[e] = 0;
    }
    for (size_t n = 0; n < held_out_.size(); ++n) {
      const int64_t e = held_out_[n].entry;
      out_.ranks[e] = counts_[n].better + counts_[n].equal_before + 1;
      if (out_.better != nullptr) out_.better[e] = counts_[n].better;
      if (out_.equal != nullptr) out_.equal[e] = counts_[n].equal - 1;  // the item itself is one of them
    }
  }

 private:
  struct HeldOut {
    int64_t item;
    int64_t entry;
  };
  struct Counts {
    int64_t better = 0;
    int64_t equal = 0;
    int64_t equal_before = 0;
  };

  // Makes NaN of what is no candidate and returns how many that were.
  int64_t drop(T* scores, int64_t start, int64_t count) {
    constexpr T none = std::numeric_limits<T>::quiet_NaN();
    int64_t dropped = 0;
    if (allowed_ != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        if (allowed_[start + i] != 0) continue;
        scores[i] = none;
        ++dropped;
      }
    }
    excluded_.advance(start + count, [&](int64_t column) {
      if (allowed_ != nullptr && allowed_[column] == 0) return;
      scores[column - start] = none;
      ++dropped;
    });
    return dropped;
  }

  const uint8_t* allowed_;
  const HeldOutRanks& out_;
  int64_t row_;
  Cursor excluded_;
  int64_t candidates_ = 0;
  std::vector<HeldOut> held_out_;
  std::vector<T> bounds_;
  std::vector<int64_t> below_;
  std::vector<Counts> counts_;
};

// Ranks of a block of queries by their scores with every item.
class FactorBlock {
 public:
  FactorBlock(const FactorRanksArguments& arguments, int64_t first, int64_t count)
      : arguments_(arguments), first_(first), count_(count), scores_(kQueryBlock * kItemBlock) {
    queries_.assign(arguments.queries, first, count);
    rows_.reserve(static_cast<size_t>(count));
    for (int64_t q = 0; q < count; ++q)
      rows_.emplace_back(arguments.exclude, arguments.allowed, arguments.out, first + q);
  }

  void rank(Worker& worker) {
    for (int64_t q = 0; q < count_; ++q) score_held_out(q);
    const Matrix<const float>& items = arguments_.items;
    const float* pointers[kItemBlock];
    for (int64_t start = 0; start < items.rows && !worker.should_stop(); start += kItemBlock) {
      const int64_t count = std::min(kItemBlock, items.rows - start);
      for (int64_t i = 0; i < count; ++i) pointers[i] = items.row(start + i);
      score(0, count_, pointers, count, scores_.data());
      for (int64_t q = 0; q < count_; ++q)
        rows_[static_cast<size_t>(q)].add(scores_.data() + q * kItemBlock, start, count);
    }
    for (const RowRanks<float>& row : rows_) row.write();
  }

 private:
  void score(int64_t query, int64_t queries, const float* const* items, int64_t count, float* out) const {
    kernels().canonical({Metric::dot, queries_.values.data() + query * queries_.stride, queries_.stride,
                         queries, nullptr, items, nullptr, count, arguments_.items.columns, out, kItemBlock});
  }

  void score_held_out(int64_t q) {
    RowRanks<float>& row = rows_[static_cast<size_t>(q)];
    for (int64_t start = 0; start < row.size(); start += kItemBlock) {
      const float* pointers[kItemBlock];
      const int64_t count = std::min(kItemBlock, row.size() - start);
      for (int64_t n = 0; n < count; ++n) pointers[n] = arguments_.items.row(row.item(start + n));
      score(q, 1, pointers, count, scores_.data());
      for (int64_t n = 0; n < count; ++n) row.set_score(start + n, scores_[static_cast<size_t>(n)]);
    }
  }

  const FactorRanksArguments& arguments_;
  int64_t first_;
  int64_t count_;
  CanonicalQueries queries_;
  std::vector<RowRanks<float>> rows_;
  std::vector<float> scores_;
};

// Places of the held-out items of a row in its list. Marks one entry per item: a list is read once, whatever
// its length and the number of held-out items.
class ListReader {
 public:
  explicit ListReader(int64_t items) : seen_(static_cast<size_t>(items), -1), entry_(seen_.size()) {}

  Status read(const int64_t* list, int64_t slots, const HeldOutRanks& out, int64_t row) {
    const int64_t items = out.held_out.columns;
    const int64_t first = out.held_out.indptr[row], last = out.held_out.indptr[row + 1];
    // Stamps 2 row (held out) and 2 row + 1 (in the list): never cleared between rows.
    for (int64_t e = first; e < last; ++e) {
      const auto item = static_cast<size_t>(out.held_out.indices[e]);
      out.ranks[e] = 0;
      seen_[item] = 2 * row;
      entry_[item] = e;
    }
    int64_t rank = 0;
    for (int64_t j = 0; j < slots; ++j) {
      const int64_t item = list[j];
      if (item == -1) continue;
      if (item < 0 || item >= items) return out_of_range(item, items, row);
      int64_t& stamp = seen_[static_cast<size_t>(item)];
      if (stamp == 2 * row + 1) return repeated(item, row);
      ++rank;
      if (stamp == 2 * row) out.ranks[entry_[static_cast<size_t>(item)]] = rank;
      stamp = 2 * row + 1;
    }
    out.lengths[row] = rank;
    return {};
  }

 private:
  static Status out_of_range(int64_t item, int64_t items, int64_t row) {
    return Status::invalid("recommended: item row " + std::to_string(item) + " in row " +
                           std::to_string(row) + "; expected 0 to " + std::to_string(items - 1) +
                           ", or -1 for an empty slot");
  }
  static Status repeated(int64_t item, int64_t row) {
    return Status::invalid("recommended: row " + std::to_string(row) + " holds item " + std::to_string(item) +
                           " more than once; expected each item at most once in a list");
  }

  std::vector<int64_t> seen_;
  std::vector<int64_t> entry_;
};

// The error of the lowest row, whatever thread met one first.
struct FirstError {
  std::mutex mutex;
  int64_t row = std::numeric_limits<int64_t>::max();
  Status status;

  void offer(int64_t where, Status found) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (where >= row) return;
    row = where;
    status = std::move(found);
  }
};

Status read_lists(const Matrix<const int64_t>& lists, const HeldOutRanks& out, const Context& context) {
  const int64_t units = (lists.rows + kListUnit - 1) / kListUnit;
  const double operations = static_cast<double>(lists.rows) * static_cast<double>(lists.columns + 8) * 4.0;
  const int workers = worker_count(context, units, operations);
  std::vector<std::vector<ListReader>> readers(static_cast<size_t>(workers));
  FirstError error;
  SALIENCE_RETURN_IF_ERROR(parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    std::vector<ListReader>& mine = readers[static_cast<size_t>(worker.index())];
    if (mine.empty()) mine.emplace_back(out.held_out.columns);
    const int64_t last = std::min(lists.rows, (unit + 1) * kListUnit);
    for (int64_t row = unit * kListUnit; row < last; ++row) {
      Status status = mine.front().read(lists.row(row), lists.columns, out, row);
      if (!status.ok()) return error.offer(row, std::move(status));
    }
  }));
  return error.status;
}

// The top of each row by search, batch by batch, so that no more than a batch of scores is ever held.
Status rank_by_search(const FactorRanksArguments& arguments, const Context& context) {
  const auto& [queries, items, exclude, allowed, lists, out] = arguments;
  const Catalogue catalogue =
      view_of({items.data, ElementType::float32, items.rows, items.columns, items.row_stride}, Metric::dot);
  Catalogue packed = catalogue;
  PackedCopy copy;
  if (queries.rows > kListBatch) SALIENCE_RETURN_IF_ERROR(pack(packed, copy, context));
  std::vector<float> scores(static_cast<size_t>(std::min(kListBatch, queries.rows) * lists.columns));
  std::vector<int64_t> indptr;
  for (int64_t first = 0; first < queries.rows; first += kListBatch) {
    const int64_t count = std::min(kListBatch, queries.rows - first);
    Csr excluded;
    if (exclude.indptr != nullptr) {
      indptr.assign(exclude.indptr + first, exclude.indptr + first + count + 1);
      for (int64_t& pointer : indptr) pointer -= exclude.indptr[first];
      excluded = {indptr.data(), exclude.indices + exclude.indptr[first], nullptr, count, items.rows,
                  indptr.back()};
    }
    SALIENCE_RETURN_IF_ERROR(search({packed,
                                     {queries.row(first), count, queries.columns, queries.row_stride},
                                     lists.columns,
                                     excluded,
                                     allowed,
                                     {lists.row(first), count, lists.columns, lists.row_stride},
                                     {scores.data(), count, lists.columns, lists.columns}},
                                    context));
  }
  return read_lists({lists.data, lists.rows, lists.columns, lists.row_stride}, out, context);
}

// The first candidate of a row whose score is NaN, or -1.
template <class T>
int64_t find_nan(const ScoreRanksArguments<T>& arguments, int64_t row) {
  const T* const scores = arguments.scores.row(row);
  Cursor excluded(arguments.exclude, row);
  for (int64_t i = 0; i < arguments.scores.columns; ++i) {
    if (scores[i] == scores[i]) continue;
    bool candidate = arguments.allowed == nullptr || arguments.allowed[i] != 0;
    excluded.advance(i + 1, [&](int64_t column) { candidate = candidate && column != i; });
    if (candidate) return i;
  }
  return -1;
}

template <class T>
void rank_scores(const ScoreRanksArguments<T>& arguments, int64_t row, FirstError& error) {
  const int64_t bad = find_nan(arguments, row);
  if (bad >= 0) {
    return error.offer(row, Status::invalid("scores: NaN for item row " + std::to_string(bad) + " in row " +
                                            std::to_string(row) + "; expected a number for every candidate"));
  }
  RowRanks<T> ranks(arguments.exclude, arguments.allowed, arguments.out, row);
  const T* const scores = arguments.scores.row(row);
  for (int64_t n = 0; n < ranks.size(); ++n) ranks.set_score(n, scores[ranks.item(n)]);
  T block[kItemBlock];
  for (int64_t start = 0; start < arguments.scores.columns; start += kItemBlock) {
    const int64_t count = std::min(kItemBlock, arguments.scores.columns - start);
    std::copy_n(scores + start, count, block);
    ranks.add(block, start, count);
  }
  ranks.write();
}

}  // namespace

Status factor_ranks(const FactorRanksArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const Matrix<const float>& queries = arguments.queries;
  if (arguments.lists.columns > 0) return rank_by_search(arguments, context);
  const int64_t units = (queries.rows + kQueryBlock - 1) / kQueryBlock;
  const double operations = static_cast<double>(queries.rows) * static_cast<double>(arguments.items.rows) *
                            static_cast<double>(queries.columns + 8);
  return parallel_for(
      context, worker_count(context, units, operations), units, [&](int64_t unit, Worker& worker) {
        const int64_t first = unit * kQueryBlock;
        FactorBlock(arguments, first, std::min(kQueryBlock, queries.rows - first)).rank(worker);
      });
}

template <class T>
Status score_ranks(const ScoreRanksArguments<T>& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const int64_t rows = arguments.scores.rows;
  const double operations = static_cast<double>(rows) * static_cast<double>(arguments.scores.columns) * 8.0;
  FirstError error;
  SALIENCE_RETURN_IF_ERROR(parallel_for(context, worker_count(context, rows, operations), rows,
                                        [&](int64_t row, Worker&) { rank_scores(arguments, row, error); }));
  return error.status;
}

template Status score_ranks(const ScoreRanksArguments<float>&, const Context&);
template Status score_ranks(const ScoreRanksArguments<double>&, const Context&);

Status list_ranks(const ListRanksArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  return read_lists(arguments.lists, arguments.out, context);
}

}  // namespace salience::cpu
