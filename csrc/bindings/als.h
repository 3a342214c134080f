// What the bindings of ALS on both devices share.
#pragma once

#include "bindings/arrays.h"

namespace salience::bindings {

// A factor matrix that is written in place; its rows are padded.
inline Matrix<float> in_place(const char* name, Floats& array) {
  if (!array.writeable())
    throw py::value_error(std::string(name) + ": a read-only array; expected a writeable one");
  const auto view = matrix<float>(name, array);
  return {const_cast<float*>(view.data), view.rows, view.columns, view.row_stride};
}

inline Solver solver_of(const std::string& name) {
  if (name == "auto") return Solver::automatic;
  if (name == "cg") return Solver::conjugate_gradient;
  if (name == "cholesky") return Solver::cholesky;
  if (name == "subspace") return Solver::subspace;
  if (name == "nonnegative") return Solver::nonnegative;
  throw py::value_error("solver: '" + name +
                        "'; expected 'auto', 'cg', 'cholesky', 'subspace' or 'nonnegative'");
}

inline py::dict dict_of(const HalfStepReport& report) {
  py::dict found;
  found["worst_residual"] = report.worst_residual;
  found["mean_residual"] = report.mean_residual;
  found["conjugate_steps"] = report.conjugate_steps;
  found["data_loss"] = report.data_loss;
  found["ridge_loss"] = report.ridge_loss;
  return found;
}

}  // namespace salience::bindings
