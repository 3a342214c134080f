// Another order for lists, for Python.
#include "bindings/arrays.h"
#include "cpu/operations.h"

namespace salience::bindings {
namespace {

using Lists = py::array_t<int64_t, 0>;

py::array_t<int64_t> diversify(const Lists& items, const Floats& scores, const Floats& vectors, int64_t k,
                               const std::string& diversity, double trade_off, int threads) {
  const Candidates candidates{matrix("candidates", items), matrix("scores", scores)};
  if (diversity != "mmr" && diversity != "dpp")
    throw py::value_error("diversity: '" + diversity + "'; expected 'mmr' or 'dpp'");
  py::array_t<int64_t> positions({candidates.items.rows, k});
  const DiversifyArguments arguments{
      candidates, matrix("vectors", vectors),
      diversity == "mmr" ? Diversity::marginal_relevance : Diversity::determinant, trade_off,
      writable(positions)};
  run(threads, [&](const Context& context) { return cpu::diversify(arguments, context); });
  return positions;
}

py::array_t<int64_t> calibrate(const Lists& items, const Floats& scores, const Pattern& categories,
                               const Contiguous<float>& shares, const py::array_t<double, 0>& targets,
                               int64_t k, double trade_off, int threads) {
  const Candidates candidates{matrix("candidates", items), matrix("scores", scores)};
  const auto wanted = matrix("targets", targets);
  Csr table = pattern(categories, wanted.columns);
  expect_size("shares", shares, table.entries);
  table.values = shares.data();
  py::array_t<int64_t> positions({candidates.items.rows, k});
  const CalibrateArguments arguments{candidates, table, wanted, trade_off, writable(positions)};
  run(threads, [&](const Context& context) { return cpu::calibrate(arguments, context); });
  return positions;
}

}  // namespace

void bind_rerank(py::module_& module) {
  module.def("diversify", diversify, py::arg("items").noconvert(), py::arg("scores").noconvert(),
             py::arg("vectors").noconvert(), py::arg("k"), py::arg("diversity"), py::arg("trade_off"),
             py::arg("threads"));
  module.def("calibrate", calibrate, py::arg("items").noconvert(), py::arg("scores").noconvert(),
             py::arg("categories"), py::arg("shares"), py::arg("targets").noconvert(), py::arg("k"),
             py::arg("trade_off"), py::arg("threads"));
}

}  // namespace salience::bindings
