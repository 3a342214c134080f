// Attention over histories, for Python.
#include "bindings/attention.h"

#include "cpu/operations.h"

namespace salience::bindings {
namespace {

// Padded, as ALS pads its factors: a view of the first columns of a wider array.
py::object unit_rows(const Floats& vectors, int threads) {
  const auto view = matrix("vectors", vectors);
  const int64_t stride = (view.columns + kFactorPadding - 1) / kFactorPadding * kFactorPadding;
  py::array_t<float> whole({view.rows, stride});
  const UnitRowsArguments arguments{view, {whole.mutable_data(), view.rows, view.columns, stride}};
  run(threads, [&](const Context& context) { return cpu::unit_rows(arguments, context); });
  return py::object(whole[py::make_tuple(py::ellipsis(), py::slice(0, view.columns, 1))]);
}

py::array_t<float> attend(const Floats& units, const Pattern& history, const LogWeights& log_weights,
                          const CandidateLists& candidates, double temperature, double smoothing,
                          int threads) {
  const auto call = [&](const AttentionArguments& arguments) {
    run(threads, [&](const Context& context) { return cpu::attend(arguments, context); });
  };
  return attended(matrix("units", units), history, log_weights, candidates, temperature, smoothing, call);
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("unit_rows", unit_rows, py::arg("vectors").noconvert(), py::arg("threads"));
  module.def("attend", attend, py::arg("units").noconvert(), py::arg("history"), py::arg("log_weights"),
             py::arg("candidates").noconvert(), py::arg("temperature"), py::arg("smoothing"),
             py::arg("threads"));
}

}  // namespace salience::bindings
