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
};

// 2^v - 1, relative to the largest of the row, so that it cannot overflow: the scale cancels in NDCG.
double exponential_gain(double value, double largest) {
  return std::exp2(value - largest) * -std::expm1(-value * std::log(2.0));
}

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

  double value(const RankMetric& metric) {
    if (relevant_ == 0) return kNaN;
    const int64_t k = metric.cutoff;
    // Without a hit, as for most users, everything that adds up what hits gain is 0.
    const bool missed = hits_.empty() || hits_.front().rank > k;
    if (missed && metric.formula < RankFormula::r_precision) return 0.0;
    const double relevant = static_cast<double>(relevant_), slots = static_cast<double>(k);
    const double capped = static_cast<double>(std::min(k, relevant_));
    const double returned = static_cast<double>(std::min(k, length_));
    switch (metric.formula) {
      case RankFormula::precision:
        return hits(k) / slots;
      case RankFormula::precision_returned:
        return hits(k) / returned;
      case RankFormula::recall:
        return hits(k) / relevant;
      case RankFormula::recall_capped:
        return hits(k) / capped;
      case RankFormula::hit_rate:
        return 1.0;
      case RankFormula::f1:
        return 2.0 * hits(k) / (slots + relevant);
      case RankFormula::average_precision:
        return precision_sum(k) / capped;
      case RankFormula::average_precision_relevant:
        return precision_sum(k) / relevant;
      case RankFormula::average_precision_cutoff:
        return precision_sum(k) / slots;
      case RankFormula::average_precision_returned:
        return precision_sum(k) / std::min(relevant, returned);
      case RankFormula::reciprocal_rank:
        return 1.0 / static_cast<double>(hits_.front().rank);
      case RankFormula::all_reciprocal_ranks:
        return reciprocal_sum(k);
      case RankFormula::ndcg:
        return discounted(k) / discounts_.sum(std::min(k, relevant_));
      case RankFormula::ndcg_relevant:
        return discounted(k) / discounts_.sum(relevant_);
      case RankFormula::ndcg_cutoff:
        return discounted(k) / discounts_.sum(k);
      case RankFormula::ndcg_returned:
        return discounted(k) / discounts_.sum(std::min({k, relevant_, length_}));
      case RankFormula::ndcg_linear:
        return graded(k, linear_, false);
      case RankFormula::ndcg_exponential:
        return graded(k, exponential_, true);
      case RankFormula::rank_biased_precision:
        return rank_biased(k, metric.parameter);
      case RankFormula::r_precision:
        return hits(relevant_) / relevant;
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

  // Calls visit(rank, hits so far, value) for every hit in the first k.
  template <class Visit>
  void each_hit(int64_t k, Visit visit) const {
    double seen = 0.0;
    for (const Hit& hit : hits_) {
      if (hit.rank > k) break;
      visit(hit.rank, seen += 1.0, hit.value);
    }
  }

  double hits(int64_t k) const {
    double total = 0.0;
    each_hit(k, [&](int64_t, double seen, float) { total = seen; });
    return total;
  }
  double precision_sum(int64_t k) const {
    double total = 0.0;
    each_hit(k, [&](int64_t rank, double seen, float) { total += seen / static_cast<double>(rank); });
    return total;
  }
  double reciprocal_sum(int64_t k) const {
    double total = 0.0;
    each_hit(k, [&](int64_t rank, double, float) { total += 1.0 / static_cast<double>(rank); });
    return total;
  }
  double discounted(int64_t k) const {
    double total = 0.0;
    each_hit(k, [&](int64_t rank, double, float) { total += discounts_.at(rank); });
    return total;
  }
  double rank_biased(int64_t k, double persistence) const {
    double total = 0.0;
    each_hit(k, [&](int64_t rank, double, float) {
      total += std::pow(persistence, static_cast<double>(rank - 1));
    });
    return (1.0 - persistence) * total;
  }

  void know(Gains& gains, bool exponential) const {
    gains.ideal.clear();
    for (int64_t e = first_; e < last_; ++e)
      gains.ideal.push_back(static_cast<double>(arguments_.held_out.values[e]));
    std::sort(gains.ideal.begin(), gains.ideal.end(), [](double a, double b) { return a > b; });
    gains.found.clear();
    for (const Hit& hit : hits_) gains.found.push_back(static_cast<double>(hit.value));
    if (exponential) {
      const double largest = gains.ideal.front();
      for (double& gain : gains.found) gain = exponential_gain(gain, largest);
      for (double& gain : gains.ideal) gain = exponential_gain(gain, largest);
    }
    gains.known = true;
  }

  // 0 where no held-out item has a gain: nothing could be gained.
  double graded(int64_t k, Gains& gains, bool exponential) const {
    if (!gains.known) know(gains, exponential);
    if (gains.ideal.front() == 0.0) return 0.0;
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
  const int64_t rows = arguments.held_out.rows, units = (rows + kRowUnit - 1) / kRowUnit;
  const double operations = 8.0 * static_cast<double>(arguments.held_out.entries + rows) *
                            static_cast<double>(arguments.out.rows + 1);
  return parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
    RowMetrics metrics(arguments, discounts);
    const int64_t last = std::min(rows, (unit + 1) * kRowUnit);
    for (int64_t row = unit * kRowUnit; row < last; ++row) {
      metrics.load(row);
      for (int64_t m = 0; m < arguments.out.rows; ++m)
        arguments.out.row(m)[row] = metrics.value(arguments.metrics[m]);
    }
  });
}

}  // namespace salience::cpu
