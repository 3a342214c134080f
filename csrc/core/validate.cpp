#include "core/validate.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

namespace salience {
namespace {

std::string shape(int64_t rows, int64_t columns) {
  return "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
}

template <class AnyMatrix>
std::string shape(const AnyMatrix& matrix) {
  return shape(matrix.rows, matrix.columns);
}

template <class T>
Status expect_shape(const char* name, const Matrix<T>& matrix, int64_t rows, int64_t columns) {
  if (matrix.rows == rows && matrix.columns == columns) return {};
  return Status::invalid(std::string(name) + ": shape " + shape(matrix) + "; expected " +
                         shape(rows, columns));
}

template <class A, class B>
Status expect_same_width(const char* first, const A& a, const char* second, const B& b) {
  if (a.columns == b.columns) return {};
  return Status::invalid(std::string(first) + ": shape " + shape(a) + ", while " + second + " has shape " +
                         shape(b) + "; expected the same number of columns");
}

Status expect_k(int64_t k, const char* name, int64_t items) {
  if (k >= 1 && k <= items) return {};
  std::ostringstream message;
  message << "k: " << k << "; expected a whole number from 1 to the " << items << " " << name;
  return Status::invalid(message.str());
}

// A CSR whose pointers and indices can be followed without leaving its arrays.
Status expect_sound(const char* name, const Csr& csr, int64_t rows, int64_t columns) {
  const std::string prefix(name);
  if (csr.rows != rows || csr.columns != columns) {
    return Status::invalid(prefix + ": shape " + shape(csr.rows, csr.columns) + "; expected " +
                           shape(rows, columns));
  }
  if (csr.indptr[0] != 0 || csr.indptr[rows] != csr.entries) {
    return Status::invalid(prefix + ": indptr runs from " + std::to_string(csr.indptr[0]) + " to " +
                           std::to_string(csr.indptr[rows]) + "; expected 0 to the " +
                           std::to_string(csr.entries) + " stored entries");
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (csr.indptr[i] > csr.indptr[i + 1]) {
      return Status::invalid(prefix + ": indptr falls at row " + std::to_string(i) +
                             "; expected it never to fall");
    }
  }
  // One without branches first, since this is paid at every call and nearly never finds any.
  uint32_t largest = 0;  // a negative index is a large one
  for (int64_t e = 0; e < csr.entries; ++e)
    largest = std::max(largest, static_cast<uint32_t>(csr.indices[e]));
  if (static_cast<int64_t>(largest) < columns) return {};
  for (int64_t e = 0; e < csr.entries; ++e) {
    if (csr.indices[e] < 0 || csr.indices[e] >= columns) {
      return Status::invalid(prefix + ": column index " + std::to_string(csr.indices[e]) +
                             "; expected 0 to " + std::to_string(columns - 1));
    }
  }
  return {};
}

// Sound, and every row ascending without duplicates.
Status expect_sorted(const char* name, const Csr& csr, int64_t rows, int64_t columns) {
  SALIENCE_RETURN_IF_ERROR(expect_sound(name, csr, rows, columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t e = csr.indptr[i] + 1; e < csr.indptr[i + 1]; ++e) {
      if (csr.indices[e - 1] >= csr.indices[e]) {
        return Status::invalid(std::string(name) + ": row " + std::to_string(i) + " holds column " +
                               std::to_string(csr.indices[e - 1]) + " before " +
                               std::to_string(csr.indices[e]) + "; expected ascending columns");
      }
    }
  }
  return {};
}

Status expect_candidates(const Csr& exclude, const HeldOutRanks& out, int64_t rows, int64_t columns) {
  SALIENCE_RETURN_IF_ERROR(expect_sorted("held_out", out.held_out, rows, columns));
  if (exclude.indptr == nullptr) return {};
  return expect_sorted("exclude", exclude, rows, columns);
}

// Counts from 0 to `most`.
Status expect_counts(const char* name, const int64_t* values, int64_t count, int64_t most) {
  int64_t smallest = 0, largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    smallest = std::min(smallest, values[i]);
    largest = std::max(largest, values[i]);
  }
  if (smallest == 0 && largest <= most) return {};
  return Status::invalid(std::string(name) + ": " + std::to_string(smallest < 0 ? smallest : largest) +
                         "; expected 0 to " + std::to_string(most));
}

template <class T>
Status expect_padded(const char* name, const Matrix<T>& matrix) {
  if (matrix.row_stride % kFactorPadding == 0 && matrix.row_stride >= matrix.columns) return {};
  return Status::invalid(std::string(name) + ": rows lie " + std::to_string(matrix.row_stride) +
                         " elements apart; expected a multiple of " + std::to_string(kFactorPadding) +
                         " no less than the " + std::to_string(matrix.columns) + " columns");
}

template <class T>
Status expect_observations(const AlsObservations& data, const Matrix<T>& solution) {
  SALIENCE_RETURN_IF_ERROR(expect_padded("design", data.design));
  SALIENCE_RETURN_IF_ERROR(expect_padded("solution", solution));
  SALIENCE_RETURN_IF_ERROR(expect_shape("solution", solution, data.observations.rows, data.design.columns));
  if (solution.row_stride != data.design.row_stride) {
    return Status::invalid("solution: rows lie " + std::to_string(solution.row_stride) +
                           " elements apart; expected " + std::to_string(data.design.row_stride) +
                           " as in design");
  }
  const int64_t least = data.feedback == Feedback::explicit_feedback ? 2 : 1;
  if (data.design.columns < least) {
    return Status::invalid("design: " + std::to_string(data.design.columns) + " columns; expected at least " +
                           std::to_string(least));
  }
  return expect_sound("observations", data.observations, solution.rows, data.design.rows);
}

std::string why(RowOutcome outcome) {
  switch (outcome) {
    case RowOutcome::singular:
      return "its system has no unique solution; expected a regularization (or an unobserved_weight) above 0";
    case RowOutcome::grew:
      return "its residual grew; expected a system that regularization makes solvable";
    default:
      return "its solution is not finite; expected values whose weights and factors float32 can hold";
  }
}

// Filled slots hold items that there are, with finite scores.
Status expect_candidates(const Candidates& candidates, int64_t items, double trade_off,
                         const Matrix<int64_t>& positions) {
  const auto& [rows, scores] = candidates;
  SALIENCE_RETURN_IF_ERROR(expect_shape("scores", scores, rows.rows, rows.columns));
  for (int64_t i = 0; i < rows.rows; ++i) {
    for (int64_t j = 0; j < rows.columns; ++j) {
      const int64_t item = rows.row(i)[j];
      const bool known = item >= -1 && item < items;
      if (known && (item < 0 || std::isfinite(scores.row(i)[j]))) continue;
      const std::string place = " in slot " + std::to_string(j) + " of list " + std::to_string(i);
      if (known) {
        return Status::invalid("candidates: score " + std::to_string(scores.row(i)[j]) + place +
                               "; expected a finite number");
      }
      return Status::invalid("candidates: item row " + std::to_string(item) + place + "; expected 0 to " +
                             std::to_string(items - 1) + ", or -1");
    }
  }
  if (!(trade_off >= 0.0 && trade_off <= 1.0)) {
    return Status::invalid("trade_off: " + std::to_string(trade_off) + "; expected 0 to 1");
  }
  if (positions.columns < 1) {
    return Status::invalid("k: " + std::to_string(positions.columns) + "; expected at least 1");
  }
  return expect_shape("positions", positions, rows.rows, positions.columns);
}

}  // namespace

Status expect_item_count(const char* name, int64_t items) {
  if (items <= kMaxItems) return {};
  return Status::invalid(std::string(name) + ": " + std::to_string(items) + " rows; expected at most " +
                         std::to_string(kMaxItems));
}

Status validate(const SimilarityArguments& arguments) {
  SALIENCE_RETURN_IF_ERROR(expect_same_width("b", arguments.b, "a", arguments.a));
  return expect_shape("out", arguments.out, arguments.a.rows, arguments.b.rows);
}

namespace {

Status expect_gates(const char* name, const Matrix<const float>& gates, int64_t rows, int64_t columns) {
  SALIENCE_RETURN_IF_ERROR(expect_shape(name, gates, rows, columns));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const float gate = gates.row(i)[j];
      if (std::isfinite(gate) && gate >= 0.0f && (j > 0 || gate > 0.0f)) continue;
      return Status::invalid(std::string(name) + ": row " + std::to_string(i) + " holds " +
                             std::to_string(gate) + " in column " + std::to_string(j) +
                             "; expected finite numbers that are not negative, and positive in column 0");
    }
  return {};
}

Status validate_blend(const Blend& blend, Metric metric, int64_t queries, int64_t items) {
  const bool gated = blend.query_gates.columns > 0 || blend.item_gates.columns > 0;
  if (metric != Metric::dot && (gated || blend.additions.indptr != nullptr))
    return Status::invalid("metric: not 'dot'; expected 'dot' where scores are blended");
  if (gated) {
    const int64_t columns = std::max(blend.query_gates.columns, blend.item_gates.columns);
    SALIENCE_RETURN_IF_ERROR(expect_gates("query_gates", blend.query_gates, queries, columns));
    SALIENCE_RETURN_IF_ERROR(expect_gates("item_gates", blend.item_gates, items, columns));
  }
  if (blend.labels != nullptr) {
    std::vector<bool> taken(static_cast<size_t>(items));
    for (int64_t i = 0; i < items; ++i) {
      const int64_t label = blend.labels[i];
      if (label < 0 || label >= items || taken[static_cast<size_t>(label)])
        return Status::invalid("labels: " + std::to_string(label) + " of row " + std::to_string(i) +
                               "; expected each of 0 to " + std::to_string(items - 1) + " once");
      taken[static_cast<size_t>(label)] = true;
    }
  }
  const Csr& additions = blend.additions;
  if (additions.indptr == nullptr) return {};
  SALIENCE_RETURN_IF_ERROR(expect_sound("additions", additions, queries, items));
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t n = additions.indptr[i]; n < additions.indptr[i + 1]; ++n) {
      const bool ascending = n == additions.indptr[i] || additions.indices[n - 1] < additions.indices[n];
      if (ascending && std::isfinite(additions.values[n])) continue;
      return Status::invalid(
          "additions: row " + std::to_string(i) +
          (ascending ? " holds a value that is not finite" : " is not in ascending order") +
          "; expected finite values, each column once and in order");
    }
  return {};
}

}  // namespace

Status validate(const TopKArguments& arguments) {
  const auto& [queries, items, k, metric, exclude, allowed, ids, scores, path, blend] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_same_width("items", items, "queries", queries));
  SALIENCE_RETURN_IF_ERROR(expect_item_count("items", items.rows));
  SALIENCE_RETURN_IF_ERROR(expect_k(k, "items", items.rows));
  SALIENCE_RETURN_IF_ERROR(expect_shape("ids", ids, queries.rows, k));
  SALIENCE_RETURN_IF_ERROR(expect_shape("scores", scores, queries.rows, k));
  SALIENCE_RETURN_IF_ERROR(validate_blend(blend, metric, queries.rows, items.rows));
  if (exclude.indptr == nullptr) return {};
  return expect_sound("exclude", exclude, queries.rows, items.rows);
}

template <class T>
Status validate(const SelectArguments<T>& arguments) {
  const auto& [scores, k, ids, values] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_item_count("scores.T", scores.columns));
  SALIENCE_RETURN_IF_ERROR(expect_k(k, "columns of scores", scores.columns));
  SALIENCE_RETURN_IF_ERROR(expect_shape("ids", ids, scores.rows, k));
  return expect_shape("values", values, scores.rows, k);
}

template Status validate(const SelectArguments<float>&);
template Status validate(const SelectArguments<double>&);

Status validate(const GramianArguments& arguments) {
  SALIENCE_RETURN_IF_ERROR(expect_padded("factors", arguments.factors));
  return expect_shape("out", arguments.out, arguments.factors.columns, arguments.factors.columns);
}

Status validate(const RotateArguments& arguments) {
  SALIENCE_RETURN_IF_ERROR(expect_padded("factors", arguments.factors));
  return expect_shape("rotation", arguments.rotation, arguments.factors.columns, arguments.factors.columns);
}

Status validate(const HalfStepArguments& arguments) {
  if (arguments.steps < 1) {
    return Status::invalid("steps: " + std::to_string(arguments.steps) + "; expected at least 1");
  }
  if (!(arguments.tolerance >= 0.0f)) {
    return Status::invalid("tolerance: " + std::to_string(arguments.tolerance) +
                           "; expected a number that is not negative");
  }
  if (arguments.block < kFactorPadding || arguments.block % kFactorPadding != 0) {
    return Status::invalid("block: " + std::to_string(arguments.block) + "; expected a multiple of " +
                           std::to_string(kFactorPadding));
  }
  const bool free = arguments.solver != Solver::nonnegative;
  if (!(arguments.relaxation > 0.0f && arguments.relaxation < 2.0f) ||
      (!free && arguments.relaxation != 1.0f)) {
    return Status::invalid("relaxation: " + std::to_string(arguments.relaxation) +
                           (free ? "; expected a number between 0 and 2" : "; expected 1"));
  }
  if (arguments.prior.data != nullptr) {
    SALIENCE_RETURN_IF_ERROR(expect_padded("prior", arguments.prior));
    SALIENCE_RETURN_IF_ERROR(
        expect_shape("prior", arguments.prior, arguments.solution.rows, arguments.solution.columns));
  }
  return expect_observations(arguments.data, arguments.solution);
}

Status expect_finite(const char* name, const std::vector<int64_t>& rows) {
  for (const int64_t row : rows) {
    if (row < 0) continue;
    return Status::invalid(std::string(name) + ": a value that is not finite in row " + std::to_string(row) +
                           "; expected finite numbers");
  }
  return {};
}

Status diverged(int64_t row, RowOutcome outcome) {
  return Status::diverged("row " + std::to_string(row) + ": " + why(outcome));
}

Status validate(const FactorRanksArguments& arguments) {
  const auto& [queries, items, exclude, allowed, lists, out] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_same_width("items", items, "queries", queries));
  SALIENCE_RETURN_IF_ERROR(expect_item_count("items", items.rows));
  if (lists.columns > 0) {
    SALIENCE_RETURN_IF_ERROR(expect_k(lists.columns, "items", items.rows));
    SALIENCE_RETURN_IF_ERROR(expect_shape("lists", lists, queries.rows, lists.columns));
  }
  return expect_candidates(exclude, out, queries.rows, items.rows);
}

template <class T>
Status validate(const ScoreRanksArguments<T>& arguments) {
  const auto& [scores, exclude, allowed, out] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_item_count("scores.T", scores.columns));
  return expect_candidates(exclude, out, scores.rows, scores.columns);
}

template Status validate(const ScoreRanksArguments<float>&);
template Status validate(const ScoreRanksArguments<double>&);

Status validate(const ListRanksArguments& arguments) {
  const Csr& held_out = arguments.out.held_out;
  return expect_sorted("held_out", held_out, arguments.lists.rows, held_out.columns);
}

Status validate(const RankMetricsArguments& arguments) {
  const Csr& held_out = arguments.held_out;
  SALIENCE_RETURN_IF_ERROR(expect_sound("held_out", held_out, held_out.rows, held_out.columns));
  const int64_t items = held_out.columns, entries = held_out.entries;
  SALIENCE_RETURN_IF_ERROR(expect_counts("ranks", arguments.ranks, entries, items));
  SALIENCE_RETURN_IF_ERROR(expect_counts("lengths", arguments.lengths, held_out.rows, items));
  if (arguments.better != nullptr) {
    SALIENCE_RETURN_IF_ERROR(expect_counts("better", arguments.better, entries, items));
    SALIENCE_RETURN_IF_ERROR(expect_counts("equal", arguments.equal, entries, items));
    for (int64_t e = 0; e < entries; ++e) {
      if (arguments.better[e] + arguments.equal[e] >= items) {
        return Status::invalid("better: " + std::to_string(arguments.better[e]) + " besides " +
                               std::to_string(arguments.equal[e]) + " equal; expected fewer than the " +
                               std::to_string(items) + " items");
      }
    }
  }
  for (int64_t m = 0; m < arguments.out.rows; ++m) {
    const RankMetric& metric = arguments.metrics[m];
    if (metric.formula == RankFormula::ndcg_cutoff && metric.cutoff > kMostDiscounts) {
      return Status::invalid("metrics: an ideal of " + std::to_string(metric.cutoff) +
                             " hits; expected a cut-off of at most " + std::to_string(kMostDiscounts));
    }
    if (metric.cutoff < 1 || metric.formula < RankFormula{} || metric.formula >= RankFormula::count) {
      return Status::invalid("metrics: formula " + std::to_string(static_cast<int>(metric.formula)) +
                             " at cut-off " + std::to_string(metric.cutoff) +
                             "; expected a known formula and a cut-off of at least 1");
    }
  }
  return expect_shape("out", arguments.out, arguments.out.rows, held_out.rows);
}

Status validate(const UnitRowsArguments& arguments) {
  SALIENCE_RETURN_IF_ERROR(expect_padded("out", arguments.out));
  return expect_shape("out", arguments.out, arguments.vectors.rows, arguments.vectors.columns);
}

Status validate(const DiversifyArguments& arguments) {
  const auto& [candidates, vectors, diversity, trade_off, positions] = arguments;
  return expect_candidates(candidates, vectors.rows, trade_off, positions);
}

Status validate(const CalibrateArguments& arguments) {
  const auto& [candidates, categories, targets, trade_off, positions] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_sound("categories", categories, categories.rows, categories.columns));
  SALIENCE_RETURN_IF_ERROR(expect_shape("targets", targets, candidates.items.rows, categories.columns));
  return expect_candidates(candidates, categories.rows, trade_off, positions);
}

Status validate(const AttentionArguments& arguments) {
  const auto& [units, history, log_weights, candidates, temperature, smoothing, out] = arguments;
  SALIENCE_RETURN_IF_ERROR(expect_padded("units", units));
  SALIENCE_RETURN_IF_ERROR(expect_sound("history", history, history.rows, units.rows));
  if (!(temperature > 0.0 && std::isfinite(temperature))) {
    return Status::invalid("temperature: " + std::to_string(temperature) +
                           "; expected a positive finite number");
  }
  if (!(smoothing >= 0.0 && smoothing <= 1.0)) {
    return Status::invalid("smoothing: " + std::to_string(smoothing) + "; expected 0 to 1");
  }
  for (int64_t e = 0; log_weights != nullptr && e < history.entries; ++e) {
    if (log_weights[e] <= 0.0 && std::isfinite(log_weights[e])) continue;
    return Status::invalid("log_weights: " + std::to_string(log_weights[e]) +
                           "; expected finite numbers of at most 0");
  }
  const int64_t columns = candidates.columns;
  SALIENCE_RETURN_IF_ERROR(expect_shape("candidates", candidates, history.rows, columns));
  SALIENCE_RETURN_IF_ERROR(expect_shape("out", out, history.rows, columns));
  for (int64_t i = 0; i < candidates.rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t item = candidates.row(i)[j];
      if (item >= -1 && item < units.rows) continue;
      return Status::invalid("candidates: item row " + std::to_string(item) + "; expected 0 to " +
                             std::to_string(units.rows - 1) + ", or -1");
    }
  }
  return {};
}

}  // namespace salience
