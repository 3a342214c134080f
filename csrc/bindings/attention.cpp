// Attention over histories, for Python.
#include "bindings/arrays.h"
#include "cpu/operations.h"

namespace salience::bindings {
namespace {

using Lists = py::array_t<int64_t, 0>;
using Weights = py::array_t<double, py::array::c_style>;

// Padded, as ALS pads its factors: a view of the first columns of a wider array.
py::object unit_rows(const Floats& vectors, int threads) {
  const auto view = matrix("vectors", vectors);
  const int64_t stride = (view.columns + kFactorPadding - 1) / kFactorPadding * kFactorPadding;
  py::array_t<float> whole({view.rows, stride});
  const UnitRowsArguments arguments{view, {whole.mutable_data(), view.rows, view.columns, stride}};
  run(threads, [&](const Context& context) { return cpu::unit_rows(arguments, context); });
  return py::object(whole[py::make_tuple(py::ellipsis(), py::slice(0, view.columns, 1))]);
}

py::array_t<float> attend(const Floats& units, const Pattern& history,
                          const std::optional<Weights>& log_weights, const Lists& candidates,
                          double temperature, double smoothing, int threads) {
  AttentionArguments arguments;
  arguments.units = matrix("units", units);
  arguments.history = pattern(history, arguments.units.rows);
  if (log_weights) {
    expect_size("log_weights", *log_weights, arguments.history.entries);
    arguments.log_weights = log_weights->data();
  }
  arguments.candidates = matrix("candidates", candidates);
  py::array_t<float> out({arguments.candidates.rows, arguments.candidates.columns});
  arguments.temperature = temperature;
  arguments.smoothing = smoothing;
  arguments.out = writable(out);
  run(threads, [&](const Context& context) { return cpu::attend(arguments, context); });
  return out;
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("unit_rows", unit_rows, py::arg("vectors").noconvert(), py::arg("threads"));
  module.def("attend", attend, py::arg("units").noconvert(), py::arg("history"), py::arg("log_weights"),
             py::arg("candidates").noconvert(), py::arg("temperature"), py::arg("smoothing"),
             py::arg("threads"));
}

}  // namespace salience::bindings
