// pybind11 and nothing else: arrays to views, the GIL released, status to exception.
#include "bindings/arrays.h"
#include "core/random.h"
#include "cpu/instruction_sets.h"
#include "cpu/limits.h"
#include "cpu/operations.h"
#include "cpu/topk.h"

using namespace salience;
using namespace salience::bindings;

namespace {

py::array_t<float> similarity(const Floats& a, const Floats& b, const std::string& metric, int threads) {
  py::array_t<float> out({a.ndim() ? a.shape(0) : 0, b.ndim() ? b.shape(0) : 0});
  const SimilarityArguments arguments{matrix("a", a), matrix("b", b), metric_of(metric), writable(out)};
  run(threads, [&](const Context& context) { return cpu::similarity(arguments, context); });
  return out;
}

py::tuple topk(const Floats& queries, const py::array& items, const std::string& type, int64_t k,
               const std::string& metric, const std::optional<Pattern>& exclude,
               const std::optional<Mask>& allowed, int threads, const std::string& path) {
  const auto q = matrix("queries", queries);
  const Elements x = elements("items", items, type);
  check_k(k, x.rows);
  py::array_t<int64_t> ids({q.rows, k});
  py::array_t<float> scores({q.rows, k});
  const TopKArguments arguments{q,
                                x,
                                k,
                                metric_of(metric),
                                pattern(exclude, x.rows),
                                mask(allowed, x.rows),
                                writable(ids),
                                writable(scores),
                                path_of(path),
                                {}};
  run(threads, [&](const Context& context) { return cpu::topk(arguments, context); });
  return py::make_tuple(ids, scores);
}

py::tuple probe(const Floats& queries, const Floats& items, const std::string& metric,
                const std::string& path) {
  const auto q = matrix("queries", queries), x = matrix("items", items);
  py::array_t<double> values({q.rows, x.rows}), errors({q.rows, x.rows}), offsets(q.rows), norms(q.rows);
  const SimilarityArguments arguments{q, x, metric_of(metric), {}};
  run(1, [&](const Context&) {
    return cpu::probe(arguments, path_of(path), values.mutable_data(), errors.mutable_data(),
                      offsets.mutable_data(), norms.mutable_data());
  });
  return py::make_tuple(values, errors, offsets, norms);
}

template <class T>
py::tuple select(const py::array_t<T, 0>& scores, int64_t k, int threads) {
  const auto values = matrix("scores", scores);
  if (k < 1 || k > values.columns)
    throw py::value_error("k: " + std::to_string(k) + "; expected a whole number from 1 to the " +
                          std::to_string(values.columns) + " columns of scores");
  py::array_t<int64_t> ids({values.rows, k});
  py::array_t<T> best({values.rows, k});
  const SelectArguments<T> arguments{values, k, writable(ids), writable(best)};
  run(threads, [&](const Context& context) { return cpu::select(arguments, context); });
  return py::make_tuple(ids, best);
}

py::array_t<float> normal(uint64_t seed, uint32_t stream, int64_t rows, int64_t columns, int threads) {
  constexpr int64_t kUnit = 1 << 16;  // even, as random_normal wants
  py::array_t<float> out({rows, columns});
  float* const data = out.mutable_data();
  const int64_t count = rows * columns, units = (count + kUnit - 1) / kUnit;
  run(threads, [&](const Context& context) {
    const int workers = worker_count(context, units, 50.0 * static_cast<double>(count));
    return parallel_for(context, workers, units, [&](int64_t unit, Worker&) {
      const int64_t first = unit * kUnit;
      random_normal(seed, stream, static_cast<uint64_t>(first), std::min(kUnit, count - first), data + first);
    });
  });
  return out;
}

py::dict machine_limits(int threads) {
  cpu::MachineLimits limits;
  run(threads, [&](const Context&) {
    limits = cpu::measure_limits(threads > 0 ? threads : usable_cores());
    return Status{};
  });
  py::dict found;
  found["products_per_second"] = limits.products_per_second;
  found["bytes_per_second"] = limits.bytes_per_second;
  return found;
}

py::dict config() {
  py::list sets;
  for (const cpu::InstructionSet& set : cpu::instruction_sets()) {
    py::dict row;
    row["name"] = set.name;
    row["built"] = set.built;
    row["offered"] = set.offered;
    row["why_not"] = set.why_not;
    sets.append(row);
  }
  py::dict found;
  found["instruction_sets"] = sets;
  found["chosen"] = cpu::chosen_instruction_set().name;
  found["kernels"] = cpu::kernels_name();
  found["threads"] = usable_cores();
  found["cuda"] = SALIENCE_CUDA_STATE;
  return found;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.attr("__version__") = SALIENCE_VERSION;
  module.def("config", config);
  bind_evaluation(module);
  bind_index(module);
  bind_als(module);
  bind_attention(module);
  bind_rerank(module);
  module.def("use_instruction_set", cpu::use_instruction_set, py::arg("name"));
  module.def("machine_limits", machine_limits, py::arg("threads"));
  module.def("similarity", similarity, py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("metric"),
             py::arg("threads"));
  module.def("topk", topk, py::arg("queries").noconvert(), py::arg("items").noconvert(), py::arg("type"),
             py::arg("k"), py::arg("metric"), py::arg("exclude"), py::arg("allowed"), py::arg("threads"),
             py::arg("path") = "auto");
  module.def("probe_screening", probe, py::arg("queries").noconvert(), py::arg("items").noconvert(),
             py::arg("metric"), py::arg("path"));
  module.def("select", select<float>, py::arg("scores").noconvert(), py::arg("k"), py::arg("threads"));
  module.def("select", select<double>, py::arg("scores").noconvert(), py::arg("k"), py::arg("threads"));
  module.def("random_normal", normal, py::arg("seed"), py::arg("stream"), py::arg("rows"), py::arg("columns"),
             py::arg("threads") = 0);
}
