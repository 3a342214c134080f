// Drivers of the ALS operations: how rows and sums are dealt to threads.
#include <algorithm>
#include <string>
#include <vector>

#include "core/validate.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"

namespace salience::cpu {
namespace {

constexpr int64_t kGramianChunk = 128;
constexpr int64_t kGramianBytes = 64ll << 20;  // of all partial sums together
constexpr int64_t kGatherBytes = 512ll << 10;  // half of a typical second-level cache
constexpr double kUnitOperations = 4e6;        // about a millisecond: fine enough to balance

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

double operations_per_entry(const AlsObservations& data, int64_t passes) {
  return 4.0 * static_cast<double>(data.design.row_stride) * static_cast<double>(passes);
}

// Row boundaries of work units of roughly equal cost.
std::vector<int64_t> cut_rows(const AlsObservations& data, double per_entry) {
  std::vector<int64_t> cuts{0};
  double cost = 0.0;
  for (int64_t u = 0; u < data.observations.rows; ++u) {
    const int64_t count = data.observations.indptr[u + 1] - data.observations.indptr[u];
    cost += per_entry * static_cast<double>(count + 1);
    if (cost >= kUnitOperations || u + 1 == data.observations.rows) {
      cuts.push_back(u + 1);
      cost = 0.0;
    }
  }
  return cuts;
}

// The memory behind one worker's AlsScratch.
class ScratchMemory {
 public:
  explicit ScratchMemory(int64_t stride)
      : rows_(std::max<int64_t>(64, kGatherBytes / (stride * 4) / 4 * 4)),
        stride_(stride),
        memory_(static_cast<size_t>((kAlsVectors + rows_) * stride + 2 * rows_)) {}

  AlsScratch view() {
    float* const base = memory_.data();
    return {base, base + kAlsVectors * stride_, base + (kAlsVectors + rows_) * stride_, rows_};
  }

 private:
  int64_t rows_;
  int64_t stride_;
  std::vector<float> memory_;
};

}  // namespace

Status gramian(const GramianArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const auto& [factors, out] = arguments;
  const int64_t f = factors.columns, padded = f + kernels().gramian_padding;
  const int64_t most = std::clamp<int64_t>(kGramianBytes / (padded * padded * 8), 1, 64);
  const int64_t segments = std::clamp<int64_t>(factors.rows / 2048, 1, most);
  std::vector<double> sums(static_cast<size_t>(segments * padded * padded), 0.0);
  const double operations =
      static_cast<double>(factors.rows) * static_cast<double>(f) * static_cast<double>(f);
  Status status = parallel_for(
      context, worker_count(context, segments, operations), segments, [&](int64_t segment, Worker& worker) {
        std::vector<float> chunk(static_cast<size_t>(kGramianChunk * padded), 0.0f);
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
  std::vector<float> padded(static_cast<size_t>(f * width), 0.0f);
  for (int64_t k = 0; k < f; ++k) std::copy_n(rotation.row(k), f, padded.data() + k * width);
  constexpr int64_t kRows = 240;
  const int64_t units = (factors.rows + kRows - 1) / kRows;
  const double operations =
      static_cast<double>(factors.rows) * static_cast<double>(f) * static_cast<double>(f);
  return parallel_for(context, worker_count(context, units, operations), units, [&](int64_t unit, Worker&) {
    const int64_t first = unit * kRows, count = std::min(kRows, factors.rows - first);
    std::vector<float> out(static_cast<size_t>(count * width));
    kernels().rotate(factors.row(first), factors.row_stride, count, f, padded.data(), out.data(), width);
    for (int64_t r = 0; r < count; ++r) std::copy_n(out.data() + r * width, f, factors.row(first + r));
  });
}

Status half_step(const HalfStepArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const double per_entry = operations_per_entry(arguments.data, arguments.steps + 1);
  const std::vector<int64_t> cuts = cut_rows(arguments.data, per_entry);
  const int64_t units = static_cast<int64_t>(cuts.size()) - 1;
  std::vector<AlsRowsOutcome> outcomes(static_cast<size_t>(units), AlsRowsOutcome{0.0, 0.0, 0, 0, -1});
  const int workers =
      worker_count(context, units, per_entry * static_cast<double>(arguments.data.observations.entries));
  std::vector<ScratchMemory> scratch(static_cast<size_t>(workers),
                                     ScratchMemory(arguments.data.design.row_stride));
  Status status = parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    const size_t n = static_cast<size_t>(unit);
    kernels().als_solve(arguments, cuts[n], cuts[n + 1], scratch[static_cast<size_t>(worker.index())].view(),
                        outcomes[n]);
  });
  if (!status.ok()) return status;

  HalfStepReport report;
  int64_t solved = 0;
  for (const AlsRowsOutcome& outcome : outcomes) {
    if (outcome.first_bad_row >= 0)
      return Status::diverged("row " + std::to_string(outcome.first_bad_row) +
                              ": the solution is not finite or its residual grew; expected a system that "
                              "regularization makes solvable");
    report.worst_residual = std::max(report.worst_residual, outcome.worst_residual);
    report.mean_residual += outcome.sum_residual;
    report.conjugate_steps += outcome.steps;
    solved += outcome.solved_rows;
  }
  if (solved > 0) report.mean_residual /= static_cast<double>(solved);
  if (arguments.report != nullptr) *arguments.report = report;
  return {};
}

Status row_loss(const RowLossArguments& arguments, const Context& context) {
  SALIENCE_RETURN_IF_ERROR(validate(arguments));
  const double per_entry = operations_per_entry(arguments.data, 1);
  const std::vector<int64_t> cuts = cut_rows(arguments.data, per_entry);
  const int64_t units = static_cast<int64_t>(cuts.size()) - 1;
  const int workers =
      worker_count(context, units, per_entry * static_cast<double>(arguments.data.observations.entries));
  std::vector<ScratchMemory> scratch(static_cast<size_t>(workers),
                                     ScratchMemory(arguments.data.design.row_stride));
  return parallel_for(context, workers, units, [&](int64_t unit, Worker& worker) {
    const size_t n = static_cast<size_t>(unit);
    kernels().als_loss(arguments, cuts[n], cuts[n + 1], scratch[static_cast<size_t>(worker.index())].view());
  });
}

}  // namespace salience::cpu
