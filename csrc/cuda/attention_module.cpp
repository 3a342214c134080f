// Attention over histories for Python: pybind11 and nothing else.
#include "bindings/arrays.h"
#include "cuda/als.h"
#include "cuda/operations.h"

using namespace salience;
using namespace salience::bindings;

namespace {

using Lists = py::array_t<int64_t, 0>;

py::array_t<float> attend(const cuda::DeviceFactors& units, const Pattern& history,
                          const std::optional<Contiguous<double>>& log_weights, const Lists& candidates,
                          double temperature, double smoothing) {
  AttentionArguments arguments;
  arguments.units = units.view();
  arguments.history = pattern(history, units.rows());
  if (log_weights) {
    expect_size("log_weights", *log_weights, arguments.history.entries);
    arguments.log_weights = log_weights->data();
  }
  arguments.candidates = matrix("candidates", candidates);
  py::array_t<float> out({arguments.candidates.rows, arguments.candidates.columns});
  arguments.temperature = temperature;
  arguments.smoothing = smoothing;
  arguments.out = writable(out);
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(nullptr);
    return cuda::attend(arguments, cuda::default_stream(), interrupted);
  });
  return out;
}

}  // namespace

void bind_device_attention(py::module_& module) {
  module.def("attend", attend, py::arg("units"), py::arg("history"), py::arg("log_weights"),
             py::arg("candidates").noconvert(), py::arg("temperature"), py::arg("smoothing"));
}
