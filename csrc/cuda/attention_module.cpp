// Attention over histories for Python: pybind11 and nothing else.
#include "bindings/attention.h"
#include "cuda/als.h"
#include "cuda/operations.h"

using namespace salience;
using namespace salience::bindings;

namespace {

py::array_t<float> attend(const cuda::DeviceFactors& units, const Pattern& history,
                          const LogWeights& log_weights, const CandidateLists& candidates, double temperature,
                          double smoothing) {
  const auto call = [](const AttentionArguments& arguments) {
    run(1, [&](const Context&) {
      const cuda::DeviceScope scope(nullptr);
      return cuda::attend(arguments, cuda::default_stream(), interrupted);
    });
  };
  return attended(units.view(), history, log_weights, candidates, temperature, smoothing, call);
}

}  // namespace

void bind_device_attention(py::module_& module) {
  module.def("attend", attend, py::arg("units"), py::arg("history"), py::arg("log_weights"),
             py::arg("candidates").noconvert(), py::arg("temperature"), py::arg("smoothing"));
}
