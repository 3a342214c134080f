// Exact top-k: a thresholded fp32 scan whose few survivors are rescored canonically.
//
// Work is cut into query groups times item ranges. Because the order of the contract is total, the
// best k of a union are found from the best k of its parts, and no cut changes the answer.
#include <numeric>

#include "core/validate.h"
#include "cpu/canonical_queries.h"
#include "cpu/operations.h"
#include "cpu/ranking.h"
#include "cpu/screening_bound.h"

namespace salience::cpu {
namespace {

using Ranking = Rank<float>;
using Key = Ranking::Key;

constexpr int64_t kQueryGroup = 256;
constexpr int64_t kLeastRange = 4096;            // items: below this a unit is all overhead
constexpr int64_t kReservoirBytes = 64ll << 20;  // of one worker
constexpr int64_t kFirstBlock = 24;

struct Problem {
  const TopKArguments& arguments;
  Matrix<const float> items;      // what is scanned: all items, or the allowed ones
  std::vector<int64_t> item_ids;  // their rows in the caller's matrix; empty: the same rows
  std::vector<float> compacted;   // backing memory of `items` when few are allowed
  std::vector<int32_t> sorted;    // exclude's indices, each row ascending
  float sign;                     // keys hold sign * score, so that larger is better
  bool dense;                     // k is near n: score everything

  int64_t id(int64_t row) const { return item_ids.empty() ? row : item_ids[static_cast<size_t>(row)]; }

  bool admits(int64_t query, int64_t id) const {
    if (item_ids.empty() && arguments.allowed != nullptr && arguments.allowed[id] == 0) return false;
    if (sorted.empty()) return true;
    const int64_t* const indptr = arguments.exclude.indptr;
    return !std::binary_search(sorted.begin() + indptr[query], sorted.begin() + indptr[query + 1],
                               static_cast<int32_t>(id));
  }
};

void sort_exclusions(const Csr& exclude, std::vector<int32_t>& sorted) {
  if (exclude.indptr == nullptr || exclude.entries == 0) return;
  sorted.assign(exclude.indices, exclude.indices + exclude.entries);
  for (int64_t q = 0; q < exclude.rows; ++q) {
    const auto begin = sorted.begin() + exclude.indptr[q], end = sorted.begin() + exclude.indptr[q + 1];
    if (!std::is_sorted(begin, end)) std::sort(begin, end);
  }
}

// A very selective allow-list is copied out, so that the scan reads nothing else.
void compact_allowed(Problem& problem) {
  const uint8_t* const allowed = problem.arguments.allowed;
  if (allowed == nullptr) return;
  const Matrix<const float>& items = problem.arguments.items;
  const int64_t count = items.rows - std::count(allowed, allowed + items.rows, uint8_t{0});
  if (count > items.rows / 4) return;
  problem.compacted.resize(static_cast<size_t>(count * items.columns));
  problem.item_ids.reserve(static_cast<size_t>(count) + 1);
  for (int64_t i = 0; i < items.rows; ++i) {
    if (allowed[i] == 0) continue;
    const auto row = static_cast<std::ptrdiff_t>(problem.item_ids.size());
    std::copy_n(items.row(i), items.columns, problem.compacted.begin() + row * items.columns);
    problem.item_ids.push_back(i);
  }
  problem.items = {problem.compacted.data(), count, items.columns, items.columns};
  // An empty map means "the same rows", so a list that allows nothing keeps a sentinel.
  if (count == 0) problem.item_ids.push_back(-1);
}

// One query group against one range of items.
class Unit {
 public:
  Unit(const Problem& problem, int64_t first, int64_t count, std::vector<Reservoir<Key>>& best)
      : problem_(problem),
        metric_(problem.arguments.metric),
        dimensions_(problem.items.columns),
        first_(first),
        count_(count),
        bound_(metric_, dimensions_),
        best_(best) {
    queries_.assign(problem.arguments.queries, first, count);
  }

  void scan(int64_t begin, int64_t end, Worker& worker) {
    if (!problem_.dense) pack();
    const int64_t blocks = (end - begin + kBlockRows - 1) / kBlockRows;
    const int64_t step = coprime_step(blocks);
    for (int64_t n = 0, block = 0; n < blocks && !worker.should_stop();
         ++n, block = (block + step) % blocks) {
      const int64_t start = begin + block * kBlockRows;
      const int64_t rows = std::min(kBlockRows, end - start);
      if (problem_.dense) {
        score_everything(start, rows);
      } else if (n == 0) {
        // Thresholds tighten fastest at the start: small blocks first.
        for (int64_t at = 0, width = kFirstBlock; at < rows;
             at += width, width = std::min(2 * width, kBlockRows)) {
          screen_block(start + at, std::min(width, rows - at));
          for (int64_t q = 0; q < count_; ++q) best_[static_cast<size_t>(q)].compact();
        }
      } else {
        screen_block(start, rows);
      }
    }
  }

 private:
  // Blocks are visited in golden-ratio strides: items sorted by popularity, say, would otherwise show
  // each threshold its best items last.
  static int64_t coprime_step(int64_t blocks) {
    int64_t step = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(blocks) * 0.6180339887));
    while (std::gcd(step, blocks) != 1) ++step;
    return blocks > 1 ? step : 1;
  }

  void pack() {
    const int64_t lanes = kernels().lanes;
    vectors_ = count_ > lanes ? 2 : 1;
    width_ = vectors_ * lanes;
    panels_ = (count_ + width_ - 1) / width_;
    packed_.assign(static_cast<size_t>(panels_ * dimensions_ * width_), 0.0f);
    for (int64_t q = 0; q < count_; ++q) {
      const float* const row = problem_.arguments.queries.row(first_ + q);
      float* const lane = packed_.data() + q / width_ * dimensions_ * width_ + q % width_;
      for (int64_t j = 0; j < dimensions_; ++j) lane[j * width_] = row[j];
    }
    thresholds_.resize(static_cast<size_t>(width_));
    survivors_.resize(static_cast<size_t>(kBlockRows * width_));
  }

  // Norms, and what the epilogue of the scan needs of each item.
  ItemRange describe(int64_t start, int64_t rows) {
    kernels().squared_norms(problem_.items.row(start), problem_.items.row_stride, rows, dimensions_, norms_);
    ItemRange range;
    for (int64_t r = 0; r < rows; ++r) {
      const double norm = std::sqrt(norms_[r]);
      // Not std::max: a NaN or infinite norm must reach the bound, which then rules nothing out.
      if (!(norm <= range.largest_norm)) range.largest_norm = norm;
      if (metric_ == Metric::euclidean) {
        terms_[r] = static_cast<float>(0.5 * norms_[r]);
      } else if (metric_ == Metric::cosine) {
        // A NaN term lets the item through to exact scoring: its inverse norm is not an fp32 number.
        const bool normal = norm > 0x1.0p-120 && norm < 0x1.0p120;
        terms_[r] = normal ? static_cast<float>(1.0 / norm) : std::nanf("");
        if (normal) range.largest_inverse = std::max(range.largest_inverse, 1.0 / norm);
      }
    }
    return range;
  }

  void screen_block(int64_t start, int64_t rows) {
    const ItemRange range = describe(start, rows);
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t lanes = std::min(width_, count_ - p * width_);
      std::fill(thresholds_.begin(), thresholds_.end(), std::numeric_limits<float>::infinity());
      for (int64_t lane = 0; lane < lanes; ++lane)
        thresholds_[static_cast<size_t>(lane)] = threshold(p * width_ + lane, range);
      const ScreenArguments arguments{problem_.items.row(start),
                                      problem_.items.row_stride,
                                      rows,
                                      dimensions_,
                                      packed_.data() + p * dimensions_ * width_,
                                      vectors_,
                                      epilogue(),
                                      terms_,
                                      thresholds_.data(),
                                      survivors_.data()};
      const int64_t found = kernels().screen(arguments);
      for (int64_t n = 0; n < found; ++n) {
        const int64_t lane = survivors_[static_cast<size_t>(n)] >> 16;
        if (lane < lanes) rescore(p * width_ + lane, start, survivors_[static_cast<size_t>(n)] & 0xFFFF);
      }
    }
  }

  Screen epilogue() const {
    if (metric_ == Metric::cosine) return Screen::scaled;
    return metric_ == Metric::euclidean ? Screen::shifted : Screen::product;
  }

  float threshold(int64_t query, const ItemRange& range) const {
    const Reservoir<Key>& best = best_[static_cast<size_t>(query)];
    if (!best.full()) return -std::numeric_limits<float>::infinity();
    const float level = problem_.sign * Ranking::score(best.bound());
    return bound_.threshold(level, std::sqrt(queries_.norms[static_cast<size_t>(query)]), range);
  }

  void rescore(int64_t query, int64_t start, int64_t row) {
    const int64_t id = problem_.id(start + row);
    if (!problem_.admits(first_ + query, id)) return;
    const float* const item = problem_.items.row(start + row);
    float score;
    kernels().canonical({metric_, queries_.values.data() + query * queries_.stride, queries_.stride, 1,
                         queries_.norms.data() + query, &item, norms_ + row, 1, dimensions_, &score, 1});
    best_[static_cast<size_t>(query)].offer(Ranking::key(problem_.sign * score, id));
  }

  void score_everything(int64_t start, int64_t rows) {
    kernels().squared_norms(problem_.items.row(start), problem_.items.row_stride, rows, dimensions_, norms_);
    const float* pointers[kBlockRows];
    for (int64_t r = 0; r < rows; ++r) pointers[r] = problem_.items.row(start + r);
    scores_.resize(static_cast<size_t>(rows * count_));
    kernels().canonical({metric_, queries_.values.data(), queries_.stride, count_, queries_.norms.data(),
                         pointers, norms_, rows, dimensions_, scores_.data(), rows});
    for (int64_t q = 0; q < count_; ++q) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t id = problem_.id(start + r);
        if (!problem_.admits(first_ + q, id)) continue;
        best_[static_cast<size_t>(q)].offer(
            Ranking::key(problem_.sign * scores_[static_cast<size_t>(q * rows + r)], id));
      }
    }
  }

  const Problem& problem_;
  Metric metric_;
  int64_t dimensions_;
  int64_t first_;
  int64_t count_;
  ScreeningBound bound_;
  std::vector<Reservoir<Key>>& best_;
  CanonicalQueries queries_;
  int64_t vectors_ = 1, width_ = 0, panels_ = 0;
  std::vector<float> packed_, thresholds_, scores_;
  std::vector<uint32_t> survivors_;
  double norms_[kBlockRows] = {};
  float terms_[kBlockRows] = {};
};

void write_row(const TopKArguments& arguments, int64_t query, std::vector<Key>& keys, float sign) {
  sort_best(keys, arguments.k);
  for (int64_t j = 0; j < arguments.k; ++j) {
    const bool filled = j < static_cast<int64_t>(keys.size());
    const Key key = filled ? keys[static_cast<size_t>(j)] : 0;
    arguments.ids.row(query)[j] = filled ? Ranking::item(key) : -1;
    arguments.scores.row(query)[j] =
        filled ? sign * Ranking::score(key) + 0.0f : -sign * std::numeric_limits<float>::infinity();
  }
}

}  // namespace

Status topk(const TopKArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  if (arguments.queries.rows == 0) return {};
  Problem problem{
      arguments, arguments.items, {}, {}, {}, arguments.metric == Metric::euclidean ? -1.0f : 1.0f, false};
  sort_exclusions(arguments.exclude, problem.sorted);
  compact_allowed(problem);
  const int64_t items = problem.items.rows, queries = arguments.queries.rows, k = arguments.k;
  problem.dense = 8 * k >= items;

  const int64_t reservoir = (k + std::max<int64_t>(64, k)) * static_cast<int64_t>(sizeof(Key));
  const int64_t group = std::clamp<int64_t>(kReservoirBytes / reservoir, 1, kQueryGroup);
  const int64_t groups = (queries + group - 1) / group;
  const double operations = static_cast<double>(queries) * static_cast<double>(items) *
                            static_cast<double>(arguments.items.columns + 8);
  const int threads = worker_count(context, groups * (items / kLeastRange + 1), operations);
  const int64_t wanted = groups >= 4 * threads || threads == 1 ? 1 : (4 * threads + groups - 1) / groups;
  const int64_t ranges = std::clamp<int64_t>(items / kLeastRange, 1, wanted);

  std::vector<std::vector<Key>> partial(static_cast<size_t>(ranges > 1 ? ranges * queries : 0));
  Status status = parallel_for(context, threads, groups * ranges, [&](int64_t index, Worker& worker) {
    const int64_t first = index / ranges * group, range = index % ranges;
    const int64_t count = std::min(group, queries - first);
    std::vector<Reservoir<Key>> best(static_cast<size_t>(count), Reservoir<Key>(k));
    Unit unit(problem, first, count, best);
    unit.scan(items * range / ranges, items * (range + 1) / ranges, worker);
    for (int64_t q = 0; q < count; ++q) {
      std::vector<Key> keys = best[static_cast<size_t>(q)].keys();
      if (ranges == 1) {
        write_row(arguments, first + q, keys, problem.sign);
      } else {
        partial[static_cast<size_t>((first + q) * ranges + range)] = std::move(keys);
      }
    }
  });
  if (!status.ok() || ranges == 1) return status;
  for (int64_t q = 0; q < queries; ++q) {
    std::vector<Key> keys;
    for (int64_t r = 0; r < ranges; ++r) {
      const std::vector<Key>& part = partial[static_cast<size_t>(q * ranges + r)];
      keys.insert(keys.end(), part.begin(), part.end());
    }
    write_row(arguments, q, keys, problem.sign);
  }
  return {};
}

}  // namespace salience::cpu
