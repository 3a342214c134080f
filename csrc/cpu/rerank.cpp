#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/elementary.h"
#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

// One slot of a list that may be chosen.
struct Slot {
  int64_t position;
  int64_t item;
  double relevance;
};

void gather(const Candidates& candidates, int64_t list, std::vector<Slot>& slots) {
  slots.clear();
  const int64_t* const items = candidates.items.row(list);
  const float* const scores = candidates.scores.row(list);
  double least = 0.0, largest = 0.0;
  for (int64_t j = 0; j < candidates.items.columns; ++j) {
    if (items[j] < 0) continue;
    const auto score = static_cast<double>(scores[j]);
    least = slots.empty() ? score : std::min(least, score);
    largest = slots.empty() ? score : std::max(largest, score);
    slots.push_back({j, items[j], score});
  }
  for (Slot& slot : slots)
    slot.relevance = largest > least ? (slot.relevance - least) / (largest - least) : 0.0;
}

// One list at a time, greedily. A slot's gain never grows, so it is compared with those chosen since its last
// comparison only where its old gain still beats the best new one: the choice is that of a full comparison.
class Diversifier {
 public:
  explicit Diversifier(const DiversifyArguments& arguments)
      : a_(arguments),
        k_(arguments.positions.columns),
        padded_((arguments.vectors.columns + kFactorPadding - 1) / kFactorPadding * kFactorPadding) {}

  // Returns an item whose vector is not finite, or -1.
  int64_t list(int64_t row) {
    gather(a_.candidates, row, slots_);
    int64_t* const out = a_.positions.row(row);
    std::fill_n(out, k_, int64_t{-1});
    if (const int64_t wrong = prepare(); wrong >= 0) return slots_[static_cast<size_t>(wrong)].item;
    const int64_t steps = std::min(k_, static_cast<int64_t>(slots_.size()));
    for (int64_t step = 0; step < steps; ++step) {
      const size_t slot = best();
      out[step] = slots_[slot].position;
      choose(slot);
      if (step == 0) look_ahead();
    }
    return -1;
  }

 private:
  static constexpr size_t kBatch = 8;  // slots compared together

  bool determinant() const { return a_.diversity == Diversity::determinant; }

  // Before anything is chosen relevance alone decides.
  int64_t prepare() {
    const size_t count = slots_.size();
    chosen_.clear();
    chosen_units_.clear();
    compared_.assign(count, 0);
    nearest_.assign(count, kNoProduct);
    left_.assign(count, 1.0);
    gains_.resize(count);
    rows_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      rows_[i] = a_.vectors.row(slots_[i].item);
      gains_[i] = (1.0 - a_.trade_off) * slots_[i].relevance;
    }
    if (determinant()) parts_.resize(count * static_cast<size_t>(k_));
    units_.resize(count * static_cast<size_t>(padded_));
    return kernels().unit_rows(rows_.data(), static_cast<int64_t>(count), a_.vectors.columns, units_.data(),
                               padded_);
  }

  const float* unit(size_t slot) const { return units_.data() + static_cast<int64_t>(slot) * padded_; }

  bool current(size_t slot) const { return compared_[slot] == chosen_.size(); }

  // The first slot of the largest gain.
  size_t best() {
    size_t top = 0;
    for (size_t i = 1; i < gains_.size(); ++i)
      if (gains_[i] > gains_[top]) top = i;
    if (current(top)) return top;
    batch_.assign(1, top);
    compare(top);
    for (size_t i = 0; i < gains_.size(); ++i) {
      if (!beats(i, top) || current(i)) continue;
      batch_.push_back(i);
      if (batch_.size() == kBatch) compare(top);
    }
    compare(top);
    return top;
  }

  bool beats(size_t slot, size_t other) const {
    return gains_[slot] > gains_[other] || (gains_[slot] == gains_[other] && slot < other);
  }

  void choose(size_t slot) {
    gains_[slot] = -std::numeric_limits<double>::infinity();
    chosen_.push_back(slot);
    chosen_units_.push_back(unit(slot));
  }

  // Only the first comparison can raise a gain, where a product is negative: from here on none exceeds this.
  void look_ahead() {
    for (size_t i = 0; i < gains_.size(); ++i)
      if (i != chosen_[0]) gains_[i] = gain(i);
  }

  // The batch with those chosen since each was last compared; `top` becomes the best that is current.
  void compare(size_t& top) {
    const size_t count = batch_.size(), now = chosen_.size();
    size_t begin = now;
    const float* rows[kBatch];
    for (size_t n = 0; n < count; ++n) {
      begin = std::min(begin, compared_[batch_[n]]);
      rows[n] = unit(batch_[n]);
    }
    products_.resize((now - begin) * kBatch);
    kernels().unit_products(chosen_units_.data() + begin, static_cast<int64_t>(now - begin), rows,
                            static_cast<int64_t>(count), padded_, products_.data(), kBatch);
    for (size_t n = 0; n < count; ++n) {
      const size_t slot = batch_[n];
      for (size_t step = compared_[slot]; step < now; ++step)
        account(slot, step, static_cast<double>(products_[(step - begin) * kBatch + n]));
      compared_[slot] = now;
      gains_[slot] = gain(slot);
      if (beats(slot, top)) top = slot;
    }
    batch_.clear();
  }

  void account(size_t slot, size_t step, double product) {
    if (!determinant()) {
      nearest_[slot] = std::max(nearest_[slot], product);
      return;
    }
    const double* const theirs = parts_.data() + chosen_[step] * static_cast<size_t>(k_);
    double* const mine = parts_.data() + slot * static_cast<size_t>(k_);
    double shared = 0.0;
    for (size_t s = 0; s < step; ++s) shared += theirs[s] * mine[s];
    mine[step] = ((1.0 - kDeterminantRidge) * product - shared) / std::sqrt(left_[chosen_[step]]);
    left_[slot] = std::max(left_[slot] - mine[step] * mine[step], kDeterminantRidge);
  }

  double gain(size_t slot) const {
    const double relevance = (1.0 - a_.trade_off) * slots_[slot].relevance;
    if (!determinant()) return relevance - a_.trade_off * nearest_[slot];
    return relevance + a_.trade_off * fixed_log(static_cast<double>(static_cast<float>(left_[slot])));
  }

  const DiversifyArguments& a_;
  const int64_t k_;
  const int64_t padded_;
  std::vector<Slot> slots_;
  std::vector<const float*> rows_;  // their vectors
  std::vector<float> units_;        // and these of length 1
  std::vector<double> gains_;       // as of their last comparison; -infinity once chosen
  std::vector<size_t> chosen_;      // slots, in order
  std::vector<const float*> chosen_units_;
  std::vector<size_t> compared_;  // with how many of the chosen
  std::vector<double> nearest_;   // largest product with a chosen one
  std::vector<double> left_;      // v of the contract
  std::vector<double> parts_;     // e of the contract, k for each slot
  std::vector<size_t> batch_;
  std::vector<float> products_;
};

// One list at a time, greedily; terms are those of the categories with a positive target.
class Calibrator {
 public:
  explicit Calibrator(const CalibrateArguments& arguments) : a_(arguments) {
    const auto width = static_cast<size_t>(arguments.categories.columns);
    sums_.resize(width);
    terms_.resize(width);
  }

  int64_t list(int64_t row) {
    gather(a_.candidates, row, slots_);
    target_ = a_.targets.row(row);
    std::fill(sums_.begin(), sums_.end(), 0.0);
    counted_ = 0.0;
    int64_t* const out = a_.positions.row(row);
    for (int64_t step = 0; step < a_.positions.columns; ++step) {
      out[step] = -1;
      if (slots_.empty()) continue;
      const size_t best = next();
      out[step] = slots_[best].position;
      add(slots_[best].item);
      slots_.erase(slots_.begin() + static_cast<std::ptrdiff_t>(best));
    }
    return -1;
  }

 private:
  int64_t begin(int64_t item) const { return a_.categories.indptr[item]; }

  double term(size_t g, double sum, double divisor) const {
    const double share = (1.0 - kCalibrationSmoothing) * (sum / divisor) + kCalibrationSmoothing * target_[g];
    return target_[g] * fixed_log(share);
  }

  size_t next() {
    // For items without categories, and for those with some: they make the mean one of one more.
    const double plain = total(std::max(counted_, 1.0)), base = total(counted_ + 1.0);
    size_t best = 0;
    double largest = 0.0;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const bool has = begin(slots_[i].item) < begin(slots_[i].item + 1);
      const double fit = has ? base + change(slots_[i].item) : plain;
      const double gain = (1.0 - a_.trade_off) * slots_[i].relevance + a_.trade_off * fit;
      if (i > 0 && !(gain > largest)) continue;
      best = i;
      largest = gain;
    }
    return best;
  }

  // sum p log q, and each term of it in terms_.
  double total(double divisor) {
    double sum = 0.0;
    for (size_t g = 0; g < sums_.size(); ++g) {
      terms_[g] = target_[g] > 0.0 ? term(g, sums_[g], divisor) : 0.0;
      sum += terms_[g];
    }
    return sum;
  }

  double change(int64_t item) const {
    double sum = 0.0;
    for (int64_t e = begin(item); e < begin(item + 1); ++e) {
      const auto g = static_cast<size_t>(a_.categories.indices[e]);
      if (target_[g] > 0.0)
        sum += term(g, sums_[g] + static_cast<double>(a_.categories.values[e]), counted_ + 1.0) - terms_[g];
    }
    return sum;
  }

  void add(int64_t item) {
    if (begin(item) == begin(item + 1)) return;
    counted_ += 1.0;
    for (int64_t e = begin(item); e < begin(item + 1); ++e)
      sums_[static_cast<size_t>(a_.categories.indices[e])] += static_cast<double>(a_.categories.values[e]);
  }

  const CalibrateArguments& a_;
  std::vector<Slot> slots_;
  const double* target_ = nullptr;
  std::vector<double> sums_;   // of the chosen items' categories
  std::vector<double> terms_;  // of `total`, last computed for one item more
  double counted_ = 0.0;       // chosen items that have categories
};

constexpr int64_t kListsAUnit = 16;

// Runs Method(arguments).list(row) on every list, in units; an item that it names ends the operation.
template <class Method, class Arguments>
Status for_lists(const Arguments& arguments, const Context& context, double operations) {
  const int64_t lists = arguments.positions.rows, units = (lists + kListsAUnit - 1) / kListsAUnit;
  const int workers = worker_count(context, units, operations);
  // One for each worker, whose memory grows once.
  std::vector<Method> methods(static_cast<size_t>(workers), Method(arguments));
  std::vector<int64_t> wrong(static_cast<size_t>(units), -1);
  SALIENCE_RETURN_IF_ERROR(parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    Method& method = methods[static_cast<size_t>(worker.index())];
    int64_t item = -1;
    const int64_t end = std::min(lists, (unit + 1) * kListsAUnit);
    for (int64_t row = unit * kListsAUnit; row < end && item < 0 && !worker.should_stop(); ++row)
      item = method.list(row);
    wrong[static_cast<size_t>(unit)] = item;
  }));
  return expect_finite("vectors", wrong);
}

}  // namespace

Status diversify(const DiversifyArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& items = arguments.candidates.items;
  const double operations = 8.0 * static_cast<double>(items.rows) * static_cast<double>(items.columns) *
                            static_cast<double>(arguments.vectors.columns + 16);
  return for_lists<Diversifier>(arguments, context, operations);
}

Status calibrate(const CalibrateArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& items = arguments.candidates.items;
  const double operations = 50.0 * static_cast<double>(items.rows) * static_cast<double>(items.columns) *
                            static_cast<double>(arguments.positions.columns);
  return for_lists<Calibrator>(arguments, context, operations);
}

}  // namespace salience::cpu
