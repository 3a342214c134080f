// pybind11 and nothing else: arrays to views, the GIL released, status to exception.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "core/random.h"
#include "cpu/instruction_sets.h"
#include "cpu/operations.h"

namespace py = pybind11;
using namespace salience;

namespace {

using Floats = py::array_t<float, 0>;
using Pattern = std::tuple<py::array_t<int64_t, py::array::c_style>, py::array_t<int32_t, py::array::c_style>>;

template <class T>
Matrix<const T> matrix(const char* name, const py::array_t<T, 0>& array) {
  if (array.ndim() != 2)
    throw py::value_error(std::string(name) + ": " + std::to_string(array.ndim()) + " dimensions; expected 2");
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  if (array.shape(1) > 1 && array.strides(1) != size)
    throw py::value_error(std::string(name) + ": elements of a row lie apart; expected them side by side");
  return {array.data(), array.shape(0), array.shape(1), array.strides(0) / size};
}

template <class T>
Matrix<T> writable(py::array_t<T>& array) {
  return {array.mutable_data(), array.shape(0), array.shape(1), array.shape(1)};
}

Metric metric_of(const std::string& name) {
  if (name == "dot") return Metric::dot;
  if (name == "cosine") return Metric::cosine;
  if (name == "euclidean") return Metric::euclidean;
  throw py::value_error("metric: '" + name + "'; expected 'dot', 'cosine' or 'euclidean'");
}

bool interrupted() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

// Runs `operation(context)` without the GIL and raises what its status says.
template <class Operation>
void run(int threads, Operation operation) {
  const Context context{threads, interrupted};
  Status status;
  {
    const py::gil_scoped_release release;
    status = operation(context);
  }
  if (status.ok()) return;
  if (status.code == Code::interrupted) throw py::error_already_set();
  if (status.code == Code::diverged) {
    PyErr_SetString(PyExc_FloatingPointError, status.message.c_str());
    throw py::error_already_set();
  }
  throw py::value_error(status.message);
}

py::array_t<float> similarity(const Floats& a, const Floats& b, const std::string& metric, int threads) {
  py::array_t<float> out({a.ndim() ? a.shape(0) : 0, b.ndim() ? b.shape(0) : 0});
  const SimilarityArguments arguments{matrix("a", a), matrix("b", b), metric_of(metric), writable(out)};
  run(threads, [&](const Context& context) { return cpu::similarity(arguments, context); });
  return out;
}

py::tuple topk(const Floats& queries, const Floats& items, int64_t k, const std::string& metric,
               const std::optional<Pattern>& exclude,
               const std::optional<py::array_t<bool, py::array::c_style>>& allowed, int threads) {
  const auto q = matrix("queries", queries), x = matrix("items", items);
  if (k < 1 || k > x.rows)
    throw py::value_error("k: " + std::to_string(k) + "; expected a whole number from 1 to the " +
                          std::to_string(x.rows) + " items");
  py::array_t<int64_t> ids({q.rows, k});
  py::array_t<float> scores({q.rows, k});
  TopKArguments arguments{q, x, k, metric_of(metric), {}, nullptr, writable(ids), writable(scores)};
  if (exclude) {
    const auto& [indptr, indices] = *exclude;
    arguments.exclude = {indptr.data(), indices.data(), nullptr, indptr.size() - 1, x.rows, indices.size()};
  }
  if (allowed) {
    if (allowed->size() != x.rows)
      throw py::value_error("allow: a mask of " + std::to_string(allowed->size()) + "; expected one flag for each of the " +
                            std::to_string(x.rows) + " items");
    arguments.allowed = reinterpret_cast<const uint8_t*>(allowed->data());
  }
  run(threads, [&](const Context& context) { return cpu::topk(arguments, context); });
  return py::make_tuple(ids, scores);
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

py::array_t<float> random_normal(uint64_t seed, uint32_t stream, int64_t rows, int64_t columns) {
  py::array_t<float> out({rows, columns});
  salience::random_normal(seed, stream, 0, rows * columns, out.mutable_data());
  return out;
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
  module.def("similarity", similarity, py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("metric"),
             py::arg("threads"));
  module.def("topk", topk, py::arg("queries").noconvert(), py::arg("items").noconvert(), py::arg("k"),
             py::arg("metric"), py::arg("exclude"), py::arg("allowed"), py::arg("threads"));
  module.def("select", select<float>, py::arg("scores").noconvert(), py::arg("k"), py::arg("threads"));
  module.def("select", select<double>, py::arg("scores").noconvert(), py::arg("k"), py::arg("threads"));
  module.def("random_normal", random_normal, py::arg("seed"), py::arg("stream"), py::arg("rows"),
             py::arg("columns"));
}
