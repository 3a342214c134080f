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

constexpr int64_t kRowUnit = 256;
constexpr int64_t kRowChunk = 64;  // whose values are gathered before they are written, metric by metric
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

class RowMetrics {
 public:
  RowMetrics(const RankMetricsArguments& arguments, const Discounts& discounts, const Cutoffs& cutoffs)
      : arguments_(arguments), discounts_(discounts), cutoffs_(cutoffs), sums_(cutoffs.values.size()) {}

  // False where the row has held-out items but none of them a rank.
  bool load(int64_t row) {
    const Csr& held_out = arguments_.held_out;
    first_ = held_out.indptr[row];
    last_ = held_out.indptr[row + 1];
    relevant_ = last_ - first_;
    length_ = arguments_.lengths[row];
    hits_.clear();
    for (int64_t e = first_; e < last_; ++e)
      if (arguments_.ranks[e] > 0)
        hits_.push_back({arguments_.ranks[e], held_out.values == nullptr ? 1.0f : held_out.values[e]});
    if (hits_.empty()) return relevant_ == 0;
    std::sort(hits_.begin(), hits_.end(), [](const Hit& a, const Hit& b) { return a.rank < b.rank; });
    linear_.known = exponential_.known = false;
    for (size_t c = 0; c < sums_.size(); ++c) sums_[c] = sum(cutoffs_.values[c]);
    return true;
  }

  double value(int64_t number) {
    const RankMetric& metric = arguments_.metrics[number];
    if (relevant_ == 0) return kNaN;
    const int64_t k = metric.cutoff;
    // Without a hit, as for most users, everything that adds up what hits gain is 0.
    const bool missed = hits_.empty() || hits_.front().rank > k;
    if (missed && metric.formula < RankFormula::r_precision) return 0.0;
    const Sums& sums = sums_[cutoffs_.of_metric[static_cast<size_t>(number)]];
    const double relevant = static_cast<double>(relevant_), slots = static_cast<double>(k);
    const double capped = static_cast<double>(std::min(k, relevant_));
    const double returned = static_cast<double>(std::min(k, length_));
    switch (metric.formula) {
      case RankFormula::precision:
        return sums.hits / slots;
      case RankFormula::precision_returned:
        return sums.hits / returned;
      case RankFormula::recall:
        return sums.hits / relevant;
      case RankFormula::recall_capped:
        return sums.hits / capped;
      case RankFormula::hit_rate:
        return 1.0;
      case RankFormula::f1:
        return 2.0 * sums.hits / (slots + relevant);
      case RankFormula::average_precision:
        return sums.precisions / capped;
      case RankFormula::average_precision_relevant:
        return sums.precisions / relevant;
      case RankFormula::average_precision_cutoff:
        return sums.precisions / slots;
      case RankFormula::average_precision_returned:
        return sums.precisions / std::min(relevant, returned);
      case RankFormula::reciprocal_rank:
        return 1.0 / static_cast<double>(hits_.front().rank);
      case RankFormula::all_reciprocal_ranks:
        return sums.reciprocals;
      case RankFormula::ndcg:
        return sums.discounts / discounts_.sum(std::min(k, relevant_));
      case RankFormula::ndcg_relevant:
        return sums.discounts / discounts_.sum(relevant_);
      case RankFormula::ndcg_cutoff:
        return sums.discounts / discounts_.sum(k);
      case RankFormula::ndcg_returned:
        return sums.discounts / discounts_.sum(std::min({k, relevant_, length_}));
      case RankFormula::ndcg_linear:
        return graded(k, sums, linear_, false);
      case RankFormula::ndcg_exponential:
        return graded(k, sums, exponential_, true);
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
      case RankFormula::count:
        break;
    }
    return kNaN;
  }

 private:
  struct Hit {
    int64_t rank;
    float value;
  };

  // What the hits in the first k add up to.
  struct Sums {
    double hits = 0.0;
    double precisions = 0.0;  // at the hits
    double reciprocals = 0.0;
    double discounts = 0.0;
  };

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
  double graded(int64_t k, const Sums& sums, Gains& gains, bool exponential) const {
    if (!gains.known) know(gains, exponential);
    if (gains.ideal.front() == 0.0) return 0.0;
    if (gains.alike) return sums.discounts / discounts_.sum(std::min(k, relevant_));
    double found = 0.0, ideal = 0.0;
    for (size_t n = 0; n < hits_.size() && hits_[n].rank <= k; ++n)
      found += gains.found[n] * discounts_.at(hits_[n].rank);
    for (int64_t n = 0; n < std::min(k, relevant_); ++n)
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
  const Cutoffs& cutoffs_;
  std::vector<Sums> sums_;  // one per cut-off
  int64_t first_ = 0;
  int64_t last_ = 0;
  int64_t relevant_ = 0;
  int64_t length_ = 0;
  std::vector<Hit> hits_;
  Gains linear_;
  Gains exponential_;
};

// How many discounts the metrics can ask for: no more than the largest cut-off and, but for what fills up to
// the cut-off itself, no more than there are items.
int64_t longest_discount(const RankMetricsArguments& arguments) {
  int64_t longest = arguments.held_out.columns;
  for (int64_t m = 0; m < arguments.out.rows; ++m)
    if (arguments.metrics[m].formula == RankFormula::ndcg_cutoff)
      longest = std::max(longest, arguments.metrics[m].cutoff);
  return longest;
}

}  // namespace

Status rank_metrics(const RankMetricsArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const Discounts discounts(longest_discount(arguments));
  const int64_t metrics = arguments.out.rows, rows = arguments.held_out.rows;
  const Cutoffs cutoffs(arguments.metrics, metrics);
  // Rows without a hit, often most of them, have 0 wherever hits are added up.
  const bool only_sums = std::all_of(arguments.metrics, arguments.metrics + metrics, [](const RankMetric& m) {
    return m.formula <= RankFormula::r_precision;
  });
  const int64_t units = (rows + kRowUnit - 1) / kRowUnit;
  const double operations =
      8.0 * static_cast<double>(arguments.held_out.entries + rows) * static_cast<double>(metrics + 1);
  return parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
    RowMetrics row_metrics(arguments, discounts, cutoffs);
    std::vector<double> values(static_cast<size_t>(metrics * kRowChunk));
    const int64_t end = std::min(rows, (unit + 1) * kRowUnit);
    for (int64_t first = unit * kRowUnit; first < end; first += kRowChunk) {
      const int64_t count = std::min(kRowChunk, end - first);
      std::fill(values.begin(), values.end(), 0.0);
      for (int64_t n = 0; n < count; ++n) {
        if (!row_metrics.load(first + n) && only_sums) continue;
        for (int64_t m = 0; m < metrics; ++m)
          values[static_cast<size_t>(m * kRowChunk + n)] = row_metrics.value(m);
      }
      for (int64_t m = 0; m < metrics; ++m)
        std::copy_n(values.data() + m * kRowChunk, count, arguments.out.row(m) + first);
    }
  });
}

}  // namespace salience::cpu
