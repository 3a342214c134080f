// The operations of ALS for Python.
#include "bindings/als.h"

#include "cpu/operations.h"

namespace salience::bindings {
namespace {

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

AlsObservations observations(const Contiguous<int64_t>& indptr, const Contiguous<int32_t>& indices,
                             const Contiguous<float>& values, const Floats& design, bool is_explicit,
                             float alpha, const std::optional<Contiguous<float>>& shift) {
  if (indptr.size() < 1 || values.size() != indices.size())
    throw py::value_error("observations: " + std::to_string(indices.size()) + " column indices and " +
                          std::to_string(values.size()) + " values; expected as many of both");
  const auto factors = matrix("design", design);
  if (shift) expect_size("shift", *shift, factors.rows);
  return {{indptr.data(), indices.data(), values.data(), indptr.size() - 1, factors.rows, indices.size()},
          factors,
          is_explicit ? Feedback::explicit_feedback : Feedback::implicit_feedback,
          alpha,
          shift ? shift->data() : nullptr};
}

py::dict half_step(const Contiguous<int64_t>& indptr, const Contiguous<int32_t>& indices,
                   const Contiguous<float>& values, const Floats& design, Floats solution,
                   const Contiguous<float>& diagonal, const Contiguous<float>& ridge, bool is_explicit,
                   float alpha, const std::optional<Contiguous<float>>& shift,
                   const std::optional<Floats>& prior, const std::optional<Contiguous<double>>& dense,
                   const std::string& solver, int64_t steps, float tolerance, int64_t block, float relaxation,
                   bool with_data_loss, int threads) {
  HalfStepReport report;
  HalfStepArguments a;
  a.data = observations(indptr, indices, values, design, is_explicit, alpha, shift);
  expect_size("diagonal", diagonal, a.data.design.row_stride);
  expect_size("ridge", ridge, a.data.observations.rows);
  if (dense) expect_size("dense", *dense, a.data.design.columns * a.data.design.columns);
  a.diagonal = diagonal.data();
  a.dense = dense ? dense->data() : nullptr;
  a.ridge = ridge.data();
  if (prior) a.prior = matrix("prior", *prior);
  a.solution = in_place("solution", solution);
  a.solver = solver_of(solver);
  a.steps = steps;
  a.tolerance = tolerance;
  a.block = block;
  a.relaxation = relaxation;
  a.with_data_loss = with_data_loss;
  a.report = &report;
  run(threads, [&](const Context& context) { return cpu::half_step(a, context); });
  return dict_of(report);
}

}  // namespace

void bind_als(py::module_& module) {
  module.def("gramian", gramian, py::arg("factors").noconvert(), py::arg("threads"));
  module.def("rotate", rotate, py::arg("factors").noconvert(), py::arg("rotation").noconvert(),
             py::arg("threads"));
  module.def("half_step", half_step, py::arg("indptr"), py::arg("indices"), py::arg("values"),
             py::arg("design").noconvert(), py::arg("solution").noconvert(), py::arg("diagonal"),
             py::arg("ridge"), py::kw_only(), py::arg("is_explicit") = false, py::arg("alpha") = 1.0f,
             py::arg("shift") = py::none(), py::arg("prior") = py::none(), py::arg("dense") = py::none(),
             py::arg("solver") = "auto", py::arg("steps") = 2, py::arg("tolerance") = 0.0f,
             py::arg("block") = 64, py::arg("relaxation") = 1.0f, py::arg("with_data_loss") = false,
             py::arg("threads") = 0);
}

}  // namespace salience::bindings
