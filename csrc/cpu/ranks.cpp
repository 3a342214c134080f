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

constexpr int64_t kItemBlock = 256;
constexpr int64_t kPanel = 32;  // items whose products are one call: whole vectors on every instruction set
constexpr int64_t kQueryStep = 12;
constexpr int64_t kQueryBlock = 16 * kQueryStep;  // enough to pay for turning a block of items into panels
constexpr int64_t kShortVector = 16;  // below it canonical scores cost no more than approximate ones
constexpr int64_t kLongVector = int64_t{1} << 16;  // the bound of approximate ones holds no longer
constexpr int64_t kDoubtful = 16;                  // more of a block are scored together
constexpr int64_t kListBatch = 4096;               // rows whose scores are held while their lists are made
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
    reach_.resize(2 * held_out_.size());
    counts_.assign(held_out_.size(), {});
  }

  int64_t size() const { return static_cast<int64_t>(held_out_.size()); }
  int64_t item(int64_t n) const { return held_out_[static_cast<size_t>(n)].item; }

  // v > s holds where v is not below the next number after s; nothing exceeds infinity.
  void set_score(int64_t n, T score) {
    const bool infinite = score == std::numeric_limits<T>::infinity();
    bounds_[static_cast<size_t>(2 * n)] = score;
    bounds_[static_cast<size_t>(2 * n + 1)] = infinite ? std::numeric_limits<T>::quiet_NaN() : next(score, 1);
  }

  // Takes the scores of items start .. start + count; those of what is no candidate become NaN.
  void add(T* scores, int64_t start, int64_t count) {
    const int64_t candidates = drop(scores, start, count);
    if (!held_out_.empty()) count_exact(scores, start, count, candidates);
  }

  // Takes approximate scores, none further than `error` from the canonical one. Where that leaves doubt,
  // score_some(places, count, out) gives canonical scores of a few items of the block, score_all(out) of all.
  template <class ScoreSome, class ScoreAll>
  void add_approximate(T* scores, int64_t start, int64_t count, double error, const ScoreSome& score_some,
                       const ScoreAll& score_all) {
    const int64_t candidates = drop(scores, start, count);
    if (held_out_.empty()) return;
    for (size_t n = 0; n < held_out_.size(); ++n) {
      const double score = static_cast<double>(bounds_[2 * n]);
      reach_[2 * n] = next(static_cast<T>(score - error), -1);
      reach_[2 * n + 1] = next(next(static_cast<T>(score + error), 1), 1);
    }
    count_below(scores, count, reach_, below_.data());
    int64_t doubtful = 0;
    for (size_t n = 0; n < held_out_.size(); ++n)
      doubtful = std::max(doubtful, below_[2 * n + 1] - below_[2 * n]);
    if (doubtful > kDoubtful) {
      T exact[kItemBlock];
      score_all(exact);
      for (int64_t i = 0; i < count; ++i)
        if (scores[i] != scores[i]) exact[i] = scores[i];
      return count_exact(exact, start, count, candidates);
    }
    for (size_t n = 0; n < held_out_.size(); ++n) {
      counts_[n].better += candidates - below_[2 * n + 1];
      if (below_[2 * n + 1] != below_[2 * n]) resolve(n, scores, start, count, score_some);
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

  static T next(T value, int direction) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    return std::nextafter(value, direction > 0 ? infinity : -infinity);
  }

  // Makes NaN of what is no candidate and returns how many candidates there are.
  int64_t drop(T* scores, int64_t start, int64_t count) {
    constexpr T none = std::numeric_limits<T>::quiet_NaN();
    int64_t candidates = count;
    if (allowed_ != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        if (allowed_[start + i] != 0) continue;
        scores[i] = none;
        --candidates;
      }
    }
    excluded_.advance(start + count, [&](int64_t column) {
      if (allowed_ != nullptr && allowed_[column] == 0) return;
      scores[column - start] = none;
      --candidates;
    });
    candidates_ += candidates;
    return candidates;
  }

  // Dropped scores are NaN, which is below nothing.
  void count_exact(const T* scores, int64_t start, int64_t count, int64_t candidates) {
    count_below(scores, count, bounds_, below_.data());
    for (size_t n = 0; n < held_out_.size(); ++n) {
      const bool infinite = bounds_[2 * n + 1] != bounds_[2 * n + 1];
      const int64_t better = infinite ? 0 : candidates - below_[2 * n + 1];
      const int64_t equal = candidates - below_[2 * n] - better;
      counts_[n].better += better;
      counts_[n].equal += equal;
      if (start + count <= held_out_[n].item) {
        counts_[n].equal_before += equal;
      } else if (start <= held_out_[n].item) {
        const int64_t place = held_out_[n].item - start;
        for (int64_t i = 0; i < place; ++i) counts_[n].equal_before += scores[i] == scores[place];
      }
    }
  }

  // Counts what `reach_` leaves open for one held-out item.
  template <class ScoreSome>
  void resolve(size_t n, const T* scores, int64_t start, int64_t count, const ScoreSome& score_some) {
    int64_t places[kDoubtful], found = 0;
    for (int64_t i = 0; i < count; ++i)
      if (scores[i] >= reach_[2 * n] && scores[i] < reach_[2 * n + 1]) places[found++] = i;
    T exact[kDoubtful];
    score_some(places, found, exact);
    for (int64_t i = 0; i < found; ++i) {
      counts_[n].better += exact[i] > bounds_[2 * n];
      counts_[n].equal += exact[i] == bounds_[2 * n];
      counts_[n].equal_before += exact[i] == bounds_[2 * n] && start + places[i] < held_out_[n].item;
    }
  }

  const uint8_t* allowed_;
  const HeldOutRanks& out_;
  int64_t row_;
  Cursor excluded_;
  int64_t candidates_ = 0;
  std::vector<HeldOut> held_out_;
  std::vector<T> bounds_;  // of each held-out item its score and the next number
  std::vector<T> reach_;   // where approximate scores leave doubt
  std::vector<int64_t> below_;
  std::vector<Counts> counts_;
};

// Ranks of a block of queries by their scores with every item.
//
// Products are summed in float32 first. With u = 2^-24 and d dimensions, such a sum is within d u / (1 - d u)
// times |q| |x| of the exact inner product (Higham, Accuracy and Stability of Numerical Algorithms, section
// 3.1), the canonical score within a little more than u times that, and what underflows adds at most 2^-149 a
// term. The few items that this cannot tell from a held-out one are scored canonically.
class FactorBlock {
 public:
  FactorBlock(const FactorRanksArguments& arguments, const std::vector<double>& item_norms, int64_t first,
              int64_t count)
      : arguments_(arguments),
        item_norms_(item_norms),
        first_(first),
        count_(count),
        scores_(static_cast<size_t>(count * kItemBlock)) {
    queries_.assign(arguments.queries, first, count);
    rows_.reserve(static_cast<size_t>(count));
    for (int64_t q = 0; q < count; ++q)
      rows_.emplace_back(arguments.exclude, arguments.allowed, arguments.out, first + q);
    if (arguments.items.columns >= kShortVector && arguments.items.columns <= kLongVector) {
      panel_.resize(static_cast<size_t>(arguments.items.columns * kPanel));
      products_.resize(static_cast<size_t>(count * kPanel));
    }
  }

  void rank(Worker& worker) {
    const Matrix<const float>& items = arguments_.items;
    for (int64_t q = 0; q < count_; ++q) score_held_out(q);
    for (int64_t start = 0; start < items.rows && !worker.should_stop(); start += kItemBlock) {
      const int64_t count = std::min(kItemBlock, items.rows - start);
      for (int64_t i = 0; i < count; ++i) pointers_[i] = items.row(start + i);
      if (panel_.empty()) {
        score(0, count_, pointers_, count, scores_.data());
        for (int64_t q = 0; q < count_; ++q) row(q).add(scores_of(q), start, count);
      } else {
        approximate(count);
        for (int64_t q = 0; q < count_; ++q) add_approximate(q, start, count);
      }
    }
    for (const RowRanks<float>& ranks : rows_) ranks.write();
  }

 private:
  RowRanks<float>& row(int64_t q) { return rows_[static_cast<size_t>(q)]; }
  float* scores_of(int64_t q) { return scores_.data() + q * kItemBlock; }

  // Canonical scores, kItemBlock apart from query to query.
  void score(int64_t query, int64_t queries, const float* const* items, int64_t count, float* out) const {
    kernels().canonical({Metric::dot, queries_.values.data() + query * queries_.stride, queries_.stride,
                         queries, nullptr, items, nullptr, count, arguments_.items.columns, out, kItemBlock});
  }

  void score_held_out(int64_t q) {
    for (int64_t start = 0; start < row(q).size(); start += kItemBlock) {
      const int64_t count = std::min(kItemBlock, row(q).size() - start);
      for (int64_t n = 0; n < count; ++n) pointers_[n] = arguments_.items.row(row(q).item(start + n));
      score(q, 1, pointers_, count, scores_.data());
      for (int64_t n = 0; n < count; ++n) row(q).set_score(start + n, scores_[static_cast<size_t>(n)]);
    }
  }

  // Sums in float32 of all queries with the `count` items of `pointers_`.
  void approximate(int64_t count) {
    const int64_t dimensions = arguments_.items.columns;
    for (int64_t start = 0; start < count; start += kPanel) {
      const int64_t width = std::min(kPanel, count - start);
      for (int64_t i = 0; i < width; ++i)
        for (int64_t j = 0; j < dimensions; ++j)
          panel_[static_cast<size_t>(j * kPanel + i)] = pointers_[start + i][j];
      kernels().rotate(arguments_.queries.row(first_), arguments_.queries.row_stride, count_, dimensions,
                       panel_.data(), kPanel, products_.data(), kPanel);
      for (int64_t q = 0; q < count_; ++q)
        std::copy_n(products_.data() + q * kPanel, width, scores_of(q) + start);
    }
  }

  void add_approximate(int64_t q, int64_t start, int64_t count) {
    const double terms = static_cast<double>(arguments_.items.columns) + 4.0;
    const double norms = std::sqrt(queries_.norms[static_cast<size_t>(q)] *
                                   item_norms_[static_cast<size_t>(start / kItemBlock)]);
    const auto score_all = [&](float* out) { score(q, 1, pointers_, count, out); };
    if (norms > 1e37) {  // a sum might overflow on its way
      score_all(scores_of(q));
      return row(q).add(scores_of(q), start, count);
    }
    const auto score_some = [&](const int64_t* places, int64_t found, float* out) {
      const float* chosen[kDoubtful];
      for (int64_t i = 0; i < found; ++i) chosen[i] = pointers_[places[i]];
      score(q, 1, chosen, found, out);
    };
    const double error = terms * (0x1.02p-24 * norms + 0x1p-148);
    row(q).add_approximate(scores_of(q), start, count, error, score_some, score_all);
  }

  const FactorRanksArguments& arguments_;
  const std::vector<double>& item_norms_;  // the largest squared norm of each block
  int64_t first_;
  int64_t count_;
  CanonicalQueries queries_;
  std::vector<RowRanks<float>> rows_;
  std::vector<float> scores_;    // of all queries with a block of items
  std::vector<float> panel_;     // kPanel items, dimension by dimension
  std::vector<float> products_;  // of all queries with a panel
  const float* pointers_[kItemBlock];
};

std::vector<double> largest_norms(const Matrix<const float>& items) {
  std::vector<double> norms(static_cast<size_t>(items.rows)), largest;
  kernels().squared_norms(items.data, items.row_stride, items.rows, items.columns, norms.data());
  for (int64_t start = 0; start < items.rows; start += kItemBlock)
    largest.push_back(
        *std::max_element(norms.begin() + start, norms.begin() + std::min(start + kItemBlock, items.rows)));
  return largest;
}

Status rank_everything(const FactorRanksArguments& arguments, const Context& context) {
  const int64_t queries = arguments.queries.rows;
  if (queries == 0) return {};
  const double operations = static_cast<double>(queries) * static_cast<double>(arguments.items.rows) *
                            static_cast<double>(arguments.queries.columns + 8);
  const int threads = worker_count(context, queries, operations);
  const int64_t share = (queries + threads - 1) / threads + kQueryStep - 1;
  const int64_t block = std::clamp(share / kQueryStep * kQueryStep, kQueryStep, kQueryBlock);
  const std::vector<double> norms = largest_norms(arguments.items);
  return parallel_for(context, threads, (queries + block - 1) / block, [&](int64_t unit, Worker& worker) {
    const int64_t first = unit * block;
    FactorBlock(arguments, norms, first, std::min(block, queries - first)).rank(worker);
  });
}

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
                                     {scores.data(), count, lists.columns, lists.columns},
                                     Path::automatic,
                                     {},
                                     {}},
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
  return arguments.lists.columns > 0 ? rank_by_search(arguments, context)
                                     : rank_everything(arguments, context);
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
