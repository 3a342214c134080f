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
                                path_of(path)};
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

// A factor matrix that is written in place; its rows are padded.
Matrix<float> in_place(const char* name, Floats& array) {
  if (!array.writeable())
    throw py::value_error(std::string(name) + ": a read-only array; expected a writeable one");
  const auto view = matrix<float>(name, array);
  return {const_cast<float*>(view.data), view.rows, view.columns, view.row_stride};
}

AlsObservations observations(const py::array_t<int64_t, py::array::c_style>& indptr,
                             const py::array_t<int32_t, py::array::c_style>& indices,
                             const py::array_t<float, py::array::c_style>& values, const Floats& design,
                             bool is_explicit, float alpha, float offset) {
  if (indptr.size() < 1 || values.size() != indices.size())
    throw py::value_error("observations: " + std::to_string(indices.size()) + " column indices and " +
                          std::to_string(values.size()) + " values; expected as many of both");
  const auto factors = matrix("design", design);
  return {{indptr.data(), indices.data(), values.data(), indptr.size() - 1, factors.rows, indices.size()},
          factors,
          is_explicit ? Feedback::explicit_feedback : Feedback::implicit_feedback,
          alpha,
          offset};
}

py::array_t<double> gramian(const Floats& factors, int threads) {
  const auto view = matrix("factors", factors);
  py::array_t<double> out({view.columns, view.columns});
  const GramianArguments arguments{view, writable(out)};
  run(threads, [&](const Context& context) { return cpu::gramian(arguments, context); });
  return out;
}

void rotate(Floats factors, const Floats& rotation, int threads) {
  const RotateArguments arguments{in_place("factors", factors), matrix("rotation", rotation)};
  run(threads, [&](const Context& context) { return cpu::rotate(arguments, context); });
}

py::tuple half_step(const py::array_t<int64_t, py::array::c_style>& indptr,
                    const py::array_t<int32_t, py::array::c_style>& indices,
                    const py::array_t<float, py::array::c_style>& values, const Floats& design,
                    bool is_explicit, float alpha, float offset,
                    const py::array_t<float, py::array::c_style>& diagonal,
                    const py::array_t<float, py::array::c_style>& ridge, Floats solution, int64_t steps,
                    float tolerance, int threads) {
  HalfStepReport report;
  const AlsObservations data = observations(indptr, indices, values, design, is_explicit, alpha, offset);
  if (diagonal.size() != data.design.row_stride || ridge.size() != data.observations.rows)
    throw py::value_error("ridge: " + std::to_string(ridge.size()) + " values and a diagonal of " +
                          std::to_string(diagonal.size()) +
                          "; expected one for each row and each padded factor");
  const HalfStepArguments arguments{data,  diagonal.data(), ridge.data(), in_place("solution", solution),
                                    steps, tolerance,       &report};
  run(threads, [&](const Context& context) { return cpu::half_step(arguments, context); });
  return py::make_tuple(report.worst_residual, report.mean_residual, report.conjugate_steps);
}

py::array_t<double> row_loss(const py::array_t<int64_t, py::array::c_style>& indptr,
                             const py::array_t<int32_t, py::array::c_style>& indices,
                             const py::array_t<float, py::array::c_style>& values, const Floats& design,
                             bool is_explicit, float alpha, float offset, const Floats& solution,
                             int threads) {
  const AlsObservations data = observations(indptr, indices, values, design, is_explicit, alpha, offset);
  py::array_t<double> out(data.observations.rows);
  const RowLossArguments arguments{data, matrix("solution", solution), out.mutable_data()};
  run(threads, [&](const Context& context) { return cpu::row_loss(arguments, context); });
  return out;
}

py::array_t<float> normal(uint64_t seed, uint32_t stream, int64_t rows, int64_t columns) {
  py::array_t<float> out({rows, columns});
  random_normal(seed, stream, 0, rows * columns, out.mutable_data());
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
  module.def("gramian", gramian, py::arg("factors").noconvert(), py::arg("threads"));
  module.def("rotate", rotate, py::arg("factors").noconvert(), py::arg("rotation").noconvert(),
             py::arg("threads"));
  module.def("half_step", half_step, py::arg("indptr"), py::arg("indices"), py::arg("values"),
             py::arg("design").noconvert(), py::arg("is_explicit"), py::arg("alpha"), py::arg("offset"),
             py::arg("diagonal"), py::arg("ridge"), py::arg("solution").noconvert(), py::arg("steps"),
             py::arg("tolerance"), py::arg("threads"));
  module.def("row_loss", row_loss, py::arg("indptr"), py::arg("indices"), py::arg("values"),
             py::arg("design").noconvert(), py::arg("is_explicit"), py::arg("alpha"), py::arg("offset"),
             py::arg("solution").noconvert(), py::arg("threads"));
  module.def("random_normal", normal, py::arg("seed"), py::arg("stream"), py::arg("rows"),
             py::arg("columns"));
}
