#include <algorithm>
#include <cmath>
#include <vector>

#include "core/elementary.h"
#include "core/validate.h"
#include "cpu/canonical_queries.h"
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

// What a slot would gain, or at most; in a heap the best comes first.
struct Bid {
  double gain;
  int64_t slot;
  friend bool operator<(const Bid& a, const Bid& b) {
    return a.gain < b.gain || (a.gain == b.gain && a.slot > b.slot);
  }
};

// One list at a time, greedily. Gains never grow, so a slot is compared with those chosen since its last
// comparison only when its old gain is the largest of all: the choice is that of a full comparison.
class Diversifier {
 public:
  Diversifier(const DiversifyArguments& arguments, const double* norms)
      : a_(arguments),
        all_norms_(norms),
        k_(arguments.positions.columns),
        stride_((arguments.vectors.columns + 7) / 8 * 8),
        queries_(static_cast<size_t>(k_ * stride_)),
        query_norms_(static_cast<size_t>(k_)) {}

  void list(int64_t row) {
    gather(a_.candidates, row, slots_);
    int64_t* const out = a_.positions.row(row);
    std::fill_n(out, k_, int64_t{-1});
    if (slots_.empty()) return;
    prepare();
    choose(first());
    compare_all();
    size_t most = kBatch;
    while (!bids_.empty() && static_cast<int64_t>(chosen_.size()) < k_) {
      if (current(bids_.front().slot)) {
        choose(pop());
        most = kBatch;
        continue;
      }
      batch_.clear();
      while (!bids_.empty() && batch_.size() < most && !current(bids_.front().slot)) batch_.push_back(pop());
      compare(batch_);
      most *= 2;  // many have fallen behind: they may all have
    }
    for (size_t s = 0; s < chosen_.size(); ++s) out[s] = slots_[static_cast<size_t>(chosen_[s])].position;
  }

 private:
  bool determinant() const { return a_.diversity == Diversity::determinant; }

  void prepare() {
    const size_t count = slots_.size();
    chosen_.clear();
    bids_.clear();
    compared_.assign(count, 0);
    nearest_.assign(count, -2.0);
    left_.assign(count, 1.0);
    if (determinant()) parts_.resize(count * static_cast<size_t>(k_));
    rows_.resize(count);
    norms_.resize(count);
    batch_rows_.resize(count);
    batch_norms_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      rows_[i] = a_.vectors.row(slots_[i].item);
      if (all_norms_ != nullptr) {
        norms_[i] = all_norms_[slots_[i].item];
      } else {
        kernels().squared_norms(rows_[i], 0, 1, a_.vectors.columns, &norms_[i]);
      }
    }
  }

  // Before anything is chosen relevance alone decides.
  int64_t first() const {
    int64_t best = 0;
    for (size_t i = 1; i < slots_.size(); ++i)
      if ((1.0 - a_.trade_off) * slots_[i].relevance >
          (1.0 - a_.trade_off) * slots_[static_cast<size_t>(best)].relevance)
        best = static_cast<int64_t>(i);
    return best;
  }

  void choose(int64_t slot) {
    double* const query = queries_.data() + chosen_.size() * static_cast<size_t>(stride_);
    std::copy_n(rows_[static_cast<size_t>(slot)], a_.vectors.columns, query);
    query_norms_[chosen_.size()] = norms_[static_cast<size_t>(slot)];
    chosen_.push_back(slot);
  }

  bool current(int64_t slot) const { return compared_[static_cast<size_t>(slot)] == chosen_.size(); }

  int64_t pop() {
    std::pop_heap(bids_.begin(), bids_.end());
    const int64_t slot = bids_.back().slot;
    bids_.pop_back();
    return slot;
  }

  // Everything with the first that was chosen.
  void compare_all() {
    if (k_ == 1) return;
    batch_.clear();
    for (size_t i = 0; i < slots_.size(); ++i)
      if (static_cast<int64_t>(i) != chosen_[0]) batch_.push_back(static_cast<int64_t>(i));
    compare(batch_);
  }

  // Slots with those chosen since each was last compared; then they bid anew.
  void compare(const std::vector<int64_t>& slots) {
    size_t begin = chosen_.size();
    const size_t count = slots.size();
    for (size_t n = 0; n < count; ++n) {
      const auto i = static_cast<size_t>(slots[n]);
      begin = std::min(begin, compared_[i]);
      batch_rows_[n] = rows_[i];
      batch_norms_[n] = norms_[i];
    }
    const size_t steps = chosen_.size() - begin;
    cosines_.resize(std::max(cosines_.size(), steps * count));
    kernels().canonical({Metric::cosine, queries_.data() + begin * static_cast<size_t>(stride_), stride_,
                         static_cast<int64_t>(steps), query_norms_.data() + begin, batch_rows_.data(),
                         batch_norms_.data(), static_cast<int64_t>(count), a_.vectors.columns,
                         cosines_.data(), static_cast<int64_t>(count)});
    for (size_t n = 0; n < count; ++n) {
      const auto i = static_cast<size_t>(slots[n]);
      for (size_t step = compared_[i]; step < chosen_.size(); ++step)
        account(slots[n], step, static_cast<double>(cosines_[(step - begin) * count + n]));
      compared_[i] = chosen_.size();
      bids_.push_back({gain(slots[n]), slots[n]});
      std::push_heap(bids_.begin(), bids_.end());
    }
  }

  void account(int64_t slot, size_t step, double cosine) {
    const auto i = static_cast<size_t>(slot);
    if (!determinant()) {
      nearest_[i] = std::max(nearest_[i], cosine);
      return;
    }
    const auto j = static_cast<size_t>(chosen_[step]);
    const double* const theirs = parts_.data() + j * static_cast<size_t>(k_);
    double* const mine = parts_.data() + i * static_cast<size_t>(k_);
    double shared = 0.0;
    for (size_t s = 0; s < step; ++s) shared += theirs[s] * mine[s];
    mine[step] = ((1.0 - kDeterminantRidge) * cosine - shared) / std::sqrt(left_[j]);
    left_[i] = std::max(left_[i] - mine[step] * mine[step], kDeterminantRidge);
  }

  double gain(int64_t slot) const {
    const auto i = static_cast<size_t>(slot);
    const double relevance = (1.0 - a_.trade_off) * slots_[i].relevance;
    if (!determinant()) return relevance - a_.trade_off * nearest_[i];
    return relevance + a_.trade_off * fixed_log(static_cast<double>(static_cast<float>(left_[i])));
  }

  static constexpr size_t kBatch = 4;

  const DiversifyArguments& a_;
  const double* const all_norms_;  // null: those of a list are computed as it comes
  const int64_t k_;
  const int64_t stride_;
  std::vector<Slot> slots_;
  std::vector<const float*> rows_;  // of slots, their vectors
  std::vector<double> norms_;       // and their squared norms
  std::vector<int64_t> chosen_;     // slots, in order
  std::vector<double> queries_;     // their vectors
  std::vector<double> query_norms_;
  std::vector<Bid> bids_;
  std::vector<size_t> compared_;  // with how many of the chosen
  std::vector<double> nearest_;   // largest cosine with a chosen one
  std::vector<double> left_;      // v of the contract
  std::vector<double> parts_;     // e of the contract, k for each slot
  std::vector<int64_t> batch_;
  std::vector<const float*> batch_rows_;
  std::vector<double> batch_norms_;
  std::vector<float> cosines_;
};

// One list at a time, greedily; terms are those of the categories with a positive target.
class Calibrator {
 public:
  explicit Calibrator(const CalibrateArguments& arguments) : a_(arguments) {
    const auto width = static_cast<size_t>(arguments.categories.columns);
    sums_.resize(width);
    terms_.resize(width);
  }

  void list(int64_t row) {
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

// Runs method(list) on every list, in units, with a method of its own for each.
template <class Method, class Make>
Status for_lists(const Context& context, const Candidates& candidates, double operations, Make make) {
  const int64_t lists = candidates.items.rows, units = (lists + kListsAUnit - 1) / kListsAUnit;
  return parallel_for(context, worker_count(context, units, operations), units,
                      [&](int64_t unit, Worker& worker) {
                        Method method = make();
                        const int64_t end = std::min(lists, (unit + 1) * kListsAUnit);
                        for (int64_t row = unit * kListsAUnit; row < end && !worker.should_stop(); ++row)
                          method.list(row);
                      });
}

}  // namespace

Status diversify(const DiversifyArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& vectors = arguments.vectors;
  const int64_t slots = arguments.candidates.items.rows * arguments.candidates.items.columns;
  std::vector<double> norms;
  if (slots >= vectors.rows) {
    norms.resize(static_cast<size_t>(vectors.rows));
    kernels().squared_norms(vectors.data, vectors.row_stride, vectors.rows, vectors.columns, norms.data());
  }
  const double operations = 8.0 * static_cast<double>(slots) * static_cast<double>(vectors.columns + 16);
  return for_lists<Diversifier>(context, arguments.candidates, operations, [&] {
    return Diversifier(arguments, norms.empty() ? nullptr : norms.data());
  });
}

Status calibrate(const CalibrateArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& items = arguments.candidates.items;
  const double operations = 50.0 * static_cast<double>(items.rows) * static_cast<double>(items.columns) *
                            static_cast<double>(arguments.positions.columns);
  return for_lists<Calibrator>(context, arguments.candidates, operations,
                               [&] { return Calibrator(arguments); });
}

}  // namespace salience::cpu
