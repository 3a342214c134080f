// Ranking metrics of each row, from the ranks of its held-out items. Definitions: see
// python/salience/evaluation/metrics.py.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/validate.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

constexpr int64_t kRowUnit = 1024;
constexpr int64_t kRowChunk = 64;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double quotient(double numerator, double denominator) {
  return denominator == 0.0 ? kNaN : numerator / denominator;
}

// 1 / log2(rank + 1) and its sums, computed once for all rows.
class Discounts {
 public:
  explicit Discounts(int64_t longest) : values_(static_cast<size_t>(longest)), sums_(values_.size() + 1) {
    for (size_t n = 0; n < values_.size(); ++n) {
      values_[n] = 1.0 / std::log2(static_cast<double>(n) + 2.0);
      sums_[n + 1] = sums_[n] + values_[n];
    }
  }

  double at(int64_t rank) const { return values_[static_cast<size_t>(rank - 1)]; }
  // Over ranks 1 to `ranks`.
  double sum(int64_t ranks) const { return sums_[static_cast<size_t>(ranks)]; }

 private:
  std::vector<double> values_;
  std::vector<double> sums_;
};

// The gains of a row: of its held-out items, largest first, and of its hits.
struct Gains {
  std::vector<double> ideal;
  std::vector<double> found;
  bool known = false;
  bool alike = false;  // all the same: what they are cancels
};

// 2^v - 1, relative to the largest of the row, so that it cannot overflow: the scale cancels in NDCG.
double exponential_gain(double value, double largest) {
  return std::exp2(value - largest) * -std::expm1(-value * std::log(2.0));
}

// The distinct cut-offs of the metrics, and which of them is each metric's.
struct Cutoffs {
  std::vector<int64_t> values;
  std::vector<size_t> of_metric;

  Cutoffs(const RankMetric* metrics, int64_t count) {
    for (int64_t m = 0; m < count; ++m) {
      const auto at = std::find(values.begin(), values.end(), metrics[m].cutoff);
      of_metric.push_back(static_cast<size_t>(at - values.begin()));
      if (at == values.end()) values.push_back(metrics[m].cutoff);
    }
  }
};

// What the hits in the first k of a row add up to.
struct Sums {
  double hits = 0.0;
  double precisions = 0.0;  // at the hits
  double reciprocals = 0.0;
  double discounts = 0.0;
};

// Whether a formula needs more of a row than its sums.
bool needs_row(RankFormula formula) {
  switch (formula) {
    case RankFormula::ndcg_linear:
    case RankFormula::ndcg_exponential:
    case RankFormula::rank_biased_precision:
    case RankFormula::r_precision:
    case RankFormula::auc:
    case RankFormula::auc_ordered:
    case RankFormula::expected_precision:
    case RankFormula::expected_recall:
    case RankFormula::expected_ndcg:
      return true;
    default:
      return false;
  }
}

// One row: its hits in order, their sums at each cut-off, and the formulas that need them one by one.
class RowMetrics {
 public:
  RowMetrics(const RankMetricsArguments& arguments, const Discounts& discounts)
      : arguments_(arguments), discounts_(discounts) {}

  void load(int64_t row) {
    const Csr& held_out = arguments_.held_out;
    first_ = held_out.indptr[row];
    last_ = held_out.indptr[row + 1];
    relevant_ = last_ - first_;
    length_ = arguments_.lengths[row];
    hits_.clear();
    for (int64_t e = first_; e < last_; ++e)
      if (arguments_.ranks[e] > 0)
        hits_.push_back({arguments_.ranks[e], held_out.values == nullptr ? 1.0f : held_out.values[e]});
    std::sort(hits_.begin(), hits_.end(), [](const Hit& a, const Hit& b) { return a.rank < b.rank; });
    linear_.known = exponential_.known = false;
  }

  int64_t relevant() const { return relevant_; }
  int64_t length() const { return length_; }
  int64_t first_rank() const { return hits_.empty() ? 0 : hits_.front().rank; }

  Sums sum(int64_t k) const {
    Sums sums;
    for (const Hit& hit : hits_) {
      if (hit.rank > k) break;
      const double rank = static_cast<double>(hit.rank);
      sums.hits += 1.0;
      sums.precisions += sums.hits / rank;
      sums.reciprocals += 1.0 / rank;
      sums.discounts += discounts_.at(hit.rank);
    }
    return sums;
  }

  // Of the formulas for which needs_row holds.
  double value(const RankMetric& metric) {
    const int64_t k = metric.cutoff;
    const double slots = static_cast<double>(k), relevant = static_cast<double>(relevant_);
    switch (metric.formula) {
      case RankFormula::ndcg_linear:
        return graded(k, linear_, false);
      case RankFormula::ndcg_exponential:
        return graded(k, exponential_, true);
      case RankFormula::rank_biased_precision:
        return rank_biased(k, metric.parameter);
      case RankFormula::r_precision:
        return sum(relevant_).hits / relevant;
      case RankFormula::auc:
        return area(true);
      case RankFormula::auc_ordered:
        return area(false);
      case RankFormula::expected_precision:
        return expected_hits(k) / slots;
      case RankFormula::expected_recall:
        return expected_hits(k) / relevant;
      case RankFormula::expected_ndcg:
        return expected_discounted(k) / discounts_.sum(std::min(k, relevant_));
      default:
        return kNaN;
    }
  }

 private:
  struct Hit {
    int64_t rank;
    float value;
  };

  double rank_biased(int64_t k, double persistence) const {
    double total = 0.0;
    for (const Hit& hit : hits_)
      if (hit.rank <= k) total += std::pow(persistence, static_cast<double>(hit.rank - 1));
    return (1.0 - persistence) * total;
  }

  void know(Gains& gains, bool exponential) const {
    gains.ideal.clear();
    for (int64_t e = first_; e < last_; ++e)
      gains.ideal.push_back(static_cast<double>(arguments_.held_out.values[e]));
    std::sort(gains.ideal.begin(), gains.ideal.end(), [](double a, double b) { return a > b; });
    gains.known = true;
    gains.alike = gains.ideal.front() == gains.ideal.back();
    if (gains.alike) return;
    gains.found.clear();
    for (const Hit& hit : hits_) gains.found.push_back(static_cast<double>(hit.value));
    if (!exponential) return;
    const double largest = gains.ideal.front();
    for (double& gain : gains.found) gain = exponential_gain(gain, largest);
    for (double& gain : gains.ideal) gain = exponential_gain(gain, largest);
  }

  // 0 where no held-out item has a gain: nothing could be gained.
  double graded(int64_t k, Gains& gains, bool exponential) const {
    if (hits_.empty() || hits_.front().rank > k) return 0.0;
    if (!gains.known) know(gains, exponential);
    if (gains.ideal.front() == 0.0) return 0.0;
    const int64_t possible = std::min(k, relevant_);
    if (gains.alike) return sum(k).discounts / discounts_.sum(possible);
    double found = 0.0, ideal = 0.0;
    for (size_t n = 0; n < hits_.size() && hits_[n].rank <= k; ++n)
      found += gains.found[n] * discounts_.at(hits_[n].rank);
    for (int64_t n = 0; n < possible; ++n)
      ideal += gains.ideal[static_cast<size_t>(n)] * discounts_.at(n + 1);
    return found / ideal;
  }

  // The share of (held-out, other) pairs of candidates that are in the right order; a tie is half of it
  // where `ties` says so. By ranks: Mann and Whitney, 1947.
  double area(bool ties) const {
    const double held_out = static_cast<double>(hits_.size());
    const double others = static_cast<double>(length_) - held_out;
    double ranks = 0.0;
    for (int64_t e = first_; e < last_; ++e) {
      if (arguments_.ranks[e] == 0) continue;
      ranks += ties ? static_cast<double>(arguments_.better[e]) + 1.0 +
                          0.5 * static_cast<double>(arguments_.equal[e])
                    : static_cast<double>(arguments_.ranks[e]);
    }
    const double misplaced = ranks - 0.5 * held_out * (held_out + 1.0);
    return quotient(held_out * others - misplaced, held_out * others);
  }

  // Where tied items stand in random order, an item is equally likely at each of the ranks
  // better + 1 .. better + equal + 1; expectations are linear.
  double expected_hits(int64_t k) const {
    double total = 0.0;
    for (int64_t e = first_; e < last_; ++e) {
      if (arguments_.ranks[e] == 0 || arguments_.better[e] >= k) continue;
      const double places = static_cast<double>(arguments_.equal[e]) + 1.0;
      total += std::min(places, static_cast<double>(k - arguments_.better[e])) / places;
    }
    return total;
  }
  double expected_discounted(int64_t k) const {
    double total = 0.0;
    for (int64_t e = first_; e < last_; ++e) {
      const int64_t better = arguments_.better[e], places = arguments_.equal[e] + 1;
      if (arguments_.ranks[e] == 0 || better >= k) continue;
      const double gained = discounts_.sum(std::min(k, better + places)) - discounts_.sum(better);
      total += gained / static_cast<double>(places);
    }
    return total;
  }

  const RankMetricsArguments& arguments_;
  const Discounts& discounts_;
  int64_t first_ = 0;
  int64_t last_ = 0;
  int64_t relevant_ = 0;
  int64_t length_ = 0;
  std::vector<Hit> hits_;
  Gains linear_;
  Gains exponential_;
};

// The metrics of a chunk of rows: a formula of sums is one loop over all of them.
class ChunkMetrics {
 public:
  ChunkMetrics(const RankMetricsArguments& arguments, const Discounts& discounts, const Cutoffs& cutoffs)
      : arguments_(arguments),
        discounts_(discounts),
        cutoffs_(cutoffs),
        row_(arguments, discounts),
        sums_(cutoffs.values.size() * kRowChunk) {}

  void write(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    for (int64_t n = 0; n < count; ++n) load(n);
    for (int64_t m = 0; m < arguments_.out.rows; ++m)
      if (!needs_row(arguments_.metrics[m].formula)) write_sums(m);
    for (int64_t n = 0; n < count; ++n) {
      if (relevant_[n] != 0) continue;
      for (int64_t m = 0; m < arguments_.out.rows; ++m) arguments_.out.row(m)[first_ + n] = kNaN;
    }
  }

 private:
  void load(int64_t n) {
    row_.load(first_ + n);
    relevant_[n] = row_.relevant();
    length_[n] = row_.length();
    first_rank_[n] = row_.first_rank();
    for (size_t c = 0; c < cutoffs_.values.size(); ++c)
      sums_[c * kRowChunk + static_cast<size_t>(n)] = row_.sum(cutoffs_.values[c]);
    for (int64_t m = 0; m < arguments_.out.rows; ++m) {
      const RankMetric& metric = arguments_.metrics[m];
      if (needs_row(metric.formula)) arguments_.out.row(m)[first_ + n] = row_.value(metric);
    }
  }

  // out = value(sums, relevant, slots that count) of every row.
  template <class Value>
  void each(int64_t m, Value value) const {
    const int64_t k = arguments_.metrics[m].cutoff;
    const Sums* const sums = sums_.data() + cutoffs_.of_metric[static_cast<size_t>(m)] * kRowChunk;
    double* const out = arguments_.out.row(m) + first_;
    for (int64_t n = 0; n < count_; ++n) out[n] = value(sums[n], relevant_[n], std::min(k, length_[n]));
  }

  void write_sums(int64_t m) const {
    const int64_t k = arguments_.metrics[m].cutoff;
    const double slots = static_cast<double>(k);
    const auto real = [](int64_t count) { return static_cast<double>(count); };
    const auto share = [](double part, double of) { return part == 0.0 ? 0.0 : part / of; };
    switch (arguments_.metrics[m].formula) {
      case RankFormula::precision:
        return each(m, [&](const Sums& s, int64_t, int64_t) { return s.hits / slots; });
      case RankFormula::precision_returned:
        return each(m, [&](const Sums& s, int64_t, int64_t n) { return share(s.hits, real(n)); });
      case RankFormula::recall:
        return each(m, [&](const Sums& s, int64_t r, int64_t) { return s.hits / real(r); });
      case RankFormula::recall_capped:
        return each(m, [&](const Sums& s, int64_t r, int64_t) { return s.hits / real(std::min(k, r)); });
      case RankFormula::hit_rate:
        return each(m, [&](const Sums& s, int64_t, int64_t) { return s.hits > 0.0 ? 1.0 : 0.0; });
      case RankFormula::f1:
        return each(m, [&](const Sums& s, int64_t r, int64_t) { return 2.0 * s.hits / (slots + real(r)); });
      case RankFormula::average_precision:
        return each(m,
                    [&](const Sums& s, int64_t r, int64_t) { return s.precisions / real(std::min(k, r)); });
      case RankFormula::average_precision_relevant:
        return each(m, [&](const Sums& s, int64_t r, int64_t) { return s.precisions / real(r); });
      case RankFormula::average_precision_cutoff:
        return each(m, [&](const Sums& s, int64_t, int64_t) { return s.precisions / slots; });
      case RankFormula::average_precision_returned:
        return each(m, [&](const Sums& s, int64_t r, int64_t n) {
          return share(s.precisions, real(std::min(r, n)));
        });
      case RankFormula::reciprocal_rank:
        return write_reciprocal(m);
      case RankFormula::all_reciprocal_ranks:
        return each(m, [&](const Sums& s, int64_t, int64_t) { return s.reciprocals; });
      case RankFormula::ndcg:
        return each(m, [&](const Sums& s, int64_t r, int64_t) {
          return s.discounts / discounts_.sum(std::min(k, r));
        });
      case RankFormula::ndcg_relevant:
        return each(m, [&](const Sums& s, int64_t r, int64_t) { return s.discounts / discounts_.sum(r); });
      case RankFormula::ndcg_cutoff:
        return each(m, [&](const Sums& s, int64_t, int64_t) { return s.discounts / discounts_.sum(k); });
      case RankFormula::ndcg_returned:
        return each(m, [&](const Sums& s, int64_t r, int64_t n) {
          return share(s.discounts, discounts_.sum(std::min(r, n)));
        });
      default:
        return;
    }
  }

  void write_reciprocal(int64_t m) const {
    const int64_t k = arguments_.metrics[m].cutoff;
    double* const out = arguments_.out.row(m) + first_;
    for (int64_t n = 0; n < count_; ++n)
      out[n] = first_rank_[n] > 0 && first_rank_[n] <= k ? 1.0 / static_cast<double>(first_rank_[n]) : 0.0;
  }

  const RankMetricsArguments& arguments_;
  const Discounts& discounts_;
  const Cutoffs& cutoffs_;
  RowMetrics row_;
  int64_t first_ = 0;
  int64_t count_ = 0;
  int64_t relevant_[kRowChunk];
  int64_t length_[kRowChunk];
  int64_t first_rank_[kRowChunk];
  std::vector<Sums> sums_;  // cut-off by cut-off, one per row
};

// How many discounts the metrics can ask for: up to the largest cut-off or row, but for what fills up to the
// cut-off itself no more than there are items.
int64_t longest_discount(const RankMetricsArguments& arguments) {
  const Csr& held_out = arguments.held_out;
  int64_t longest = 0;
  for (int64_t m = 0; m < arguments.out.rows; ++m) {
    const RankMetric& metric = arguments.metrics[m];
    const bool filled = metric.formula == RankFormula::ndcg_cutoff;
    longest = std::max(longest, filled ? metric.cutoff : std::min(metric.cutoff, held_out.columns));
  }
  for (int64_t row = 0; row < held_out.rows; ++row)
    longest = std::max(longest, held_out.indptr[row + 1] - held_out.indptr[row]);
  return longest;
}

}  // namespace

Status rank_metrics(const RankMetricsArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const Discounts discounts(longest_discount(arguments));
  const int64_t metrics = arguments.out.rows, rows = arguments.held_out.rows;
  const Cutoffs cutoffs(arguments.metrics, metrics);
  const int64_t units = (rows + kRowUnit - 1) / kRowUnit;
  const double operations =
      8.0 * static_cast<double>(arguments.held_out.entries + rows) * static_cast<double>(metrics + 1);
  return parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
    ChunkMetrics chunk(arguments, discounts, cutoffs);
    const int64_t end = std::min(rows, (unit + 1) * kRowUnit);
    for (int64_t first = unit * kRowUnit; first < end; first += kRowChunk)
      chunk.write(first, std::min(kRowChunk, end - first));
  });
}

}  // namespace salience::cpu
