// ALS for Python: pybind11 and nothing else.
#include "bindings/als.h"
#include "cuda/als.h"

using namespace salience;
using namespace salience::bindings;

namespace {

// Runs operation(context) on the thread's own stream of the first device, without the GIL.
template <class Operation>
void on_device(int64_t workspace, Operation operation) {
  run(1, [&](const Context&) {
    const cuda::DeviceScope scope(nullptr);
    return operation(cuda::AlsContext{cuda::default_stream(), workspace, interrupted});
  });
}

using Factors = cuda::DeviceFactors;

Factors make_factors(int64_t rows, int64_t columns) {
  std::optional<Factors> made;
  on_device(0, [&](const cuda::AlsContext& context) {
    made.emplace(rows, columns, context.stream);
    return Status{};
  });
  return std::move(*made);
}

template <class T>
void expect_shape(const char* name, const Matrix<T>& found, int64_t rows, int64_t columns) {
  if (found.rows != rows || found.columns != columns)
    throw py::value_error(std::string(name) + ": shape (" + std::to_string(found.rows) + ", " +
                          std::to_string(found.columns) + "); expected (" + std::to_string(rows) + ", " +
                          std::to_string(columns) + ")");
}

void upload(Factors& to, const Floats& from) {
  const auto view = matrix("source", from);
  expect_shape("source", view, to.rows(), to.columns());
  on_device(0, [&](const cuda::AlsContext& context) {
    to.upload(view, context.stream);
    return Status{};
  });
}

void download(const Factors& from, Floats to) {
  const auto view = in_place("to", to);
  expect_shape("to", view, from.rows(), from.columns());
  on_device(0, [&](const cuda::AlsContext& context) {
    from.download(view, context.stream);
    return Status{};
  });
}

Factors copy_of(const Factors& from) {
  std::optional<Factors> made;
  on_device(0, [&](const cuda::AlsContext& context) {
    made.emplace(from.copy(context.stream));
    return Status{};
  });
  return std::move(*made);
}

using Longs = Contiguous<int64_t>;
using Ints = Contiguous<int32_t>;
using Reals = Contiguous<float>;

Csr csr_of(const Longs& indptr, const Ints& indices, const Reals& values, int64_t columns) {
  if (indptr.size() < 1 || values.size() != indices.size())
    throw py::value_error("observations: " + std::to_string(indices.size()) + " column indices and " +
                          std::to_string(values.size()) + " values; expected as many of both");
  return {indptr.data(), indices.data(), values.data(), indptr.size() - 1, columns, indices.size()};
}

// Observations, with what keeps the host's alive where they pass through the device.
struct Rows {
  cuda::DeviceRows rows;
  py::object held;
};

Rows make_rows(const Longs& indptr, const Ints& indices, const Reals& values, int64_t columns,
               int64_t block_bytes) {
  Rows made;
  const Csr csr = csr_of(indptr, indices, values, columns);
  on_device(0, [&](const cuda::AlsContext& context) {
    return cuda::DeviceRows::build(csr, block_bytes, context.stream, made.rows);
  });
  if (block_bytes > 0) made.held = py::make_tuple(indptr, indices, values);
  return made;
}

py::dict half_step(const Rows& rows, const Factors& design, Factors& solution, const Reals& diagonal,
                   const Reals& ridge, const Factors* prior, bool is_explicit, float alpha, float mean,
                   const std::string& solver, int64_t steps, float tolerance, float relaxation,
                   bool with_data_loss, bool half_gathers, int64_t workspace) {
  expect_size("diagonal", diagonal, design.view().row_stride);
  expect_size("ridge", ridge, rows.rows.rows());
  HalfStepReport report;
  cuda::DeviceHalfStep step;
  step.rows = &rows.rows;
  step.design = &design;
  step.solution = &solution;
  step.prior = prior;
  step.diagonal = diagonal.data();
  step.ridge = ridge.data();
  step.feedback = is_explicit ? Feedback::explicit_feedback : Feedback::implicit_feedback;
  step.alpha = alpha;
  step.mean = mean;
  step.solver = solver_of(solver);
  step.steps = steps;
  step.tolerance = tolerance;
  step.relaxation = relaxation;
  step.with_data_loss = with_data_loss;
  step.gathers = half_gathers ? cuda::Gathers::float16 : cuda::Gathers::float32;
  step.report = &report;
  on_device(workspace, [&](const cuda::AlsContext& context) { return cuda::half_step(step, context); });
  return dict_of(report);
}

void expect_columns(const char* name, int64_t columns, const Factors& factors) {
  if (columns < 1 || columns > factors.columns())
    throw py::value_error(std::string(name) + ": " + std::to_string(columns) + "; expected 1 to the " +
                          std::to_string(factors.columns()) + " of the factors");
}

py::array_t<double> gramian(const Factors& factors, int64_t columns, int64_t workspace) {
  expect_columns("columns", columns, factors);
  py::array_t<double> out({columns, columns});
  const auto view = writable(out);
  on_device(workspace,
            [&](const cuda::AlsContext& context) { return cuda::gramian(factors, view, context); });
  return out;
}

void rotate(Factors& factors, const Floats& rotation, int64_t workspace) {
  const auto by = matrix("rotation", rotation);
  expect_columns("rotation", by.columns, factors);
  expect_shape("rotation", by, by.columns, by.columns);
  on_device(workspace, [&](const cuda::AlsContext& context) { return cuda::rotate(factors, by, context); });
}

double ridge_loss(const Factors& factors, const Factors* prior, const Reals& ridge) {
  expect_size("ridge", ridge, factors.rows());
  double found = 0.0;
  on_device(0, [&](const cuda::AlsContext& context) {
    found = cuda::ridge_loss(factors, prior, ridge.data(), context.stream);
    return Status{};
  });
  return found;
}

void fill_empty(const Rows& rows, Factors& factors, const Factors& prior) {
  on_device(0, [&](const cuda::AlsContext& context) {
    cuda::fill_empty(rows.rows, factors, prior, context.stream);
    return Status{};
  });
}

py::tuple explain(const Longs& indptr, const Ints& indices, const Reals& values, const Factors& design,
                  const Reals& diagonal, const Reals& ridge, const std::optional<Floats>& prior,
                  bool is_explicit, float alpha, float mean, const Floats& targets, const Ints& history,
                  const Longs& first_part, int64_t part_count, int64_t workspace) {
  cuda::ExplainScores scores;
  scores.histories = csr_of(indptr, indices, values, design.rows());
  scores.design = &design;
  expect_size("diagonal", diagonal, design.view().row_stride);
  expect_size("ridge", ridge, scores.histories.rows);
  scores.diagonal = diagonal.data();
  scores.ridge = ridge.data();
  if (prior) {
    scores.prior = matrix("prior", *prior);
    expect_shape("prior", scores.prior, scores.histories.rows, design.columns());
  }
  scores.feedback = is_explicit ? Feedback::explicit_feedback : Feedback::implicit_feedback;
  scores.alpha = alpha;
  scores.mean = mean;
  scores.targets = matrix("targets", targets);
  expect_shape("targets", scores.targets, history.size(), design.columns());
  expect_size("first_part", first_part, history.size());
  scores.history = history.data();
  scores.first_part = first_part.data();
  scores.part_count = part_count;
  py::array_t<double> parts(part_count), rest(history.size());
  scores.parts = parts.mutable_data();
  scores.rest = rest.mutable_data();
  on_device(workspace, [&](const cuda::AlsContext& context) { return cuda::explain(scores, context); });
  return py::make_tuple(parts, rest);
}

using Features = cuda::DeviceFeatures;

Features make_features(const Longs& indptr, const Ints& indices, const Reals& values,
                       const Longs& transposed_indptr, const Ints& transposed_indices,
                       const Reals& transposed_values) {
  const Csr rows = csr_of(indptr, indices, values, transposed_indptr.size() - 1);
  const Csr transposed = csr_of(transposed_indptr, transposed_indices, transposed_values, indptr.size() - 1);
  std::optional<Features> made;
  on_device(0, [&](const cuda::AlsContext& context) {
    made.emplace(rows, transposed, context.stream);
    return Status{};
  });
  return std::move(*made);
}

void multiply(const Features& features, const Factors& weights, const std::optional<Reals>& keep,
              Factors& out, int64_t workspace) {
  if (keep) expect_size("keep", *keep, out.rows());
  on_device(workspace, [&](const cuda::AlsContext& context) {
    features.multiply(weights, keep ? keep->data() : nullptr, out, context);
    return Status{};
  });
}

py::array_t<double> multiply_transposed(const Features& features, const Reals& strength,
                                        const Factors& factors, int64_t rows, int64_t workspace) {
  expect_size("strength", strength, factors.rows());
  py::array_t<double> out({rows, factors.columns()});
  double* const to = out.mutable_data();
  on_device(workspace, [&](const cuda::AlsContext& context) {
    features.multiply_transposed(strength.data(), factors, to, context);
    return Status{};
  });
  return out;
}

}  // namespace

void bind_device_als(py::module_& module) {
  // Of this module alone: the one that runs on the CPU for tests has the same types.
  py::class_<Factors>(module, "Factors", py::module_local())
      .def(py::init(&make_factors), py::arg("rows"), py::arg("columns"))
      .def("upload", upload, py::arg("source").noconvert())
      .def("download", download, py::arg("to").noconvert())
      .def("copy", copy_of)
      .def_property_readonly("rows", &Factors::rows)
      .def_property_readonly("columns", &Factors::columns);
  py::class_<Rows>(module, "Rows")
      .def(py::init(&make_rows), py::arg("indptr"), py::arg("indices"), py::arg("values"), py::arg("columns"),
           py::arg("block_bytes"))
      .def_property_readonly("blocks", [](const Rows& rows) { return rows.rows.blocks(); });
  py::class_<Features>(module, "Features", py::module_local())
      .def(py::init(&make_features), py::arg("indptr"), py::arg("indices"), py::arg("values"),
           py::arg("transposed_indptr"), py::arg("transposed_indices"), py::arg("transposed_values"))
      .def("multiply", multiply, py::arg("weights"), py::arg("keep"), py::arg("out"), py::arg("workspace"))
      .def("multiply_transposed", multiply_transposed, py::arg("strength"), py::arg("factors"),
           py::arg("rows"), py::arg("workspace"));
  module.def("half_step", half_step, py::arg("rows"), py::arg("design"), py::arg("solution"),
             py::arg("diagonal"), py::arg("ridge"), py::kw_only(), py::arg("prior") = py::none(),
             py::arg("is_explicit") = false, py::arg("alpha") = 1.0f, py::arg("mean") = 0.0f,
             py::arg("solver") = "auto", py::arg("steps") = 2, py::arg("tolerance") = 0.0f,
             py::arg("relaxation") = 1.0f, py::arg("with_data_loss") = false, py::arg("half_gathers") = true,
             py::arg("workspace") = int64_t{1} << 28);
  module.def("gramian", gramian, py::arg("factors"), py::arg("columns"), py::arg("workspace"));
  module.def("rotate", rotate, py::arg("factors"), py::arg("rotation").noconvert(), py::arg("workspace"));
  module.def("ridge_loss", ridge_loss, py::arg("factors"), py::arg("prior"), py::arg("ridge"));
  module.def("fill_empty", fill_empty, py::arg("rows"), py::arg("factors"), py::arg("prior"));
  module.def("explain", explain, py::arg("indptr"), py::arg("indices"), py::arg("values"), py::arg("design"),
             py::arg("diagonal"), py::arg("ridge"), py::kw_only(), py::arg("prior"), py::arg("is_explicit"),
             py::arg("alpha"), py::arg("mean"), py::arg("targets").noconvert(), py::arg("history"),
             py::arg("first_part"), py::arg("part_count"), py::arg("workspace"));
}
