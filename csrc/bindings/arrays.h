// What every binding does: arrays to views, the GIL released, status to exception.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "core/operations.h"
#include "core/parallel_for.h"

namespace salience::bindings {

namespace py = pybind11;

template <class T>
using Contiguous = py::array_t<T, py::array::c_style>;
using Floats = py::array_t<float, 0>;
using Pattern = std::tuple<Contiguous<int64_t>, Contiguous<int32_t>>;

template <class T>
void expect_size(const char* name, const Contiguous<T>& array, int64_t size) {
  if (array.size() != size)
    throw py::value_error(std::string(name) + ": " + std::to_string(array.size()) + " values; expected " +
                          std::to_string(size));
}

template <class T>
Matrix<const T> matrix(const char* name, const py::array_t<T, 0>& array) {
  if (array.ndim() != 2)
    throw py::value_error(std::string(name) + ": " + std::to_string(array.ndim()) +
                          " dimensions; expected 2");
  const auto size = static_cast<py::ssize_t>(sizeof(T));
  // NumPy gives empty arrays strides of its own choosing; nothing is read through these.
  const int64_t padded = (array.shape(1) + kFactorPadding - 1) / kFactorPadding * kFactorPadding;
  if (array.size() == 0) return {array.data(), array.shape(0), array.shape(1), padded};
  if (array.shape(1) > 1 && array.strides(1) != size)
    throw py::value_error(std::string(name) + ": elements of a row lie apart; expected them side by side");
  return {array.data(), array.shape(0), array.shape(1), array.strides(0) / size};
}

template <class T>
Matrix<T> writable(py::array_t<T>& array) {
  return {array.mutable_data(), array.shape(0), array.shape(1), array.shape(1)};
}

// Items in any of the types that need no float32 copy. NumPy has no bfloat16: such an array arrives as
// the 16-bit numbers it is made of, with its type's name.
inline Elements elements(const char* name, const py::array& array, const std::string& type) {
  if (type == "float32") {
    const auto view = matrix(name, py::cast<Floats>(array));
    return {view.data, ElementType::float32, view.rows, view.columns, view.row_stride};
  }
  const auto view = matrix(name, py::cast<py::array_t<uint16_t, 0>>(array));
  const ElementType found = type == "float16" ? ElementType::float16 : ElementType::bfloat16;
  return {view.data, found, view.rows, view.columns, view.row_stride};
}

inline Metric metric_of(const std::string& name) {
  if (name == "dot") return Metric::dot;
  if (name == "cosine") return Metric::cosine;
  if (name == "euclidean") return Metric::euclidean;
  throw py::value_error("metric: '" + name + "'; expected 'dot', 'cosine' or 'euclidean'");
}

inline Path path_of(const std::string& name) {
  if (name == "auto") return Path::automatic;
  if (name == "exact") return Path::exact;
  if (name == "rows") return Path::rows;
  if (name == "bytes") return Path::bytes;
  if (name == "panels") return Path::panels;
  throw py::value_error("path: '" + name + "'; expected 'auto', 'exact', 'rows', 'bytes' or 'panels'");
}

inline bool interrupted() {
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

using Mask = py::array_t<bool, py::array::c_style>;

inline void check_k(int64_t k, int64_t items) {
  if (k < 1 || k > items)
    throw py::value_error("k: " + std::to_string(k) + "; expected a whole number from 1 to the " +
                          std::to_string(items) + " items");
}

inline Csr pattern(const std::optional<Pattern>& exclude, int64_t items) {
  if (!exclude) return {};
  const auto& [indptr, indices] = *exclude;
  return {indptr.data(), indices.data(), nullptr, indptr.size() - 1, items, indices.size()};
}

inline const uint8_t* mask(const std::optional<Mask>& allowed, int64_t items) {
  if (!allowed) return nullptr;
  if (allowed->size() != items)
    throw py::value_error("allow: a mask of " + std::to_string(allowed->size()) +
                          "; expected one flag for each of the " + std::to_string(items) + " items");
  return reinterpret_cast<const uint8_t*>(allowed->data());
}

// What blends scores, as Python holds it: additions, gates of queries and items, labels.
using Additions = std::tuple<Pattern, Contiguous<float>>;
using Gates = std::tuple<Floats, Floats>;
using Labels = Contiguous<int64_t>;

inline Blend blend_of(const std::optional<Additions>& additions, const std::optional<Gates>& gates,
                      const std::optional<Labels>& labels, int64_t items) {
  Blend blend;
  if (additions) {
    const auto& [entries, values] = *additions;
    blend.additions = pattern(entries, items);
    blend.additions.values = values.data();
    expect_size("additions", values, blend.additions.entries);
  }
  if (gates) {
    blend.query_gates = matrix("query_gates", std::get<0>(*gates));
    blend.item_gates = matrix("item_gates", std::get<1>(*gates));
  }
  if (labels) {
    if (labels->size() != items)
      throw py::value_error("labels: " + std::to_string(labels->size()) +
                            " of them; expected one for each of the " + std::to_string(items) + " items");
    blend.labels = labels->data();
  }
  return blend;
}

void bind_als(py::module_& module);         // als.cpp
void bind_attention(py::module_& module);   // attention.cpp
void bind_evaluation(py::module_& module);  // evaluation.cpp
void bind_index(py::module_& module);       // index.cpp
void bind_rerank(py::module_& module);      // rerank.cpp

}  // namespace salience::bindings
