// Ranks of held-out items and the metrics that follow from them.
#include "bindings/arrays.h"
#include "cpu/operations.h"

namespace salience::bindings {
namespace {

using Integers = py::array_t<int64_t, py::array::c_style>;
using Lists = py::array_t<int64_t, 0>;
using Gains = py::array_t<float, py::array::c_style>;

// Where ranks go: arrays of Python, and views of them.
struct Ranks {
  Csr held_out;
  Integers ranks, lengths, better, equal;
  bool tied = false;

  Ranks(const Pattern& relevant, int64_t rows, int64_t items, bool with_ties)
      : held_out(pattern(relevant, items)),
        ranks(held_out.entries),
        lengths(rows),
        better(with_ties ? held_out.entries : 0),
        equal(with_ties ? held_out.entries : 0),
        tied(with_ties) {}

  HeldOutRanks view() {
    return {held_out, ranks.mutable_data(), lengths.mutable_data(), tied ? better.mutable_data() : nullptr,
            tied ? equal.mutable_data() : nullptr};
  }
  py::tuple result() const { return py::make_tuple(ranks, lengths, better, equal); }
};

py::tuple factor_ranks(const Floats& queries, const Floats& items, const Pattern& relevant,
                       const std::optional<Pattern>& exclude, const std::optional<Mask>& allowed,
                       int64_t depth, int threads) {
  const auto q = matrix("queries", queries), x = matrix("items", items);
  if (depth != 0) check_k(depth, x.rows);
  py::array_t<int64_t> lists({q.rows, depth});
  Ranks out(relevant, q.rows, x.rows, depth == 0);
  const FactorRanksArguments arguments{
      q, x, pattern(exclude, x.rows), mask(allowed, x.rows), writable(lists), out.view()};
  run(threads, [&](const Context& context) { return cpu::factor_ranks(arguments, context); });
  return py::make_tuple(out.result(), lists);
}

template <class T>
py::tuple score_ranks(const py::array_t<T, 0>& scores, const Pattern& relevant,
                      const std::optional<Pattern>& exclude, const std::optional<Mask>& allowed,
                      int threads) {
  const auto values = matrix("scores", scores);
  Ranks out(relevant, values.rows, values.columns, true);
  const ScoreRanksArguments<T> arguments{values, pattern(exclude, values.columns),
                                         mask(allowed, values.columns), out.view()};
  run(threads, [&](const Context& context) { return cpu::score_ranks(arguments, context); });
  return out.result();
}

py::tuple list_ranks(const Lists& lists, const Pattern& relevant, int64_t items, int threads) {
  const auto view = matrix("recommended", lists);
  Ranks out(relevant, view.rows, items, false);
  const ListRanksArguments arguments{view, out.view()};
  run(threads, [&](const Context& context) { return cpu::list_ranks(arguments, context); });
  return out.result();
}

void expect_entries(const char* name, int64_t found, int64_t expected) {
  if (found == expected) return;
  throw py::value_error(std::string(name) + ": " + std::to_string(found) + " values; expected " +
                        std::to_string(expected));
}

using Formulas = std::vector<std::tuple<int, int64_t, double>>;

py::array_t<double> rank_metrics(const Pattern& relevant, const std::optional<Gains>& gains,
                                 const Integers& ranks, const Integers& lengths, const Integers& better,
                                 const Integers& equal, int64_t items, const Formulas& formulas,
                                 int threads) {
  RankMetricsArguments arguments;
  arguments.held_out = pattern(relevant, items);
  const int64_t entries = arguments.held_out.entries, rows = arguments.held_out.rows;
  expect_entries("ranks", ranks.size(), entries);
  expect_entries("lengths", lengths.size(), rows);
  if (gains) expect_entries("gains", gains->size(), entries);
  std::vector<RankMetric> metrics;
  bool with_ties = false, with_gains = false;
  for (const auto& [formula, cutoff, parameter] : formulas) {
    metrics.push_back({static_cast<RankFormula>(formula), cutoff, parameter});
    const RankFormula kind = metrics.back().formula;
    with_ties = with_ties || kind == RankFormula::auc || kind == RankFormula::expected_precision ||
                kind == RankFormula::expected_recall || kind == RankFormula::expected_ndcg;
    with_gains = with_gains || kind == RankFormula::ndcg_linear || kind == RankFormula::ndcg_exponential;
  }
  if (with_ties) {
    expect_entries("better", better.size(), entries);
    expect_entries("equal", equal.size(), entries);
  }
  if (with_gains && !gains) throw py::value_error("gains: None; expected one for each held-out entry");
  py::array_t<double> out({static_cast<int64_t>(metrics.size()), rows});
  arguments.held_out.values = gains ? gains->data() : nullptr;
  arguments.ranks = ranks.data();
  arguments.lengths = lengths.data();
  arguments.better = with_ties ? better.data() : nullptr;
  arguments.equal = with_ties ? equal.data() : nullptr;
  arguments.metrics = metrics.data();
  arguments.out = writable(out);
  run(threads, [&](const Context& context) { return cpu::rank_metrics(arguments, context); });
  return out;
}

// In the order of RankFormula.
constexpr const char* kFormulas[] = {
    "precision",
    "precision_returned",
    "recall",
    "recall_capped",
    "hit_rate",
    "f1",
    "average_precision",
    "average_precision_relevant",
    "average_precision_cutoff",
    "average_precision_returned",
    "reciprocal_rank",
    "all_reciprocal_ranks",
    "ndcg",
    "ndcg_relevant",
    "ndcg_cutoff",
    "ndcg_returned",
    "ndcg_linear",
    "ndcg_exponential",
    "rank_biased_precision",
    "r_precision",
    "auc",
    "auc_ordered",
    "expected_precision",
    "expected_recall",
    "expected_ndcg",
};
static_assert(sizeof kFormulas / sizeof *kFormulas == static_cast<size_t>(RankFormula::count));

}  // namespace

void bind_evaluation(py::module_& module) {
  py::dict formulas;
  int number = 0;
  for (const char* name : kFormulas) formulas[name] = number++;
  module.attr("rank_formulas") = formulas;
  module.def("factor_ranks", factor_ranks, py::arg("queries").noconvert(), py::arg("items").noconvert(),
             py::arg("relevant"), py::arg("exclude"), py::arg("allowed"), py::arg("depth"),
             py::arg("threads"));
  module.def("score_ranks", score_ranks<float>, py::arg("scores").noconvert(), py::arg("relevant"),
             py::arg("exclude"), py::arg("allowed"), py::arg("threads"));
  module.def("score_ranks", score_ranks<double>, py::arg("scores").noconvert(), py::arg("relevant"),
             py::arg("exclude"), py::arg("allowed"), py::arg("threads"));
  module.def("list_ranks", list_ranks, py::arg("recommended").noconvert(), py::arg("relevant"),
             py::arg("items"), py::arg("threads"));
  module.def("rank_metrics", rank_metrics, py::arg("relevant"), py::arg("gains"), py::arg("ranks"),
             py::arg("lengths"), py::arg("better"), py::arg("equal"), py::arg("items"), py::arg("formulas"),
             py::arg("threads"));
}

}  // namespace salience::bindings
