// Drivers of the ALS operations: how rows and sums are dealt to threads.
#include <algorithm>
#include <string>
#include <vector>

#include "core/aligned_vector.h"
#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

constexpr int64_t kGramianChunk = 128;
constexpr int64_t kGramianBytes = 64ll << 20;  // of all partial sums together
constexpr int64_t kShortRows = 512;            // the longest row that is solved by its own n x n system
constexpr double kUnitOperations = 4e6;        // about a millisecond: fine enough to balance

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Row boundaries of work units of roughly equal cost.
std::vector<int64_t> cut_rows(const Csr& observations, double per_entry) {
  std::vector<int64_t> cuts{0};
  double cost = 0.0;
  for (int64_t u = 0; u < observations.rows; ++u) {
    const int64_t count = observations.indptr[u + 1] - observations.indptr[u];
    cost += per_entry * static_cast<double>(count + 1);
    if (cost >= kUnitOperations || u + 1 == observations.rows) {
      cuts.push_back(u + 1);
      cost = 0.0;
    }
  }
  return cuts;
}

int64_t count_of(const HalfStepArguments& a, int64_t row) {
  return a.data.observations.indptr[row + 1] - a.data.observations.indptr[row];
}

bool is_long(const HalfStepArguments& a, int64_t row) {
  const bool iterates = a.solver == Solver::automatic || a.solver == Solver::conjugate_gradient;
  return iterates && count_of(a, row) >= kLongRow;
}

// The memory behind one worker's AlsScratch.
class ScratchMemory {
 public:
  ScratchMemory(const HalfStepArguments& a, int64_t longest) : stride_(a.data.design.row_stride) {
    vectors_.resize(static_cast<size_t>((kAlsVectors + 1) * stride_), 0.0f);
    if (a.solver == Solver::conjugate_gradient) return;
    const bool iterates = a.solver == Solver::automatic;
    const int64_t block = a.solver == Solver::subspace ? std::min(a.block, stride_) : iterates ? 0 : stride_;
    rows_ = std::min(
        {round_up(longest, 8), round_up(a.data.design.columns, 16), iterates ? int64_t{32} : kShortRows});
    order_ = std::max(block, round_up(rows_, 16));
    matrix_.resize(static_cast<size_t>(order_ * order_));
    gathered_.resize(static_cast<size_t>(std::max(rows_ * stride_, kAlsChunk * block)));
    doubles_.resize(static_cast<size_t>(kAlsDoubles * std::max(order_, stride_)));
    if (!iterates) products_.resize(static_cast<size_t>(longest));
  }

  AlsScratch view() {
    return {vectors_.data(), vectors_.data() + kAlsVectors * stride_,
            matrix_.data(),  gathered_.data(),
            doubles_.data(), products_.data(),
            order_,          rows_};
  }

 private:
  int64_t stride_;
  int64_t order_ = 0;
  int64_t rows_ = 0;
  AlignedVector<float> vectors_;
  AlignedVector<double> matrix_, gathered_, doubles_, products_;
};

void merge(const AlsRowsOutcome& part, AlsRowsOutcome& total) {
  total.worst_residual = std::max(total.worst_residual, part.worst_residual);
  total.sum_residual += part.sum_residual;
  total.iterated_rows += part.iterated_rows;
  total.steps += part.steps;
  total.data_loss += part.data_loss;
  total.ridge_loss += part.ridge_loss;
}

// The passes of AlsPasses over one long row, in segments that threads share and that are summed in order.
class SegmentedRow {
 public:
  SegmentedRow(const HalfStepArguments& a, int64_t row, const float* zeros, const Context& context)
      : data_(a.data),
        zeros_(zeros),
        context_(context),
        begin_(a.data.observations.indptr[row]),
        end_(a.data.observations.indptr[row + 1]),
        stride_(a.data.design.row_stride) {}

  AlsPasses passes() {
    return {this,
            [](void* self, const float* x, float* square, float* right, float* residual) {
              static_cast<SegmentedRow*>(self)->prepare(x, square, right, residual);
            },
            [](void* self, const float* direction, float* image) {
              return static_cast<SegmentedRow*>(self)->apply(direction, image);
            },
            [](void* self, const float* x) { return static_cast<SegmentedRow*>(self)->loss(x); }};
  }

  const Status& status() const { return status_; }

 private:
  void prepare(const float* x, float* square, float* right, float* residual) {
    over_segments(3, {square, right, residual}, [&](int64_t begin, int64_t end, float* out) {
      kernels().als_prepare(data_, begin, end, zeros_, x, out, out + stride_, out + 2 * stride_);
      return 0.0;
    });
  }

  float apply(const float* direction, float* image) {
    return static_cast<float>(over_segments(1, {image}, [&](int64_t begin, int64_t end, float* out) {
      return static_cast<double>(kernels().als_apply(data_, begin, end, zeros_, direction, out));
    }));
  }

  double loss(const float* x) {
    return over_segments(0, {}, [&](int64_t begin, int64_t end, float*) {
      return kernels().als_loss(data_, begin, end, zeros_, x);
    });
  }

  // Adds each segment's vectors to `totals`, and returns the sum of what `segment` returns.
  template <class Segment>
  double over_segments(int64_t count, std::vector<float*> totals, Segment segment) {
    const int64_t segments = (end_ - begin_ + kLongSegment - 1) / kLongSegment;
    AlignedVector<float> sums(static_cast<size_t>(segments * count * stride_), 0.0f);
    std::vector<double> values(static_cast<size_t>(segments), 0.0);
    const double operations = 4.0 * static_cast<double>(end_ - begin_) * static_cast<double>(stride_);
    Status status = parallel_for(
        context_, worker_count(context_, segments, operations), segments, [&](int64_t n, Worker&) {
          const int64_t first = begin_ + n * kLongSegment;
          values[static_cast<size_t>(n)] =
              segment(first, std::min(first + kLongSegment, end_), sums.data() + n * count * stride_);
        });
    if (!status.ok()) status_ = std::move(status);
    double total = 0.0;
    for (int64_t n = 0; n < segments; ++n) {
      total += values[static_cast<size_t>(n)];
      for (int64_t v = 0; v < count; ++v)
        for (int64_t c = 0; c < stride_; ++c)
          totals[static_cast<size_t>(v)][c] += sums[static_cast<size_t>((n * count + v) * stride_ + c)];
    }
    return total;
  }

  const AlsObservations& data_;
  const float* zeros_;
  const Context& context_;
  int64_t begin_, end_, stride_;
  Status status_;
};

// Solves every row and says how each ended; long rows last, each on all threads.
Status solve_rows(const HalfStepArguments& a, const Context& context, std::vector<RowOutcome>& outcomes,
                  AlsRowsOutcome& total) {
  const Csr& observations = a.data.observations;
  const double per_entry =
      4.0 * static_cast<double>(a.data.design.row_stride) * static_cast<double>(a.steps + 2);
  const std::vector<int64_t> cuts = cut_rows(observations, per_entry);
  const int64_t units = static_cast<int64_t>(cuts.size()) - 1;
  int64_t longest = 1;
  for (int64_t u = 0; u < observations.rows; ++u) longest = std::max(longest, count_of(a, u));
  const int workers = worker_count(context, units, per_entry * static_cast<double>(observations.entries));
  std::vector<ScratchMemory> scratch;
  for (int n = 0; n < workers; ++n) scratch.emplace_back(a, longest);

  std::vector<AlsRowsOutcome> parts(static_cast<size_t>(units));
  SALIENCE_RETURN_IF_ERROR(parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    const size_t n = static_cast<size_t>(unit);
    const AlsScratch view = scratch[static_cast<size_t>(worker.index())].view();
    int64_t begin = cuts[n];
    for (int64_t u = begin; u <= cuts[n + 1] && !worker.should_stop(); ++u) {
      if (u < cuts[n + 1] && !is_long(a, u)) continue;
      kernels().als_solve(a, begin, u, view, parts[n], outcomes.data());
      begin = u + 1;
    }
  }));
  for (const AlsRowsOutcome& part : parts) merge(part, total);
  for (int64_t u = 0; u < observations.rows; ++u) {
    if (!is_long(a, u)) continue;
    const AlsScratch view = scratch[0].view();
    SegmentedRow row(a, u, view.zeros, context);
    kernels().als_solve_long(a, u, row.passes(), view, total, outcomes.data());
    if (!row.status().ok()) return row.status();
  }
  return {};
}

// Rows whose conjugate gradients failed, one by one, in float64.
Status solve_again_exactly(const HalfStepArguments& a, const Context& context,
                           std::vector<RowOutcome>& outcomes, AlsRowsOutcome& total) {
  for (int64_t u = 0; u < a.solution.rows; ++u) {
    if (outcomes[static_cast<size_t>(u)] == RowOutcome::sound) continue;
    HalfStepArguments one = a;
    one.solver = Solver::cholesky;
    ScratchMemory scratch(one, count_of(a, u));
    kernels().als_solve(one, u, u + 1, scratch.view(), total, outcomes.data());
    if (outcomes[static_cast<size_t>(u)] != RowOutcome::sound) return {};
    if (context.interrupted && context.interrupted()) return Status::interrupted();
  }
  return {};
}

}  // namespace

Status gramian(const GramianArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [factors, out] = arguments;
  const int64_t f = factors.columns, padded = round_up(f + kernels().gramian_padding, 16);
  const int64_t most = std::clamp<int64_t>(kGramianBytes / (padded * padded * 8), 1, 64);
  const int64_t segments = std::clamp<int64_t>(factors.rows / 2048, 1, most);
  AlignedVector<double> sums(static_cast<size_t>(segments * padded * padded), 0.0);
  const double operations =
      static_cast<double>(factors.rows) * static_cast<double>(f) * static_cast<double>(f);
  Status status = parallel_for(
      context, worker_count(context, segments, operations), segments, [&](int64_t segment, Worker& worker) {
        AlignedVector<float> chunk(static_cast<size_t>(kGramianChunk * padded), 0.0f);
        const int64_t begin = factors.rows * segment / segments,
                      end = factors.rows * (segment + 1) / segments;
        for (int64_t first = begin; first < end && !worker.should_stop(); first += kGramianChunk) {
          const int64_t count = std::min(kGramianChunk, end - first);
          for (int64_t r = 0; r < count; ++r)
            std::copy_n(factors.row(first + r), f, chunk.data() + r * padded);
          kernels().gramian(chunk.data(), padded, count, f, sums.data() + segment * padded * padded, padded);
        }
      });
  if (!status.ok()) return status;
  for (int64_t i = 0; i < f; ++i) {
    for (int64_t j = i; j < f; ++j) {
      double total = 0.0;
      for (int64_t s = 0; s < segments; ++s)
        total += sums[static_cast<size_t>((s * padded + i) * padded + j)];
      out.row(i)[j] = out.row(j)[i] = total;
    }
  }
  return {};
}

Status rotate(const RotateArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [factors, rotation] = arguments;
  const int64_t f = factors.columns, width = round_up(f, 2 * kernels().lanes);
  AlignedVector<float> padded(static_cast<size_t>(f * width), 0.0f);
  for (int64_t k = 0; k < f; ++k) std::copy_n(rotation.row(k), f, padded.data() + k * width);
  constexpr int64_t kRows = 240;
  const int64_t units = (factors.rows + kRows - 1) / kRows;
  const double operations =
      static_cast<double>(factors.rows) * static_cast<double>(f) * static_cast<double>(f);
  const int workers = worker_count(context, units, operations);
  struct Memory {
    AlignedVector<float> copy;
    AlignedVector<uint16_t> parts;
  };
  std::vector<Memory> memory(static_cast<size_t>(workers));
  for (auto& [copy, parts] : memory) {
    copy.resize(static_cast<size_t>(kRows * width));
    parts.resize(static_cast<size_t>(kernels().turning_memory(kRows, f)));
  }
  return parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    const int64_t first = unit * kRows, count = std::min(kRows, factors.rows - first);
    float* const rows = factors.row(first);
    Memory& own = memory[static_cast<size_t>(worker.index())];
    float* const copy = own.copy.data();
    const auto move = [&](const float* from, int64_t from_stride, float* to, int64_t to_stride) {
      for (int64_t r = 0; r < count; ++r) std::copy_n(from + r * from_stride, f, to + r * to_stride);
    };
    const auto turn = [&](const float* from, int64_t from_stride, float* to, int64_t to_stride) {
      kernels().turn(from, from_stride, count, f, padded.data(), width, to, to_stride, own.parts.data());
    };
    // What follows a row's factors must stay, so where vectors do not end with them the copy is the result.
    if (width == f) {
      move(rows, factors.row_stride, copy, width);
      turn(copy, width, rows, factors.row_stride);
    } else {
      turn(rows, factors.row_stride, copy, width);
      move(copy, width, rows, factors.row_stride);
    }
  });
}

Status half_step(const HalfStepArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  std::vector<RowOutcome> outcomes(static_cast<size_t>(arguments.solution.rows), RowOutcome::sound);
  AlsRowsOutcome total;
  SALIENCE_RETURN_IF_ERROR(solve_rows(arguments, context, outcomes, total));
  if (arguments.solver == Solver::automatic) {
    SALIENCE_RETURN_IF_ERROR(solve_again_exactly(arguments, context, outcomes, total));
  }
  for (size_t u = 0; u < outcomes.size(); ++u) {
    if (outcomes[u] != RowOutcome::sound) return diverged(static_cast<int64_t>(u), outcomes[u]);
  }
  if (arguments.report != nullptr) {
    *arguments.report = {total.worst_residual, total.sum_residual, total.steps, total.data_loss,
                         total.ridge_loss};
    if (total.iterated_rows > 0) arguments.report->mean_residual /= static_cast<double>(total.iterated_rows);
  }
  return {};
}

}  // namespace salience::cpu
