#include "cpu/index.h"

#include "bindings/arrays.h"

namespace salience::bindings {
namespace {

using cpu::Index;
using Rows = py::array_t<int64_t, py::array::c_style>;

// Keeps Python objects alive for as long as blocks point into them, from whatever thread lets go last.
std::shared_ptr<const void> keep(py::object object) {
  return {new py::object(std::move(object)), [](const void* held) {
            const py::gil_scoped_acquire gil;
            delete static_cast<const py::object*>(held);
          }};
}

const char* type_name(ElementType type) {
  if (type == ElementType::float32) return "float32";
  return type == ElementType::float16 ? "float16" : "bfloat16";
}

const char* encoding_name() {
  return cpu::kernels().encoding == cpu::Encoding::fixed_point ? "fixed_point" : "bfloat16";
}

Index build(const py::array& items, const std::string& type, const std::string& metric, int threads) {
  const Elements view = elements("items", items, type);
  const Metric kind = metric_of(metric);
  Index out;
  run(threads, [&](const Context& context) { return Index::build(view, kind, context, out); });
  return out;
}

Index add(const Index& index, const py::array& vectors, int threads) {
  const Elements view = elements("vectors", vectors, type_name(index.catalogue().type));
  Index out;
  run(threads, [&](const Context& context) { return index.add(view, context, out); });
  return out;
}

Index update(const Index& index, const Rows& rows, const py::array& vectors, int threads) {
  const Elements view = elements("vectors", vectors, type_name(index.catalogue().type));
  Index out;
  run(threads,
      [&](const Context& context) { return index.update(rows.data(), rows.size(), view, context, out); });
  return out;
}

Index remove(const Index& index, const Rows& rows) {
  Index out;
  run(1, [&](const Context&) { return index.remove(rows.data(), rows.size(), out); });
  return out;
}

py::tuple search(const Index& index, const Floats& queries, int64_t k, const std::optional<Pattern>& exclude,
                 const std::optional<Mask>& allowed, int threads, const std::string& path,
                 const std::optional<Additions>& additions, const std::optional<Gates>& gates,
                 const std::optional<Labels>& labels) {
  const auto q = matrix("queries", queries);
  check_k(k, index.present());
  py::array_t<int64_t> ids({q.rows, k});
  py::array_t<float> scores({q.rows, k});
  const auto ids_out = writable(ids);
  const auto scores_out = writable(scores);
  const Blend blend = blend_of(additions, gates, labels, index.rows());
  run(threads, [&](const Context& context) {
    return index.search(q, k, pattern(exclude, index.rows()), mask(allowed, index.rows()), ids_out,
                        scores_out, path_of(path), context, blend);
  });
  return py::make_tuple(ids, scores);
}

// Borrowed views of one block: its rows as bytes, and its packed rows.
py::tuple block(const py::object& self, int64_t number) {
  const auto& catalogue = py::cast<const Index&>(self).catalogue();
  if (number < 0 || number >= catalogue.blocks()) throw py::index_error("block");
  const auto b = static_cast<size_t>(number);
  const auto* const rows = reinterpret_cast<const uint8_t*>(catalogue.sources[b]);
  return py::make_tuple(
      py::array_t<uint8_t>({catalogue.block_rows(number) * catalogue.row_bytes}, {1}, rows, self),
      py::array_t<uint16_t>({cpu::kBlockRows * catalogue.depth()}, {2}, catalogue.packed[b]->data, self));
}

// The small parts of an index, by the names that `restore` takes.
py::dict description(const Index& index) {
  const auto& catalogue = index.catalogue();
  py::array_t<double> encoded({catalogue.blocks(), int64_t{3}});
  std::vector<float> terms;
  std::vector<int64_t> irregular;
  for (int64_t b = 0; b < catalogue.blocks(); ++b) {
    const cpu::PackedBlock& packed = *catalogue.packed[static_cast<size_t>(b)];
    const double values[] = {packed.encoded.scale, packed.encoded.norm, packed.encoded.residual};
    for (int64_t j = 0; j < 3; ++j) encoded.mutable_at(b, j) = values[j];
    terms.insert(terms.end(), packed.terms.begin(), packed.terms.end());
    for (const uint16_t row : packed.irregular) irregular.push_back(b * cpu::kBlockRows + row);
  }
  py::dict parts;
  parts["encoded"] = encoded;
  parts["centre"] = py::array_t<double>(catalogue.columns, catalogue.centre.data());
  parts["irregular"] = py::array_t<int64_t>(static_cast<py::ssize_t>(irregular.size()), irregular.data());
  if (catalogue.metric == Metric::euclidean)
    parts["terms"] = py::array_t<float>(static_cast<py::ssize_t>(terms.size()), terms.data());
  if (index.present_flags() != nullptr)
    parts["present"] = py::array_t<uint8_t>(index.rows(), index.present_flags());
  return parts;
}

template <class T>
const T* part(const py::dict& parts, const char* name, int64_t size, bool required) {
  if (!parts.contains(name)) {
    if (required) throw py::value_error(std::string(name) + ": missing");
    return nullptr;
  }
  if (!py::isinstance<py::array_t<T>>(parts[name])) throw py::type_error(std::string(name) + ": wrong type");
  const auto array = py::cast<py::array_t<T, 0>>(parts[name]);
  if (array.size() != size || !(array.flags() & py::array::c_style))
    throw py::value_error(std::string(name) + ": " + std::to_string(array.size()) + " values; expected " +
                          std::to_string(size));
  return array.data();
}

Index restore(const py::array& items, const std::string& type, const std::string& metric, py::dict parts,
              int threads) {
  Index::Stored stored;
  stored.items = elements("items", items, type);
  stored.metric = metric_of(metric);
  const int64_t rows = stored.items.rows, columns = stored.items.columns;
  const int64_t blocks = (rows + cpu::kBlockRows - 1) / cpu::kBlockRows;
  const int64_t depth = (columns + cpu::kDepthPadding - 1) / cpu::kDepthPadding * cpu::kDepthPadding;
  stored.present = part<uint8_t>(parts, "present", rows, false);
  stored.packed = part<uint16_t>(parts, "packed", blocks * cpu::kBlockRows * depth, false);
  if (stored.packed != nullptr) {
    stored.encoded = part<double>(parts, "encoded", blocks * 3, true);
    stored.centre = part<double>(parts, "centre", columns, true);
    if (stored.metric == Metric::euclidean)
      stored.terms = part<float>(parts, "terms", blocks * cpu::kBlockRows, true);
    stored.irregular_count = parts.contains("irregular") ? py::len(parts["irregular"]) : 0;
    stored.irregular = part<int64_t>(parts, "irregular", stored.irregular_count, true);
    for (int64_t n = 0; n < stored.irregular_count; ++n) {
      const int64_t previous = n == 0 ? -1 : stored.irregular[n - 1];
      if (stored.irregular[n] <= previous || stored.irregular[n] >= rows)
        throw py::value_error("irregular: row " + std::to_string(stored.irregular[n]) +
                              "; expected ascending rows below " + std::to_string(rows));
    }
  }
  stored.owner = keep(py::make_tuple(items, parts));
  Index out;
  run(threads, [&](const Context& context) { return Index::restore(stored, context, out); });
  return out;
}

}  // namespace

void bind_index(py::module_& module) {
  module.attr("packed_block_rows") = cpu::kBlockRows;
  module.def("encoding", encoding_name);
  py::class_<Index>(module, "Index")
      .def_static("build", build, py::arg("items"), py::arg("type"), py::arg("metric"), py::arg("threads"))
      .def_static("restore", restore, py::arg("items"), py::arg("type"), py::arg("metric"), py::arg("parts"),
                  py::arg("threads"))
      .def("add", add, py::arg("vectors"), py::arg("threads"))
      .def("update", update, py::arg("rows"), py::arg("vectors"), py::arg("threads"))
      .def("remove", remove, py::arg("rows"))
      .def("search", search, py::arg("queries").noconvert(), py::arg("k"), py::arg("exclude"),
           py::arg("allowed"), py::arg("threads"), py::arg("path") = "auto",
           py::arg("additions") = py::none(), py::arg("gates") = py::none(), py::arg("labels") = py::none())
      .def("block", block, py::arg("number"))
      .def("description", description)
      .def_property_readonly("rows", &Index::rows)
      .def_property_readonly("present", &Index::present)
      .def_property_readonly("blocks", [](const Index& index) { return index.catalogue().blocks(); })
      .def_property_readonly("columns", [](const Index& index) { return index.catalogue().columns; })
      .def_property_readonly("depth", [](const Index& index) { return index.catalogue().depth(); })
      .def_property_readonly("type", [](const Index& index) { return type_name(index.catalogue().type); })
      .def_property_readonly("bytes", &Index::bytes);
}

}  // namespace salience::bindings
